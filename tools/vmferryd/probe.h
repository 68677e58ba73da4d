/*
 * probe.h - does a peer's agent answer? Asked in a thread: a host that is gone lets a connect wait for seconds which a failover does not have.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_PROBE_H
#define VMFERRY_TOOLS_VMFERRYD_PROBE_H

#include <stdbool.h>
#include <stdint.h>

struct agent;

/* False too if it has not within that time. The agent waits for the thread when it stops. */
bool probe_answers(struct agent *a, const char *host, int64_t within_ns);

#endif
