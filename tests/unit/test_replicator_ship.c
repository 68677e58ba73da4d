/* Both ends of a session in one process, over TLS: what the capture gives is in the store, nothing more travels than differs, and whatever breaks
 * off, no point that was acknowledged is lost. */
#include "replica_fixture.h"

#include "replicator/known.h"
#include "replicator/receive.h"
#include "replicator/ship.h"

#include <signal.h>

#define CHANNELS 2

static struct tls_ctx *ctx1, *ctx2;
static struct pool *pool;
static struct store *store;
static struct receive *rx;
static struct ship *tx;
static struct block_hash hasher;
static uint8_t secret[32];
static unsigned asks;
static uint64_t asked_blocks;

/* ---- the calls that go over the control connection ---- */

static int hashes(void *ctx, const struct store_volume *v, const struct ship_range *ranges, size_t n, uint8_t *out,
		  struct err *e)
{
	struct store_view *view = store_view_newest(store, e);
	struct store_volume vol[STORE_MAX_VOLUMES];
	uint8_t block[STORE_BLOCK];

	(void)ctx;
	asks++;
	ck_assert_ptr_nonnull(view);
	const size_t have = store_view_volumes(view, vol, STORE_MAX_VOLUMES);
	uint32_t index = 0;
	while (index < have && (vol[index].kind != v->kind || strcmp(vol[index].name, v->name) != 0))
		index++;
	for (size_t i = 0; i < n; i++) {
		for (uint64_t b = 0; b < ranges[i].count; b++, out += 16) {
			asked_blocks++;
			memset(out, 0, 16);
			if (index == have)
				continue;
			ck_assert_int_eq(store_view_read(view, index, ranges[i].first + b, 1, block, NULL, e), 0);
			block_hash_of(&hasher, block, out);
		}
	}
	store_view_close(view);
	return 0;
}

static unsigned commits;

static int commit(void *ctx, const char *id, bool point, const json_t *meta, uint64_t *seq, struct err *e)
{
	(void)ctx;
	commits++;
	return receive_commit(rx, id, point, meta, soon(), seq, e);
}

/* ---- sessions ---- */

static int64_t part_ns; /* of the sessions that begin */

static void session(uint64_t part_bytes)
{
	struct link *fa[CHANNELS], *fb[CHANNELS], *ba[1], *bb[1];
	struct store_volume peer[STORE_MAX_VOLUMES];
	struct err e = ERR_INIT;

	replica_links(ctx1, ctx2, CHANNELS, fa, fb);
	replica_links(ctx1, ctx2, 1, ba, bb);
	memset(secret, 7, sizeof(secret));
	block_hash_init(&hasher, secret);
	const struct receive_opts ro = { .pool = pool, .slots = 4096, .store = store };
	rx = receive_new(&ro, fb, CHANNELS, bb, 1, &e);
	ck_assert_msg(rx != NULL, "%s", e.text);
	struct ship_opts so = { .pool = pool,
				.slots = 4096,
				.level = OUTFLOW_LEVEL_AUTO,
				.peer = peer,
				.n_peer = store_volumes(store, peer, STORE_MAX_VOLUMES),
				.part_bytes = part_bytes,
				.part_ns = part_ns,
				.hashes = hashes,
				.commit = commit };
	memcpy(so.secret, secret, sizeof(secret));
	tx = ship_new(&so, fa, CHANNELS, ba, 1, &e);
	ck_assert_msg(tx != NULL, "%s", e.text);
	ship_set_floor(tx, 1);
}

static void end_session(void)
{
	ship_free(tx);
	receive_free(rx);
	tx = NULL;
	rx = NULL;
}

static json_t *meta_of(void *ctx, const struct ship_tally *t)
{
	return json_pack("{s:s, s:I, s:I}", "id", ctx, "instant_ns", (json_int_t)clock_wall_ns(), "wire_bytes",
			 (json_int_t)t->wire_bytes);
}

/* One transaction of the machine's state. */
static int send_state(struct machine *m, const char *id, bool all_ram, bool all_disk, bool point, struct ship_tally *t,
		      struct err *e)
{
	char name[64];

