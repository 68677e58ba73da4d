/*
 * replicator.h - the replicator of one agent: what it needs from the agent, and what the agent's calls (tools/vmferryd) run.
 *
 * JSON in and out is the wire and the --json format alike (PROTOCOL.md section "Replication").
 */
#ifndef VMFERRY_REPLICATOR_REPLICATOR_H
#define VMFERRY_REPLICATOR_REPLICATOR_H

#include "base/err.h"
#include "replicator/protection.h"
#include "replicator/replica.h"
#include "snapshot/guest.h"
#include "transport/link.h"
#include "transport/rpc.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct replicator_opts {
	const char *host_name;               /* as in the certificate */
	const char *state_dir;               /* protections/ lives below */
	const char *replica_dir;             /* replicas kept for others; NULL: state_dir/replicas */
	uint64_t delta_cache;                /* bytes per protection, at each end */
	uint64_t staging_bytes;              /* 0: capture's default */
	unsigned channels;                   /* data links per protection */
	unsigned workers;                    /* codec threads for all of them, 0 = automatic */
	int64_t retry_ns;                    /* 0: 1 s */
	const struct capture_calls *capture; /* NULL: snapshot/capture.h */

	/* Control connection to a peer of the configuration. New reference. */
	struct rpc *(*connect_peer)(void *ctx, const char *host, struct err *e);
	/* One more link to the same peer; steals hello. */
	struct link *(*connect_data)(void *ctx, const char *host, json_t *hello, struct err *e);
	/* Steals data. */
	void (*event)(void *ctx, const char *type, const char *vm_uuid, json_t *data);
	/* As in replica.h. May be NULL. */
	void (*points)(void *ctx, const char *vm_uuid, const struct replica_news *news, size_t n);
	/* A running VM of this host, by name or UUID; ERR_REFUSED if it is shut off. */
	struct guest *(*open_guest)(void *ctx, const char *vm, struct err *e);
	/* The guardian: see protection.h. May be NULL. */
	int (*watch)(void *ctx, const char *uuid, struct err *e);
	int (*hold)(void *ctx, const char *uuid, int fd, bool read_on, struct err *e);
	void (*arm)(void *ctx, const char *uuid, int64_t deadline_ns);
	void (*unwatch)(void *ctx, const char *uuid);
	int (*part)(void *ctx, const char *uuid, struct err *e);
	const struct boot_calls *boot; /* as in protection.h */
	void *boot_ctx;
	void *ctx;
};

struct replicator;
/* Loads what is protected and what is kept, and goes on with it. A protection first asks its peer who owns the VM. */
struct replicator *replicator_new(const struct replicator_opts *opts, struct err *e);
/* Ends all sessions and captures; VMs run on. NULL is fine. */
void replicator_free(struct replicator *r);

/* ---- operators ---- */
/* {vm, host, rpo_ms, mode, keep, quiesce, max_pause_ms, schedule, bandwidth, seed} -> its status. seed: {disk: path at the host}, "" for the
 * only disk; what its first copy starts from. Of a VM that is protected already: changes it. */
int replicator_protect(struct replicator *r, const json_t *args, json_t **result, struct err *e);
/* {vm, forget}: forget removes the replica at the peer too. Of a replica that is kept here: {vm, forget:true} removes it. */
int replicator_unprotect(struct replicator *r, const json_t *args, json_t **result, struct err *e);
/* Ends the protection of a VM that was taken over by its peer, by UUID. None is fine. */
int replicator_give_up(struct replicator *r, const char *uuid, struct err *e);
int replicator_pause(struct replicator *r, const json_t *args, json_t **result, struct err *e);
int replicator_resume(struct replicator *r, const json_t *args, json_t **result, struct err *e);
/* {vm?} -> {"protections":[...]}, those of which this host is the source and those of which it keeps the replica. */
int replicator_status(struct replicator *r, const json_t *args, json_t **result, struct err *e);
/* {vm}: of a replica kept here, else asked at the peer. */
int replicator_points(struct replicator *r, const json_t *args, json_t **result, struct err *e);
/* {vm}; only where the replica is, or asked there. progress as in replica.h. */
int replicator_verify(struct replicator *r, const json_t *args,
		      bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, json_t **result,
		      struct err *e);

/* The guardian has let this VM run: from any thread, not while replicator_free. */
void replicator_rescued(struct replicator *r, const char *uuid, enum guardian_end how);

/* vms: [{"uuid", "state", "reason"}] as libvirt lists them, asked at since_ns (monotonic). One that libvirt calls paused because it stands still for our
 * own checkpoint is "running": nobody has paused it, and it goes on within milliseconds. */
void replicator_see_through(struct replicator *r, json_t *vms, int64_t since_ns);

/* ---- something else needs a VM for itself ---- */
/* Returns when nothing of a protection is in it; 0 also if it is not protected. Every success has its replicator_release_vm. */
int replicator_hold_vm(struct replicator *r, const char *vm, const char *why, struct err *e);
void replicator_release_vm(struct replicator *r, const char *vm);

/* ---- peers ---- */
int replicator_replica_begin(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
/* As replicas_seed, and its check. */
int replicator_replica_seed(struct replicator *r, const char *peer, const json_t *args, struct replica_seeder *by,
			    bool (*go)(void *ctx, const char *disk, uint64_t done, uint64_t total), void *ctx,
			    json_t **result, struct err *e);
int replicator_replica_seed_check(struct replicator *r, const char *peer, const json_t *args, struct err *e);
int replicator_replica_hashes(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
int replicator_replica_commit(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
int replicator_replica_end(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e);
int replicator_replica_status(struct replicator *r, const json_t *args, json_t **result, struct err *e);
int replicator_replica_release(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result,
			       struct err *e);
/* source.handover {uuid, epoch, again}, called by the host that keeps the replica: protection_hand_over. -> {"point", "instant_ns"} */
int replicator_source_handover(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result,
			       struct err *e);
/* A data link (HELLO purpose "replica") came in. Takes it; refuses it by itself. */
void replicator_attach(struct replicator *r, struct link *l);
/* A control connection ended: its sessions end too. */
void replicator_closed(struct replicator *r, struct rpc *rpc);

/* For failover (failover.h). */
struct replicas *replicator_replicas(struct replicator *r);
/* Is this VM protected from here? *record (may be NULL): a copy of the record. */
bool replicator_protects(struct replicator *r, const char *vm, json_t **record);

#endif
