/*
 * fault.h - points in the shipped program at which a test can make the impossible happen, one by one.
 *
 * VMFERRY_FAULT="relay.open.source=fail,channel.send=kill@3" in the environment arms them at start (fault_arm_env).
 * Actions: fail (the call returns an error), kill (SIGKILL to ourselves), stop (SIGSTOP to ourselves), hang (sleep for
 * ever), delay:MS. "@N" means the N-th time the point is passed (default 1); it fires once. Nothing armed costs one load
 * and a branch.
 */
#ifndef VMFERRY_BASE_FAULT_H
#define VMFERRY_BASE_FAULT_H

#include "base/err.h"

/* clang-format off */
#define FAULT_POINTS(X)                                                                               \
	X(FAULT_PREFLIGHT_GATHER, "preflight.gather")   /* source: before the target is asked */      \
	X(FAULT_PREFLIGHT_JUDGE, "preflight.judge")     /* source: facts at hand */                   \
	X(FAULT_BEGIN_SOURCE, "begin.source")           /* source: before migrate.begin is sent */    \
	X(FAULT_BEGIN_TARGET, "begin.target")           /* target: before images are created */       \
	X(FAULT_IMAGES_TARGET, "images.target")         /* target: images created, not answered */    \
	X(FAULT_CHANNEL_CONNECT, "channel.connect")     /* source: before a data channel */           \
	X(FAULT_CHANNEL_ACCEPT, "channel.accept")       /* target: data channel came in */            \
	X(FAULT_CHANNEL_SEND, "channel.send")           /* either: before a batch frame is sent */    \
	X(FAULT_CHANNEL_RECV, "channel.recv")           /* either: a batch frame has come in */       \
	X(FAULT_RELAY_OPEN_SOURCE, "relay.open.source") /* source: a local connection came in */      \
	X(FAULT_RELAY_OPEN_TARGET, "relay.open.target") /* target: before the local connect */        \
	X(FAULT_RELAY_READ, "relay.read")               /* either: bytes read from a local socket */  \
	X(FAULT_RELAY_WRITE, "relay.write")             /* either: before bytes are written to one */ \
	X(FAULT_RELAY_ENCODE, "relay.encode")           /* source: before a batch is encoded */       \
	X(FAULT_RELAY_DECODE, "relay.decode")           /* target: before a batch is decoded */       \
	X(FAULT_MIGRATE_START, "migrate.start")         /* source: before virDomainMigrate3 */        \
	X(FAULT_MIGRATE_SWITCH, "migrate.switch")       /* source: end of RAM seen in the stream */   \
	X(FAULT_FINISH_SOURCE, "finish.source")         /* source: Finish is about to go to the target */ \
	X(FAULT_FINISH_TARGET, "finish.target")         /* target: Finish is about to go to libvirtd */ \
	X(FAULT_FINISHED_TARGET, "finished.target")     /* target: libvirtd's answer, the VM runs; not passed on yet */ \
	X(FAULT_MIGRATE_DONE, "migrate.done")           /* source: virDomainMigrate3 returned */      \
	X(FAULT_OFFLINE_COPIED, "offline.copied")       /* source: disks of a VM that is shut off are at the target, its definition not */ \
	X(FAULT_OFFLINE_DEFINED, "offline.defined")     /* source: and its definition; it is still defined here */ \
	X(FAULT_OFFLINE_FORGET, "offline.forget")       /* source: it is off, and about to be undefined here */ \
	X(FAULT_END_SOURCE, "end.source")               /* source: before migrate.end is sent */      \
	X(FAULT_END_TARGET, "end.target")               /* target: migrate.end came in */             \
	X(FAULT_FAILOVER_HANDED, "failover.handed")     /* target: the source has handed over, the epoch is not raised */ \
	X(FAULT_FAILOVER_EPOCH, "failover.epoch")       /* target: the raised epoch is on disk */     \
	X(FAULT_FAILOVER_FENCE, "failover.fence")       /* target: before the fencing command */      \
	X(FAULT_FAILOVER_DISKS, "failover.disks")       /* target: images made, VM not started */     \
	X(FAULT_FAILOVER_START, "failover.start")       /* target: before libvirt is asked to start */ \
	X(FAULT_FAILOVER_DONE, "failover.done")         /* target: the VM runs, which is not on disk yet */  \
	X(FAULT_FAILOVER_THAW, "failover.thaw")         /* target: on disk; its file systems are frozen */   \
	X(FAULT_CAPTURE_PASS, "capture.pass")           /* source: the VM stands still at the end of COLO's first pass */ \
	X(FAULT_CAPTURE_PAUSED, "capture.paused")       /* source: the VM stands still for a COLO checkpoint, nothing of it is read */ \
	X(FAULT_REPLICA_BEGIN_SOURCE, "replica.begin.source")     /* source: before replica.begin is sent */ \
	X(FAULT_REPLICA_BEGIN_TARGET, "replica.begin.target")     /* target: before the store is made or opened */ \
	X(FAULT_REPLICA_BEGUN_TARGET, "replica.begun.target")     /* target: session made, not answered */ \
	X(FAULT_REPLICA_LINK, "replica.link")                     /* target: a data link is welcome, not taken in */ \
	X(FAULT_REPLICA_SEEDED, "replica.seeded")                 /* target: what was at hand is read, not recorded */ \
	X(FAULT_REPLICA_HASHES, "replica.hashes")                 /* target: asked for hashes */          \
	X(FAULT_REPLICA_SEED, "replica.seed")                     /* source: a part of a first copy is committed */ \
	X(FAULT_REPLICA_TAKE, "replica.take")                     /* source: before a checkpoint is taken */ \
	X(FAULT_REPLICA_SHIP, "replica.ship")                     /* source: before a batch is encoded */ \
	X(FAULT_REPLICA_RECEIVE, "replica.receive")               /* target: bytes of the stream, in order */ \
	X(FAULT_REPLICA_COMMIT_SOURCE, "replica.commit.source")   /* source: before replica.commit is sent */ \
	X(FAULT_REPLICA_COMMIT_TARGET, "replica.commit.target")   /* target: before the store commits */  \
	X(FAULT_REPLICA_COMMITTED_TARGET, "replica.committed.target") /* target: durable, not answered */ \
	X(FAULT_REPLICA_COMMITTED_SOURCE, "replica.committed.source") /* source: answer came, not noted yet */ \
	X(FAULT_REPLICA_PRUNE, "replica.prune")                   /* target: before points are given up */ \
	X(FAULT_REPLICA_FENCE, "replica.fence")                   /* source: refused by a higher epoch, VM not paused yet */ \
	X(FAULT_FAILBACK_ADOPT, "failback.adopt")                 /* who had the VM: its replica is made, not yet the one that counts */ \
	X(FAULT_FAILBACK_ADOPTED, "failback.adopted")             /* who had the VM: it is; the old VM is still there */ \
	X(FAULT_FAILBACK_FORGET, "failback.forget")               /* who had the VM: the old VM is gone, its records are not */ \
	X(FAULT_FAILBACK_TAKEOVER, "failback.takeover")           /* who has the VM: before the other side is asked to take it over */ \
	X(FAULT_FAILBACK_TIDY, "failback.tidy")                   /* who had the VM: it runs at the other side, nothing is tidied yet */

enum fault_id {
#define X(id, name) id,
	FAULT_POINTS(X)
#undef X
	FAULT_COUNT
};
/* clang-format on */

/* 0, or -1 with the error set (ERR_SYS, EIO, "fault injected at NAME") if the point is armed to fail now. */
int fault_point(enum fault_id id, struct err *e);
const char *fault_name(enum fault_id id);
/* Arms from a spec as above; refuses unknown names with the error set. NULL or "" disarms all. */
int fault_arm(const char *spec, struct err *e);
int fault_arm_env(struct err *e);

#endif
