#include "transport/tls.h"

#include "tests/unit/transport_fixture.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>

static struct tls_ctx *host1, *host2;

static void setup(void)
{
	signal(SIGPIPE, SIG_IGN);
	fixture_fleet(&host1, &host2);
}

static void teardown(void)
{
	tls_ctx_free(host1);
	tls_ctx_free(host2);
	fixture_clean();
}

/* ---- a server in a thread ---- */

struct server {
	struct tls_ctx *ctx;
	int fd;
	struct tls *tls;
	struct err e;
	pthread_t thread;
};

static void *server_thread(void *arg)
{
	struct server *s = arg;

	s->tls = tls_accept(s->ctx, s->fd, soon(), &s->e);
	return NULL;
}

static void server_start(struct server *s, struct tls_ctx *ctx, int fd)
{
	*s = (struct server){ .ctx = ctx, .fd = fd };
	ck_assert_int_eq(pthread_create(&s->thread, NULL, server_thread, s), 0);
}

/* Two ends that have met; fails the test otherwise. */
static void meet_over(int fd[2], struct tls **client, struct tls **server)
{
	struct server s;
	struct err e = ERR_INIT;

	server_start(&s, host2, fd[1]);
	*client = tls_connect(host1, fd[0], "host2", soon(), &e);
	pthread_join(s.thread, NULL);
	ck_assert_msg(*client && s.tls, "%s / %s", e.text, s.e.text);
	*server = s.tls;
}

static void meet(struct tls **client, struct tls **server)
{
	int fd[2];

	fixture_tcp_pair(fd);
	meet_over(fd, client, server);
}

/* ---- data ---- */

START_TEST(both_know_each_other)
{
	struct tls *c, *s;
	char buf[16];
	struct err e = ERR_INIT;
	uint64_t sent, received, sent2, received2;

	meet(&c, &s);
	ck_assert_str_eq(tls_peer_name(c), "host2");
	ck_assert_str_eq(tls_own_name(c), "host1");
	ck_assert_str_eq(tls_peer_name(s), "host1");
	ck_assert_ptr_nonnull(strstr(tls_peer_addr(s), "127.0.0.1:"));
	OK(tls_write(c, "hello", 5, soon(), &e), e);
	ck_assert_int_eq(tls_read(s, buf, sizeof(buf), soon(), &e), 5);
	ck_assert_int_eq(memcmp(buf, "hello", 5), 0);
	OK(tls_write(s, "you", 3, soon(), &e), e);
	ck_assert_int_eq(tls_read(c, buf, sizeof(buf), soon(), &e), 3);
	tls_wire_bytes(c, &sent, &received);
	tls_wire_bytes(s, &sent2, &received2);
	ck_assert_uint_eq(sent, received2);
	ck_assert_uint_eq(received, sent2);
	ck_assert_uint_gt(sent, 500);
	tls_close_notify(c);
	ck_assert_int_eq(tls_read(s, buf, sizeof(buf), soon(), &e), 0);
	tls_free(c);
	tls_free(s);
}
END_TEST

static uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 31 + (i >> 11));
}

struct reading {
	struct tls *tls;
	size_t want, got, wrong;
	struct err e;
};

static void *read_thread(void *arg)
{
	struct reading *r = arg;
	uint8_t buf[30000];

	while (r->got < r->want) {
		const ssize_t n = tls_read(r->tls, buf, sizeof(buf), soon(), &r->e);
		if (n <= 0)
			break;
		for (ssize_t i = 0; i < n; i++)
			r->wrong += buf[i] != pattern(r->got + (size_t)i);
		r->got += (size_t)n;
	}
	return NULL;
}

/* Pieces of all sizes around a record's, several MB. */
START_TEST(large_writes_of_many_pieces)
{
	static const size_t sizes[] = { 16, 1000000, 1, 16384, 0, 16383, 16385, 3, 32768, 2000000, 5, 5, 40000 };
	enum { N = sizeof(sizes) / sizeof(sizes[0]) };
	struct iovec iov[N];
	struct tls *c, *s;
	struct err e = ERR_INIT;
	size_t total = 0;
	pthread_t t;

	for (size_t i = 0; i < N; i++)
		total += sizes[i];
	MEM_AUTO uint8_t *data = mem_alloc(total);
	for (size_t i = 0; i < total; i++)
		data[i] = pattern(i);
	size_t at = 0;
	for (size_t i = 0; i < N; i++) {
		iov[i] = (struct iovec){ .iov_base = data + at, .iov_len = sizes[i] };
		at += sizes[i];
	}
	meet(&c, &s);
	struct reading r = { .tls = s, .want = total };
	pthread_create(&t, NULL, read_thread, &r);
	OK(tls_writev(c, iov, N, soon(), &e), e);
	pthread_join(t, NULL);
	ck_assert_uint_eq(r.got, total);
	ck_assert_uint_eq(r.wrong, 0);
	tls_free(c);
	tls_free(s);
}
END_TEST

