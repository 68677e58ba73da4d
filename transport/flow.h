/*
 * flow.h - one direction of a session: batches of many streams, over one or more one-way links, delivered in order per stream,
 * acknowledged, with a bound on what is in flight. The bytes: PROTOCOL.md section "Streams and flow".
 *
 * Sender: reserve (waits for the window) -> encode, anywhere -> submit -> queue -> one thread per link, whichever is free.
 * Receiver: one thread per link -> on_batch, in any order; the relay orders by number. Acknowledgements and stream control of
 * the opposite direction ride on the same links (flow_tx_ack, flow_tx_stream), ahead of batches.
 *
 * A batch is in flight from its reservation until its acknowledgement, so the window covers encoding, queue, network, decoding and the
 * write to the local socket at the other end. Two bounds, FLOW_MAX_RAW bytes of stream (the receiver's memory) and about 50 ms
 * of the measured rate (flow_window.h), besides FLOW_MAX_BATCHES per stream. No stream waits for the others' bytes to be taken: one
 * that has nothing in flight is let in past the window (flow_flight.h).
 */
#ifndef VMFERRY_TRANSPORT_FLOW_H
#define VMFERRY_TRANSPORT_FLOW_H

#include "base/buf.h"
#include "base/err.h"
#include "transport/link.h"

#include <stdbool.h>
#include <stdint.h>

/* Protocol constants: what a receiver must be able to hold, per direction, and per stream. */
#define FLOW_MAX_RAW (UINT64_C(32) * 1024 * 1024)
#define FLOW_MAX_BATCHES 1024u
/* Streams a session may have in all. */
#define FLOW_MAX_STREAMS 1024u

enum flow_stream_op {
	FLOW_OPEN = 1,   /* a: kind of socket (relay.h), in order of acceptance */
	FLOW_OPENED = 2, /* the other side is connected */
	FLOW_FAILED = 3, /* it could not connect; text */
	FLOW_END = 4,    /* number: no batch at or above it; the writer half-closes after the last one */
	FLOW_RESET = 5, /* the sender's local socket is gone: number as in END, then close; nothing more is wanted; text */
};

struct flow_stream_msg {
	uint8_t op;
	uint32_t stream;
	uint32_t a;
	uint64_t number;
	char text[200];
};

#define FLOW_MSG_HEAD 20
#define FLOW_MSG_MAX (FLOW_MSG_HEAD + 199)
#define FLOW_BATCH_HEAD 12

/* The payload of a STREAM frame. Returns its length; out has FLOW_MSG_MAX bytes. */
size_t flow_msg_encode(const struct flow_stream_msg *m, uint8_t *out);
/* ERR_PROTOCOL. Control characters in the text become '?'. */
int flow_msg_decode(const uint8_t *p, size_t n, struct flow_stream_msg *m, struct err *e);
/* The payload of an ACK frame and the first bytes of a BATCH frame. */
void flow_head_encode(uint32_t stream, uint64_t number, uint8_t out[FLOW_BATCH_HEAD]);
/* ERR_PROTOCOL when short, or when the stream is 0. */
int flow_head_decode(const uint8_t *p, size_t n, uint32_t *stream, uint64_t *number, struct err *e);

struct flow_stats {
	uint64_t wire_bytes; /* payload and frame headers and TLS records */
	uint64_t batches;
	uint64_t in_flight_bytes; /* wire bytes reserved, queued or sent, not acknowledged */
	uint64_t in_flight_raw;
	uint64_t rate;          /* wire bytes per second over the last second */
	uint64_t delivery_rate; /* wire bytes per second as acknowledged while the way was busy; 0: not known yet */
	uint64_t window;        /* wire bytes allowed in flight now */
	int64_t rtt_ns;         /* least seen from reservation to acknowledgement, of late; 0: none yet */
	int64_t network_busy_ns; /* since the beginning: for how long the busiest link waited for the network (tcp_busy.h) */
	bool paced;              /* the rate limit is holding something back */
};

