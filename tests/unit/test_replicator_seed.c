/* A first copy that starts from what is at hand at the target. */
#include "replica_peers.h"

/* Refused before anything is changed, and by whoever is to read it. */
START_TEST(what_a_copy_may_start_from)
{
	struct err e = ERR_INIT;

	start_replicator();
	at_hand.m = machine_new(1, 256);
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"seed\":{\"vdb\":\"/old\"}}",
			     NULL, &e),
			 -1);
	HAS(e.text, "no disk vdb that is replicated");
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"seed\":{\"sda\":\"/old\"}}",
			     NULL, &e),
			 -1);
	HAS(e.text, "no disk sda that is replicated");
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"seed\":{\"vda\":7}}", NULL, &e),
			 -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	at_hand.refuse_check = true;
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"seed\":{\"vda\":\"/old\"}}",
			     NULL, &e),
			 -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "start from an image at host2: ");
	ck_assert_int_eq(ask(replicator_status, "{\"vm\":\"web1\"}", NULL, &e), -1);
	ck_assert(!replicas_has(target.replicas, GUEST_UUID));
	/* The only disk that is copied is meant without a name. */
	at_hand.refuse_check = false;
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300,\"seed\":{\"\":\"/old\"}}", NULL,
	       &e),
	   e);
	wait_state("protected");
	ck_assert_uint_eq(at_hand.fills, 1);
	/* What has points needs none. */
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"seed\":{\"\":\"/old\"}}", NULL,
			     &e),
			 -1);
	HAS(e.text, "points of VM web1 already");
	wait_state("protected");
	ck_assert_uint_eq(at_hand.fills, 1);
}
END_TEST

/* Whoever wants something else of the replica does not wait for the end of the reading. */
START_TEST(a_seed_is_ended_for_others)
{
	struct err e = ERR_INIT;
	json_t *list = json_array();

	start_replicator();
	at_hand.m = machine_new(1, 256);
	at_hand.hold = true;
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300,\"seed\":{\"\":\"/old\"}}", NULL,
	       &e),
	   e);
	for (int64_t until = soon(); at_hand.fills == 0 && clock_mono_ns() < until; usleep(2000))
		;
	replicas_list(target.replicas, "web1", list);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(list, 0), "state")), "seeding");
	HAS(json_string_value(json_object_get(json_array_get(list, 0), "reason")),
	    "an image is read that is here already");
	json_decref(list);
	/* Another one instead. */
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300,\"seed\":{\"\":\"/other\"}}",
	       NULL, &e),
	   e);
	for (int64_t until = soon(); at_hand.fills < 2 && clock_mono_ns() < until; usleep(2000))
		;
	ck_assert_uint_eq(at_hand.fills, 2);
	/* None at all. */
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), e);
	wait_state("protected");
	OK(ask(replicator_unprotect, "{\"vm\":\"web1\",\"forget\":true}", NULL, &e), e);
	/* And the end of all. */
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300,\"seed\":{\"\":\"/old\"}}", NULL,
	       &e),
	   e);
	for (int64_t until = soon(); at_hand.fills < 3 && clock_mono_ns() < until; usleep(2000))
		;
	OK(ask(replicator_unprotect, "{\"vm\":\"web1\",\"forget\":true}", NULL, &e), e);
	ck_assert(!replicas_has(target.replicas, GUEST_UUID));
}
END_TEST

/* ---- seeds, as the target's calls ---- */

static struct {
	atomic_bool refused;  /* no thread for a seed */
	atomic_bool starting; /* it is being asked for */
	atomic_uint waiting;  /* others that wait for that seed */
} seed_thread;

int __real_thread_start_detached(const char *name, void *(*fn)(void *), void *arg, struct err *e);
int __wrap_thread_start_detached(const char *name, void *(*fn)(void *), void *arg, struct err *e);

int __wrap_thread_start_detached(const char *name, void *(*fn)(void *), void *arg, struct err *e)
{
	if (!seed_thread.refused || strcmp(name, "replica-seed") != 0)
		return __real_thread_start_detached(name, fn, arg, e);
	seed_thread.starting = true;
	for (const int64_t until = soon(); !seed_thread.waiting && clock_mono_ns() < until;)
		usleep(2000);
	return err_set(e, ERR_SYS, "no thread for it");
}