	snprintf(name, sizeof(name), "%s", id);
	if (ship_begin(tx, id, e) < 0 || machine_give(m, ship_sink(tx), all_ram, all_disk, point, e) < 0)
		return -1;
	return ship_finish(tx, point ? meta_of : NULL, name, NULL, t, e);
}

static void open_store(void)
{
	struct err e = ERR_INIT;
	json_t *vm = json_pack("{s:s, s:s}", "uuid", GUEST_UUID, "name", "web1");

	store = access(fixture_path("store", NULL), F_OK) == 0
			? store_open(fixture_path("store", NULL), &(struct store_opts){ 0 }, &e)
			: store_create(fixture_path("store", NULL), &(struct store_opts){ 0 }, vm, &e);
	json_decref(vm);
	ck_assert_msg(store != NULL, "%s", e.text);
}

static void check_newest(struct machine *m)
{
	struct err e = ERR_INIT;
	struct store_view *v = store_view_newest(store, &e);

	ck_assert_msg(v != NULL, "%s", e.text);
	machine_check(m, v);
	store_view_close(v);
}

static void check_latest_point(struct machine *m, const char *id)
{
	struct err e = ERR_INIT;
	struct store_view *v = store_view_open(store, 0, &e);

	ck_assert_msg(v != NULL, "%s", e.text);
	ck_assert_str_eq(json_string_value(json_object_get(store_view_meta(v), "id")), id);
	machine_check(m, v);
	store_view_close(v);
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

static void setup(void)
{
	struct err e = ERR_INIT;

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_LEVEL_ERROR);
	replica_no_sync();
	fixture_fleet(&ctx1, &ctx2);
	pool = pool_new(2, "codec", 0, &e);
	open_store();
	asks = 0, asked_blocks = 0, commits = 0;
}

static void teardown(void)
{
	struct err e = ERR_INIT;

	OK(fault_arm(NULL, &e), e);
	end_session();
	store_close(store);
	pool_free(pool);
	tls_ctx_free(ctx1);
	tls_ctx_free(ctx2);
	fixture_clean();
}

static struct machine *written_machine(uint64_t ram, uint64_t disk)
{
	struct machine *m = machine_new(ram, disk);

	/* A third of it stays zero. */
	for (uint64_t b = 0; b < ram; b++)
		if (b % 3)
			machine_write(m, false, b, 1);
	for (uint64_t b = 0; b < disk; b++)
		if (b % 3)
			machine_write(m, true, b, 1);
	return m;
}

/* ---- tests ---- */

START_TEST(points_arrive_and_only_what_differs_travels)
{
	struct machine *m = written_machine(2048, 1024);
	struct ship_tally t;
	struct err e = ERR_INIT;

	session(0);
	OK(send_state(m, "seed", true, false, false, &t, &e), e);
	ck_assert_uint_eq(t.offered_bytes, 2048u * 4096);
	ck_assert_uint_lt(t.sent_bytes, t.offered_bytes); /* zeros are what an empty replica reads as */
	ck_assert_uint_eq(count_points(), 0);
	OK(send_state(m, "p1", false, true, true, &t, &e), e);
	check_latest_point(m, "p1");
	ck_assert_uint_eq(asks, 0); /* nothing to ask about in a replica that is new */

	/* Written back to the same contents: nothing of it travels. */
	for (uint64_t b = 0; b < 500; b++)
		m->ram_dirty[b] = m->disk_dirty[b] = true;
	OK(send_state(m, "p2", false, false, true, &t, &e), e);
	ck_assert_uint_eq(t.offered_bytes, 1000u * 4096);
	ck_assert_uint_eq(t.sent_bytes, 0);
	ck_assert_uint_lt(t.wire_bytes, 3000);

	/* Counters. */
	for (uint64_t b = 0; b < 1000; b++)
		machine_poke(m, false, b, b + 1);
	OK(send_state(m, "p3", false, false, true, &t, &e), e);
	ck_assert_uint_eq(t.sent_bytes, 1000u * 4096);
	ck_assert_msg(t.wire_bytes < t.sent_bytes / 50, "%llu of %llu bytes", (unsigned long long)t.wire_bytes,
		      (unsigned long long)t.sent_bytes);
	check_latest_point(m, "p3");
	ck_assert_uint_eq(count_points(), 3);
	machine_free(m);
}
END_TEST

