/*
 * takeover.h - the agent's side of what ends or uses a replica kept here: failover (replicator/failover.h) and export.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_TAKEOVER_H
#define VMFERRY_TOOLS_VMFERRYD_TAKEOVER_H

#include "base/err.h"
#include "snapshot/store.h"
#include "transport/rpc.h"

#include <jansson.h>

struct agent;
struct promote_host;

/* failover {vm, point, paused, force} with notes -> failover_run's report. If the source answers, it hands over (planned); forced, it is not asked.
 * {vm, paused, planned, again}, call NULL: one that the source may have handed over already; if it has not, it shall not. */
int takeover_failover(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* export {vm, point, dir} with notes -> export_point's report. */
int takeover_export(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* replica.fits {uuid, name, xml, disks: [targets]}, by a host that wants to protect it -> {"findings"}: what would be different if it was started here.
 * ERR_REFUSED: it could not be. */
int takeover_fits(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* What a source that has handed over says: {"point", "instant_ns"}, at which its VM stands still: 0 if that is the newest point here. ERR_REFUSED if it was
 * committed here and is not the newest. Without "instant_ns" (an older agent may name one that it noted earlier): if it is here. */
int takeover_check_last(struct store *s, const json_t *said, const char *from, struct err *e);
/* What a host that is neither source nor target answers to "vm.where": 0 if the VM does not run there, and for NULL, no answer. ERR_REFUSED: it does, or
 * may. */
int takeover_check_elsewhere(const json_t *there, const char *vm, const char *host, struct err *e);
/* What a promotion that was under way has left, as far as libvirt answers (failover_recover). */
int takeover_settle(struct agent *a, const char *uuid, struct err *e);
/* Of one that runs here from a point at which its file systems were frozen: they are thawed. Says so once, and when it is done (events). 0: they are not
 * frozen; -1: call again; e is set when that is news. */
int takeover_thaw(struct agent *a, const char *uuid, struct err *e);
/* By the rules of the configuration. */
struct promote_host *takeover_host(struct agent *a, struct err *e);

#endif
