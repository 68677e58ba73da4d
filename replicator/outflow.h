/*
 * outflow.h - one stream of bytes to the peer, pages in it recognised: batches (codec.h), encoded in a pool, over the data links (flow.h), with
 * acknowledgements and a bound on what is in flight. The other end is inflow.h.
 *
 * One thread writes; the rest may be called from any.
 */
#ifndef VMFERRY_REPLICATOR_OUTFLOW_H
#define VMFERRY_REPLICATOR_OUTFLOW_H

#include "base/err.h"
#include "base/pool.h"
#include "transport/codec.h"
#include "transport/link.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OUTFLOW_STREAM 1u
#define OUTFLOW_LEVEL_AUTO (INT32_MIN + 1)

struct outflow_opts {
	struct pool *pool;   /* encodes; NULL: the writer's thread does */
	uint32_t slots;      /* versions of pages that the peer keeps too; 0: none */
	uint64_t rate_limit; /* bytes per second on the wire; 0: none */
	int level;           /* OUTFLOW_LEVEL_AUTO, CODEC_RAW or zstd's */
	/* The first error, once; from a thread that must not call outflow_free. May be NULL. */
	void (*on_error)(void *ctx, const struct err *e);
	void *ctx;
};

struct outflow;
/* Takes all links, also on failure. forward: batches go out. backward: acknowledgements come in. */
struct outflow *outflow_new(const struct outflow_opts *opts, struct link **forward, size_t n_forward, struct link **backward,
			    size_t n_backward, struct err *e);
/* Ends it, whatever is under way. NULL is fine. */
void outflow_free(struct outflow *o);
/* Any thread: what blocks returns with an error. */
void outflow_abort(struct outflow *o);
/* Has it failed? e is filled with the first error. */
bool outflow_broken(struct outflow *o, struct err *e);

/* All may wait for the window. -1: the first error of the session. */
int outflow_literal(struct outflow *o, const void *p, size_t n, struct err *e);
int outflow_page(struct outflow *o, uint64_t page_no, uint64_t addr, const uint8_t *data, struct err *e);
int outflow_zero(struct outflow *o, uint64_t page_no, uint64_t addr, struct err *e);
/* What is gathered goes out. */
int outflow_flush(struct outflow *o, struct err *e);

/* XXH3-64 of what was written since outflow_hash_start. */
void outflow_hash_start(struct outflow *o);
uint64_t outflow_hash(struct outflow *o);

void outflow_set_rate_limit(struct outflow *o, uint64_t bytes_per_s);
/* Never below this level, though the link has room: what travels is also paid for elsewhere. CODEC_RAW: no floor. */
void outflow_set_floor(struct outflow *o, int level);

struct outflow_stats {
	uint64_t raw_bytes; /* written since the beginning */
	uint64_t wire_bytes;
	uint64_t rate;      /* wire bytes per second of late */
	int64_t rtt_ns;
	int level;
	struct codec_stats codec;
};
void outflow_stats(struct outflow *o, struct outflow_stats *out);

#endif
