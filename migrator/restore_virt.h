/*
 * restore_virt.h - a VM's state put into a QEMU of this host: virDomainRestore from a FIFO that is fed while libvirt reads it, so that memory is
 * not written to disk on its way. And the same from disks alone: define and start.
 *
 * libvirt opens the file it restores from once (up to 11.1), or twice (metadata first, then everything); what it does is seen on the FIFO
 * itself (inotify), its version only says how long to look. A VM that was started here is made persistent after it runs.
 */
#ifndef VMFERRY_MIGRATOR_RESTORE_VIRT_H
#define VMFERRY_MIGRATOR_RESTORE_VIRT_H

#include "base/err.h"
#include "migrator/virt.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where the feeder puts bytes; -1 with the error set when the restore has ended or failed: the feeder passes that on. */
typedef int (*restore_write)(void *wctx, const void *p, size_t n, struct err *e);

struct restore_opts {
	const char *uuid; /* of the VM in the XML */
	const char *xml;  /* definition for this host (map_xml) */
	bool paused;      /* stays paused */
	bool transient;   /* not made persistent (a drill) */
	/* Memory: head (save header and XML, image_save_header) goes first, once or twice; then feed puts the stream. feed == NULL: cold start. */
	const void *head;
	size_t head_len;
	int (*feed)(void *ctx, restore_write write, void *wctx, struct err *e);
	void *ctx;
	const char *run_dir;         /* the FIFO's folder is made below it */
	const char *qemu_group;      /* may be NULL */
	int64_t deadline_ns;         /* monotonic; for everything */
	const volatile bool *cancel; /* may be NULL */
};

struct restore_times {  /* ns */
	int64_t opened; /* until libvirt read the first byte */
	int64_t fed;    /* until the last byte was taken */
	int64_t total;  /* until the VM ran */
};

/* The VM runs (or is paused, if so wanted) when it returns 0, and is persistent unless it was to be transient. A failure to make it persistent is
 * logged, not returned: the VM runs, restore_virt_persist can be called again. Refuses when a VM of that UUID is active here; one that is defined
 * and shut off is replaced by the new definition.
 * After a failure nothing of the VM runs here as far as libvirt says (where_is is the one to ask: a connection that broke is a failure too), and what was defined before is what is defined now; ERR_SYS with ETIMEDOUT if libvirt did not
 * come back: then its state is not known. */
int restore_virt_start(struct virt *virt, const struct restore_opts *o, struct restore_times *times /* may be NULL */,
		       struct err *e);
/* Makes a running VM persistent, as it runs. Nothing if it is already. */
int restore_virt_persist(struct virt *virt, const char *uuid, struct err *e);
/* After a crash of the agent in the middle of a restore: whoever still reads a FIFO of ours gets its end, the folders are removed. */
void restore_virt_clean_up(const char *run_dir);

#endif