struct writing {
	struct tls *tls;
	size_t len;
	int rc;
	struct err e;
};

static void *write_thread(void *arg)
{
	struct writing *w = arg;
	MEM_AUTO uint8_t *data = mem_alloc(w->len);

	for (size_t i = 0; i < w->len; i++)
		data[i] = pattern(i);
	w->rc = tls_write(w->tls, data, w->len, soon(), &w->e);
	return NULL;
}

struct talking {
	struct writing w;
	struct reading r;
};

static void *write_then_read(void *arg)
{
	struct talking *t = arg;

	write_thread(&t->w);
	if (t->w.rc == 0)
		read_thread(&t->r);
	return NULL;
}

/* Neither reads while it writes more than the kernel holds: each takes in what the other sends. */
START_TEST(both_write_first)
{
	const size_t len = 6000000;
	struct tls *c, *s;
	pthread_t t;

	meet(&c, &s);
	struct talking there = { .w = { .tls = s, .len = len }, .r = { .tls = s, .want = len } };
	struct talking here = { .w = { .tls = c, .len = len }, .r = { .tls = c, .want = len } };
	pthread_create(&t, NULL, write_then_read, &there);
	write_then_read(&here);
	pthread_join(t, NULL);
	ck_assert_msg(here.w.rc == 0 && there.w.rc == 0, "%s / %s", here.w.e.text, there.w.e.text);
	ck_assert_uint_eq(here.r.got + there.r.got, 2 * len);
	ck_assert_uint_eq(here.r.wrong + there.r.wrong, 0);
	tls_free(c);
	tls_free(s);
}
END_TEST

START_TEST(read_deadline_does_no_harm)
{
	struct tls *c, *s;
	char buf[8];
	struct err e = ERR_INIT;

	meet(&c, &s);
	for (int i = 0; i < 3; i++) {
		err_clear(&e);
		ck_assert_int_eq(tls_read(s, buf, sizeof(buf), i ? in_ms(5) : 0, &e), -1);
		ck_assert_int_eq(e.cls, ERR_PEER);
		ck_assert_int_eq(e.errnum, ETIMEDOUT);
	}
	OK(tls_write(c, "late", 4, soon(), &e), e);
	ck_assert_int_eq(tls_read(s, buf, sizeof(buf), soon(), &e), 4);
	tls_free(c);
	tls_free(s);
}
END_TEST

START_TEST(write_deadline)
{
	struct tls *c, *s;
	struct err e = ERR_INIT;
	const size_t len = 64 * 1024 * 1024; /* more than the kernel takes */
	MEM_AUTO uint8_t *data = mem_alloc(len);

	meet(&c, &s);
	ck_assert_int_eq(tls_write(c, data, len, in_ms(50), &e), -1);
	ck_assert_int_eq(e.errnum, ETIMEDOUT);
	err_clear(&e);
	ck_assert_int_eq(tls_write(c, data, 1, soon(), &e), -1);
	HAS(e.text, "an earlier write");
	tls_free(c);
	tls_free(s);
}
END_TEST

/* The kernel gives up, in 5 s on real links, and the error says so: not that the peer cut it. */
START_TEST(receiver_that_does_not_read)
{
	const unsigned lost_after_ms = 200;
	struct tls *c, *s;

	meet(&c, &s);
	ck_assert_int_eq(setsockopt(tls_fd(c), IPPROTO_TCP, TCP_USER_TIMEOUT, &lost_after_ms, sizeof(lost_after_ms)), 0);
	struct writing w = { .tls = c, .len = 64 * 1024 * 1024 };
	write_thread(&w);
	ck_assert_int_eq(w.rc, -1);
	ck_assert_int_eq(w.e.cls, ERR_PEER);
	HAS(w.e.text, "the peer has acknowledged nothing");
	ck_assert_int_ne(w.e.errnum, ETIMEDOUT); /* which would mean our own deadline */
	tls_free(c);
	tls_free(s);
}
END_TEST

