/*
 * protection_internal.h - shared by protection.c (life, record, status) and protection_run.c (the thread: sessions, checkpoints).
 */
#ifndef VMFERRY_REPLICATOR_PROTECTION_INTERNAL_H
#define VMFERRY_REPLICATOR_PROTECTION_INTERNAL_H

#include "replicator/pace.h"
#include "replicator/protection.h"
#include "replicator/schedule.h"

#include <pthread.h>

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

	volatile bool interrupt; /* whoever waits for something shall return */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	json_t *record;
	uint64_t epoch;
	bool stopping;
	unsigned holds;
	char hold_why[160];
	bool idle;                  /* nothing of ours is in the VM */
	bool last_wanted;           /* hand-over: one more point, with the guest paused */
	bool last_done;
	struct err last_error;
	char last_id[80];
	struct capture *capture;    /* to be aborted; the thread's otherwise */
	struct courier *courier;
	char state[16], reason[900];
	char capture_name[16], capture_reason[400];
	bool have_point;
	char point_id[80];
	int64_t point_instant_ns;   /* wall clock; of the latest point that the peer has committed */
	int64_t point_mono_ns;      /* 0: before this agent started */
	uint64_t points, dirty_bytes, sent_bytes, wire_bytes;
	uint64_t lag_bytes;
	double throughput;          /* sent bytes per second of the last transaction */
	struct pace pace;
	bool degraded_said;

	/* the thread's */
	bool cleaned;               /* what an earlier agent left in the VM was removed */
	bool for_last;              /* the next capture is for the hand-over alone */
	enum capture_mode forced;   /* CAPTURE_AUTO: as the record says */
	unsigned failures;          /* in a row */
	struct schedule_now now;    /* what the hour says */
	int64_t saved_ns;           /* when last_point was last made durable */
};

/* ---- protection.c ---- */
bool protection_may_run_locked(const struct protection *p);
/* Says it once; events for what operators wait for. */
void protection_set_state(struct protection *p, const char *state, const char *reason);
/* Changes keys, durably, then here. */
int protection_update(struct protection *p, const json_t *changes, struct err *e);
void protection_note_point(struct protection *p, const char *id, int64_t instant_ns, int64_t mono_ns);
void protection_event(struct protection *p, const char *type, const char *reason);

/* ---- protection_run.c ---- */
void *protection_run_thread(void *protection);

#endif
