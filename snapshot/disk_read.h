/*
 * disk_read.h - reads one disk of a point in time through NBD: what was written since the last point, or all that is
 * allocated; holes and zeros are told and not read.
 */
#ifndef VMFERRY_SNAPSHOT_DISK_READ_H
#define VMFERRY_SNAPSHOT_DISK_READ_H

#include "base/err.h"
#include "snapshot/capture.h"

#include <stdint.h>

/* fd: a connected socket, taken over in every case; to free a read that blocks, shut it down (disk_read has no copy of
 * it). bitmap NULL: everything. Calls the sink's page and zero for `volume`; the last block is padded with zeros.
 * *dirty_bytes grows by what was told. */
int disk_read(int fd, const char *export_name, const char *bitmap, uint64_t size_bytes, uint32_t volume,
	      const struct capture_sink *sink, uint64_t *dirty_bytes, struct err *e);

#endif