static bool seed_go(void *ctx, const char *disk, uint64_t done, uint64_t total)
{
	(void)ctx, (void)disk, (void)done, (void)total;
	if (seed_thread.starting)
		seed_thread.waiting++;
	return true;
}

static int seed_as(const char *peer, struct err *e)
{
	struct replica_seeder by = { .fill = at_hand_fill, .free = at_hand_free };
	json_t *args = json_pack("{s:s, s:s, s:i, s:[{s:s, s:s, s:i}]}", "uuid", GUEST_UUID, "name", "web1", "epoch", 1,
				 "disks", "disk", "vda", "path", "/old", "size", 256 * STORE_BLOCK);
	json_t *r = NULL;

	err_clear(e);
	const int rc = replicas_seed(target.replicas, peer, args, &by, seed_go, NULL, &r, e);
	json_decref(args);
	json_decref(r);
	return rc;
}

struct seeder {
	int rc;
	struct err e;
};

static void *seed_as_host1(void *arg)
{
	struct seeder *s = arg;

	s->rc = seed_as("host1", &s->e);
	return NULL;
}

/* Who asks for the same meanwhile is told, too; and nobody else has it, although there is no record yet. */
START_TEST(a_seed_without_a_thread)
{
	struct seeder first = { 0 };
	struct err e = ERR_INIT;
	pthread_t t;

	at_hand.m = machine_new(1, 256);
	seed_thread.refused = true;
	pthread_create(&t, NULL, seed_as_host1, &first);
	for (const int64_t until = soon(); !seed_thread.starting && clock_mono_ns() < until;)
		usleep(2000);
	ck_assert_int_eq(seed_as("host3", &e), -1);
	HAS(e.text, "for host1 is being begun");
	ck_assert_int_eq(seed_as("host1", &e), -1);
	HAS(e.text, "no thread for it");
	pthread_join(t, NULL);
	ck_assert_int_eq(first.rc, -1);
	HAS(first.e.text, "no thread for it");
	ck_assert_uint_ge(seed_thread.waiting, 1);
	ck_assert_uint_eq(at_hand.freed, 3);
	seed_thread.refused = false;
	OK(seed_as("host1", &e), e);
	ck_assert_uint_eq(at_hand.fills, 1);
}
END_TEST

/* Whoever may not write to a replica ends nothing of it. */
START_TEST(a_seed_is_no_business_of_others)
{
	struct seeder first = { 0 };
	struct err e = ERR_INIT;
	pthread_t t;

	at_hand.m = machine_new(1, 256);
	at_hand.hold = true;
	fixture_issue("ca", "host3", "h3", 0, 0);
	struct tls_ctx *ctx3 = fixture_ctx("h3", NULL);
	struct rpc *three = connect_as(ctx3);
	if (_i == 1)
		OK(call(peer_rpc, "replica.begin", begin_args(1), NULL, &e), e);
	pthread_create(&t, NULL, seed_as_host1, &first);
	for (const int64_t until = soon(); !at_hand.fills && clock_mono_ns() < until;)
		usleep(2000);
	ck_assert_int_eq(call(three, "replica.begin", begin_args(1), NULL, &e), -1);
	HAS(e.text, "for host1");
	ck_assert_int_eq(seed_as("host3", &e), -1);
	HAS(e.text, "for host1");
	ck_assert_int_eq(call(three, "replica.release", json_pack("{s:s, s:i}", "uuid", GUEST_UUID, "epoch", 1), NULL,
			      &e),
			 -1);
	HAS(e.text, "for host1");
	at_hand.hold = false;
	pthread_join(t, NULL);
	OK(first.rc, first.e);
	ck_assert_uint_eq(at_hand.fills, 1);
	rpc_unref(three);
	tls_ctx_free(ctx3);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/seed");
	TCase *t = tcase_create("seed");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, what_a_copy_may_start_from);
	tcase_add_test(t, a_seed_is_ended_for_others);
	tcase_add_test(t, a_seed_without_a_thread);
	tcase_add_loop_test(t, a_seed_is_no_business_of_others, 0, 2);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
