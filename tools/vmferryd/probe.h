/*
 * probe.h - does a peer's agent answer? Asked in a thread: a host that is gone lets a connect wait for seconds which a failover does not have.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_PROBE_H
#define VMFERRY_TOOLS_VMFERRYD_PROBE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct agent;
struct probe;

/* Begins to ask. method: a literal; args: taken, may be NULL. */
struct probe *probe_start(struct agent *a, const char *host, const char *method, json_t *args);
/* The answer, the caller's; NULL if there is none by then (monotonic clock), or a refusal. The probe is over for the caller. */
json_t *probe_end(struct probe *p, int64_t until_ns);

/* False too if it has not within that time. The agent waits for the thread when it stops. */
bool probe_answers(struct agent *a, const char *host, int64_t within_ns);

#endif
