#include "transport/flow_window.h"

#include <string.h>

#define NS 1e9
#define RTT_EPOCH_NS (INT64_C(5) * 1000000000)
/* Shorter than this an interval says more about wake-ups than about the way. */
#define SAMPLE_MIN_NS 50000
#define LONG_ROUND_NS (INT64_C(25) * 1000000)
#define SAMPLES FLOW_WINDOW_SAMPLES
/* A network that is busy for less than BUSY_LOW of the time stands idle too often; from BUSY_FULL on it has all it can carry. */
#define BUSY_LOW 0.85
#define BUSY_FULL 0.97
#define TARGET_UP 1.25
#define TARGET_DOWN 0.97
#define STARTUP_GROWTH 1.25
#define STARTUP_ROUNDS 3

void flow_window_init(struct flow_window *w)
{
	memset(w, 0, sizeof(*w));
	w->rtt[0] = w->rtt[1] = INT64_MAX;
	w->startup = true;
	w->window = FLOW_WINDOW_FLOOR;
	w->target_ns = FLOW_WINDOW_TARGET_NS;
}

void flow_window_sent(struct flow_window *w, int64_t now_ns, bool idle, bool limited, struct flow_mark *out)
{
	/* The time in which there was nothing to send is not the way's. */
	if (idle) {
		w->delivered_ns = now_ns;
		w->paused = true;
	}
	*out = (struct flow_mark){
		.sent_ns = now_ns, .delivered = w->delivered, .delivered_ns = w->delivered_ns, .limited = limited
	};
}

static void note_rtt(struct flow_window *w, int64_t rtt, int64_t now_ns)
{
	if (now_ns - w->epoch_ns > RTT_EPOCH_NS) {
		w->rtt[1] = w->rtt[0];
		w->rtt[0] = INT64_MAX;
		w->epoch_ns = now_ns;
	}
	if (rtt < w->rtt[0])
		w->rtt[0] = rtt;
}

int64_t flow_window_rtt(const struct flow_window *w)
{
	int64_t least = w->rtt[0] < w->rtt[1] ? w->rtt[0] : w->rtt[1];

	return least == INT64_MAX ? 0 : least;
}

static uint64_t wanted(const struct flow_window *w)
{
	const double rtt = (double)flow_window_rtt(w) * (w->startup ? 2 : 1);
	const double bytes = w->rate * ((double)w->target_ns + rtt) / NS;

	if (bytes < (double)FLOW_WINDOW_FLOOR)
		return FLOW_WINDOW_FLOOR;
	return bytes > (double)FLOW_WINDOW_CAP ? FLOW_WINDOW_CAP : (uint64_t)bytes;
}

static void end_startup_if_flat(struct flow_window *w)
{
	if (w->rate >= w->round_rate * STARTUP_GROWTH) {
		w->round_rate = w->rate;
		w->flat_rounds = 0;
	} else if (++w->flat_rounds >= STARTUP_ROUNDS) {
		w->startup = false;
	}
}

static double median(const double s[SAMPLES])
{
	const double low = s[0] < s[1] ? s[0] : s[1], high = s[0] < s[1] ? s[1] : s[0];

	return s[2] < low ? low : s[2] > high ? high : s[2];
}

/* `full`: the network was at work all the time, so that the sample is about it; else it is about those who feed it, and says only that the
 * network is at least as fast. */
static void note_rate(struct flow_window *w, const struct flow_mark *m, bool full, int64_t now_ns)
{
	const int64_t took = now_ns - m->delivered_ns > SAMPLE_MIN_NS ? now_ns - m->delivered_ns : SAMPLE_MIN_NS;
	const double sample = (double)(w->delivered - m->delivered) * NS / (double)took;

	if (sample < w->rate && !full)
		return;
	if (took < LONG_ROUND_NS) {
		/* Enough to grow by, and to shrink by slowly; a burst can look like this. */
		w->rate = sample > w->rate ? sample : w->rate + (sample - w->rate) * (double)took / (2 * LONG_ROUND_NS);
		return;
	}
	w->sample[w->n_samples++ % SAMPLES] = sample;
	w->rate = w->n_samples < SAMPLES ? sample : median(w->sample);
}

/* If the round took longer than the target: was it the network that took the time? */
static void set_target(struct flow_window *w, bool late, double busy)
{
	const double factor = !late || busy > BUSY_FULL ? TARGET_DOWN : busy > BUSY_LOW ? 1 : TARGET_UP;

	w->target_ns = (int64_t)((double)w->target_ns * factor);
	if (w->target_ns < FLOW_WINDOW_TARGET_NS)
		w->target_ns = FLOW_WINDOW_TARGET_NS;
	if (w->target_ns > FLOW_WINDOW_PATIENCE_NS)
		w->target_ns = FLOW_WINDOW_PATIENCE_NS;
}

static void end_round(struct flow_window *w, const struct flow_mark *m, int64_t busy_ns, int64_t now_ns)
{
	const double busy = w->paused ? 0 : (double)(busy_ns - w->round_busy_ns) / (double)(now_ns - w->round_ns + 1);
	const bool late = now_ns - m->sent_ns > w->target_ns + flow_window_rtt(w);

	/* Something is learned if the window held the sender back, or if the network's queue is too long even so. */
	if (w->limited || (late && busy > BUSY_LOW)) {
		if (!w->paused)
			set_target(w, late, busy);
		note_rate(w, m, busy > BUSY_LOW, now_ns);
		const uint64_t want = wanted(w);
		w->window = want < 2 * w->window ? want : 2 * w->window;
		if (w->startup)
			end_startup_if_flat(w);
	}
	w->limited = w->paused = false;
	w->round_start = w->delivered;
	w->round_ns = now_ns;
	w->round_busy_ns = busy_ns;
}

/* The batch was sent when the round had begun: a round trip is over. */
bool flow_window_round_ends(const struct flow_window *w, const struct flow_mark *m)
{
	return m->delivered >= w->round_start;
}

void flow_window_acked(struct flow_window *w, const struct flow_mark *m, uint64_t bytes, int64_t busy_ns, int64_t now_ns)
{
	const bool over = flow_window_round_ends(w, m);

	w->delivered += bytes;
	w->delivered_ns = now_ns;
	note_rtt(w, now_ns - m->sent_ns, now_ns);
	w->limited |= m->limited;
	if (over)
		end_round(w, m, busy_ns, now_ns);
}

uint64_t flow_window_bytes(const struct flow_window *w)
{
	return w->window;
}

int64_t flow_window_target(const struct flow_window *w)
{
	return w->target_ns;
}

/* ---- rate limit ---- */

static double burst(const struct flow_bucket *b)
{
	return (double)b->rate * (double)FLOW_BUCKET_BURST_NS / NS;
}

void flow_bucket_set(struct flow_bucket *b, uint64_t rate, int64_t now_ns)
{
	b->rate = rate;
	b->tokens = 0;
	b->at_ns = now_ns;
}

int64_t flow_bucket_wait(struct flow_bucket *b, int64_t now_ns)
{
	if (b->rate == 0)
		return 0;
	b->tokens += (double)b->rate * (double)(now_ns - b->at_ns) / NS;
	b->at_ns = now_ns;
	if (b->tokens > burst(b))
		b->tokens = burst(b);
	if (b->tokens >= 0)
		return 0;
	return (int64_t)(-b->tokens * NS / (double)b->rate) + 1;
}

void flow_bucket_take(struct flow_bucket *b, uint64_t bytes)
{
	if (b->rate)
		b->tokens -= (double)bytes;
}
