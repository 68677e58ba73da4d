/* The replica store against a model in memory: transactions, points, parts, pruning, reopening, views that stay what they are. */
#include "store_model.h"

#include "base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

static char base[64], dir[96];
static const struct store_opts small_segments = { .segment_bytes = 300000 };

static void set_up(void)
{
	model_no_sync();
	model_folder(base);
	snprintf(dir, sizeof(dir), "%s/web1", base);
}

static void tear_down(void)
{
	model_remove_folder(base);
}

static struct store *created(const struct store_opts *opts)
{
	struct err e = ERR_INIT;
	json_t *vm = json_pack("{s:s}", "name", "web1");
	struct store *s = store_create(dir, opts, vm, &e);

	json_decref(vm);
	ck_assert_msg(s != NULL, "%s", e.text);
	return s;
}

static struct store *opened(const struct store_opts *opts)
{
	struct err e = ERR_INIT;
	struct store *s = store_open(dir, opts, &e);

	ck_assert_msg(s != NULL, "%s", e.text);
	return s;
}

static void settle(struct store *s)
{
	struct err e = ERR_INIT;
	OK(store_settle(s, clock_mono_ns() + 20 * NS_PER_S, &e), e);
}

static void verify(struct store *s)
{
	struct err e = ERR_INIT;
	OK(store_verify(s, NULL, NULL, &e), e);
}

/* One disk of n blocks. */
static struct store_txn *begun(struct store *s, enum store_txn_kind kind, uint64_t bytes)
{
	struct err e = ERR_INIT;
	struct store_volume v = { .kind = STORE_DISK, .name = "vda", .size_bytes = bytes };
	struct store_txn *t = store_begin(s, kind, &e);

	ck_assert_msg(t != NULL, "%s", e.text);
	if (bytes)
		OK(store_txn_volumes(t, &v, 1, &e), e);
	return t;
}

static void put(struct store_txn *t, uint64_t block, uint32_t tag)
{
	struct err e = ERR_INIT;
	uint8_t data[STORE_BLOCK];

	model_fill(tag, data, STORE_BLOCK);
	OK(store_txn_block(t, 0, block, data, &e), e);
}

static uint64_t committed(struct store_txn *t)
{
	struct err e = ERR_INIT;
	uint64_t seq = 0;

	OK(store_commit(t, NULL, &seq, &e), e);
	return seq;
}

static bool has(struct store_view *v, uint64_t block, uint32_t tag)
{
	struct err e = ERR_INIT;
	uint8_t data[STORE_BLOCK], want[STORE_BLOCK];

	OK(store_view_read(v, 0, block, 1, data, NULL, &e), e);
	model_fill(tag, want, STORE_BLOCK);
	return memcmp(data, want, STORE_BLOCK) == 0;
}

static struct store_view *viewed(struct store *s, uint64_t seq)
{
	struct err e = ERR_INIT;
	struct store_view *v = store_view_open(s, seq, &e);

	ck_assert_msg(v != NULL, "%s", e.text);
	return v;
}

START_TEST(a_point_is_there_after_reopening)
{
	struct err e = ERR_INIT;
	struct store *s = created(NULL);
	struct store_txn *t = begun(s, STORE_TXN_POINT, 10 * STORE_BLOCK);
	json_t *meta = json_pack("{s:s}", "id", "p-1");
	uint64_t seq = 0;

	put(t, 3, 7);
	OK(store_txn_file(t, "device", "abc", 3, &e), e);
	OK(store_txn_file(t, "empty", NULL, 0, &e), e);
	OK(store_commit(t, meta, &seq, &e), e);
	json_decref(meta);
	ck_assert_uint_eq(seq, 1);
	for (int i = 0; i < 3; i++) {
		struct store_view *v = viewed(s, 0);
		ck_assert_uint_eq(store_view_seq(v), 1);
		ck_assert_str_eq(json_string_value(json_object_get(store_view_meta(v), "id")), "p-1");
		ck_assert(has(v, 3, 7));
		ck_assert(has(v, 4, 0));
		size_t len = 9;
		MEM_AUTO char *file = store_view_file(v, "device", &len, &e);
		ck_assert_str_eq(file, "abc");
		ck_assert_uint_eq(len, 3);
		MEM_AUTO char *empty = store_view_file(v, "empty", &len, &e);
		ck_assert_str_eq(empty, "");
		ck_assert_ptr_null(store_view_file(v, "none", &len, &e));
		store_view_close(v);
		if (i == 0)
			settle(s);
		if (i == 1) {
			store_close(s);
			s = opened(NULL);
			ck_assert_str_eq(json_string_value(json_object_get(store_vm(s), "name")), "web1");
		}
	}
	verify(s);
	store_close(s);
}
END_TEST

