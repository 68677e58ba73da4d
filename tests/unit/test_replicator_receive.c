/* What a lying source gets: its session ends, nothing of what it staged remains, and the points that were there stay. */
#include "replica_fixture.h"

#include "replicator/known.h"
#include "replicator/outflow.h"
#include "replicator/receive.h"
#include "replicator/records.h"

#include <signal.h>
#include <xxhash.h>

static struct store *store;
static struct receive *rx;
static struct outflow *out;
static struct pool *pool;

static void setup(void)
{
	struct link *fa[1], *fb[1], *ba[1], *bb[1];
	struct err e = ERR_INIT;
	json_t *vm = json_pack("{s:s}", "uuid", GUEST_UUID);

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_LEVEL_ERROR);
	replica_no_sync();
	fixture_start();
	pool = pool_new(1, "codec", 0, &e);
	store = store_create(fixture_path("store", NULL), &(struct store_opts){ 0 }, vm, &e);
	json_decref(vm);
	ck_assert_msg(store != NULL, "%s", e.text);
	replica_links(NULL, NULL, 1, fa, fb);
	replica_links(NULL, NULL, 1, ba, bb);
	const struct receive_opts ro = { .pool = pool, .slots = 64, .store = store };
	rx = receive_new(&ro, fb, 1, bb, 1, &e);
	const struct outflow_opts oo = { .slots = 64, .level = 1 };
	out = outflow_new(&oo, fa, 1, ba, 1, &e);
	ck_assert_msg(rx && out, "%s", e.text);
}

static void teardown(void)
{
	outflow_free(out);
	receive_free(rx);
	store_close(store);
	pool_free(pool);
	fixture_clean();
}

static size_t count_points(void)
{
	struct store_point *p;
	struct err e = ERR_INIT;
	size_t n;

	OK(store_points(store, &p, &n, &e), e);
	store_points_free(p, n);
	return n;
}

static void put_good(struct buf *b, const char *id)
{
	const struct store_volume v[] = { { STORE_RAM, "pc.ram", 16 * 4096 }, { STORE_DISK, "vda", 4096 * 3 + 100 } };

	records_put_begin(b, id, true);
	records_put_volumes(b, v, 2);
	records_put_volume(b, 1);
	records_put_zeros(b, 0, 4); /* the last block is not whole, and counts */
	records_put_file_head(b, "device", 4);
	buf_append(b, "abcd", 4);
}

static void put_commit(struct buf *b, const char *id)
{
	const struct records_counts c = { .zeros = 4, .files = 1 };

	records_put_commit(b, id, &c, XXH3_64bits(b->data, b->len));
}

static int send_bytes(const struct buf *b, struct err *e)
{
	return outflow_literal(out, b->data, b->len, e) < 0 ? -1 : outflow_flush(out, e);
}

static int commit_as(const char *id, bool point, struct err *e)
{
	json_t *meta = json_pack("{s:s}", "id", id);
	uint64_t seq = 0;
	const int rc = receive_commit(rx, id, point, meta, in_ms(1500), &seq, e);

	json_decref(meta);
	return rc;
}

START_TEST(the_truth_is_taken)
{
	BUF_AUTO struct buf b = BUF_INIT;
	struct err e = ERR_INIT;

	put_good(&b, "p1");
	put_commit(&b, "p1");
	OK(send_bytes(&b, &e), e);
	OK(commit_as("p1", true, &e), e);
	ck_assert_uint_eq(count_points(), 1);
	/* A point that became a part is none; also after recovery. */
	buf_reset(&b);
	put_good(&b, "p2");
	put_commit(&b, "p2");
	OK(send_bytes(&b, &e), e);
	OK(commit_as("p2", false, &e), e);
	ck_assert_uint_eq(count_points(), 1);
	receive_free(rx);
	rx = NULL;
	store_close(store);
	store = store_open(fixture_path("store", NULL), &(struct store_opts){ 0 }, &e);
	ck_assert_msg(store != NULL, "%s", e.text);
	ck_assert_uint_eq(count_points(), 1);
}
END_TEST

enum lie {
	NO_VOLUME,
	UNKNOWN_VOLUME,
	OUT_OF_RANGE,
	ZEROS_OUT_OF_RANGE,
	BLOCK_OUTSIDE,
	BEGIN_TWICE,
	VOLUMES_LATE,
	COMMIT_OF_ANOTHER,
	WRONG_COUNT,
	WRONG_HASH,
	HUGE_FILE,
	BAD_FILE_NAME,
	UNKNOWN_RECORD,
	NO_VOLUMES_AT_ALL,
	VOLUME_TWICE,
	EMPTY_VOLUME,
	N_LIES,
};

