#include "transport/link.h"

#include "tests/unit/transport_fixture.h"
#include "transport/peer_err.h"

#include "base/buf.h"

#include <errno.h>
#include <signal.h>
#include <xxhash.h>

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

static int send_text(struct link *l, uint16_t type, const char *text, struct err *e)
{
	MEM_AUTO char *copy = mem_strdup(text);
	const struct iovec iov = { .iov_base = copy, .iov_len = strlen(text) };

	err_clear(e);
	return link_send(l, type, &iov, 1, soon(), e);
}

static void make_links(bool tls, struct link *l[2])
{
	if (tls)
		fixture_links(host1, host2, l);
	else
		fixture_local_links(l);
}

static void expect_text(struct link *l, const char *text)
{
	struct link_frame f;
	struct err e = ERR_INIT;

	ck_assert_msg(link_recv(l, &f, soon(), &e) == 1, "%s", e.text);
	ck_assert_uint_eq(f.type, FRAME_MSG);
	ck_assert_uint_eq(f.len, strlen(text));
	ck_assert_mem_eq(f.payload, text, f.len);
}

struct finishing {
	struct link *l;
	int rc;
	struct err e;
};

static void *finish_thread(void *arg)
{
	struct finishing *f = arg;

	f->rc = link_finish(f->l, soon(), &f->e);
	return NULL;
}

/* ---- an ordinary life ---- */

START_TEST(from_hello_to_end)
{
	struct link *l[2];
	struct link_frame f;
	struct err e = ERR_INIT;
	uint64_t sent[2], received[2];
	pthread_t t;

	make_links(_i == 0, l);
	ck_assert_str_eq(link_peer_name(l[0]), _i ? "local" : "host2");
	ck_assert_str_eq(link_own_name(l[0]), _i ? "local" : "host1");
	ck_assert_str_eq(link_peer_name(l[1]), _i ? "local" : "host1");
	if (_i == 0)
		ck_assert_str_eq(json_string_value(json_object_get(link_hello(l[1]), "purpose")), "control");
	ck_assert_str_eq(json_string_value(json_object_get(link_hello(l[0]), "agent")), VMFERRY_VERSION);
	ck_assert_int_eq(json_integer_value(json_array_get(json_object_get(link_hello(l[0]), "version"), 1)),
			 LINK_PROTOCOL_VERSION);
	OK(send_text(l[0], FRAME_MSG, "{}", &e), e);
	OK(send_text(l[0], 0x8123, "skip me", &e), e);
	OK(link_send(l[0], FRAME_PING, NULL, 0, soon(), &e), e);
	OK(send_text(l[0], FRAME_MSG, "{\"a\":1}", &e), e);
	expect_text(l[1], "{}");
	ck_assert_int_eq(link_recv(l[1], &f, soon(), &e), 1);
	ck_assert_uint_eq(f.type, FRAME_PING);
	ck_assert_uint_eq(f.len, 0);
	expect_text(l[1], "{\"a\":1}");
	OK(send_text(l[1], FRAME_MSG, "back", &e), e);
	expect_text(l[0], "back");

	struct finishing fin = { .l = l[0] };
	pthread_create(&t, NULL, finish_thread, &fin);
	ck_assert_int_eq(link_recv(l[1], &f, soon(), &e), 0);
	pthread_join(t, NULL);
	ck_assert_msg(fin.rc == 0, "%s", fin.e.text);
	link_wire_bytes(l[0], &sent[0], &received[0]);
	link_wire_bytes(l[1], &sent[1], &received[1]);
	ck_assert_uint_eq(sent[0], received[1]);
	ck_assert_uint_eq(received[0], sent[1]);
	/* Over means over. */
	ck_assert_int_eq(link_recv(l[1], &f, soon(), &e), -1);
	HAS(e.text, "the link has ended");
	ck_assert_int_eq(send_text(l[0], FRAME_MSG, "x", &e), -1);
	ck_assert_int_eq(link_finish(l[0], soon(), &e), -1);
	link_free(l[0]);
	link_free(l[1]);
}
END_TEST

struct streaming {
	struct link *l;
	int frames;
	uint64_t bytes;
	bool wrong;
	int rc;
	struct err e;
};

