/* Durations, sizes and rates: what people write, what they get back, and what is refused. */
#include "base/units.h"

#include "base/clock.h"

#include <check.h>
#include <inttypes.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

START_TEST(durations)
{
	static const struct {
		const char *text;
		int64_t ns;
	} good[] = {
		{ "300ms", 300 * NS_PER_MS },
		{ "5s", 5 * NS_PER_S },
		{ "1.5s", 1500 * NS_PER_MS },
		{ "0.000000001s", 1 },
		{ "10m", 600 * NS_PER_S },
		{ "10min", 600 * NS_PER_S },
		{ "2h", 7200 * NS_PER_S },
		{ "1d", 86400 * NS_PER_S },
		{ "7us", 7000 },
		{ "7ns", 7 },
		{ "0", 0 },
		{ "0s", 0 },
		{ "9223372036854775807ns", INT64_MAX },
	};
	static const char *const bad[] = { "",
					   "5",
					   "s",
					   "-5s",
					   "+5s",
					   "5 s",
					   " 5s",
					   "5s ",
					   "1e3s",
					   "1.s",
					   ".5s",
					   "1..5s",
					   "5S",
					   "0x5s",
					   "1,5s",
					   "nan",
					   "5sec",
					   "1h3m",
					   "9223372036854775808ns",
					   "9999999999999d",
					   "inf",
					   "99999999999999999999999999s" };

	for (size_t i = 0; i < COUNT(good); i++) {
		struct err e = ERR_INIT;
		int64_t ns = -1;
		ck_assert_msg(units_parse_duration(good[i].text, &ns, &e) == 0, "%s: %s", good[i].text, e.text);
		ck_assert_msg(ns == good[i].ns, "%s: %" PRId64, good[i].text, ns);
	}
	for (size_t i = 0; i < COUNT(bad); i++) {
		struct err e = ERR_INIT;
		int64_t ns = -7;
		ck_assert_msg(units_parse_duration(bad[i], &ns, &e) == -1, "'%s' was taken", bad[i]);
		ck_assert_int_eq(ns, -7);
		ck_assert_int_eq(e.cls, ERR_CONFIG);
		ck_assert_ptr_nonnull(strstr(e.text, bad[i]));
		ck_assert_str_ne(e.remedy, "");
	}
}
END_TEST

START_TEST(sizes)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "4096", 4096 },
		{ "0", 0 },
		{ "512MiB", UINT64_C(512) << 20 },
		{ "64KiB", 65536 },
		{ "64Ki", 65536 },
		{ "64k", 64000 },
		{ "1.5GiB", UINT64_C(3) << 29 },
		{ "10GB", UINT64_C(10000000000) },
		{ "2TiB", UINT64_C(2) << 40 },
		{ "1B", 1 },
		{ "18446744073709551615", UINT64_MAX },
	};
	static const char *const bad[] = {
		"", "B", "-1", "1 KiB", "1KiBx", "1X", "1iB", "18446744073709551616", "16777216TiB", "1Kb", "1.GiB"
	};

	for (size_t i = 0; i < COUNT(good); i++) {
		struct err e = ERR_INIT;
		uint64_t bytes = 1;
		ck_assert_msg(units_parse_size(good[i].text, &bytes, &e) == 0, "%s: %s", good[i].text, e.text);
		ck_assert_msg(bytes == good[i].bytes, "%s: %" PRIu64, good[i].text, bytes);
	}
	for (size_t i = 0; i < COUNT(bad); i++) {
		struct err e = ERR_INIT;
		uint64_t bytes = 77;
		ck_assert_msg(units_parse_size(bad[i], &bytes, &e) == -1, "'%s' was taken", bad[i]);
		ck_assert_uint_eq(bytes, 77);
		ck_assert_int_eq(e.cls, ERR_CONFIG);
	}
}
END_TEST

