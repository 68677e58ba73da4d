#include "migrator/relay.h"

#include "transport_fixture.h"

#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <xxhash.h>

#define FORWARD 3

/* ---- two relays in one process ---- */

struct end {
	struct relay *relay;
	atomic_int errors, ram_ends;
	pthread_mutex_t lock;
	struct err error; /* under lock */
};

static struct end src, dst;
static int listener[RELAY_KIND_COUNT];
static char paths[2][RELAY_KIND_COUNT][160];

static const char *sock_path(bool source, enum relay_kind kind)
{
	return paths[source][kind];
}

static void on_error(void *ctx, const struct err *e)
{
	struct end *end = ctx;

	THREAD_LOCKED(&end->lock);
	end->error = *e;
	end->errors++;
}

static void on_ram_end(void *ctx)
{
	((struct end *)ctx)->ram_ends++;
}

static struct relay_opts opts_of(struct end *end, bool source)
{
	struct relay_opts o = { .source = source,
				.slots = 4096,
				.workers = 2,
				.fixed_level = RELAY_LEVEL_AUTO,
				.on_ram_end = on_ram_end,
				.on_error = on_error,
				.ctx = end };

	for (int k = 1; k < RELAY_KIND_COUNT; k++)
		o.path[k] = sock_path(source, (enum relay_kind)k);
	return o;
}

static void links(struct link *source[FORWARD + 1], struct link *target[FORWARD + 1])
{
	for (int i = 0; i <= FORWARD; i++) {
		struct link *l[2];
		fixture_local_links(l);
		source[i] = l[0];
		target[i] = l[1];
	}
}

static void start_with(const struct relay_opts *so, const struct relay_opts *to)
{
	struct link *s[FORWARD + 1], *t[FORWARD + 1];
	struct err e = ERR_INIT;

	links(s, t);
	dst.relay = relay_start(to, &t[FORWARD], 1, t, FORWARD, &e);
	ck_assert_msg(dst.relay != NULL, "%s", e.text);
	src.relay = relay_start(so, s, FORWARD, &s[FORWARD], 1, &e);
	ck_assert_msg(src.relay != NULL, "%s", e.text);
}

static void start(void)
{
	const struct relay_opts so = opts_of(&src, true), to = opts_of(&dst, false);

	start_with(&so, &to);
}

static void listen_all(void)
{
	struct err e = ERR_INIT;

	for (int k = 1; k < RELAY_KIND_COUNT; k++) {
		listener[k] = fd_unix_listen(sock_path(false, (enum relay_kind)k), 0600, &e);
		ck_assert_msg(listener[k] >= 0, "%s", e.text);
	}
}

static void setup(void)
{
	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_LEVEL_ERROR);
	fixture_start();
	memset(&src, 0, sizeof(src));
	memset(&dst, 0, sizeof(dst));
	pthread_mutex_init(&src.lock, NULL);
	pthread_mutex_init(&dst.lock, NULL);
	for (int k = 0; k < RELAY_KIND_COUNT; k++) {
		listener[k] = -1;
		for (int side = 0; side < 2; side++)
			snprintf(paths[side][k], sizeof(paths[0][0]), "%s/%s-%d", fixture_dir,
				 side ? "source" : "target", k);
	}
}

static void teardown(void)
{
	struct err e = ERR_INIT;

	OK(fault_arm(NULL, &e), e);
	relay_free(src.relay);
	relay_free(dst.relay);
	for (int k = 0; k < RELAY_KIND_COUNT; k++)
		fd_close(&listener[k]);
	fixture_clean();
}

static int app_connect(enum relay_kind kind)
{
	struct err e = ERR_INIT;
	const int fd = fd_unix_connect(sock_path(true, kind), &e);

	ck_assert_msg(fd >= 0, "%s", e.text);
	return fd;
}

