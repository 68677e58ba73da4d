/*
 * takeover.h - the agent's side of what ends or uses a replica kept here: failover, export, and what an agent that died in the middle left.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_TAKEOVER_H
#define VMFERRY_TOOLS_VMFERRYD_TAKEOVER_H

#include "base/err.h"
#include "transport/rpc.h"

#include <jansson.h>

struct agent;

/* failover {vm, point, paused, force} with notes -> failover_run's report. If the source answers, it hands over (planned); forced, it is not asked. */
int takeover_failover(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* export {vm, point, dir} with notes -> export_point's report. */
int takeover_export(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* At agent start, before anyone can connect: promotions that were under way are settled, as far as libvirt answers; those that are not are looked at
 * again every few seconds, and by the next failover of that VM. */
void takeover_recover(struct agent *a);

#endif
