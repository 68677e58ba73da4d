/*
 * epoch.h - who owns a VM, on disk, at both ends; and the rule by which a replica lets a source write.
 *
 *	STATE_DIR/protections/UUID.json      the source: {"uuid","vm","host","rpo_ms","mode","keep":{...},"quiesce","max_pause_ms",...,"epoch",
 *	                                     "role":"source","state":"active|paused|handing-over|fenced|handed-over","last_point":{"id","instant_ns","final"}}
 *	REPLICA_DIR/UUID/replica.json        the target: {"uuid","vm","from","epoch","role":"target","state":"replica|promoting|promoted|released",
 *	                                     "keep":{...}}; beside it the folder store/
 *
 * "autostart": true: it starts with its host (boot.h); "boot_id": the host's boot during which that was last settled; "owner_boot": the one during which
 * the peer last said that it does not have the VM. "seed": what the
 * first copy starts from, until it has (protection_seed.c). "last_point" is saved now and then, and may be older than the last one; with "final": true (handed-over) it is the last one, at which the VM stands still. "left": true in replica.json: it was made of what was left here of a VM that
 * went to `from`, and that has not written to it yet. "handover":{"epoch","paused"} in replica.json: its source was asked to hand it over, and has perhaps (failover.h). Members that one does not
 * know are kept.
 *
 * A record is durable before anything is done by it. The epoch starts at 1 and rises with every change of owner; it never falls.
 */
#ifndef VMFERRY_REPLICATOR_EPOCH_H
#define VMFERRY_REPLICATOR_EPOCH_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define EPOCH_MAX (INT64_C(1) << 53) /* what every reader of JSON can tell apart */
/* Of a record, a peer or an operator: 1 to EPOCH_MAX. */
bool epoch_ok(int64_t epoch);
/* What a peer says may not be so high that a failover could not be told from it: ERR_PROTOCOL. */
int epoch_check_room(uint64_t epoch, struct err *e);

/* An owner's epoch is followed by the next one and no other: ERR_REFUSED. */
int epoch_check_next(uint64_t ours, uint64_t asked, struct err *e);

/* "6b0e4a2c-0000-4000-8000-000000000001", lower case: safe as a file name. */
bool epoch_uuid_ok(const char *uuid);

/* ---- source ---- */
int epoch_save_protection(const char *state_dir, const json_t *record, struct err *e);
int epoch_remove_protection(const char *state_dir, const char *uuid, struct err *e);
/* All records, an array (new reference). A file that cannot be read, is not JSON, not whole or not of its name's VM has an entry
 * all the same, since the VM has an owner all the same: {"uuid","vm":UUID,"host"|"from":"(unknown)","epoch":0,
 * "state":"unreadable","unreadable":why}. Logged. Nobody may begin, release, adopt or fail over by it, and it is never written
 * back. */
json_t *epoch_load_protections(const char *state_dir, struct err *e);
/* The one of a VM, in the same way but not logged: new reference, NULL if there is none. */
json_t *epoch_find_protection(const char *state_dir, const char *uuid);

/* ---- target ---- */
/* The folder of a replica, to be freed. */
char *epoch_replica_dir(const char *replica_dir, const char *uuid);
/* Makes the folder if need be. */
int epoch_save_replica(const char *replica_dir, const json_t *record, struct err *e);
json_t *epoch_load_replicas(const char *replica_dir, struct err *e);
json_t *epoch_find_replica(const char *replica_dir, const char *uuid);

/* ERR_REFUSED with what to do if the record is such an entry. NULL is fine. */
int epoch_check_readable(const json_t *record, struct err *e);

/* May `from` write to this replica with that epoch? record: NULL if there is none yet. ERR_REFUSED with the reason and what to do.
 *
 * An epoch above the record's is taken, of the host that the replica is kept for alone: its VM may have gone to a third host and come home, or be of a
 * hand-over that came to nothing, and nobody can prove that here. It gives that host nothing: what it may write or release, it might at the present epoch
 * as well; and what was promoted lets nobody in, whatever the epoch. Never one below. */
int epoch_admit(const json_t *record, const char *host, const char *from, uint64_t epoch, struct err *e);

/* A record of a source is of `ours`; has its VM come home since, as a promotion here of a later epoch? replica: this host's own record, or NULL. */
bool epoch_came_home(uint64_t ours, const json_t *replica);

enum epoch_verdict {
	EPOCH_OURS,    /* go on */
	EPOCH_LOST,    /* the peer has taken the VM over: pause it, and never resume by ourselves */
	EPOCH_REFUSED, /* the peer says what cannot be: do not replicate, leave the VM alone */
};
/* What a source does about what its peer says of the replica ({"epoch","state"}, or null: none there). `why` explains all but EPOCH_OURS. */
enum epoch_verdict epoch_judge(uint64_t ours, const char *host, const json_t *theirs, struct err *why);

#endif
