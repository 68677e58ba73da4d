/* Which window of the day holds: edges, midnight, order, and clocks that change for summer. */
#include "replicator/schedule.h"

#include <check.h>
#include <stdlib.h>

#define S INT64_C(1000000000)
#define AT(h, m, s) ((time_t)20000 * 86400 + (h)*3600 + (m)*60 + (s))

static const struct schedule nights = {
	.every_ns = 5 * S,
	.bandwidth = 100,
	.n_windows = 3,
	.windows = { { .from = 22 * 60, .to = 6 * 60, .bandwidth = 0 },
		     { .from = 5 * 60, .to = 7 * 60, .every_ns = 60 * S, .bandwidth = SCHEDULE_AS_OUTSIDE },
		     { .from = 12 * 60, .to = 12 * 60 + 1, .every_ns = S, .bandwidth = 7 } },
};

static const struct {
	time_t local;
	int64_t every_s;
	uint64_t bandwidth;
} moments[] = {
	{ AT(21, 59, 59), 5, 100 },
	{ AT(22, 0, 0), 5, 0 },
	{ AT(23, 59, 59), 5, 0 },
	{ AT(0, 0, 0), 5, 0 },
	{ AT(5, 30, 0), 5, 0 }, /* two hold: the first counts, whole */
	{ AT(5, 59, 59), 5, 0 },
	{ AT(6, 0, 0), 60, 100 },
	{ AT(6, 59, 59), 60, 100 },
	{ AT(7, 0, 0), 5, 100 },
	{ AT(11, 59, 59), 5, 100 },
	{ AT(12, 0, 0), 1, 7 },
	{ AT(12, 0, 59), 1, 7 },
	{ AT(12, 1, 0), 5, 100 },
	{ -1, 5, 0 }, /* a second before 1970: 23:59:59 */
	{ 0, 5, 0 },
};

START_TEST(windows_of_the_day)
{
	struct schedule_now now = schedule_at(&nights, moments[_i].local);
	ck_assert_int_eq(now.every_ns, moments[_i].every_s * S);
	ck_assert_uint_eq(now.bandwidth, moments[_i].bandwidth);
}
END_TEST

START_TEST(every_minute_is_in_or_out)
{
	struct schedule s = { .every_ns = S, .n_windows = 1 };
	s.windows[0] = (struct schedule_window){ .every_ns = 2 * S, .bandwidth = SCHEDULE_AS_OUTSIDE };
	for (unsigned from = 0; from < 1440; from += 97) {
		for (unsigned to = 0; to < 1440; to += 89) {
			unsigned inside = 0;
			s.windows[0].from = from;
			s.windows[0].to = to;
			for (unsigned m = 0; m < 1440; m++)
				inside += schedule_at(&s, (time_t)m * 60).every_ns == 2 * S;
			ck_assert_uint_eq(inside, from == to ? 1440 : (to + 1440 - from) % 1440);
		}
	}
}
END_TEST

START_TEST(no_windows)
{
	const struct schedule s = { .every_ns = 3 * S, .bandwidth = 9 };
	struct schedule_now now = schedule_at(&s, AT(3, 0, 0));
	ck_assert_int_eq(now.every_ns, 3 * S);
	ck_assert_uint_eq(now.bandwidth, 9);
}
END_TEST

/* Clocks go from 02:00 to 03:00 on 29 March 2026 and from 03:00 back to 02:00 on 25 October. */
START_TEST(summer_time)
{
	const struct schedule s = { .every_ns = S,
				    .n_windows = 1,
				    .windows = { { .from = 120, .to = 180, .every_ns = 2 * S } } };
	const time_t spring = 1774746000 - 7200, autumn = 1792890000 - 7200; /* midnights and a bit, UTC */
	unsigned in_spring = 0, in_autumn = 0;
	setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
	tzset();
	for (unsigned m = 0; m < 360; m++) {
		in_spring += schedule_at(&s, schedule_local_time(spring + (time_t)m * 60)).every_ns == 2 * S;
		in_autumn += schedule_at(&s, schedule_local_time(autumn + (time_t)m * 60)).every_ns == 2 * S;
	}
	ck_assert_uint_eq(in_spring, 0);
	ck_assert_uint_eq(in_autumn, 120);
}
END_TEST