START_TEST(rates)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "1G", 125000000 },
		{ "200M", 25000000 },
		{ "1Gbit/s", 125000000 },
		{ "800kbit", 100000 },
		{ "1.5Gbps", 187500000 },
		{ "50MB/s", 50000000 },
		{ "50MiB/s", 50 * 1048576 },
		{ "0", 0 },
		{ "unlimited", 0 },
		{ "8000", 1000 },
		{ "8", 1 },
		{ "1B/s", 1 },
		{ "8b/s", 1 },
	};
	/* "1" would be zero bytes per second, which means unlimited: the opposite of what was asked. */
	static const char *const bad[] = { "",      "fast", "-1G",    "1G/s",   "1GBit",
					   "1Gb/h", "1",    "7bit/s", "0.5B/s", "99999999999999T" };

	for (size_t i = 0; i < COUNT(good); i++) {
		struct err e = ERR_INIT;
		uint64_t bytes = 1;
		ck_assert_msg(units_parse_rate(good[i].text, &bytes, &e) == 0, "%s: %s", good[i].text, e.text);
		ck_assert_msg(bytes == good[i].bytes, "%s: %" PRIu64, good[i].text, bytes);
	}
	for (size_t i = 0; i < COUNT(bad); i++) {
		struct err e = ERR_INIT;
		uint64_t bytes = 77;
		ck_assert_msg(units_parse_rate(bad[i], &bytes, &e) == -1, "'%s' was taken", bad[i]);
		ck_assert_uint_eq(bytes, 77);
		ck_assert_int_eq(e.cls, ERR_CONFIG);
	}
}
END_TEST

START_TEST(durations_for_people)
{
	static const struct {
		int64_t ns;
		const char *text;
	} cases[] = {
		{ 0, "0 s" },
		{ 120000, "120 us" },
		{ 999600, "1 ms" },
		{ 340 * NS_PER_MS, "340 ms" },
		{ 999 * NS_PER_MS, "999 ms" },
		{ 999600000, "1.0 s" },
		{ 1234 * NS_PER_MS, "1.2 s" },
		{ 59940 * NS_PER_MS, "59.9 s" },
		{ 59960 * NS_PER_MS, "1 min 00 s" },
		{ 65 * NS_PER_S, "1 min 05 s" },
		{ 3599 * NS_PER_S, "59 min 59 s" },
		{ 3600 * NS_PER_S, "1 h 00 min" },
		{ 7500 * NS_PER_S, "2 h 05 min" },
		{ (24 * 3600 - 1) * NS_PER_S, "1 d 00 h" },
		{ 50 * 3600 * NS_PER_S, "2 d 02 h" },
		{ -340 * NS_PER_MS, "-340 ms" },
		{ INT64_MIN, "-106752 d 00 h" },
	};
	char buf[64];

	for (size_t i = 0; i < COUNT(cases); i++)
		ck_assert_str_eq(units_format_duration(cases[i].ns, buf, sizeof(buf)), cases[i].text);
}
END_TEST

START_TEST(sizes_and_rates_for_people)
{
	static const struct {
		uint64_t bytes;
		const char *size;
		const char *rate;
	} cases[] = {
		{ 0, "0 B", "0 bit/s" },
		{ 1, "1 B", "8 bit/s" },
		{ 1023, "1023 B", "8.2 kbit/s" },
		{ 1024, "1.0 KiB", "8.2 kbit/s" },
		{ 1048575, "1.0 MiB", "8.4 Mbit/s" },
		{ 118500000, "113 MiB", "948 Mbit/s" },
		{ 125000000, "119 MiB", "1.0 Gbit/s" },
		{ 124990000, "119 MiB", "1.0 Gbit/s" },
		{ UINT64_C(3) << 29, "1.5 GiB", "12.9 Gbit/s" },
		{ UINT64_MAX, "16384 PiB", "18446744 Tbit/s" },
	};
	char buf[64];

	for (size_t i = 0; i < COUNT(cases); i++) {
		ck_assert_str_eq(units_format_size(cases[i].bytes, buf, sizeof(buf)), cases[i].size);
		ck_assert_str_eq(units_format_rate(cases[i].bytes, buf, sizeof(buf)), cases[i].rate);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("units");
	TCase *t = tcase_create("all");
	tcase_add_test(t, durations);
	tcase_add_test(t, sizes);
	tcase_add_test(t, rates);
	tcase_add_test(t, durations_for_people);
	tcase_add_test(t, sizes_and_rates_for_people);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
