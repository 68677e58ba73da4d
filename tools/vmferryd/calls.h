/*
 * calls.h - everything that can be called on this agent: by operators over the local socket, by peers as far as their
 * roles go. The list, with who may call what, is the table in calls.c; arguments and results are in PROTOCOL.md
 * section "Calls".
 *
 * An operator's call with {"at": HOST} is passed on to the agent of HOST, notes and cancellation included; that agent
 * decides by the role "operate" that it gives to this host. Peers cannot have calls passed on: their roles are theirs
 * here, not elsewhere.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_CALLS_H
#define VMFERRY_TOOLS_VMFERRYD_CALLS_H

#include "base/err.h"
#include "transport/rpc.h"

#include <jansson.h>

struct agent;

/* Handlers' ctx: struct clients_endpoint. */
extern const struct rpc_method calls_methods[];

/* What the table in calls.c names besides the migrator's calls; signature of all: */
typedef int (*calls_fn)(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);

int fleet_status(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
int fleet_hosts(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
int fleet_own_vms(struct agent *a, const json_t *args, json_t **result, struct err *e);
int fleet_vms(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
int fleet_baseline(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
int doctor_check(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
int feed_events(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* Passes a call on to the agent of `host`. */
int forward_call(struct agent *a, struct rpc_call *call, const char *host, const char *method, const json_t *args,
		 json_t **result, struct err *e);

#endif
