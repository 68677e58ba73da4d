/*
 * still.h - reads what stands still: a paused VM, an image file nobody writes to. Into any capture_sink (capture.h).
 */
#ifndef VMFERRY_REPLICATOR_STILL_H
#define VMFERRY_REPLICATOR_STILL_H

#include "base/err.h"
#include "snapshot/capture.h"
#include "snapshot/guest.h"

#include <stdint.h>

/* Volumes, memory, devices, disks and files of a VM that is paused: memory and devices by a migration into this process, disks from their images,
 * which QEMU lets go of for that. The VM stays paused; resume works as before. What it costs: all of the memory and of the disks is read while the VM
 * stands still. */
int still_capture(struct guest *g, const struct capture_sink *sink, const char *run_dir, struct err *e);

/* The blocks of an image, as a volume of that size; qemu-nbd reads it. format: "raw", "qcow2", NULL: qemu finds out. */
int still_image(const struct capture_sink *sink, uint32_t volume, const char *path, const char *format,
		uint64_t size_bytes, const char *run_dir, struct err *e);
/* As its guest sees it. */
int still_image_size(const char *path, const char *format, uint64_t *size_bytes, struct err *e);

#endif
