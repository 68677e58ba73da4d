/*
 * sock.h - one connected stream socket, non-blocking inside, with deadlines: what lies below TLS and below the plain
 * links of the local socket.
 *
 * A writer that has to wait takes in, meanwhile, what the peer sends (up to SOCK_MAX_HELD bytes, kept for later reads).
 * So two sides that both send a large message at the same time cannot block each other for ever.
 *
 * One thread at a time, but for sock_shutdown and sock_bytes. Errors: a deadline that passes is ERR_PEER with errnum
 * ETIMEDOUT (and nothing else is), after which reading may go on but writing may not, since nobody knows how much went
 * out; a lost connection is ERR_PEER with the kernel's errno (ECONNABORTED for its own time-out); sock_shutdown is
 * ERR_CANCELLED.
 */
#ifndef VMFERRY_TRANSPORT_SOCK_H
#define VMFERRY_TRANSPORT_SOCK_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SOCK_MAX_HELD ((size_t)8 * 1024 * 1024)

/* A peer whose kernel has acknowledged nothing, or has had no room, for this long is lost. */
#define SOCK_LOST_AFTER_MS 5000

struct sock;

/* Takes the descriptor over, also on failure. Sets TCP_NODELAY, keepalive, TCP_USER_TIMEOUT and TCP_NOTSENT_LOWAT if
 * it is a TCP socket. */
struct sock *sock_new(int fd, struct err *e);
void sock_free(struct sock *s);

#define SOCK_ADDR_SIZE 64
/* "10.77.0.12:7350", "[2001:db8::1]:7350", or "local" for a UNIX socket: the other end of a descriptor. */
void sock_format_peer(int fd, char *out, size_t size);

/* Resolves and connects; every address of a name is tried. A descriptor, or -1: ERR_PEER with errnum and remedy. */
int sock_connect_tcp(const char *address, uint16_t port, int64_t deadline_ns, struct err *e);

int sock_fd(const struct sock *s);
const char *sock_addr(const struct sock *s); /* as by sock_format_peer */

/* At least one byte, at most len; 0 at the end of the stream. A deadline in the past takes what is there. */
ssize_t sock_recv(struct sock *s, void *buf, size_t len, int64_t deadline_ns, struct err *e);
/* All of it. */
int sock_send(struct sock *s, const void *buf, size_t len, int64_t deadline_ns, struct err *e);
/* Bytes were taken in while writing, which poll(2) will not tell. */
bool sock_has_held(const struct sock *s);

/* For a side that is done and wants its last bytes read: ends the sending direction, then drops what comes until the
 * peer closes or the deadline passes. Closing a socket with unread bytes would destroy those on their way to the
 * peer. */
void sock_linger(struct sock *s, int64_t deadline_ns);
/* From any thread: every blocked or later call fails at once. */
void sock_shutdown(struct sock *s);
/* Bytes sent and received so far; what the peer has answered to is among those sent. Any thread. */
void sock_bytes(struct sock *s, uint64_t *sent, uint64_t *received);

#endif
