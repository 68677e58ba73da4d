/*
 * overlay.h - an empty qcow2 image without a name, for QEMU to keep old blocks in while a point in time is read.
 */
#ifndef VMFERRY_SNAPSHOT_OVERLAY_H
#define VMFERRY_SNAPSHOT_OVERLAY_H

#include "base/err.h"

#include <stdint.h>

/* A descriptor of an unlinked file in `folder`: qcow2, version 3, 64 KiB clusters, no backing file recorded, size_bytes
 * as the guest sees it. */
int overlay_create(const char *folder, uint64_t size_bytes, struct err *e);

#endif
