/*
 * gather.h - asks several hosts the same at once.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_GATHER_H
#define VMFERRY_TOOLS_VMFERRYD_GATHER_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct agent;

struct gather_item {
	char *host;
	bool self;
	json_t *status;  /* of agent.status, or NULL: not reached, see error */
	json_t *result;  /* of the call, or NULL: see error */
	int64_t rtt_ns;  /* of agent.status; -1 */
	int64_t skew_ns; /* the peer's wall clock less ours, known to half the round trip */
	struct err error;
};

/* One item per name; `hosts` (borrowed array of strings, NULL or empty: this host and all its peers). This host
 * itself answers too, without the network. method NULL: only agent.status is asked. Every host has `within` to
 * answer. */
struct gather_item *gather_ask(struct agent *a, const json_t *hosts, const char *method, const json_t *args,
			       int64_t within_ns, size_t *n);
void gather_free(struct gather_item *items, size_t n);

#endif
