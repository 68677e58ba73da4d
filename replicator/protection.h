/*
 * protection.h - one VM that this host protects: a thread that takes a checkpoint when it is due, has it carried to the peer, and begins anew after
 * whatever went wrong, saying what it waits for.
 *
 *	seeding      the first copy is on its way; no point at the peer yet
 *	protected    points are committed in time
 *	degraded     points are committed, but not in time; or the peer cannot be reached: `reason` says why
 *	waiting      the VM is shut off, paused by its user, or away on a migration
 *	paused       an operator's wish
 *	fenced       the peer has taken the VM over: it is paused here, and stays so
 *	failed       it cannot go on without a person
 *
 * Durable (epoch.h) before acted on: what shall be, and the epoch. Everything else is found out anew after a restart.
 */
#ifndef VMFERRY_REPLICATOR_PROTECTION_H
#define VMFERRY_REPLICATOR_PROTECTION_H

#include "base/err.h"
#include "base/pool.h"
#include "replicator/boot.h"
#include "replicator/courier.h"
#include "replicator/guardian.h"
#include "replicator/replica.h"
#include "snapshot/capture.h"
#include "snapshot/guest.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* capture.h as a table, so that tests can stand in. */
struct capture_calls {
	struct capture *(*make)(struct guest *g, const struct capture_opts *opts, struct err *e);
	enum capture_mode (*chosen)(const struct capture *c);
	const char *(*reason)(const struct capture *c);
	int (*start)(struct capture *c, const struct capture_sink *sink, struct err *e);
	int (*take)(struct capture *c, const struct capture_sink *sink, struct capture_point *out, struct err *e);
	int (*take_last)(struct capture *c, const struct capture_sink *sink, struct capture_point *out, struct err *e);
	int (*let_go)(struct capture *c, struct err *e);
	void (*leave)(struct capture *c);
	int (*stop)(struct capture *c, struct err *e);
	void (*abort)(struct capture *c);
	void (*free)(struct capture *c);
	int (*clean_up)(struct guest *g, struct err *e);
	/* still.h */
	int (*still)(struct guest *g, const struct capture_sink *sink, const char *run_dir, struct err *e);
};

struct protection_opts {
	const char *host_name, *state_dir; /* borrowed for as long as the protection lives, as all below */
	struct courier_ways ways;
	struct pool *pool;
	uint64_t delta_cache;
	uint64_t staging_bytes; /* 0: capture's default */
	uint64_t part_bytes;    /* 0: ship's default */
	unsigned channels;
	const struct capture_calls *capture;
	int64_t watch_owner_ns; /* how often a VM that is not ours to run is looked at, and (5 times that) the peer is asked while paused; 0: 2 s */
	int64_t retry_ns; /* the first wait after a failure; 0: 1 s. Doubles up to 15 times that */
	int64_t colo_again_ns; /* how long after COLO was given up for its pauses it is tried again, doubling up to 64 times that; 0: 15 min */
	int64_t say_again_ns; /* how long after "degraded" was an event another reason for it may be one; 0: 2 min */
	struct replicas *replicas; /* what this host keeps itself: a VM that was promoted here later than our record is left alone. May be NULL */
	/* A guest to be freed by guest_free. ERR_REFUSED with errnum ENOENT: it is shut off or not there. */
	struct guest *(*open_guest)(void *ctx, const char *uuid, struct err *e);
	/* The guardian (guardian.h); all may be NULL. watch: a capture that pauses its guest begins, nothing is set in QEMU yet; ERR_REFUSED: there is nobody who
	 * would look after it, so there is none ("auto" goes on with disks alone). hold: our end of its stream. arm: the guest may stand
	 * still until then (monotonic); 0: it runs. unwatch: the capture is over. */
	int (*watch)(void *ctx, const char *uuid, struct err *e);
	int (*hold)(void *ctx, const char *uuid, int fd, bool read_on, struct err *e);
	void (*arm)(void *ctx, const char *uuid, int64_t deadline_ns);
	void (*unwatch)(void *ctx, const char *uuid);
	/* The VM stands still for good: 0 once nobody will let it run any more; -1: somebody has, or may have. */
	int (*part)(void *ctx, const char *uuid, struct err *e);
	const struct boot_calls *boot; /* may be NULL */
	void *boot_ctx;
	/* Steals data. */
	void (*event)(void *ctx, const char *type, const char *vm_uuid, json_t *data);
	void *ctx;
};

struct protection;
/* record: as on disk (borrowed, copied). Starts its thread. */
struct protection *protection_start(const struct protection_opts *opts, const json_t *record, struct err *e);
/* Ends the thread and frees; the guest runs on, the record stays. NULL is fine. */
void protection_stop(struct protection *p);
/* The same of one that is not NULL; its last record, new reference. */
json_t *protection_end(struct protection *p);

const char *protection_uuid(const struct protection *p);
json_t *protection_record(struct protection *p); /* new reference, a copy */
json_t *protection_status(struct protection *p); /* new reference */

/* Any thread. The guardian has let the VM run: the capture ends, an event and the state say so, and the next begins by itself. */
void protection_rescued(struct protection *p, enum guardian_end how);
/* Any thread. The VM stood still for a checkpoint at since_ns (monotonic) or later, or so shortly before that libvirt may not have said by then that it
 * runs again: it goes on by itself. Not of one that is being handed over. */
bool protection_pauses(struct protection *p, int64_t since_ns);
/* To be called every second or so: ends a capture that gets nowhere. */
void protection_look(struct protection *p, int64_t now_ns);

/* Another record takes the place of this protection's, durably, if nothing has happened to it since `old` was read (ERR_REFUSED). What is left to do
 * then is protection_stop: this one changes its record no more. record gets what the thread has written: the latest point, autostart. */
int protection_replace(struct protection *p, const json_t *old, json_t *record, struct err *e);
/* By an operator. Durable. Resuming one that is fenced or handed over asks the peer: only if that keeps it as our replica, since a failover came to
 * nothing, the VM runs here again. */
int protection_pause(struct protection *p, struct err *e);
int protection_resume(struct protection *p, struct err *e);
/* Something else needs the VM for itself (a migration): returns when nothing of ours is in it any more; -1 at the deadline, and then it is not held.
 * Counted: every hold has its release. */
int protection_hold(struct protection *p, const char *why, int64_t deadline_ns, struct err *e);
void protection_release(struct protection *p);
/* A planned failover: one last point, after which the guest stands still, committed at the peer; then the record is "handed-over" with the epoch
 * given and that point, durably. On failure the guest runs on as before. *point: its id (to be freed). */
int protection_hand_over(struct protection *p, uint64_t epoch, int64_t deadline_ns, char **point, struct err *e);
/* The peer asks once more, since it could not start it or has not heard the answer: the last point is there already, as long as the guest still stands
 * still here. epoch: the record's, or the one after. */
int protection_hand_over_again(struct protection *p, uint64_t epoch, char **point, struct err *e);

#endif
