/*
 * transport_fixture.h - what the transport's tests share: a CA and host certificates in a temporary folder, connected
 * sockets, and a bit of time.
 */
#ifndef VMFERRY_TESTS_TRANSPORT_FIXTURE_H
#define VMFERRY_TESTS_TRANSPORT_FIXTURE_H

#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/mem.h"
#include "transport/link.h"
#include "transport/pki.h"
#include "transport/tls.h"

#include <check.h>
#include <ftw.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

/* Long enough for a busy machine; a test that reaches it has failed. */
UNUSED static int64_t soon(void)
{
	return clock_mono_ns() + 20 * NS_PER_S;
}

UNUSED static int64_t in_ms(int64_t ms)
{
	return clock_mono_ns() + ms * NS_PER_MS;
}

static char fixture_dir[64];

static int fixture_remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

UNUSED static void fixture_clean(void)
{
	if (fixture_dir[0])
		nftw(fixture_dir, fixture_remove_one, 16, FTW_DEPTH | FTW_PHYS);
	fixture_dir[0] = '\0';
}

UNUSED static void fixture_start(void)
{
	snprintf(fixture_dir, sizeof(fixture_dir), "/tmp/vmferry-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(fixture_dir));
}

/* A path in the folder; good until the thread's eighth call after it. */
UNUSED static const char *fixture_path(const char *a, const char *b)
{
	static _Thread_local char paths[8][256];
	static _Thread_local unsigned next;
	char *p = paths[next++ % 8];

	snprintf(p, sizeof(paths[0]), "%s/%s%s%s", fixture_dir, a, b ? "/" : "", b ? b : "");
	return p;
}

/* An error that fails the test, with its text. */
#define OK(call, e) ck_assert_msg((call) == 0, "%s: %s", #call, (e).text)
#define HAS(text, part) ck_assert_msg(strstr((text), (part)) != NULL, "\"%s\" does not say \"%s\"", (text), (part))

UNUSED static void fixture_ca(const char *ca)
{
	struct err e = ERR_INIT;

	OK(pki_init(fixture_path(ca, NULL), ca, &e), e);
}

/* Certificate of `host` by the CA in folder `ca`, in folder `out`; start and days as in pki.h. */
UNUSED static void fixture_issue(const char *ca, const char *host, const char *out, int64_t start, int days)
{
	struct err e = ERR_INIT;
	const struct pki_issue_opts o = { .ca_dir = fixture_path(ca, NULL),
					  .host = host,
					  .out_dir = fixture_path(out, NULL),
					  .start = start,
					  .days = days };

	OK(pki_issue(&o, &e), e);
}

/* The context of the files in folder `dir`, trusting the CA file `ca_file` (NULL: the one in the folder). */
UNUSED static struct tls_ctx *fixture_ctx(const char *dir, const char *ca_file)
{
	struct err e = ERR_INIT;
	const struct tls_files files = {
		.ca = ca_file ? ca_file : fixture_path(dir, "ca.pem"),
		.cert = fixture_path(dir, "host.pem"),
		.key = fixture_path(dir, "host.key"),
	};
	struct tls_ctx *ctx = tls_ctx_new(&files, &e);

	ck_assert_msg(ctx != NULL, "%s", e.text);
	return ctx;
}

/* One CA "ca", hosts host1 and host2. */
UNUSED static void fixture_fleet(struct tls_ctx **host1, struct tls_ctx **host2)
{
	fixture_start();
	fixture_ca("ca");
	fixture_issue("ca", "host1", "h1", 0, 0);
	fixture_issue("ca", "host2", "h2", 0, 0);
	*host1 = fixture_ctx("h1", NULL);
	*host2 = fixture_ctx("h2", NULL);
}

/* A listening socket on loopback. */
UNUSED static int fixture_listen(uint16_t *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	ck_assert_int_eq(listen(fd, 16), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

/* Two ends of a TCP connection on loopback. */
UNUSED static void fixture_tcp_pair(int fd[2])
{
	uint16_t port;
	int lfd = fixture_listen(&port);
	const struct sockaddr_in a = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				       .sin_port = htons(port) };

	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(fd[0], (const struct sockaddr *)&a, sizeof(a)), 0);
	fd[1] = accept4(lfd, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(fd[1], 0);
	fd_close(&lfd);
}

UNUSED static void fixture_unix_pair(int fd[2])
{
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
}

struct fixture_accept {
	struct tls_ctx *ctx; /* NULL: a UNIX socket */
	int lfd;
	struct link *link;
	struct err e;
};

/* Accepts one connection and welcomes it. */
UNUSED static void *fixture_accept_thread(void *arg)
{
	struct fixture_accept *a = arg;
	const int fd = accept4(a->lfd, NULL, NULL, SOCK_CLOEXEC);

	a->link = a->ctx ? link_accept(a->ctx, fd, soon(), &a->e) : link_accept_local(fd, soon(), &a->e);
	if (a->link && link_welcome(a->link, NULL, soon(), &a->e) != 0) {
		link_free(a->link);
		a->link = NULL;
	}
	return NULL;
}

/* A link over TLS between two hosts: out[0] has connected, out[1] (named host2) has accepted. */
UNUSED static void fixture_links(struct tls_ctx *client, struct tls_ctx *server, struct link *out[2])
{
	struct fixture_accept a = { .ctx = server };
	struct err e = ERR_INIT;
	uint16_t port;
	pthread_t t;

	a.lfd = fixture_listen(&port);
	const struct link_peer peer = { .name = "host2", .address = "127.0.0.1", .port = port };
	pthread_create(&t, NULL, fixture_accept_thread, &a);
	out[0] = link_connect(client, &peer, json_pack("{s:s}", "purpose", "control"), soon(), &e);
	pthread_join(t, NULL);
	fd_close(&a.lfd);
	ck_assert_msg(out[0] && a.link, "%s / %s", e.text, a.e.text);
	out[1] = a.link;
}

/* The same over a UNIX socket. */
UNUSED static void fixture_local_links(struct link *out[2])
{
	struct fixture_accept a = { .ctx = NULL };
	struct err e = ERR_INIT;
	pthread_t t;
	const char *path = fixture_path("control.sock", NULL);

	a.lfd = fd_unix_listen(path, 0600, &e);
	ck_assert_msg(a.lfd >= 0, "%s", e.text);
	pthread_create(&t, NULL, fixture_accept_thread, &a);
	out[0] = link_connect_local(path, NULL, soon(), &e);
	pthread_join(t, NULL);
	fd_close(&a.lfd);
	ck_assert_msg(out[0] && a.link, "%s / %s", e.text, a.e.text);
	out[1] = a.link;
}

UNUSED static int fixture_run(Suite *s)
{
	SRunner *r = srunner_create(s);

	srunner_run_all(r, CK_ENV);
	const int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
