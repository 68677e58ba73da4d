#include "transport_fixture.h"

#include "replicator/retention.h"
#include "replicator/schedule.h"

#define HOUR (3600 * NS_PER_S)
#define DAY (24 * HOUR)
#define MAX_POINTS 2000

static struct retention_point p[MAX_POINTS];

static size_t kept(size_t n)
{
	size_t k = 0;

	for (size_t i = 0; i < n; i++)
		k += p[i].keep;
	return k;
}

static size_t every(int64_t period_ns, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (struct retention_point){ .time_ns = 1000 * DAY + (int64_t)i * period_ns, .bytes = 100 };
	return n;
}

START_TEST(the_last_stay)
{
	const struct retention r = { .last = 3 };
	const size_t n = every(NS_PER_S, 10);

	ck_assert_uint_eq(retention_mark(&r, 0, p, n), 7);
	for (size_t i = 0; i < n; i++)
		ck_assert_int_eq(p[i].keep, i >= 7);
	/* Fewer than that. */
	ck_assert_uint_eq(retention_mark(&r, 0, p, 2), 0);
	ck_assert_uint_eq(retention_mark(&r, 0, p, 0), 0);
}
END_TEST

START_TEST(the_newest_always_stays)
{
	const struct retention none = { .max_bytes = 1 };
	const size_t n = every(NS_PER_S, 10);

	ck_assert_uint_eq(retention_mark(&none, 1 << 20, p, n), 9);
	ck_assert(p[9].keep);
}
END_TEST

START_TEST(one_an_hour_and_one_a_day)
{
	const struct retention r = { .last = 2, .hourly = 4, .daily = 3 };
	const size_t n = every(10 * 60 * NS_PER_S, 6 * 24 * 5); /* five days */

	retention_mark(&r, 0, p, n);
	/* The last two; the newest of each of four hours (the latest is among the last); of three days (the latest as well). */
	ck_assert_uint_eq(kept(n), 2 + 3 + 2);
	ck_assert(p[n - 1].keep && p[n - 2].keep);
	ck_assert(p[n - 1 - 6].keep && p[n - 1 - 12].keep && p[n - 1 - 18].keep);
	ck_assert(p[n - 1 - 144].keep && p[n - 1 - 288].keep);
}
END_TEST

START_TEST(hours_without_points_do_not_count)
{
	const struct retention r = { .hourly = 3 };

	p[0] = (struct retention_point){ .time_ns = 1 * HOUR };
	p[1] = (struct retention_point){ .time_ns = 5 * HOUR };
	p[2] = (struct retention_point){ .time_ns = 100 * HOUR };
	p[3] = (struct retention_point){ .time_ns = 100 * HOUR + 1 };
	retention_mark(&r, 0, p, 4);
	ck_assert(p[0].keep && p[1].keep && !p[2].keep && p[3].keep);
}
END_TEST

START_TEST(space_takes_the_oldest)
{
	const struct retention r = { .last = 10, .daily = 1, .max_bytes = 1000 };
	const size_t n = every(NS_PER_S, 10);

	ck_assert_uint_eq(retention_mark(&r, 500, p, n), 5);
	for (size_t i = 0; i < n; i++)
		ck_assert_int_eq(p[i].keep, i >= 5);
	ck_assert_uint_eq(retention_mark(&r, 0, p, n), 0);
}
END_TEST

START_TEST(marks_again_give_the_same)
{
	const struct retention r = { .last = 5, .hourly = 24, .daily = 7 };
	size_t n = every(7 * 60 * NS_PER_S, 1900);

	retention_mark(&r, 0, p, n);
	const size_t first = kept(n);
	size_t m = 0;
	for (size_t i = 0; i < n; i++)
		if (p[i].keep)
			p[m++] = p[i];
	ck_assert_uint_eq(m, first);
	ck_assert_uint_eq(retention_mark(&r, 0, p, m), 0);
	/* A clock set back. */
	p[m] = (struct retention_point){ .time_ns = p[m - 1].time_ns - 3 * HOUR };
	retention_mark(&r, 0, p, m + 1);
	ck_assert(p[m].keep);
}
END_TEST

START_TEST(schedules)
{
	struct err e = ERR_INIT;
	json_t *s = json_pack("{s:i, s:[{s:s, s:s, s:i}, {s:s, s:s, s:i, s:i}]}", "every_ms", 60000, "windows", "from", "08:00", "to", "18:30",
			      "bandwidth", 1000, "from", "22:00", "to", "06:00", "every_ms", 500, "bandwidth", 0);

	OK(schedule_check(s, &e), e);
	OK(schedule_check(NULL, &e), e);
	struct schedule_now n = schedule_at(s, 8 * 60, 77);
	ck_assert_int_eq(n.every_ns, 60 * NS_PER_S);
	ck_assert_uint_eq(n.bandwidth, 1000);
	ck_assert_uint_eq(schedule_at(s, 18 * 60 + 30, 77).bandwidth, 77);
	ck_assert_uint_eq(schedule_at(s, 23 * 60, 77).bandwidth, 0);
	ck_assert_int_eq(schedule_at(s, 5 * 60 + 59, 77).every_ns, 500 * NS_PER_MS);
	ck_assert_int_eq(schedule_at(s, 6 * 60, 77).every_ns, 60 * NS_PER_S);
	ck_assert_uint_eq(schedule_at(NULL, 0, 5).bandwidth, 5);
	json_decref(s);
	static const char *const bad[] = { "[]", "{\"every_ms\":5}", "{\"windows\":[{\"from\":\"24:00\",\"to\":\"01:00\"}]}",
					   "{\"windows\":[{\"from\":\"01:00\",\"to\":\"01:00\"}]}", "{\"windows\":[{\"from\":\"1:00\",\"to\":\"02:00\"}]}",
					   "{\"windows\":[{\"from\":\"01:00\",\"to\":\"02:00\",\"bandwidth\":-1}]}", "{\"windows\":{}}" };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err why = ERR_INIT;
		s = json_loads(bad[i], 0, NULL);
		ck_assert_msg(schedule_check(s, &why) == -1, "%s", bad[i]);
		ck_assert_int_eq(why.cls, ERR_CONFIG);
		json_decref(s);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/retention");
	TCase *t = tcase_create("all");

	tcase_add_test(t, the_last_stay);
	tcase_add_test(t, the_newest_always_stays);
	tcase_add_test(t, one_an_hour_and_one_a_day);
	tcase_add_test(t, hours_without_points_do_not_count);
	tcase_add_test(t, space_takes_the_oldest);
	tcase_add_test(t, marks_again_give_the_same);
	tcase_add_test(t, schedules);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