static int app_accept(enum relay_kind kind)
{
	struct pollfd p = { .fd = listener[kind], .events = POLLIN };

	ck_assert_int_eq(poll(&p, 1, 20000), 1);
	const int fd = accept4(listener[kind], NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	return fd;
}

struct finish {
	struct relay *relay;
	int rc;
	struct err e;
};

static void *finish_thread(void *arg)
{
	struct finish *f = arg;

	f->rc = relay_finish(f->relay, soon(), &f->e);
	return NULL;
}

/* Both ends come to a clean end, and nobody saw an error. */
static void finish(void)
{
	struct finish t = { .relay = dst.relay };
	struct err e = ERR_INIT;
	pthread_t thread;

	pthread_create(&thread, NULL, finish_thread, &t);
	OK(relay_finish(src.relay, soon(), &e), e);
	pthread_join(thread, NULL);
	ck_assert_msg(t.rc == 0, "%s", t.e.text);
	ck_assert_int_eq(src.errors + dst.errors, 0);
}

static void wait_for_errors(const struct end *end, int n)
{
	const int64_t until = soon();

	while (end->errors < n) {
		const struct timespec ts = { .tv_nsec = 1000000 };
		ck_assert_int_lt(clock_mono_ns(), until);
		nanosleep(&ts, NULL);
	}
}

/* The socket has come to its end: end of file, or broken. */
static void expect_closed(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c[4096];
	ssize_t n;

	do {
		ck_assert_msg(poll(&p, 1, 20000) == 1, "the connection stays open");
		n = recv(fd, c, sizeof(c), 0);
	} while (n > 0);
}

/* ---- streams of random bytes, made and checked ---- */

struct rng {
	uint64_t s;
};

static uint64_t rnd(struct rng *r)
{
	r->s ^= r->s << 13;
	r->s ^= r->s >> 7;
	r->s ^= r->s << 17;
	return r->s;
}

struct flow_of_bytes {
	int fd;
	uint64_t seed;
	uint64_t bytes;
	uint64_t hash;
	bool pauses;
	bool fin; /* shut down after the last byte */
};

/* Writes pieces of all sizes: noise, zeros, text. */
static void *write_bytes(void *arg)
{
	struct flow_of_bytes *f = arg;
	struct rng r = { f->seed * 2654435761u + 1 };
	XXH3_state_t *h = XXH3_createState();
	struct err e = ERR_INIT;
	uint8_t *piece = mem_alloc(1 << 18);

	XXH3_64bits_reset(h);
	for (uint64_t left = f->bytes; left > 0;) {
		size_t n = (size_t)(rnd(&r) % ((uint64_t)1 << (1 + rnd(&r) % 18))) + 1;
		n = n < left ? n : (size_t)left;
		const unsigned kind = (unsigned)(rnd(&r) % 3);
		for (size_t i = 0; i < n; i++)
			piece[i] = kind == 0 ? (uint8_t)rnd(&r) : kind == 1 ? 0 : (uint8_t)("vmferry "[i % 8]);
		OK(fd_write_full(f->fd, piece, n, &e), e);
		XXH3_64bits_update(h, piece, n);
		left -= n;
		if (f->pauses && rnd(&r) % 16 == 0) {
			const struct timespec ts = { .tv_nsec = (long)(rnd(&r) % 3000000) };
			nanosleep(&ts, NULL);
		}
	}
	if (f->fin)
		shutdown(f->fd, SHUT_WR);
	f->hash = XXH3_64bits_digest(h);
	XXH3_freeState(h);
	free(piece);
	return NULL;
}

static void *read_bytes(void *arg)
{
	struct flow_of_bytes *f = arg;
	XXH3_state_t *h = XXH3_createState();
	uint8_t *piece = mem_alloc(1 << 16);
	ssize_t n;

	f->bytes = 0;
	XXH3_64bits_reset(h);
	while ((n = recv(f->fd, piece, 1 << 16, 0)) > 0) {
		XXH3_64bits_update(h, piece, (size_t)n);
		f->bytes += (uint64_t)n;
	}
	f->hash = XXH3_64bits_digest(h);
	XXH3_freeState(h);
	free(piece);
	return NULL;
}

#define CONNECTIONS 9

START_TEST(bytes_come_out_as_they_went_in)
{
	int s[CONNECTIONS], t[CONNECTIONS];
	struct flow_of_bytes there[CONNECTIONS], back[CONNECTIONS], got_there[CONNECTIONS], got_back[CONNECTIONS];
	pthread_t th[4 * CONNECTIONS];
	struct relay_stats rs;
	uint64_t sum = 0, counted = 0;

	listen_all();
	start();
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		const enum relay_kind kind = (enum relay_kind)(1 + i % 3);
		s[i] = app_connect(kind);
		t[i] = app_accept(kind);
		there[i] = (struct flow_of_bytes){
			.fd = s[i], .seed = i, .bytes = 1500000 + i, .pauses = i % 2, .fin = true
		};
		back[i] = (struct flow_of_bytes){ .fd = t[i], .seed = 99 + i, .bytes = i == 4 ? 0 : 700000, .fin = true };
		got_there[i].fd = t[i];
		got_back[i].fd = s[i];
	}
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		pthread_create(&th[4 * i], NULL, write_bytes, &there[i]);
		pthread_create(&th[4 * i + 1], NULL, write_bytes, &back[i]);
		pthread_create(&th[4 * i + 2], NULL, read_bytes, &got_there[i]);
		pthread_create(&th[4 * i + 3], NULL, read_bytes, &got_back[i]);
	}
	for (unsigned i = 0; i < 4 * CONNECTIONS; i++)
		pthread_join(th[i], NULL);
	for (unsigned i = 0; i < CONNECTIONS; i++) {
		ck_assert_uint_eq(got_there[i].bytes, there[i].bytes);
		ck_assert_uint_eq(got_back[i].bytes, back[i].bytes);
		ck_assert_uint_eq(got_there[i].hash, there[i].hash);
		ck_assert_uint_eq(got_back[i].hash, back[i].hash);
		sum += there[i].bytes + back[i].bytes;
		close(s[i]);
		close(t[i]);
	}
	finish();
	relay_get_stats(src.relay, &rs);
	for (int k = 1; k < RELAY_KIND_COUNT; k++)
		counted += rs.stream_bytes[k];
	ck_assert_uint_eq(counted, sum);
	ck_assert_uint_gt(rs.wire_bytes, 0);
	ck_assert_uint_lt(rs.wire_bytes, sum); /* a third was zeros and a third text */
	ck_assert_str_eq(rs.passthrough, "not a migration stream of version 3");
}
END_TEST

START_TEST(connections_arrive_in_order)
{
	enum { N = 40 };
	int s[N];
	struct err e = ERR_INIT;

	listen_all();
	start();
	for (uint8_t i = 0; i < N; i++) {
		s[i] = app_connect(RELAY_MIGRATION);
		OK(fd_write_full(s[i], &i, 1, &e), e);
	}
	for (uint8_t i = 0; i < N; i++) {
		uint8_t got = 255;
		int t = app_accept(RELAY_MIGRATION);
		OK(fd_read_full(t, &got, 1, &e), e);
		ck_assert_uint_eq(got, i);
		close(t);
	}
	for (int i = 0; i < N; i++) {
		expect_closed(s[i]);
		close(s[i]);
	}
	finish();
}
END_TEST

