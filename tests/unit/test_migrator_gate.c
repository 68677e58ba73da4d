/* The gate in libvirt's RPC: what passes, what is refused, and when a client is kept waiting. */
#include "base/buf.h"
#include "base/fd.h"
#include "migrator/gate.h"
#include "migrator/libvirt_rpc.h"

#include <check.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PROC_FINISH 306u
#define PROC_PREPARE 303u
#define PROC_CREATE_XML 10u

static char folder[64], listen_path[96], upstream_path[96];
static int upstream_listener, client, upstream;
static struct gate *gate;

static void setup(void)
{
	struct err e = ERR_INIT;

	signal(SIGPIPE, SIG_IGN);
	strcpy(folder, "/tmp/vmferry-gate-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(listen_path, sizeof listen_path, "%s/in", folder);
	snprintf(upstream_path, sizeof upstream_path, "%s/up", folder);
	upstream_listener = fd_unix_listen(upstream_path, 0600, &e);
	ck_assert_int_ge(upstream_listener, 0);
}

static void teardown(void)
{
	gate_free(gate);
	gate = NULL;
	fd_close(&client);
	fd_close(&upstream);
	fd_close(&upstream_listener);
	unlink(upstream_path);
	ck_assert_int_eq(rmdir(folder), 0); /* the gate removed its own socket */
}

static void start(bool hold, bool filter)
{
	struct err e = ERR_INIT;
	struct gate_opts o = {
		.listen_path = listen_path, .upstream_path = upstream_path, .hold = hold, .filter = filter, .name = "web1"
	};

	gate = gate_start(&o, &e);
	ck_assert_msg(gate != NULL, "%s", e.text);
	client = fd_unix_connect(listen_path, &e);
	ck_assert_int_ge(client, 0);
	upstream = accept4(upstream_listener, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(upstream, 0);
}

/* A message with `body` bytes behind its header. */
static struct buf message(uint32_t procedure, uint32_t type, uint32_t serial, size_t body)
{
	struct buf b = BUF_INIT;

	buf_put_be32(&b, (uint32_t)(LIBVIRT_RPC_HEADER_SIZE + body));
	buf_put_be32(&b, 0x20008086u);
	buf_put_be32(&b, 1);
	buf_put_be32(&b, procedure);
	buf_put_be32(&b, type);
	buf_put_be32(&b, serial);
	buf_put_be32(&b, 0);
	memset(buf_reserve(&b, body), 0x5a, body);
	b.len += body;
	return b;
}

static void pass(int from, int to, uint32_t procedure, uint32_t type, uint32_t serial, size_t body)
{
	struct err e = ERR_INIT;
	struct buf b = message(procedure, type, serial, body);
	uint8_t *got = malloc(b.len);

	ck_assert_int_eq(fd_write_full(from, b.data, b.len, &e), 0);
	ck_assert_msg(fd_read_full(to, got, b.len, &e) == 0, "%s", e.text);
	ck_assert_mem_eq(got, b.data, b.len);
	free(got);
	buf_fini(&b);
}

static bool closed_within(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c;
	return poll(&p, 1, ms) == 1 && read(fd, &c, 1) <= 0;
}

START_TEST(messages_pass_unchanged)
{
	start(true, false);
	for (uint32_t i = 0; i < 20; i++) {
		pass(client, upstream, 1 + i, 0, i, i * 997);
		pass(upstream, client, 1 + i, 1, i, i * 1511);
	}
	ck_assert_int_eq(gate_finish_state(gate), GATE_FINISH_NOT_SENT);
}
END_TEST

START_TEST(lost_answer_to_finish_keeps_the_client)
{
	start(true, false);
	pass(client, upstream, PROC_FINISH, 0, 7, 100);
	ck_assert_int_eq(gate_finish_state(gate), GATE_FINISH_UNANSWERED);
	ck_assert(!gate_holding(gate));
	fd_close(&upstream);
	ck_assert(!closed_within(client, 200));
	ck_assert(gate_holding(gate));
	gate_release(gate);
	ck_assert(closed_within(client, 5000));
}
END_TEST

START_TEST(answered_finish_lets_go)
{
	start(true, false);
	pass(client, upstream, PROC_FINISH, 0, 7, 100);
	pass(upstream, client, PROC_FINISH, 1, 6, 30); /* another call's answer */
	ck_assert_int_eq(gate_finish_state(gate), GATE_FINISH_UNANSWERED);
	pass(upstream, client, PROC_FINISH, 1, 7, 30);
	ck_assert_int_eq(gate_finish_state(gate), GATE_FINISH_ANSWERED);
	fd_close(&upstream);
	ck_assert(closed_within(client, 5000));
	ck_assert(!gate_holding(gate));
}
END_TEST

START_TEST(before_finish_the_client_sees_the_end)
{
	start(true, false);
	pass(client, upstream, PROC_PREPARE, 0, 3, 5000);
	fd_close(&upstream);
	ck_assert(closed_within(client, 5000));
}
END_TEST

START_TEST(target_refuses_what_no_migration_calls)
{
	struct err e = ERR_INIT;
	struct buf b = message(PROC_CREATE_XML, 0, 9, 64);

	start(false, true);
	pass(client, upstream, PROC_PREPARE, 0, 3, 5000);
	ck_assert_int_eq(fd_write_full(client, b.data, b.len, &e), 0);
	ck_assert(closed_within(client, 5000));
	/* Nothing of it reached libvirtd. */
	ck_assert(closed_within(upstream, 5000));
	buf_fini(&b);
}
END_TEST

START_TEST(target_refuses_what_is_not_libvirt)
{
	struct err e = ERR_INIT;

	start(false, true);
	ck_assert_int_eq(fd_write_full(client, "GET / HTTP/1.1\r\nHost: example\r\n\r\n", 33, &e), 0);
	ck_assert(closed_within(client, 5000));
	ck_assert(closed_within(upstream, 5000));
}
END_TEST

/* Headers found however the bytes are cut. */
START_TEST(headers_in_any_chunks)
{
	struct buf all = BUF_INIT;

	for (uint32_t i = 0; i < 50; i++) {
		struct buf b = message(100 + i, i % 2, i, (i * 37) % 300);
		buf_append(&all, b.data, b.len);
		buf_fini(&b);
	}
	for (size_t chunk = 1; chunk < 400; chunk += 7) {
		struct libvirt_rpc r = { .have = 0 };
		struct libvirt_rpc_header h;
		uint32_t found = 0;
		for (size_t at = 0; at < all.len;) {
			size_t n = all.len - at < chunk ? all.len - at : chunk, used;
			int got = libvirt_rpc_feed(&r, all.data + at, n, &used, &h);
			ck_assert_int_ge(got, 0);
			ck_assert_uint_ge(used, 1);
			at += used;
			if (got == 1) {
				ck_assert_uint_eq(h.procedure, 100 + found);
				ck_assert_uint_eq(h.serial, found);
				found++;
			}
		}
		ck_assert_uint_eq(found, 50);
	}
	buf_fini(&all);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("gate");
	TCase *t = tcase_create("gate"), *p = tcase_create("parser");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, messages_pass_unchanged);
	tcase_add_test(t, lost_answer_to_finish_keeps_the_client);
	tcase_add_test(t, answered_finish_lets_go);
	tcase_add_test(t, before_finish_the_client_sees_the_end);
	tcase_add_test(t, target_refuses_what_no_migration_calls);
	tcase_add_test(t, target_refuses_what_is_not_libvirt);
	suite_add_tcase(s, t);
	tcase_add_test(p, headers_in_any_chunks);
	suite_add_tcase(s, p);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
