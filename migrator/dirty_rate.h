/*
 * dirty_rate.h - how fast a running guest dirties its memory, measured by QEMU for one second. Always by sampling
 * pages: the other ways need KVM and crash some QEMUs.
 */
#ifndef VMFERRY_MIGRATOR_DIRTY_RATE_H
#define VMFERRY_MIGRATOR_DIRTY_RATE_H

#include "base/err.h"
#include "migrator/virt.h"

#include <stdint.h>

/* Starts the measurement and returns at once. */
int dirty_rate_start(virDomainPtr dom, struct err *e);
/* Waits for its end, four seconds at most. Page sampling tells apart megabytes, not pages: a quiet guest gives 0. */
int dirty_rate_finish(virDomainPtr dom, uint64_t *bytes_per_s, struct err *e);

#endif
