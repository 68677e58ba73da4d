/*
 * declarer.h - makes protections be what the configuration says (`protections'): at start, after a reload, and again until they are, for the VM may be
 * shut off and the peer away.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_DECLARER_H
#define VMFERRY_TOOLS_VMFERRYD_DECLARER_H

#include "base/err.h"

#include <jansson.h>

struct agent;
struct declarer;

/* Starts its thread. The agent's replicator and settings outlive it. */
struct declarer *declarer_start(struct agent *a, struct err *e);
/* The configuration has changed. */
void declarer_reload(struct declarer *d);
/* NULL is fine. */
void declarer_stop(struct declarer *d);

/* replicator_protect; a protection that is new has, where args say nothing, what `replication' in the configuration says. */
int declarer_protect(struct agent *a, const json_t *args, json_t **result, struct err *e);
/* ERR_REFUSED if the VM that args name (by "vm", a name or UUID) stands in the configuration: commands do not change it. */
int declarer_allows(struct agent *a, const json_t *args, struct err *e);

#endif
