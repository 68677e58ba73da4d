/*
 * watch.h - the thread that looks after a migration while virDomainMigrate3 blocks: statistics and notes, the convergence policy's decisions
 * carried out, cancellation, a target that died, and the one hard question: who runs the VM when the answer to Finish was lost.
 */
#ifndef VMFERRY_MIGRATOR_WATCH_H
#define VMFERRY_MIGRATOR_WATCH_H

#include "migrator/converge.h"
#include "migrator/jobstats.h"
#include "migrator/migrator_internal.h"
#include "migrator/outgoing.h"

struct watch_opts {
	struct migrator *m;
	struct outgoing *session;
	struct job *job;
	const struct job_ctl *ctl;
	virDomainPtr dom; /* borrowed, like the rest */
	struct converge_opts converge;
	uint64_t disk_bytes; /* to be copied; 0: none */
};

/* Why the migration was ended by us; several can be true, the first that happened is the one told. */
enum watch_end {
	WATCH_END_NONE,
	WATCH_END_CANCELLED,
	WATCH_END_BROKEN,   /* the way to the target; `why` says how */
	WATCH_END_POLICY,   /* will not converge, deadline; `why` says with which numbers */
};

struct watch_result {
	enum watch_end end;
	struct err why;
	bool moved;          /* Finish's answer was lost and the target says that the VM runs there: the copy here has been ended */
	bool paused;         /* the policy paused the guest to finish */
	bool postcopy;
	struct jobstats last; /* the last statistics seen */
};

struct watch;

struct watch *watch_start(const struct watch_opts *opts, struct err *e);
/* virDomainMigrate3 has returned. Ends the thread. */
void watch_stop(struct watch *w, struct watch_result *out);

#endif
