/*
 * rescue.h - the guard's functions with libvirt: a connection per VM, opened before it is needed and tried every 2 s; and the letting go of a VM whose
 * capture has lost its agent.
 *
 * Answers of QEMU are searched for a few fixed words, not parsed.
 */
#ifndef VMFERRY_TOOLS_GUARDIAN_RESCUE_H
#define VMFERRY_TOOLS_GUARDIAN_RESCUE_H

#include "replicator/guard.h"

/* The URI is borrowed. Turns off libvirt's own printing of errors. */
int rescue_init(const char *uri, struct guard_ops *out, struct err *e);

#endif
