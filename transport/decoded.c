/* Reproducing the bytes of a batch: in order, one thread, at the speed of memory. codec_decode has checked all but
 * slots and hash. */
#include "base/mem.h"
#include "transport/codec_internal.h"
#include "transport/page_cache.h"

#include <assert.h>

struct decoded *decoded_new(void)
{
	return mem_alloc(sizeof(struct decoded));
}

void decoded_free(struct decoded *d)
{
	if (!d)
		return;
	for (unsigned i = 0; i < SECTION_COUNT; i++)
		buf_fini(&d->unpacked[i]);
	mem_free_ptr(&d);
}

struct emit {
	struct ops_reader ops;
	const uint8_t *plain;
	const uint8_t *delta;
	uint8_t *out;
	struct page_slots *slots;
};

static void patch_slot(struct emit *m, uint8_t *page)
{
	struct cursor *in = &m->ops.in;
	uint64_t runs = ops_uleb(in);
	for (uint64_t i = 0; i <= runs; i++) {
		page += ops_uleb(in);
		unsigned len = (unsigned)ops_uleb(in) + 1;
		memcpy(page, m->delta, len);
		m->delta += len;
		page += len;
	}
}

/* One page of a PLAIN, DELTA or SAME operation; NULL if a slot does not exist or is empty. */
static const uint8_t *page_of(struct emit *m, const struct op *op, uint32_t i)
{
	const uint8_t *page;
	if (op->kind == OP_PLAIN) {
		page = m->plain;
		m->plain += CODEC_PAGE_SIZE;
	} else {
		uint8_t *slot = m->slots ? page_slots_at(m->slots, op->src + i) : NULL;
		if (slot && op->kind == OP_DELTA)
			patch_slot(m, slot);
		page = slot;
	}
	if (page && op->store) {
		uint8_t *slot = m->slots ? page_slots_store(m->slots, op->dst + i) : NULL;
		if (!slot)
			return NULL;
		if (slot != page)
			memcpy(slot, page, CODEC_PAGE_SIZE);
	}
	return page;
}

static int emit_pages(struct emit *m, const struct op *op, struct err *e)
{
	for (uint32_t i = 0; i < op->count; i++) {
		if (!op->bare) {
			put_record_header(m->out, op->index + i, RECORD_PAGE | RECORD_CONTINUE);
			m->out += PAGE_HEADER_SIZE;
		}
		const uint8_t *page = page_of(m, op, i);
		if (!page)
			return err_set(e, ERR_PROTOCOL, "batch names a page version that was never agreed on");
		memcpy(m->out, page, CODEC_PAGE_SIZE);
		m->out += CODEC_PAGE_SIZE;
	}
	return 0;
}

static int emit_op(struct emit *m, const struct op *op, struct err *e)
{
	switch (op->kind) {
	case OP_LITERAL:
		memcpy(m->out, m->plain, op->count);
		m->out += op->count;
		m->plain += op->count;
		return 0;
	case OP_ZEROS:
		for (uint64_t i = 0; i < op->count; i++) {
			put_record_header(m->out, op->index + i, RECORD_ZERO | RECORD_CONTINUE);
			m->out[8] = 0;
			m->out += ZERO_RECORD_SIZE;
		}
		return 0;
	case OP_PLAIN:
	case OP_DELTA:
	case OP_SAME:
		break;
	}
	return emit_pages(m, op, e);
}

int codec_check(const struct decoded *d, const uint8_t *raw, struct err *e)
{
	if (codec_hash(raw, d->raw_len) == d->hash)
		return 0;
	return err_set(e, ERR_CORRUPT, "batch does not reproduce the bytes that were sent");
}

const uint8_t *decoded_verbatim(const struct decoded *d, size_t *len)
{
	if (!d->verbatim)
		return NULL;
	*len = d->raw_len;
	return d->section[SECTION_PLAIN].p;
}

int decoded_emit(const struct decoded *d, struct page_slots *slots, struct buf *out, struct err *e)
{
	buf_reset(out);
	struct emit m = { .plain = d->section[SECTION_PLAIN].p,
			  .delta = d->section[SECTION_DELTA].p,
			  .out = buf_reserve(out, d->raw_len),
			  .slots = slots };
	struct op op;
	ops_reader_init(&m.ops, d->section[SECTION_OPS].p, d->section[SECTION_OPS].len);
	while (ops_next(&m.ops, &op) == 1) {
		if (emit_op(&m, &op, e))
			return -1;
	}
	assert(m.out == out->data + d->raw_len);
	if (!d->verbatim && codec_check(d, out->data, e))
		return -1;
	out->len = d->raw_len;
	return 0;
}
