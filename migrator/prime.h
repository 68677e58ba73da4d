/*
 * prime.h - has libvirt ask its QEMUs what they can do before somebody waits for it.
 *
 * libvirt asks each QEMU once, when its capabilities are first wanted after QEMU, libvirt, the kernel or the host's
 * boot have changed: about a second and a half a host, which the first plan or migration would spend at its source, and then
 * again at its target, and a failover while everything stands still. A thread asks after the start, after libvirt came back, and now and then, for a QEMU that was upgraded
 * meanwhile. Nobody waits for it, and what fails is left to whoever really wants to know.
 */
#ifndef VMFERRY_MIGRATOR_PRIME_H
#define VMFERRY_MIGRATOR_PRIME_H

#include "migrator/virt.h"

struct prime;

struct prime_opts {
	int64_t look_ns;  /* between two looks whether libvirt is there, and the same */
	int64_t again_ns; /* asked again after so long, though nothing was noticed */
	/* What is asked; the thread's. NULL: prime_ask. */
	void (*ask)(void *ctx, virConnectPtr conn);
	void *ctx;
};

/* Does not wait for libvirt. virt has to outlive it. */
struct prime *prime_start(struct virt *virt, const struct prime_opts *opts, struct err *e);
/* Waits for a question that is under way: libvirt's keepalive bounds it. NULL is fine. */
void prime_stop(struct prime *p);

/* All that preflight asks of a host's QEMUs. */
void prime_ask(void *ctx, virConnectPtr conn);

#endif
