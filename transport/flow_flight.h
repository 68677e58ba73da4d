/*
 * flow_flight.h - what flow_tx has in flight: every batch from its reservation to its acknowledgement, counted against the bounds of
 * flow.h. Bookkeeping alone: no threads, no clock; flow_tx holds its lock around it.
 */
#ifndef VMFERRY_TRANSPORT_FLOW_FLIGHT_H
#define VMFERRY_TRANSPORT_FLOW_FLIGHT_H

#include "transport/flow_window.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct flow_flight {
	uint64_t max_raw;
	uint64_t rate_limit; /* bytes per second, 0: none */
	struct flow_window window;
	uint64_t raw, wire; /* in flight */
	uint64_t queued;    /* of wire: encoded, and not handed to a link yet */
	uint64_t streams;   /* that may have something in flight */
};

struct flow_record;

struct flow_flight_stream {
	bool urgent; /* only the bound on raw bytes holds for it */
	bool forgotten;
	uint64_t reserved, acked;
	double ratio;             /* wire bytes per raw byte, of late */
	struct flow_record *ring; /* of the batches in flight; NULL before the first and after forget */
};

void flow_flight_init(struct flow_flight *f, uint64_t max_raw);
void flow_flight_stream_init(struct flow_flight *f, struct flow_flight_stream *s, bool urgent);
/* Bytes on the wire, TLS records included, of a batch of that many bytes. */
uint32_t flow_flight_wire_of(size_t payload);
/* Wire bytes that may be in flight now. */
uint64_t flow_flight_window(const struct flow_flight *f);
/*
 * A stream that has nothing in flight is let in whatever the others fill, since the reader at the other end may need just this one to go
 * on with those (QEMU's multifd channels wait for each other); so the others leave half of max_raw to such. *limited is set if it is the
 * window that says no.
 */
bool flow_flight_has_room(const struct flow_flight *f, const struct flow_flight_stream *s, size_t raw, bool *limited);
/* Returns the batch's number. `waited`: it had to wait for the window. */
uint64_t flow_flight_reserve(struct flow_flight *f, struct flow_flight_stream *s, size_t raw, bool waited,
			     int64_t now_ns);
/* The batch was encoded. Its size on the wire. */
uint32_t flow_flight_queue(struct flow_flight *f, struct flow_flight_stream *s, uint64_t number, size_t payload);
/* It is about to be handed to a link. */
void flow_flight_send(struct flow_flight *f, struct flow_flight_stream *s, uint64_t number);
/* Everything below number has arrived: 1 with the wire bytes and the mark of the latest, 0 if that is not new, -1 if it was not sent. */
int flow_flight_ack(struct flow_flight *f, struct flow_flight_stream *s, uint64_t number, uint64_t *wire,
		    struct flow_mark *mark);
/* Nothing of this stream counts any more. */
void flow_flight_forget(struct flow_flight *f, struct flow_flight_stream *s);
/* Raw bytes that make a good batch now. */
size_t flow_flight_hint(const struct flow_flight *f, const struct flow_flight_stream *s);

#endif
