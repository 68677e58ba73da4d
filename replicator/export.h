/*
 * export.h - a point as plain files that need no vmferry: a qcow2 for each disk, the definition, and, where the point has memory, a save image that
 * `virsh restore` takes.
 *
 *	DIR/README.txt  what is what, and the commands
 *	DIR/VM.xml      definition, its disks in DIR
 *	DIR/TARGET.qcow2, DIR/VM.save, DIR/nvram, DIR/tpm, DIR/point.json
 */
#ifndef VMFERRY_REPLICATOR_EXPORT_H
#define VMFERRY_REPLICATOR_EXPORT_H

#include "base/err.h"
#include "replicator/promote.h"
#include "snapshot/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct export_opts {
	uint64_t seq;        /* 0: the latest */
	const char *dir;     /* absolute; must not exist; its parent must */
	const char *run_dir; /* for qemu-nbd's socket */
	/* {"phase","disk","percent"}; steals; may be NULL. */
	void (*note)(void *ctx, json_t *note);
	void *ctx;
	const volatile bool *cancel;   /* may be NULL */
	const struct promote_ops *ops; /* map alone is used */
	void *ops_ctx;
};

/* The folder is there, whole and durable, when it returns 0, and not there otherwise (DIR.partial may be left by a crash: it is removed by the
 * next try). ERR_REFUSED if it exists. *report (may be NULL): {"dir","point","files":[{name,bytes}],"findings"}. */
int export_point(struct store *s, const struct export_opts *o, json_t **report, struct err *e);

#endif
