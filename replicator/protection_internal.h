/*
 * protection_internal.h - what the parts of a protection share:
 *
 *	protection.c            life, record, state, what operators do
 *	protection_run.c        its thread: sessions, one after the other, and what is done between them
 *	protection_boot.c       a VM that starts with its host
 *	protection_seed.c       a first copy that starts from what is at hand at the peer
 *	protection_points.c     of a session, a capture: the first pass and the checkpoints
 *	protection_handover.c   the last checkpoint, and the VM goes to its peer
 *	protection_take.c       a checkpoint
 *	protection_owner.c      whose the VM is: keeps one still that is the peer's, or takes it back
 *	protection_watch.c      the guardian, and captures that get nowhere
 */
#ifndef VMFERRY_REPLICATOR_PROTECTION_INTERNAL_H
#define VMFERRY_REPLICATOR_PROTECTION_INTERNAL_H

#include "replicator/guardian.h"
#include "replicator/pace.h"
#include "replicator/protection.h"
#include "replicator/schedule.h"

#include <pthread.h>

#define PROTECTION_THRIFT_LEVEL 1 /* zstd's, as long as we keep up; what travels is stored as well */

struct protection {
	/* fixed */
	struct protection_opts opts;
	char uuid[GUEST_UUID_LEN];
	char *vm, *host, *mode;
	int64_t rpo_ns, max_pause_ns;
	bool quiesce;
	json_t *keep, *schedule;
	uint64_t bandwidth;
	pthread_t thread;
	bool started;

	volatile bool interrupt; /* atomic, written under lock: whoever waits for something shall return */

	pthread_mutex_t updating; /* before lock: one change of the record at a time, from the look at what it is to its being durable */
	bool replaced; /* updating: the record is another's from here on */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	json_t *record;
	uint64_t epoch;
	bool stopping;
	unsigned holds;
	bool was_held; /* since the last session */
	char hold_why[160];
	bool idle;        /* nothing of ours is in the VM */
	bool last_wanted; /* hand-over: one more point, with the guest paused */
	bool last_done;
	bool last_good; /* the last point is at the peer; else last_error says why not */
	struct err last_error;
	char last_id[80];
	struct capture *capture; /* to be aborted; the thread's otherwise */
	struct courier *courier;
	char state[16], reason[900];
	int64_t logged_ns; /* when state and reason were last logged */
	char capture_name[16], capture_reason[400];
	bool have_point;
	char point_id[80];
	int64_t point_instant_ns; /* wall clock; of the latest point that the peer has committed */
	int64_t point_mono_ns;    /* 0: before this agent started */
	uint64_t points, dirty_bytes, sent_bytes, wire_bytes;
	uint64_t lag_bytes;
	int64_t space_bytes, kept; /* what the replica takes at the peer, and its points; -1: not known */
	int64_t committed_ns;      /* when the last point of this session was, monotonic clock; 0: there was none */
	double throughput; /* on the wire, bytes per second: of the last point, over the time since the one before */
	struct pace pace;
	bool degraded_said;
	char started_as[16]; /* capture_name of the last capture that started, but for a hand-over's; empty: there was none */
	char said_reason[900]; /* with the last event of that, and when */
	int64_t said_ns;

	/* of the guardian (protection_watch.c) */
	int64_t armed_ns;         /* the VM stands still, until then at most; 0: it runs */
	int64_t let_go_ns; /* monotonic: when its last pause for a checkpoint was over; 0: never, or it is handed over */
	int64_t expected_ns;      /* the pause that the last deadline allowed */
	int64_t patience_ns;      /* pauses were longer than expected: what is expected since; 0 */
	bool late, rescued, hung; /* this capture */
	char rescue_text[300];
	uint64_t rescues, rescued_points;

	int64_t progress_ns; /* atomic: when a capture under way last did something; INT64_MAX: there is none, or it waits for us */

	/* the thread's */
	bool watched;                    /* by the guardian */
	const struct capture_sink *sink; /* of the capture that is under way */
	bool cleaned;                    /* what an earlier agent left in the VM was removed */
	bool for_last;                   /* the next capture is for the hand-over alone */
	bool without_colo;               /* whose pauses were too long */
	bool colo_or_nothing;            /* without it this VM's memory cannot be captured, or nothing of it */
	int64_t colo_wait_ns;            /* for how long it went without the last time; 0: it never did */
	int64_t colo_again_ns;           /* monotonic; without: when COLO is tried again; else: when it was */
	bool boot_settled;               /* whether it is started with its host: the record says that of this boot */
	bool boot_started;               /* or not to be; the record may not say so yet */
	unsigned boot_tries;
	unsigned failures;       /* in a row */
	char unseeded[300];      /* why the first copy goes on without what it should have started from, or empty */
	struct schedule_now now; /* what the hour says */
	int64_t saved_ns;        /* when last_point was last made durable */
};

/* From the peer's word that this host may write to its being over. The thread's. */
struct protection_session {
	struct protection *p;
	struct guest *guest;
	struct courier *courier;
	struct ship *ship;
	struct capture *capture;
	char otherwise[300]; /* why this capture is not the first choice, or empty */
	int64_t due_ns;      /* monotonic */
};