START_TEST(local_time_is_the_clock_on_the_wall)
{
	setenv("TZ", "XYZ-5:30", 1);
	tzset();
	ck_assert_int_eq(schedule_local_time(0), 5 * 3600 + 30 * 60);
}
END_TEST

START_TEST(from_what_a_command_says)
{
	struct schedule s = { .every_ns = 9 * S, .bandwidth = 5 };
	struct err e = ERR_INIT;
	json_t *o = json_loads(
		"{\"every_ms\":5000,\"windows\":[{\"from\":\"22:00\",\"to\":\"06:30\",\"bandwidth\":125000000},"
		"{\"from\":\"07:00\",\"to\":\"08:00\",\"every_ms\":100}]}",
		0, NULL);
	ck_assert_msg(schedule_from_json(o, &s, &e) == 0, "%s", e.text);
	json_decref(o);
	ck_assert_int_eq(s.every_ns, 5 * S);
	ck_assert_uint_eq(s.bandwidth, 5);
	ck_assert_uint_eq(s.n_windows, 2);
	ck_assert_uint_eq(schedule_at(&s, AT(6, 29, 0)).bandwidth, 125000000);
	ck_assert_int_eq(schedule_at(&s, AT(7, 0, 0)).every_ns, S / 10);
	ck_assert_uint_eq(schedule_at(&s, AT(7, 0, 0)).bandwidth, 5);
	ck_assert_int_eq(schedule_from_json(NULL, &s, &e), 0);
	ck_assert_uint_eq(s.n_windows, 2);
}
END_TEST

static const char *const wrong[] = {
	"{\"every_ms\":99}",
	"{\"every_ms\":\"5s\"}",
	"{\"every_ms\":86400001}",
	"{\"windows\":{}}",
	"{\"windows\":[{}]}",
	"{\"windows\":[5]}",
	"{\"windows\":[{\"from\":\"24:00\",\"to\":\"06:00\"}]}",
	"{\"windows\":[{\"from\":\"2:000\",\"to\":\"06:00\"}]}",
	"{\"windows\":[{\"from\":\"-1:00\",\"to\":\"06:00\"}]}",
	"{\"windows\":[{\"from\":\"06:00\",\"to\":\"06:00\"}]}",
	"{\"windows\":[{\"from\":\"06:00\",\"to\":\"07:00\",\"bandwidth\":-1}]}",
	"{\"windows\":[{\"from\":\"06:00\",\"to\":\"07:00\",\"bandwidth\":124999}]}",
	"{\"windows\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
};

START_TEST(what_is_wrong_changes_nothing)
{
	struct schedule s = { .every_ns = 9 * S };
	struct err e = ERR_INIT;
	json_t *o = json_loads(wrong[_i], 0, NULL);
	ck_assert_ptr_nonnull(o);
	ck_assert_int_eq(schedule_from_json(o, &s, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	ck_assert_int_eq(s.every_ns, 9 * S);
	ck_assert_uint_eq(s.n_windows, 0);
	json_decref(o);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator_schedule");
	TCase *t = tcase_create("all");
	tcase_add_loop_test(t, windows_of_the_day, 0, (int)(sizeof(moments) / sizeof(moments[0])));
	tcase_add_test(t, every_minute_is_in_or_out);
	tcase_add_test(t, no_windows);
	tcase_add_test(t, summer_time);
	tcase_add_test(t, local_time_is_the_clock_on_the_wall);
	tcase_add_test(t, from_what_a_command_says);
	tcase_add_loop_test(t, what_is_wrong_changes_nothing, 0, (int)(sizeof(wrong) / sizeof(wrong[0])));
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
