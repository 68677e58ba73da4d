/* PROTOCOL.md against the program: the examples are sent by it, and taken in by it, byte for byte. */
#include "tests/golden/hexdoc.h"

#include "tests/unit/transport_fixture.h"

#include "base/thread.h"
#include "config/config.h"
#include "transport/rpc.h"

#include <signal.h>

#define DOCUMENT TESTS_DIR "/../transport/PROTOCOL.md"
#define EXAMPLE_VERSION "0.1.0"

static char *doc;

static void setup(void)
{
	signal(SIGPIPE, SIG_IGN);
	fixture_start();
	doc = hexdoc_load(DOCUMENT);
}

static void teardown(void)
{
	free(doc);
	fixture_clean();
}

/* ---- the side that is made of the document ---- */

static void send_block(int fd, const char *name)
{
	BUF_AUTO struct buf b = BUF_INIT;

	hexdoc_block(doc, name, &b);
	ck_assert_int_eq(send(fd, b.data, b.len, MSG_NOSIGNAL), (ssize_t)b.len);
}

static void recv_exactly(int fd, uint8_t *to, size_t len, const char *what)
{
	const ssize_t n = recv(fd, to, len, MSG_WAITALL);

	ck_assert_msg(n == (ssize_t)len, "%s: %zd bytes came instead of %zu", what, n, len);
}

static void expect_block(int fd, const char *name)
{
	BUF_AUTO struct buf b = BUF_INIT;
	uint8_t got[4096];

	hexdoc_block(doc, name, &b);
	ck_assert_uint_le(b.len, sizeof(got));
	recv_exactly(fd, got, b.len, name);
	ck_assert_msg(memcmp(got, b.data, b.len) == 0, "%s: not the bytes of the document: %.*s", name,
		      (int)(b.len - FRAME_HEADER_SIZE), (const char *)got + FRAME_HEADER_SIZE);
}

/* HELLO has the version of the program in it: the same JSON but for that, in the same frame. */
static void expect_hello(int fd, const char *name)
{
	BUF_AUTO struct buf b = BUF_INIT;
	uint8_t got[FRAME_HEADER_SIZE + 4096];
	struct frame_header ours, theirs;
	struct err e = ERR_INIT;

	hexdoc_block(doc, name, &b);
	OK(frame_decode_header(b.data, &theirs, &e), e);
	recv_exactly(fd, got, FRAME_HEADER_SIZE, name);
	OK(frame_decode_header(got, &ours, &e), e);
	ck_assert_uint_eq(ours.type, theirs.type);
	ck_assert_uint_eq(ours.seq, theirs.seq);
	recv_exactly(fd, got + FRAME_HEADER_SIZE, ours.length, name);
	json_t *a = json_loadb((const char *)got + FRAME_HEADER_SIZE, ours.length, 0, NULL);
	json_t *z = json_loadb((const char *)b.data + FRAME_HEADER_SIZE, theirs.length, 0, NULL);
	ck_assert_str_eq(json_string_value(json_object_get(a, "agent")), VMFERRY_VERSION);
	ck_assert_str_eq(json_string_value(json_object_get(z, "agent")), EXAMPLE_VERSION);
	json_object_del(a, "agent");
	json_object_del(z, "agent");
	ck_assert(json_equal(a, z));
	json_decref(a);
	json_decref(z);
}

/* ---- a service as in the examples ---- */

struct service {
	struct rpc_service rpc;
	struct rpc *r;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool closed;
	struct err why;
};

static int h_find(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	(void)ctx;
	if (strcmp(json_string_value(json_object_get(args, "vm")), "web1") != 0) {
		err_set(e, ERR_LIBVIRT, "no VM %s here", json_string_value(json_object_get(args, "vm")));
		return err_remedy(e, "See `vmferry vms`.");
	}
	rpc_note(c, json_pack("{s:i}", "percent", 40));
	*result = json_pack("{s:s}", "state", "running");
	return 0;
}

static int h_wait(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	(void)ctx, (void)args, (void)result;
	while (!rpc_cancelled(c))
		usleep(1000);
	return err_set(e, ERR_CANCELLED, "stopped as asked");
}

static void on_close(void *ctx, struct rpc *rpc, const struct err *why)
{
	struct service *s = ctx;

	(void)rpc;
	THREAD_LOCKED(&s->lock);
	s->closed = true;
	s->why = *why;
	pthread_cond_broadcast(&s->changed);
}

static const struct rpc_method methods[] = { { "vm.find", h_find, 0 }, { "wait", h_wait, 0 }, { 0 } };

