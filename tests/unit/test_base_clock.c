/* Times, as numbers and as labels. */
#include "base/clock.h"

#include <check.h>
#include <limits.h>
#include <stdlib.h>

START_TEST(the_monotonic_clock_goes_on)
{
	const int64_t a = clock_mono_ns();
	const int64_t b = clock_mono_ns();

	ck_assert_int_gt(a, 0);
	ck_assert_int_ge(b, a);
}
END_TEST

START_TEST(cpu_time_is_of_this_thread)
{
	const int64_t start = clock_thread_cpu_ns();
	const int64_t deadline = clock_mono_ns() + 5 * NS_PER_S;
	volatile unsigned spin = 0;

	while (clock_thread_cpu_ns() - start < NS_PER_MS && clock_mono_ns() < deadline)
		spin++;
	ck_assert_int_ge(clock_thread_cpu_ns() - start, NS_PER_MS);
}
END_TEST

START_TEST(poll_timeouts_are_rounded_up)
{
	ck_assert_int_eq(clock_poll_ms(INT64_MAX), -1);
	ck_assert_int_eq(clock_poll_ms(0), 0);
	ck_assert_int_eq(clock_poll_ms(clock_mono_ns()), 0);
	ck_assert_int_eq(clock_poll_ms(INT64_MIN), 0);
	ck_assert_int_eq(clock_poll_ms(INT64_MAX - 1), INT_MAX);
	/* Never 0 before the deadline: that would spin. */
	const int64_t deadline = clock_mono_ns() + 500000;
	const int ms = clock_poll_ms(deadline);
	if (clock_mono_ns() < deadline)
		ck_assert_int_eq(ms, 1);
	const int hour = clock_poll_ms(clock_mono_ns() + 3600 * NS_PER_S);
	ck_assert_int_gt(hour, 3590000);
	ck_assert_int_le(hour, 3600000);
}
END_TEST

START_TEST(wall_times_are_utc_labels)
{
	static const struct {
		int64_t ns;
		const char *text;
	} cases[] = {
		{ 0, "1970-01-01T00:00:00.000Z" },
		{ 1, "1970-01-01T00:00:00.000Z" },
		{ -1, "1969-12-31T23:59:59.999Z" },
		{ INT64_C(1767323045678999999), "2026-01-02T03:04:05.678Z" },
		{ INT64_C(1709164800000000000), "2024-02-29T00:00:00.000Z" },
	};
	char buf[25];

	setenv("TZ", "America/New_York", 1);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ck_assert_ptr_eq(clock_format_wall(cases[i].ns, buf, sizeof(buf)), buf);
		ck_assert_str_eq(buf, cases[i].text);
	}
	ck_assert_int_gt(clock_wall_ns(), INT64_C(1700000000000000000));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("clock");
	TCase *t = tcase_create("all");
	tcase_add_test(t, the_monotonic_clock_goes_on);
	tcase_add_test(t, cpu_time_is_of_this_thread);
	tcase_add_test(t, poll_timeouts_are_rounded_up);
	tcase_add_test(t, wall_times_are_utc_labels);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