START_TEST(what_is_not_committed_has_never_been)
{
	struct err e = ERR_INIT;
	struct store *s = created(NULL);
	struct store_txn *t = begun(s, STORE_TXN_POINT, 10 * STORE_BLOCK);

	put(t, 1, 1);
	ck_assert_ptr_null(store_begin(s, STORE_TXN_POINT, &e));
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	store_abort(t);
	ck_assert_ptr_null(store_view_open(s, 0, &e));
	t = begun(s, STORE_TXN_POINT, 10 * STORE_BLOCK);
	put(t, 1, 2);
	ck_assert_uint_eq(committed(t), 1);
	t = begun(s, STORE_TXN_POINT, 0);
	put(t, 1, 3);
	store_abort(t);
	store_close(s);
	s = opened(NULL);
	struct store_view *v = viewed(s, 0);
	ck_assert(has(v, 1, 2));
	store_view_close(v);
	store_close(s);
}
END_TEST

START_TEST(wrong_calls_are_refused)
{
	struct err e = ERR_INIT;
	struct store *s = created(NULL);
	uint8_t data[STORE_BLOCK] = { 1 };
	struct store_volume two[2] = { { .kind = STORE_DISK, .name = "vda", .size_bytes = 8192 },
				       { .kind = STORE_DISK, .name = "vda" } };
	struct store_volume odd = { .kind = STORE_RAM, .name = "pc.ram", .size_bytes = 4097 };

	/* A transaction in which a call failed cannot be committed. */
	for (int i = 0; i < 5; i++) {
		struct store_txn *t = begun(s, STORE_TXN_POINT, i == 3 || i == 4 ? 0 : 8192);
		err_clear(&e);
		const int rc = i == 0   ? store_txn_block(t, 0, 2, data, &e)
			       : i == 1 ? store_txn_block(t, 1, 0, data, &e)
			       : i == 2 ? store_txn_volumes(t, two, 1, &e)
			       : i == 3 ? store_txn_volumes(t, two, 2, &e)
					: store_txn_volumes(t, &odd, 1, &e);
		ck_assert_int_eq(rc, -1);
		ck_assert_int_eq(e.cls, ERR_REFUSED);
		ck_assert_int_eq(store_commit(t, NULL, NULL, &e), -1);
	}
	struct err other = ERR_INIT;
	ck_assert_ptr_null(store_open(dir, NULL, &other));
	ck_assert_int_eq(other.cls, ERR_REFUSED);
	ck_assert_ptr_null(store_create(dir, NULL, NULL, &other));
	ck_assert_int_eq(store_destroy(dir, &other), -1);
	store_close(s);
	OK(store_destroy(dir, &e), e);
	ck_assert_int_ne(access(dir, F_OK), 0);
	OK(store_destroy(dir, &e), e);
}
END_TEST

START_TEST(a_part_leaves_points_as_they_were)
{
	struct store *s = created(NULL);
	struct err e = ERR_INIT;
	struct store_txn *t = begun(s, STORE_TXN_POINT, 10 * STORE_BLOCK);

	put(t, 1, 1);
	committed(t);
	t = begun(s, STORE_TXN_PART, 0);
	put(t, 1, 2);
	put(t, 2, 3);
	committed(t);
	for (int i = 0; i < 2; i++) {
		struct store_view *v = viewed(s, 0);
		ck_assert_uint_eq(store_view_seq(v), 1);
		ck_assert(has(v, 1, 1) && has(v, 2, 0));
		ck_assert(i == 0 || !store_view_head_path(v, 0, &e));
		store_view_close(v);
		struct store_view *n = store_view_newest(s, &e);
		ck_assert(has(n, 1, 2) && has(n, 2, 3));
		store_view_close(n);
		settle(s);
	}
	verify(s);
	store_close(s);
}
END_TEST

