#include "transport/codec.h"
#include "transport/page_cache.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Both ends of a stream of batches, and the bytes that must come out. */
struct ends {
	struct page_cache *cache;
	struct page_slots *slots;
	struct codec *codec;
	struct batch *batch;
	struct decoded *decoded;
	struct codec_params params;
	struct codec_stats stats; /* of the last batch */
	struct buf expect;
	struct buf wire;
	struct buf out;
};

static struct ends ends_open(uint32_t slots, int level)
{
	struct err e = ERR_INIT;
	struct ends s = { .params = { level, level } };
	s.cache = page_cache_new(slots, &e);
	s.slots = page_slots_new(slots, &e);
	ck_assert(s.cache && s.slots);
	s.codec = codec_new();
	s.batch = batch_new();
	s.decoded = decoded_new();
	return s;
}

static void ends_close(struct ends *s)
{
	page_cache_free(s->cache);
	page_slots_free(s->slots);
	codec_free(s->codec);
	batch_free(s->batch);
	decoded_free(s->decoded);
	buf_fini(&s->expect);
	buf_fini(&s->wire);
	buf_fini(&s->out);
}

static void literal(struct ends *s, const void *p, size_t n)
{
	batch_literal(s->batch, p, n);
	buf_append(&s->expect, p, n);
}

static void zero(struct ends *s, uint64_t no)
{
	batch_zero(s->batch, no, no << 12, s->cache);
	buf_put_be64(&s->expect, no << 12 | 0x22);
	buf_put_u8(&s->expect, 0);
}

static void page(struct ends *s, uint64_t no, const uint8_t *data)
{
	batch_page(s->batch, no, no << 12, true, data, s->cache);
	buf_put_be64(&s->expect, no << 12 | 0x28);
	buf_append(&s->expect, data, CODEC_PAGE_SIZE);
}

static void bare_page(struct ends *s, uint64_t no, const uint8_t *data)
{
	literal(s, "header", 6);
	batch_page(s->batch, no, no << 12, false, data, s->cache);
	buf_append(&s->expect, data, CODEC_PAGE_SIZE);
}

static void encode(struct ends *s)
{
	ck_assert_uint_eq(batch_raw_bytes(s->batch), s->expect.len);
	s->stats = (struct codec_stats){ 0 };
	buf_reset(&s->wire);
	codec_encode(s->codec, s->batch, &s->params, &s->wire, &s->stats);
	ck_assert_uint_le(s->wire.len, CODEC_MAX_ENCODED);
	ck_assert_uint_eq(s->stats.raw_bytes, s->expect.len);
	ck_assert_uint_eq(s->stats.encoded_bytes, s->wire.len);
}

/* Encodes, decodes, compares; the batch is empty again. */
static void through(struct ends *s)
{
	struct err e = ERR_INIT;
	encode(s);
	ck_assert_msg(codec_decode(s->codec, s->wire.data, s->wire.len, s->decoded, &e) == 0, "%s", e.text);
	ck_assert_msg(decoded_emit(s->decoded, s->slots, &s->out, &e) == 0, "%s", e.text);
	ck_assert_uint_eq(s->out.len, s->expect.len);
	if (s->out.len)
		ck_assert_mem_eq(s->out.data, s->expect.data, s->out.len);
	batch_reset(s->batch);
	buf_reset(&s->expect);
}

static uint8_t scratch[CODEC_PAGE_SIZE];

static uint8_t *text_page(unsigned n)
{
	for (size_t i = 0; i < sizeof(scratch);)
		i += (size_t)snprintf((char *)scratch + i, sizeof(scratch) - i, "{\"id\":%u,\"n\":%zu},", n, i * n);
	return scratch;
}

static uint8_t *random_page(void)
{
	for (size_t i = 0; i < sizeof(scratch); i++)
		scratch[i] = (uint8_t)random();
	return scratch;
}

static const int levels[] = { CODEC_RAW, -5, -1, 1, 3, 9 };
#define N_LEVELS ((int)(sizeof(levels) / sizeof(levels[0])))

