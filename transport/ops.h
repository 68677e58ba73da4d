/*
 * ops.h - the operations of a batch as bytes: PROTOCOL.md section "Batches". Distances and slots are written
 * against a prediction, so that what continues what came before costs nothing.
 *
 *	op      bits 0-2 kind; 3 STORE; 4 BARE; 5 AT: a distance follows; 6 SLOT: a slot follows; 7 COUNT: a count follows
 *	AT      sleb  page index minus the index after the last page
 *	SLOT    sleb  slot minus the predicted one
 *	        sleb  SAME with STORE only: destination slot minus the predicted one, always there
 *	COUNT   uleb  pages minus 1 (not 0); LITERAL: bytes minus 1, always there and without the flag
 *	DELTA   uleb runs minus 1, then for each run: uleb bytes skipped since the last run, uleb length minus 1
 */
#ifndef VMFERRY_TRANSPORT_OPS_H
#define VMFERRY_TRANSPORT_OPS_H

#include "base/buf.h"
#include "base/cursor.h"

#include <stdbool.h>
#include <stdint.h>

enum op_kind {
	OP_LITERAL = 0, /* bytes of the plain section */
	OP_ZEROS = 1,   /* zero pages */
	OP_PLAIN = 2,   /* pages of the plain section */
	OP_DELTA = 3,   /* one page: the slot's contents after its runs were replaced by bytes of the delta section */
	OP_SAME = 4,    /* pages equal to slots */
};

struct op {
	enum op_kind kind;
	bool store;     /* PLAIN, SAME: into slots from dst on */
	bool bare;      /* the page without a header: it was literal */
	uint64_t count; /* pages, or bytes of a literal */
	uint64_t index; /* of the first page: its address / 4096; not for LITERAL */
	uint32_t src;   /* DELTA, SAME: first slot */
	uint32_t dst;   /* STORE: first slot */
};

/* What the next operation is measured against. Starts as zero in every batch. */
struct op_prediction {
	uint64_t index; /* page after the last one */
	uint32_t ref;   /* slot after the last page's */
	uint32_t store; /* slot after the last stored one */
};

/* One past the largest page index: an address is below 2^64. */
#define OP_INDEX_LIMIT (UINT64_C(1) << 52)
/* The most that one operation can take, runs of a DELTA apart. */
#define OP_MAX_SIZE 32

struct ops_writer {
	struct buf *out;
	struct op_prediction predicted;
	struct op pending; /* may still grow */
	bool has_pending;
};

void ops_writer_init(struct ops_writer *w, struct buf *out);
/* DELTA is written at once, so that its runs can follow; others may be joined with the next. */
void ops_add(struct ops_writer *w, const struct op *op);
/* What is pending, appended to out; the writer stays as it is. */
void ops_write_pending(const struct ops_writer *w, struct buf *out);

struct ops_reader {
	struct cursor in;
	struct op_prediction predicted;
};

void ops_reader_init(struct ops_reader *r, const void *p, size_t n);
/* 1, 0 at the end, -1 when malformed. After a DELTA the caller reads its runs through ops_run. */
int ops_next(struct ops_reader *r, struct op *op);

static inline uint64_t ops_uleb(struct cursor *c)
{
	if (c->p < c->end && *c->p < 0x80)
		return *c->p++;
	return cursor_uleb(c);
}

#endif
