/*
 * failover.h - a replica becomes the running VM, in durable steps:
 *
 *	look    is the point whole enough to start, can the definition run here, is the VM not here already; nothing is changed
 *	hand    planned alone: replica.json: "handover"; the source takes its last checkpoint and stays paused
 *	epoch   replica.json: promoting, epoch + 1, no "handover". From here on the source is refused
 *	fence   the fencing command, if there is one, must exit 0 in time
 *	disks   an image for each disk: qcow2 over the store's head (newest point), or filled from the point (older ones)
 *	start   memory points: restored; disk points: started
 *	done    replica.json: promoted
 *
 * What fails before `start` has succeeded is undone: images removed, state "replica" again, with the raised epoch; the next try works. But not
 * where libvirt knows a VM that may run, and never where an image is no longer as it was made: a guest wrote to it. A crash at any step is settled
 * by failover_recover, which asks libvirt and guesses nothing. Between `hand` and `epoch` the VM may stand still at the source, given up, and nobody goes on
 * with it: that is found (FAILOVER_HANDING), and the same planned failover, asked for once more, goes on from there or is told that it was not handed over.
 *
 * Older points get a raw file filled from the view and not an overlay of what differs: which blocks differ is not known without reading
 * all of both, and a file that does not depend on the head stays good whatever happens to the store.
 *
 * The head images become backing files of a running VM's disks. A store whose replica is promoted must not be written to.
 */
#ifndef VMFERRY_REPLICATOR_FAILOVER_H
#define VMFERRY_REPLICATOR_FAILOVER_H

#include "base/clock.h"
#include "base/err.h"
#include "replicator/failover_record.h"
#include "replicator/promote.h"
#include "snapshot/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct failover_opts {
	const struct failover_records *records;
	const char *host; /* this host, for logs and the fencing command */
	uint64_t seq;     /* point; 0: the latest */
	bool paused;
	/* Program and arguments, NULL-terminated; NULL: none. VMFERRY_VM, _UUID, _FROM, _TO are in its environment. */
	const char *const *fence;
	int64_t fence_within_ns;
	int64_t thaw_within_ns; /* FAILOVER_THAW_NS */
	/* Planned: asks the source for its last checkpoint, which is committed when it returns 0, and to stay paused at `epoch`. ERR_REFUSED: it has
	 * not, or it must not be gone on with; any other error: nobody knows. NULL: unplanned. */
	int (*hand_over)(void *ctx, uint64_t epoch, struct err *e);
	/* The disk of the replicas is full: lets go of what was kept back for this. Once; may be NULL. */
	void (*make_room)(void *ctx);
	/* {"phase", ...}; steals. May be NULL. */
	void (*note)(void *ctx, json_t *note);
	void *ctx;
	const struct promote_ops *ops;
	void *ops_ctx;
	const volatile bool *cancel; /* heeded until the VM is started; may be NULL */
};

/* The store stays open and the caller's. *report (may be NULL), new reference: {"point":{seq,id,...}, "epoch", "state", "disks":[...],
 * "findings":[...], "phases":{"look_ms",...}, "rto_ms"}. */
int failover_run(struct store *s, const struct failover_opts *o, json_t **report, struct err *e);

enum failover_found {
	FAILOVER_NOTHING,  /* it was not promoting */
	FAILOVER_PROMOTED, /* it runs here: recorded now */
	FAILOVER_UNDONE,   /* it does not, and did not: a replica again */
	FAILOVER_OFF,      /* it ran here and is off: recorded as promoted, its images stay */
	FAILOVER_HANDING, /* its source may have handed it over: failover_run is to be called again; nothing was changed */
};
/* At agent start, for every replica. Fails (libvirt cannot be asked, ...) with everything as it was: call again. */
int failover_recover(const struct failover_records *records, const struct promote_ops *ops, void *ops_ctx,
		     enum failover_found *found, struct err *e);

/* Of a promoted replica: do the guest's file systems stand frozen, as they were at its point? Written down before it is started, and until it is known
 * that they are not. */
bool failover_is_frozen(const json_t *record);
/* It was frozen, and when it was to be thawed it was not on this host any more, which nobody here has done. Where it runs it may be frozen still. */
bool failover_left_frozen(const json_t *record);

enum failover_thawed {
	FAILOVER_NOT_FROZEN,
	FAILOVER_THAWED,      /* by this call */
	FAILOVER_LEFT_FROZEN, /* found by this call, and written down */
};
/* Enough for an agent that is slow to connect, and for libvirt's own bound on its answer. */
#define FAILOVER_THAW_NS (30 * NS_PER_S)
/* Lets its guest agent thaw them: 0 if they are not frozen (any more) as far as this host can tell. -1: they may still be, e says why; call again. Returns
 * within within_ns, but for libvirt's answer whether it runs: a question that is not answered in time is left to itself; until it ends no other is put,
 * and calls do not wait. */
int failover_thaw(const struct failover_records *records, const struct promote_ops *ops, void *ops_ctx,
		  int64_t within_ns, enum failover_thawed *how, struct err *e);
/* ops->thaw, as above. */
int failover_thaw_ask(const struct promote_ops *ops, void *ops_ctx, const char *uuid, int64_t within_ns, struct err *e);
int failover_note_thawed(const struct failover_records *records, struct err *e);
/* True once for each promotion: people are to be told that it is frozen. */
bool failover_say_frozen(const struct failover_records *records);

#endif