static void *stream_thread(void *arg)
{
	struct streaming *s = arg;
	struct link_frame f;

	while ((s->rc = link_recv(s->l, &f, soon(), &s->e)) == 1) {
		s->wrong = s->wrong || f.type != FRAME_BATCH || f.payload[0] != (uint8_t)s->frames ||
			   f.payload[f.len - 1] != (uint8_t)s->frames;
		s->frames++;
		s->bytes += f.len;
	}
	return NULL;
}

/* Frames of all sizes up to the largest, as the data links carry them. */
START_TEST(batches_up_to_the_limit)
{
	static const size_t sizes[] = {
		1, 100, 16368, 16384, 70000, 500000, FRAME_MAX_BATCH - 12, 2, FRAME_MAX_BATCH - 12
	};
	enum { N = sizeof(sizes) / sizeof(sizes[0]) };
	MEM_AUTO uint8_t *data = mem_alloc(FRAME_MAX_BATCH);
	struct link *l[2];
	struct err e = ERR_INIT;
	uint64_t total = 0;
	pthread_t t;

	make_links(_i == 0, l);
	struct streaming s = { .l = l[1] };
	pthread_create(&t, NULL, stream_thread, &s);
	for (size_t i = 0; i < N; i++) {
		uint8_t head[12];
		memset(head, (int)i, sizeof(head));
		memset(data, (int)i, sizes[i]);
		const struct iovec iov[2] = { { .iov_base = head, .iov_len = 12 },
					      { .iov_base = data, .iov_len = sizes[i] } };
		OK(link_send(l[0], FRAME_BATCH, iov, 2, soon(), &e), e);
		total += sizes[i] + 12;
	}
	OK(link_finish(l[0], soon(), &e), e);
	pthread_join(t, NULL);
	ck_assert_msg(s.rc == 0, "%s", s.e.text);
	ck_assert_int_eq(s.frames, N);
	ck_assert_uint_eq(s.bytes, total);
	ck_assert(!s.wrong);
	link_free(l[0]);
	link_free(l[1]);
}
END_TEST

START_TEST(both_finish_at_once)
{
	struct link *l[2];
	pthread_t t;

	make_links(_i == 0, l);
	struct finishing a = { .l = l[0] };
	struct finishing b = { .l = l[1] };
	pthread_create(&t, NULL, finish_thread, &a);
	finish_thread(&b);
	pthread_join(t, NULL);
	ck_assert_msg(a.rc == 0, "%s", a.e.text);
	ck_assert_msg(b.rc == 0, "%s", b.e.text);
	link_free(l[0]);
	link_free(l[1]);
}
END_TEST

/* What is on its way to the side that ends is dropped, not an error. */
START_TEST(finish_drops_what_comes)
{
	struct link *l[2];
	struct link_frame f;
	struct err e = ERR_INIT;
	pthread_t t;

	make_links(_i == 0, l);
	OK(send_text(l[1], FRAME_MSG, "unread", &e), e);
	struct finishing a = { .l = l[0] };
	pthread_create(&t, NULL, finish_thread, &a);
	ck_assert_int_eq(link_recv(l[1], &f, soon(), &e), 0);
	pthread_join(t, NULL);
	ck_assert_msg(a.rc == 0, "%s", a.e.text);
	link_free(l[0]);
	link_free(l[1]);
}
END_TEST

START_TEST(cut_is_an_error)
{
	struct link *l[2];
	struct link_frame f;
	struct err e = ERR_INIT;

	make_links(_i == 0, l);
	OK(send_text(l[0], FRAME_MSG, "last", &e), e);
	link_free(l[0]);
	expect_text(l[1], "last");
	ck_assert_int_eq(link_recv(l[1], &f, soon(), &e), -1);
	ck_assert_int_eq(e.cls, ERR_PEER);
	HAS(e.text, _i ? "closed the connection without END" : "cut off by the peer");
	HAS(e.text, _i ? "local connection" : "host1 (127.0.0.1:");
	ck_assert_int_eq(link_recv(l[1], &f, soon(), &e), -1);
	HAS(e.text, "failed before");
	link_free(l[1]);
}
END_TEST

START_TEST(finish_without_answer)
{
	struct link *l[2];
	struct err e = ERR_INIT;

	make_links(_i == 0, l);
	ck_assert_int_eq(link_finish(l[0], in_ms(30), &e), -1);
	ck_assert_int_eq(e.cls, ERR_PEER);
	ck_assert_int_eq(e.errnum, ETIMEDOUT);
	link_free(l[0]);
	link_free(l[1]);
}
END_TEST

