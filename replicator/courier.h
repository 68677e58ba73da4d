/*
 * courier.h - a session at the host that keeps the replica: replica.begin, data links, hashes, commits, replica.end. What it carries is ship.h's.
 */
#ifndef VMFERRY_REPLICATOR_COURIER_H
#define VMFERRY_REPLICATOR_COURIER_H

#include "base/err.h"
#include "base/pool.h"
#include "replicator/ship.h"
#include "transport/link.h"
#include "transport/rpc.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* How to reach peers. */
struct courier_ways {
	/* New reference to the control connection. */
	struct rpc *(*connect_peer)(void *ctx, const char *host, struct err *e);
	/* One more link to it; steals hello. */
	struct link *(*connect_data)(void *ctx, const char *host, json_t *hello, struct err *e);
	void *ctx;
};

struct courier_opts {
	struct courier_ways ways;
	const char *host, *uuid, *vm, *mode;
	uint64_t epoch;
	uint64_t memory_bytes;
	const json_t *keep; /* retention; may be NULL */
	int64_t rpo_ms;
	const char *xml; /* may be NULL */
	unsigned channels;
	uint64_t delta_cache;
	uint64_t rate_limit;
	int level;
	uint64_t part_bytes;
	struct pool *pool;
	/* Becomes true when nobody wants to wait any more. */
	const volatile bool *cancel;
};

/* replica.status at the peer: *theirs is a new reference. */
int courier_ask(const struct courier_opts *o, json_t **theirs, struct err *e);
/* replica.release at the peer. */
int courier_release(const struct courier_opts *o, struct err *e);

/* replica.adopt at the peer: what is left there of the VM becomes a replica at `epoch` (adoption.h). Takes as long as reading it does. */
int courier_adopt(const struct courier_opts *o, struct err *e);

/* replica.fits at the peer: could it start that VM, with disks of those targets replicated? *findings: what would be different there, [{"what","text"}] (new
 * reference). ERR_REFUSED: it could not. A peer of before this call finds nothing. */
int courier_fits(const struct courier_opts *o, const char *xml, const json_t *disks, json_t **findings, struct err *e);

/* replica.seed at the peer: the replica begins with images that are there. disks: [{"disk","path","size"}], borrowed. check: only whether it would be
 * refused. note (may be NULL): {"disk","done","total"} now and then, from a thread that must not be held up. */
int courier_seed(const struct courier_opts *o, const json_t *disks, bool check,
		 void (*note)(void *ctx, const json_t *note), void *ctx, struct err *e);

struct courier;
struct courier *courier_open(const struct courier_opts *o, struct err *e);
/* Ends the session. why (may be NULL): the error it ended with here; what the other side says of it is put in its place, if that is the cause. */
void courier_close(struct courier *c, struct err *why);
/* Any thread. */
void courier_abort(struct courier *c);
struct ship *courier_ship(struct courier *c);
/* {"seq","id","instant_ns"} of the latest point that the peer had at the beginning, or NULL. Borrowed. */
const json_t *courier_last(const struct courier *c);
/* What the replica takes at the peer, as it said last; -1: it does not say. Any thread. */
int64_t courier_space_bytes(const struct courier *c);
/* How many points the peer keeps, as it last said; -1: it has not. */
int64_t courier_points(const struct courier *c);

#endif
