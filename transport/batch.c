/* Building a batch: in stream order, one thread, at the speed of memory. Format: codec_internal.h, ops.h. */
#include "base/mem.h"
#include "transport/codec_internal.h"
#include "transport/page_cache.h"

#include <assert.h>

struct batch *batch_new(void)
{
	struct batch *b = mem_alloc(sizeof(*b));
	b->raw = mem_alloc(CODEC_MAX_RAW);
	ops_writer_init(&b->writer, &b->ops);
	return b;
}

void batch_free(struct batch *b)
{
	if (!b)
		return;
	mem_free_ptr(&b->raw);
	mem_free_ptr(&b->plain);
	buf_fini(&b->ops);
	buf_fini(&b->delta);
	mem_free_ptr(&b);
}

void batch_reset(struct batch *b)
{
	b->raw_len = 0;
	b->n_plain = 0;
	b->plain_len = 0;
	b->uses_slots = false;
	b->counts = (struct codec_stats){ 0 };
	buf_reset(&b->ops);
	buf_reset(&b->delta);
	ops_writer_init(&b->writer, &b->ops);
}

size_t batch_raw_bytes(const struct batch *b)
{
	return b->raw_len;
}

size_t batch_room(const struct batch *b)
{
	/* Only a stream of tiny records can make operations longer than what they stand for; such a batch ends
	 * early, so that CODEC_MAX_ENCODED holds. */
	if (b->ops.len + b->plain_len + b->delta.len > b->raw_len + BATCH_MAX_EXCESS)
		return 0;
	return CODEC_MAX_RAW - b->raw_len;
}

/* The next n bytes of raw. */
static uint8_t *extend(struct batch *b, size_t n)
{
	assert(n <= CODEC_MAX_RAW - b->raw_len);
	uint8_t *p = b->raw + b->raw_len;
	b->raw_len += n;
	return p;
}

uint8_t *batch_tail(struct batch *b)
{
	return b->raw + b->raw_len;
}

/* Nothing to do if they were received into the tail. */
static void take_raw(uint8_t *to, const void *from, size_t n)
{
	if (to != from)
		memcpy(to, from, n);
}

/* The last n bytes of raw belong to the plain section. */
static void mark_plain(struct batch *b, size_t n)
{
	size_t at = b->raw_len - n;
	b->plain_len += n;
	if (b->n_plain > 0) {
		struct extent *last = &b->plain[b->n_plain - 1];
		if (last->at + last->len == at) {
			last->len += (uint32_t)n;
			return;
		}
	}
	if (b->n_plain == b->cap_plain) {
		b->cap_plain = b->cap_plain ? 2 * b->cap_plain : 64;
		b->plain = mem_realloc_array(b->plain, b->cap_plain, sizeof(*b->plain));
	}
	b->plain[b->n_plain++] = (struct extent){ .at = (uint32_t)at, .len = (uint32_t)n };
}

void batch_literal(struct batch *b, const void *p, size_t n)
{
	if (n == 0)
		return;
	take_raw(extend(b, n), p, n);
	mark_plain(b, n);
	b->counts.literal_bytes += n;
	ops_add(&b->writer, &(struct op){ .kind = OP_LITERAL, .count = n });
}

void batch_zero(struct batch *b, uint64_t page_no, uint64_t addr, struct page_cache *cache)
{
	uint8_t *raw = extend(b, ZERO_RECORD_SIZE);
	put_record_header(raw, addr >> 12, RECORD_ZERO | RECORD_CONTINUE);
	raw[8] = 0;
	b->counts.zero_pages++;
	ops_add(&b->writer, &(struct op){ .kind = OP_ZEROS, .count = 1, .index = addr >> 12 });
	if (cache)
		page_cache_drop(cache, page_no);
}

static void add_plain(struct batch *b, struct op *op)
{
	op->kind = OP_PLAIN;
	b->uses_slots |= op->store;
	mark_plain(b, CODEC_PAGE_SIZE);
	b->counts.plain_pages++;
	ops_add(&b->writer, op);
}

static void add_same(struct batch *b, struct op *op, uint32_t slot)
{
	op->kind = OP_SAME;
	op->src = slot;
	b->uses_slots = true;
	b->counts.same_pages++;
	ops_add(&b->writer, op);
}

/* b->patch leads from the slot's contents to data; the slot takes them over. */
static void add_delta(struct batch *b, struct op *op, uint8_t *old, const uint8_t *data)
{
	const struct patch *p = &b->patch;
	op->kind = OP_DELTA;
	b->uses_slots = true;
	b->counts.delta_pages++;
	ops_add(&b->writer, op);
	buf_put_uleb(&b->ops, p->runs - 1);
	uint8_t *bytes = buf_reserve(&b->delta, p->bytes);
	b->delta.len += p->bytes;
	unsigned end = 0;
	for (unsigned i = 0; i < p->runs; i++) {
		unsigned at = p->run[i].at, len = p->run[i].len;
		buf_put_uleb(&b->ops, at - end);
		buf_put_uleb(&b->ops, len - 1);
		memcpy(bytes, data + at, len);
		memcpy(old + at, data + at, len);
		bytes += len;
		end = at + len;
	}
}

/* The page has a slot: say how it differs, or replace it. */
static void add_known(struct batch *b, struct op *op, uint32_t slot, const uint8_t *data, struct page_cache *cache)
{
	uint8_t *old = page_cache_data(cache, slot);
	enum patch_kind kind = patch_diff(&b->patch, old, data);
	if (kind == PATCH_EQUAL) {
		add_same(b, op, slot);
		return;
	}
	if (kind == PATCH_SMALL) {
		op->src = slot;
		add_delta(b, op, old, data);
		page_cache_changed(cache, slot);
		return;
	}
	uint64_t hash = page_cache_hash(cache, data);
	uint32_t equal = page_cache_find_equal(cache, data, hash);
	op->store = true;
	op->dst = slot;
	if (equal != PAGE_CACHE_NO_SLOT)
		add_same(b, op, equal);
	else
		add_plain(b, op);
	page_cache_put(cache, slot, data, hash);
}

void batch_page(struct batch *b, uint64_t page_no, uint64_t addr, bool with_header, const uint8_t *data,
		struct page_cache *cache)
{
	uint8_t *raw = extend(b, with_header ? PAGE_RECORD_SIZE : CODEC_PAGE_SIZE);
	struct op op = { .count = 1, .index = addr >> 12, .bare = !with_header };
	if (with_header) {
		put_record_header(raw, op.index, RECORD_PAGE | RECORD_CONTINUE);
		raw += PAGE_HEADER_SIZE;
	}
	take_raw(raw, data, CODEC_PAGE_SIZE);
	if (!cache) {
		add_plain(b, &op);
		return;
	}
	uint32_t slot = page_cache_find(cache, page_no);
	if (slot != PAGE_CACHE_NO_SLOT) {
		add_known(b, &op, slot, raw, cache);
		return;
	}
	if (page_cache_skips(cache, page_no)) {
		add_plain(b, &op);
		return;
	}
	uint64_t hash = page_cache_hash(cache, raw);
	uint32_t equal = page_cache_find_equal(cache, raw, hash);
	if (equal != PAGE_CACHE_NO_SLOT) {
		add_same(b, &op, equal);
		return;
	}
	slot = page_cache_admit(cache, page_no);
	op.store = slot != PAGE_CACHE_NO_SLOT;
	if (op.store) {
		op.dst = slot;
		page_cache_put(cache, slot, raw, hash);
	}
	add_plain(b, &op);
}