/* One more point, of that file alone; how much it took on the wire. */
static uint64_t send_file(struct machine *m, const char *id, const uint8_t *data, size_t len)
{
	const struct capture_sink *sink = ship_sink(tx);
	struct ship_tally t;
	struct err e = ERR_INIT;
	char name[64];
	size_t got;

	snprintf(name, sizeof(name), "%s", id);
	OK(ship_begin(tx, id, &e), e);
	OK(machine_give(m, sink, false, false, true, &e), e);
	OK(sink->file(sink->ctx, "nvram", data, len, &e), e);
	OK(ship_finish(tx, meta_of, name, NULL, &t, &e), e);
	struct store_view *v = store_view_open(store, 0, &e);
	ck_assert_msg(v != NULL, "%s", e.text);
	char *there = store_view_file(v, "nvram", &got, &e);
	ck_assert_msg(there != NULL, "%s", e.text);
	ck_assert_uint_eq(got, len);
	ck_assert_mem_eq(there, data, len);
	free(there);
	store_view_close(v);
	return t.wire_bytes;
}

START_TEST(a_file_travels_when_it_has_changed)
{
	struct machine *m = written_machine(16, 16);
	uint8_t data[50000];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * i * UINT64_C(0x9e3779b97f4a7c15) >> 40);
	session(0);
	ck_assert_uint_gt(send_file(m, "p1", data, sizeof(data)), 20000);
	ck_assert_uint_lt(send_file(m, "p2", data, sizeof(data)), 5000);
	data[777] ^= 1;
	ck_assert_uint_gt(send_file(m, "p3", data, sizeof(data)), 20000);
	ck_assert_uint_gt(send_file(m, "p4", data, sizeof(data) - 1), 20000);
	/* A session that is new assumes nothing. */
	end_session();
	session(0);
	ck_assert_uint_gt(send_file(m, "p5", data, sizeof(data) - 1), 20000);
	ck_assert_uint_lt(send_file(m, "p6", data, sizeof(data) - 1), 5000);
	machine_free(m);
}
END_TEST

/* A device's state: large, nearly all of it zeros. The link is as wide as they come, and has been found to be. */
START_TEST(what_is_not_pages_is_compressed)
{
	struct machine *m = written_machine(8192, 16);
	static uint8_t data[150000];
	struct ship_tally t;
	struct err e = ERR_INIT;

	session(0);
	ship_set_floor(tx, CODEC_RAW);
	for (unsigned i = 2; i < 6; i++) {
		for (uint64_t b = 0; b < 8192; b++)
			machine_write(m, false, b, i);
		OK(send_state(m, "pages", true, false, false, &t, &e), e);
	}
	send_file(m, "first", data, 1);
	for (unsigned i = 0; i < 20; i++) {
		char id[8];
		snprintf(id, sizeof(id), "p%u", i);
		data[100 * i] = 1;
		ck_assert_uint_lt(send_file(m, id, data, sizeof(data)), 10000);
	}
	machine_free(m);
}
END_TEST

START_TEST(a_reconnect_sends_what_differs)
{
	struct machine *m = written_machine(8192, 4096);
	struct ship_tally t;
	struct err e = ERR_INIT;

	session(0);
	OK(send_state(m, "p1", true, true, true, &t, &e), e);
	end_session();

	session(0);
	OK(send_state(m, "again", true, false, false, &t, &e), e);
	ck_assert_uint_eq(t.offered_bytes, 8192u * 4096);
	ck_assert_uint_eq(t.sent_bytes, 0);
	ck_assert_uint_lt(t.wire_bytes, 8192u * 4096 / 100);
	/* All of the disk is compared as well, in groups. */
	asks = 0;
	OK(send_state(m, "p2", false, true, true, &t, &e), e);
	ck_assert_uint_eq(t.sent_bytes, 0);
	ck_assert_uint_ge(asks, 2);
	ck_assert_uint_lt(asks, 5);
	/* What changed while nobody listened. */
	end_session();
	session(0);
	for (uint64_t b = 100; b < 120; b++)
		machine_write(m, b % 2, b, 9);
	memset(m->ram + 4 * STORE_BLOCK, 0, STORE_BLOCK);
	memset(m->disk + 5 * STORE_BLOCK, 0, STORE_BLOCK);
	OK(send_state(m, "p3", true, true, true, &t, &e), e);
	ck_assert_uint_eq(t.sent_bytes, 22u * 4096);
	check_latest_point(m, "p3");
	/* What was asked about once is known. */
	asks = 0;
	for (uint64_t b = 100; b < 120; b++)
		machine_write(m, true, b, 10);
	OK(send_state(m, "p4", false, false, true, &t, &e), e);
	ck_assert_uint_eq(asks, 0);
	check_latest_point(m, "p4");
	machine_free(m);
}
END_TEST

