/*
 * inflight.h - what was handed on and has no outcome yet, in order: a position that goes forward only over what has one,
 * whatever the order of outcomes. One thread.
 */
#ifndef VMFERRY_REPLICATOR_INFLIGHT_H
#define VMFERRY_REPLICATOR_INFLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#define INFLIGHT_MAX 256u

struct inflight {
	uint64_t acked; /* everything up to here has its outcome */
	uint64_t sent;  /* the last that was handed on */
	unsigned first, n;
	struct {
		uint64_t seq;
		bool done;
	} items[INFLIGHT_MAX];
};

/* Nothing is on its way any more: all above the position is to be handed on again. */
void inflight_rewind(struct inflight *s);
/* seq must be above all others, and n below INFLIGHT_MAX. done: it has its outcome already. */
void inflight_push(struct inflight *s, uint64_t seq, bool done);
void inflight_done(struct inflight *s, uint64_t seq);
/* What comes up to that number is no more. */
void inflight_skip(struct inflight *s, uint64_t up_to);

#endif