START_TEST(half_close_leaves_the_way_back_open)
{
	char answer[6] = "";
	struct err e = ERR_INIT;

	listen_all();
	start();
	int s = app_connect(RELAY_NBD), t = app_accept(RELAY_NBD);
	OK(fd_write_full(s, "question", 8, &e), e);
	shutdown(s, SHUT_WR);
	char q[9] = "";
	OK(fd_read_full(t, q, 8, &e), e);
	ck_assert_str_eq(q, "question");
	ck_assert_int_eq(recv(t, q, 1, 0), 0);
	OK(fd_write_full(t, "reply", 5, &e), e);
	OK(fd_read_full(s, answer, 5, &e), e);
	ck_assert_str_eq(answer, "reply");
	close(t);
	ck_assert_int_eq(recv(s, q, 1, 0), 0);
	close(s);
	finish();
}
END_TEST

/* What was written before a close arrives, also if there was something unread then (which the kernel calls a reset). */
START_TEST(close_delivers_what_was_written)
{
	struct err e = ERR_INIT;
	char got[1000];

	listen_all();
	start();
	int s = app_connect(RELAY_LIBVIRT), t = app_accept(RELAY_LIBVIRT);
	OK(fd_write_full(t, "never read", 10, &e), e);
	struct pollfd p = { .fd = s, .events = POLLIN };
	ck_assert_int_eq(poll(&p, 1, 20000), 1);
	memset(got, 'x', sizeof(got));
	OK(fd_write_full(s, got, sizeof(got), &e), e);
	close(s);
	memset(got, 0, sizeof(got));
	OK(fd_read_full(t, got, sizeof(got), &e), e);
	ck_assert_int_eq(got[999], 'x');
	expect_closed(t);
	close(t);
	finish();
}
END_TEST

START_TEST(a_reset_ends_one_stream_only)
{
	struct err e = ERR_INIT;
	char junk[4096] = { 1 };
	ssize_t n;
	char c;

	listen_all();
	start();
	int other_s = app_connect(RELAY_LIBVIRT), other_t = app_accept(RELAY_LIBVIRT);
	int s = app_connect(RELAY_MIGRATION), t = app_accept(RELAY_MIGRATION);
	close(t);
	/* The source's application learns of it by its own writing, as it would on a direct connection. */
	do {
		n = send(s, junk, sizeof(junk), MSG_NOSIGNAL);
	} while (n > 0);
	ck_assert(errno == EPIPE || errno == ECONNRESET);
	close(s);
	/* The other way round, while plenty is under way. */
	s = app_connect(RELAY_NBD);
	t = app_accept(RELAY_NBD);
	close(s);
	do {
		n = send(t, junk, sizeof(junk), MSG_NOSIGNAL);
	} while (n > 0);
	close(t);
	OK(fd_write_full(other_s, "!", 1, &e), e);
	OK(fd_read_full(other_t, &c, 1, &e), e);
	close(other_s);
	close(other_t);
	finish();
}
END_TEST

START_TEST(nobody_listens_at_the_target)
{
	enum relay_kind kind;
	struct err e = ERR_INIT;
	char c;

	listen_all();
	fd_close(&listener[RELAY_NBD]);
	start();
	ck_assert(!relay_open_failure(src.relay, &kind, &e));
	const int64_t begin = clock_mono_ns();
	int s = app_connect(RELAY_NBD);
	/* Meanwhile other kinds go on. */
	int s2 = app_connect(RELAY_LIBVIRT), t2 = app_accept(RELAY_LIBVIRT);
	OK(fd_write_full(s2, "!", 1, &e), e);
	OK(fd_read_full(t2, &c, 1, &e), e);
	ck_assert_int_lt(clock_mono_ns() - begin, 1900 * NS_PER_MS);
	expect_closed(s);
	ck_assert_int_ge(clock_mono_ns() - begin, 1900 * NS_PER_MS);
	ck_assert(relay_open_failure(src.relay, &kind, &e));
	ck_assert_int_eq(kind, RELAY_NBD);
	HAS(e.text, sock_path(false, RELAY_NBD));
	HAS(e.text, strerror(ECONNREFUSED));
	close(s);
	close(s2);
	close(t2);
	finish();
}
END_TEST

START_TEST(target_listens_a_moment_later)
{
	struct err e = ERR_INIT;
	char c;

	start();
	int s = app_connect(RELAY_MIGRATION);
	OK(fd_write_full(s, "!", 1, &e), e);
	const struct timespec ts = { .tv_nsec = 100000000 };
	nanosleep(&ts, NULL);
	listen_all();
	int t = app_accept(RELAY_MIGRATION);
	OK(fd_read_full(t, &c, 1, &e), e);
	close(s);
	close(t);
	finish();
}
END_TEST

/* ---- QEMU's stream ---- */

static void put_section(struct buf *b, uint8_t type)
{
	buf_put_u8(b, type);
	buf_put_be32(b, 2);
}

static void put_section_end(struct buf *b)
{
	buf_put_be64(b, 0x10);
	buf_put_u8(b, 0x7e);
	buf_put_be32(b, 2);
}

