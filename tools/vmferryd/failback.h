/*
 * failback.h - a VM that was failed over to this host goes home: the agent's side of it, at both hosts.
 *
 * At the host that has the VM: the other one is asked to make a replica of what it still has (replica.adopt), the VM is protected to it, so that only
 * what differs travels, and the other one takes it over as in any planned failover (replica.takeover). Then what is left of the VM here becomes a
 * replica in its turn: until `protect` is said there, it is the only second copy.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_FAILBACK_H
#define VMFERRY_TOOLS_VMFERRYD_FAILBACK_H

#include "base/err.h"
#include "transport/rpc.h"

#include <jansson.h>
#include <stdint.h>

struct agent;

/* failback {vm} with notes -> {vm, uuid, from, to, runs_on, state, epoch, adopted, total_ms, downtime_ms, dirty_bytes, wire_bytes, ratio, old_images,
 * warnings}. What was interrupted goes on where it was. */
int failback_run(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* replica.adopt {uuid, vm, epoch}, by the host that has the VM -> adoption_run's report and {"settings"}: those of the protection that ends. */
int failback_adopt(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* replica.takeover {uuid, epoch}, by the source of a replica kept here: a planned failover -> failover's report. */
int failback_takeover(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* unprotect {vm, forget}: replicator_unprotect, but for a VM that was taken over by its peer: then it gives up the old VM as well, that is its QEMU
 * and its definition, never its images. -> {"vm","gives_up":{vm, host, state, images, definition}} for such a one. */
int failback_unprotect(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* unprotect.look {vm}: what unprotect would give up; {} if the VM was not taken over. */
int failback_unprotect_look(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);

/* Shared by failback.c and adopt.c: what is here of the VM becomes a replica of `from`'s, and our record of the protection goes. */
int adopt_here(struct agent *a, const char *uuid, const char *vm, const char *from, uint64_t epoch, json_t **report, struct err *e);

#endif
