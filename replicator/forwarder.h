/*
 * forwarder.h - drains the outbox to Kafka: events, in order, to one topic; the latest state of each protection and restore
 * point to a compacted one. EVENTS.md is what consumers may rely on.
 *
 * All of it happens in a thread of its own. Whoever appends to the outbox never waits for a broker, nor learns that there is
 * one. A position on disk (outbox_set_position) follows the broker's acknowledgements, in order: what is not acknowledged is
 * sent again, after a restart too, so that every event arrives at least once. At most FORWARDER_WINDOW messages are
 * with librdkafka; the rest waits in the outbox.
 *
 *	connecting -> sending -> (the producer fails) backing off, 1 s to 60 s -> connecting, from the position
 */
#ifndef VMFERRY_REPLICATOR_FORWARDER_H
#define VMFERRY_REPLICATOR_FORWARDER_H

#include "base/err.h"
#include "replicator/inflight.h"
#include "replicator/outbox.h"
#include "replicator/producer.h"

#include <stdbool.h>
#include <stdint.h>

#define FORWARDER_WINDOW INFLIGHT_MAX

struct forwarder;

struct forwarder_opts {
	const char *host;    /* this agent's name */
	const char *brokers; /* "host:port,..." */
	const char *topic;
	const char *state_topic;
	const struct producer_property *properties; /* librdkafka's */
	size_t n_properties;
	int64_t backoff_ns; /* the first one; 0: 1 s */
};

/* ERR_CONFIG if librdkafka will not have the properties. Connects to nothing. */
int forwarder_check(const struct forwarder_opts *opts, struct err *e);
/* Copies the options; the outbox is borrowed until forwarder_stop. ERR_CONFIG as forwarder_check. */
struct forwarder *forwarder_start(struct outbox *o, const struct forwarder_opts *opts, struct err *e);
/* Gives what is waiting up to grace_ns to be acknowledged, keeps the position, and leaves the outbox alone from then on.
 * librdkafka may be seconds in ending; that is not waited for beyond 2 s. NULL is fine. */
void forwarder_stop(struct forwarder *f, int64_t grace_ns);

struct forwarder_status {
	bool connected;          /* the last that was heard of a broker was good */
	uint64_t waiting;        /* events not acknowledged */
	uint64_t waiting_states; /* the same for states */
	uint64_t sent;           /* messages acknowledged since the start */
	uint64_t dropped;        /* events lost since the start: trimmed unsent, or refused by the broker */
	uint64_t restarts;       /* producers thrown away since the start */
	struct err problem;      /* of the last failure; not set if connected */
};

/* With probe_ns > 0 a broker is asked, for at most that time, whether it is there. Any thread. */
void forwarder_status(struct forwarder *f, int64_t probe_ns, struct forwarder_status *out);

#endif
