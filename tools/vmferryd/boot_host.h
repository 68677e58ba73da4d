/*
 * boot_host.h - replicator/boot.h with libvirt.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_BOOT_HOST_H
#define VMFERRY_TOOLS_VMFERRYD_BOOT_HOST_H

#include "base/err.h"
#include "replicator/boot.h"

struct boot_host;
struct boot_host *boot_host_new(const char *libvirt_uri, struct err *e);
void boot_host_free(struct boot_host *b); /* NULL is fine */
/* Their ctx is the struct boot_host. */
extern const struct boot_calls boot_host_calls;

#endif
