/* Retention of several replicas at once: each has its turn, and what is told of its points is right. */
#include "replica_fixture.h"

#include "base/clock.h"
#include "replicator/epoch.h"
#include "replicator/replica_internal.h"

#define REPLICAS 4u
#define KEEP 5u
#define MANY 40u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct replicas *replicas;
static struct store *stores[REPLICAS];
static unsigned turns[REPLICAS], turns_of_all; /* under lock */
static unsigned kept[REPLICAS];                /* ids that were told and are not gone; under lock */
static unsigned at_second_turn;                /* how many had had one by then */

static void uuid_of(unsigned i, char out[37])
{
	snprintf(out, 37, "00000000-0000-4000-8000-%012u", i);
}

static void put_point(struct store *s, unsigned n)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *id = mem_printf("p-%u", n);
	json_t *meta = json_pack("{s:s}", "id", id);
	struct store_txn *t = store_begin(s, STORE_TXN_POINT, &e);

	ck_assert_msg(t != NULL, "%s", e.text);
	ck_assert_msg(store_commit(t, meta, NULL, &e) == 0, "%s", e.text);
	json_decref(meta);
}

static void prune_is_due(unsigned i)
{
	char uuid[37];

	uuid_of(i, uuid);
	THREAD_LOCKED(&replicas->lock);
	replica_by_uuid_locked(replicas, uuid)->prune_due = true;
	pthread_cond_broadcast(&replicas->changed);
}

/* A point more for each, as if they came all the time. */
static void on_points(void *ctx, const char *uuid, const struct replica_news *news, size_t n)
{
	const unsigned i = (unsigned)strtoul(uuid + 24, NULL, 10);
	static unsigned next = 1000;

	(void)ctx;
	ck_assert_uint_lt(i, REPLICAS);
	put_point(stores[i], next++);
	prune_is_due(i);
	THREAD_LOCKED(&lock);
	for (size_t k = 0; k < n; k++)
		kept[i] = news[k].data ? kept[i] + 1 : kept[i] > 0 ? kept[i] - 1 : 0;
	if (++turns[i] == 2 && at_second_turn == 0)
		at_second_turn = turns_of_all;
	turns_of_all += turns[i] == 1;
}

static void make_replica(const char *dir, unsigned i)
{
	struct err e = ERR_INIT;
	char uuid[37];

	uuid_of(i, uuid);
	json_t *record = json_pack("{s:s, s:s, s:s, s:i, s:s, s:{s:i}}", "uuid", uuid, "vm", uuid, "from", "host1",
				   "epoch", 1, "state", "replica", "keep", "last", KEEP);
	ck_assert_msg(epoch_save_replica(dir, record, &e) == 0, "%s", e.text);
	MEM_AUTO char *path = mem_printf("%s/%s/store", dir, uuid);
	struct store *s = store_create(path, NULL, NULL, &e);
	ck_assert_msg(s != NULL, "%s", e.text);
	for (unsigned k = 0; k < MANY; k++)
		put_point(s, k);
	store_close(s);
	json_decref(record);
}

START_TEST(each_has_its_turn)
{
	char dir[] = "/tmp/test_keep_XXXXXX";
	struct err e = ERR_INIT;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	for (unsigned i = 0; i < REPLICAS; i++)
		make_replica(dir, i);
	const struct replicas_opts o = { .host_name = "host2", .replica_dir = dir, .min_free = 1, .points = on_points };
	replicas = replicas_new(&o, &e);
	ck_assert_msg(replicas != NULL, "%s", e.text);
	for (unsigned i = 0; i < REPLICAS; i++) {
		char uuid[37];
		uuid_of(i, uuid);
		stores[i] = replicas_get(replicas, uuid, NULL, &e);
		ck_assert_msg(stores[i] != NULL, "%s", e.text);
	}
	for (unsigned i = 0; i < REPLICAS; i++)
		prune_is_due(i);
	unsigned seen = 0;
	for (const int64_t until = clock_mono_ns() + 20 * NS_PER_S; seen == 0 && clock_mono_ns() < until;) {
		const struct timespec moment = { .tv_nsec = 10 * NS_PER_MS };
		nanosleep(&moment, NULL);
		THREAD_LOCKED(&lock);
		seen = at_second_turn;
	}
	ck_assert_uint_eq(seen, REPLICAS);
	{
		/* Those that went at the first turn may have been told by the process before: so what is told to be there is what there is. */
		THREAD_LOCKED(&lock);
		for (unsigned i = 0; i < REPLICAS; i++)
			ck_assert_msg(kept[i] >= KEEP && kept[i] <= KEEP + 1, "%u: %u", i, kept[i]);
	}
	for (unsigned i = 0; i < REPLICAS; i++)
		replicas_put(replicas, stores[i]);
	replicas_free(replicas);
	MEM_AUTO char *command = mem_printf("rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("keep");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_test(t, each_has_its_turn);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
