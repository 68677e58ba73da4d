/*
 * flow_meter.h - bytes per second over the last second.
 */
#ifndef VMFERRY_TRANSPORT_FLOW_METER_H
#define VMFERRY_TRANSPORT_FLOW_METER_H

#include <stdint.h>

#define FLOW_METER_SLOTS 10

struct flow_meter {
	uint64_t slot[FLOW_METER_SLOTS + 1];
	int64_t at; /* number of the slot that is being filled */
	int64_t since_ns;
};

void flow_meter_init(struct flow_meter *m, int64_t now_ns);
void flow_meter_add(struct flow_meter *m, uint64_t bytes, int64_t now_ns);
uint64_t flow_meter_rate(struct flow_meter *m, int64_t now_ns);

#endif