START_TEST(cut_without_close_notify)
{
	struct tls *c, *s;
	char buf[8];
	struct err e = ERR_INIT;

	meet(&c, &s);
	tls_free(c);
	ck_assert_int_eq(tls_read(s, buf, sizeof(buf), soon(), &e), -1);
	ck_assert_int_eq(e.cls, ERR_PEER);
	HAS(e.text, "cut off");
	tls_free(s);
}
END_TEST

static void *blocked_read(void *arg)
{
	struct reading *r = arg;
	char c;

	r->got = (size_t)(tls_read(r->tls, &c, 1, INT64_MAX, &r->e) + 1);
	return NULL;
}

static void *blocked_write(void *arg)
{
	struct writing *w = arg;
	MEM_AUTO uint8_t *data = mem_alloc(w->len);

	w->rc = tls_write(w->tls, data, w->len, INT64_MAX, &w->e);
	return NULL;
}

START_TEST(shutdown_wakes_reader_and_writer)
{
	struct tls *c, *s;
	pthread_t t[2];

	meet(&c, &s);
	struct reading r = { .tls = s, .got = 99 };
	struct writing w = { .tls = c, .len = 64 * 1024 * 1024 };
	pthread_create(&t[1], NULL, blocked_write, &w);
	/* Until the writer has filled the kernel: then it waits. */
	for (uint64_t last = 0, sent = 1, received; sent != last; usleep(20000)) {
		last = sent;
		tls_wire_bytes(c, &sent, &received);
	}
	tls_shutdown(c);
	pthread_join(t[1], NULL);
	ck_assert_int_eq(w.rc, -1);
	ck_assert_int_eq(w.e.cls, ERR_CANCELLED);
	tls_free(c);
	tls_free(s);

	meet(&c, &s);
	r.tls = s;
	pthread_create(&t[0], NULL, blocked_read, &r);
	tls_shutdown(s);
	pthread_join(t[0], NULL);
	ck_assert_uint_eq(r.got, 0);
	ck_assert_int_eq(r.e.cls, ERR_CANCELLED);
	tls_free(c);
	tls_free(s);
}
END_TEST

/* ---- a hand on the wire ---- */

struct tap {
	int a, b; /* bytes from a to b, and back */
	atomic_bool flip;
	pthread_t thread;
};

static void *tap_thread(void *arg)
{
	struct tap *t = arg;
	uint8_t buf[65536];
	struct pollfd p[2] = { { .fd = t->a, .events = POLLIN }, { .fd = t->b, .events = POLLIN } };

	for (;;) {
		if (poll(p, 2, 20000) <= 0)
			return NULL;
		for (int i = 0; i < 2; i++) {
			if (!p[i].revents)
				continue;
			const ssize_t n = recv(p[i].fd, buf, sizeof(buf), 0);
			if (n <= 0) {
				shutdown(t->a, SHUT_RDWR);
				shutdown(t->b, SHUT_RDWR);
				return NULL;
			}
			if (i == 0 && atomic_exchange(&t->flip, false))
				buf[n / 2] ^= 1;
			if (send(i ? t->a : t->b, buf, (size_t)n, MSG_NOSIGNAL) != n)
				return NULL;
		}
	}
}

START_TEST(changed_on_the_way)
{
	struct tls *c, *s;
	int left[2], right[2], ends[2];
	char buf[256] = { 0 };
	struct err e = ERR_INIT;

	fixture_unix_pair(left);
	fixture_unix_pair(right);
	struct tap t = { .a = left[1], .b = right[0] };
	ends[0] = left[0];
	ends[1] = right[1];
	pthread_create(&t.thread, NULL, tap_thread, &t);
	meet_over(ends, &c, &s);
	OK(tls_write(c, buf, 200, soon(), &e), e);
	ck_assert_int_eq(tls_read(s, buf, sizeof(buf), soon(), &e), 200);
	atomic_store(&t.flip, true);
	OK(tls_write(c, buf, 200, soon(), &e), e);
	ck_assert_int_eq(tls_read(s, buf, sizeof(buf), soon(), &e), -1);
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	HAS(e.text, "does not verify");
	tls_free(s);
	tls_free(c);
	pthread_join(t.thread, NULL);
	close(t.a);
	close(t.b);
}
END_TEST

/* ---- who is refused, and what both sides say ---- */

struct clash {
	struct err client; /* of tls_connect, or of the first read after it */
	struct err server;
};