/* RAM of n pages, sent `passes` times with small changes; then device state. */
static void put_qemu_stream(struct buf *b, unsigned n, unsigned passes)
{
	struct rng r = { 88172645463325252u };
	uint8_t *ram = mem_alloc((size_t)n * 4096);

	for (size_t i = 0; i < (size_t)n * 4096; i += 8) {
		const uint64_t v = i / 4096 % 5 == 0 ? 0 : rnd(&r);
		memcpy(ram + i, &v, 8);
	}
	buf_append(b, "QEVM\0\0\0\3", 8);
	put_section(b, 1);
	buf_append(b, "\3ram\0\0\0\0\0\0\0\4", 12);
	buf_put_be64(b, (uint64_t)n * 4096 | 4);
	buf_append(b, "\6pc.ram", 7);
	buf_put_be64(b, (uint64_t)n * 4096);
	put_section_end(b);
	for (unsigned pass = 0; pass < passes; pass++) {
		put_section(b, 2);
		for (uint64_t p = 0; p < n; p++) {
			const bool named = p == 0, zero = p % 5 == 0;
			buf_put_be64(b, p << 12 | (zero ? 2 : 8) | (named ? 0 : 0x20));
			if (named)
				buf_append(b, "\6pc.ram", 7);
			buf_append(b, ram + p * 4096, zero ? 1 : 4096);
			if (!zero)
				ram[p * 4096 + rnd(&r) % 4096]++;
		}
		put_section_end(b);
	}
	put_section(b, 3);
	put_section_end(b);
	for (int i = 0; i < 3000; i++)
		buf_put_be64(b, rnd(&r) & 0xff);
	free(ram);
}

struct piecewise {
	int fd;
	const struct buf *b;
};

static void *write_piecewise(void *arg)
{
	const struct piecewise *p = arg;
	struct rng r = { 4711 };
	struct err e = ERR_INIT;

	for (size_t at = 0; at < p->b->len;) {
		size_t n = (size_t)(rnd(&r) % ((uint64_t)1 << (1 + rnd(&r) % 17))) + 1;
		n = n < p->b->len - at ? n : p->b->len - at;
		OK(fd_write_full(p->fd, p->b->data + at, n, &e), e);
		at += n;
	}
	shutdown(p->fd, SHUT_WR);
	return NULL;
}

/* Sends b through a new migration connection and compares. */
static void through_relay(const struct buf *b)
{
	BUF_AUTO struct buf got = BUF_INIT;
	pthread_t th;
	ssize_t n;

	int s = app_connect(RELAY_MIGRATION), t = app_accept(RELAY_MIGRATION);
	struct piecewise p = { s, b };
	pthread_create(&th, NULL, write_piecewise, &p);
	while ((n = recv(t, buf_reserve(&got, 1 << 16), 1 << 16, 0)) > 0)
		got.len += (size_t)n;
	pthread_join(th, NULL);
	ck_assert_uint_eq(got.len, b->len);
	ck_assert_int_eq(memcmp(got.data, b->data, b->len), 0);
	close(t);
	close(s);
}

START_TEST(qemu_stream_is_understood_and_unchanged)
{
	static const struct {
		uint32_t slots;
		int level;
	} cases[] = { { 4096, RELAY_LEVEL_AUTO }, { 4096, CODEC_RAW }, { 700, 1 }, { 0, 3 }, { 4096, 1 } };
	BUF_AUTO struct buf b = BUF_INIT;
	struct relay_opts so = opts_of(&src, true), to = opts_of(&dst, false);
	struct relay_stats rs;

	so.slots = to.slots = cases[_i].slots;
	so.fixed_level = cases[_i].level;
	put_qemu_stream(&b, 1500, 4);
	listen_all();
	start_with(&so, &to);
	through_relay(&b);
	/* A second one (multifd, post-copy recovery) does without page versions, and harms nothing. */
	through_relay(&b);
	finish();
	ck_assert_int_eq(src.ram_ends, 2);
	ck_assert_int_eq(dst.ram_ends, 0);
	relay_get_stats(src.relay, &rs);
	ck_assert_str_eq(rs.passthrough, "end of RAM");
	ck_assert_uint_eq(rs.codec.raw_bytes, 2 * b.len);
	ck_assert_uint_gt(rs.codec.zero_pages, 2 * 4 * 290);
	/* Where pages are stored, only those that come again are kept. */
	const uint64_t known_passes = cases[_i].level == 1 ? 3 : 2;
	if (cases[_i].slots == 4096)
		ck_assert_uint_ge(rs.codec.delta_pages, known_passes * 1190);
	if (cases[_i].level == CODEC_RAW)
		ck_assert_uint_lt(rs.codec.delta_pages, 3 * 1190);
	if (cases[_i].slots == 0)
		ck_assert_uint_eq(rs.codec.delta_pages, 0);
	if (cases[_i].level != RELAY_LEVEL_AUTO)
		ck_assert_int_eq(rs.level, cases[_i].level);
}
END_TEST

START_TEST(cut_streams_come_out_as_cut)
{
	BUF_AUTO struct buf b = BUF_INIT;
	struct rng r = { 12345 };

	put_qemu_stream(&b, 40, 2);
	listen_all();
	start();
	for (int i = 0; i < 40; i++) {
		struct buf part = b;
		part.len = (size_t)(rnd(&r) % b.len);
		through_relay(&part);
	}
	finish();
}
END_TEST

/* Something that begins like a migration stream, and then waits for an answer. */
START_TEST(a_record_that_does_not_end_is_passed_on)
{
	struct relay_stats rs;
	struct err e = ERR_INIT;
	char got[5] = "";

	listen_all();
	start();
	int s = app_connect(RELAY_MIGRATION), t = app_accept(RELAY_MIGRATION);
	OK(fd_write_full(s, "QEVM", 4, &e), e);
	OK(fd_read_full(t, got, 4, &e), e);
	ck_assert_str_eq(got, "QEVM");
	relay_get_stats(src.relay, &rs);
	ck_assert_str_eq(rs.passthrough, "a record that does not end");
	OK(fd_write_full(t, "yes", 3, &e), e);
	OK(fd_read_full(s, got, 3, &e), e);
	close(s);
	close(t);
	finish();
}
END_TEST

