/*
 * folders.h - where this host's records are, said in a place that does not depend on the configuration: for libvirt's hook, which must find them when that
 * cannot be read, or was changed and the agent not started since. A line of JSON, "state_dir" and "replica_dir".
 */
#ifndef VMFERRY_REPLICATOR_FOLDERS_H
#define VMFERRY_REPLICATOR_FOLDERS_H

#include "base/err.h"

#define FOLDERS_PATH "/var/lib/vmferry/folders.json"

struct folders {
	char *state_dir, *replica_dir;
};

/* Durably, the folder of `path` made if need be; not written where it says so already. */
int folders_note(const char *path, const char *state_dir, const char *replica_dir, struct err *e);
/* What was noted last. -1: nothing that makes sense; errnum ENOENT: nothing was. */
int folders_noted(const char *path, struct folders *out, struct err *e);
void folders_fini(struct folders *f);

#endif
