/*
 * retention.h - which restore points are kept. A pure function: no clock, no disk.
 *
 * A point stays if any rule wants it: the `last` N; of each of the latest N hours (days) in which there are points, the newest. Then, while all
 * that are kept take more than max_bytes, the oldest goes. The newest always stays.
 */
#ifndef VMFERRY_REPLICATOR_RETENTION_H
#define VMFERRY_REPLICATOR_RETENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct retention {
	unsigned last, hourly, daily;
	uint64_t max_bytes; /* 0: no limit */
};

struct retention_point {
	int64_t time_ns; /* wall clock */
	uint64_t bytes;  /* freed when it goes */
	bool keep;       /* out */
};

/* Oldest first. other_bytes: what the replica takes besides. Returns how many are to go. */
size_t retention_mark(const struct retention *r, uint64_t other_bytes, struct retention_point *p, size_t n);

#endif