/* ---- bounds ---- */

START_TEST(a_reader_that_does_not_read_stops_the_writer)
{
	struct flow_of_bytes got;
	uint64_t written = 0;
	uint8_t *noise = mem_alloc(1 << 16);
	struct rng r = { 5 };
	ssize_t n;

	listen_all();
	start();
	int s = app_connect(RELAY_NBD), t = app_accept(RELAY_NBD);
	struct pollfd p = { .fd = s, .events = POLLOUT };
	/* Until it has not been writable for a while; what is accepted then is final. */
	while (poll(&p, 1, 500) == 1) {
		for (size_t i = 0; i < 1 << 16; i += 8) {
			const uint64_t v = rnd(&r);
			memcpy(noise + i, &v, 8);
		}
		n = send(s, noise, 1 << 16, MSG_DONTWAIT);
		written += n > 0 ? (uint64_t)n : 0;
		ck_assert_uint_lt(written, 48u << 20);
	}
	/* The window opened to what the way carried before it stopped, and no further than memory allows. */
	ck_assert_uint_ge(written, 256u << 10);
	ck_assert_uint_le(written, FLOW_MAX_RAW + (4u << 20));
	shutdown(s, SHUT_WR);
	got.fd = t;
	read_bytes(&got);
	ck_assert_uint_eq(got.bytes, written);
	close(s);
	close(t);
	free(noise);
	finish();
}
END_TEST

START_TEST(socket_files_are_ours_and_go)
{
	struct stat st;

	start();
	for (int k = 1; k < RELAY_KIND_COUNT; k++) {
		ck_assert_int_eq(stat(sock_path(true, (enum relay_kind)k), &st), 0);
		ck_assert_uint_eq(st.st_mode & 07777, 0660);
	}
	relay_free(src.relay);
	src.relay = NULL;
	for (int k = 1; k < RELAY_KIND_COUNT; k++)
		ck_assert_int_eq(stat(sock_path(true, (enum relay_kind)k), &st), -1);
}
END_TEST

START_TEST(start_fails_where_a_file_is_in_the_way)
{
	struct relay_opts so = opts_of(&src, true);
	struct link *s[FORWARD + 1], *t[FORWARD + 1];
	struct err e = ERR_INIT;
	struct stat st;

	OK(file_write_durable(so.path[RELAY_MIGRATION], "x", 1, 0600, &e), e);
	links(s, t);
	ck_assert_ptr_null(relay_start(&so, s, FORWARD, &s[FORWARD], 1, &e));
	HAS(e.text, "not a socket");
	ck_assert_int_eq(stat(so.path[RELAY_MIGRATION], &st), 0);
	ck_assert_int_eq(stat(so.path[RELAY_LIBVIRT], &st), -1);
	for (int i = 0; i <= FORWARD; i++)
		link_free(t[i]);
}
END_TEST

/* ---- ends that are not clean ---- */

START_TEST(finish_waits_for_connections_up_to_the_deadline)
{
	struct err e = ERR_INIT;

	listen_all();
	start();
	int s = app_connect(RELAY_LIBVIRT), t = app_accept(RELAY_LIBVIRT);
	ck_assert_int_eq(relay_finish(src.relay, in_ms(100), &e), -1);
	HAS(e.text, "1 connection of the session did not end in time");
	relay_abort(src.relay);
	expect_closed(s);
	expect_closed(t);
	ck_assert_int_eq(src.errors, 0);
	wait_for_errors(&dst, 1);
	ck_assert_int_eq(dst.error.cls, ERR_PEER);
	close(s);
	close(t);
}
END_TEST

static void *write_until_closed(void *arg)
{
	const int fd = *(int *)arg;
	char *junk = mem_alloc(1 << 16);
	struct rng r = { 77 };

	for (size_t i = 0; i < 1 << 16; i++)
		junk[i] = (char)(rnd(&r) & 0x3f);
	while (send(fd, junk, 1 << 16, MSG_NOSIGNAL) > 0)
		;
	free(junk);
	return NULL;
}

static void *read_until_closed(void *arg)
{
	const int fd = *(int *)arg;
	char *junk = mem_alloc(1 << 16);

	while (recv(fd, junk, 1 << 16, 0) > 0)
		;
	free(junk);
	return NULL;
}

/* Who ends the session, and how. */
enum end_kind { ABORT_SOURCE, ABORT_TARGET, FREE_SOURCE, FREE_TARGET, END_KINDS };