START_TEST(empty_batch)
{
	struct ends s = ends_open(0, 1);
	through(&s);
	ck_assert_uint_eq(s.wire.len, 40);
	ends_close(&s);
}
END_TEST

START_TEST(literals)
{
	struct ends s = ends_open(0, levels[_i]);
	char text[5000];
	memset(text, 'x', sizeof(text));
	literal(&s, "a", 1);
	literal(&s, "", 0);
	literal(&s, text, sizeof(text));
	through(&s);
	ck_assert_uint_eq(s.stats.literal_bytes, 5001);
	if (levels[_i] != CODEC_RAW)
		ck_assert_uint_lt(s.wire.len, 100);
	ends_close(&s);
}
END_TEST

/* Every kind of operation, twice, so that old versions are used. */
START_TEST(every_operation)
{
	struct ends s = ends_open(100, levels[_i]);
	for (unsigned pass = 0; pass < 3; pass++) {
		literal(&s, "section", 7);
		for (unsigned i = 0; i < 10; i++)
			page(&s, 100 + i, text_page(i)); /* the same in each pass */
		zero(&s, 110);
		zero(&s, 111);
		for (unsigned i = 0; i < 10; i++) {
			text_page(50 + i);
			memcpy(scratch + 1000, "changed", pass ? 7 : 0);
			scratch[0] = (uint8_t)pass;
			scratch[4095] = (uint8_t)pass;
			page(&s, 200 + 3 * i, scratch);
		}
		bare_page(&s, 7, text_page(pass));
		page(&s, 8, text_page(0));         /* equal to another page */
		page(&s, 9, random_page());        /* replaced as a whole */
		page(&s, 10 + pass, text_page(1)); /* equal, and never stored itself */
		zero(&s, 100 + pass);              /* its version is dropped */
		through(&s);
		if (pass > 0) {
			ck_assert_uint_ge(s.stats.same_pages, 9);
			ck_assert_uint_ge(s.stats.delta_pages, 10);
			ck_assert_uint_le(s.stats.plain_pages, 4);
		}
		ck_assert_uint_eq(s.stats.zero_pages, 3);
	}
	ends_close(&s);
}
END_TEST

/* A page that becomes equal to another keeps a version of its own: it changes alone later. */
START_TEST(equal_pages_part_again)
{
	struct ends s = ends_open(10, 1);
	page(&s, 1, text_page(1));
	page(&s, 2, random_page());
	through(&s);
	page(&s, 2, text_page(1));
	through(&s);
	ck_assert_uint_eq(s.stats.same_pages, 1);
	text_page(1)[0] = '1';
	page(&s, 1, scratch);
	through(&s);
	ck_assert_uint_eq(s.stats.delta_pages, 1);
	text_page(1)[0] = '2';
	page(&s, 2, scratch);
	page(&s, 1, text_page(1));
	through(&s);
	ck_assert_uint_eq(s.stats.delta_pages, 2);
	ends_close(&s);
}
END_TEST

START_TEST(without_cache)
{
	struct ends s = ends_open(0, 1);
	struct page_cache *kept = s.cache;
	s.cache = NULL;
	for (unsigned i = 0; i < 5; i++)
		page(&s, i, text_page(i % 2));
	zero(&s, 5);
	struct err e = ERR_INIT;
	encode(&s);
	ck_assert_int_eq(codec_decode(s.codec, s.wire.data, s.wire.len, s.decoded, &e), 0);
	ck_assert_int_eq(decoded_emit(s.decoded, NULL, &s.out, &e), 0);
	ck_assert_uint_eq(s.out.len, s.expect.len);
	ck_assert_mem_eq(s.out.data, s.expect.data, s.out.len);
	ck_assert_uint_eq(s.stats.plain_pages, 5);
	s.cache = kept;
	ends_close(&s);
}
END_TEST

