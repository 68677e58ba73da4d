#include "transport/frame.h"

#include "tests/unit/transport_fixture.h"

static const struct {
	struct frame_header h;
	uint8_t bytes[FRAME_HEADER_SIZE];
} good[] = {
	{ { .length = 0, .type = FRAME_PING, .seq = 0 }, { 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 } },
	{ { .length = 0x010203, .type = FRAME_MSG, .seq = 0x0102030405060708 },
	  { 0, 1, 2, 3, 0, 2, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8 } },
	{ { .length = 12, .type = FRAME_ACK, .seq = UINT64_MAX },
	  { 0, 0, 0, 12, 0, 6, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255 } },
	{ { .length = 65536, .type = 0x9abc, .seq = 1 }, { 0, 1, 0, 0, 0x9a, 0xbc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 } },
};

START_TEST(there_and_back)
{
	uint8_t bytes[FRAME_HEADER_SIZE];
	struct frame_header h;
	struct err e = ERR_INIT;

	frame_encode_header(&good[_i].h, bytes);
	ck_assert_mem_eq(bytes, good[_i].bytes, sizeof(bytes));
	OK(frame_decode_header(bytes, &h, &e), e);
	ck_assert_uint_eq(h.length, good[_i].h.length);
	ck_assert_uint_eq(h.type, good[_i].h.type);
	ck_assert_uint_eq(h.seq, good[_i].h.seq);
}
END_TEST

/* Each bit means something: the header that comes out is refused or another one. */
START_TEST(every_bit_counts)
{
	for (size_t bit = 0; bit < FRAME_HEADER_SIZE * 8; bit++) {
		uint8_t bytes[FRAME_HEADER_SIZE];
		uint8_t again[FRAME_HEADER_SIZE];
		struct frame_header h;
		struct err e = ERR_INIT;

		memcpy(bytes, good[_i].bytes, sizeof(bytes));
		bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		if (frame_decode_header(bytes, &h, &e) < 0) {
			ck_assert_int_eq(e.cls, ERR_PROTOCOL);
			ck_assert_int_ne(e.text[0], '\0');
			continue;
		}
		frame_encode_header(&h, again);
		ck_assert_mem_eq(again, bytes, sizeof(bytes));
	}
}
END_TEST

START_TEST(limits)
{
	static const uint16_t types[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x8000, 0xffff };

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		const size_t max = frame_max_payload(types[i]);
		struct frame_header h = { .length = (uint32_t)max, .type = types[i] };
		uint8_t bytes[FRAME_HEADER_SIZE];
		struct err e = ERR_INIT;

		frame_encode_header(&h, bytes);
		OK(frame_decode_header(bytes, &h, &e), e);
		h.length = (uint32_t)max + 1;
		frame_encode_header(&h, bytes);
		ck_assert_int_eq(frame_decode_header(bytes, &h, &e), -1);
		ck_assert_int_eq(e.cls, ERR_PROTOCOL);
		HAS(e.text, "bytes of payload");
	}
	ck_assert_uint_eq(frame_max_payload(FRAME_HELLO), 65536);
	ck_assert_uint_eq(frame_max_payload(FRAME_MSG), 4194304);
	ck_assert_uint_ge(frame_max_payload(FRAME_BATCH), FRAME_BATCH_HEAD + CODEC_MAX_ENCODED);
}
END_TEST

START_TEST(unknown_types)
{
	static const uint16_t types[] = { 0, 10, 11, 0x7fff };

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		struct frame_header h = { .type = types[i] };
		uint8_t bytes[FRAME_HEADER_SIZE];
		struct err e = ERR_INIT;

		ck_assert_uint_eq(frame_max_payload(types[i]), 0);
		frame_encode_header(&h, bytes);
		ck_assert_int_eq(frame_decode_header(bytes, &h, &e), -1);
		ck_assert_int_eq(e.cls, ERR_PROTOCOL);
		HAS(e.text, "unknown type");
		HAS(e.remedy, "same version");
	}
}
END_TEST

START_TEST(reserved_field)
{
	uint8_t bytes[FRAME_HEADER_SIZE] = { 0, 0, 0, 0, 0, 3, 0, 1 };
	struct frame_header h;
	struct err e = ERR_INIT;

	ck_assert_int_eq(frame_decode_header(bytes, &h, &e), -1);
	HAS(e.text, "reserved field");
	HAS(e.text, "0x0001");
}
END_TEST

START_TEST(end_of_every_length)
{
	const struct frame_end end = { .frames = 3, .bytes = 0x0102030405060708, .hash = UINT64_MAX };
	uint8_t bytes[FRAME_END_SIZE + 1] = { 0 };

	frame_encode_end(&end, bytes);
	for (size_t len = 0; len <= sizeof(bytes); len++) {
		struct frame_end got = { .frames = 99 };
		struct err e = ERR_INIT;
		const int rc = frame_decode_end(bytes, len, &got, &e);

		ck_assert_int_eq(rc, len == FRAME_END_SIZE ? 0 : -1);
		if (rc < 0) {
			ck_assert_int_eq(e.cls, ERR_PROTOCOL);
			ck_assert_uint_eq(got.frames, 99);
			continue;
		}
		ck_assert_uint_eq(got.frames, end.frames);
		ck_assert_uint_eq(got.bytes, end.bytes);
		ck_assert_uint_eq(got.hash, end.hash);
	}
}
END_TEST

START_TEST(names)
{
	char buf[16];

	ck_assert_str_eq(frame_type_name(FRAME_END_ACK, buf, sizeof(buf)), "END_ACK");
	ck_assert_str_eq(frame_type_name(0x8001, buf, sizeof(buf)), "type 32769");
	ck_assert_str_eq(frame_type_name(0, buf, sizeof(buf)), "type 0");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("transport frame");
	TCase *t = tcase_create("frame");
	const int n = (int)(sizeof(good) / sizeof(good[0]));

	tcase_add_loop_test(t, there_and_back, 0, n);
	tcase_add_loop_test(t, every_bit_counts, 0, n);
	tcase_add_test(t, limits);
	tcase_add_test(t, unknown_types);
	tcase_add_test(t, reserved_field);
	tcase_add_test(t, end_of_every_length);
	tcase_add_test(t, names);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