/* ---- protection.c ---- */
bool protection_may_run_locked(const struct protection *p);
bool protection_wanted(struct protection *p);
/* ERR_REFUSED if it has crashed and its QEMU is kept. Asked before a capture is ended for what would be refused anyway: leaving COLO starts the guest. */
int protection_check_crashed(struct protection *p, struct err *e);
/* Until the deadline, or somebody wants something else. */
void protection_wait(struct protection *p, int64_t deadline_ns);
/* Everything that waits returns. */
void protection_interrupt_locked(struct protection *p);
/* How to reach the peer. */
struct courier_opts protection_courier_opts(struct protection *p);
/* Says it once; events for what operators wait for. */
void protection_set_state(struct protection *p, const char *state, const char *reason);
/* Changes keys, durably, then here. ERR_REFUSED unless the state is `expect` (NULL: any; "a|b": one of those) at that moment. */
int protection_change(struct protection *p, const char *expect, const json_t *changes, struct err *e);
int protection_update(struct protection *p, const json_t *changes, struct err *e);
/* The record's state, as protection_change. */
int protection_want(struct protection *p, const char *expect, const char *state, struct err *e);
void protection_note_point(struct protection *p, const char *id, int64_t instant_ns, int64_t mono_ns);
void protection_event(struct protection *p, const char *type, const char *reason);

/* ---- protection_watch.c ---- */
/* For capture_opts; ctx is the protection. */
void protection_watch_arm(void *ctx, bool on, int64_t expect_ns);
int protection_watch_hold(void *ctx, int fd, bool read_on, struct err *e);
/* The guardian looks after the VM from here on; a capture that never pauses it needs none. */
int protection_watch_begin(struct protection *p, bool pauses, struct err *e);
/* The capture has been freed. Waits for what the guardian says, if the VM stood still for too long. */
void protection_watch_end(struct protection *p);
/* Did somebody else end the last capture? Then why, once. */
bool protection_watch_said(struct protection *p, char *out, size_t size);
/* start (out NULL) or take, in which protection_look can see whether it gets anywhere. */
typedef int (*take_call)(struct capture *c, const struct capture_sink *sink, struct capture_point *out, struct err *e);
int protection_watch_capture(struct protection *p, struct capture *c, take_call call, const struct capture_sink *sink,
			     struct capture_point *out, struct err *e);

/* ---- protection_owner.c ---- */
/* 0: the VM is ours. Else why not; one that the peer has taken over has been fenced. */
int protection_owner_check(struct protection *p, struct err *e);
/* Fenced or handed over: whoever starts it, and whenever, it must not run. */
void protection_owner_keep_fenced(struct protection *p);
/* A VM whose protection rests may be taken over all the same. */
void protection_owner_look(struct protection *p);

/* ---- protection_boot.c ---- */
/* The VM is ours, as the peer has just said. */
void protection_boot_look(struct protection *p);
/* It is to start with its host, whichever that is. */
bool protection_boot_starts(struct protection *p);

/* ---- protection_seed.c ---- */
/* What the record's "seed" names becomes the beginning of the replica, once, before there is a session. 0: go on, with it or, if it cannot be, without. */
int protection_seed_run(struct protection *p, struct err *e);
/* There is a session now. A seed that was refused is given up: a peer that refuses both, since its disk is full, say, is asked for both again. */
int protection_seed_drop(struct protection *p, struct err *e);
/* protection_set_state, as long as there is no point. */
void protection_seed_say_seeding(struct protection *p);

/* ---- protection_points.c ---- */
/* It is another QEMU, or another machine has had the VM: pauses of before say nothing. */
void protection_points_forget_locked(struct protection *p);
/* "when due" and the bandwidth, as the hour says. ship may be NULL. */
void protection_points_clock(struct protection *p, struct ship *ship);
/* One capture; 1: the same session can go on with another. 2: the hand-over has to do without one. */
int protection_points_run(struct protection_session *s, struct err *e);
/* The capture, if there is one. good: nothing is wrong with it. */
void protection_points_drop(struct protection_session *s, bool good);

/* ---- protection_take.c ---- */
/* Of a point: 20261126T001502.123Z-4f2a. */
void protection_take_id(char out[80]);
/* call NULL: of a guest that stands still, without a capture. 0: committed. 1: not now. -1 with the error set; the session is over if ship is broken. */
int protection_take(struct protection_session *s, take_call call, char id[80], struct err *e);

/* ---- protection_handover.c: the thread's ---- */
/* Somebody waits for a last point. */
bool protection_handover_wanted(struct protection *p);
/* The record says that one is under way, of this agent or one before. */
bool protection_handover_begun(struct protection *p);
/* The last point. 0: the guest is the peer's from here on. */
int protection_handover_run(struct protection_session *s, struct err *e);
/* Without a capture, where none can leave the guest standing still: it is paused as a user would, and read as it stands. What differs from the peer's
 * is found by hashes. Takes as long as reading all of it does, since what differs from the checkpoint before it (protection_points.c) is not known. */
int protection_handover_still(struct protection_session *s, struct err *e);
/* One that came to nothing: the guest runs, and then the record says so. Else the next session tries again. */
void protection_handover_end(struct protection_session *s);
/* The session has ended: whoever waits for the last point is told, and the next session owes none to anybody. */
void protection_handover_over(struct protection *p, const struct err *why);

/* ---- protection_run.c ---- */
void *protection_run_thread(void *protection);

#endif
