/*
 * adapt.h - chooses how hard to compress, from what is scarce right now: the link or the CPU. A pure controller:
 * no clock, no threads, no I/O; time comes in as a number. The caller serialises the calls (one mutex).
 *
 * It keeps, per level, the ratio and the CPU time that were measured (or are inferred from the levels that were),
 * and the link's speed as seen when the link was full. The raw throughput to expect from a level is
 *
 *	min(workers * share of CPU they get / cost(level), link * ratio(level), what QEMU supplies)
 *
 * and the level is the cheapest of those with about the most of it: time first, then the part of the link that is taken, and a little
 * the CPU time. A link that is wide for what comes means CODEC_RAW. One that was never seen full is assumed to be growing until a cheaper
 * level is worth it. One that was seen full is taken for what it was then, but for short tries with more, which come less and less often
 * when nothing more goes through: a link that has become faster is found within 8 seconds.
 */
#ifndef VMFERRY_TRANSPORT_ADAPT_H
#define VMFERRY_TRANSPORT_ADAPT_H

#include "transport/codec.h"

#include <stdint.h>

#define ADAPT_AUTO (INT32_MIN + 1) /* same as RELAY_LEVEL_AUTO */

struct adapt;

/* workers: threads that encode. fixed_level: ADAPT_AUTO, CODEC_RAW or a zstd level. */
struct adapt *adapt_new(unsigned workers, int fixed_level);
void adapt_free(struct adapt *a);

/* What a session found out, for the next one that goes the same way: it need not find out anew. All zeros: nothing. */
struct adapt_learned {
	int level;          /* that carried the most */
	uint64_t link_rate; /* bytes per second; 0: it was never seen full */
};
/* All zeros after little traffic, or while a limit hides what the link can do. */
void adapt_learned(const struct adapt *a, struct adapt_learned *out);
/* Before the first batch. It is taken for true until it proves wrong. */
void adapt_begin_with(struct adapt *a, const struct adapt_learned *before);

/* For the next batch. Now and then the answer is another level, to measure it: so ask for every batch. */
void adapt_params(struct adapt *a, struct codec_params *out);

/* What became of one batch. */
struct adapt_sample {
	int level;          /* plain_level it was encoded with */
	uint64_t raw_bytes; /* of the stream */
	uint64_t encoded_bytes;
	uint64_t plain_in, plain_out; /* of the plain section */
	int64_t cpu_ns;               /* of the thread, around codec_encode */
	int64_t wall_ns;              /* same on the monotonic clock: longer if others want the CPU too */
};
/* Fills level and sizes from the statistics of that one batch. */
struct adapt_sample adapt_sample_of(const struct codec_params *params, const struct codec_stats *one);
void adapt_encoded(struct adapt *a, const struct adapt_sample *s);

/* Call every 10 to 50 ms while there is traffic. */
struct adapt_now {
	int64_t now_ns;      /* monotonic */
	uint64_t wire_bytes; /* put on the links since the beginning */
	uint64_t rate_limit; /* bytes per second; 0: none */
	/* Parts, 0..1, of the time since the last tick. */
	double link_busy;   /* in which the network, or a rate limit, was what was waited for */
	double supply_wait; /* in which QEMU's stream was waited for: there was nothing to read */
};
void adapt_tick(struct adapt *a, const struct adapt_now *now);

/* For people. */
int adapt_level(const struct adapt *a);
uint64_t adapt_link_rate(const struct adapt *a); /* bytes per second, 0: not known */

#endif
