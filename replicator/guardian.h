/*
 * guardian.h - the agent's side of the guardian: a small process beside the agent that makes a VM run again when the agent cannot.
 *
 * While a capture is on, QEMU stops the VM for every checkpoint and waits, without a limit, until we say go on. The guardian is told of every such
 * window; when the agent dies, is stopped, hangs, or is late, it ends the capture in QEMU and the VM runs. It knows nothing else: no network, no
 * VM data, no peer; its whole input are the 32-byte messages of guardian_msg.h.
 *
 *	agent             what protects the VM
 *	killed, crashed   the pair's end: at once, every VM that is watched
 *	stopped, hung     the deadline of ARM, for a VM that stands still; for those that run, silence (5 s): their captures are ended too
 *	slow              the deadline of ARM
 *
 * BEATs come from guardian.c's own thread. They say that the process is being run, not that a capture makes progress: a capture that hangs while
 * its VM runs harms nobody, one that hangs while it stands still is late. So no beat is needed from replication threads, whose deadline it is.
 *
 * A program of its own (vmferry-guardian), rather than vmferryd started another way: it links libvirt's client and libc alone, so there is little that can
 * go wrong in it, and little memory to be paged in when the host is in trouble. It is in its own session and is not told to die with the agent.
 * When it dies it is started again and told what is watched; the VMs notice nothing. Between the two (some 10 ms) the VMs are not
 * looked after; an agent that dies in just that moment leaves the rest to capture_clean_up at its next start.
 */
#ifndef VMFERRY_REPLICATOR_GUARDIAN_H
#define VMFERRY_REPLICATOR_GUARDIAN_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A good deadline for ARM: now, plus the longest pause to be expected, plus this. The VM runs some ms after it. */
#define GUARDIAN_GRACE_NS INT64_C(400000000)
#define GUARDIAN_SILENCE_NS INT64_C(5000000000)

enum guardian_end {
	GUARDIAN_END_FREED = 0, /* it runs (or is as its user left it, or gone); nothing of ours is set in QEMU */
	GUARDIAN_END_UNTIDY, /* it runs; QEMU would not let x-colo be taken back: capture_clean_up before anything else */
	GUARDIAN_END_FAILED, /* not known, not done: look at it */
};

struct guardian_opts {
	const char *program;   /* path of vmferry-guardian; NULL: guardian_program() */
	const char *uri;       /* libvirt's, local */
	const char *lock_path; /* a file in the agent's run folder (guard.h); NULL: none */
	int64_t silence_ns;    /* 0: GUARDIAN_SILENCE_NS */
	/* The capture of this VM was ended by the guardian. From guardian.c's thread, no lock held; must not call guardian_stop. May be NULL. */
	void (*freed)(void *ctx, const char *uuid, enum guardian_end how);
	void *ctx;
};

struct guardian;

/* Starts it. All strings are copied. Fails when the program cannot be started; deaths later are mended. */
struct guardian *guardian_start(const struct guardian_opts *opts, struct err *e);
/* The path of vmferry-guardian as installed (or built) beside this program: to be freed; NULL with the error set. */
char *guardian_program(struct err *e);

/* A capture of this VM begins: call before anything is set in QEMU. Waits until the guardian has said that it could help (some ms; at most 10 s, else
 * an error, and the VM is not watched). ERR_REFUSED: no UUID, watched already, or too many. */
int guardian_watch(struct guardian *g, const char *uuid, struct err *e);
/* It may stand still until then (monotonic clock). Microseconds; never waits for the guardian. Unknown VMs are ignored. */
void guardian_arm(struct guardian *g, const char *uuid, int64_t deadline_ns);
/* Our end of the VM's state stream (a socket): the guardian gets a duplicate, and shuts it down first of all when it lets the VM go. Without it a
 * VM cannot be helped while QEMU writes to an agent that does not read: it does so under its big lock, and answers no monitor
 * command until someone reads or the stream is broken. So: right after the socket pair is made, before `migrate'. Since it is a duplicate, an
 * agent that wants QEMU to see the end calls shutdown(2), not close(2) alone. read_on: it is read to its end instead, for QEMU never lets go of the
 * memory of a VM whose background snapshot broke. fd stays the caller's; dropped at unwatch or `freed`. */
int guardian_hold(struct guardian *g, const char *uuid, int fd, bool read_on, struct err *e);
void guardian_disarm(struct guardian *g, const char *uuid);
/* The capture is over and QEMU is as it was. Also after `freed`. Unknown VMs are fine. */
void guardian_unwatch(struct guardian *g, const char *uuid);
/* The VM stands still, and is to stay so: as guardian_unwatch, but waits (10 s at most) for the guardian's word that it has not let the VM run, and will
 * not. -1: it has, or that is not known; it is not watched either way. */
int guardian_part(struct guardian *g, const char *uuid, struct err *e);

/* The guardian's process id, -1 when there is none just now; how often it had to be started again. */
pid_t guardian_pid(struct guardian *g);
unsigned guardian_restarts(struct guardian *g);

/* Ends it. VMs that are still watched are let go by the guardian, which then ends by itself. No other call may be under way. NULL is fine. */
void guardian_stop(struct guardian *g);

#endif
