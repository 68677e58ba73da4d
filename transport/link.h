/*
 * link.h - frames over one connection: TLS between hosts, a plain UNIX socket to the local agent. A link is used by one
 * thread at a time, but for link_shutdown.
 *
 * A link opens with a HELLO frame from each side (JSON object: protocol version range, agent version, what the link is
 * for), and ends with END, END_ACK and close_notify; any other end is an error.
 */
#ifndef VMFERRY_TRANSPORT_LINK_H
#define VMFERRY_TRANSPORT_LINK_H

#include "base/buf.h"
#include "base/err.h"
#include "transport/frame.h"
#include "transport/tls.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define LINK_PROTOCOL_VERSION 1
#define LINK_DEFAULT_PORT 7350

struct link;

struct link_peer {
	const char *name; /* SAN expected, and shown in errors */
	const char *address;
	uint16_t port;
};

/* TCP connect (NODELAY, keepalive, TCP_USER_TIMEOUT), TLS handshake, HELLO exchange. `hello` is stolen, also on
 * failure, here and below; it gains "version" and "agent". The peer's HELLO is link_hello(). Errors carry name,
 * address and remedy; a refusal has the class, text and remedy that the peer gave. */
struct link *link_connect(struct tls_ctx *ctx, const struct link_peer *peer, json_t *hello, int64_t deadline_ns,
			  struct err *e);
/* Server side of the same over an accepted socket, which it owns, also on failure. The answer to HELLO is sent by
 * link_welcome or link_refuse, after the caller has looked at peer name and hello. */
struct link *link_accept(struct tls_ctx *ctx, int fd, int64_t deadline_ns, struct err *e);
int link_welcome(struct link *l, json_t *hello, int64_t deadline_ns, struct err *e); /* the link stays the caller's */
/* Tells the peer why (class, text, remedy), then closes. Frees the link. */
void link_refuse(struct link *l, const struct err *why);
/* Both ends of a UNIX socket: the same frames and HELLO without TLS. */
struct link *link_connect_local(const char *socket_path, json_t *hello, int64_t deadline_ns, struct err *e);
struct link *link_accept_local(int fd, int64_t deadline_ns, struct err *e);

const char *link_peer_name(const struct link *l); /* SAN; "local" for a UNIX socket */
const char *link_own_name(const struct link *l);  /* who we are to the peer: our SAN, or "local" */
const char *link_peer_addr(const struct link *l); /* "10.77.0.12:7350", for logs */
const json_t *link_hello(const struct link *l);   /* the peer's HELLO */
int link_fd(const struct link *l);
bool link_has_buffered(const struct link *l); /* link_recv would find bytes without the socket being readable */

/* One frame; the vector is not modified. Its length must be within frame_max_payload(type). While it waits for room
 * it takes in what the peer sends (sock.h). After a failure, also by the deadline, the link is only good for
 * link_free. */
int link_send(struct link *l, uint16_t type, const struct iovec *iov, size_t n, int64_t deadline_ns, struct err *e);

struct link_frame {
	uint16_t type;
	uint32_t len;
	const uint8_t *payload; /* the link's, until the next call on it */
};
/* Next frame; frames that may be ignored are skipped. Returns 1, or 0 after END has come and was acknowledged (clean
 * end), or -1. When the deadline passes (ERR_PEER, errnum ETIMEDOUT, and nothing else has that errnum) the link is
 * as good as before: what has come of a frame is kept. A deadline in the past takes what is there without waiting.
 * After any other error the link is only good for link_free; its counterpart learns of it by the cut. A receiver
 * must not stop calling this for long: a peer's kernel that could send nothing for SOCK_LOST_AFTER_MS gives the
 * connection up. */
int link_recv(struct link *l, struct link_frame *f, int64_t deadline_ns, struct err *e);

/* Takes the payload of the frame that link_recv just gave, memory and all, without a copy: b gets it, with len set, and the link goes on with
 * the memory that b had (heap; NULL is fine). */
void link_take_payload(struct link *l, struct buf *b);

/* END, await END_ACK, close_notify; what the peer has still sent is dropped. The link is then only good for
 * link_free. */
int link_finish(struct link *l, int64_t deadline_ns, struct err *e);
/* Bytes put on the wire and taken from it so far, TLS records included, TCP and IP headers not. Any thread. */
void link_wire_bytes(const struct link *l, uint64_t *sent, uint64_t *received);
/* From any thread: every blocked or later call fails soon. */
void link_shutdown(struct link *l);
void link_free(struct link *l);

#endif