/* Nothing may go out by the clock. */
static const struct rpc_opts patient = { .ping_interval_ns = 3600 * NS_PER_S, .dead_after_ns = 7200 * NS_PER_S };

START_TEST(accepting_side)
{
	struct service s = { .rpc = { .methods = methods, .ctx = &s, .on_close = on_close } };
	struct err e = ERR_INIT;
	int fd[2];

	pthread_mutex_init(&s.lock, NULL);
	thread_cond_init(&s.changed);
	fixture_unix_pair(fd);
	send_block(fd[0], "hello-client");
	struct link *l = link_accept_local(fd[1], soon(), &e);
	ck_assert_msg(l != NULL, "%s", e.text);
	ck_assert_str_eq(json_string_value(json_object_get(link_hello(l), "purpose")), "control");
	OK(link_welcome(l, NULL, soon(), &e), e);
	expect_hello(fd[0], "hello-server");
	s.r = rpc_start_opts(l, &s.rpc, &patient, &e);
	ck_assert_ptr_nonnull(s.r);

	send_block(fd[0], "call");
	expect_block(fd[0], "note");
	expect_block(fd[0], "ok");
	send_block(fd[0], "call-2");
	expect_block(fd[0], "error");
	send_block(fd[0], "call-3");
	send_block(fd[0], "cancel");
	expect_block(fd[0], "error-cancelled");
	send_block(fd[0], "ping");
	expect_block(fd[0], "pong");
	send_block(fd[0], "end");
	expect_block(fd[0], "end-ack");
	pthread_mutex_lock(&s.lock);
	while (!s.closed && thread_cond_wait_until(&s.changed, &s.lock, soon()) == 0)
		;
	ck_assert_msg(s.closed && !err_is_set(&s.why), "%s", s.why.text);
	pthread_mutex_unlock(&s.lock);
	rpc_unref(s.r);
	close(fd[0]);
}
END_TEST

struct played {
	int lfd;
	const char *answer;
};

/* A server that knows only the document. */
static void *play_server(void *arg)
{
	struct played *p = arg;
	uint8_t buf[4096];
	const int fd = accept4(p->lfd, NULL, NULL, SOCK_CLOEXEC);

	if (p->answer) {
		recv(fd, buf, sizeof(buf), 0);
		send_block(fd, p->answer);
		recv(fd, buf, sizeof(buf), 0);
		close(fd);
		return NULL;
	}
	expect_hello(fd, "hello-client");
	send_block(fd, "hello-server");
	expect_block(fd, "call");
	send_block(fd, "note");
	send_block(fd, "ok");
	expect_block(fd, "call-2");
	send_block(fd, "error");
	expect_block(fd, "call-3");
	expect_block(fd, "cancel");
	send_block(fd, "error-cancelled");
	shutdown(fd, SHUT_RDWR);
	close(fd);
	return NULL;
}

static void on_note(void *ctx, const json_t *note)
{
	*(json_int_t *)ctx = json_integer_value(json_object_get(note, "percent"));
}

