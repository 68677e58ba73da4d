/*
 * seed.h - replica.seed: a peer's first copy starts from images of this host, if the configuration gives their folder out (seed_image.h).
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_SEED_H
#define VMFERRY_TOOLS_VMFERRYD_SEED_H

#include "base/err.h"
#include "transport/rpc.h"

#include <jansson.h>

struct agent;

/* {uuid, name, epoch, disks: [{"disk","path","size"}], check} -> {"seeded"}; see PROTOCOL.md. */
int seed_call(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);

#endif