/* At any moment, with everything moving: no hang, no leak, the applications see their connections end. */
START_TEST(abort_at_any_time)
{
	struct rng r = { (uint64_t)_i * 7919 + 3 };
	enum { N = 4 };
	int s[N], t[N];
	pthread_t th[4 * N];

	listen_all();
	start();
	for (int i = 0; i < N; i++) {
		const enum relay_kind kind = (enum relay_kind)(1 + i % 3);
		s[i] = app_connect(kind);
		t[i] = app_accept(kind);
		pthread_create(&th[4 * i], NULL, write_until_closed, &s[i]);
		pthread_create(&th[4 * i + 1], NULL, read_until_closed, &t[i]);
		pthread_create(&th[4 * i + 2], NULL, write_until_closed, &t[i]);
		pthread_create(&th[4 * i + 3], NULL, read_until_closed, &s[i]);
	}
	const struct timespec ts = { .tv_nsec = (long)(rnd(&r) % 30000000) };
	nanosleep(&ts, NULL);
	switch ((enum end_kind)(_i % END_KINDS)) {
	case ABORT_SOURCE:
		relay_abort(src.relay);
		wait_for_errors(&dst, 1);
		break;
	case ABORT_TARGET:
		relay_abort(dst.relay);
		wait_for_errors(&src, 1);
		break;
	case FREE_SOURCE:
		relay_free(src.relay);
		src.relay = NULL;
		wait_for_errors(&dst, 1);
		break;
	case FREE_TARGET:
	case END_KINDS:
		relay_free(dst.relay);
		dst.relay = NULL;
		wait_for_errors(&src, 1);
		break;
	}
	for (int i = 0; i < 4 * N; i++)
		pthread_join(th[i], NULL);
	ck_assert_int_eq(src.errors + dst.errors, 1);
	for (int i = 0; i < N; i++) {
		close(s[i]);
		close(t[i]);
	}
}
END_TEST

/* Connections that are accepted but not open yet, and a target that still tries. */
START_TEST(abort_while_opening)
{
	start();
	int a = app_connect(RELAY_MIGRATION), b = app_connect(RELAY_MIGRATION);
	const struct timespec ts = { .tv_nsec = 20000000 };
	nanosleep(&ts, NULL);
	const int64_t begin = clock_mono_ns();
	relay_abort(src.relay);
	relay_abort(dst.relay);
	expect_closed(a);
	expect_closed(b);
	relay_free(src.relay);
	relay_free(dst.relay);
	src.relay = dst.relay = NULL;
	ck_assert_int_lt(clock_mono_ns() - begin, NS_PER_S);
	close(a);
	close(b);
}
END_TEST

static const struct {
	const char *fault;
	bool session; /* it ends the session, else the connection alone */
	const char *says;
} faults[] = {
	{ "relay.open.source=fail", false, NULL },
	{ "relay.open.target=fail", false, NULL },
	{ "relay.read=fail@2", false, NULL },
	{ "relay.write=fail@2", false, NULL },
	{ "relay.encode=fail@2", true, "relay.encode" },
	{ "relay.decode=fail@2", true, "relay.decode" },
	{ "channel.send=fail@2", true, "channel.send" },
	{ "channel.recv=fail@2", true, "channel.recv" },
};

START_TEST(faults_end_what_they_hit)
{
	struct err e = ERR_INIT;
	struct pollfd p;

	listen_all();
	start();
	OK(fault_arm(faults[_i].fault, &e), e);
	int s = app_connect(RELAY_MIGRATION);
	pthread_t th[2];
	int t = -1;
	p = (struct pollfd){ .fd = listener[RELAY_MIGRATION], .events = POLLIN };
	if (strstr(faults[_i].fault, "relay.open") == NULL) {
		ck_assert_int_eq(poll(&p, 1, 20000), 1);
		t = app_accept(RELAY_MIGRATION);
		pthread_create(&th[1], NULL, read_until_closed, &t);
	}
	pthread_create(&th[0], NULL, write_until_closed, &s);
	pthread_join(th[0], NULL);
	if (t >= 0) {
		pthread_join(th[1], NULL);
		close(t);
	}
	close(s);
	if (faults[_i].session) {
		wait_for_errors(&src, 1);
		wait_for_errors(&dst, 1);
		ck_assert(strstr(src.error.text, faults[_i].says) || strstr(dst.error.text, faults[_i].says));
	} else {
		/* The next connection is as good as ever. */
		int s2 = app_connect(RELAY_LIBVIRT), t2 = app_accept(RELAY_LIBVIRT);
		char c;
		OK(fd_write_full(s2, "!", 1, &e), e);
		OK(fd_read_full(t2, &c, 1, &e), e);
		close(s2);
		close(t2);
		finish();
	}
}
END_TEST

/* ---- a peer that lies ---- */

struct lie {
	const char *name;
	void (*tell)(struct link *l);
	enum err_class cls;
	const char *says;
};

static void say_stream(struct link *l, struct flow_stream_msg m)
{
	uint8_t out[FLOW_MSG_MAX];
	const struct iovec iov = { .iov_base = out, .iov_len = flow_msg_encode(&m, out) };
	struct err e = ERR_INIT;

	OK(link_send(l, FRAME_STREAM, &iov, 1, soon(), &e), e);
}

static void say_batch(struct link *l, uint32_t stream, uint64_t number, const char *text, int spoil)
{
	BUF_AUTO struct buf out = BUF_INIT;
	uint8_t head[FLOW_BATCH_HEAD];
	struct err e = ERR_INIT;
	struct batch *b = batch_new();
	struct codec *c = codec_new();
	const struct codec_params params = { CODEC_RAW, CODEC_RAW };

	batch_literal(b, text, strlen(text));
	codec_encode(c, b, &params, &out, NULL);
	if (spoil >= 0)
		out.data[out.len - 1 - (size_t)spoil] ^= 1;
	flow_head_encode(stream, number, head);
	const struct iovec iov[2] = { { head, sizeof(head) }, { out.data, out.len } };
	OK(link_send(l, FRAME_BATCH, iov, 2, soon(), &e), e);
	codec_free(c);
	batch_free(b);
}

