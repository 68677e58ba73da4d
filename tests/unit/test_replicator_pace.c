#include "replicator/pace.h"
#include "tests/unit/transport_fixture.h"

START_TEST(interval_leaves_time_for_the_commit)
{
	struct pace p;

	pace_init(&p, 1000 * NS_PER_MS, 0, 0);
	ck_assert_int_eq(pace_interval_ns(&p), 750 * NS_PER_MS);
	pace_note(&p, NS_PER_MS, 400 * NS_PER_MS, 0);
	ck_assert_int_eq(pace_interval_ns(&p), 475 * NS_PER_MS); /* 1000 - 400 - 125 */
	/* The worst of late counts, and is forgotten. */
	for (unsigned i = 0; i < PACE_COMMITS; i++)
		pace_note(&p, NS_PER_MS, 10 * NS_PER_MS, 0);
	ck_assert_int_eq(pace_interval_ns(&p), 750 * NS_PER_MS);
	pace_note(&p, NS_PER_MS, 5000 * NS_PER_MS, 0);
	ck_assert_int_eq(pace_interval_ns(&p), PACE_MIN_INTERVAL_NS);
	pace_init(&p, 1000 * NS_PER_MS, 60 * NS_PER_S, 0);
	ck_assert_int_eq(pace_interval_ns(&p), 60 * NS_PER_S);
}
END_TEST

START_TEST(behind_is_said_and_taken_back)
{
	struct pace p;

	pace_init(&p, 1000 * NS_PER_MS, 0, 0);
	pace_note(&p, 0, 0, 1500 * NS_PER_MS);
	ck_assert(!pace_behind(&p)); /* once is chance */
	pace_note(&p, 0, 0, 1500 * NS_PER_MS);
	ck_assert(pace_behind(&p));
	pace_note(&p, 0, 0, 900 * NS_PER_MS);
	pace_note(&p, 0, 0, 900 * NS_PER_MS);
	ck_assert(pace_behind(&p));
	ck_assert_int_eq(p.worst_rpo_ns, 1500 * NS_PER_MS); /* why */
	pace_note(&p, 0, 0, 900 * NS_PER_MS);
	ck_assert(!pace_behind(&p));
	ck_assert_int_eq(p.worst_rpo_ns, 900 * NS_PER_MS);
}
END_TEST

START_TEST(pauses_over_the_budget_stretch_the_interval)
{
	struct pace p;

	pace_init(&p, 1000 * NS_PER_MS, 0, 10 * NS_PER_MS);
	for (unsigned i = 0; i < 3; i++)
		pace_note(&p, 20 * NS_PER_MS, 0, 0);
	ck_assert_int_eq(pace_interval_ns(&p), 1500 * NS_PER_MS);
	for (unsigned i = 0; i < 20; i++)
		pace_note(&p, 5 * NS_PER_MS, 0, 0);
	ck_assert_int_eq(pace_interval_ns(&p), 750 * NS_PER_MS);
	ck_assert(!pace_gave_up(&p));
	for (unsigned i = 0; i < 12; i++)
		pace_note(&p, 20 * NS_PER_MS, 0, 0);
	ck_assert(pace_gave_up(&p));
	ck_assert_int_eq(pace_pause_ns(&p, 0.5), 5 * NS_PER_MS);
	ck_assert_int_eq(pace_pause_ns(&p, 0.99), 20 * NS_PER_MS);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/pace");
	TCase *t = tcase_create("pace");

	tcase_add_test(t, interval_leaves_time_for_the_commit);
	tcase_add_test(t, behind_is_said_and_taken_back);
	tcase_add_test(t, pauses_over_the_budget_stretch_the_interval);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