/* Addresses at the end of what 64 bits can say. */
START_TEST(far_addresses)
{
	struct ends s = ends_open(10, 1);
	page(&s, (UINT64_C(1) << 52) - 1, text_page(1));
	zero(&s, 0);
	zero(&s, (UINT64_C(1) << 52) - 1);
	page(&s, 1, text_page(2));
	page(&s, (UINT64_C(1) << 51) + 5, text_page(3));
	through(&s);
	ends_close(&s);
}
END_TEST

/* In a first pass slots and page numbers cost nothing. */
START_TEST(first_pass_costs_no_more_than_its_pages)
{
	struct ends s = ends_open(10000, CODEC_RAW);
	for (unsigned i = 0; i < 250; i++)
		page(&s, 5000 + i, random_page());
	through(&s);
	ck_assert_uint_le(s.wire.len, 40 + 250 * 4096 + 10);
	ends_close(&s);
}
END_TEST

/* 20 000 counters in pages scattered over RAM that has gone by once. */
START_TEST(counters_cost_a_few_bytes)
{
	enum { PAGES = 60000, TIMES = 20000 };
	struct ends s = ends_open(PAGES, 1);
	uint64_t *counter = calloc(PAGES, sizeof(*counter));
	uint64_t wire = 0;
	for (unsigned i = 0; i < PAGES; i++) {
		if (batch_room(s.batch) < 5000)
			through(&s);
		memset(scratch, 0, sizeof(scratch));
		memcpy(scratch + 64, &i, 4);
		page(&s, i, scratch);
	}
	through(&s);
	srandom(3);
	unsigned sent = 0;
	for (unsigned i = 0; i < PAGES; i++) {
		if (random() % PAGES >= TIMES)
			continue;
		if (batch_room(s.batch) < 5000) {
			through(&s);
			ck_assert_uint_eq(s.stats.plain_pages, 0);
			wire += s.wire.len;
		}
		counter[i] += (uint64_t)random() % 300;
		memset(scratch, 0, sizeof(scratch));
		memcpy(scratch, &counter[i], 8);
		memcpy(scratch + 64, &i, 4);
		page(&s, i, scratch);
		sent++;
	}
	through(&s);
	wire += s.wire.len;
	ck_assert_uint_gt(sent, TIMES * 9 / 10);
	ck_assert_msg(wire < 5 * sent, "%.1f bytes a page", (double)wire / sent);
	free(counter);
	ends_close(&s);
}
END_TEST

/* Operations longer than what they stand for: the batch ends early, and the limit holds. */
START_TEST(tiny_records)
{
	struct ends s = ends_open(0, CODEC_RAW);
	uint64_t rnd = 1;
	unsigned batches = 0;
	for (unsigned n = 0; n < 100000; n++) {
		if (batch_room(s.batch) < 10) {
			through(&s);
			batches++;
		}
		rnd = rnd * UINT64_C(6364136223846793005) + 1;
		zero(&s, rnd >> 12);
		literal(&s, "x", 1);
	}
	through(&s);
	ck_assert_uint_gt(batches, 3);
	ends_close(&s);
}
END_TEST

START_TEST(full_batch)
{
	struct ends s = ends_open(0, levels[_i]);
	while (batch_room(s.batch) >= 4104)
		page(&s, batch_raw_bytes(s.batch), random_page());
	size_t rest = batch_room(s.batch);
	literal(&s, scratch, rest < sizeof(scratch) ? rest : sizeof(scratch));
	through(&s);
	ck_assert_uint_eq(s.stats.raw_bytes, CODEC_MAX_RAW);
	ends_close(&s);
}
END_TEST

