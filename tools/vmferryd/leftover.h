/*
 * leftover.h - what is still here of a VM that another host has taken over: it becomes that host's replica (adoption.h, done with libvirt), or is given up.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_LEFTOVER_H
#define VMFERRY_TOOLS_VMFERRYD_LEFTOVER_H

#include "base/err.h"
#include "transport/rpc.h"

#include <jansson.h>
#include <stdint.h>

struct agent;

/* It becomes a replica of `from`'s at that epoch, and our record of the protection goes. *report as adoption_run's, and {"settings"}: those of the
 * protection that ends. */
int leftover_adopt(struct agent *a, const char *uuid, const char *vm, const char *from, uint64_t epoch, json_t **report,
		   struct err *e);
/* replica.adopt {uuid, vm, epoch}, by the host that has the VM. */
int leftover_adopt_call(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* unprotect {vm, forget}: replicator_unprotect, but for a VM that was taken over by its peer: then it gives up the old VM as well, that is its QEMU
 * and its definition, never its images. -> {"vm","gives_up":{vm, host, state, images, definition}} for such a one. */
int leftover_unprotect(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);
/* unprotect.look {vm}: what unprotect would give up; {} if the VM was not taken over. */
int leftover_unprotect_look(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);

#endif