START_TEST(the_last_version_of_a_block_counts)
{
	struct store *s = created(NULL);
	struct err e = ERR_INIT;
	struct store_txn *t = begun(s, STORE_TXN_POINT, 100 * STORE_BLOCK);

	for (uint32_t i = 0; i < 100; i++)
		put(t, i, 1000 + i);
	OK(store_txn_zeros(t, 0, 20, 40, &e), e);
	for (uint32_t i = 30; i < 50; i++)
		put(t, i, 2000 + i);
	put(t, 40, 5);
	put(t, 40, 6);
	committed(t);
	for (int i = 0; i < 2; i++) {
		struct store_view *v = viewed(s, 0);
		for (uint32_t b = 0; b < 100; b++)
			ck_assert_msg(has(v, b,
					  b == 40             ? 6
					  : b >= 30 && b < 50 ? 2000 + b
					  : b >= 20 && b < 60 ? 0
							      : 1000 + b),
				      "block %u", b);
		store_view_close(v);
		settle(s);
	}
	store_close(s);
}
END_TEST

START_TEST(a_disk_that_ends_within_a_block)
{
	struct store *s = created(NULL);
	struct err e = ERR_INIT;
	uint8_t data[STORE_BLOCK], got[STORE_BLOCK];
	struct stat st;

	memset(data, 0x5a, sizeof(data));
	struct store_txn *t = begun(s, STORE_TXN_POINT, 9000);
	OK(store_txn_block(t, 0, 2, data, &e), e);
	committed(t);
	t = begun(s, STORE_TXN_POINT, 8200); /* shorter, in the same block */
	committed(t);
	t = begun(s, STORE_TXN_POINT, 20000);
	committed(t);
	for (int i = 0; i < 2; i++) {
		for (uint64_t seq = 1; seq <= 3; seq++) {
			struct store_view *v = viewed(s, seq);
			OK(store_view_read(v, 0, 2, 1, got, NULL, &e), e);
			const size_t len = seq == 1 ? 9000 - 8192 : 8;
			for (size_t k = 0; k < STORE_BLOCK; k++)
				ck_assert_msg(got[k] == (k < len ? 0x5a : 0), "point %d, byte %zu", (int)seq, k);
			store_view_close(v);
		}
		settle(s);
	}
	struct store_view *v = viewed(s, 0);
	MEM_AUTO char *path = store_view_head_path(v, 0, &e);
	ck_assert_msg(path != NULL, "%s", e.text);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_size, 20000);
	store_view_close(v);
	verify(s);
	store_close(s);
}
END_TEST

START_TEST(random_transactions)
{
	struct model m;
	struct err e = ERR_INIT;
	struct store *s = created(&small_segments);

	model_init(&m, (uint64_t)_i + 1);
	for (int step = 0; step < 60; step++) {
		OK(model_txn(&m, s, model_below(&m, 3) ? STORE_TXN_POINT : STORE_TXN_PART, &e), e);
		if (model_below(&m, 6) == 0)
			settle(s);
		if (model_below(&m, 6) == 0) {
			model_forget(&m, 2 + model_below(&m, 3));
			OK(store_prune(s, model_keep, &m, &e), e);
		}
		if (model_below(&m, 10) == 0) {
			store_close(s);
			s = opened(&small_segments);
			ck_assert_uint_eq(store_dropped_bytes(s), 0);
		}
		if (model_below(&m, 3) == 0)
			model_compare_all(&m, s);
	}
	settle(s);
	model_compare_all(&m, s);
	verify(s);
	/* Only the latest: nothing of the others is left. */
	while (m.n_points > 1) {
		free(m.points[0]);
		memmove(m.points, m.points + 1, --m.n_points * sizeof(m.points[0]));
	}
	OK(store_prune(s, model_keep, &m, &e), e);
	model_compare_all(&m, s);
	ck_assert_int_le(model_files_in(dir, "journal"), 2);
	verify(s);
	store_close(s);
	model_fini(&m);
}
END_TEST

