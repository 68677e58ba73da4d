/*
 * guest_virt.h - a VM of this host's libvirt as snapshot/guest.h sees it: QMP, events, pause and resume through
 * libvirt, and what its XML and QEMU say of it.
 */
#ifndef VMFERRY_MIGRATOR_GUEST_VIRT_H
#define VMFERRY_MIGRATOR_GUEST_VIRT_H

#include "base/err.h"
#include "migrator/virt.h"
#include "snapshot/guest.h"

/* By name or UUID; the VM must be active. v is borrowed and must outlive the guest. Goes on over a restart of libvirtd
 * (events are lost in between). guest_free ends it. */
struct guest *guest_virt_open(struct virt *v, const char *name_or_uuid, struct err *e);

#endif
