/*
 * guardian_msg.h - what agent and guardian say to each other, over a SOCK_SEQPACKET pair: one message, one packet, always 32 bytes.
 *
 *	offset  size
 *	     0     4  "vmG1"
 *	     4     4  kind, big-endian
 *	     8    16  UUID of the VM; zeros where there is none
 *	    24     8  value, big-endian
 *
 *	agent -> guardian
 *	  1 WATCH    from now on this VM is let go when the agent dies or falls silent.
 *	             Answered by WATCHING as soon as the guardian could help. Again for a VM that was freed: a new capture.
 *	  2 ARM      value: until when (CLOCK_MONOTONIC, ns) the VM may stand still because of us. Again: replaces it.
 *	  3 DISARM   it runs again
 *	  4 UNWATCH  the capture is over, and has cleaned up; value: bit 0, say UNWATCHED. With that bit it takes nothing back that was begun: FREED is
 *	             the answer then (once more, if it was said before).
 *	  5 BEAT     value: a number that rises. Sent every GUARDIAN_BEAT_NS while the agent is able to.
 *	  6 HOLD     comes with a descriptor (SCM_RIGHTS): our end of the VM's state stream, which is shut first of all when the VM is let go; value:
 *	             bit 0, it is a background snapshot's: read to its end instead, and a VM that "a user" has paused meanwhile was paused by us
 *	guardian -> agent
 *	 16 ACK      value: that of the BEAT
 *	 17 WATCHING
 *	 18 FREED    value: enum guardian_end. The capture of this VM is over, whatever it believes; until the next WATCH the VM is not looked after.
 *	 19 UNWATCHED nothing was done to this VM, nor will be
 *
 * Anything else (another length, magic, kind, a bit that is not known) is counted, said once, and ignored: what it might have meant is safer
 * covered by the deadlines that stand.
 */
#ifndef VMFERRY_REPLICATOR_GUARDIAN_MSG_H
#define VMFERRY_REPLICATOR_GUARDIAN_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUARDIAN_MSG_LEN 32u
#define GUARDIAN_BEAT_NS INT64_C(500000000)
#define GUARDIAN_UNWATCH_ANSWER UINT64_C(1)
#define GUARDIAN_HOLD_READ_ON UINT64_C(1)

enum guardian_kind {
	GUARDIAN_WATCH = 1,
	GUARDIAN_ARM = 2,
	GUARDIAN_DISARM = 3,
	GUARDIAN_UNWATCH = 4,
	GUARDIAN_BEAT = 5,
	GUARDIAN_HOLD = 6,
	GUARDIAN_ACK = 16,
	GUARDIAN_WATCHING = 17,
	GUARDIAN_FREED = 18,
	GUARDIAN_UNWATCHED = 19,
};

struct guardian_msg {
	enum guardian_kind kind;
	uint8_t uuid[16];
	uint64_t value;
};

/* 0, or -1 when the packet is none of ours. */
int guardian_msg_decode(const void *packet, size_t len, struct guardian_msg *out);
/* One packet, at once or not at all. 0, or -1 with errno (EAGAIN: the other side does not read; EPIPE: it is gone). */
int guardian_msg_send(int fd, enum guardian_kind kind, const uint8_t uuid[16] /* NULL: none */, uint64_t value);
/* HOLD, with the descriptor, which stays the caller's. */
int guardian_msg_send_hold(int fd, const uint8_t uuid[16], int held, bool read_on);
/* One packet without waiting: 1 and *out; 0 nothing there; -1 the end (or an error, which is the end too); -2 a packet that is none of ours.
 * *held: the descriptor that came with a HOLD, the caller's from now on; else -1. Others that came are closed. */
int guardian_msg_recv(int fd, struct guardian_msg *out, int *held);

#endif
