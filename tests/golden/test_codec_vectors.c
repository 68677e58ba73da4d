/*
 * Batches as they are on the wire, byte for byte; PROTOCOL.md section "Batches" explains them. Pages are written
 * as @N: 4096 bytes, of which byte i is (i * 7 + N) & 255. =N is that page as second_pass changes it.
 */
#include "hexdoc.h"

#include "transport/codec.h"
#include "transport/page_cache.h"

#include <check.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t *pattern(unsigned n)
{
	static uint8_t page[CODEC_PAGE_SIZE];
	for (unsigned i = 0; i < sizeof(page); i++)
		page[i] = (uint8_t)(i * 7 + n);
	return page;
}

static const uint8_t *changed(unsigned n)
{
	static uint8_t page[CODEC_PAGE_SIZE];
	memcpy(page, pattern(n), sizeof(page));
	memcpy(page + 8, "\xa1\xa2", 2);
	page[4095] ^= 0xff;
	return page;
}

/* "00 01 @5 ff" */
static void from_text(const char *text, struct buf *out)
{
	buf_reset(out);
	while (*text) {
		if (isspace((unsigned char)*text)) {
			text++;
		} else if (*text == '@' || *text == '=') {
			char *end;
			unsigned n = (unsigned)strtoul(text + 1, &end, 10);
			buf_append(out, *text == '@' ? pattern(n) : changed(n), CODEC_PAGE_SIZE);
			text = end;
		} else {
			const char pair[3] = { text[0], text[1], 0 };
			buf_put_u8(out, (uint8_t)strtoul(pair, NULL, 16));
			text += 2;
		}
	}
}

struct vector {
	const char *what;
	void (*build)(struct batch *b, struct page_cache *c);
	const char *wire;
	const char *raw;
};

static void nothing(struct batch *b, struct page_cache *c)
{
	(void)b;
	(void)c;
}

static void literal(struct batch *b, struct page_cache *c)
{
	(void)c;
	batch_literal(b, "QEVM", 4);
}

static void zeros(struct batch *b, struct page_cache *c)
{
	batch_zero(b, 2, 0x2000, c);
	batch_zero(b, 3, 0x3000, c);
	batch_zero(b, 4, 0x4000, c);
	batch_zero(b, 1, 0x1000, c);
}

/* Two pages in a row are kept in slots 0 and 1; the next, after a gap and bare, in slot 2; the last equals slot 1. */
static void first_pass(struct batch *b, struct page_cache *c)
{
	batch_page(b, 16, 0x10000, true, pattern(1), c);
	batch_page(b, 17, 0x11000, true, pattern(2), c);
	batch_literal(b, "hd", 2);
	batch_page(b, 32, 0x20000, false, pattern(3), c);
	batch_page(b, 33, 0x21000, true, pattern(2), c);
}

/* Page 17 comes again as it was, page 32 with two changes, page 33 with one (it was never kept: plain), page 16 is
 * now like page 17. */
static void second_pass(struct batch *b, struct page_cache *c)
{
	batch_page(b, 17, 0x11000, true, pattern(2), c);
	batch_page(b, 32, 0x20000, true, changed(3), c);
	batch_page(b, 33, 0x21000, true, pattern(9), c);
	batch_page(b, 16, 0x10000, true, pattern(2), c);
}

static const struct vector vectors[] = {
	{ "nothing", nothing,
	  "01000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 2d06800538d394c2", "" },
	{ "literal", literal,
	  "01000000 00000004 00000002 00000002 00000004 00000004 00000000 00000000 141c7474fd27e570"
	  "0003 5145564d",
	  "5145564d" },
	{ "zeros", zeros,
	  "01000000 00000024 00000005 00000005 00000000 00000000 00000000 00000000 14b8a4837aacba83"
	  "a10402 2107",
	  "0000000000002022 00 0000000000003022 00 0000000000004022 00 0000000000001022 00" },
	{ "first pass", first_pass,
	  "01000000 0000401a 00000009 00000009 00003002 00003002 00000000 00000000 ac5c4ae2c94b6571"
	  "aa2001 0001 3a1c 4403 @1 @2 6864 @3",
	  "0000000000010028 @1 0000000000011028 @2 6864 @3 0000000000021028 @2" },
	{ "second pass", second_pass,
	  "01000000 00004020 00000012 00000012 00001000 00001000 00000003 00000003 f890102bc0e6f2c4"
	  "64221f 631c1b 01 0801 f51f00 4a06 6c231e07 @9 a1a2 03",
	  "0000000000011028 @2 0000000000020028 =3 0000000000021028 @9 0000000000010028 @2" },
};
#define N (sizeof(vectors) / sizeof(vectors[0]))

