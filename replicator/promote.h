/*
 * promote.h - starting a VM on this host, as failover sees it. tools/vmferryd/promote_host.c implements it with libvirt; tests stand in.
 */
#ifndef VMFERRY_REPLICATOR_PROMOTE_H
#define VMFERRY_REPLICATOR_PROMOTE_H

#include "base/err.h"
#include "snapshot/image.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct promote_disk {
	char target[32];
	char *path; /* image on this host */
	const char *format;
};

struct promote_spec {
	const char *uuid, *name; /* under which it starts; others than in the XML for a rehearsal */
	const char *xml;         /* the definition as it was at the source */
	const struct promote_disk *disks;
	size_t n_disks;
	const char *nvram; /* file of UEFI variables, NULL: by the UUID, in this host's folder for them */
	bool paused;
	bool transient;  /* not made persistent */
	bool links_down; /* network cards without a carrier */
	/* Memory and devices, in QEMU's stream format; NULL: cold start from the disks. */
	int (*feed)(void *ctx, image_write write, void *wctx, struct err *e);
	void *feed_ctx;
	int64_t deadline_ns;         /* monotonic */
	const volatile bool *cancel; /* may be NULL */
};

enum promote_where {
	PROMOTE_ABSENT,   /* not known here */
	PROMOTE_OFF,      /* defined and off: it can be started; or it has run, and is off now */
	PROMOTE_INCOMING, /* a QEMU waits for its state */
	PROMOTE_PAUSED,
	PROMOTE_RUNNING,
};

struct promote_ops {
	/* The folder for a disk's image here, by the rules of this host; heap. */
	char *(*disk_dir)(void *ctx, const char *xml, const char *target, struct err *e);
	/* Where a file of the VM ("nvram", "tpm") belongs here; heap; NULL with no error set: the VM needs none. */
	char *(*file_path)(void *ctx, const struct promote_spec *s, const char *kind, struct err *e);
	/* Puts it there, durably, owned by who will open it. */
	int (*file_put)(void *ctx, const char *kind, const char *path, const void *data, size_t len, struct err *e);
	/* The definition for this host; heap. findings: array, appended to; may be NULL. ERR_REFUSED: it cannot run here. Changes nothing. */
	char *(*map)(void *ctx, const struct promote_spec *s, json_t *findings, struct err *e);
	/* ERR_REFUSED with the reasons if what that definition, mapped, names is not here, so that it would not start. */
	int (*needs)(void *ctx, const char *mapped, struct err *e);
	/* Maps and starts. The VM runs (or is paused, as asked for) when it returns 0. -1: `where` is to be asked; ERR_SYS with ETIMEDOUT: not
	 * known for now, whatever that says. */
	int (*start)(void *ctx, const struct promote_spec *s, struct err *e);
	int (*where)(void *ctx, const char *uuid, enum promote_where *out, struct err *e);
	/* It runs: whatever start does after that, once more (persistent definition). */
	int (*settle)(void *ctx, const char *uuid, struct err *e);
	/* It runs, with file systems frozen: lets its guest agent thaw them. Waits some seconds for it to be connected. */
	int (*thaw)(void *ctx, const char *uuid, struct err *e);
	/* thaw alone is called by a thread of its own, which may outlive the call that it is for: ctx is kept until it is let go. NULL: ctx outlives all. */
	void (*keep)(void *ctx);
	void (*let_go)(void *ctx);
	/* Ends a QEMU that waits for its state, and anything half-started. Never called while it runs or is paused. */
	int (*clear)(void *ctx, const char *uuid, struct err *e);
	/* It runs, and is to start with this host from now on. */
	int (*autostart)(void *ctx, const char *uuid, struct err *e);
};

#endif
