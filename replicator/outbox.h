/*
 * outbox.h - the agent's durable memory of events: an SQLite table, appended to by whoever has something to tell, read
 * by sequence number by operators and by the forwarder to a broker; and beside it the latest state of things.
 *
 * An event is on disk when outbox_append returns. Sequence numbers rise without ever being used again; only the newest
 * `keep` events are retained. States have numbers of their own, new with every change, and each key has one row: its
 * latest. All calls may come from any thread.
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

/* ---- the latest state of each protection and restore point ---- */

#define OUTBOX_MAX_KEY 200u

struct outbox_state {
	uint64_t seq;
	const char *key;
	const char *id;      /* UUID of this change */
	int64_t time_ns;     /* wall clock */
	const json_t *data;  /* NULL: gone */
};

/* On disk when it returns. data: borrowed, a JSON object, or NULL: the thing is gone. A state as it already was, and the
 * end of what was never told to anybody, are no change. */
int outbox_put_state(struct outbox *o, const char *key, const json_t *data, struct err *e);
struct outbox_put {
	const char *key;
	const json_t *data;
};
/* Several of them in one transaction: all, or none. */
int outbox_put_states(struct outbox *o, const struct outbox_put *p, size_t n, struct err *e);
/* As outbox_read. What is given counts as told from here on, so that its end will be too. */
int outbox_read_states(struct outbox *o, uint64_t after, unsigned max,
		       bool (*fn)(void *ctx, const struct outbox_state *st), void *ctx, struct err *e);
/* The number of the newest change of a state ever, 0 if there was none. */
uint64_t outbox_last_state(struct outbox *o);
/* How many states are above that number (ends included). */
int outbox_count_states(struct outbox *o, uint64_t after, uint64_t *n, struct err *e);

/* ---- how far the forwarder has come ---- */

struct outbox_position {
	uint64_t events; /* all up to this number are with the broker, or lost */
	uint64_t states;
};

/* Where it stopped. The first time ever: before the oldest event there is. `target` names the topic and its broker: for
 * another one than last time all states are to be told again (events are not). */
int outbox_get_position(struct outbox *o, const char *target, struct outbox_position *out, struct err *e);
/* On disk when it returns; ends of states up to there are forgotten. Never goes back. */
int outbox_set_position(struct outbox *o, const struct outbox_position *pos, struct err *e);
/* If events above `after` are no longer there: appends the event "events.dropped" with how many, and how many that makes
 * together with `before`; *up_to is the last of them. Returns their number, 0 for none (then *up_to = after), or -1. */
int64_t outbox_skip_trimmed(struct outbox *o, uint64_t after, uint64_t before, uint64_t *up_to, struct err *e);
/* As outbox_wait, also for a state above after_state. */
bool outbox_wait_either(struct outbox *o, uint64_t after, uint64_t after_state, int64_t deadline_ns);

/* {"seq","id","time","type","subject","data"}: new reference. */
json_t *outbox_event_json(const struct outbox_event *ev);

#endif
