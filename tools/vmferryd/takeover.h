/*
 * takeover.h - the agent's side of what ends or uses a replica kept here: failover, export, and what an agent that died in the middle left.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_TAKEOVER_H
#define VMFERRY_TOOLS_VMFERRYD_TAKEOVER_H

#include "base/err.h"
#include "snapshot/store.h"
#include "transport/rpc.h"

#include <jansson.h>

struct agent;

/* failover {vm, point, paused, force} with notes -> failover_run's report. If the source answers, it hands over (planned); forced, it is not asked. */
int takeover_failover(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* export {vm, point, dir} with notes -> export_point's report. */
int takeover_export(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* A source that has handed over names the point at which its VM stands still: 0 if it is here, so that the newest one is that, or (a source whose agent
 * was restarted since may name one that it noted earlier) has all that it has. */
int takeover_has_point(struct store *s, const char *id, const char *from, struct err *e);
/* At agent start, before anyone can connect: promotions that were under way are settled, as far as libvirt answers; those that are not are looked at
 * again every few seconds, and by the next failover of that VM. */
void takeover_recover(struct agent *a);

#endif
