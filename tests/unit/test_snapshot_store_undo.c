/* Before-images: opening a store looks at none of them, and what is wrong with one is found out where it is needed. */
#include "store_model.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <unistd.h>

#define POINTS 12u

static char base[64], dir[96];
static struct sys_calls kernel;
static atomic_int opened;

static int counted_open(const char *p, int flags, mode_t mode)
{
	opened += strstr(p, ".undo") != NULL;
	return kernel.open(p, flags, mode);
}

static void set_up(void)
{
	model_no_sync();
	kernel = sys;
	sys.open = counted_open;
	model_folder(base);
	snprintf(dir, sizeof(dir), "%s/web1", base);
}

static void tear_down(void)
{
	sys = kernel;
	model_remove_folder(base);
}

static void run(const char *command)
{
	MEM_AUTO char *in = mem_printf("cd %s && %s", dir, command);
	ck_assert_int_eq(system(in), 0);
}

static struct store *reopened(void)
{
	struct err e = ERR_INIT;
	struct store *s = store_open(dir, NULL, &e);

	ck_assert_msg(s != NULL, "%s", e.text);
	return s;
}

/* Points, each of which has before-images of its own: closed. */
static void make_points(struct model *m, uint32_t n)
{
	struct err e = ERR_INIT;
	struct store *s = store_create(dir, NULL, NULL, &e);

	ck_assert_msg(s != NULL, "%s", e.text);
	model_init(m, 17);
	while (m->n_points < n)
		OK(model_txn(m, s, STORE_TXN_POINT, &e), e);
	OK(store_settle(s, clock_mono_ns() + 20 * NS_PER_S, &e), e);
	store_close(s);
	ck_assert_int_eq(model_files_in(dir, "undo"), (int)n - 1);
}

static char *path_of(uint64_t from, uint64_t to)
{
	return mem_printf("%s/undo/%012" PRIu64 "-%012" PRIu64 ".undo", dir, from, to);
}

/* A failover waits for it. */
START_TEST(opening_looks_at_none)
{
	struct model m;
	struct err e = ERR_INIT;
	struct store_usage u;
	struct store_point *p = NULL;
	size_t n = 0;

	make_points(&m, 200);
	opened = 0;
	struct store *s = reopened();
	struct store_view *v = store_view_open(s, 0, &e);
	ck_assert_msg(v != NULL, "%s", e.text);
	model_compare(&m.now, v);
	store_view_close(v);
	ck_assert_int_eq(opened, 0);
	/* What they take up is known all the same. */
	uint64_t sum = 0;
	OK(store_points(s, &p, &n, &e), e);
	for (size_t i = 0; i < n; i++) {
		ck_assert((p[i].undo_bytes > 0) == (i + 1 < n));
		sum += p[i].undo_bytes;
	}
	store_points_free(p, n);
	OK(store_usage(s, &u, &e), e);
	ck_assert_uint_eq(u.undo_bytes, sum);
	ck_assert_int_eq(opened, 0);
	OK(store_verify(s, NULL, NULL, &e), e);
	ck_assert_int_ge(opened, 199);
	store_close(s);
	model_fini(&m);
}
END_TEST

static void check_points(const struct model *m, struct store *s, uint64_t lost_up_to)
{
	for (size_t i = 0; i < m->n_points; i++) {
		struct err e = ERR_INIT;
		struct store_view *v = store_view_open(s, m->points[i]->seq, &e);
		if (m->points[i]->seq <= lost_up_to) {
			ck_assert_ptr_null(v);
			ck_assert_int_eq(e.cls, ERR_CORRUPT);
			continue;
		}
		ck_assert_msg(v != NULL, "%s", e.text);
		model_compare(m->points[i], v);
		store_view_close(v);
	}
}

/* Cut short, rotten within, gone: it costs the points that need it, and nothing else. */
START_TEST(a_rotten_one_costs_its_points)
{
	static const char *const damage[] = {
		"truncate -s 100 undo/000000000006-*",
		"truncate -s -1 undo/000000000006-*",
		"printf x | dd of=undo/$(ls undo | grep ^000000000006) bs=1 seek=20 conv=notrunc status=none",
		"truncate -s -70 undo/000000000006-* && head -c 70 /dev/zero >>$(echo undo/000000000006-*)",
		"rm undo/000000000006-*",
	};
	struct model m;
	struct err e = ERR_INIT;

	make_points(&m, POINTS);
	run(damage[_i]);
	for (int i = 0; i < 2; i++) {
		struct store *s = reopened();
		check_points(&m, s, 5);
		ck_assert_int_eq(store_verify(s, NULL, NULL, &e), -1);
		ck_assert_int_eq(e.cls, ERR_CORRUPT);
		OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
		/* Points go on being given up, and what need not be there is merged, on both sides of it. */
		model_forget(&m, 2);
		OK(store_prune(s, model_keep, &m, &e), e);
		OK(store_prune(s, model_keep, &m, &e), e);
		store_close(s);
	}
	struct store *s = reopened();
	check_points(&m, s, 5);
	store_close(s);
	model_fini(&m);
}
END_TEST

/* A crash before those were removed that had been merged: they go if what they were merged into is good, and stay if it is not. */
START_TEST(merged_ones_go_if_the_whole_is_good)
{
	struct model m;
	struct err e = ERR_INIT;
	const bool rotten = _i == 1;

	make_points(&m, POINTS);
	run("cp -r undo kept");
	struct store *s = reopened();
	/* Between the third and the last nothing is retained. */
	for (size_t i = 3; i + 1 < m.n_points; i++)
		free(m.points[i]);
	m.points[3] = m.points[m.n_points - 1];
	m.n_points = 4;
	OK(store_prune(s, model_keep, &m, &e), e);
	store_close(s);
	MEM_AUTO char *whole = path_of(4, POINTS);
	ck_assert_int_eq(access(whole, F_OK), 0);
	ck_assert_int_eq(model_files_in(dir, "undo"), 3);
	run("cp kept/* undo; rm -r kept");
	ck_assert(!rotten || truncate(whole, 5000) == 0);
	s = reopened();
	ck_assert_int_eq(model_files_in(dir, "undo"), rotten ? (int)POINTS - 1 : 3);
	check_points(&m, s, 0);
	store_close(s);
	model_fini(&m);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store undo");
	TCase *t = tcase_create("all");
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, opening_looks_at_none);
	tcase_add_loop_test(t, a_rotten_one_costs_its_points, 0, 5);
	tcase_add_loop_test(t, merged_ones_go_if_the_whole_is_good, 0, 2);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
