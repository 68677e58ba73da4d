/*
 * interrupt.h - Ctrl-C during a long call: the first asks for cancellation, the second leaves at once.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_INTERRUPT_H
#define VMFERRY_TOOLS_VMFERRY_INTERRUPT_H

#include "base/err.h"

#include <stdbool.h>

struct interrupt;

/* Takes SIGINT, SIGTERM and SIGHUP over, in a thread of its own; call before other threads start. `first` runs once,
 * when cancel has become true; `second` runs if it comes again, and the process then exits with EXIT_CODE_CANCELLED. */
struct interrupt *interrupt_new(void (*first)(void *ctx), void (*second)(void *ctx), void *ctx, struct err *e);
/* Becomes true at the first signal; read it with interrupt_pending, or give it to rpc_call. */
const volatile bool *interrupt_flag(const struct interrupt *i);
static inline bool interrupt_pending(const volatile bool *flag)
{
	return __atomic_load_n(flag, __ATOMIC_RELAXED);
}
/* Signals do what they did before. NULL is fine. */
void interrupt_free(struct interrupt *i);

#endif