/* ---- sending side ---- */
struct flow_tx;
struct flow_tx_opts {
	uint64_t rate_limit; /* bytes per second on the wire, 0 = none; held within 5 % */
	uint64_t max_raw;    /* raw bytes in flight at most; 0 = FLOW_MAX_RAW */
	/* First error, once; from a sender thread. Not after flow_tx_abort. */
	void (*on_error)(void *ctx, const struct err *e);
	/* Gets back the memory of a payload that was sent or dropped; NULL: freed. From any thread, also from inside of flow_tx_batch. */
	void (*recycle)(void *ctx, struct buf *payload);
	void *ctx;
};
struct flow_tx *flow_tx_new(const struct flow_tx_opts *opts, struct err *e);
/* Takes the link, also on failure; starts its thread. */
int flow_tx_add_link(struct flow_tx *f, struct link *l, struct err *e);

/* Makes a stream known, before anything else is said of it. `urgent`: its batches do not wait for the wire window and go first. */
void flow_tx_add_stream(struct flow_tx *f, uint32_t stream, bool urgent);
/* Waits for room for a batch of that many raw bytes (a stream's first in flight is always let in) and gives it its number: 0, 1, ... per
 * stream. -1 (ERR_CANCELLED) after an error, an abort or flow_tx_forget. */
int flow_tx_reserve(struct flow_tx *f, uint32_t stream, size_t raw_bytes, uint64_t *number, struct err *e);
/* Queues the encoded batch of a reservation, in any order; takes payload's memory over (payload is left empty). Does not block. -1 as above,
 * with the payload recycled; a forgotten stream's batch is dropped silently. */
int flow_tx_batch(struct flow_tx *f, uint32_t stream, uint64_t number, struct buf *payload, struct err *e);
/* Raw bytes that make a good batch now: about 10 ms of the link, between 64 KiB and 1 MiB. */
size_t flow_tx_batch_hint(struct flow_tx *f, uint32_t stream);
/* Never block. A later ack of a stream replaces one that is still queued. */
int flow_tx_ack(struct flow_tx *f, uint32_t stream, uint64_t number);
int flow_tx_stream(struct flow_tx *f, const struct flow_stream_msg *m);
/* An ACK came back for this direction: every batch below `number` was delivered. ERR_PROTOCOL if those were not sent. */
int flow_tx_acked(struct flow_tx *f, uint32_t stream, uint64_t number, struct err *e);
/* Nobody wants this stream any more: what it has in flight no longer counts, what is queued is dropped, its reservations fail. */
void flow_tx_forget(struct flow_tx *f, uint32_t stream);
/* Batches reserved and acknowledged so far. */
void flow_tx_progress(struct flow_tx *f, uint32_t stream, uint64_t *reserved, uint64_t *acked);
void flow_tx_set_rate_limit(struct flow_tx *f, uint64_t bytes_per_s);
void flow_tx_stats(struct flow_tx *f, struct flow_stats *out);
/* Sends what is queued, END on every link, waits for the acknowledgements. */
int flow_tx_finish(struct flow_tx *f, int64_t deadline_ns, struct err *e);
/* From any thread: drop everything, wake everyone. */
void flow_tx_abort(struct flow_tx *f);
/* Aborts what is not finished, joins. NULL is fine. */
void flow_tx_free(struct flow_tx *f);

/* ---- receiving side ---- */
struct flow_rx;
struct flow_rx_handler {
	/* From the link's thread; must not block for long. Returning -1 ends the session with the error set. payload is borrowed, but the whole
	 * frame, of which it is what follows the first FLOW_BATCH_HEAD bytes, may be had by link_take_payload(link). */
	int (*on_batch)(void *ctx, struct link *link, uint32_t stream, uint64_t number, const uint8_t *payload,
			size_t len, struct err *e);
	int (*on_ack)(void *ctx, uint32_t stream, uint64_t number, struct err *e);
	int (*on_stream)(void *ctx, const struct flow_stream_msg *m, struct err *e);
	/* First error, or class NONE once all links ended cleanly. Once; not after flow_rx_abort. */
	void (*on_end)(void *ctx, const struct err *e);
	void *ctx;
};
/* For exactly n_links links. */
struct flow_rx *flow_rx_new(const struct flow_rx_handler *h, size_t n_links);
/* Takes the link, also on failure; starts its thread. */
int flow_rx_add_link(struct flow_rx *f, struct link *l, struct err *e);
void flow_rx_abort(struct flow_rx *f);
uint64_t flow_rx_wire_bytes(struct flow_rx *f);
/* Aborts what has not ended, joins. NULL is fine. */
void flow_rx_free(struct flow_rx *f);

#endif
