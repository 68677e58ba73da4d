#include "transport/ops.h"

#define KIND_BITS 0x07u
#define STORE_BIT 0x08u
#define BARE_BIT 0x10u
#define AT_BIT 0x20u
#define SLOT_BIT 0x40u
#define COUNT_BIT 0x80u

static bool has_src(const struct op *op)
{
	return op->kind == OP_DELTA || op->kind == OP_SAME;
}

static int64_t distance(uint64_t value, uint64_t predicted)
{
	return (int64_t)(value - predicted);
}

/* Slots move with pages: after a gap of n pages the slot is guessed n further on. */
static uint32_t predicted_ref(const struct op_prediction *p, uint64_t index)
{
	return p->ref + (uint32_t)(index - p->index);
}

static int64_t slot_distance(uint32_t slot, uint32_t predicted)
{
	return (int64_t)(int32_t)(slot - predicted);
}

static void advance(struct op_prediction *p, const struct op *op)
{
	if (op->kind == OP_LITERAL)
		return;
	uint32_t count = (uint32_t)op->count;
	p->index = op->index + op->count;
	if (op->store)
		p->store = op->dst + count;
	if (has_src(op))
		p->ref = op->src + count;
	else if (op->store)
		p->ref = op->dst + count;
}

static int64_t ops_sleb(struct cursor *c)
{
	if (c->p < c->end && *c->p < 0x80) {
		unsigned z = *c->p++;
		return (int64_t)(z >> 1) ^ -(int64_t)(z & 1);
	}
	return cursor_sleb(c);
}

void ops_writer_init(struct ops_writer *w, struct buf *out)
{
	*w = (struct ops_writer){ .out = out };
}

static void write_op(const struct op_prediction *p, const struct op *op, struct buf *out)
{
	if (op->kind == OP_LITERAL) {
		buf_put_u8(out, OP_LITERAL);
		buf_put_uleb(out, op->count - 1);
		return;
	}
	int64_t at = distance(op->index, p->index);
	int64_t slot = 0;
	if (has_src(op))
		slot = slot_distance(op->src, predicted_ref(p, op->index));
	else if (op->store)
		slot = slot_distance(op->dst, p->store);
	unsigned head = (unsigned)op->kind;
	head |= (op->store ? STORE_BIT : 0) | (op->bare ? BARE_BIT : 0) | (at ? AT_BIT : 0) | (slot ? SLOT_BIT : 0) |
		(op->count > 1 ? COUNT_BIT : 0);
	buf_put_u8(out, (uint8_t)head);
	if (at)
		buf_put_sleb(out, at);
	if (slot)
		buf_put_sleb(out, slot);
	if (op->kind == OP_SAME && op->store)
		buf_put_sleb(out, slot_distance(op->dst, p->store));
	if (op->count > 1)
		buf_put_uleb(out, op->count - 1);
}

static bool continues(const struct op *a, const struct op *b)
{
	if (a->kind != b->kind || a->store != b->store || a->bare || b->bare)
		return false;
	if (a->kind == OP_LITERAL)
		return true;
	if (b->index != a->index + a->count)
		return false;
	if (has_src(a) && b->src != a->src + (uint32_t)a->count)
		return false;
	return !a->store || b->dst == a->dst + (uint32_t)a->count;
}

void ops_add(struct ops_writer *w, const struct op *op)
{
	if (w->has_pending) {
		if (continues(&w->pending, op)) {
			w->pending.count += op->count;
			return;
		}
		write_op(&w->predicted, &w->pending, w->out);
		advance(&w->predicted, &w->pending);
	}
	if (op->kind == OP_DELTA) {
		write_op(&w->predicted, op, w->out);
		advance(&w->predicted, op);
		w->has_pending = false;
		return;
	}
	w->pending = *op;
	w->has_pending = true;
}

void ops_write_pending(const struct ops_writer *w, struct buf *out)
{
	if (w->has_pending)
		write_op(&w->predicted, &w->pending, out);
}

void ops_reader_init(struct ops_reader *r, const void *p, size_t n)
{
	*r = (struct ops_reader){ .in = cursor_over(p, n) };
}

/* Which flags an operation of that kind may carry; 0x100 for a kind that does not exist. */
static unsigned allowed_flags(unsigned head)
{
	unsigned count = head & BARE_BIT ? 0 : COUNT_BIT;
	switch (head & KIND_BITS) {
	case OP_LITERAL:
		return 0;
	case OP_ZEROS:
		return AT_BIT | COUNT_BIT;
	case OP_PLAIN:
		return STORE_BIT | BARE_BIT | AT_BIT | count | (head & STORE_BIT ? SLOT_BIT : 0);
	case OP_DELTA:
		return BARE_BIT | AT_BIT | SLOT_BIT;
	case OP_SAME:
		return STORE_BIT | BARE_BIT | AT_BIT | SLOT_BIT | count;
	default:
		return 0x100;
	}
}

/* predicted + distance; false if the slots [*slot, *slot + count) are not all below UINT32_MAX. */
static bool slot_at(uint32_t predicted, int64_t d, uint64_t count, uint32_t *slot)
{
	if (d != (int32_t)d)
		return false;
	*slot = predicted + (uint32_t)(int32_t)d;
	return count <= UINT32_MAX - *slot;
}

int ops_next(struct ops_reader *r, struct op *op)
{
	if (cursor_left(&r->in) == 0)
		return cursor_ok(&r->in) ? 0 : -1;
	unsigned head = *r->in.p++;
	unsigned allowed = allowed_flags(head);
	if (allowed == 0x100 || (head & ~KIND_BITS & ~allowed))
		return -1;
	struct op o = { .kind = (enum op_kind)(head & KIND_BITS), .count = 1 };
	if (o.kind == OP_LITERAL) {
		o.count = ops_uleb(&r->in);
		if (!cursor_ok(&r->in) || o.count >= OP_INDEX_LIMIT)
			return -1;
		o.count++;
		*op = o;
		return 1;
	}
	o.store = head & STORE_BIT;
	o.bare = head & BARE_BIT;
	o.index = r->predicted.index + (head & AT_BIT ? (uint64_t)ops_sleb(&r->in) : 0);
	int64_t slot = head & SLOT_BIT ? ops_sleb(&r->in) : 0;
	int64_t dst = o.kind == OP_SAME && o.store ? ops_sleb(&r->in) : slot;
	if (head & COUNT_BIT) {
		o.count = ops_uleb(&r->in);
		if (o.count == 0 || o.count >= OP_INDEX_LIMIT)
			return -1;
		o.count++;
	}
	if (!cursor_ok(&r->in) || o.index >= OP_INDEX_LIMIT || o.count > OP_INDEX_LIMIT - o.index)
		return -1;
	if (has_src(&o) && !slot_at(predicted_ref(&r->predicted, o.index), slot, o.count, &o.src))
		return -1;
	if (o.store && !slot_at(r->predicted.store, dst, o.count, &o.dst))
		return -1;
	advance(&r->predicted, &o);
	*op = o;
	return 1;
}
