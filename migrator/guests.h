/*
 * guests.h - the VMs of this host: listing them, and finding one by what an operator typed. Where one is in its life:
 * where.h.
 */
#ifndef VMFERRY_MIGRATOR_GUESTS_H
#define VMFERRY_MIGRATOR_GUESTS_H

#include "base/err.h"
#include "migrator/virt.h"

#include <jansson.h>
#include <stddef.h>

/* Finds by name or UUID. Not found: ERR_CONFIG with the nearest names in the remedy. New reference. */
virDomainPtr guests_find(virConnectPtr conn, const char *name_or_uuid, struct err *e);
#define GUESTS_CRASHED "crashed"
/* Libvirt's reason why the VM is paused, as a word ("user", "ioerror", "migration" ...; GUESTS_CRASHED also of one that has crashed and whose QEMU is kept,
 * on_crash); NULL when it is not, or libvirt does not say. */
const char *guests_paused_reason(virDomainPtr dom);

/* [{"name","uuid","state" (where.h),"reason","vcpus","memory_bytes","persistent","autostart","host","disks":[...]}]
 * by name, of every VM, running or not. `host` is this host's name. VMs that vanish meanwhile are left out. */
int guests_list(virConnectPtr conn, const char *host, json_t **list, struct err *e);

/* Up to max of `names` that are close to `wanted`, nearest first: edits (insert, remove, replace, swap neighbours) at
 * most a third of the length, or one begins with the other, letter case aside. Returns how many. */
size_t guests_nearest(const char *wanted, const char *const *names, size_t n, const char **out, size_t max);

#endif