static void clash(struct tls_ctx *client, const char *expect, struct tls_ctx *server, struct clash *out)
{
	struct server s;
	int fd[2];
	char c;

	*out = (struct clash){ 0 };
	fixture_tcp_pair(fd);
	server_start(&s, server, fd[1]);
	struct tls *t = tls_connect(client, fd[0], expect, soon(), &out->client);
	if (t) {
		/* As a link does: it sends its HELLO at once, and then reads. */
		struct err ignored = ERR_INIT;
		tls_write(t, "HELLO", 5, soon(), &ignored);
		ck_assert_int_eq(tls_read(t, &c, 1, soon(), &out->client), -1);
		tls_free(t);
	}
	pthread_join(s.thread, NULL);
	ck_assert_ptr_null(s.tls);
	out->server = s.e;
}

/* A certificate that pki.h would not make. */
static void forge(const char *ca, const char *out, const char *cn, const char *san, const char *eku)
{
	FILE *f = fopen(fixture_path(ca, "ca.key"), "r");
	EVP_PKEY *ca_key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
	fclose(f);
	f = fopen(fixture_path(ca, "ca.pem"), "r");
	X509 *ca_cert = PEM_read_X509(f, NULL, NULL, NULL);
	fclose(f);
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = X509_new();
	X509V3_CTX v3;

	X509_set_version(cert, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), 77);
	X509_gmtime_adj(X509_getm_notBefore(cert), -100);
	X509_gmtime_adj(X509_getm_notAfter(cert), 10000);
	X509_set_pubkey(cert, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_UTF8, (const unsigned char *)cn, -1, -1,
				   0);
	X509_set_issuer_name(cert, X509_get_subject_name(ca_cert));
	X509V3_set_ctx(&v3, ca_cert, cert, NULL, NULL, 0);
	const struct {
		int nid;
		const char *value;
	} ext[] = { { NID_subject_alt_name, san }, { NID_ext_key_usage, eku } };
	for (size_t i = 0; i < 2; i++) {
		X509_EXTENSION *x = ext[i].value ? X509V3_EXT_conf_nid(NULL, &v3, ext[i].nid, ext[i].value) : NULL;
		if (x)
			X509_add_ext(cert, x, -1);
		X509_EXTENSION_free(x);
	}
	ck_assert_int_gt(X509_sign(cert, ca_key, EVP_sha256()), 0);
	mkdir(fixture_path(out, NULL), 0700);
	f = fopen(fixture_path(out, "host.pem"), "w");
	PEM_write_X509(f, cert);
	fclose(f);
	f = fopen(fixture_path(out, "host.key"), "w");
	fchmod(fileno(f), 0600);
	PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
	fclose(f);
	EVP_PKEY_free(ca_key);
	EVP_PKEY_free(key);
	X509_free(ca_cert);
	X509_free(cert);
}

static int64_t days_ago(int days)
{
	return (int64_t)time(NULL) - days * INT64_C(86400);
}

START_TEST(expired_server)
{
	struct clash r;

	fixture_issue("ca", "host2", "old", days_ago(10), 5);
	struct tls_ctx *old = fixture_ctx("old", NULL); /* loads: the peers judge the date */
	clash(host1, "host2", old, &r);
	ck_assert_int_eq(r.client.cls, ERR_REFUSED);
	HAS(r.client.text, "the certificate of host2 expired on 20");
	HAS(r.client.remedy, "Issue a new one (`vmferry pki issue`)");
	HAS(r.client.remedy, "clocks");
	HAS(r.server.text, "refused our certificate: by its clock it has expired");
	tls_ctx_free(old);
}
END_TEST

START_TEST(expired_client)
{
	struct clash r;

	fixture_issue("ca", "host1", "old", days_ago(10), 5);
	struct tls_ctx *old = fixture_ctx("old", NULL);
	clash(old, "host2", host2, &r);
	ck_assert_int_eq(r.client.cls, ERR_PEER);
	HAS(r.client.text, "refused our certificate: by its clock it has expired");
	HAS(r.client.remedy, "vmferry pki issue");
	ck_assert_int_eq(r.server.cls, ERR_REFUSED);
	HAS(r.server.text, "the certificate of host1 expired on 20");
	tls_ctx_free(old);
}
END_TEST

START_TEST(not_yet_valid)
{
	struct clash r;

	fixture_issue("ca", "host1", "new", days_ago(-10), 5);
	struct tls_ctx *new = fixture_ctx("new", NULL);
	clash(new, "host2", host2, &r);
	HAS(r.server.text, "the certificate of host1 is not valid before 20");
	HAS(r.server.remedy, "check the clocks");
	HAS(r.client.text, "refused our certificate");
	tls_ctx_free(new);
}
END_TEST

