/*
 * door.h - a listening socket with a thread: each connection gets a short-lived thread of its own, of which there are
 * only so many at a time, so that strangers who connect and say nothing cost little and keep nobody else out for
 * long.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_DOOR_H
#define VMFERRY_TOOLS_VMFERRYD_DOOR_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/socket.h>

#define DOOR_MAX_PENDING 64
#define DOOR_MAX_PENDING_PER_ADDRESS 24
#define DOOR_WITHIN_NS (INT64_C(5) * 1000000000) /* for a handshake and a HELLO */

struct door;

struct door_opts {
	const char *name; /* of the threads, and in logs */
	int fd;           /* listening; the door's, also on failure */
	/* In a thread of its own. Owns fd. Must return within DOOR_WITHIN_NS or a little more. */
	void (*greet)(void *ctx, int fd, const char *addr);
	void *ctx;
};

struct door *door_open(const struct door_opts *opts, struct err *e);
/* Accepts no more, waits for greetings under way, closes the socket, frees. NULL is fine. */
void door_close(struct door *d);

/* "192.0.2.1:123", "[2001:db8::1]:123", "local". Returns buf. */
const char *door_format_address(const struct sockaddr_storage *addr, char *buf, size_t size);

#endif
