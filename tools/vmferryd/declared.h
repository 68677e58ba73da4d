/*
 * declared.h - protections that stand in the configuration, as the call that `vmferry protect' makes: whoever serves that
 * call serves both.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_DECLARED_H
#define VMFERRY_TOOLS_VMFERRYD_DECLARED_H

#include "config/config.h"

#include <jansson.h>

/* The arguments of "protect": {vm, host, rpo_ms, mode, keep:{last,hourly,daily,max_bytes}, quiesce} and, where they are
 * said, max_pause_ms, bandwidth, schedule:{every_ms, windows:[{from, to, every_ms, bandwidth}]}. What is not said is not
 * there: the agent's defaults hold. New reference. */
json_t *declared_args(const struct config_protection *p);

#endif
