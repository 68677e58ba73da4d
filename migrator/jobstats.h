/*
 * jobstats.h - libvirt's statistics of a migration job, as a plain struct. Bytes, nanoseconds for times that drive logic, pages per second for
 * the dirty rate (libvirt-domain.h, VIR_DOMAIN_JOB_*). What libvirt does not report is 0.
 */
#ifndef VMFERRY_MIGRATOR_JOBSTATS_H
#define VMFERRY_MIGRATOR_JOBSTATS_H

#include "base/err.h"
#include "migrator/virt.h"

#include <stdbool.h>
#include <stdint.h>

struct jobstats {
	int type; /* VIR_DOMAIN_JOB_NONE, _BOUNDED, _UNBOUNDED, _COMPLETED, ... */
	uint64_t elapsed_ms;
	uint64_t downtime_ms; /* expected while under way, measured afterwards */
	bool has_downtime;
	uint64_t memory_total, memory_processed, memory_remaining; /* bytes */
	uint64_t memory_bps;        /* bytes per second as QEMU sees it */
	uint64_t memory_dirty_rate; /* pages per second */
	uint64_t page_size;
	uint64_t iteration;
	uint64_t memory_constant, memory_normal; /* pages */
	uint64_t disk_total, disk_processed, disk_remaining; /* bytes */
	uint64_t disk_bps;
	int auto_converge_throttle; /* percent */
};

/* flags: 0 for the running job, VIR_DOMAIN_JOB_STATS_COMPLETED | KEEP_COMPLETED for the last. */
int jobstats_get(virDomainPtr dom, unsigned flags, struct jobstats *out, struct err *e);

#endif
