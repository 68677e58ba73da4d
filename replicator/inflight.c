#include "replicator/inflight.h"

#include <assert.h>

static void settle(struct inflight *s)
{
	while (s->n > 0 && s->items[s->first].done) {
		s->first = (s->first + 1) % INFLIGHT_MAX;
		s->n--;
	}
	s->acked = s->n > 0 ? s->items[s->first].seq - 1 : s->sent;
}

void inflight_rewind(struct inflight *s)
{
	s->sent = s->acked;
	s->first = s->n = 0;
}

void inflight_push(struct inflight *s, uint64_t seq, bool done)
{
	assert(s->n < INFLIGHT_MAX && seq > s->sent);
	unsigned at = (s->first + s->n++) % INFLIGHT_MAX;
	s->items[at].seq = seq;
	s->items[at].done = done;
	s->sent = seq;
	settle(s);
}

void inflight_done(struct inflight *s, uint64_t seq)
{
	for (unsigned i = 0; i < s->n; i++) {
		unsigned at = (s->first + i) % INFLIGHT_MAX;
		if (s->items[at].seq == seq)
			s->items[at].done = true;
	}
	settle(s);
}

void inflight_skip(struct inflight *s, uint64_t up_to)
{
	if (up_to > s->sent)
		s->sent = up_to;
	settle(s);
}