START_TEST(a_long_transaction_is_cut_into_parts)
{
	struct machine *m = written_machine(4096, 512);
	struct ship_tally t;
	struct err e = ERR_INIT;

	session(1 << 20);
	OK(send_state(m, "p1", true, true, true, &t, &e), e);
	ck_assert_uint_ge(t.parts, 10);
	ck_assert_uint_eq(commits, t.parts + 1);
	ck_assert_uint_eq(count_points(), 1);
	check_latest_point(m, "p1");
	/* Still there after the store was opened anew. */
	end_session();
	store_close(store);
	open_store();
	check_latest_point(m, "p1");
	machine_free(m);
}
END_TEST

/* On a slow link; but no more once there is a point. */
START_TEST(a_first_copy_is_cut_by_time_as_well)
{
	struct machine *m = machine_new(1024, 256);
	struct ship_tally t = { 0 };
	struct err e = ERR_INIT;

	for (uint64_t b = 0; b < 1024; b++)
		machine_write(m, false, b, 1);
	part_ns = 1;
	session(0);
	part_ns = 0;
	OK(send_state(m, "f1", true, true, false, &t, &e), e);
	ck_assert_uint_ge(t.parts, 2);
	OK(send_state(m, "p1", false, false, true, &t, &e), e);
	for (uint64_t b = 0; b < 1024; b++)
		machine_write(m, false, b, 2);
	OK(send_state(m, "p2", false, false, true, &t, &e), e);
	ck_assert_uint_eq(t.parts, 0);
	check_latest_point(m, "p2");
	end_session();
	machine_free(m);
}
END_TEST

START_TEST(a_first_copy_goes_on_where_it_broke_off)
{
	struct machine *m = written_machine(4096, 0);
	struct ship_tally t;
	struct err e = ERR_INIT;

	session(1 << 20);
	OK(fault_arm("replica.seed=fail@6", &e), e);
	ck_assert_int_eq(send_state(m, "s1", true, false, false, &t, &e), -1);
	err_clear(&e);
	OK(fault_arm(NULL, &e), e);
	end_session();
	ck_assert_uint_eq(count_points(), 0);
	session(1 << 20);
	OK(send_state(m, "s2", true, false, false, &t, &e), e);
	/* Five parts of 1 MiB were there. */
	ck_assert_uint_eq(t.sent_bytes, (4096u - 4096u / 3 - 1) * 4096 - 5u * (1 << 20));
	check_newest(m);
	machine_free(m);
}
END_TEST

START_TEST(volumes_change)
{
	struct machine *m = written_machine(512, 64);
	struct ship_tally t;
	struct err e = ERR_INIT;

	session(0);
	OK(send_state(m, "p1", true, true, true, &t, &e), e);
	/* A disk that grows. */
	m->disk = mem_realloc_array(m->disk, 256, STORE_BLOCK);
	m->disk_dirty = mem_realloc_array(m->disk_dirty, 256, 1);
	memset(m->disk + 64 * STORE_BLOCK, 0, 192u * STORE_BLOCK);
	memset(m->disk_dirty, 0, 256);
	m->disk_blocks = 256;
	machine_write(m, true, 200, 3);
	machine_write(m, true, 3, 3);
	OK(send_state(m, "p2", false, false, true, &t, &e), e);
	ck_assert_uint_eq(t.sent_bytes, 2u * 4096);
	check_latest_point(m, "p2");
	/* One that is unplugged. */
	const uint64_t blocks = m->disk_blocks;
	m->disk_blocks = 0;
	machine_poke(m, false, 7, 7);
	OK(send_state(m, "p3", false, false, true, &t, &e), e);
	check_latest_point(m, "p3");
	/* And comes back: zeros over there. */
	m->disk_blocks = blocks;
	OK(send_state(m, "p4", false, true, true, &t, &e), e);
	check_latest_point(m, "p4");
	machine_free(m);
}
END_TEST

