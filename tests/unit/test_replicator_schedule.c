/* Which window of the day holds: edges, midnight, order; and what is no schedule. Minutes are the clock's on the wall: where
 * it changes for summer, an hour does not come or comes twice, and so do its minutes here. */
#include "replicator/schedule.h"

#include <check.h>
#include <stdio.h>

#define S INT64_C(1000000000)
#define AT(h, m) ((h)*60 + (m))

static const char nights[] = "{\"every_ms\":5000,\"windows\":[{\"from\":\"22:00\",\"to\":\"06:00\",\"bandwidth\":0},"
			     "{\"from\":\"05:00\",\"to\":\"07:00\",\"every_ms\":60000},"
			     "{\"from\":\"12:00\",\"to\":\"12:01\",\"every_ms\":1000,\"bandwidth\":7}]}";

static const struct {
	unsigned minute;
	int64_t every_s;
	uint64_t bandwidth;
} moments[] = {
	{ AT(21, 59), 5, 100 }, { AT(22, 0), 5, 0 },   { AT(23, 59), 5, 0 },   { 0, 5, 0 },
	{ AT(5, 30), 5, 0 }, /* two hold: the first counts, whole */
	{ AT(5, 59), 5, 0 },    { AT(6, 0), 60, 100 }, { AT(6, 59), 60, 100 }, { AT(7, 0), 5, 100 },
	{ AT(11, 59), 5, 100 }, { AT(12, 0), 1, 7 },   { AT(12, 1), 5, 100 },
};

static json_t *parsed(const char *text)
{
	json_t *o = json_loads(text, 0, NULL);
	ck_assert_ptr_nonnull(o);
	return o;
}

START_TEST(windows_of_the_day)
{
	json_t *o = parsed(nights);
	struct schedule_now now = schedule_at(o, moments[_i].minute, 100);
	ck_assert_int_eq(now.every_ns, moments[_i].every_s * S);
	ck_assert_uint_eq(now.bandwidth, moments[_i].bandwidth);
	json_decref(o);
}
END_TEST

START_TEST(every_minute_is_in_or_out)
{
	for (unsigned from = 0; from < 1440; from += 397) {
		for (unsigned to = 1; to < 1440; to += 389) {
			unsigned inside = 0;
			json_t *o = json_pack("{s:[{s:o, s:o, s:i}]}", "windows", "from",
					      json_sprintf("%02u:%02u", from / 60, from % 60), "to",
					      json_sprintf("%02u:%02u", to / 60, to % 60), "every_ms", 2000);
			for (unsigned m = 0; m < 1440; m++)
				inside += schedule_at(o, m, 0).every_ns == 2 * S;
			ck_assert_uint_eq(inside, (to + 1440 - from) % 1440);
			json_decref(o);
		}
	}
}
END_TEST

START_TEST(no_schedule)
{
	struct err e = ERR_INIT;
	struct schedule_now now = schedule_at(NULL, 5, 9);
	ck_assert_int_eq(now.every_ns, 0);
	ck_assert_uint_eq(now.bandwidth, 9);
	ck_assert_int_eq(schedule_check(NULL, &e), 0);
	json_t *o = parsed(nights);
	ck_assert_int_eq(schedule_check(o, &e), 0);
	json_decref(o);
}
END_TEST

static const char *const wrong[] = {
	"{\"every_ms\":99}",
	"{\"every_ms\":\"5s\"}",
	"{\"every_ms\":99999999999}",
	"{\"windows\":{}}",
	"{\"windows\":[{}]}",
	"{\"windows\":[5]}",
	"{\"windows\":[{\"from\":\"24:00\",\"to\":\"06:00\"}]}",
	"{\"windows\":[{\"from\":\"2:000\",\"to\":\"06:00\"}]}",
	"{\"windows\":[{\"from\":\"-1:00\",\"to\":\"06:00\"}]}",
	"{\"windows\":[{\"from\":\"06:00\",\"to\":\"06:00\"}]}",
	"{\"windows\":[{\"from\":\"06:00\",\"to\":\"07:00\",\"bandwidth\":-1}]}",
	"{\"windows\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}",
};

START_TEST(what_is_wrong_is_refused)
{
	struct err e = ERR_INIT;
	json_t *o = parsed(wrong[_i]);
	ck_assert_int_eq(schedule_check(o, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	json_decref(o);
}
END_TEST

START_TEST(an_interval_that_cannot_hold_the_rpo)
{
	struct err e = ERR_INIT;
	json_t *o = parsed(nights); /* 5 s; 60 s in a window */
	ck_assert_int_eq(schedule_check_rpo(o, 5 * S, &e), 0);
	ck_assert_int_eq(schedule_check_rpo(o, 5 * S - 1, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	ck_assert_int_eq(schedule_check_rpo(NULL, S, &e), 0);
	json_decref(o);
	o = json_object();
	ck_assert_int_eq(schedule_check_rpo(o, S, &e), 0);
	json_decref(o);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator_schedule");
	TCase *t = tcase_create("all");
	tcase_add_loop_test(t, windows_of_the_day, 0, (int)(sizeof(moments) / sizeof(moments[0])));
	tcase_add_test(t, every_minute_is_in_or_out);
	tcase_add_test(t, no_schedule);
	tcase_add_test(t, an_interval_that_cannot_hold_the_rpo);
	tcase_add_loop_test(t, what_is_wrong_is_refused, 0, (int)(sizeof(wrong) / sizeof(wrong[0])));
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