static void *recv_thread(void *arg)
{
	struct finishing *f = arg;
	struct link_frame frame;

	f->rc = link_recv(f->l, &frame, INT64_MAX, &f->e);
	return NULL;
}

START_TEST(shutdown_wakes)
{
	struct link *l[2];
	pthread_t t;

	make_links(_i == 0, l);
	struct finishing f = { .l = l[1] };
	pthread_create(&t, NULL, recv_thread, &f);
	link_shutdown(l[1]);
	pthread_join(t, NULL);
	ck_assert_int_eq(f.rc, -1);
	ck_assert_int_eq(f.e.cls, ERR_CANCELLED);
	link_free(l[0]);
	link_free(l[1]);
}
END_TEST

START_TEST(a_deadline_keeps_the_link)
{
	struct link *l[2];
	struct link_frame f;
	struct err e = ERR_INIT;

	make_links(_i == 0, l);
	ck_assert_int_eq(link_recv(l[1], &f, 0, &e), -1);
	ck_assert_int_eq(e.errnum, ETIMEDOUT);
	OK(send_text(l[0], FRAME_MSG, "a", &e), e);
	OK(send_text(l[0], FRAME_MSG, "b", &e), e);
	expect_text(l[1], "a");
	ck_assert_int_eq(link_recv(l[1], &f, soon(), &e), 1);
	err_clear(&e);
	ck_assert_int_eq(link_recv(l[1], &f, in_ms(3), &e), -1);
	ck_assert_int_eq(e.errnum, ETIMEDOUT);
	OK(send_text(l[0], FRAME_MSG, "c", &e), e);
	expect_text(l[1], "c");
	link_free(l[0]);
	link_free(l[1]);
}
END_TEST

/* ---- refusals ---- */

struct refusing {
	struct tls_ctx *ctx;
	int lfd;
	struct err why;
	struct err e;
	bool accepted;
};

static void *refuse_thread(void *arg)
{
	struct refusing *r = arg;
	const int fd = accept4(r->lfd, NULL, NULL, SOCK_CLOEXEC);
	struct link *l = r->ctx ? link_accept(r->ctx, fd, soon(), &r->e) : link_accept_local(fd, soon(), &r->e);

	r->accepted = l != NULL;
	if (l)
		link_refuse(l, &r->why);
	return NULL;
}

static void connect_refused(struct refusing *r, struct tls_ctx *client, const char *name, struct err *e)
{
	const char *path = fixture_path("refuse.sock", NULL);
	uint16_t port = 0;
	pthread_t t;

	r->lfd = r->ctx ? fixture_listen(&port) : fd_unix_listen(path, 0600, e);
	const struct link_peer peer = { .name = name, .address = "127.0.0.1", .port = port };
	pthread_create(&t, NULL, refuse_thread, r);
	struct link *l = r->ctx ? link_connect(client, &peer, NULL, soon(), e)
				: link_connect_local(path, NULL, soon(), e);
	ck_assert_ptr_null(l);
	pthread_join(t, NULL);
	fd_close(&r->lfd);
}

START_TEST(refused_with_the_reason)
{
	struct refusing r = { .ctx = _i == 0 ? host2 : NULL };
	struct err e = ERR_INIT;

	err_set(&r.why, ERR_REFUSED, "host1 is not among the peers of host2");
	err_remedy(&r.why, "Add it to `peers` there.");
	connect_refused(&r, host1, "host2", &e);
	ck_assert(r.accepted);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "refused: host1 is not among the peers of host2");
	if (_i == 0)
		HAS(e.text, "host2 (127.0.0.1 port ");
	ck_assert_str_eq(e.remedy, "Add it to `peers` there.");
}
END_TEST

