/*
 * producer.h - librdkafka's idempotent producer, with its errors as ours. Used by one thread; librdkafka has threads of its
 * own, none of which runs our code: callbacks come from producer_poll alone.
 */
#ifndef VMFERRY_REPLICATOR_PRODUCER_H
#define VMFERRY_REPLICATOR_PRODUCER_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PRODUCER_MAX_HEADERS 12u

struct producer;

struct producer_property {
	const char *name, *value;
};

enum producer_outcome {
	PRODUCER_DELIVERED,
	PRODUCER_REFUSED, /* the broker will not take this message (or the batch it was in), however often it is sent */
	PRODUCER_FAILED,  /* everything else */
};

struct producer_opts {
	const char *brokers; /* "host:port,host:port" */
	const struct producer_property *properties;
	size_t n_properties;
	/* Once per message that was sent, from producer_poll. why: set unless delivered. */
	void (*outcome)(void *ctx, uint64_t tag, enum producer_outcome outcome, const struct err *why);
	/* Something is wrong that librdkafka goes on trying to mend; from producer_poll. May come often. */
	void (*trouble)(void *ctx, const struct err *why);
	void *ctx;
};

struct producer_header {
	const char *name, *value;
};

struct producer_message {
	const char *topic;
	const char *key;
	const char *value; /* NULL: none, which ends the key in a compacted topic */
	const struct producer_header *headers;
	size_t n_headers;
	uint64_t tag; /* given back to outcome() */
};

/* Are these properties such that a producer can be made of them? Makes no connection. ERR_CONFIG with the property in the
 * text ("properties[2]: no.such: No such configuration property"). */
int producer_check(const struct producer_opts *opts, struct err *e);
/* Returns at once, connections are made behind. The strings need not live on. */
struct producer *producer_new(const struct producer_opts *opts, struct err *e);
/* What was sent and has no outcome yet is dropped without one. May take seconds (a name being looked up). NULL is fine. */
void producer_free(struct producer *p);

/* Copies the message. 0; 1 if the queue is full (poll, and try again); -1 with the error set: ERR_REFUSED if it will never
 * be taken. */
int producer_send(struct producer *p, const struct producer_message *m, struct err *e);
/* Waits up to that time for outcomes and trouble, and says them. */
void producer_poll(struct producer *p, int64_t timeout_ns);
/* True, with the error set, once the producer is of no more use (librdkafka's fatal errors). */
bool producer_is_fatal(struct producer *p, struct err *e);
/* Makes a compacted topic, with the broker's defaults for all else, unless a topic of that name is there. 0 if it is now, or was;
 * 1 if the broker did not answer in time; -1 if it will not (e: why). */
int producer_make_compacted(struct producer *p, const char *topic, int64_t timeout_ns, struct err *e);
/* Asks a broker who is there; 0 if one answers in time. */
int producer_probe(struct producer *p, int64_t timeout_ns, struct err *e);

#endif
