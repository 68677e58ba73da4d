/*
 * schedule.h - hours of the day in which a protection runs differently: {"every_ms", "windows":[{"from":"HH:MM","to":"HH:MM","every_ms","bandwidth"}]}.
 * Pure; local time comes in as minutes since midnight.
 */
#ifndef VMFERRY_REPLICATOR_SCHEDULE_H
#define VMFERRY_REPLICATOR_SCHEDULE_H

#include "base/err.h"

#include <jansson.h>
#include <stdint.h>

struct schedule_now {
	int64_t every_ns;   /* 0: as the RPO asks */
	uint64_t bandwidth; /* bytes per second, 0: no limit */
};

/* ERR_CONFIG. NULL and null are fine. */
int schedule_check(const json_t *schedule, struct err *e);
/* ERR_CONFIG if the interval outside of all windows is longer than the RPO, which could not be held then. Within a window it may be: whoever says that means it. */
int schedule_check_rpo(const json_t *schedule, int64_t rpo_ns, struct err *e);
/* bandwidth: outside of all windows. The first window that holds the minute counts; one with from > to goes over midnight. */
struct schedule_now schedule_at(const json_t *schedule, unsigned minute, uint64_t bandwidth);

#endif
