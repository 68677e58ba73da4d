/*
 * replica.h - the replicas that this host keeps for others: a store for each VM, the sessions that write to them, and what is asked about them.
 *
 * A session belongs to the control connection that began it and ends with it; there is one for a replica at a time. Whatever ends it, the last
 * committed point stays what it was. JSON in and out is the wire format (PROTOCOL.md section "Replication").
 */
#ifndef VMFERRY_REPLICATOR_REPLICA_H
#define VMFERRY_REPLICATOR_REPLICA_H

#include "base/err.h"
#include "base/pool.h"
#include "snapshot/store.h"
#include "transport/link.h"
#include "transport/rpc.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct replica_news {
	const char *id;     /* of a point */
	const json_t *data; /* NULL: it is gone */
};

struct replicas_opts {
	const char *host_name;
	const char *replica_dir; /* a folder per VM below it; made if need be */
	uint64_t delta_cache;    /* bytes of old page versions per session, at most */
	uint64_t min_free;       /* bytes that must be free on the disk for a session to begin; 0: 64 MiB */
	struct pool *pool;       /* decodes */
	/* Steals data. */
	void (*event)(void *ctx, const char *type, const char *vm_uuid, json_t *data);
	/* Points are kept here, or not any more; borrowed. From the retention's thread, so within a second or two. May be NULL. */
	void (*points)(void *ctx, const char *vm_uuid, const struct replica_news *news, size_t n);
	void *ctx;
};

struct replicas;
struct replicas *replicas_new(const struct replicas_opts *opts, struct err *e);
/* Ends all sessions, closes all stores. NULL is fine. */
void replicas_free(struct replicas *r);

/* ---- what sources call ---- */
int replicas_begin(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
int replicas_hashes(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
int replicas_commit(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
/* {session} -> {"error":{class,text,remedy}} if this side had one. */
int replicas_end(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
/* {uuid} -> {"epoch","state","points","last"}; "state" is missing if there is no replica. */
int replicas_status(struct replicas *r, const json_t *args, json_t **result, struct err *e);
/* {uuid, epoch}: removes the replica and all its points. Only its source may, and only while it is not promoted. */
int replicas_release(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
/* Who reads what a replica can begin with. fill, in a thread of its own: into a store that has no points; calls go_on now and then, and ends when that is
 * false, with ERR_CANCELLED. free: ctx, always and once, in whatever thread. */
struct replica_seeder {
	int (*fill)(void *ctx, struct store *s,
		    bool (*go_on)(void *arg, const char *disk, uint64_t done, uint64_t total), void *arg, struct err *e);
	void (*free)(void *ctx);
	void *ctx;
};
/* {uuid, name, epoch, disks: any description of what is read}, by `peer`: replica.seed. Begun, or waited for if the same is under way; "before" if it has
 * been. go (for ctx): what there is to say, every so often; false leaves it to itself (ERR_CANCELLED). ERR_REFUSED if the replica has points. *by is
 * taken over. */
int replicas_seed(struct replicas *r, const char *peer, const json_t *args, struct replica_seeder *by,
		  bool (*go)(void *ctx, const char *disk, uint64_t done, uint64_t total), void *ctx, json_t **result,
		  struct err *e);
/* Would it be refused? Nothing is changed. */
int replicas_seed_check(struct replicas *r, const char *peer, const json_t *args, struct err *e);
/* A data link of HELLO purpose "replica". Takes it; refuses by itself. */
void replicas_attach(struct replicas *r, struct link *l);
/* A control connection is gone. Does not wait. */
void replicas_closed(struct replicas *r, const struct rpc *rpc);

/* ---- what operators ask; {vm} is a name or UUID ---- */
/* Appends status objects (of one VM, or all). Those of protections from here may be in it already: a replica that a VM was taken over from says so. */
void replicas_list(struct replicas *r, const char *vm, json_t *out);
bool replicas_has(struct replicas *r, const char *vm);
int replicas_points(struct replicas *r, const json_t *args, json_t **result, struct err *e);
/* progress(ctx, done, total): false stops. */
int replicas_verify(struct replicas *r, const json_t *args, bool (*progress)(void *ctx, uint64_t done, uint64_t total),
		    void *ctx, json_t **result, struct err *e);

/* ---- for failover ---- */
/* The store of a replica, which stays open until replicas_put. *record: a copy of replica.json (new reference; may be NULL). */
struct store *replicas_get(struct replicas *r, const char *vm, json_t **record, struct err *e);
void replicas_put(struct replicas *r, struct store *s);
/* Before a failover, which writes down what it does: on a full disk, what was kept back for it is given up. full: it was found to be. */
void replicas_make_room(struct replicas *r, bool full);
/* From "replica" to "promoting", with the epoch raised, durably; its session ends. Then no source is let in until the state is set again.
 * *epoch: the new one. */
int replicas_promote(struct replicas *r, const char *uuid, uint64_t *epoch, struct err *e);
/* Changes keys of the record, durably, if its state is `expect` (else ERR_REFUSED); once that is not "replica" its session has ended. null takes a
 * key's value away. */
int replicas_change(struct replicas *r, const char *uuid, const char *expect, const json_t *changes, struct err *e);
/* A replica of this host's own making, from what it has of the VM (failback): fill writes it into a new, empty store. Then the record becomes one of
 * a replica from `from` at `epoch`, durably and all at once; what it was before is in its "old": {"store","made":[paths],"needed":bool}, until
 * replicas_forget_old. Interrupted anywhere, it is as before, and the next begins anew. Not while a failover is under way. `extra`: more keys of the
 * record (borrowed, may be NULL). */
int replicas_adopt(struct replicas *r, const char *uuid, const char *vm, const char *from, uint64_t epoch,
		   const json_t *extra, int (*fill)(void *ctx, struct store *s, struct err *e), void *ctx,
		   struct err *e);
/* Removes what "old" names: the earlier store, unless images of the earlier VM lie over it and stay; those images if `images`, and then the store too.
 * Nothing to do is fine. */
int replicas_forget_old(struct replicas *r, const char *uuid, bool images, struct err *e);
/* A copy of the record, NULL if there is none. */
json_t *replicas_record(struct replicas *r, const char *vm);
/* "promoted", or "replica" if the promotion came to nothing (the epoch stays raised). Durable. */
int replicas_set_state(struct replicas *r, const char *uuid, const char *state, struct err *e);

#endif
