/*
 * tls_internal.h - shared by tls.c (connections), tls_ctx.c (keys, certificates, their verification) and tls_why.c
 * (what went wrong, in words).
 */
#ifndef VMFERRY_TRANSPORT_TLS_INTERNAL_H
#define VMFERRY_TRANSPORT_TLS_INTERNAL_H

#include "transport/cert.h"
#include "transport/sock.h"
#include "transport/tls.h"

#include <openssl/ssl.h>
#include <stdatomic.h>

struct tls_ctx {
	atomic_uint refs;
	SSL_CTX *ssl;
	char name[CERT_MAX_NAME + 1];
	int64_t not_after;
};

struct tls {
	/* fixed after the handshake */
	struct tls_ctx *ctx;
	struct sock *sock;
	SSL *ssl;
	bool server;
	const char *expect_name; /* client, during the handshake only */
	char peer[CERT_MAX_NAME + 1];

	/* the thread that uses it */
	int64_t deadline_ns; /* of the call in progress, for the BIO below OpenSSL */
	struct err io;       /* what the socket said last; set when OpenSSL reports that its BIO failed */
	struct err refusal;  /* why we do not take the peer's certificate */
	bool write_broken;
	uint64_t records_on_key; /* written since the last key update */
	uint8_t *stage;          /* one record's plaintext, gathered from small pieces */
	uint8_t *out;            /* records on their way to the socket */
	size_t out_len;
};

#define TLS_RECORD_BYTES ((size_t)16384)

/* For SSL_CTX_set_verify: adds to OpenSSL's checks the identity, the usage and, for a client, the name. */
int tls_ctx_verify(int ok, X509_STORE_CTX *store);
/* The struct tls of an SSL. */
struct tls *tls_of(const SSL *ssl);
int tls_ex_index(void);

/* Turns a failed OpenSSL call (its SSL_get_error and error queue) into words. Empties the queue. Returns -1. */
int tls_why(struct tls *t, int ssl_error, const char *doing, struct err *e);
/* Why a certificate that the peer presented does not do; for tls_ctx_verify. */
void tls_why_refused(struct tls *t, X509 *cert, int x509_error, int depth, struct err *e);

#endif