static void put_lie(enum lie lie, struct buf *b)
{
	const struct records_counts c = { .zeros = 4, .files = 1 };
	const struct store_volume same[] = { { STORE_RAM, "a", 4096 }, { STORE_RAM, "a", 4096 } };

	switch (lie) {
	case NO_VOLUME:
		records_put_begin(b, "p2", true);
		buf_put_be64(b, 1 << 12 | RECORDS_ZERO);
		buf_put_u8(b, 0);
		return;
	case UNKNOWN_VOLUME:
		put_good(b, "p2");
		records_put_volume(b, 2);
		return;
	case OUT_OF_RANGE:
		put_good(b, "p2");
		buf_put_be64(b, 4 << 12 | RECORDS_ZERO);
		buf_put_u8(b, 0);
		return;
	case ZEROS_OUT_OF_RANGE:
		put_good(b, "p2");
		records_put_zeros(b, 1, UINT64_MAX);
		return;
	case BLOCK_OUTSIDE:
		buf_put_be64(b, RECORDS_ZERO);
		buf_put_u8(b, 0);
		return;
	case BEGIN_TWICE:
		put_good(b, "p2");
		records_put_begin(b, "p3", true);
		return;
	case VOLUMES_LATE:
		put_good(b, "p2");
		records_put_volumes(b, same, 1);
		return;
	case COMMIT_OF_ANOTHER:
		put_good(b, "p2");
		put_commit(b, "p3");
		return;
	case WRONG_COUNT:
		put_good(b, "p2");
		records_put_commit(b, "p2", &(struct records_counts){ .zeros = 3, .files = 1 }, XXH3_64bits(b->data, b->len));
		return;
	case WRONG_HASH:
		put_good(b, "p2");
		records_put_commit(b, "p2", &c, XXH3_64bits(b->data, b->len) ^ 1);
		return;
	case HUGE_FILE:
		put_good(b, "p2");
		buf_put_be64(b, (uint64_t)(STORE_MAX_FILE + 1000u) << 12 | RECORDS_CONTROL | RECORDS_FILE);
		return;
	case BAD_FILE_NAME:
		put_good(b, "p2");
		buf_put_be64(b, UINT64_C(10) << 12 | RECORDS_CONTROL | RECORDS_FILE);
		buf_append(b, "\x09../../etc", 10);
		return;
	case UNKNOWN_RECORD:
		put_good(b, "p2");
		buf_put_be64(b, RECORDS_CONTROL | 99);
		return;
	case NO_VOLUMES_AT_ALL:
		records_put_begin(b, "p2", true);
		records_put_volume(b, 0);
		return;
	case VOLUME_TWICE:
		records_put_begin(b, "p2", true);
		records_put_volumes(b, same, 2);
		return;
	case EMPTY_VOLUME:
		records_put_begin(b, "p2", true);
		records_put_volumes(b, &(struct store_volume){ STORE_DISK, "vda", 0 }, 1);
		return;
	case N_LIES:
		break;
	}
	ck_abort();
}

START_TEST(a_lie_ends_the_session)
{
	BUF_AUTO struct buf b = BUF_INIT;
	struct err e = ERR_INIT, why = ERR_INIT;

	if (_i != NO_VOLUMES_AT_ALL) {
		put_good(&b, "p1");
		put_commit(&b, "p1");
		OK(send_bytes(&b, &e), e);
		OK(commit_as("p1", true, &e), e);
	}
	buf_reset(&b);
	put_lie((enum lie)_i, &b);
	(void)send_bytes(&b, &e);
	for (int64_t until = soon(); !receive_broken(rx, &why) && clock_mono_ns() < until;)
		usleep(1000);
	ck_assert(receive_broken(rx, &why));
	ck_assert_msg(why.cls == ERR_PROTOCOL || why.cls == ERR_CORRUPT, "%s", why.text);
	err_clear(&e);
	ck_assert_int_eq(commit_as("p2", true, &e), -1);
	ck_assert_uint_eq(count_points(), _i != NO_VOLUMES_AT_ALL);
}
END_TEST

START_TEST(commits_of_what_did_not_come)
{
	BUF_AUTO struct buf b = BUF_INIT;
	struct err e = ERR_INIT;

	ck_assert_int_eq(commit_as("p1", true, &e), -1);
	ck_assert_int_eq(e.cls, ERR_PROTOCOL);
	err_clear(&e);
	put_good(&b, "p1");
	put_commit(&b, "p1");
	OK(send_bytes(&b, &e), e);
	ck_assert_int_eq(commit_as("p9", true, &e), -1);
	HAS(e.text, "what came is p1");
	err_clear(&e);
	OK(commit_as("p1", true, &e), e);
	/* Once is enough. */
	ck_assert_int_eq(commit_as("p1", true, &e), -1);
	ck_assert_uint_eq(count_points(), 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/receive");
	TCase *t = tcase_create("receive");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, the_truth_is_taken);
	tcase_add_loop_test(t, a_lie_ends_the_session, 0, N_LIES);
	tcase_add_test(t, commits_of_what_did_not_come);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
