/* Buffers and cursors: what one writes, the other reads, and nothing beyond the end. */
#include "base/buf.h"
#include "base/cursor.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t u64_cases[] = {
	0, 1, 0x7f, 0x80, 0x3fff, 0x4000, UINT32_MAX, INT64_MAX, UINT64_C(1) << 63, UINT64_MAX
};
#define U64_CASES (sizeof(u64_cases) / sizeof(u64_cases[0]))

START_TEST(bytes_are_big_endian)
{
	static const uint8_t want[] = { 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08,
					0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f };
	BUF_AUTO struct buf b = BUF_INIT;

	buf_put_u8(&b, 0x01);
	buf_put_be16(&b, 0x0203);
	buf_put_be32(&b, 0x04050607);
	buf_put_be64(&b, UINT64_C(0x08090a0b0c0d0e0f));
	ck_assert_uint_eq(b.len, sizeof(want));
	ck_assert_mem_eq(b.data, want, sizeof(want));

	struct cursor c = cursor_over(b.data, b.len);
	ck_assert_uint_eq(cursor_u8(&c), 0x01);
	ck_assert_uint_eq(cursor_be16(&c), 0x0203);
	ck_assert_uint_eq(cursor_be32(&c), 0x04050607);
	ck_assert_uint_eq(cursor_be64(&c), UINT64_C(0x08090a0b0c0d0e0f));
	ck_assert(cursor_ok(&c));
	ck_assert_uint_eq(cursor_left(&c), 0);
}
END_TEST

START_TEST(leb_golden)
{
	static const uint8_t want[] = { 0xe5, 0x8e, 0x26, /* 624485 */
					0x00,             /* 0 */
					0x01,             /* -1, zigzag */
					0x02,             /* 1, zigzag */
					0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01 };
	BUF_AUTO struct buf b = BUF_INIT;

	buf_put_uleb(&b, 624485);
	buf_put_sleb(&b, 0);
	buf_put_sleb(&b, -1);
	buf_put_sleb(&b, 1);
	buf_put_sleb(&b, INT64_MIN);
	ck_assert_uint_eq(b.len, sizeof(want));
	ck_assert_mem_eq(b.data, want, sizeof(want));
}
END_TEST

START_TEST(leb_round_trip_and_truncation)
{
	for (size_t i = 0; i < U64_CASES; i++) {
		BUF_AUTO struct buf b = BUF_INIT;
		buf_put_uleb(&b, u64_cases[i]);
		ck_assert_uint_le(b.len, 10);
		struct cursor c = cursor_over(b.data, b.len);
		ck_assert_uint_eq(cursor_uleb(&c), u64_cases[i]);
		ck_assert(cursor_ok(&c));
		ck_assert_uint_eq(cursor_left(&c), 0);
		for (size_t cut = 0; cut < b.len; cut++) {
			struct cursor s = cursor_over(b.data, cut);
			ck_assert_uint_eq(cursor_uleb(&s), 0);
			ck_assert(!cursor_ok(&s));
		}
		for (int sign = 0; sign < 2; sign++) {
			const int64_t v = (int64_t)(sign ? ~u64_cases[i] : u64_cases[i]);
			buf_reset(&b);
			buf_put_sleb(&b, v);
			c = cursor_over(b.data, b.len);
			ck_assert_int_eq(cursor_sleb(&c), v);
			ck_assert(cursor_ok(&c));
		}
	}
}
END_TEST

START_TEST(leb_has_one_form)
{
	static const struct {
		uint8_t bytes[12];
		size_t len;
	} bad[] = {
		{ { 0x80, 0x00 }, 2 },                                                  /* 0 in two bytes */
		{ { 0xff, 0x00 }, 2 },                                                  /* 127 in two */
		{ { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02 }, 10 }, /* bit 64 */
		{ { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0x00 }, 11 },
		{ { 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01 }, 11 },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct cursor c = cursor_over(bad[i].bytes, bad[i].len);
		ck_assert_uint_eq(cursor_uleb(&c), 0);
		ck_assert_msg(!cursor_ok(&c), "case %zu", i);
	}
}
END_TEST