static void say_ack(struct link *l, uint32_t stream, uint64_t number)
{
	uint8_t head[FLOW_BATCH_HEAD];
	const struct iovec iov = { .iov_base = head, .iov_len = sizeof(head) };
	struct err e = ERR_INIT;

	flow_head_encode(stream, number, head);
	OK(link_send(l, FRAME_ACK, &iov, 1, soon(), &e), e);
}

static void open_stream(struct link *l, uint32_t id)
{
	say_stream(l, (struct flow_stream_msg){ .op = FLOW_OPEN, .stream = id, .a = RELAY_LIBVIRT });
}

static void lie_open_twice(struct link *l)
{
	open_stream(l, 1);
	open_stream(l, 1);
}
static void lie_open_high(struct link *l)
{
	open_stream(l, FLOW_MAX_STREAMS + 1);
}
static void lie_open_kind(struct link *l)
{
	say_stream(l, (struct flow_stream_msg){ .op = FLOW_OPEN, .stream = 1, .a = RELAY_KIND_COUNT });
}
static void lie_open_kind_not_here(struct link *l)
{
	say_stream(l, (struct flow_stream_msg){ .op = FLOW_OPEN, .stream = 1, .a = RELAY_NBD });
}
static void lie_many(struct link *l)
{
	for (uint32_t i = 1; i <= 200; i++)
		open_stream(l, i);
}
static void lie_opened(struct link *l)
{
	open_stream(l, 1);
	say_stream(l, (struct flow_stream_msg){ .op = FLOW_OPENED, .stream = 1 });
}
static void lie_end_unknown(struct link *l)
{
	say_stream(l, (struct flow_stream_msg){ .op = FLOW_END, .stream = 9 });
}
static void lie_batch_unknown(struct link *l)
{
	say_batch(l, 5, 0, "x", -1);
}
static void lie_batch_high(struct link *l)
{
	say_batch(l, UINT32_MAX, 0, "x", -1);
}
static void lie_batch_twice(struct link *l)
{
	open_stream(l, 1);
	say_batch(l, 1, 0, "x", -1);
	say_batch(l, 1, 0, "x", -1);
}
static void lie_batch_twice_waiting(struct link *l)
{
	open_stream(l, 1);
	say_batch(l, 1, 3, "x", -1);
	say_batch(l, 1, 3, "x", -1);
}
static void lie_batch_beyond(struct link *l)
{
	open_stream(l, 1);
	say_batch(l, 1, FLOW_MAX_BATCHES, "x", -1);
}
static void lie_batch_last(struct link *l)
{
	open_stream(l, 1);
	say_batch(l, 1, UINT64_MAX, "x", -1);
}
static void lie_batch_after_end(struct link *l)
{
	open_stream(l, 1);
	say_stream(l, (struct flow_stream_msg){ .op = FLOW_END, .stream = 1, .number = 2 });
	say_batch(l, 1, 2, "x", -1);
}
static void lie_end_before_batch(struct link *l)
{
	open_stream(l, 1);
	say_batch(l, 1, 2, "x", -1);
	say_stream(l, (struct flow_stream_msg){ .op = FLOW_END, .stream = 1, .number = 2 });
}
static void lie_two_ends(struct link *l)
{
	open_stream(l, 1);
	say_stream(l, (struct flow_stream_msg){ .op = FLOW_END, .stream = 1, .number = 2 });
	say_stream(l, (struct flow_stream_msg){ .op = FLOW_RESET, .stream = 1, .number = 3 });
}
static void lie_end_far(struct link *l)
{
	open_stream(l, 1);
	say_stream(l, (struct flow_stream_msg){ .op = FLOW_END, .stream = 1, .number = FLOW_MAX_BATCHES + 1 });
}
static void lie_contents(struct link *l)
{
	open_stream(l, 1);
	say_batch(l, 1, 0, "some text", 0);
}
static void lie_empty_batch(struct link *l)
{
	uint8_t head[FLOW_BATCH_HEAD];
	const struct iovec iov = { .iov_base = head, .iov_len = sizeof(head) };
	struct err e = ERR_INIT;

	open_stream(l, 1);
	flow_head_encode(1, 0, head);
	OK(link_send(l, FRAME_BATCH, &iov, 1, soon(), &e), e);
}
static void lie_ack_unsent(struct link *l)
{
	open_stream(l, 1);
	say_ack(l, 1, 1);
}
static void lie_ack_unknown(struct link *l)
{
	say_ack(l, 1, 0);
}
static void lie_end_in_the_middle(struct link *l)
{
	struct err e = ERR_INIT;

	open_stream(l, 1);
	/* The answer to END comes before the judgement. */
	OK(link_finish(l, soon(), &e), e);
}
static void lie_batches_missing(struct link *l)
{
	struct err e = ERR_INIT;

	open_stream(l, 1);
	say_batch(l, 1, 1, "x", -1);
	say_stream(l, (struct flow_stream_msg){ .op = FLOW_END, .stream = 1, .number = 2 });
	OK(link_finish(l, soon(), &e), e);
}