/* Batches are decoded in any order and emitted in theirs. */
START_TEST(decoded_out_of_order)
{
	enum { N = 8 };
	struct ends s = ends_open(100, 3);
	struct buf wires[N] = { { 0 } }, expects[N] = { { 0 } };
	struct decoded *d[N];
	struct codec *other = codec_new();
	struct err e = ERR_INIT;
	for (unsigned i = 0; i < N; i++) {
		for (unsigned k = 0; k < 20; k++) {
			text_page(k)[i] ^= (uint8_t)(i * k);
			page(&s, k * i, scratch);
		}
		codec_encode(i % 2 ? other : s.codec, s.batch, &s.params, &wires[i], NULL);
		batch_reset(s.batch);
		expects[i] = s.expect;
		s.expect = (struct buf)BUF_INIT;
	}
	for (unsigned i = N; i-- > 0;) {
		d[i] = decoded_new();
		ck_assert_int_eq(codec_decode(i % 3 ? other : s.codec, wires[i].data, wires[i].len, d[i], &e), 0);
	}
	for (unsigned i = 0; i < N; i++) {
		ck_assert_msg(decoded_emit(d[i], s.slots, &s.out, &e) == 0, "%s", e.text);
		ck_assert_uint_eq(s.out.len, expects[i].len);
		ck_assert_mem_eq(s.out.data, expects[i].data, s.out.len);
		decoded_free(d[i]);
		buf_fini(&wires[i]);
		buf_fini(&expects[i]);
	}
	codec_free(other);
	ends_close(&s);
}
END_TEST

/* Encoding twice, at different levels, leaves the batch as it was. */
START_TEST(encode_leaves_the_batch)
{
	struct ends s = ends_open(10, 1);
	struct buf again = BUF_INIT;
	page(&s, 1, text_page(1));
	zero(&s, 2);
	encode(&s);
	struct codec_params raw = { CODEC_RAW, CODEC_RAW };
	codec_encode(s.codec, s.batch, &raw, &again, NULL);
	buf_reset(&again);
	codec_encode(s.codec, s.batch, &s.params, &again, NULL);
	ck_assert_uint_eq(again.len, s.wire.len);
	ck_assert_mem_eq(again.data, s.wire.data, again.len);
	zero(&s, 3); /* joins the run that was pending */
	through(&s);
	buf_fini(&again);
	ends_close(&s);
}
END_TEST

/* ---- what comes from outside ---- */

/* A small batch with every kind of section. slots: as agreed; the versions it needs were never sent. */
static void small_batch(struct ends *s, int level)
{
	*s = ends_open(8, level);
	page(s, 1, text_page(1));
	through(s);
	literal(s, "abcdef", 6);
	zero(s, 5);
	text_page(1)[17] ^= 0x55;
	memcpy(scratch + 2000, "some forty changed bytes in the middle..", 40);
	page(s, 1, scratch);
	memset(scratch, 7, 4000);
	page(s, 2, scratch);
	page(s, 3, scratch);
	encode(s);
}

/* Decodes bytes with a fresh end that has the first version. 0 if it gave exactly what was sent, 1 if it was
 * refused. */
static int refused_or_right(const struct ends *s, const uint8_t *p, size_t n)
{
	struct err e = ERR_INIT;
	struct codec *codec = codec_new();
	struct decoded *d = decoded_new();
	struct page_slots *slots = page_slots_new(8, &e);
	struct buf out = BUF_INIT;
	uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees a byte too many */
	memcpy(exact, p, n);
	memcpy(page_slots_store(slots, 0), text_page(1), CODEC_PAGE_SIZE);
	int refused = codec_decode(codec, exact, n, d, &e) || decoded_emit(d, slots, &out, &e);
	if (refused) {
		ck_assert(e.cls == ERR_CORRUPT || e.cls == ERR_PROTOCOL);
		ck_assert_uint_eq(out.len, 0);
	} else {
		ck_assert_uint_eq(out.len, s->expect.len);
		ck_assert_mem_eq(out.data, s->expect.data, out.len);
	}
	free(exact);
	buf_fini(&out);
	page_slots_free(slots);
	decoded_free(d);
	codec_free(codec);
	return refused ? 1 : 0;
}

