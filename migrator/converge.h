/*
 * converge.h - the convergence policy: from the statistics of a pre-copy migration, what to do next. Pure: no
 * libvirt, no clock.
 *
 * QEMU copies RAM in passes; a pass sends what was dirtied during the one before. When what is left could be sent
 * within the downtime limit, it stops the guest and switches over. The policy starts with a low limit, so that the
 * guest's clients see a short gap, and raises it step by step towards what the operator allowed, only when passes no
 * longer shrink, or when waiting for a shorter gap costs more than it is worth.
 *
 * QEMU can slow the guest's CPUs by itself (auto-converge) when it dirties more than half of what is sent. libvirt
 * takes that only as a flag at the start, not later: the caller starts with VIR_MIGRATE_AUTO_CONVERGE and the two
 * figures below if the operator allows it, and the policy treats rising throttle as progress. When neither helps, or
 * the deadline comes, on_stall says what happens.
 */
#ifndef VMFERRY_MIGRATOR_CONVERGE_H
#define VMFERRY_MIGRATOR_CONVERGE_H

#include "base/err.h"
#include "migrator/jobstats.h"

#include <stdbool.h>
#include <stdint.h>

#define CONVERGE_DEFAULT_MAX_DOWNTIME_MS 300
#define CONVERGE_START_DOWNTIME_MS 80
#define CONVERGE_THROTTLE_INITIAL 20   /* VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL, percent */
#define CONVERGE_THROTTLE_INCREMENT 10 /* VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT */

enum converge_on_stall {
	CONVERGE_ABORT, /* end the migration, the VM stays where it is */
	CONVERGE_PAUSE, /* suspend the guest until it is over: converges at once, downtime as long as it takes */
	/* start the guest at the target now, pages follow: needs VIR_MIGRATE_POSTCOPY at the start */
	CONVERGE_POSTCOPY,
};

/* "abort", "pause", "postcopy"; anything else is ERR_CONFIG. */
int converge_parse_on_stall(const char *name, enum converge_on_stall *out, struct err *e);
const char *converge_on_stall_name(enum converge_on_stall on_stall);

struct converge_opts {
	int64_t max_downtime_ms; /* 0: CONVERGE_DEFAULT_MAX_DOWNTIME_MS */
	bool few_passes;         /* start at max_downtime: a guest that QEMU emulates (TCG). Many short passes then lose pages of
				  * it, in QEMU 7.2 by itself: 3 of 5 plain virsh migrations at a limit of 40 ms, 0 of 9 at 300 */
	int64_t deadline_ns;     /* for the whole migration, from its start; 0: none */
	enum converge_on_stall on_stall;
	bool auto_converge; /* the flag was set */
	/* bytes per second measured beforehand (forecast), 0 if unknown: makes the warning come in the first pass */
	uint64_t dirty_hint_bps;
};

enum converge_action {
	CONVERGE_WAIT,         /* nothing to do */
	CONVERGE_SET_DOWNTIME, /* virDomainMigrateSetMaxDowntime(downtime_ms) */
	CONVERGE_DO_ABORT,     /* virDomainAbortJob */
	CONVERGE_DO_PAUSE,     /* virDomainSuspend; the VM is to run at the target afterwards */
	CONVERGE_DO_POSTCOPY,  /* virDomainMigrateStartPostCopy */
};

struct converge_advice {
	enum converge_action action;
	int64_t downtime_ms; /* for SET_DOWNTIME */
	bool converging;     /* it is expected to end by itself within max_downtime */
	int64_t eta_ns;      /* time left, -1 if it cannot be told */
	/* why, in a sentence with the numbers: a warning when not converging, the reason of an action; or empty */
	char verdict[320];
};

struct converge {
	/* fixed after converge_init */
	struct converge_opts opts;
	int64_t start_ns;
	/* the caller's thread */
	int64_t limit_ms;   /* in force at QEMU */
	int64_t seen_ns;    /* last reading */
	double bps;         /* memory_bps, smoothed */
	uint64_t iteration; /* last seen */
	uint64_t passes;    /* ended since the first */
	int64_t pass_ns;    /* when the pass under way began, as seen */
	double need_ms;     /* what a switchover would have taken when it began */
	double best_ms;     /* the shortest of these that was a tenth shorter than the best before */
	int64_t best_ns;    /* when */
	uint64_t best_pass;
	int64_t raised_ns;    /* when the limit was raised last */
	int64_t reachable_ns; /* when first a pass ended within max_downtime; 0: not yet */
	int throttle;         /* highest seen, percent */
	int64_t throttle_ns;  /* when it last rose */
	bool done;            /* abort, pause or post-copy was advised: nothing more to say */
};

/* The limit to set before the start is c->limit_ms. */
void converge_init(struct converge *c, const struct converge_opts *opts, int64_t start_ns);
/* For each reading of the statistics, every 50 to 500 ms. The action is expected to be carried out; if that fails the
 * caller ends the migration. */
void converge_step(struct converge *c, const struct jobstats *s, int64_t now_ns, struct converge_advice *out);

#endif
