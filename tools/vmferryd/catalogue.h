/*
 * catalogue.h - the latest state of protections and restore points, kept in the outbox for Kafka's compacted topic (EVENTS.md section "States").
 * A key has one writer: a protection its source, a point the host that keeps it.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_CATALOGUE_H
#define VMFERRY_TOOLS_VMFERRYD_CATALOGUE_H

#include "replicator/outbox.h"
#include "replicator/replica.h"

#include <jansson.h>

/* An event of this agent: "protection.*" change that protection's state. data is borrowed. What cannot be kept is logged. */
void catalogue_event(struct outbox *o, const char *host, const char *type, const char *uuid, const json_t *data);
/* Points that were committed here, or are gone: at once, or one by one where that fails. */
void catalogue_points(struct outbox *o, const char *uuid, const struct replica_news *news, size_t n);

#endif