START_TEST(connecting_side)
{
	const char *path = fixture_path("sock", NULL);
	const bool cancel = true;
	struct err e = ERR_INIT;
	struct played p = { .lfd = fd_unix_listen(path, 0600, &e) };
	json_t *got = NULL;
	json_int_t percent = 0;
	pthread_t t;

	ck_assert_int_eq(pthread_create(&t, NULL, play_server, &p), 0);
	struct link *l = link_connect_local(path, json_pack("{s:s}", "purpose", "control"), soon(), &e);
	ck_assert_msg(l != NULL, "%s", e.text);
	struct rpc *r = rpc_start_opts(l, NULL, &patient, &e);
	OK(rpc_call(r, "vm.find", json_pack("{s:s}", "vm", "web1"), soon(), on_note, &percent, NULL, &got, &e), e);
	ck_assert_int_eq(percent, 40);
	ck_assert_str_eq(json_string_value(json_object_get(got, "state")), "running");
	json_decref(got);
	ck_assert_int_eq(rpc_call(r, "vm.find", json_pack("{s:s}", "vm", "web9"), soon(), NULL, NULL, NULL, NULL, &e),
			 -1);
	ck_assert_int_eq(e.cls, ERR_LIBVIRT);
	ck_assert_str_eq(e.text, "no VM web9 here");
	ck_assert_str_eq(e.remedy, "See `vmferry vms`.");
	ck_assert_int_eq(rpc_call(r, "wait", NULL, soon(), NULL, NULL, &cancel, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CANCELLED);
	rpc_unref(r);
	pthread_join(t, NULL);
	fd_close(&p.lfd);
}
END_TEST

START_TEST(refusal)
{
	const char *path = fixture_path("sock", NULL);
	struct err e = ERR_INIT;
	struct err why = ERR_INIT;
	struct played p = { .lfd = fd_unix_listen(path, 0600, &e), .answer = "hello-refused" };
	pthread_t t;
	int fd[2];

	ck_assert_int_eq(pthread_create(&t, NULL, play_server, &p), 0);
	ck_assert_ptr_null(link_connect_local(path, NULL, soon(), &e));
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_str_eq(e.text, "refused: host1 is not a peer of host2");
	ck_assert_str_eq(e.remedy, "Add it to `peers`.");
	pthread_join(t, NULL);
	fd_close(&p.lfd);

	fixture_unix_pair(fd);
	send_block(fd[0], "hello-client");
	shutdown(fd[0], SHUT_WR);
	err_clear(&e);
	struct link *l = link_accept_local(fd[1], soon(), &e);
	ck_assert_msg(l != NULL, "%s", e.text);
	err_set(&why, ERR_REFUSED, "host1 is not a peer of host2");
	err_remedy(&why, "Add it to `peers`.");
	link_refuse(l, &why);
	expect_hello(fd[0], "hello-refused");
	close(fd[0]);
}
END_TEST

START_TEST(frames_that_carry_data)
{
	BUF_AUTO struct buf b = BUF_INIT;
	struct link_frame f;
	struct err e = ERR_INIT;
	struct frame_header h;
	int fd[2];

	hexdoc_block(doc, "batch-head", &b);
	ck_assert_uint_eq(b.len, FRAME_HEADER_SIZE + FRAME_BATCH_HEAD);
	OK(frame_decode_header(b.data, &h, &e), e);
	ck_assert_uint_eq(h.type, FRAME_BATCH);
	ck_assert_uint_eq(h.length, FRAME_BATCH_HEAD);

	/* Skipped: what comes next is a cut. */
	fixture_unix_pair(fd);
	send_block(fd[0], "hello-client");
	send_block(fd[0], "may-be-ignored");
	shutdown(fd[0], SHUT_WR);
	struct link *l = link_accept_local(fd[1], soon(), &e);
	ck_assert_ptr_nonnull(l);
	ck_assert_int_eq(link_recv(l, &f, soon(), &e), -1);
	HAS(e.text, "without END");
	link_free(l);
	close(fd[0]);
}
END_TEST

/* ---- tables ---- */

START_TEST(table_of_frames)
{
	char name[16];

	for (uint16_t type = 1; frame_max_payload(type) || type == FRAME_PING || type == FRAME_PONG; type++) {
		MEM_AUTO char *row = mem_printf("\n| %u | %s | %zu |", type, frame_type_name(type, name, sizeof(name)),
						frame_max_payload(type));
		ck_assert_msg(strstr(doc, row) != NULL, "the table has no row \"%s\"", row + 1);
	}
	ck_assert_ptr_nonnull(strstr(doc, "| 9 | END_ACK |"));
	ck_assert_ptr_null(strstr(doc, "\n| 10 |"));
}
END_TEST

START_TEST(table_of_roles){
#define X(id, bit, name)                                                                         \
	{                                                                                        \
		MEM_AUTO char *row = mem_printf("\n| %u | `%s` |", bit, name);                   \
		ck_assert_msg(strstr(doc, row) != NULL, "the table has no row \"%s\"", row + 1); \
	}
	ROLES(X)
#undef X
} END_TEST

	START_TEST(table_of_classes)
{
	/* All that can travel. */
#define X(id, name)                                                                              \
	if (id != ERR_NONE) {                                                                    \
		MEM_AUTO char *row = mem_printf("\n| `%s` |", name);                             \
		ck_assert_msg(strstr(doc, row) != NULL, "the table has no row \"%s\"", row + 1); \
	}
	ERR_CLASSES(X)
#undef X
}
END_TEST

int main(void)
{
	Suite *s = suite_create("PROTOCOL.md");
	TCase *t = tcase_create("vectors");

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, accepting_side);
	tcase_add_test(t, connecting_side);
	tcase_add_test(t, refusal);
	tcase_add_test(t, frames_that_carry_data);
	tcase_add_test(t, table_of_frames);
	tcase_add_test(t, table_of_roles);
	tcase_add_test(t, table_of_classes);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
