/*
 * cloud_event.h - an event or a state of the outbox as CloudEvents 1.0 in Kafka's binary mode (EVENTS.md).
 */
#ifndef VMFERRY_REPLICATOR_CLOUD_EVENT_H
#define VMFERRY_REPLICATOR_CLOUD_EVENT_H

#include "replicator/outbox.h"
#include "replicator/producer.h"

struct cloud_event {
	const char *key;
	char *value; /* NULL: the state has ended */
	struct producer_header headers[PRODUCER_MAX_HEADERS];
	size_t n_headers;
	/* what headers point to */
	char type[160], when[32], sequence[24];
};

/* Points into the event, source and host, which must outlive it. Undone by cloud_event_fini. */
void cloud_event_of_event(struct cloud_event *ce, const struct outbox_event *ev, const char *source, const char *host);
void cloud_event_of_state(struct cloud_event *ce, const struct outbox_state *st, const char *source);
void cloud_event_fini(struct cloud_event *ce);

#endif
