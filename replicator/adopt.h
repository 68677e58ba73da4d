/*
 * adopt.h - a replica made of what this host has itself: a VM that runs or is paused here, or an image file. So that on the way home (failback), or
 * where an older copy is at hand (--seed), only what differs travels.
 *
 * Nothing is taken away: the VM and its images stay as they are.
 */
#ifndef VMFERRY_REPLICATOR_ADOPT_H
#define VMFERRY_REPLICATOR_ADOPT_H

#include "base/err.h"
#include "snapshot/capture.h"
#include "snapshot/guest.h"
#include "snapshot/store.h"

#include <jansson.h>
#include <stdint.h>

/* A running VM, by capture.h: its first pass as a part, then one point. meta: object of keys that the point gets besides id, instant_ns, kind, capture,
 * pause_ns, dirty_bytes (borrowed; may be NULL). The store is empty or of this VM. *seq (may be NULL): the point's number. */
int adopt_running(struct guest *g, struct store *s, const struct capture_opts *o, const json_t *meta, uint64_t *seq,
		  struct err *e);
/* A VM that is paused (fenced): memory and devices by a migration into this process, disks from their images, which QEMU lets go of for that.
 * The VM stays paused; resume works as before. */
int adopt_paused(struct guest *g, struct store *s, const char *run_dir, const json_t *meta, uint64_t *seq,
		 struct err *e);
/* The same into any sink: volumes, memory, disks, files. What it costs: all of the memory and of the disks is read while the VM stands still. */
int adopt_still(struct guest *g, const struct capture_sink *sink, const char *run_dir, struct err *e);
/* The contents of an image as disk `target`, as a part: no point. Other volumes of the store stay. format: "raw", "qcow2", NULL: qemu finds out. */
int adopt_image(struct store *s, const char *target, const char *path, const char *format, const char *run_dir,
		struct err *e);

#endif