/* Views opened at any time say the same until they are closed. */
START_TEST(views_stay_what_they_are)
{
	enum { VIEWS = 12 };
	struct model m;
	struct err e = ERR_INIT;
	struct store *s = created(&small_segments);
	struct store_view *views[VIEWS] = { NULL };
	static struct model_state states[VIEWS];

	model_init(&m, (uint64_t)_i + 100);
	for (int step = 0; step < 60; step++) {
		OK(model_txn(&m, s, model_below(&m, 3) ? STORE_TXN_POINT : STORE_TXN_PART, &e), e);
		if (m.n_points == 0)
			continue;
		const uint32_t i = model_below(&m, VIEWS);
		if (views[i]) {
			model_compare(&states[i], views[i]);
			store_view_close(views[i]);
		}
		states[i] = *m.points[model_below(&m, (uint32_t)m.n_points)];
		views[i] = viewed(s, states[i].seq);
		if (model_below(&m, 4) == 0) {
			model_forget(&m, 2);
			OK(store_prune(s, model_keep, &m, &e), e);
		}
		for (size_t k = 0; k < VIEWS; k++)
			if (views[k] && model_below(&m, 4) == 0)
				model_compare(&states[k], views[k]);
	}
	for (size_t k = 0; k < VIEWS; k++) {
		if (views[k])
			model_compare(&states[k], views[k]);
		store_view_close(views[k]);
	}
	store_close(s);
	model_fini(&m);
}
END_TEST

START_TEST(space_that_it_may_have)
{
	struct err e = ERR_INIT;
	const struct store_opts opts = { .max_bytes = 3 << 20 };
	struct store *s = created(&opts);
	struct store_txn *t = begun(s, STORE_TXN_POINT, 2000 * STORE_BLOCK);

	put(t, 1, 1);
	committed(t);
	t = begun(s, STORE_TXN_POINT, 0);
	for (uint32_t i = 0; i < 1000; i++)
		put(t, i, i + 1);
	ck_assert_int_eq(store_commit(t, NULL, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	t = begun(s, STORE_TXN_POINT, 0);
	put(t, 2, 9);
	ck_assert_uint_eq(committed(t), 2);
	settle(s);
	verify(s);
	store_close(s);
}
END_TEST

/* What the catalogue says is lost with the power. */
static int no_rename(const char *from, const char *to)
{
	return strstr(to, "catalogue.log") ? 0 : rename(from, to);
}

/* Three points that are in the journal alone, as far as the catalogue knows: as after a loss of power. */
static void three_points_of_which_none_is_saved(void)
{
	int (*const real_rename)(const char *from, const char *to) = sys.rename;
	struct store *s = created(NULL);

	sys.rename = no_rename;
	for (uint32_t i = 1; i <= 3; i++) {
		struct store_txn *t = begun(s, STORE_TXN_POINT, i == 1 ? 20 * STORE_BLOCK : 0);
		put(t, i, i);
		ck_assert_uint_eq(committed(t), i);
	}
	store_close(s);
	sys.rename = real_rename;
}

static char *the_segment(void)
{
	return mem_printf("%s/journal/00000001.wal", dir);
}

/* Where this block is, in the journal's only segment. */
static off_t place_of(uint32_t tag)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *path = the_segment();
	size_t n = 0;
	MEM_AUTO char *all = file_read_all(path, 1 << 20, &n, &e);
	uint8_t want[STORE_BLOCK];

	ck_assert_msg(all != NULL, "%s", e.text);
	model_fill(tag, want, STORE_BLOCK);
	const char *at = memmem(all, n, want, STORE_BLOCK);
	ck_assert_ptr_nonnull(at);
	return (off_t)(at - all);
}

static void rot(const char *path, off_t at)
{
	uint8_t c = 0;
	const int fd = open(path, O_RDWR | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, &c, 1, at), 1);
	c ^= 0xff;
	ck_assert_int_eq(pwrite(fd, &c, 1, at), 1);
	close(fd);
}

static size_t points_of(struct store *s)
{
	struct store_point *p = NULL;
	struct err e = ERR_INIT;
	size_t n = 0;

	OK(store_points(s, &p, &n, &e), e);
	store_points_free(p, n);
	return n;
}

