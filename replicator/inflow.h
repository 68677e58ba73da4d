/*
 * inflow.h - the other end of outflow.h: batches come in any order over the data links, are decoded in a pool, and leave in order as the bytes of
 * the stream. Acknowledged is what the sink has taken.
 */
#ifndef VMFERRY_REPLICATOR_INFLOW_H
#define VMFERRY_REPLICATOR_INFLOW_H

#include "base/err.h"
#include "base/pool.h"
#include "transport/link.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct inflow_opts {
	struct pool *pool; /* decodes; NULL: the thread that delivers does */
	uint32_t slots;
	/* The stream's next bytes, in the inflow's own thread. -1 ends the session with that error. May block: the sender then waits. */
	int (*bytes)(void *ctx, const uint8_t *p, size_t n, struct err *e);
	/* The first error, once, from a thread that must not call inflow_free; also when the peer ends the session. */
	void (*on_error)(void *ctx, const struct err *e);
	void *ctx;
};

struct inflow;
/* Takes all links, also on failure. forward: batches come in. backward: acknowledgements go out. */
struct inflow *inflow_new(const struct inflow_opts *opts, struct link **forward, size_t n_forward, struct link **backward,
			  size_t n_backward, struct err *e);
/* Any thread: nothing more is delivered once it has returned and `bytes` is not running. */
void inflow_abort(struct inflow *i);
/* Aborts, joins. NULL is fine. */
void inflow_free(struct inflow *i);
uint64_t inflow_wire_bytes(struct inflow *i);

#endif