/* By TLS 1.3 the client thinks that the handshake is done. */
START_TEST(certificate_refused_shows_at_hello)
{
	struct refusing r = { .ctx = host2 };
	struct err e = ERR_INIT;

	fixture_issue("ca", "host1", "old", (int64_t)time(NULL) - 864000, 5);
	struct tls_ctx *old = fixture_ctx("old", NULL);
	connect_refused(&r, old, "host2", &e);
	ck_assert(!r.accepted);
	ck_assert_int_eq(e.cls, ERR_PEER);
	HAS(e.text, "host2 (127.0.0.1 port ");
	HAS(e.text, "it refused our certificate: by its clock it has expired");
	ck_assert_int_ne(e.remedy[0], '\0');
	ck_assert_int_eq(r.e.cls, ERR_REFUSED);
	HAS(r.e.text, "127.0.0.1:");
	HAS(r.e.text, "the certificate of host1 expired on");
	tls_ctx_free(old);
}
END_TEST

START_TEST(wrong_host_answers)
{
	struct refusing r = { .ctx = host2 };
	struct err e = ERR_INIT;

	connect_refused(&r, host1, "host3", &e);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "host3 (127.0.0.1 port ");
	HAS(e.text, "the certificate is for host2, expected host3");
}
END_TEST

START_TEST(nobody_there)
{
	struct err e = ERR_INIT;
	uint16_t port;
	int lfd = fixture_listen(&port);
	const struct link_peer peer = { .name = "host2", .address = "127.0.0.1", .port = port };

	fd_close(&lfd);
	ck_assert_ptr_null(link_connect(host1, &peer, NULL, soon(), &e));
	ck_assert_int_eq(e.cls, ERR_PEER);
	ck_assert_int_eq(e.errnum, ECONNREFUSED);
	HAS(e.text, "connect: Connection refused");
	HAS(e.remedy, "Start vmferryd there");

	const struct link_peer unknown = { .name = "host9", .address = "no such host name", .port = port };
	err_clear(&e);
	ck_assert_ptr_null(link_connect(host1, &unknown, NULL, soon(), &e));
	HAS(e.text, "host9 (no such host name port ");
	HAS(e.text, "look up");

	err_clear(&e);
	ck_assert_ptr_null(link_connect_local(fixture_path("none.sock", NULL), NULL, soon(), &e));
	ck_assert_int_eq(e.cls, ERR_PEER);
	HAS(e.text, "none.sock");
	HAS(e.remedy, "systemctl start vmferryd");
}
END_TEST

/* ---- the bytes themselves: a session written by hand ---- */

static void put_frame(struct buf *b, uint16_t type, uint64_t seq, const void *payload, size_t len)
{
	buf_put_be32(b, (uint32_t)len);
	buf_put_be16(b, type);
	buf_put_be16(b, 0);
	buf_put_be64(b, seq);
	buf_append(b, payload, len);
}

#define HELLO_TEXT "{\"version\":[1,1],\"agent\":\"0.1.0\"}"

static void put_hello(struct buf *b)
{
	put_frame(b, FRAME_HELLO, 0, HELLO_TEXT, strlen(HELLO_TEXT));
}

/* END after everything that is in b. */
static void put_end(struct buf *b, uint64_t frames, uint64_t bytes)
{
	BUF_AUTO struct buf end = BUF_INIT;

	buf_put_be64(&end, frames);
	buf_put_be64(&end, bytes);
	buf_put_be64(&end, XXH3_64bits(b->data, b->len));
	put_frame(b, FRAME_END, frames, end.data, end.len);
}

static void put_session(struct buf *b)
{
	put_hello(b);
	put_frame(b, FRAME_MSG, 1, "{\"id\":1}", 8);
	put_frame(b, FRAME_PING, 2, NULL, 0);
	put_frame(b, 0x8001, 3, "xyz", 3);
	put_frame(b, FRAME_ACK, 4, "\0\0\0\1\0\0\0\0\0\0\0\2", 12);
	put_end(b, 5, strlen(HELLO_TEXT) + 8 + 3 + 12);
}

struct outcome {
	bool accepted;
	bool clean;
	int frames;
	struct err e;
};

/* What a link makes of the bytes, when the peer closes after them. */
static struct outcome feed(const uint8_t *bytes, size_t len)
{
	struct outcome o = { 0 };
	struct link_frame f;
	int fd[2];

	fixture_unix_pair(fd);
	ck_assert_int_eq(send(fd[0], bytes, len, 0), (ssize_t)len);
	shutdown(fd[0], SHUT_WR);
	struct link *l = link_accept_local(fd[1], soon(), &o.e);
	o.accepted = l != NULL;
	if (l) {
		int rc;
		while ((rc = link_recv(l, &f, soon(), &o.e)) == 1)
			o.frames++;
		o.clean = rc == 0;
	}
	link_free(l);
	close(fd[0]);
	return o;
}

