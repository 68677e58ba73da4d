#include "transport/flow_meter.h"

#include <string.h>

#define SLOT_NS (INT64_C(100) * 1000000)
#define SHORTEST_NS INT64_C(1000000)

void flow_meter_init(struct flow_meter *m, int64_t now_ns)
{
	*m = (struct flow_meter){ .at = now_ns / SLOT_NS, .since_ns = now_ns };
}

void flow_meter_add(struct flow_meter *m, uint64_t bytes, int64_t now_ns)
{
	const int64_t at = now_ns / SLOT_NS;

	if (at - m->at > FLOW_METER_SLOTS)
		memset(m->slot, 0, sizeof(m->slot));
	else
		for (int64_t i = m->at + 1; i <= at; i++)
			m->slot[i % (FLOW_METER_SLOTS + 1)] = 0;
	m->at = at;
	m->slot[at % (FLOW_METER_SLOTS + 1)] += bytes;
}

uint64_t flow_meter_rate(struct flow_meter *m, int64_t now_ns)
{
	/* The full slots and the one that is being filled, or as long as there has been anything to measure. */
	int64_t span = now_ns % SLOT_NS + FLOW_METER_SLOTS * SLOT_NS;
	uint64_t sum = 0;

	flow_meter_add(m, 0, now_ns);
	for (unsigned i = 0; i <= FLOW_METER_SLOTS; i++)
		sum += m->slot[i];
	if (span > now_ns - m->since_ns)
		span = now_ns - m->since_ns > SHORTEST_NS ? now_ns - m->since_ns : SHORTEST_NS;
	return (uint64_t)((double)sum * 1e9 / (double)span);
}
