#include "base/clock.h"
#include "migrator/forecast.h"

#include <check.h>
#include <string.h>

#define MB 1000000u

START_TEST(idle_guest)
{
	struct forecast f;
	/* 250 MB over 100 MB/s uncompressed: 2.5 s, and next to nothing in the last pass. */
	struct forecast_in in = {
		.ram_bytes = 250 * MB, .dirty_known = true, .link_bytes_s = 100 * MB, .ram_ratio = 1, .delta_ratio = 1
	};
	forecast_compute(&in, &f);
	ck_assert(f.known && f.converges);
	ck_assert_uint_eq(f.passes, 2);
	ck_assert_int_eq(f.total_ns, 2500 * NS_PER_MS + FORECAST_SWITCH_NS + FORECAST_SETUP_NS);
	ck_assert_int_eq(f.downtime_ns, FORECAST_SWITCH_NS);
	ck_assert_uint_eq(f.wire_bytes, 250 * MB);
	ck_assert_ptr_nonnull(strstr(f.text, "about 3.1 s in all"));
	ck_assert_ptr_nonnull(strstr(f.text, "40 ms"));
}
END_TEST

START_TEST(passes_shrink)
{
	struct forecast f;
	/* Half the link: 10 s, 5 s, 2.5, 1.25, 0.625, 0.3125, then 0.156 <= 0.2 with the guest stopped. */
	struct forecast_in in = { .ram_bytes = 1000 * MB,
				  .dirty_bytes_s = 50 * MB,
				  .dirty_known = true,
				  .link_bytes_s = 100 * MB,
				  .ram_ratio = 1,
				  .delta_ratio = 1,
				  .max_downtime_ns = 200 * NS_PER_MS };
	forecast_compute(&in, &f);
	ck_assert(f.converges);
	ck_assert_uint_eq(f.passes, 7);
	ck_assert_int_eq(f.downtime_ns / NS_PER_MS, 156 + 40);
	ck_assert_int_eq((f.total_ns - FORECAST_SWITCH_NS - FORECAST_SETUP_NS) / NS_PER_MS, 19843);
}
END_TEST

START_TEST(does_not_converge)
{
	struct forecast f;
	struct forecast_in in = { .ram_bytes = 1000 * MB,
				  .dirty_bytes_s = 80 * MB,
				  .dirty_known = true,
				  .link_bytes_s = 25 * MB,
				  .ram_ratio = 1,
				  .delta_ratio = 1 };
	forecast_compute(&in, &f);
	ck_assert(f.known && !f.converges);
	ck_assert_ptr_nonnull(strstr(f.text, "will probably not converge within 300 ms"));
	ck_assert_ptr_nonnull(strstr(f.text, "200 Mbit/s"));
	ck_assert_int_gt(f.downtime_ns, 30 * NS_PER_S);

	/* The same with what the codec makes of pages sent again. */
	in.delta_ratio = 30;
	in.ram_ratio = 2.5;
	forecast_compute(&in, &f);
	ck_assert(f.converges);
	ck_assert_int_lt(f.total_ns, 30 * NS_PER_S);
}
END_TEST

START_TEST(compression_is_bounded_by_the_codec)
{
	struct forecast f;
	/* A fast link: the codec does 400 MB/s, raw goes at 1 GB/s; never slower than raw. */
	struct forecast_in in = { .ram_bytes = 1000 * MB, .link_bytes_s = 1000 * MB };
	forecast_compute(&in, &f);
	ck_assert_int_eq((f.total_ns - FORECAST_SWITCH_NS - FORECAST_SETUP_NS) / NS_PER_MS, 1000);
	in.link_bytes_s = 300 * MB; /* 750 by compression, 400 by the codec */
	forecast_compute(&in, &f);
	ck_assert_int_eq((f.total_ns - FORECAST_SWITCH_NS - FORECAST_SETUP_NS) / NS_PER_MS, 2500);
	ck_assert_ptr_nonnull(strstr(f.text, "dirty rate not measured"));
}
END_TEST

START_TEST(disks)
{
	struct forecast f;
	struct forecast_in in = {
		.ram_bytes = 100 * MB, .disk_bytes = 1000 * MB, .link_bytes_s = 100 * MB, .disk_ratio = 2, .ram_ratio = 1
	};
	forecast_compute(&in, &f);
	ck_assert_int_eq(f.disk_ns, 5 * NS_PER_S);
	ck_assert_int_gt(f.total_ns, 6 * NS_PER_S);
	ck_assert_uint_eq(f.wire_bytes, 600 * MB);
}
END_TEST

START_TEST(unknown_link)
{
	struct forecast f;
	struct forecast_in in = { .ram_bytes = 100 * MB };
	forecast_compute(&in, &f);
	ck_assert(!f.known);
	ck_assert_ptr_nonnull(strstr(f.text, "not known"));
	json_t *j = forecast_json(&in, &f);
	ck_assert_ptr_nonnull(j);
	ck_assert(json_is_null(json_object_get(j, "total_ms")));
	ck_assert(json_is_null(json_object_get(j, "dirty_bytes_s")));
	ck_assert(json_is_false(json_object_get(j, "known")));
	json_decref(j);

	in.link_bytes_s = 100 * MB;
	in.dirty_known = true;
	forecast_compute(&in, &f);
	j = forecast_json(&in, &f);
	ck_assert_int_gt(json_integer_value(json_object_get(j, "total_ms")), 500);
	ck_assert(json_is_integer(json_object_get(j, "dirty_bytes_s")));
	json_decref(j);
}
END_TEST

START_TEST(always_ends)
{
	/* Whatever the figures, it ends, and nothing is negative. */
	static const uint64_t figures[] = { 0, 1, 4096, 1000 * MB, UINT64_C(1) << 45, UINT64_MAX / 4096 };
	size_t n = sizeof(figures) / sizeof(figures[0]);
	for (size_t a = 0; a < n; a++)
		for (size_t b = 0; b < n; b++)
			for (size_t c = 0; c < n; c++) {
				struct forecast f;
				struct forecast_in in = { .ram_bytes = figures[a],
							  .dirty_bytes_s = figures[b],
							  .link_bytes_s = figures[c],
							  .disk_bytes = figures[a] };
				forecast_compute(&in, &f);
				ck_assert_uint_le(f.passes, 42);
				ck_assert_int_ge(f.total_ns, 0);
				ck_assert_int_ge(f.downtime_ns, 0);
			}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("forecast");
	TCase *tc = tcase_create("forecast");
	tcase_add_test(tc, idle_guest);
	tcase_add_test(tc, passes_shrink);
	tcase_add_test(tc, does_not_converge);
	tcase_add_test(tc, compression_is_bounded_by_the_codec);
	tcase_add_test(tc, disks);
	tcase_add_test(tc, unknown_link);
	tcase_add_test(tc, always_ends);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
