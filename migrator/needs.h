/*
 * needs.h - what a definition asks of this host that is not here. libvirt would not start the VM.
 */
#ifndef VMFERRY_MIGRATOR_NEEDS_H
#define VMFERRY_MIGRATOR_NEEDS_H

#include "migrator/domain.h"
#include "migrator/virt.h"

#include <jansson.h>

/* Networks, bridges and devices below network cards, filters, secrets. Appends findings, {"what": code as of preflight.h,
 * "text"}. What can't be asked is not missed. */
void needs_find(virConnectPtr conn, const char *xml, json_t *findings);

/* Does libvirt have that secret? True, false, or null when it can't be told. */
json_t *needs_secret(virConnectPtr conn, const struct domain_secret *s);

#endif
