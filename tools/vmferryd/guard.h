/*
 * guard.h - the agent's guardian (replicator/guardian.h): started with the agent, and told what its protections do.
 *
 * Without one (its program is not there) the agent runs, and captures that pause a VM are refused, saying why; disks alone are replicated.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_GUARD_H
#define VMFERRY_TOOLS_VMFERRYD_GUARD_H

#include "base/err.h"
#include "config/config.h"
#include "replicator/replicator.h"

#include <stdbool.h>

struct guard;

/* Never NULL. */
struct guard *guard_start(const struct config *c);
/* No replicator may live any more. NULL is fine. */
void guard_stop(struct guard *g);

/* Who is told of VMs that were let go. Before a replicator is freed: NULL; none is being told when that returns. */
void guard_tell(struct guard *g, struct replicator *r);

/* replicator_opts' callbacks, with the guard first. */
int guard_watch(struct guard *g, const char *uuid, struct err *e);
int guard_hold(struct guard *g, const char *uuid, int fd, bool read_on, struct err *e);
void guard_arm(struct guard *g, const char *uuid, int64_t deadline_ns);
void guard_unwatch(struct guard *g, const char *uuid);
int guard_part(struct guard *g, const char *uuid, struct err *e);

/* Its process (-1: none just now) and how often it had to be started again. -1 with the error set: there is none, and why. */
int guard_status(struct guard *g, pid_t *pid, unsigned *restarts, struct err *e);

#endif
