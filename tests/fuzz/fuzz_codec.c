/*
 * Even first byte: the rest is a batch from a hostile peer. It is refused or decoded, and nothing is touched that
 * is not ours.
 * Odd: the rest is a script of what to put into batches; they must come out as they went in. Bytes of the script are
 * also the contents.
 */
#include "transport/codec.h"
#include "transport/page_cache.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(x)                 \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

#define SLOTS 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct codec *codec;
static struct decoded *decoded;
static struct batch *batch;

static void hostile(const uint8_t *data, size_t size)
{
	struct err e = ERR_INIT;
	struct page_slots *slots = page_slots_new(SLOTS, &e);
	struct buf out = BUF_INIT;
	CHECK(slots);
	if (codec_decode(codec, data, size, decoded, &e) == 0) {
		if (decoded_emit(decoded, slots, &out, &e) == 0)
			CHECK(out.len <= CODEC_MAX_RAW);
		else
			CHECK(out.len == 0);
	}
	CHECK(!err_is_set(&e) || e.cls == ERR_CORRUPT || e.cls == ERR_PROTOCOL);
	buf_fini(&out);
	page_slots_free(slots);
}

struct script {
	const uint8_t *p;
	size_t left;
	struct page_cache *cache;
	struct page_slots *slots;
	struct buf expect, wire, out;
	struct codec_params params;
	uint8_t page[CODEC_PAGE_SIZE];
};

static uint8_t next(struct script *s)
{
	if (s->left == 0)
		return 0;
	s->left--;
	return *s->p++;
}

static void flush(struct script *s)
{
	struct err e = ERR_INIT;
	buf_reset(&s->wire);
	codec_encode(codec, batch, &s->params, &s->wire, NULL);
	CHECK(s->wire.len <= CODEC_MAX_ENCODED);
	CHECK(codec_decode(codec, s->wire.data, s->wire.len, decoded, &e) == 0);
	CHECK(decoded_emit(decoded, s->slots, &s->out, &e) == 0);
	CHECK(s->out.len == s->expect.len);
	CHECK(s->out.len == 0 || memcmp(s->out.data, s->expect.data, s->out.len) == 0);
	buf_reset(&s->expect);
	batch_reset(batch);
}

/* The last page, changed in a few places, or filled with what the script has. */
static void change_page(struct script *s)
{
	unsigned n = next(s);
	if (n >= 0xf0) {
		size_t have = s->left < 64 ? s->left : 64;
		for (size_t i = 0; i < CODEC_PAGE_SIZE; i++)
			s->page[i] = (uint8_t)((have ? s->p[i % have] : 0u) + i / 64 * n);
		return;
	}
	for (unsigned i = 0; i < n % 40; i++) {
		size_t at = (size_t)next(s) << 4;
		s->page[(at + next(s) % 16) % CODEC_PAGE_SIZE] = next(s);
	}
}

static void step(struct script *s)
{
	unsigned what = next(s);
	uint64_t no = next(s) % 40;
	if (what & 0x80)
		no = no << 45 | next(s);
	if (batch_room(batch) < CODEC_PAGE_SIZE + 8)
		flush(s);
	switch (what % 8) {
	case 0: {
		size_t n = next(s);
		n = n < s->left ? n : s->left;
		batch_literal(batch, s->p, n);
		buf_append(&s->expect, s->p, n);
		break;
	}
	case 1:
		batch_zero(batch, no, no << 12, s->cache);
		buf_put_be64(&s->expect, no << 12 | 0x22);
		buf_put_u8(&s->expect, 0);
		break;
	case 2:
		flush(s);
		break;
	case 3:
		batch_page(batch, no, no << 12, false, s->page, s->cache);
		buf_append(&s->expect, s->page, CODEC_PAGE_SIZE);
		break;
	case 4:
		memset(s->page, (int)(what >> 4), CODEC_PAGE_SIZE);
		break;
	default:
		change_page(s);
		batch_page(batch, no, no << 12, true, s->page, what & 0x40 ? s->cache : NULL);
		buf_put_be64(&s->expect, no << 12 | 0x28);
		buf_append(&s->expect, s->page, CODEC_PAGE_SIZE);
		break;
	}
}

static void round_trip(const uint8_t *data, size_t size)
{
	static const int levels[] = { CODEC_RAW, -5, 1, 3 };
	struct err e = ERR_INIT;
	struct script s = { .p = data, .left = size };
	uint32_t slots = next(&s) % SLOTS;
	unsigned level = next(&s);
	s.params = (struct codec_params){ levels[level % 4], levels[level / 4 % 4] };
	s.cache = page_cache_new(slots, &e);
	s.slots = page_slots_new(slots, &e);
	CHECK(s.cache && s.slots);
	for (unsigned i = 0; i < 2000 && s.left > 0; i++)
		step(&s);
	flush(&s);
	page_cache_free(s.cache);
	page_slots_free(s.slots);
	buf_fini(&s.expect);
	buf_fini(&s.wire);
	buf_fini(&s.out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!codec) {
		codec = codec_new();
		decoded = decoded_new();
		batch = batch_new();
	}
	batch_reset(batch);
	if (size < 1)
		return 0;
	if (data[0] & 1)
		round_trip(data + 1, size - 1);
	else
		hostile(data + 1, size - 1);
	return 0;
}