START_TEST(other_fleet)
{
	struct clash r;

	fixture_ca("ca2");
	fixture_issue("ca2", "host1", "stranger", 0, 0);
	struct tls_ctx *stranger = fixture_ctx("stranger", NULL);
	clash(stranger, "host2", host2, &r);
	ck_assert_int_eq(r.client.cls, ERR_REFUSED);
	HAS(r.client.text, "the certificate of host2 was issued by \"vmferry fleet ca\", which is not this fleet's CA");
	HAS(r.client.remedy, "compare ca.pem");
	HAS(r.server.text, "another CA issued it");
	tls_ctx_free(stranger);
}
END_TEST

/* It trusts our CA, so it takes our certificate; we do not take its. Both CAs have the same name, on top of it. */
START_TEST(client_of_another_ca)
{
	struct clash r;
	struct err e = ERR_INIT;

	OK(pki_init(fixture_path("ca2", NULL), "ca", &e), e);
	fixture_issue("ca2", "host1", "stranger", 0, 0);
	char both[256], cmd[800];
	snprintf(both, sizeof(both), "%s", fixture_path("both.pem", NULL));
	snprintf(cmd, sizeof(cmd), "cat %s %s > %s", fixture_path("ca", "ca.pem"), fixture_path("ca2", "ca.pem"), both);
	ck_assert_int_eq(system(cmd), 0);
	struct tls_ctx *stranger = fixture_ctx("stranger", both);
	clash(stranger, "host2", host2, &r);
	ck_assert_int_eq(r.client.cls, ERR_PEER);
	HAS(r.client.text, "it refused our certificate: another CA issued it");
	HAS(r.client.remedy, "compare ca.pem");
	ck_assert_int_eq(r.server.cls, ERR_REFUSED);
	HAS(r.server.text, "the certificate of host1 was issued by \"vmferry fleet ca\", which is not this fleet's CA");
	tls_ctx_free(stranger);
}
END_TEST

/* While a fleet changes its CA, hosts trust both. */
START_TEST(two_cas_trusted)
{
	struct server s;
	struct err e = ERR_INIT;
	int fd[2];

	fixture_ca("ca2");
	fixture_issue("ca2", "host1", "moved", 0, 0);
	char both[256], cmd[800];
	snprintf(both, sizeof(both), "%s", fixture_path("both.pem", NULL));
	snprintf(cmd, sizeof(cmd), "cat %s %s > %s", fixture_path("ca2", "ca.pem"), fixture_path("ca", "ca.pem"), both);
	ck_assert_int_eq(system(cmd), 0);
	struct tls_ctx *moved = fixture_ctx("moved", both);
	struct tls_ctx *stays = fixture_ctx("h2", both);
	fixture_tcp_pair(fd);
	server_start(&s, stays, fd[1]);
	struct tls *t = tls_connect(moved, fd[0], "host2", soon(), &e);
	pthread_join(s.thread, NULL);
	ck_assert_msg(t && s.tls, "%s / %s", e.text, s.e.text);
	tls_free(t);
	tls_free(s.tls);
	tls_ctx_free(moved);
	tls_ctx_free(stays);
}
END_TEST

START_TEST(name_mismatch)
{
	struct clash r;

	clash(host1, "host3", host2, &r);
	ck_assert_int_eq(r.client.cls, ERR_REFUSED);
	HAS(r.client.text, "the certificate is for host2, expected host3");
	HAS(r.client.remedy, "another host answers there");
	HAS(r.server.text, "it refused our certificate");
}
END_TEST

static const struct {
	const char *cn, *san, *eku;
	const char *as_client, *as_server; /* what a peer says of it; NULL: takes it */
} forged[] = {
	{ "host1", "DNS:host1", "serverAuth", "the certificate of host1 is not meant for a TLS client", NULL },
	{ "host1", "DNS:host1", "clientAuth", NULL, "the certificate of host1 is not meant for a TLS server" },
	{ "host1", "DNS:host1", NULL, "not meant for a TLS client", "not meant for a TLS server" },
	{ "host1", NULL, "serverAuth,clientAuth", "has 0 DNS names", "has 0 DNS names" },
	{ "host1", "DNS:host1,DNS:host2", "serverAuth,clientAuth", "has 2 DNS names", "has 2 DNS names" },
	{ "host1", "IP:127.0.0.1", "serverAuth,clientAuth", "has 0 DNS names", "has 0 DNS names" },
	{ "host1", "DNS:*.example.net", "serverAuth,clientAuth", "\"*.example.net\" is not a usable", "is not a usable" },
	{ "host1", "DNS:local", "serverAuth,clientAuth", "stands for this host itself", "stands for this host itself" },
	{ "local", "DNS:HOST1", "serverAuth,clientAuth", NULL, NULL },
};