START_TEST(truncated_anywhere)
{
	struct ends s;
	small_batch(&s, levels[_i]);
	ck_assert_int_eq(refused_or_right(&s, s.wire.data, s.wire.len), 0);
	for (size_t n = 0; n < s.wire.len; n++)
		ck_assert_int_eq(refused_or_right(&s, s.wire.data, n), 1);
	buf_put_u8(&s.wire, 0);
	ck_assert_int_eq(refused_or_right(&s, s.wire.data, s.wire.len), 1);
	ends_close(&s);
}
END_TEST

START_TEST(flipped_bits)
{
	struct ends s;
	unsigned harmless = 0;
	small_batch(&s, levels[_i]);
	for (size_t i = 0; i < s.wire.len; i++) {
		for (unsigned bit = i < 400 ? 0 : i % 8; bit < 8; bit += i < 400 ? 1 : 8) {
			s.wire.data[i] ^= (uint8_t)(1u << bit);
			harmless += !refused_or_right(&s, s.wire.data, s.wire.len);
			s.wire.data[i] ^= (uint8_t)(1u << bit);
		}
	}
	/* The bit that stores a page, for one: it matters to later batches, whose hash then tells. Or zstd's
	 * window size, on which nothing depends. */
	ck_assert_uint_le(harmless, levels[_i] == CODEC_RAW ? 8 : 40);
	ends_close(&s);
}
END_TEST