START_TEST(errors_stick)
{
	static const uint8_t three[] = { 1, 2, 3 };
	struct cursor c = cursor_over(three, sizeof(three));

	ck_assert_uint_eq(cursor_be32(&c), 0);
	ck_assert(!cursor_ok(&c));
	ck_assert_uint_eq(cursor_left(&c), 0);
	/* There would have been a byte, had the read before it not failed. */
	ck_assert_uint_eq(cursor_u8(&c), 0);
	ck_assert_ptr_null(cursor_bytes(&c, 0));
	ck_assert(!cursor_ok(&c));

	c = cursor_over(three, sizeof(three));
	cursor_u8(&c);
	cursor_fail(&c);
	ck_assert(!cursor_ok(&c));
	ck_assert_uint_eq(cursor_be16(&c), 0);
}
END_TEST

START_TEST(pieces_point_into_the_input)
{
	static const uint8_t data[] = { 1, 2, 3, 4 };
	struct cursor c = cursor_over(data, sizeof(data));

	ck_assert_ptr_eq(cursor_bytes(&c, 0), data);
	ck_assert_ptr_eq(cursor_bytes(&c, 3), data);
	ck_assert_ptr_null(cursor_bytes(&c, SIZE_MAX));
	ck_assert(!cursor_ok(&c));
	c = cursor_over(data, sizeof(data));
	ck_assert_ptr_eq(cursor_bytes(&c, 4), data);
	ck_assert(cursor_ok(&c));
	ck_assert_ptr_null(cursor_bytes(&c, 1));
}
END_TEST

START_TEST(every_read_stops_at_the_end)
{
	/* Exactly as large as it says, so that a sanitizer sees the first byte too many. */
	for (size_t len = 0; len < 8; len++) {
		uint8_t *data = malloc(len ? len : 1);
		ck_assert_ptr_nonnull(data);
		memset(data, 0x80, len ? len : 1);
		struct cursor c = cursor_over(data, len);
		cursor_be64(&c);
		ck_assert(!cursor_ok(&c));
		c = cursor_over(data, len);
		cursor_uleb(&c);
		ck_assert(!cursor_ok(&c));
		free(data);
	}
	struct cursor nothing = cursor_over(NULL, 0);
	ck_assert(cursor_ok(&nothing));
	ck_assert_uint_eq(cursor_u8(&nothing), 0);
	ck_assert(!cursor_ok(&nothing));
}
END_TEST

START_TEST(buffers_grow_and_are_reused)
{
	BUF_AUTO struct buf b = BUF_INIT;

	buf_append(&b, NULL, 0);
	ck_assert_uint_eq(b.len, 0);
	for (unsigned i = 0; i < 100000; i++)
		buf_put_u8(&b, (uint8_t)i);
	ck_assert_uint_eq(b.len, 100000);
	for (unsigned i = 0; i < 100000; i++)
		ck_assert_uint_eq(b.data[i], (uint8_t)i);
	const uint8_t *data = b.data;
	buf_reset(&b);
	ck_assert_uint_eq(b.len, 0);
	buf_append(&b, "abc", 3);
	ck_assert_ptr_eq(b.data, data);
	uint8_t *room = buf_reserve(&b, 5);
	ck_assert_ptr_eq(room, b.data + 3);
	ck_assert_uint_eq(b.len, 3);
	ck_assert_uint_ge(b.cap, 8);
}
END_TEST

START_TEST(text_ends_with_a_nul_that_does_not_count)
{
	BUF_AUTO struct buf b = BUF_INIT;

	buf_printf(&b, "%s", "");
	ck_assert_uint_eq(b.len, 0);
	ck_assert_str_eq((char *)b.data, "");
	for (int i = 0; i < 200; i++) {
		buf_printf(&b, "%03d,", i);
		ck_assert_uint_eq(b.len, strlen((char *)b.data));
	}
	ck_assert_uint_eq(b.len, 800);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("buf");
	TCase *t = tcase_create("all");
	tcase_add_test(t, bytes_are_big_endian);
	tcase_add_test(t, leb_golden);
	tcase_add_test(t, leb_round_trip_and_truncation);
	tcase_add_test(t, leb_has_one_form);
	tcase_add_test(t, errors_stick);
	tcase_add_test(t, pieces_point_into_the_input);
	tcase_add_test(t, every_read_stops_at_the_end);
	tcase_add_test(t, buffers_grow_and_are_reused);
	tcase_add_test(t, text_ends_with_a_nul_that_does_not_count);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
