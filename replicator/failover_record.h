/*
 * failover_record.h - replica.json (epoch.h) as a failover needs it: read, and changed durably from a state that it must be in. The agent's replicas
 * implement it (replicas_change); here it is by the file alone.
 *
 * While a replica is being promoted, and after, the record has
 *
 *	"promotion": {"seq", "id", "paused", "started_ns", "disks": [{"target", "path", "format", "base"}], "made": [PATH],
 *	              "images": [{"path", "mtime_ns", "size", "blocks"}], "frozen", "frozen_said", "left_frozen"}
 *
 * "frozen": the guest's file systems are frozen in the memory that it was started with, and have not been thawed yet. "left_frozen": it was gone from this
 * host by then.
 * "handover": its source was asked to hand it over, and whether it has is not known yet: {"epoch", "paused"}, as failover_run was asked.
 * "images": what the disks' images were when they had been made. It is written before the VM is started: without it the VM was not, and an image
 * that is another now has what a guest wrote.
 */
#ifndef VMFERRY_REPLICATOR_FAILOVER_RECORD_H
#define VMFERRY_REPLICATOR_FAILOVER_RECORD_H

#include "base/err.h"

#include <jansson.h>

struct failover_records {
	/* A copy, new reference. ERR_CORRUPT: there is one, and it cannot be read. */
	json_t *(*load)(void *ctx, struct err *e);
	/* Durable when it returns 0. ERR_REFUSED if its state is not `expect`. A source's session has ended once the state is another than "replica". */
	int (*change)(void *ctx, const char *expect, const json_t *changes, struct err *e);
	void *ctx;
};

/* Steals changes. */
int failover_record_change(const struct failover_records *records, const char *expect, json_t *changes, struct err *e);
/* Of one that is being promoted: it runs; or what was made is removed, and it is a replica again, with the raised epoch. */
int failover_record_promoted(const struct failover_records *records, struct err *e);
int failover_record_undo(const struct failover_records *records, struct err *e);

/* By the file in that folder, which is borrowed. */
struct failover_records failover_record_files(const char *replica_dir);

#endif
