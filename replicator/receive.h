/*
 * receive.h - the target's end of a session: what ship.h sends becomes transactions of the store.
 *
 * Everything that comes is checked (records.h); the first lie, and the first error of the store, ends the session, and what was staged is as if
 * it had never been. Nothing is committed but by receive_commit.
 */
#ifndef VMFERRY_REPLICATOR_RECEIVE_H
#define VMFERRY_REPLICATOR_RECEIVE_H

#include "base/err.h"
#include "base/pool.h"
#include "snapshot/store.h"
#include "transport/link.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct receive_opts {
	struct pool *pool;
	uint32_t slots;
	struct store *store; /* borrowed; nobody else writes to it meanwhile */
	/* The first error, once; must not call receive_free. May be NULL. */
	void (*on_error)(void *ctx, const struct err *e);
	void *ctx;
};

struct receive;
struct receive *receive_new(const struct receive_opts *opts, struct link **forward, size_t n_forward, struct link **backward,
			    size_t n_backward, struct err *e);
/* No call may be under way. What is staged is dropped. NULL is fine. */
void receive_free(struct receive *r);
/* Any thread: everything under way fails. */
void receive_abort(struct receive *r);
/* The first error, if there was one. */
bool receive_broken(struct receive *r, struct err *e);

/* Waits until the transaction `id` has come whole, and makes it durable. A part has no meta. ERR_PROTOCOL if another one came, or none before the
 * deadline. One at a time. */
int receive_commit(struct receive *r, const char *id, bool point, const json_t *meta, int64_t deadline_ns, uint64_t *seq,
		   struct err *e);
uint64_t receive_wire_bytes(struct receive *r);

#endif
