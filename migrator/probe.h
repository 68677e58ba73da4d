/*
 * probe.h - how fast the way to a peer is: a link like a migration's own is filled for a moment.
 */
#ifndef VMFERRY_MIGRATOR_PROBE_H
#define VMFERRY_MIGRATOR_PROBE_H

#include "migrator/migrator_internal.h"

/* At most this long, and at most this much, is sent. */
#define PROBE_TIME_NS (INT64_C(300) * 1000000)
#define PROBE_BYTES (64u * 1024 * 1024)

/* Bytes per second from here to the host, TLS included, as the acknowledged end of the probe says. */
int probe_link_speed(struct migrator *m, const char *host, uint64_t *bytes_per_s, struct err *e);
/* The other end: reads and forgets, until the probe ends or takes more than it may. Takes the link. */
void probe_serve(struct link *l);

#endif
