/*
 * tls.h - TLS 1.3 with both sides verified against the fleet's CA. One context per agent (replaced as a whole on
 * reload), one struct tls per connection, used by one thread at a time.
 *
 * Identity is the DNS name in the certificate's subjectAltName; the common name is never looked at.
 */
#ifndef VMFERRY_TRANSPORT_TLS_H
#define VMFERRY_TRANSPORT_TLS_H

#include "base/err.h"

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

/* Loads and checks that key and certificate belong together and that the CA issued the certificate. */
struct tls_ctx *tls_ctx_new(const struct tls_files *files, struct err *e);
struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx);
void tls_ctx_free(struct tls_ctx *ctx);

/* Handshake as client over a connected socket, which it owns from now on, also on failure. The peer must present
 * expect_name. deadline_ns bounds the handshake. */
struct tls *tls_connect(struct tls_ctx *ctx, int fd, const char *expect_name, int64_t deadline_ns, struct err *e);
/* Handshake as server. Any host of the fleet may come; tls_peer_name says which. */
struct tls *tls_accept(struct tls_ctx *ctx, int fd, int64_t deadline_ns, struct err *e);

const char *tls_peer_name(const struct tls *t); /* SAN */
int tls_fd(const struct tls *t);

/* Blocking until at least one byte, the deadline, or the end. 0 means a clean close_notify; a TCP end without it is
 * ERR_PEER "cut off". A deadline that passes is ERR_PEER with errnum ETIMEDOUT. */
ssize_t tls_read(struct tls *t, void *buf, size_t len, int64_t deadline_ns, struct err *e);
int tls_write(struct tls *t, const void *buf, size_t len, int64_t deadline_ns, struct err *e);
/* Sends close_notify (best effort). */
void tls_close_notify(struct tls *t);
/* From any thread: every blocked or later call on t fails soon. */
void tls_shutdown(struct tls *t);
void tls_free(struct tls *t);

#endif
