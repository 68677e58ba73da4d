/*
 * outbox.h - the agent's durable memory of events: an SQLite table, appended to by whoever has something to tell, read
 * by sequence number by operators (and, once there is a broker, by the forwarder to it).
 *
 * An event is on disk when outbox_append returns. Sequence numbers rise without ever being used again; only the newest
 * `keep` events are retained. All calls may come from any thread.
 */
#ifndef VMFERRY_REPLICATOR_OUTBOX_H
#define VMFERRY_REPLICATOR_OUTBOX_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OUTBOX_DEFAULT_KEEP 100000u
#define OUTBOX_MAX_DATA 65536u
#define OUTBOX_MAX_READ 500u

struct outbox;

struct outbox_event {
	uint64_t seq;
	const char *id;      /* UUID of the event */
	int64_t time_ns;     /* wall clock */
	const char *type;    /* "migration.done" */
	const char *subject; /* UUID of the VM, or "" */
	const json_t *data;
};

/* Opens or creates the database; its folder must exist. keep = 0: OUTBOX_DEFAULT_KEEP. ERR_CORRUPT if the file is
 * not, or no longer, an outbox: outbox_set_aside lets one start afresh. ERR_REFUSED if a newer version wrote it. */
struct outbox *outbox_open(const char *path, uint64_t keep, struct err *e);
/* No call may be under way or follow (outbox_wake gets waiters out). NULL is fine. */
void outbox_close(struct outbox *o);
/* Renames a broken database (and its journal) to PATH.broken-TIME; *moved says where, to be freed. */
int outbox_set_aside(const char *path, char **moved, struct err *e);

/* subject may be NULL. data: borrowed, a JSON object, or NULL. *seq (may be NULL) is the event's number. */
int outbox_append(struct outbox *o, const char *type, const char *subject, const json_t *data, uint64_t *seq,
		  struct err *e);

/* Events with a number above `after`, oldest first, at most max (capped at OUTBOX_MAX_READ), each given to fn,
 * without any lock held; fn returns false to stop. Returns how many were given, or -1. */
int outbox_read(struct outbox *o, uint64_t after, unsigned max, bool (*fn)(void *ctx, const struct outbox_event *ev),
		void *ctx, struct err *e);
/* The number of the newest event ever, 0 if there was none. */
uint64_t outbox_last(struct outbox *o);
/* Waits until there is an event above `after` (true), or the monotonic deadline, or outbox_wake (false). */
bool outbox_wait(struct outbox *o, uint64_t after, int64_t deadline_ns);
/* Makes everyone in outbox_wait return. */
void outbox_wake(struct outbox *o);

/* {"seq","id","time","type","subject","data"}: new reference. */
json_t *outbox_event_json(const struct outbox_event *ev);

#endif
