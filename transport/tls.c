#include "transport/tls_internal.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* Records are collected before they go to the kernel: one system call carries many. */
#define OUT_BYTES ((size_t)128 * 1024)
/* AES-GCM is good for 2^24.5 full records under one key (RFC 8446, 5.5). OpenSSL does not count them. */
#define RECORDS_PER_KEY (UINT64_C(1) << 23)
/* close_notify and alerts are small; a peer that does not even take these in is not worth waiting for. */
#define CLOSE_WAIT_NS (NS_PER_S / 5)
#define REFUSAL_LINGER_NS NS_PER_S

/* ---- the BIO between OpenSSL and the socket: it waits itself, so that OpenSSL never has to be asked twice ---- */

static BIO_METHOD *bio_method;
static pthread_once_t bio_once = PTHREAD_ONCE_INIT;

static int flush_out(struct tls *t)
{
	if (t->out_len == 0)
		return 0;
	const size_t len = t->out_len;
	t->out_len = 0; /* a failure is final: see write_broken */
	if (t->write_broken || sock_send(t->sock, t->out, len, t->deadline_ns, &t->io) < 0) {
		t->write_broken = true;
		return -1;
	}
	return 0;
}

static int bio_write(BIO *bio, const char *data, size_t len, size_t *written)
{
	struct tls *t = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	if (t->out_len + len > OUT_BYTES && flush_out(t) < 0)
		return 0;
	if (len > OUT_BYTES) {
		if (t->write_broken || sock_send(t->sock, data, len, t->deadline_ns, &t->io) < 0) {
			t->write_broken = true;
			return 0;
		}
	} else {
		memcpy(t->out + t->out_len, data, len);
		t->out_len += len;
	}
	*written = len;
	return 1;
}

static int bio_read(BIO *bio, char *data, size_t len, size_t *got)
{
	struct tls *t = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	const ssize_t n = sock_recv(t->sock, data, len, t->deadline_ns, &t->io);
	if (n < 0 && t->io.errnum == ETIMEDOUT)
		BIO_set_retry_read(bio); /* the reader may try again later */
	if (n == 0)
		BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
	*got = n > 0 ? (size_t)n : 0;
	return n > 0;
}

static long bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
	(void)num, (void)ptr;
	switch (cmd) {
	case BIO_CTRL_FLUSH:
		return flush_out(BIO_get_data(bio)) == 0;
	case BIO_CTRL_EOF:
		return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
	default:
		return 0;
	}
}

static void make_bio_method(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "vmferry");

	if (m && (!BIO_meth_set_write_ex(m, bio_write) || !BIO_meth_set_read_ex(m, bio_read) ||
		  !BIO_meth_set_ctrl(m, bio_ctrl))) {
		BIO_meth_free(m);
		m = NULL;
	}
	bio_method = m;
}

/* ---- handshake ---- */

static int attach(struct tls *t, struct err *e)
{
	char why[256];

	pthread_once(&bio_once, make_bio_method);
	ERR_clear_error();
	t->ssl = SSL_new(t->ctx->ssl);
	BIO *bio = bio_method ? BIO_new(bio_method) : NULL;
	if (!t->ssl || !bio || SSL_set_ex_data(t->ssl, tls_ex_index(), t) != 1) {
		BIO_free(bio);
		return err_set(e, ERR_SYS, "start TLS: %s", cert_openssl_error(why, sizeof(why)));
	}
	BIO_set_data(bio, t);
	BIO_set_init(bio, 1);
	SSL_set_bio(t->ssl, bio, bio);
	return 0;
}

static struct tls *start(struct tls_ctx *ctx, int fd, bool server, struct err *e)
{
	struct sock *sock = sock_new(fd, e);

	if (!sock)
		return NULL;
	struct tls *t = mem_alloc(sizeof(*t));
	t->ctx = tls_ctx_ref(ctx);
	t->sock = sock;
	t->server = server;
	t->out = mem_alloc(OUT_BYTES);
	t->stage = mem_alloc(TLS_RECORD_BYTES);
	if (attach(t, e) < 0) {
		tls_free(t);
		return NULL;
	}
	return t;
}

/* Our refusal (an alert) must reach the peer, who may be sending its first frame at this moment. */
static void part_after_refusal(struct tls *t, int64_t deadline_ns)
{
	const int64_t soon = clock_mono_ns() + REFUSAL_LINGER_NS;

	t->deadline_ns = deadline_ns < soon ? deadline_ns : soon;
	flush_out(t);
	tls_linger(t, t->deadline_ns);
}

static struct tls *handshake(struct tls *t, int64_t deadline_ns, struct err *e)
{
	t->deadline_ns = deadline_ns;
	ERR_clear_error();
	const int rc = t->server ? SSL_accept(t->ssl) : SSL_connect(t->ssl);
	if (rc == 1 && cert_identity(SSL_get0_peer_certificate(t->ssl), t->peer, e) == 0) {
		t->expect_name = NULL;
		return t;
	}
	if (rc != 1) {
		tls_why(t, SSL_get_error(t->ssl, rc), "TLS handshake", e);
		if (e->cls == ERR_REFUSED || e->cls == ERR_PROTOCOL)
			part_after_refusal(t, deadline_ns);
		if (e->errnum == ETIMEDOUT)
			err_remedy(e, "Check that a vmferryd is at that address and port, and that it is not stopped.");
	}
	tls_free(t);
	return NULL;
}