/* Each batch that is sent or received, and each step of the stream and the commit, is where the session once breaks off. */
static const char *const cuts[] = { "channel.send=fail",          "channel.recv=fail",
				    "replica.ship=fail",          "replica.receive=fail",
				    "replica.seed=fail",          "replica.commit.source=fail",
				    "replica.commit.target=fail", "replica.committed.target=fail" };

START_TEST(whatever_breaks_no_acknowledged_point_is_lost)
{
	struct machine *m = written_machine(1500, 600);
	struct err e = ERR_INIT;
	struct ship_tally t;
	char acked[16] = "";
	unsigned broke = 0, id = 0;
	uint64_t version = 2;

	for (unsigned at = 1; at < 40; at += 1 + at / 6) {
		char spec[64];
		struct err why = ERR_INIT;

		err_clear(&e);
		session(2 << 20);
		snprintf(spec, sizeof(spec), "%s@%u", cuts[_i], at);
		OK(fault_arm(spec, &e), e);
		bool first = true;
		for (unsigned k = 0; k < 3; k++) {
			char name[16];
			for (unsigned n = 0; n < 60; n++)
				machine_write(m, n % 2, (version * 37 + n * 11) % 600, version);
			version++;
			snprintf(name, sizeof(name), "p%u", ++id);
			if (send_state(m, name, first, first, true, &t, &why) < 0) {
				broke++;
				break;
			}
			first = false;
			snprintf(acked, sizeof(acked), "%s", name);
			check_latest_point(m, name);
		}
		OK(fault_arm(NULL, &e), e);
		end_session();
		/* As after a power failure: only what is on the disk counts. */
		store_close(store);
		open_store();
		if (acked[0]) {
			struct store_point *p;
			size_t n;
			bool there = false;
			OK(store_points(store, &p, &n, &e), e);
			for (size_t i = 0; i < n; i++)
				there |= strcmp(json_string_value(json_object_get(p[i].meta, "id")), acked) == 0;
			store_points_free(p, n);
			ck_assert_msg(there, "%s is gone", acked);
		}
	}
	ck_assert_uint_gt(broke, 0);
	/* And what comes after heals all. */
	err_clear(&e);
	session(0);
	OK(send_state(m, "healed", true, true, true, &t, &e), e);
	check_latest_point(m, "healed");
	machine_free(m);
}
END_TEST

START_TEST(a_full_store_says_so)
{
	struct machine *m = written_machine(2048, 0);
	struct ship_tally t;
	struct err e = ERR_INIT, why = ERR_INIT;

	store_close(store);
	store = store_open(fixture_path("store", NULL), &(struct store_opts){ .max_bytes = 3 << 20 }, &e);
	ck_assert_msg(store != NULL, "%s", e.text);
	session(0);
	ck_assert_int_eq(send_state(m, "p1", true, false, true, &t, &e), -1);
	ck_assert(receive_broken(rx, &why));
	ck_assert_int_eq(why.cls, ERR_REFUSED);
	ck_assert_uint_eq(count_points(), 0);
	machine_free(m);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("replicator/ship");
	TCase *t = tcase_create("session");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, points_arrive_and_only_what_differs_travels);
	tcase_add_test(t, a_file_travels_when_it_has_changed);
	tcase_add_test(t, what_is_not_pages_is_compressed);
	tcase_add_test(t, a_reconnect_sends_what_differs);
	tcase_add_test(t, a_long_transaction_is_cut_into_parts);
	tcase_add_test(t, a_first_copy_is_cut_by_time_as_well);
	tcase_add_test(t, a_first_copy_goes_on_where_it_broke_off);
	tcase_add_test(t, volumes_change);
	tcase_add_loop_test(t, whatever_breaks_no_acknowledged_point_is_lost, 0, sizeof(cuts) / sizeof(cuts[0]));
	tcase_add_test(t, a_full_store_says_so);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return fixture_run(suite()) == EXIT_SUCCESS ? EXIT_SUCCESS : EXIT_FAILURE;
}