/* END's hash goes over all frames, but what is in a batch has its own. */
START_TEST(end_leaves_batches_to_themselves)
{
	static const char contents[] = "\0\0\0\1\0\0\0\0\0\0\0\0 a batch";
	BUF_AUTO struct buf hashed = BUF_INIT, b = BUF_INIT;

	put_hello(&hashed);
	put_frame(&hashed, FRAME_BATCH, 1, contents, sizeof(contents));
	buf_append(&b, hashed.data, hashed.len);
	hashed.len -= sizeof(contents);
	const size_t before = hashed.len;
	put_end(&hashed, 2, strlen(HELLO_TEXT) + sizeof(contents));
	buf_append(&b, hashed.data + before, hashed.len - before);
	const struct outcome o = feed(b.data, b.len);
	ck_assert_msg(o.clean, "%s", o.e.text);
	ck_assert_int_eq(o.frames, 1);
}
END_TEST

START_TEST(truncated_anywhere)
{
	BUF_AUTO struct buf b = BUF_INIT;

	put_session(&b);
	for (size_t len = 0; len < b.len; len++) {
		const struct outcome o = feed(b.data, len);
		ck_assert_msg(!o.clean, "%zu bytes pass for a whole session", len);
		ck_assert_int_eq(o.e.cls, ERR_PEER);
		HAS(o.e.text, "closed the connection");
	}
	const struct outcome o = feed(b.data, b.len);
	ck_assert_msg(o.clean, "%s", o.e.text);
	ck_assert_int_eq(o.frames, 3);
}
END_TEST

