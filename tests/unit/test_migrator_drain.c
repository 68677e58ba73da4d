#include "migrator/drain_plan.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define GIB (UINT64_C(1) << 30)
#define HOSTS 3
#define VMS 5

struct world {
	struct drain_plan_host hosts[HOSTS];
	struct drain_plan_vm vms[VMS];
	bool tried[VMS][HOSTS];
	bool forbidden[VMS][HOSTS];
	unsigned asked[VMS][HOSTS];
	unsigned small[VMS][HOSTS];
	struct drain_plan plan;
};

static bool possible(void *ctx, size_t vm, size_t host)
{
	struct world *w = ctx;
	w->asked[vm][host]++;
	return !w->forbidden[vm][host];
}

static void too_small(void *ctx, size_t vm, size_t host)
{
	struct world *w = ctx;
	w->small[vm][host]++;
}

static void make(struct world *w)
{
	static const char *const names[] = { "e", "d", "c", "b", "a" };
	static const uint64_t sizes[] = { 2, 8, 4, 4, 1 };

	memset(w, 0, sizeof(*w));
	w->hosts[0] = (struct drain_plan_host){ .name = "h0", .usable = true, .spare_bytes = 10 * GIB };
	w->hosts[1] = (struct drain_plan_host){ .name = "h1", .usable = true, .spare_bytes = 12 * GIB };
	w->hosts[2] = (struct drain_plan_host){ .name = "h2", .usable = false, .spare_bytes = 100 * GIB };
	for (size_t i = 0; i < VMS; i++)
		w->vms[i] = (struct drain_plan_vm){ .name = names[i],
						    .memory_bytes = sizes[i] * GIB,
						    .tried = w->tried[i],
						    .host = DRAIN_PLAN_NOWHERE };
	w->plan = (struct drain_plan){ w->hosts, HOSTS, w->vms, VMS, possible, too_small, w };
}

START_TEST(largest_first)
{
	struct world w;
	size_t order[VMS];
	make(&w);
	drain_plan_order(&w.plan, order);
	static const size_t expected[] = { 1, 3, 2, 0, 4 }; /* 8, 4 "b", 4 "c", 2, 1 */
	for (size_t i = 0; i < VMS; i++)
		ck_assert_uint_eq(order[i], expected[i]);
}
END_TEST

START_TEST(spreads_by_free_memory)
{
	struct world w;
	size_t order[VMS];
	make(&w);
	drain_plan_order(&w.plan, order);
	for (size_t i = 0; i < VMS; i++)
		ck_assert(drain_plan_place(&w.plan, order[i]));
	/* 8 to h1 (12 > 10), then 4 to h0 (10 > 4), 4 to h0 (6 > 4), 2 to h1 (4 > 2), 1 to h0 or h1 (2 = 2): the
	 * first. */
	ck_assert_uint_eq(w.vms[1].host, 1);
	ck_assert_uint_eq(w.vms[3].host, 0);
	ck_assert_uint_eq(w.vms[2].host, 0);
	ck_assert_uint_eq(w.vms[0].host, 1);
	ck_assert_uint_eq(w.vms[4].host, 0);
	ck_assert_uint_eq(w.hosts[0].spare_bytes, 1 * GIB);
	ck_assert_uint_eq(w.hosts[1].spare_bytes, 2 * GIB);
	ck_assert_uint_eq(w.hosts[2].spare_bytes, 100 * GIB);
}
END_TEST

START_TEST(preflight_decides)
{
	struct world w;
	make(&w);
	w.forbidden[1][1] = true;
	ck_assert(drain_plan_place(&w.plan, 1));
	ck_assert_uint_eq(w.vms[1].host, 0);
	ck_assert_uint_eq(w.asked[1][1], 1);
	ck_assert_uint_eq(w.asked[1][2], 0); /* not usable: not even asked */
	/* It could not stay there either: nothing is left, and no host is asked twice. */
	drain_plan_release(&w.plan, 1);
	ck_assert_uint_eq(w.hosts[0].spare_bytes, 10 * GIB);
	ck_assert(!drain_plan_place(&w.plan, 1));
	ck_assert_uint_eq(w.vms[1].host, DRAIN_PLAN_NOWHERE);
	ck_assert_uint_eq(w.asked[1][1], 1);
	ck_assert_uint_eq(w.asked[1][0], 1);
	drain_plan_release(&w.plan, 1); /* placed nowhere: nothing to give back */
	ck_assert_uint_eq(w.hosts[0].spare_bytes, 10 * GIB);
}
END_TEST

START_TEST(memory_that_is_promised_counts)
{
	struct world w;
	make(&w);
	w.hosts[0].spare_bytes = 9 * GIB;
	w.hosts[1].spare_bytes = 8 * GIB;
	w.vms[0].memory_bytes = 9 * GIB;
	ck_assert(drain_plan_place(&w.plan, 0)); /* h0 is full now */
	ck_assert(drain_plan_place(&w.plan, 1)); /* 8 to h1, full too */
	ck_assert_uint_eq(w.vms[1].host, 1);
	ck_assert(!drain_plan_place(&w.plan, 4));
	ck_assert_uint_eq(w.small[4][0], 1);
	ck_assert_uint_eq(w.small[4][1], 1);
	ck_assert_uint_eq(w.asked[4][0], 0); /* preflight is not bothered */
}
END_TEST

START_TEST(nothing_to_place)
{
	struct world w;
	size_t order[1] = { 7 };
	make(&w);
	w.plan.n_vms = 0;
	drain_plan_order(&w.plan, order);
	ck_assert_uint_eq(order[0], 7);
	w.plan.n_vms = 1;
	w.plan.n_hosts = 0;
	ck_assert(!drain_plan_place(&w.plan, 0));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("drain");
	TCase *tc = tcase_create("drain");
	tcase_add_test(tc, largest_first);
	tcase_add_test(tc, spreads_by_free_memory);
	tcase_add_test(tc, preflight_decides);
	tcase_add_test(tc, memory_that_is_promised_counts);
	tcase_add_test(tc, nothing_to_place);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