START_TEST(what_was_not_saved_is_read_again)
{
	three_points_of_which_none_is_saved();
	struct store *s = opened(NULL);
	ck_assert_uint_eq(points_of(s), 3);
	ck_assert_uint_eq(store_dropped_bytes(s), 0);
	ck_assert(!store_was_damaged(s));
	store_close(s);
}
END_TEST

/* The first of three points, of each block what it was then. */
static void only_first(struct store *s, uint64_t seq)
{
	struct store_view *v = viewed(s, seq);

	for (uint32_t block = 0; block < 6; block++)
		ck_assert_msg(has(v, block, block == 1), "block %u", block);
	store_view_close(v);
}

/* The second of three: the first stays, the third is lost, and that is said; what there was is kept. */
START_TEST(damage_before_a_commit_is_told)
{
	static const off_t into[] = { 100, -3, -50 }; /* the block, the sum in its record's head, the type */
	MEM_AUTO char *path = the_segment(), *bad = mem_printf("%s.bad", path);
	struct stat before, after;

	three_points_of_which_none_is_saved();
	rot(path, place_of(2) + into[_i]);
	ck_assert_int_eq(stat(path, &before), 0);
	struct store *s = opened(NULL);
	ck_assert_uint_eq(points_of(s), 1);
	ck_assert(store_was_damaged(s));
	ck_assert_uint_gt(store_dropped_bytes(s), 2 * STORE_BLOCK);
	/* What of the lost ones was in the heads is gone from there. */
	only_first(s, 0);
	ck_assert_int_eq(stat(bad, &after), 0);
	ck_assert_int_eq(after.st_size, before.st_size);
	ck_assert_int_eq(stat(path, &after), 0);
	ck_assert_int_lt(after.st_size, before.st_size);
	/* It goes on, and the next time there is nothing to be said. */
	struct store_txn *t = begun(s, STORE_TXN_POINT, 0);
	put(t, 5, 5);
	ck_assert_uint_eq(committed(t), 2);
	only_first(s, 1);
	settle(s);
	only_first(s, 1);
	store_close(s);
	s = opened(NULL);
	ck_assert_uint_eq(points_of(s), 2);
	ck_assert(!store_was_damaged(s));
	ck_assert_uint_eq(store_dropped_bytes(s), 0);
	verify(s);
	store_close(s);
	struct err e = ERR_INIT;
	OK(store_destroy(dir, &e), e);
	ck_assert_int_ne(access(dir, F_OK), 0);
}
END_TEST

/* Half a record: nothing comes after it, as after a crash on the way. */
START_TEST(a_torn_end_is_no_damage)
{
	MEM_AUTO char *path = the_segment(), *bad = mem_printf("%s.bad", path);
	uint8_t torn[2 * STORE_BLOCK];

	three_points_of_which_none_is_saved();
	const int fd = open(path, O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pread(fd, torn, sizeof(torn), place_of(2) - 100), sizeof(torn));
	ck_assert_int_eq(pwrite(fd, torn, sizeof(torn), lseek(fd, 0, SEEK_END)), sizeof(torn));
	close(fd);
	struct store *s = opened(NULL);
	ck_assert_uint_eq(points_of(s), 3);
	ck_assert(!store_was_damaged(s));
	ck_assert_uint_gt(store_dropped_bytes(s), STORE_BLOCK);
	ck_assert_int_ne(access(bad, F_OK), 0);
	verify(s);
	store_close(s);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, a_point_is_there_after_reopening);
	tcase_add_test(t, what_is_not_committed_has_never_been);
	tcase_add_test(t, wrong_calls_are_refused);
	tcase_add_test(t, a_part_leaves_points_as_they_were);
	tcase_add_test(t, the_last_version_of_a_block_counts);
	tcase_add_test(t, a_disk_that_ends_within_a_block);
	tcase_add_loop_test(t, random_transactions, 0, 6);
	tcase_add_loop_test(t, views_stay_what_they_are, 0, 4);
	tcase_add_test(t, space_that_it_may_have);
	tcase_add_test(t, what_was_not_saved_is_read_again);
	tcase_add_loop_test(t, damage_before_a_commit_is_told, 0, 3);
	tcase_add_test(t, a_torn_end_is_no_damage);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
