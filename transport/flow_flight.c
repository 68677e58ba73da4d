#include "transport/flow_flight.h"

#include "base/mem.h"
#include "transport/flow.h"

#include <assert.h>
#include <stdlib.h>

#define TLS_RECORD 16384u
#define TLS_OVERHEAD 22u
#define HINT_NS 10e6
#define HINT_MIN ((size_t)64 * 1024)
#define HINT_MAX ((size_t)1024 * 1024)
/* How many raw bytes it takes until the ratio of a stream is believed. */
#define RATIO_BYTES (2.0 * 1024 * 1024)
#define RATIO_MIN (1.0 / 256)

enum record_state { RECORD_RESERVED, RECORD_QUEUED, RECORD_SENT };

struct flow_record {
	enum record_state state;
	uint32_t raw;
	uint32_t wire; /* an estimate until it is queued */
	struct flow_mark mark;
};

void flow_flight_init(struct flow_flight *f, uint64_t max_raw)
{
	*f = (struct flow_flight){ .max_raw = max_raw };
	flow_window_init(&f->window);
}

void flow_flight_stream_init(struct flow_flight *f, struct flow_flight_stream *s, bool urgent)
{
	f->streams++;
	*s = (struct flow_flight_stream){ .urgent = urgent, .ratio = 1 };
}

static struct flow_record *record_of(const struct flow_flight_stream *s, uint64_t number)
{
	return &s->ring[number % FLOW_MAX_BATCHES];
}

uint32_t flow_flight_wire_of(size_t payload)
{
	const size_t framed = payload + FRAME_HEADER_SIZE + FLOW_BATCH_HEAD;

	return (uint32_t)(framed + (framed / TLS_RECORD + 1) * TLS_OVERHEAD);
}

static uint32_t estimate(const struct flow_flight_stream *s, size_t raw)
{
	return flow_flight_wire_of((size_t)((double)raw * s->ratio));
}

uint64_t flow_flight_window(const struct flow_flight *f)
{
	const uint64_t window = flow_window_bytes(&f->window);

	if (f->rate_limit == 0)
		return window;
	/* A limit is a rate that is known before it is measured. */
	const double ns = (double)(flow_window_target(&f->window) + flow_window_rtt(&f->window));
	const double most = (double)f->rate_limit * ns / 1e9;
	if (most >= (double)window)
		return window;
	return most < (double)FLOW_WINDOW_FLOOR ? FLOW_WINDOW_FLOOR : (uint64_t)most;
}

bool flow_flight_has_room(const struct flow_flight *f, const struct flow_flight_stream *s, size_t raw, bool *limited)
{
	if (s->reserved - s->acked >= FLOW_MAX_BATCHES)
		return false;
	if (f->raw == 0)
		return true;
	const bool first = s->reserved == s->acked;
	if (f->raw + raw > (first ? f->max_raw : f->max_raw / 2))
		return false;
	if (first)
		return true;
	if (s->urgent || f->wire + estimate(s, raw) <= flow_flight_window(f))
		return true;
	*limited = true;
	return false;
}

uint64_t flow_flight_reserve(struct flow_flight *f, struct flow_flight_stream *s, size_t raw, bool waited,
			     int64_t now_ns)
{
	if (!s->ring)
		s->ring = mem_alloc_array(FLOW_MAX_BATCHES, sizeof(*s->ring));
	struct flow_record *r = record_of(s, s->reserved);
	*r = (struct flow_record){ .state = RECORD_RESERVED, .raw = (uint32_t)raw, .wire = estimate(s, raw) };
	/* Who waited for the window and then for a CPU, until there was plenty of room, was not held back by the window. */
	const bool limited = waited && f->wire + r->wire >= flow_flight_window(f) / 2;
	flow_window_sent(&f->window, now_ns, f->raw == 0, limited, &r->mark);
	f->raw += r->raw;
	f->wire += r->wire;
	return s->reserved++;
}

static void learn_ratio(struct flow_flight_stream *s, const struct flow_record *r, size_t payload)
{
	if (r->raw == 0)
		return;
	const double weight = r->raw / (r->raw + RATIO_BYTES);
	s->ratio += ((double)payload / r->raw - s->ratio) * weight;
	if (s->ratio < RATIO_MIN)
		s->ratio = RATIO_MIN;
}

uint32_t flow_flight_queue(struct flow_flight *f, struct flow_flight_stream *s, uint64_t number, size_t payload)
{
	struct flow_record *r = record_of(s, number);
	const uint32_t wire = flow_flight_wire_of(payload);

	assert(number < s->reserved && number >= s->acked && r->state == RECORD_RESERVED);
	f->wire = f->wire - r->wire + wire;
	f->queued += wire;
	r->wire = wire;
	r->state = RECORD_QUEUED;
	learn_ratio(s, r, payload);
	return wire;
}

void flow_flight_send(struct flow_flight *f, struct flow_flight_stream *s, uint64_t number)
{
	struct flow_record *r = record_of(s, number);

	assert(r->state == RECORD_QUEUED);
	r->state = RECORD_SENT;
	f->queued -= r->wire;
}

int flow_flight_ack(struct flow_flight *f, struct flow_flight_stream *s, uint64_t number, uint64_t *wire,
		    struct flow_mark *mark)
{
	if (s->forgotten || number <= s->acked) /* overtaken on another link */
		return 0;
	if (number > s->reserved)
		return -1;
	for (uint64_t n = s->acked; n < number; n++)
		if (record_of(s, n)->state != RECORD_SENT)
			return -1;
	*wire = 0;
	for (; s->acked < number; s->acked++) {
		const struct flow_record *r = record_of(s, s->acked);
		*wire += r->wire;
		f->raw -= r->raw;
		f->wire -= r->wire;
		*mark = r->mark;
	}
	return 1;
}

void flow_flight_forget(struct flow_flight *f, struct flow_flight_stream *s)
{
	if (!s->forgotten)
		f->streams--;
	s->forgotten = true;
	for (; s->acked < s->reserved; s->acked++) {
		const struct flow_record *r = record_of(s, s->acked);
		f->raw -= r->raw;
		f->wire -= r->wire;
		if (r->state == RECORD_QUEUED)
			f->queued -= r->wire;
	}
	free(s->ring);
	s->ring = NULL;
}

size_t flow_flight_hint(const struct flow_flight *f, const struct flow_flight_stream *s)
{
	const double quarter = (double)flow_flight_window(f) / 4;
	double rate = f->window.rate;

	if (f->rate_limit && (rate <= 0 || (double)f->rate_limit < rate))
		rate = (double)f->rate_limit;
	double wire = rate > 0 ? rate * HINT_NS / 1e9 : quarter;
	if (wire > quarter)
		wire = quarter;
	double raw = wire / s->ratio;
	/* The first batches of all streams fit into what the others leave to them. */
	const double share = (double)f->max_raw / 2 / (double)(f->streams ? f->streams : 1);
	if (raw > share)
		raw = share;
	if (raw < (double)HINT_MIN)
		return HINT_MIN;
	return raw > (double)HINT_MAX ? HINT_MAX : (size_t)raw;
}
