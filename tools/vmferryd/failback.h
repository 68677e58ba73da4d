/*
 * failback.h - a VM that was failed over to this host goes home: the agent's side of it.
 *
 * At the host that has the VM: the other one is asked to make a replica of what it still has (replica.adopt, leftover.h), the VM is protected to it, so that only
 * what differs travels, and the other one takes it over as in any planned failover (replica.takeover). Then what is left of the VM here becomes a
 * replica in its turn: until `protect` is said there, it is the only second copy.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_FAILBACK_H
#define VMFERRY_TOOLS_VMFERRYD_FAILBACK_H

#include "base/err.h"
#include "transport/rpc.h"

#include <jansson.h>

struct agent;

/* failback {vm} with notes -> {vm, uuid, from, to, runs_on, state, epoch, adopted, total_ms, downtime_ms, dirty_bytes, wire_bytes, ratio, old_images,
 * warnings}. What was interrupted goes on where it was. */
int failback_run(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* replica.takeover {uuid, epoch}, by the source of a replica kept here: a planned failover -> failover's report. */
int failback_takeover(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);

#endif
