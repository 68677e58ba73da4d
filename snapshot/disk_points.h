/*
 * disk_points.h - the disks of a running VM at one instant, and what was written to them since the last such instant.
 *
 * 	prepare (overlays are attached; the VM runs) -> instant (one QMP transaction: bitmaps swapped, copy before write begins)
 * 	-> read (at leisure, through NBD, while the VM writes on) -> release
 *
 * A dirty bitmap per disk ("vmferry-live") begins with the first instant, whose read gives everything. Descriptors are
 * passed, not paths. One thread; abort from any.
 */
#ifndef VMFERRY_SNAPSHOT_DISK_POINTS_H
#define VMFERRY_SNAPSHOT_DISK_POINTS_H

#include "base/err.h"
#include "snapshot/capture.h"
#include "snapshot/guest.h"

#include <stddef.h>
#include <stdint.h>

struct disk_points;

/* Of the disks of i that are not read-only. `folder` takes the overlays' files (unlinked) and the socket of QEMU's NBD
 * server. Without such disks all calls do nothing. */
struct disk_points *disk_points_new(struct guest *g, const struct guest_info *i, const char *folder);
/* Releases, removes the bitmaps. NULL is fine. */
void disk_points_free(struct disk_points *d);
size_t disk_points_count(const struct disk_points *d);
/* Fills in as many volumes as there are disks. */
void disk_points_volumes(const struct disk_points *d, struct capture_volume *out);
/* Are the disks of i still the same ones? */
bool disk_points_same(const struct disk_points *d, const struct guest_info *i);

/* Is no block job of somebody else's under way, with which QEMU makes no point? ERR_REFUSED with EBUSY says which. Asked before the VM is paused. */
int disk_points_check_jobs(struct disk_points *d, struct err *e);
int disk_points_prepare(struct disk_points *d, struct err *e);
/* May be called while the VM stands still: one QMP command, a few ms. */
int disk_points_instant(struct disk_points *d, struct err *e);
/* Volumes are numbered from first_volume. */
int disk_points_read(struct disk_points *d, const struct capture_sink *sink, uint32_t first_volume,
		     uint64_t *dirty_bytes, struct err *e);
/* After any of the above, whether it went well or not: nothing of this point is left but the live bitmap. */
void disk_points_release(struct disk_points *d);
/* Any thread: a read that blocks fails. */
void disk_points_abort(struct disk_points *d);

/* Removes what an earlier process left in this QEMU. */
int disk_points_clean_up(struct guest *g, struct err *e);

#endif
