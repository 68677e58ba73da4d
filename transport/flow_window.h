/*
 * flow_window.h - how many bytes may be in flight, and when the next may go: the arithmetic of flow_tx, without threads or clocks.
 *
 * The window is rate * (FLOW_WINDOW_TARGET + least round trip). As the rate is what was delivered per time, a window that is
 * full for less than that long makes itself larger, and the fixed point is a queue of FLOW_WINDOW_TARGET on the bottleneck,
 * wherever that is: rate limit, network, decoder, or the reader at the other end.
 *
 * What fills it may also be work: where threads wait long for a CPU, even an empty network takes more than FLOW_WINDOW_TARGET to come
 * back. A network that stands idle while the window holds the sender back raises the target, up to FLOW_WINDOW_PATIENCE.
 *
 * It at most doubles per round trip, and only when it is what holds the sender back: a shaper that lets the first bytes pass at full
 * speed would otherwise make it believe in a link that is not there.
 */
#ifndef VMFERRY_TRANSPORT_FLOW_WINDOW_H
#define VMFERRY_TRANSPORT_FLOW_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#define FLOW_WINDOW_TARGET_NS (INT64_C(50) * 1000000)
#define FLOW_WINDOW_PATIENCE_NS (INT64_C(150) * 1000000)
#define FLOW_WINDOW_FLOOR (UINT64_C(512) * 1024)
#define FLOW_WINDOW_CAP (UINT64_C(64) * 1024 * 1024)

#define FLOW_WINDOW_SAMPLES 3

struct flow_window {
	uint64_t delivered;                 /* bytes acknowledged so far */
	int64_t delivered_ns;               /* when last */
	double rate;                        /* bytes per second; 0: not known */
	double sample[FLOW_WINDOW_SAMPLES]; /* of the last long rounds, of which the median counts: in a moment without CPU
					     * the way seems slow, and after it fast */
	unsigned n_samples;
	int64_t rtt[2]; /* least of this and of the epoch before; INT64_MAX: none */
	int64_t epoch_ns;
	uint64_t window;                 /* bytes that may be in flight now */
	uint64_t round_start;            /* `delivered` when this round trip began */
	bool limited;                    /* something in this round had to wait for the window */
	int64_t round_ns, round_busy_ns; /* when it began; the caller's busy_ns then */
	bool paused;                     /* the round has time in it in which there was nothing to send */
	int64_t target_ns;               /* between FLOW_WINDOW_TARGET_NS and FLOW_WINDOW_PATIENCE_NS */
	/* Until the rate stops growing, the round trip counts double, so that the window doubles on long ways too. */
	bool startup;
	double round_rate;
	unsigned flat_rounds;
};

/* Kept with each batch. */
struct flow_mark {
	int64_t sent_ns;
	uint64_t delivered;
	int64_t delivered_ns;
	bool limited; /* it had to wait for the window, and filled it */
};

void flow_window_init(struct flow_window *w);
void flow_window_sent(struct flow_window *w, int64_t now_ns, bool idle, bool limited, struct flow_mark *out);
/* `bytes` were acknowledged together; m is the mark of the latest of them. busy_ns: for how long, since the beginning, the network or the
 * queue before it had something to do; it is looked at if flow_window_round_ends(). */
void flow_window_acked(struct flow_window *w, const struct flow_mark *m, uint64_t bytes, int64_t busy_ns,
		       int64_t now_ns);
bool flow_window_round_ends(const struct flow_window *w, const struct flow_mark *m);
uint64_t flow_window_bytes(const struct flow_window *w);
/* For how long data may be on its way besides the round trip, now. */
int64_t flow_window_target(const struct flow_window *w);
int64_t flow_window_rtt(const struct flow_window *w); /* 0: none yet */

/* A token bucket that lets a frame go as soon as it is not in debt, and charges it in full: exact on the average, and the burst
 * is one frame and FLOW_BUCKET_BURST. */
#define FLOW_BUCKET_BURST_NS (INT64_C(30) * 1000000)

struct flow_bucket {
	uint64_t rate; /* bytes per second, 0: no limit */
	double tokens;
	int64_t at_ns;
};

void flow_bucket_set(struct flow_bucket *b, uint64_t rate, int64_t now_ns);
/* 0: go; else nanoseconds to wait. */
int64_t flow_bucket_wait(struct flow_bucket *b, int64_t now_ns);
void flow_bucket_take(struct flow_bucket *b, uint64_t bytes);

#endif