static const struct lie lies[] = {
	{ "open twice", lie_open_twice, ERR_PROTOCOL, "stream 1, which exists" },
	{ "open too high", lie_open_high, ERR_PROTOCOL, "over the limit" },
	{ "unknown kind", lie_open_kind, ERR_PROTOCOL, "not part of this session" },
	{ "kind without a path", lie_open_kind_not_here, ERR_PROTOCOL, "not part of this session" },
	{ "too many streams", lie_many, ERR_PROTOCOL, "streams open" },
	{ "opened from the wrong side", lie_opened, ERR_PROTOCOL, "which it opened itself" },
	{ "end of nothing", lie_end_unknown, ERR_PROTOCOL, "does not exist" },
	{ "batch of nothing", lie_batch_unknown, ERR_PROTOCOL, "not open" },
	{ "batch of stream 2^32-1", lie_batch_high, ERR_PROTOCOL, "not open" },
	{ "batch again", lie_batch_twice, ERR_PROTOCOL, "came twice" },
	{ "batch again, not due", lie_batch_twice_waiting, ERR_PROTOCOL, "came twice" },
	{ "batch beyond the window", lie_batch_beyond, ERR_PROTOCOL, "beyond the window" },
	{ "batch 2^64-1", lie_batch_last, ERR_PROTOCOL, "beyond the window" },
	{ "batch after the end", lie_batch_after_end, ERR_PROTOCOL, "after the end" },
	{ "end before a batch", lie_end_before_batch, ERR_PROTOCOL, "impossible batch" },
	{ "two ends", lie_two_ends, ERR_PROTOCOL, "ends twice" },
	{ "end too far", lie_end_far, ERR_PROTOCOL, "impossible batch" },
	{ "contents", lie_contents, ERR_CORRUPT, "does not reproduce" },
	{ "no batch in a batch", lie_empty_batch, ERR_PROTOCOL, "shorter than its header" },
	{ "ack of what was not sent", lie_ack_unsent, ERR_PROTOCOL, "which was not sent" },
	{ "ack of nothing", lie_ack_unknown, ERR_PROTOCOL, "does not exist" },
	{ "links end first", lie_end_in_the_middle, ERR_PROTOCOL, "in the middle of stream 1" },
	{ "batches missing", lie_batches_missing, ERR_PROTOCOL, "in the middle of stream 1" },
};

START_TEST(lies_end_the_session)
{
	struct link *f[2], *b[2];
	struct relay_opts o = opts_of(&dst, false);
	struct err e = ERR_INIT;

	o.path[RELAY_NBD] = NULL;
	listen_all();
	fixture_local_links(f);
	fixture_local_links(b);
	dst.relay = relay_start(&o, &b[1], 1, &f[1], 1, &e);
	ck_assert_msg(dst.relay != NULL, "%s", e.text);
	lies[_i].tell(f[0]);
	wait_for_errors(&dst, 1);
	THREAD_LOCKED(&dst.lock);
	ck_assert_msg(dst.error.cls == lies[_i].cls, "%s: %s: %s", lies[_i].name, err_class_name(dst.error.cls),
		      dst.error.text);
	HAS(dst.error.text, lies[_i].says);
	link_free(f[0]);
	link_free(b[0]);
}
END_TEST

/* An honest peer that is slow and out of order: batches in reverse, END first. */
START_TEST(any_order_is_fine)
{
	struct link *f[2], *b[2];
	struct relay_opts o = opts_of(&dst, false);
	struct err e = ERR_INIT;
	char got[200 * 3 + 1] = "", text[16];

	listen_all();
	fixture_local_links(f);
	fixture_local_links(b);
	dst.relay = relay_start(&o, &b[1], 1, &f[1], 1, &e);
	ck_assert_msg(dst.relay != NULL, "%s", e.text);
	open_stream(f[0], 7);
	say_stream(f[0], (struct flow_stream_msg){ .op = FLOW_END, .stream = 7, .number = 200 });
	for (int i = 199; i >= 0; i--) {
		snprintf(text, sizeof(text), "%03d", i);
		say_batch(f[0], 7, (uint64_t)i, text, -1);
	}
	int t = app_accept(RELAY_LIBVIRT);
	OK(fd_read_full(t, got, sizeof(got) - 1, &e), e);
	for (int i = 0; i < 200; i++) {
		snprintf(text, sizeof(text), "%03d", i);
		ck_assert_int_eq(memcmp(got + 3 * i, text, 3), 0);
	}
	ck_assert_int_eq(recv(t, got, 1, 0), 0);
	close(t);
	ck_assert_int_eq(dst.errors, 0);
	relay_free(dst.relay);
	dst.relay = NULL;
	link_free(f[0]);
	link_free(b[0]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("migrator relay");
	TCase *t = tcase_create("relay");

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, bytes_come_out_as_they_went_in);
	tcase_add_test(t, connections_arrive_in_order);
	tcase_add_test(t, half_close_leaves_the_way_back_open);
	tcase_add_test(t, close_delivers_what_was_written);
	tcase_add_test(t, a_reset_ends_one_stream_only);
	tcase_add_test(t, nobody_listens_at_the_target);
	tcase_add_test(t, target_listens_a_moment_later);
	tcase_add_loop_test(t, qemu_stream_is_understood_and_unchanged, 0, 5);
	tcase_add_test(t, cut_streams_come_out_as_cut);
	tcase_add_test(t, a_record_that_does_not_end_is_passed_on);
	tcase_add_test(t, a_reader_that_does_not_read_stops_the_writer);
	tcase_add_test(t, socket_files_are_ours_and_go);
	tcase_add_test(t, start_fails_where_a_file_is_in_the_way);
	tcase_add_test(t, finish_waits_for_connections_up_to_the_deadline);
	tcase_add_loop_test(t, abort_at_any_time, 0, 16);
	tcase_add_test(t, abort_while_opening);
	tcase_add_loop_test(t, faults_end_what_they_hit, 0, (int)(sizeof(faults) / sizeof(faults[0])));
	tcase_add_loop_test(t, lies_end_the_session, 0, (int)(sizeof(lies) / sizeof(lies[0])));
	tcase_add_test(t, any_order_is_fine);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
