/* What is drawn: bars of the last minute, points on an axis of time. */
#include "tools/vmferry/spark.h"
#include "tools/vmferry/timeline.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

static const char *spark(const struct spark *s, unsigned width, bool colour)
{
	static char text[SPARK_SAMPLES * 16 + 1];
	const struct spark_style style = { .width = width, .target = 1000, .colour = colour };
	return spark_draw(s, &style, text, sizeof(text));
}

START_TEST(an_empty_spark)
{
	struct spark s = { 0 };
	ck_assert_str_eq(spark(&s, 10, true), "          ");
	ck_assert(spark_max(&s) < 0 && spark_min(&s) < 0);
}
END_TEST

START_TEST(a_spark_fills_from_the_right)
{
	struct spark s = { 0 };
	spark_add(&s, 0);
	spark_add(&s, 999);
	ck_assert_str_eq(spark(&s, 60, false) + 57, " _=");
	spark_add(&s, 1000);
	spark_add(&s, -5);
	spark_add(&s, 1e9);
	ck_assert_str_eq(spark(&s, 60, false) + 54, " _=+.#");
	ck_assert_double_eq(spark_max(&s), 1e9);
	ck_assert_double_eq(spark_min(&s), 0);
}
END_TEST

START_TEST(a_column_shows_its_worst)
{
	struct spark s = { 0 };
	for (int i = 0; i < 200; i++)
		spark_add(&s, i == 150 ? 2500
				       : 100); /* 49 samples ago: the sixth of twelve columns from the right, and so on */
	ck_assert_str_eq(spark(&s, 12, false), "__#_________");
	ck_assert_str_eq(spark(&s, 12, true), "__\033[31m#\033[0m_________");
}
END_TEST

START_TEST(widths_and_room)
{
	struct spark s = { 0 };
	char small[40];
	for (int i = 0; i < 60; i++)
		spark_add(&s, 1e6);
	const struct spark_style style = { .width = 1000, .target = 1000, .colour = true, .utf8 = true };
	ck_assert_uint_lt(strlen(spark_draw(&s, &style, small, sizeof(small))), sizeof(small));
	ck_assert_uint_eq(strlen(spark(&s, 1000, false)), SPARK_SAMPLES);
	ck_assert_str_eq(spark(&s, 0, false), "");
}
END_TEST

static const char *timeline(const struct timeline_point *points, size_t n, unsigned width)
{
	static char text[2000];
	BUF_AUTO struct buf out = BUF_INIT;
	timeline_draw(points, n, width, false, &out);
	snprintf(text, sizeof(text), "%s", out.len ? (const char *)out.data : "");
	return text;
}

START_TEST(points_on_an_axis)
{
	const struct timeline_point points[] = {
		{ 86400000, false }, { 3600000, true }, { 60000, true }, { 2000, true }, { 0, true },
	};
	ck_assert_str_eq(timeline(points, 5, 60), "o------|--------*---------|-----------*--------|-----*-|---*\n"
						  "1 d   6 h      1 h     10 min       1 min    10 s        now\n");
}
END_TEST

START_TEST(an_axis_of_seconds)
{
	const struct timeline_point now = { 0, true }, disk = { -500, false };
	const char *text = timeline(&now, 1, 30);
	ck_assert_ptr_nonnull(strstr(text, "*\n"));
	ck_assert_ptr_nonnull(strstr(text, "10 s"));
	ck_assert_ptr_nonnull(strstr(text, "now\n"));
	ck_assert_ptr_nonnull(strstr(timeline(&disk, 1, 30), "o\n"));
	/* One with memory is shown before one without, at the same place. */
	const struct timeline_point both[] = { { 0, true }, { 0, false } };
	ck_assert_ptr_nonnull(strstr(timeline(both, 2, 30), "*\n"));
}
END_TEST

START_TEST(nothing_to_draw)
{
	const struct timeline_point p = { 0, true };
	ck_assert_str_eq(timeline(&p, 0, 80), "");
	ck_assert_str_eq(timeline(&p, 1, 29), "");
}
END_TEST

START_TEST(every_width_holds)
{
	struct timeline_point points[100];
	for (int i = 0; i < 100; i++)
		points[i] = (struct timeline_point){ (int64_t)i * i * i * 1000, i % 3 };
	for (unsigned width = 30; width < 300; width++) {
		const char *text = timeline(points, 100, width);
		size_t first = strcspn(text, "\n"), second = strcspn(text + first + 1, "\n");
		ck_assert_uint_eq(first, width < TIMELINE_MAX_WIDTH ? width : TIMELINE_MAX_WIDTH);
		ck_assert_uint_le(second, first);
		ck_assert_int_eq(text[first - 1] == '*' || text[first - 1] == 'o', 1);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cli_drawing");
	TCase *t = tcase_create("all");
	tcase_add_test(t, an_empty_spark);
	tcase_add_test(t, a_spark_fills_from_the_right);
	tcase_add_test(t, a_column_shows_its_worst);
	tcase_add_test(t, widths_and_room);
	tcase_add_test(t, points_on_an_axis);
	tcase_add_test(t, an_axis_of_seconds);
	tcase_add_test(t, nothing_to_draw);
	tcase_add_test(t, every_width_holds);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
