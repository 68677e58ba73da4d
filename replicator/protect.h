/*
 * protect.h - operators begin, change and end the protection of a VM: its record, durably, then the table's entry.
 */
#ifndef VMFERRY_REPLICATOR_PROTECT_H
#define VMFERRY_REPLICATOR_PROTECT_H

#include "base/err.h"
#include "replicator/protections.h"

#include <jansson.h>

/* As replicator_protect. The peer is asked first for the epoch; what is left there of the VM from when it ran there becomes its replica (adoption.h). */
int protect_begin(struct protections *t, const json_t *args, json_t **result, struct err *e);
/* {vm, forget}, of a VM that is protected from here: 1 if none is. */
int protect_end(struct protections *t, const json_t *args, struct err *e);
/* By UUID, and the replica stays. None is fine. */
int protect_give_up(struct protections *t, const char *uuid, struct err *e);

#endif
