/*
 * tls.h - TLS 1.3 with both sides verified against the fleet's CA. One context per agent (replaced as a whole on
 * reload), one struct tls per connection, used by one thread at a time.
 *
 * Identity is the DNS name in the certificate's subjectAltName; the common name is never looked at.
 */
#ifndef VMFERRY_TRANSPORT_TLS_H
#define VMFERRY_TRANSPORT_TLS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct tls_ctx; /* shared, reference-counted, immutable */
struct tls;

struct tls_files {
	const char *ca;   /* PEM, the fleet's CA */
	const char *cert; /* PEM, this host's certificate */
	const char *key;  /* PEM, mode 0600 */
};

/* Loads and checks that the key is its owner's alone, that key and certificate belong together, that the CA issued
 * the certificate, that it has exactly one DNS name and may be used as client and as server. Dates are not looked at
 * here (a clock that is wrong now may be right later): a peer refuses an expired one, and tls_ctx_not_after lets
 * callers warn. */
struct tls_ctx *tls_ctx_new(const struct tls_files *files, struct err *e);
struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx);
void tls_ctx_free(struct tls_ctx *ctx);
const char *tls_ctx_name(const struct tls_ctx *ctx); /* our own identity */
int64_t tls_ctx_not_after(
	const struct tls_ctx *ctx); /* seconds since 1970: the end of our certificate, or of a CA's before it */

/* Handshake as client over a connected socket, which it owns from now on, also on failure. The peer must present
 * expect_name. deadline_ns bounds the handshake. In TLS 1.3 the client is done before the server has judged the
 * client's certificate: a refusal shows, with its reason, at the first tls_read. */
struct tls *tls_connect(struct tls_ctx *ctx, int fd, const char *expect_name, int64_t deadline_ns, struct err *e);
/* Handshake as server. Any host of the fleet may come; tls_peer_name says which. */
struct tls *tls_accept(struct tls_ctx *ctx, int fd, int64_t deadline_ns, struct err *e);

const char *tls_peer_name(const struct tls *t); /* SAN */
const char *tls_own_name(const struct tls *t);  /* our SAN */
const char *tls_peer_addr(const struct tls *t); /* "10.77.0.12:7350" */
int tls_fd(const struct tls *t);
/* tls_read may find bytes without the socket being readable. */
bool tls_has_buffered(const struct tls *t);
/* Bytes on the wire so far, handshake included. Any thread. */
void tls_wire_bytes(const struct tls *t, uint64_t *sent, uint64_t *received);

/* Blocking until at least one byte, the deadline, or the end. 0 means a clean close_notify; a TCP end without it is
 * ERR_PEER "cut off". A deadline that passes is ERR_PEER with errnum ETIMEDOUT (and nothing else is); reading may be
 * tried again after it. A deadline in the past takes what is there. */
ssize_t tls_read(struct tls *t, void *buf, size_t len, int64_t deadline_ns, struct err *e);
/* All of it, in full records. After a failure nothing more can be written. The vector is not modified. */
int tls_write(struct tls *t, const void *buf, size_t len, int64_t deadline_ns, struct err *e);
int tls_writev(struct tls *t, const struct iovec *iov, size_t n, int64_t deadline_ns, struct err *e);
/* Sends close_notify (best effort, never waits long). */
void tls_close_notify(struct tls *t);
/* After the last write: ends our direction and drops what comes until the peer closes or the deadline, so that the
 * last bytes are read there and not destroyed by a reset. */
void tls_linger(struct tls *t, int64_t deadline_ns);
/* From any thread: every blocked or later call on t fails soon. */
void tls_shutdown(struct tls *t);
void tls_free(struct tls *t);

#endif
