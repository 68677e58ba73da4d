/*
 * guard.h - the guardian's loop: listens to the agent, and lets a VM go when the agent has died, has fallen silent, or is late. What letting go
 * means is in the functions it is given (tools/vmferry-guardian/rescue.c: libvirt); tests give their own.
 *
 * Every VM has a thread of its own that has prepared all it needs before it is needed (guard_ops.open), so that one rescue that is stuck delays
 * no other, and a rescue begins without a connect or a new thread. The loop's own thread calls nothing that can block but poll.
 *
 * Only one guardian looks after a VM: the one of an agent that died may still be at work when the next agent's starts. `lock_fd` is a file that
 * both have open; a byte of it, chosen by the VM's UUID, is locked (F_OFD_SETLK) from before WATCHING to the end of the watch.
 */
#ifndef VMFERRY_REPLICATOR_GUARD_H
#define VMFERRY_REPLICATOR_GUARD_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define GUARD_MAX_VMS 1024u
/* An ARM further ahead than this is a mistake, and counts as this. More than CAPTURE_HELD_NS, which a last point may take. */
#define GUARD_MAX_ARM_NS INT64_C(330000000000)

enum guard_cause {
	GUARD_AGENT_DIED,
	GUARD_AGENT_SILENT,
	GUARD_AGENT_LATE,
};
const char *guard_cause_name(enum guard_cause c); /* "agent-died", ... */

struct guard_order {
	enum guard_cause cause;
	bool armed;    /* the agent had said that it may be standing still because of us */
	bool background; /* ... in a background snapshot: which may look as if a user had paused it */
};

struct guard_ops {
	/* Prepares: what free_guest needs, ready at hand. NULL: not now; tried again. */
	void *(*open)(void *ctx, const uint8_t uuid[16], struct err *e);
	/* Every 2 s while nothing happens: 0 if it is still good, -1: close and open again. */
	int (*check)(void *vm, struct err *e);
	/* The stream that the agent gave to hold has been shut already, or is being read to its end. Makes the VM run again, unless a user paused it, and takes back what was set in QEMU. vm may be NULL: open failed so far; *vm may be
	 * replaced. Bounded in time by itself. 0: done, or there is no such VM any more; -1: neither known nor done. *runs is set as soon as it
	 * runs, also when what follows fails. */
	int (*free_guest)(void *ctx, void **vm, const uint8_t uuid[16], const struct guard_order *order, bool *runs,
			  struct err *e);
	void (*close)(void *vm); /* NULL is fine */
	void *ctx;
};

/* Runs until the agent's end of the pair is closed and every VM that was still watched has been let go. Returns how many could not be.
 * lock_fd -1: no lock. silence_ns: without any message for so long the agent is silent. Borrows the descriptors. */
unsigned guard_run(int fd, int lock_fd, int64_t silence_ns, const struct guard_ops *ops);

#endif
