/*
 * store_sink.h - a transaction of a store as a capture's sink (capture.h): what is given to it becomes a part, or a point.
 */
#ifndef VMFERRY_REPLICATOR_STORE_SINK_H
#define VMFERRY_REPLICATOR_STORE_SINK_H

#include "base/err.h"
#include "snapshot/capture.h"
#include "snapshot/store.h"

#include <jansson.h>
#include <stdint.h>

struct store_sink {
	struct store_txn *txn; /* NULL: none is under way */
};

int store_sink_begin(struct store_sink *s, struct store *store, enum store_txn_kind kind, struct err *e);
/* Good for as long as s is. */
struct capture_sink store_sink_of(struct store_sink *s);
/* Steals meta. *seq (may be NULL): the point's number. The transaction is over, whatever it returns. */
int store_sink_commit(struct store_sink *s, json_t *meta, uint64_t *seq, struct err *e);
/* If it was not committed. */
void store_sink_abort(struct store_sink *s);
/* A point's metadata as all have it (id, instant_ns, kind, capture, pause_ns, dirty_bytes, quiesced), and `more` (borrowed, may be NULL). New reference. */
json_t *store_sink_meta(const json_t *more, const char *kind, const char *capture, const struct capture_point *p);

#endif
