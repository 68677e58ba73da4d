/*
 * failover_record.h - replica.json beside a replica's store: whose replica it is, its epoch and state, and, while it is being promoted, what was made
 * for that. On disk before anything it says is acted upon.
 *
 *	{"uuid", "vm", "from", "epoch", "role": "target", "state": "replica|promoting|promoted|released",
 *	 "promotion": {"seq", "id", "paused", "started_ns", "disks": [{"target", "path", "format", "base"}], "made": [PATH]}}
 */
#ifndef VMFERRY_REPLICATOR_FAILOVER_RECORD_H
#define VMFERRY_REPLICATOR_FAILOVER_RECORD_H

#include "base/err.h"

#include <jansson.h>

/* New reference. ERR_CORRUPT: there is one, and it cannot be read. */
json_t *failover_record_load(const char *replica_dir, struct err *e);
/* Durable when it returns 0. */
int failover_record_save(const char *replica_dir, const json_t *record, struct err *e);

#endif