/* Without the checks that tls_ctx_new makes of our own certificate: OpenSSL itself. */
struct raw {
	SSL_CTX *ctx;
	SSL *ssl;
	int fd;
};

static void raw_start(struct raw *r, int fd, const char *dir, int max_version, bool server)
{
	r->fd = fd;
	r->ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
	SSL_CTX_set_max_proto_version(r->ctx, max_version);
	if (dir) {
		ck_assert_int_eq(SSL_CTX_use_certificate_chain_file(r->ctx, fixture_path(dir, "host.pem")), 1);
		ck_assert_int_eq(SSL_CTX_use_PrivateKey_file(r->ctx, fixture_path(dir, "host.key"), SSL_FILETYPE_PEM),
				 1);
	}
	r->ssl = SSL_new(r->ctx);
	SSL_set_fd(r->ssl, fd);
}

static void raw_end(struct raw *r)
{
	SSL_free(r->ssl);
	SSL_CTX_free(r->ctx);
	close(r->fd);
	ERR_clear_error();
}

static void *raw_server_thread(void *arg)
{
	struct raw *r = arg;
	char c;

	if (SSL_accept(r->ssl) == 1)
		SSL_read(r->ssl, &c, 1);
	ERR_clear_error();
	shutdown(r->fd, SHUT_RDWR);
	return NULL;
}

START_TEST(forged_client)
{
	struct server s;
	struct raw r;
	int fd[2];
	char c;

	forge("ca", "f", forged[_i].cn, forged[_i].san, forged[_i].eku);
	fixture_tcp_pair(fd);
	server_start(&s, host2, fd[1]);
	raw_start(&r, fd[0], "f", TLS1_3_VERSION, false);
	if (SSL_connect(r.ssl) == 1 && forged[_i].as_client)
		ck_assert_int_le(SSL_read(r.ssl, &c, 1), 0);
	raw_end(&r);
	pthread_join(s.thread, NULL);
	if (forged[_i].as_client) {
		ck_assert_ptr_null(s.tls);
		ck_assert_int_eq(s.e.cls, ERR_REFUSED);
		HAS(s.e.text, forged[_i].as_client);
	} else {
		ck_assert_msg(s.tls != NULL, "%s", s.e.text);
		ck_assert_str_eq(tls_peer_name(s.tls), "host1");
		tls_free(s.tls);
	}
}
END_TEST

START_TEST(forged_server)
{
	struct raw r;
	struct err e = ERR_INIT;
	pthread_t thread;
	int fd[2];

	forge("ca", "f", forged[_i].cn, forged[_i].san, forged[_i].eku);
	fixture_tcp_pair(fd);
	raw_start(&r, fd[1], "f", TLS1_3_VERSION, true);
	pthread_create(&thread, NULL, raw_server_thread, &r);
	struct tls *t = tls_connect(host2, fd[0], "host1", soon(), &e);
	if (forged[_i].as_server) {
		ck_assert_ptr_null(t);
		ck_assert_int_eq(e.cls, ERR_REFUSED);
		HAS(e.text, forged[_i].as_server);
	} else {
		ck_assert_msg(t != NULL, "%s", e.text);
		tls_free(t);
	}
	pthread_join(thread, NULL);
	raw_end(&r);
}
END_TEST

/* And none of them serves as our own, unless a peer would take it as both. */
START_TEST(forged_own)
{
	struct err e = ERR_INIT;

	forge("ca", "f", forged[_i].cn, forged[_i].san, forged[_i].eku);
	const struct tls_files files = { .ca = fixture_path("ca", "ca.pem"),
					 .cert = fixture_path("f", "host.pem"),
					 .key = fixture_path("f", "host.key") };
	struct tls_ctx *ctx = tls_ctx_new(&files, &e);
	ck_assert_int_eq(ctx != NULL, !forged[_i].as_client && !forged[_i].as_server);
	if (!ctx) {
		ck_assert_int_eq(e.cls, ERR_CONFIG);
		HAS(e.text, "host.pem");
		HAS(e.remedy, "vmferry pki issue");
	}
	tls_ctx_free(ctx);
}
END_TEST