START_TEST(any_bit_flipped)
{
	BUF_AUTO struct buf b = BUF_INIT;

	put_session(&b);
	for (size_t bit = 0; bit < b.len * 8; bit++) {
		b.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		const struct outcome o = feed(b.data, b.len);
		ck_assert_msg(!o.clean, "bit %zu flipped, and the session passes", bit);
		ck_assert(o.e.cls == ERR_PROTOCOL || o.e.cls == ERR_CORRUPT || o.e.cls == ERR_PEER);
		b.data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
}
END_TEST

/* One byte at a time, and a look in between: nothing is lost. */
START_TEST(byte_by_byte)
{
	BUF_AUTO struct buf b = BUF_INIT;
	struct link_frame f;
	struct err e = ERR_INIT;
	int fd[2];
	int frames = 0;
	int rc = -1;
	const size_t hello = FRAME_HEADER_SIZE + strlen(HELLO_TEXT);

	put_session(&b);
	fixture_unix_pair(fd);
	ck_assert_int_eq(send(fd[0], b.data, hello, 0), (ssize_t)hello);
	struct link *l = link_accept_local(fd[1], soon(), &e);
	ck_assert_ptr_nonnull(l);
	for (size_t i = hello; i < b.len; i++) {
		ck_assert_int_eq(send(fd[0], b.data + i, 1, 0), 1);
		rc = link_recv(l, &f, 0, &e);
		frames += rc == 1;
		if (rc < 0)
			ck_assert_int_eq(e.errnum, ETIMEDOUT);
	}
	ck_assert_int_eq(rc, 0);
	ck_assert_int_eq(frames, 3);
	link_free(l);
	close(fd[0]);
}
END_TEST

static void expect_failure(struct buf *b, enum err_class cls, const char *text)
{
	const struct outcome o = feed(b->data, b->len);

	ck_assert(!o.clean);
	ck_assert_msg(o.e.cls == cls, "%s: %s", err_class_name(o.e.cls), o.e.text);
	HAS(o.e.text, text);
}

START_TEST(out_of_order)
{
	BUF_AUTO struct buf replayed = BUF_INIT;
	BUF_AUTO struct buf gap = BUF_INIT;
	BUF_AUTO struct buf first = BUF_INIT;

	put_hello(&replayed);
	put_frame(&replayed, FRAME_PING, 1, NULL, 0);
	put_frame(&replayed, FRAME_PING, 1, NULL, 0);
	expect_failure(&replayed, ERR_PROTOCOL, "frame number 1 came where 2 was expected: a frame was replayed");
	put_hello(&gap);
	put_frame(&gap, FRAME_PING, 2, NULL, 0);
	expect_failure(&gap, ERR_PROTOCOL, "frame number 2 came where 1 was expected: frames are missing");
	put_frame(&first, FRAME_HELLO, 1, HELLO_TEXT, strlen(HELLO_TEXT));
	expect_failure(&first, ERR_PROTOCOL, "frame number 1 came where 0");
}
END_TEST

START_TEST(frames_that_do_not_belong)
{
	BUF_AUTO struct buf b = BUF_INIT;
	static const char end[FRAME_END_SIZE];

	put_hello(&b);
	put_frame(&b, FRAME_HELLO, 1, HELLO_TEXT, strlen(HELLO_TEXT));
	expect_failure(&b, ERR_PROTOCOL, "HELLO frame where none belongs");
	buf_reset(&b);
	put_hello(&b);
	put_frame(&b, FRAME_END_ACK, 1, end, sizeof(end));
	expect_failure(&b, ERR_PROTOCOL, "END_ACK frame where none belongs");
	buf_reset(&b);
	put_hello(&b);
	put_frame(&b, 10, 1, NULL, 0);
	expect_failure(&b, ERR_PROTOCOL, "unknown type 10");
	buf_reset(&b);
	put_hello(&b);
	buf_put_be32(&b, FRAME_MAX_MSG + 1);
	buf_put_be32(&b, FRAME_MSG << 16);
	buf_put_be64(&b, 1);
	expect_failure(&b, ERR_PROTOCOL, "a MSG frame claims 4194305 bytes of payload; 4194304 are allowed");
	buf_reset(&b);
	put_frame(&b, FRAME_PING, 0, NULL, 0);
	expect_failure(&b, ERR_PROTOCOL, "the first frame is PING, not HELLO");
}
END_TEST

START_TEST(the_end_has_to_agree)
{
	BUF_AUTO struct buf b = BUF_INIT;

	put_hello(&b);
	put_end(&b, 2, strlen(HELLO_TEXT)); /* a frame more than there were, and so its own number is wrong too */
	expect_failure(&b, ERR_PROTOCOL, "frame number 2 came where 1");
	buf_reset(&b);
	put_hello(&b);
	put_end(&b, 1, 5);
	expect_failure(&b, ERR_CORRUPT, "the ends do not agree on what was sent: the peer counts 1 frames and 5 bytes");
	buf_reset(&b);
	put_hello(&b);
	put_frame(&b, FRAME_END, 1, "short", 5);
	expect_failure(&b, ERR_PROTOCOL, "an END frame has 5 bytes");
}
END_TEST

static const struct {
	const char *hello;
	const char *text;
} bad_hellos[] = {
	{ "", "HELLO is not a JSON object" },
	{ "nonsense", "HELLO is not a JSON object" },
	{ "[1,2]", "HELLO is not a JSON object" },
	{ "{\"a\":1,\"a\":2}", "HELLO is not a JSON object" },
	{ "{}", "does not say which protocol versions" },
	{ "{\"version\":1}", "does not say which protocol versions" },
	{ "{\"version\":[1]}", "does not say which protocol versions" },
	{ "{\"version\":[\"1\",\"2\"]}", "does not say which protocol versions" },
	{ "{\"version\":[3,2]}", "does not say which protocol versions" },
	{ "{\"version\":[2,3],\"agent\":\"9.9\\u0007\"}",
	  "no protocol version in common: the peer speaks 2 to 3 (vmferry 9.9 ), this side 1 to 1 (vmferry " },
	{ "{\"version\":[0,0]}", "the peer speaks 0 to 0 (vmferry of unknown version)" },
	{ "{\"version\":[1,1],\"error\":5}", "reported an error without saying which" },
	{ "{\"error\":{\"class\":\"refused\",\"text\":\"no\"}}", "refused: no" },
	{ "{\"error\":{\"class\":\"none\",\"text\":\"no\"}}", "refused: no" },
};

/* A server that gets it tells the client what is wrong. */
START_TEST(bad_hello)
{
	BUF_AUTO struct buf b = BUF_INIT;
	uint8_t answer[4096];
	struct err e = ERR_INIT;
	int fd[2];

	put_frame(&b, FRAME_HELLO, 0, bad_hellos[_i].hello, strlen(bad_hellos[_i].hello));
	fixture_unix_pair(fd);
	ck_assert_int_eq(send(fd[0], b.data, b.len, 0), (ssize_t)b.len);
	shutdown(fd[0], SHUT_WR);
	ck_assert_ptr_null(link_accept_local(fd[1], soon(), &e));
	HAS(e.text, bad_hellos[_i].text);
	const ssize_t n = recv(fd[0], answer, sizeof(answer), 0);
	if (e.cls == ERR_PROTOCOL) {
		ck_assert_int_gt(n, FRAME_HEADER_SIZE);
		json_t *j = json_loadb((char *)answer + FRAME_HEADER_SIZE, (size_t)n - FRAME_HEADER_SIZE, 0, NULL);
		struct err told = ERR_INIT;
		peer_err_from_json(json_object_get(j, "error"), &told);
		ck_assert_int_eq(told.cls, ERR_PROTOCOL);
		HAS(e.text, told.text);
		json_decref(j);
	} else {
		ck_assert_int_eq(n, 0);
	}
	close(fd[0]);
}
END_TEST

/* ---- errors that travel ---- */

START_TEST(peer_errors)
{
	struct err e = ERR_INIT;
	struct err back = ERR_INIT;

	err_set(&e, ERR_LIBVIRT, "domain \xc3\xbc");
	err_remedy(&e, "do this");
	json_t *j = peer_err_to_json(&e);
	ck_assert_int_eq(peer_err_from_json(j, &back), -1);
	ck_assert_int_eq(back.cls, ERR_LIBVIRT);
	ck_assert_str_eq(back.text, "domain \xc3\xbc");
	ck_assert_str_eq(back.remedy, "do this");
	json_decref(j);

	j = json_pack("{s:s,s:s}", "class", "invented", "text",
		      "a\x1b[2Jb\xc2\x9b"
		      "c\x7f\nd");
	peer_err_from_json(j, &back);
	ck_assert_int_eq(back.cls, ERR_PROTOCOL);
	ck_assert_str_eq(back.text, "a [2Jb c  d");
	ck_assert_str_eq(back.remedy, "");
	json_decref(j);
	peer_err_from_json(NULL, &back);
	ck_assert_int_eq(back.cls, ERR_PROTOCOL);

	/* Cut between characters. */
	char out[6];
	ck_assert_str_eq(peer_err_printable("abcd\xc3\xbc", out, sizeof(out)), "abcd");
	ck_assert_str_eq(peer_err_printable("abcde", out, sizeof(out)), "abcde");
	ck_assert_str_eq(peer_err_printable("abcdefg", out, sizeof(out)), "abcde");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("transport link");
	TCase *t = tcase_create("link");

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_loop_test(t, from_hello_to_end, 0, 2);
	tcase_add_loop_test(t, batches_up_to_the_limit, 0, 2);
	tcase_add_loop_test(t, both_finish_at_once, 0, 2);
	tcase_add_loop_test(t, finish_drops_what_comes, 0, 2);
	tcase_add_loop_test(t, cut_is_an_error, 0, 2);
	tcase_add_loop_test(t, finish_without_answer, 0, 2);
	tcase_add_loop_test(t, shutdown_wakes, 0, 2);
	tcase_add_loop_test(t, a_deadline_keeps_the_link, 0, 2);
	tcase_add_loop_test(t, refused_with_the_reason, 0, 2);
	tcase_add_test(t, certificate_refused_shows_at_hello);
	tcase_add_test(t, wrong_host_answers);
	tcase_add_test(t, nobody_there);
	suite_add_tcase(s, t);
	t = tcase_create("bytes");
	tcase_set_timeout(t, 60);
	tcase_add_test(t, end_leaves_batches_to_themselves);
	tcase_add_test(t, truncated_anywhere);
	tcase_add_test(t, any_bit_flipped);
	tcase_add_test(t, byte_by_byte);
	tcase_add_test(t, out_of_order);
	tcase_add_test(t, frames_that_do_not_belong);
	tcase_add_test(t, the_end_has_to_agree);
	tcase_add_loop_test(t, bad_hello, 0, (int)(sizeof(bad_hellos) / sizeof(bad_hellos[0])));
	tcase_add_test(t, peer_errors);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