struct tls *tls_connect(struct tls_ctx *ctx, int fd, const char *expect_name, int64_t deadline_ns, struct err *e)
{
	struct tls *t = start(ctx, fd, false, e);

	if (!t)
		return NULL;
	t->expect_name = expect_name;
	return handshake(t, deadline_ns, e);
}

struct tls *tls_accept(struct tls_ctx *ctx, int fd, int64_t deadline_ns, struct err *e)
{
	struct tls *t = start(ctx, fd, true, e);

	return t ? handshake(t, deadline_ns, e) : NULL;
}

const char *tls_peer_name(const struct tls *t)
{
	return t->peer;
}

const char *tls_own_name(const struct tls *t)
{
	return t->ctx->name;
}

const char *tls_peer_addr(const struct tls *t)
{
	return sock_addr(t->sock);
}

int tls_fd(const struct tls *t)
{
	return sock_fd(t->sock);
}

bool tls_has_buffered(const struct tls *t)
{
	return SSL_has_pending(t->ssl) || sock_has_held(t->sock);
}

void tls_wire_bytes(const struct tls *t, uint64_t *sent, uint64_t *received)
{
	sock_bytes(t->sock, sent, received);
}

/* ---- data ---- */

ssize_t tls_read(struct tls *t, void *buf, size_t len, int64_t deadline_ns, struct err *e)
{
	size_t got = 0;

	t->deadline_ns = deadline_ns;
	err_clear(&t->io);
	ERR_clear_error();
	if (SSL_read_ex(t->ssl, buf, len, &got) == 1)
		return (ssize_t)got;
	const int why = SSL_get_error(t->ssl, 0);
	if (why == SSL_ERROR_ZERO_RETURN)
		return 0;
	return tls_why(t, why, "receive", e);
}

static int write_record(struct tls *t, const uint8_t *p, size_t len, struct err *e)
{
	size_t done = 0;

	if (++t->records_on_key >= RECORDS_PER_KEY) {
		/* Travels in front of the next record; the peer's keys of the other direction stay. */
		if (SSL_key_update(t->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1)
			return tls_why(t, SSL_ERROR_SSL, "TLS key update", e);
		t->records_on_key = 0;
	}
	if (SSL_write_ex(t->ssl, p, len, &done) != 1) {
		t->write_broken = true;
		return tls_why(t, SSL_get_error(t->ssl, 0), "send", e);
	}
	return 0;
}

int tls_writev(struct tls *t, const struct iovec *iov, size_t n, int64_t deadline_ns, struct err *e)
{
	size_t staged = 0;

	if (t->write_broken)
		return err_set(e, ERR_PEER, "send: an earlier write on this connection failed");
	t->deadline_ns = deadline_ns;
	err_clear(&t->io);
	ERR_clear_error();
	for (size_t i = 0; i < n; i++) {
		const uint8_t *p = iov[i].iov_base;
		size_t left = iov[i].iov_len;
		while (left > 0) {
			if (staged == 0 && left >= TLS_RECORD_BYTES) {
				if (write_record(t, p, TLS_RECORD_BYTES, e) < 0)
					return -1;
				p += TLS_RECORD_BYTES;
				left -= TLS_RECORD_BYTES;
				continue;
			}
			/* Small pieces and what is left of large ones share a record. */
			const size_t room = TLS_RECORD_BYTES - staged;
			const size_t take = left < room ? left : room;
			memcpy(t->stage + staged, p, take);
			staged += take;
			p += take;
			left -= take;
			if (staged == TLS_RECORD_BYTES) {
				if (write_record(t, t->stage, staged, e) < 0)
					return -1;
				staged = 0;
			}
		}
	}
	if (staged > 0 && write_record(t, t->stage, staged, e) < 0)
		return -1;
	return flush_out(t) == 0 ? 0 : tls_why(t, SSL_ERROR_SYSCALL, "send", e);
}

int tls_write(struct tls *t, const void *buf, size_t len, int64_t deadline_ns, struct err *e)
{
	union {
		const void *in;
		void *out;
	} base = { .in = buf };
	const struct iovec iov = { .iov_base = base.out, .iov_len = len };

	return tls_writev(t, &iov, 1, deadline_ns, e);
}

void tls_close_notify(struct tls *t)
{
	if (t->write_broken || !SSL_is_init_finished(t->ssl))
		return;
	t->deadline_ns = clock_mono_ns() + CLOSE_WAIT_NS;
	ERR_clear_error();
	SSL_shutdown(t->ssl);
	flush_out(t);
	ERR_clear_error();
	err_clear(&t->io);
}

void tls_linger(struct tls *t, int64_t deadline_ns)
{
	sock_linger(t->sock, deadline_ns);
}

void tls_shutdown(struct tls *t)
{
	sock_shutdown(t->sock);
}

void tls_free(struct tls *t)
{
	if (!t)
		return;
	SSL_free(t->ssl);
	sock_free(t->sock);
	tls_ctx_free(t->ctx);
	free(t->stage);
	free(t->out);
	free(t);
}