START_TEST(no_client_certificate)
{
	struct server s;
	struct raw r;
	int fd[2];
	char c;

	fixture_tcp_pair(fd);
	server_start(&s, host2, fd[1]);
	raw_start(&r, fd[0], NULL, TLS1_3_VERSION, false);
	ck_assert_int_eq(SSL_connect(r.ssl), 1); /* by TLS 1.3 it cannot know yet */
	ck_assert_int_le(SSL_read(r.ssl, &c, 1), 0);
	ck_assert_int_eq(ERR_GET_REASON(ERR_peek_error()), SSL_AD_REASON_OFFSET + SSL_AD_CERTIFICATE_REQUIRED);
	raw_end(&r);
	pthread_join(s.thread, NULL);
	ck_assert_ptr_null(s.tls);
	ck_assert_int_eq(s.e.cls, ERR_REFUSED);
	HAS(s.e.text, "the peer has no client certificate");
}
END_TEST

START_TEST(tls_1_2_client)
{
	struct server s;
	struct raw r;
	int fd[2];

	fixture_tcp_pair(fd);
	server_start(&s, host2, fd[1]);
	raw_start(&r, fd[0], "h1", TLS1_2_VERSION, false);
	ck_assert_int_le(SSL_connect(r.ssl), 0);
	ck_assert_int_eq(ERR_GET_REASON(ERR_peek_error()), SSL_AD_REASON_OFFSET + SSL_AD_PROTOCOL_VERSION);
	raw_end(&r);
	pthread_join(s.thread, NULL);
	ck_assert_ptr_null(s.tls);
	ck_assert_int_eq(s.e.cls, ERR_REFUSED);
	HAS(s.e.text, "the peer speaks no TLS 1.3");
}
END_TEST

START_TEST(tls_1_2_server)
{
	struct raw r;
	struct err e = ERR_INIT;
	pthread_t thread;
	int fd[2];

	fixture_tcp_pair(fd);
	raw_start(&r, fd[1], "h2", TLS1_2_VERSION, true);
	pthread_create(&thread, NULL, raw_server_thread, &r);
	ck_assert_ptr_null(tls_connect(host1, fd[0], "host2", soon(), &e));
	pthread_join(thread, NULL);
	raw_end(&r);
	HAS(e.text, "TLS 1.3");
}
END_TEST

/* Nothing lets a later connection do without the certificates. */
START_TEST(no_tickets_no_resumption)
{
	struct server s;
	struct raw r;
	struct err e = ERR_INIT;
	int fd[2];
	char c;

	fixture_tcp_pair(fd);
	server_start(&s, host2, fd[1]);
	raw_start(&r, fd[0], "h1", TLS1_3_VERSION, false);
	ck_assert_int_eq(SSL_connect(r.ssl), 1);
	pthread_join(s.thread, NULL);
	ck_assert_ptr_nonnull(s.tls);
	OK(tls_write(s.tls, "x", 1, soon(), &e), e);
	ck_assert_int_eq(SSL_read(r.ssl, &c, 1), 1);
	ck_assert(!SSL_SESSION_is_resumable(SSL_get0_session(r.ssl)));
	ck_assert(!SSL_SESSION_has_ticket(SSL_get0_session(r.ssl)));
	raw_end(&r);
	tls_free(s.tls);
}
END_TEST

