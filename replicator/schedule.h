/*
 * schedule.h - how often a VM is checkpointed and how much of the link that may take, by the time of the day. Pure.
 */
#ifndef VMFERRY_REPLICATOR_SCHEDULE_H
#define VMFERRY_REPLICATOR_SCHEDULE_H

#include "base/err.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define SCHEDULE_MAX_WINDOWS 16
#define SCHEDULE_AS_OUTSIDE UINT64_MAX /* a window's bandwidth: that of the schedule */

struct schedule_window {
	unsigned from, to;  /* minutes since midnight, `to` is outside; from > to: over midnight; equal: all day */
	int64_t every_ns;   /* 0: as outside */
	uint64_t bandwidth; /* bytes per second; 0: no limit; SCHEDULE_AS_OUTSIDE */
};

struct schedule {
	int64_t every_ns;   /* between checkpoints, outside all windows */
	uint64_t bandwidth; /* bytes per second, 0: no limit */
	size_t n_windows;
	struct schedule_window windows[SCHEDULE_MAX_WINDOWS];
};

/* From the "schedule" of a protection, {"every_ms", "windows": [{"from": "22:00", "to": "06:00", "every_ms", "bandwidth"}]}:
 * what it says replaces what *s has; NULL or {} says nothing. Comes from a command, so every value is checked: ERR_CONFIG,
 * and *s is as before. */
int schedule_from_json(const json_t *o, struct schedule *s, struct err *e);

struct schedule_now {
	int64_t every_ns;
	uint64_t bandwidth; /* bytes per second, 0: no limit */
};

/* What holds at that local time: the first window it lies in, else the schedule's own. `local` counts seconds as the
 * clock on the wall shows them (schedule_local_time), so days have 86400 of them: where clocks change for summer, an hour
 * of the day is left out or comes twice, and so does a window in it. */
struct schedule_now schedule_at(const struct schedule *s, time_t local);
/* A time as time(2) has it, as the clock on this host's wall shows it; the same time if that is not known. */
time_t schedule_local_time(time_t utc);

#endif