START_TEST(vectors_hold)
{
	struct err e = ERR_INIT;
	struct page_cache *cache = page_cache_new(8, &e);
	struct page_slots *slots = page_slots_new(8, &e);
	struct codec *codec = codec_new();
	struct batch *batch = batch_new();
	struct decoded *decoded = decoded_new();
	struct buf wire = BUF_INIT, expect = BUF_INIT, out = BUF_INIT;
	const struct codec_params params = { CODEC_RAW, CODEC_RAW };
	for (size_t i = 0; i < N; i++) {
		batch_reset(batch);
		vectors[i].build(batch, cache);
		buf_reset(&wire);
		codec_encode(codec, batch, &params, &wire, NULL);
		from_text(vectors[i].wire, &expect);
		ck_assert_msg(wire.len == expect.len && memcmp(wire.data, expect.data, wire.len) == 0,
			      "%s: encoded otherwise", vectors[i].what);
		ck_assert_msg(codec_decode(codec, expect.data, expect.len, decoded, &e) == 0, "%s: %s", vectors[i].what,
			      e.text);
		ck_assert_msg(decoded_emit(decoded, slots, &out, &e) == 0, "%s: %s", vectors[i].what, e.text);
		from_text(vectors[i].raw, &expect);
		ck_assert_msg(out.len == expect.len && (!out.len || memcmp(out.data, expect.data, out.len) == 0),
			      "%s: decoded otherwise", vectors[i].what);
	}
	buf_fini(&wire);
	buf_fini(&expect);
	buf_fini(&out);
	page_cache_free(cache);
	page_slots_free(slots);
	codec_free(codec);
	batch_free(batch);
	decoded_free(decoded);
}
END_TEST

/* PROTOCOL.md shows these batches, or their operations. */
START_TEST(document_agrees)
{
	static const struct {
		const char *block;
		unsigned vector;
		size_t at; /* in the batch */
	} shown[] = {
		{ "batch-literal", 1, 0 },
		{ "batch-zeros", 2, 0 },
		{ "batch-first-pass-ops", 3, 40 },
		{ "batch-second-pass-ops", 4, 40 },
	};
	char *doc = hexdoc_load(TESTS_DIR "/../transport/PROTOCOL.md");
	BUF_AUTO struct buf wire = BUF_INIT;
	BUF_AUTO struct buf block = BUF_INIT;
	for (size_t i = 0; i < sizeof(shown) / sizeof(shown[0]); i++) {
		from_text(vectors[shown[i].vector].wire, &wire);
		buf_reset(&block);
		hexdoc_block(doc, shown[i].block, &block);
		ck_assert_uint_le(shown[i].at + block.len, wire.len);
		ck_assert_msg(memcmp(wire.data + shown[i].at, block.data, block.len) == 0, "%s", shown[i].block);
		if (shown[i].at == 0)
			ck_assert_uint_eq(block.len, wire.len);
		else
			ck_assert_uint_eq(block.len, (size_t)(wire.data[10] << 8 | wire.data[11]));
	}
	free(doc);
}
END_TEST

/* As zstd 1.5.4 packed it at level 1. Later versions may pack it otherwise, and must unpack this. */
START_TEST(packed_by_zstd)
{
	struct err e = ERR_INIT;
	struct codec *codec = codec_new();
	struct decoded *decoded = decoded_new();
	char *doc = hexdoc_load(TESTS_DIR "/../transport/PROTOCOL.md");
	struct buf wire = BUF_INIT, expect = BUF_INIT, out = BUF_INIT;
	hexdoc_block(doc, "batch-packed", &wire);
	free(doc);
	ck_assert_msg(codec_decode(codec, wire.data, wire.len, decoded, &e) == 0, "%s", e.text);
	ck_assert_msg(decoded_emit(decoded, NULL, &out, &e) == 0, "%s", e.text);
	for (unsigned i = 0; i < 20; i++)
		buf_append(&expect, "QEMU and libvirt. ", 18);
	ck_assert_uint_eq(out.len, expect.len);
	ck_assert_mem_eq(out.data, expect.data, out.len);
	buf_fini(&wire);
	buf_fini(&expect);
	buf_fini(&out);
	codec_free(codec);
	decoded_free(decoded);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("codec vectors");
	TCase *tc = tcase_create("all");
	tcase_add_test(tc, vectors_hold);
	tcase_add_test(tc, document_agrees);
	tcase_add_test(tc, packed_by_zstd);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