/* Data follows a key update, however many there were: a large guest needs some. */
START_TEST(key_updates)
{
	struct server s;
	struct raw r;
	struct err e = ERR_INIT;
	int fd[2];
	char c;

	fixture_tcp_pair(fd);
	server_start(&s, host2, fd[1]);
	raw_start(&r, fd[0], "h1", TLS1_3_VERSION, false);
	ck_assert_int_eq(SSL_connect(r.ssl), 1);
	pthread_join(s.thread, NULL);
	ck_assert_ptr_nonnull(s.tls);
	for (int i = 0; i < 200; i++) {
		ck_assert_int_eq(SSL_key_update(r.ssl, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
		ck_assert_int_eq(SSL_write(r.ssl, "k", 1), 1);
		ck_assert_int_eq(tls_read(s.tls, &c, 1, soon(), &e), 1);
		ck_assert_int_eq(c, 'k');
	}
	/* Asked for one of ours. */
	ck_assert_int_eq(SSL_key_update(r.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
	ck_assert_int_eq(SSL_write(r.ssl, "k", 1), 1);
	ck_assert_int_eq(tls_read(s.tls, &c, 1, soon(), &e), 1);
	OK(tls_write(s.tls, "r", 1, soon(), &e), e);
	ck_assert_int_eq(SSL_read(r.ssl, &c, 1), 1);
	ck_assert_int_eq(c, 'r');
	raw_end(&r);
	tls_free(s.tls);
}
END_TEST

static const char *const strangers[] = { "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "SSH-2.0-OpenSSH_9.2p1\r\n",
					 "\x16\x03\x01\xff\xff" };

START_TEST(no_tls_at_all)
{
	struct server s;
	int fd[2];

	fixture_tcp_pair(fd);
	server_start(&s, host2, fd[1]);
	const size_t len = strlen(strangers[_i]);
	ck_assert_int_eq(send(fd[0], strangers[_i], len, 0), (ssize_t)len);
	shutdown(fd[0], SHUT_WR);
	pthread_join(s.thread, NULL);
	ck_assert_ptr_null(s.tls);
	HAS(s.e.text, "the peer does not speak TLS");
	close(fd[0]);
}
END_TEST

START_TEST(mute_in_the_handshake)
{
	struct err e = ERR_INIT;
	int fd[2];

	fixture_tcp_pair(fd);
	ck_assert_ptr_null(tls_connect(host1, fd[0], "host2", in_ms(30), &e));
	ck_assert_int_eq(e.cls, ERR_PEER);
	ck_assert_int_eq(e.errnum, ETIMEDOUT);
	HAS(e.remedy, "vmferryd");
	close(fd[1]);
}
END_TEST

/* ---- our own files ---- */

static void expect_ctx_error(const char *ca, const char *cert, const char *key, const char *text)
{
	struct err e = ERR_INIT;
	const struct tls_files files = { .ca = ca, .cert = cert, .key = key };

	ck_assert_ptr_null(tls_ctx_new(&files, &e));
	HAS(e.text, text);
}

START_TEST(bad_files)
{
	char ca[256], cert[256], key[256];

	snprintf(ca, sizeof(ca), "%s", fixture_path("h1", "ca.pem"));
	snprintf(cert, sizeof(cert), "%s", fixture_path("h1", "host.pem"));
	snprintf(key, sizeof(key), "%s", fixture_path("h1", "host.key"));
	expect_ctx_error("/nonexistent/ca.pem", cert, key, "open /nonexistent/ca.pem: No such file");
	expect_ctx_error(ca, "/nonexistent/host.pem", key, "/nonexistent/host.pem");
	expect_ctx_error(ca, cert, "/nonexistent/host.key", "open /nonexistent/host.key: No such file");
	expect_ctx_error(key, cert, key, "there is no PEM certificate in it");
	expect_ctx_error(ca, key, key, "host.key");
	expect_ctx_error(ca, cert, fixture_path("h2", "host.key"), "is not the key of the certificate");
	fixture_ca("ca2");
	expect_ctx_error(fixture_path("ca2", "ca.pem"), cert, key,
			 "was issued by \"vmferry fleet ca\", not by the fleet's CA in");
	ck_assert_int_eq(chmod(key, 0604), 0);
	expect_ctx_error(ca, cert, key, "mode is 0604");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("transport tls");
	TCase *t = tcase_create("tls");
	const int n_forged = (int)(sizeof(forged) / sizeof(forged[0]));

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, both_know_each_other);
	tcase_add_test(t, large_writes_of_many_pieces);
	tcase_add_test(t, both_write_first);
	tcase_add_test(t, read_deadline_does_no_harm);
	tcase_add_test(t, write_deadline);
	tcase_add_test(t, receiver_that_does_not_read);
	tcase_add_test(t, cut_without_close_notify);
	tcase_add_test(t, shutdown_wakes_reader_and_writer);
	tcase_add_test(t, changed_on_the_way);
	tcase_add_test(t, expired_server);
	tcase_add_test(t, expired_client);
	tcase_add_test(t, not_yet_valid);
	tcase_add_test(t, other_fleet);
	tcase_add_test(t, client_of_another_ca);
	tcase_add_test(t, two_cas_trusted);
	tcase_add_test(t, name_mismatch);
	tcase_add_loop_test(t, forged_client, 0, n_forged);
	tcase_add_loop_test(t, forged_server, 0, n_forged);
	tcase_add_loop_test(t, forged_own, 0, n_forged);
	tcase_add_test(t, no_client_certificate);
	tcase_add_test(t, tls_1_2_client);
	tcase_add_test(t, tls_1_2_server);
	tcase_add_test(t, no_tickets_no_resumption);
	tcase_add_test(t, key_updates);
	tcase_add_loop_test(t, no_tls_at_all, 0, (int)(sizeof(strangers) / sizeof(strangers[0])));
	tcase_add_test(t, mute_in_the_handshake);
	tcase_add_test(t, bad_files);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
