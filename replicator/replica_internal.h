/*
 * replica_internal.h - what the parts of the replicas share:
 *
 *	replicas.c          their life
 *	replica.c           the table, stores, records
 *	replica_begin.c     replica.begin: may this source write?
 *	replica_reserve.c   space for when there is none
 *	replica_seed.c      a replica that begins with what is at hand here
 *	replica_session.c   a session: data links, commits, its end
 *	replica_hashes.c    which blocks are here
 *	replica_keep.c      retention
 *	replica_owner.c     promoted, released, another store in the place of the old one
 *	replica_status.c    what is asked about them
 *
 * Lock: replicas.lock is held for looking and linking alone, never while a store works or a peer is waited for.
 */
#ifndef VMFERRY_REPLICATOR_REPLICA_INTERNAL_H
#define VMFERRY_REPLICATOR_REPLICA_INTERNAL_H

#include "replicator/block_hash.h"
#include "replicator/receive.h"
#include "replicator/replica.h"
#include "replicator/retention.h"

#include <pthread.h>

#define REPLICA_MAX_LINKS 16u
#define REPLICA_SESSION_LEN 33

struct replica_links {
	struct link *link[REPLICA_MAX_LINKS];
	size_t want, have;
};

struct replica_session {
	/* fixed */
	struct replica *replica;
	char id[REPLICA_SESSION_LEN];
	const struct rpc *owner; /* compared, never followed */
	char peer[256];
	uint64_t epoch;
	uint32_t slots;
	struct block_hash hasher;
	/* replicas.lock */
	struct replica_links forward, backward;
	struct receive *receive; /* once all links are there */
	bool ending;
	unsigned busy; /* calls under way; ending waits for them */
	uint64_t wire_bytes, points;
	int64_t begun_ns;
};

struct replica_seed;

struct replica {
	struct replica *next; /* replicas.lock */
	struct replicas *all;
	/* fixed */
	char uuid[37];
	/* replicas.lock */
	json_t *record;                  /* as on disk; replaced, never changed */
	struct store *store;             /* NULL: not open */
	unsigned users;                  /* of the store */
	bool reopen;                     /* it has failed: to be closed when nobody uses it */
	bool opening;                    /* somebody opens it, outside the lock; a user already */
	bool moving;                     /* begin, release or a change of state is under way */
	struct replica_session *session; /* or NULL */
	struct replica_seed *seed;       /* under way, and moving it; or NULL */
	json_t *last;                    /* {"seq","id","instant_ns"} of the last point, or NULL */
	size_t points;
	uint64_t space_bytes; /* what its store takes; the keeper's last look, or that at the beginning of the session */
	bool prune_due;
	int64_t prune_at_ns; /* monotonic: not before */
	uint64_t told_seq;   /* the keeper's: up to which point opts.points has been told */
	char trouble[600]; /* the last error of this side, or empty */
};

struct replicas {
	struct replicas_opts opts;
	char *host_name, *replica_dir;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct replica *first;
	unsigned winding_up; /* threads that end sessions, or read a seed */
	bool reserved;       /* the file is there */
	bool stopping;
	pthread_t keeper;
	bool keeper_started;
};

/* ---- replica.c: the table, stores, records ---- */
/* record: stolen, may be NULL. Not in the table yet. */
struct replica *replica_new(struct replicas *r, const char *uuid, json_t *record);
struct replica *replica_by_uuid_locked(struct replicas *r, const char *uuid);
/* By UUID, or by a name that one of them has alone; NULL if there is none, or more than one. */
struct replica *replica_find_locked(struct replicas *r, const char *vm);
/* For a change: nobody else moves it until replica_moved, and a seed that does is ended, if `peer` may write with that epoch (NULL: this host's own wish);
 * that is asked once more by who makes the change. The table's entry, made if need be, or one of which there is a record. NULL with the error set. */
struct replica *replica_enter(struct replicas *r, const char *uuid, const char *peer, uint64_t epoch, struct err *e);
struct replica *replica_take(struct replicas *r, const char *uuid, const char *peer, uint64_t epoch, struct err *e);
void replica_moved(struct replica *p);
/* The store, open, and counted; replica_close gives it back. Must not hold the lock. NULL with the error set; ERR_REFUSED if there is none and `create`
 * is NULL (else the VM's description for a new one). */
struct store *replica_open(struct replica *p, const json_t *create, struct err *e);
void replica_close(struct replica *p);
/* Waits until nobody uses the store, and closes it; it is being moved by us. */
void replica_close_store(struct replica *p);
/* Its store's folder: "store", or as the record's "store" says. To be freed. */
char *replica_store_path(struct replica *p);
/* What is known of its points. */
void replica_note_last(struct replica *p, struct store *s);
/* And of what it takes: looks at every file. */
void replica_note_space(struct replica *p, struct store *s);
/* Changes keys of the record, durably, then here. changes: borrowed. */
int replica_update(struct replica *p, const json_t *changes, struct err *e);

/* ---- replica_begin.c ---- */
/* UUID, name and epoch are what they may be. */
int replica_begin_args(const json_t *args, uint64_t *epoch, struct err *e);
int replica_begin_space(struct replicas *r, struct err *e);
/* The record of a replica that `peer` writes to, durably. args: as of replica.begin. */
int replica_begin_record(struct replica *p, const char *peer, uint64_t epoch, const json_t *args, struct err *e);
/* For a new store. New reference. */
json_t *replica_begin_vm(const struct replica *p, const char *peer, const json_t *args);

/* ---- replica_reserve.c ---- */
/* If it is not there. Best effort. */
void replica_reserve_make(struct replicas *r);
/* The disk is full: true if there is some space now. */
bool replica_reserve_give(struct replicas *r);

/* ---- replica_seed.c ---- */
void replica_seed_stop_locked(struct replica *p);
/* ERR_REFUSED if one is under way that is another's. */
int replica_seed_admit_locked(const struct replica *p, const char *peer, struct err *e);
/* Is one under way? Then what is said of it. */
bool replica_seed_said_locked(const struct replica *p, char *out, size_t size);

/* ---- replica_session.c ---- */
struct replica_session *replica_session_new(const struct rpc *owner, struct err *e);
/* Nobody else sees it any more. */
void replica_session_free(struct replica_session *s);
/* Ends the replica's session, if any, and waits. */
void replica_session_end(struct replica *p, const char *why);

/* ---- replica_hashes.c ---- */
/* replica.hashes: how many blocks it asks about, 0 with the error set. */
size_t replica_hash_count(const json_t *args, struct err *e);
/* Answers for those n, as of the store's last commit. */
int replica_hash_blocks(struct store *s, const struct block_hash *hasher, const json_t *args, size_t n, json_t **result,
			struct err *e);

/* ---- replica_keep.c: retention ---- */
void *replica_keep_thread(void *replicas);
struct retention replica_keep_of(const json_t *record);

#endif
