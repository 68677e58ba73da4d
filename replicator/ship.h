/*
 * ship.h - the source's end of a session: a capture_sink that sends what the peer does not have, as transactions of records.h.
 *
 *	ship_begin(id) -> capture_start or capture_take with ship_sink() -> ship_finish(point or part)
 *
 * A long transaction is cut into parts on the way, each committed by the peer: so a first copy that breaks off has not been for nothing. Only
 * the last may be a point. After any failure the session is only good for ship_free: the next one finds out by hashes what is missing.
 *
 * One thread (the capture's), but for ship_abort, ship_stats and the settings.
 */
#ifndef VMFERRY_REPLICATOR_SHIP_H
#define VMFERRY_REPLICATOR_SHIP_H

#include "base/err.h"
#include "base/pool.h"
#include "replicator/outflow.h"
#include "snapshot/capture.h"
#include "snapshot/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ship_range {
	uint64_t first, count;
};

struct ship_opts {
	struct pool *pool;
	uint32_t slots;
	uint64_t rate_limit;
	int level; /* OUTFLOW_LEVEL_AUTO, CODEC_RAW or zstd's */
	uint8_t secret[32];
	const struct store_volume *peer; /* what the peer has; copied */
	size_t n_peer;
	uint64_t part_bytes; /* a transaction of more is cut; 0: 256 MiB */
	/* One that takes longer too, until a point is committed: a slow link that breaks now and then gets on all the same. 0: never. Later a part
	 * would be in the way: behind one, the latest point is not what the head images are. */
	int64_t part_ns;
	/* Asks the peer for the hashes of these blocks, one after the other. In the capture's thread. */
	int (*hashes)(void *ctx, const struct store_volume *v, const struct ship_range *ranges, size_t n, uint8_t *out,
		      struct err *e);
	/* Has the peer commit what was sent under that id, and waits for it. meta: borrowed, NULL for a part. */
	int (*commit)(void *ctx, const char *id, bool point, const json_t *meta, uint64_t *seq, struct err *e);
	/* The first error of the links, once; must not call ship_free. May be NULL. */
	void (*on_error)(void *ctx, const struct err *e);
	void *ctx;
};

struct ship;
struct ship *ship_new(const struct ship_opts *opts, struct link **forward, size_t n_forward, struct link **backward,
		      size_t n_backward, struct err *e);
void ship_free(struct ship *s); /* NULL is fine */
void ship_abort(struct ship *s);
bool ship_broken(struct ship *s, struct err *e);

/* What a transaction came to. */
struct ship_tally {
	uint64_t offered_bytes; /* by the capture */
	uint64_t sent_bytes;    /* of blocks that the peer did not have; 4096 each */
	uint64_t wire_bytes;
	unsigned parts; /* cut off and committed before the last */
};

/* Everything the sink is given from here on belongs to `id`. */
int ship_begin(struct ship *s, const char *id, struct err *e);
const struct capture_sink *ship_sink(struct ship *s);
/* COMMIT, and the peer's word that it is durable. *tally may be NULL. meta(ctx, tally) gives the point's metadata (new reference) once its
 * numbers are known; NULL: a part. */
int ship_finish(struct ship *s, json_t *(*meta)(void *ctx, const struct ship_tally *t), void *ctx, uint64_t *seq,
		struct ship_tally *tally, struct err *e);

/* Nothing was given to the sink since ship_begin: as if it had not been called. False if something was: it must be finished, as a part at least. */
bool ship_cancel(struct ship *s);

/* Any thread. */
void ship_stats(struct ship *s, struct outflow_stats *out);
void ship_set_rate_limit(struct ship *s, uint64_t bytes_per_s);
void ship_set_floor(struct ship *s, int level);

#endif
