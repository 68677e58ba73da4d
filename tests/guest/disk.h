/*
 * disk.h - the guest's disk, /dev/vda: records written through all caches and remembered in memory, so that disk and memory
 * can be compared after a move; and the data behind them, which must not change.
 *
 *   0       16 MiB    4096 records of 4 KiB
 *   16 MiB  ...       data, put there before the guest was started
 */
#ifndef GUEST_DISK_H
#define GUEST_DISK_H

#include <stddef.h>
#include <stdint.h>

/* Takes the hashes of data_mb MiB of data, then writes `rate` records a second. 0, or -1 with the reason. */
int disk_start(unsigned rate, unsigned data_mb, char *why, size_t why_size);
void disk_stop(void);
/* Reads every record written and all data back, past the guest's cache. Number that differ from memory. */
uint64_t disk_check(uint64_t *checked);
uint64_t disk_written(void);
uint64_t disk_errors(void);

#endif
