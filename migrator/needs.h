/*
 * needs.h - what a definition names that a host may lack, so that libvirt would not start the VM there: networks, bridges and devices below network
 * cards, filters, secrets.
 */
#ifndef VMFERRY_MIGRATOR_NEEDS_H
#define VMFERRY_MIGRATOR_NEEDS_H

#include "migrator/domain.h"
#include "migrator/preflight.h"
#include "migrator/virt.h"

#include <jansson.h>

/* What this host has of them, a part of preflight_target's answer: "networks","filters","bridges","interfaces","secrets". New reference. */
json_t *needs_facts(virConnectPtr conn, const struct domain *d);

/* By a host's facts, which may be a peer's. What it could not say is not missed. */
void needs_judge(const struct domain *d, const json_t *facts, const char *host, enum preflight_severity severity,
		 struct preflight_findings *f);

/* A network's part of that. */
void needs_judge_network(const char *name, const json_t *facts, const char *host, enum preflight_severity severity,
			 struct preflight_findings *f);

#endif
