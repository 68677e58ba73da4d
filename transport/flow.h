/*
 * flow.h - one direction of a session: batches of many streams, over one or more one-way links, delivered in order per stream,
 * acknowledged, with a bound on what is in flight.
 *
 * Sender: submit -> window (raw bytes for the receiver's memory; wire bytes, about 50 ms of the measured link plus its round trip) -> queue ->
 * one thread per link, whichever is free. Receiver: one thread per link -> on_batch, in any order; the relay orders by number.
 * ACK and STREAM frames of the opposite direction ride on the same links (flow_tx_ack, flow_tx_stream).
 */
#ifndef VMFERRY_TRANSPORT_FLOW_H
#define VMFERRY_TRANSPORT_FLOW_H

#include "base/buf.h"
#include "base/err.h"
#include "transport/link.h"

#include <stdbool.h>
#include <stdint.h>

enum flow_stream_op {
	FLOW_OPEN = 1,   /* a: kind of socket (relay.h), in order of acceptance */
	FLOW_OPENED = 2, /* the other side is connected */
	FLOW_FAILED = 3, /* it could not connect; text */
	FLOW_END = 4,    /* number: no batch at or above it; the writer half-closes after the last one */
	FLOW_RESET = 5,  /* both directions are dead; text */
};

struct flow_stream_msg {
	uint8_t op;
	uint32_t stream;
	uint32_t a;
	uint64_t number;
	char text[200];
};

struct flow_stats {
	uint64_t wire_bytes;      /* payload and frame headers and TLS records */
	uint64_t batches;
	uint64_t in_flight_bytes; /* wire bytes sent or queued, not acknowledged */
	uint64_t rate;            /* bytes per second over the last second */
	uint64_t window;          /* wire bytes allowed in flight now */
	int64_t rtt_ns;           /* least seen from send to acknowledgement */
	double queue_fill;        /* 0..1: how full the send queue is; near 1 the link is what is scarce */
};

/* ---- sending side ---- */
struct flow_tx;
struct flow_tx_opts {
	uint64_t rate_limit;    /* bytes per second on the wire, 0 = none; held within 5 % */
	uint64_t max_raw;       /* raw bytes in flight at most */
	void (*on_error)(void *ctx, const struct err *e); /* first error, once; from a sender thread */
	void *ctx;
};
struct flow_tx *flow_tx_new(const struct flow_tx_opts *opts, struct err *e);
/* Takes the link; starts its thread. */
int flow_tx_add_link(struct flow_tx *f, struct link *l, struct err *e);
/* Queues one encoded batch; takes payload's memory over (payload is left empty). Blocks for the window. -1 after an error or stop. */
int flow_tx_batch(struct flow_tx *f, uint32_t stream, uint64_t number, struct buf *payload, uint64_t raw_bytes,
		  struct err *e);
/* Never block on the window. */
int flow_tx_ack(struct flow_tx *f, uint32_t stream, uint64_t number);
int flow_tx_stream(struct flow_tx *f, const struct flow_stream_msg *m);
/* An ACK came back for this direction. */
void flow_tx_acked(struct flow_tx *f, uint32_t stream, uint64_t number);
void flow_tx_set_rate_limit(struct flow_tx *f, uint64_t bytes_per_s);
void flow_tx_stats(struct flow_tx *f, struct flow_stats *out);
/* Sends what is queued, END on every link, waits for the acknowledgements. */
int flow_tx_finish(struct flow_tx *f, int64_t deadline_ns, struct err *e);
/* From any thread: drop everything, wake everyone. */
void flow_tx_abort(struct flow_tx *f);
void flow_tx_free(struct flow_tx *f);

/* ---- receiving side ---- */
struct flow_rx;
struct flow_rx_handler {
	/* From the link's thread. payload is borrowed. Returning -1 ends the session with the error set. */
	int (*on_batch)(void *ctx, uint32_t stream, uint64_t number, const uint8_t *payload, size_t len, struct err *e);
	int (*on_ack)(void *ctx, uint32_t stream, uint64_t number, struct err *e);
	int (*on_stream)(void *ctx, const struct flow_stream_msg *m, struct err *e);
	/* First error, or class NONE once all links ended cleanly. Once. */
	void (*on_end)(void *ctx, const struct err *e);
	void *ctx;
};
struct flow_rx *flow_rx_new(const struct flow_rx_handler *h);
int flow_rx_add_link(struct flow_rx *f, struct link *l, struct err *e);
void flow_rx_abort(struct flow_rx *f);
uint64_t flow_rx_wire_bytes(struct flow_rx *f);
void flow_rx_free(struct flow_rx *f);

#endif
