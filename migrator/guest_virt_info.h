/*
 * guest_virt_info.h - what guest_virt tells of a VM, from its XML and QEMU's answers.
 */
#ifndef VMFERRY_MIGRATOR_GUEST_VIRT_INFO_H
#define VMFERRY_MIGRATOR_GUEST_VIRT_INFO_H

#include "base/err.h"
#include "migrator/virt.h"
#include "snapshot/guest.h"

#include <jansson.h>
#include <stdbool.h>

/* version, blocks: query-version, query-block. *out is filled in on success. */
int guest_virt_info_get(virDomainPtr dom, const json_t *version, const json_t *blocks, struct guest_info *out,
			struct err *e);
/* The same from XML as libvirt writes it of a running VM; without state, xml and lock manager. For tests. */
int guest_virt_info_parse(const char *xml, const json_t *version, const json_t *blocks, struct guest_info *out,
			  struct err *e);

#endif
