/*
 * boot.h - VMs that start with their host, as protections see it. tools/vmferryd/boot_host.c implements it with libvirt; tests stand in.
 *
 * libvirt starts a VM with the host before this agent is there, and whether another host has it by then nobody has asked. So as long as a VM is protected
 * libvirt's autostart is off; the record remembers that it was on, and the agent starts the VM once the peer has said whose it is. The record also says
 * during which boot of the host that was last settled: a VM that is shut off later stays off.
 */
#ifndef VMFERRY_REPLICATOR_BOOT_H
#define VMFERRY_REPLICATOR_BOOT_H

#include "base/err.h"

#include <stdbool.h>

#define BOOT_ID_SIZE 40 /* a UUID, with its NUL */

struct boot_calls {
	/* libvirt's setting. want: NULL to look only. *was (may be NULL): before. ERR_REFUSED with errnum ENOENT: libvirt does not know the VM. */
	int (*autostart)(void *ctx, const char *uuid, const bool *want, bool *was, struct err *e);
	/* Of the host, another one each time that it boots; never empty. */
	int (*id)(void *ctx, char out[BOOT_ID_SIZE], struct err *e);
	/* One that is shut off; from its saved state, if it has one. Of one that runs: nothing. */
	int (*start)(void *ctx, const char *uuid, struct err *e);
};

#endif