/* What is stored and has no slots goes as it came, and need not be emitted; a wrong byte is seen before it could be taken. */
START_TEST(verbatim)
{
	struct ends s = ends_open(0, CODEC_RAW);
	struct err e = ERR_INIT;
	size_t len = 0;

	page_cache_free(s.cache);
	s.cache = NULL;
	for (unsigned i = 0; i < 20; i++)
		page(&s, i, text_page(i));
	zero(&s, 20);
	encode(&s);
	ck_assert_uint_le(s.wire.len, s.expect.len + 48);
	ck_assert_int_eq(codec_decode(s.codec, s.wire.data, s.wire.len, s.decoded, &e), 0);
	const uint8_t *bytes = decoded_verbatim(s.decoded, &len);
	ck_assert_ptr_nonnull(bytes);
	ck_assert_uint_eq(len, s.expect.len);
	ck_assert_mem_eq(bytes, s.expect.data, len);
	ck_assert(bytes >= s.wire.data && bytes < s.wire.data + s.wire.len);
	ck_assert_int_eq(decoded_emit(s.decoded, NULL, &s.out, &e), 0);
	ck_assert_mem_eq(s.out.data, s.expect.data, len);

	s.wire.data[s.wire.len - 1] ^= 1;
	ck_assert_int_eq(codec_decode(s.codec, s.wire.data, s.wire.len, s.decoded, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	ck_assert_ptr_null(decoded_verbatim(s.decoded, &len));
	ends_close(&s);
}
END_TEST

/* Not with pages that are kept, nor where it would spoil runs of zero pages. */
START_TEST(not_verbatim)
{
	struct ends s = ends_open(40, CODEC_RAW);
	size_t len;

	for (unsigned i = 0; i < 20; i++)
		page(&s, i, text_page(i));
	through(&s);
	ck_assert_ptr_null(decoded_verbatim(s.decoded, &len));
	ck_assert_ptr_nonnull(page_slots_at(s.slots, 19));
	for (unsigned i = 0; i < 10000; i++)
		zero(&s, i);
	through(&s);
	ck_assert_ptr_null(decoded_verbatim(s.decoded, &len));
	ck_assert_uint_le(s.wire.len, 60);
	ends_close(&s);
}
END_TEST

/* A version that was never agreed on. */
START_TEST(slot_out_of_range)
{
	struct ends s = ends_open(10, 1);
	struct err e = ERR_INIT;
	page(&s, 1, text_page(1));
	page(&s, 2, text_page(2));
	encode(&s);
	page_slots_free(s.slots);
	s.slots = page_slots_new(1, &e);
	ck_assert_int_eq(codec_decode(s.codec, s.wire.data, s.wire.len, s.decoded, &e), 0);
	ck_assert_int_eq(decoded_emit(s.decoded, s.slots, &s.out, &e), -1);
	ck_assert_int_eq(e.cls, ERR_PROTOCOL);
	ck_assert_uint_eq(s.out.len, 0);
	ck_assert_int_eq(decoded_emit(s.decoded, NULL, &s.out, &e), -1);
	ends_close(&s);
}
END_TEST

/* The receiver's version is not the sender's: nothing comes out. */
START_TEST(versions_that_differ)
{
	struct ends s = ends_open(10, 1);
	struct err e = ERR_INIT;
	page(&s, 1, text_page(1));
	through(&s);
	page_slots_at(s.slots, 0)[3000] ^= 1;
	text_page(1)[5] ^= 1;
	page(&s, 1, scratch);
	encode(&s);
	ck_assert_int_eq(codec_decode(s.codec, s.wire.data, s.wire.len, s.decoded, &e), 0);
	ck_assert_int_eq(decoded_emit(s.decoded, s.slots, &s.out, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	ck_assert_uint_eq(s.out.len, 0);
	ends_close(&s);
}
END_TEST

/* ---- batches written by hand ---- */

struct hostile {
	const char *what;
	uint32_t raw, plain, delta;
	uint8_t ops[32];
	uint8_t n_ops;
};

static const struct hostile hostile[] = {
	{ "unknown kind", 1, 1, 0, { 5, 0 }, 2 },
	{ "literal with a flag", 1, 1, 0, { 0x20, 0, 0 }, 3 },
	{ "literal too long", 1, 1, 0, { 0, 1 }, 2 },
	{ "literal longer than numbers go", 1, 1, 0, { 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1 }, 11 },
	{ "literal without its length", 1, 1, 0, { 0 }, 1 },
	{ "length not in its shortest form", 1, 1, 0, { 0, 0x80, 0 }, 3 },
	{ "nothing said", 1, 1, 0, { 0 }, 0 },
	{ "zeros into a slot", 9, 0, 0, { 1 | 0x08, 0 }, 2 },
	{ "zeros with a slot", 9, 0, 0, { 1 | 0x40, 1 }, 2 },
	{ "bare zeros", 9, 0, 0, { 1 | 0x10 }, 1 },
	{ "a count of one", 9, 0, 0, { 1 | 0x80, 0 }, 2 },
	{ "count over the end", 9, 0, 0, { 1 | 0x80, 1 }, 2 },
	{ "count beyond numbers", 9, 0, 0, { 1 | 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1 }, 11 },
	{ "page before the first", 9, 0, 0, { 1 | 0x20, 1 }, 2 },
	{ "page after the last", 9, 0, 0, { 1 | 0x20, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10 }, 9 },
	{ "plain that is not there", 4104, 0, 0, { 2 }, 1 },
	{ "plain with a slot but no store", 4104, 4096, 0, { 2 | 0x40, 2 }, 2 },
	{ "stored beyond slots", 4104, 4096, 0, { 2 | 0x08 | 0x40, 1 }, 2 },
	{ "bare run", 8192, 8192, 0, { 2 | 0x10 | 0x80, 1 }, 2 },
	{ "delta with store", 4104, 0, 1, { 3 | 0x08, 0, 0, 0 }, 4 },
	{ "delta with count", 4104, 0, 1, { 3 | 0x80, 1, 0, 0, 0 }, 5 },
	{ "delta without runs", 4104, 0, 1, { 3 }, 1 },
	{ "run over the page", 4104, 0, 2, { 3, 0, 0xff, 0x1f, 1 }, 5 },
	{ "run longer than a page", 4104, 0, 4097, { 3, 0, 0, 0x80, 0x20 }, 5 },
	{ "too many runs", 4104, 0, 1, { 3, 0x80, 0x20, 0, 0 }, 5 },
	{ "runs without bytes", 4104, 0, 0, { 3, 0, 0, 0 }, 4 },
	{ "bytes without runs", 9, 0, 1, { 1 }, 1 },
	{ "same slot far away", 4104, 0, 0, { 4 | 0x40, 0xff, 0xff, 0xff, 0xff, 0xff, 1 }, 7 },
	{ "raw not reached", 10, 0, 0, { 1 }, 1 },
};

START_TEST(hostile_operations)
{
	const struct hostile *h = &hostile[_i];
	struct buf wire = BUF_INIT;
	struct err e = ERR_INIT;
	struct codec *codec = codec_new();
	struct decoded *d = decoded_new();
	buf_put_u8(&wire, 1);
	buf_put_u8(&wire, 0);
	buf_put_be16(&wire, 0);
	buf_put_be32(&wire, h->raw);
	const uint32_t len[3] = { h->n_ops, h->plain, h->delta };
	for (unsigned i = 0; i < 3; i++) {
		buf_put_be32(&wire, len[i]);
		buf_put_be32(&wire, len[i]);
	}
	buf_put_be64(&wire, 0);
	buf_append(&wire, h->ops, h->n_ops);
	memset(buf_reserve(&wire, h->plain + h->delta), 0, h->plain + h->delta);
	wire.len += h->plain + h->delta;
	ck_assert_msg(codec_decode(codec, wire.data, wire.len, d, &e) == -1, "%s", h->what);
	ck_assert_msg(e.cls == ERR_PROTOCOL, "%s: %s", h->what, e.text);
	buf_fini(&wire);
	decoded_free(d);
	codec_free(codec);
}
END_TEST

static const struct {
	const char *what;
	unsigned at;
	uint8_t byte;
} headers[] = {
	{ "format", 0, 2 },
	{ "unknown method", 1, 2 },
	{ "methods beyond the sections", 1, 0x40 },
	{ "reserved", 3, 1 },
	{ "raw over the limit", 4, 1 },
	{ "ops over raw", 8, 1 },
	{ "stored over the end", 14, 1 },
	{ "plain over raw", 16, 1 },
	{ "delta over raw", 24, 1 },
	{ "stored, other length", 11, 9 },
};

START_TEST(hostile_headers)
{
	struct ends s = ends_open(0, CODEC_RAW);
	struct err e = ERR_INIT;
	literal(&s, "abc", 3);
	encode(&s);
	s.wire.data[headers[_i].at] = headers[_i].byte;
	ck_assert_msg(codec_decode(s.codec, s.wire.data, s.wire.len, s.decoded, &e) == -1, "%s", headers[_i].what);
	ck_assert_int_eq(e.cls, ERR_PROTOCOL);
	ends_close(&s);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("transport/codec");
	TCase *tc = tcase_create("all");
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, empty_batch);
	tcase_add_loop_test(tc, literals, 0, N_LEVELS);
	tcase_add_loop_test(tc, every_operation, 0, N_LEVELS);
	tcase_add_test(tc, equal_pages_part_again);
	tcase_add_test(tc, without_cache);
	tcase_add_test(tc, far_addresses);
	tcase_add_test(tc, first_pass_costs_no_more_than_its_pages);
	tcase_add_test(tc, counters_cost_a_few_bytes);
	tcase_add_test(tc, tiny_records);
	tcase_add_loop_test(tc, full_batch, 0, N_LEVELS);
	tcase_add_test(tc, decoded_out_of_order);
	tcase_add_test(tc, encode_leaves_the_batch);
	tcase_add_loop_test(tc, truncated_anywhere, 0, 5);
	tcase_add_loop_test(tc, flipped_bits, 0, 5);
	tcase_add_test(tc, verbatim);
	tcase_add_test(tc, not_verbatim);
	tcase_add_test(tc, slot_out_of_range);
	tcase_add_test(tc, versions_that_differ);
	tcase_add_loop_test(tc, hostile_operations, 0, (int)(sizeof(hostile) / sizeof(hostile[0])));
	tcase_add_loop_test(tc, hostile_headers, 0, (int)(sizeof(headers) / sizeof(headers[0])));
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
