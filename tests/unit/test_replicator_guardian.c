/*
 * The guardian: its loop in a thread of the test, with functions that note what they are told to do; and the agent's side with a guardian that is
 * this very program, started another way (see main).
 */
#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/guard.h"
#include "replicator/guardian.h"
#include "replicator/guardian_msg.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS NS_PER_MS
/* How late a machine that is busy with other things may be, where nothing but that makes it late. */
#define SLACK (500 * MS)
#define SILENCE (3 * NS_PER_S)

/* What a VM does is in the first byte of its UUID. */
enum { GOOD = 0x10, STUCK = 0xdd, UNTIDY = 0xcc, FAILS = 0xcb, ABSENT = 0xee };

static void make_uuid(uint8_t uuid[16], int kind, int n)
{
	memset(uuid, 0x42, 16);
	uuid[0] = (uint8_t)kind;
	uuid[14] = (uint8_t)(n >> 8);
	uuid[15] = (uint8_t)n;
}

/* ---- the loop, in a thread ---- */

#define MAX_NOTES 256
struct fixture {
	int fd; /* the agent's end */
	int its;
	int lock_fd;
	int64_t silence_ns;
	pthread_t thread;
	unsigned result;
	struct guard_ops ops;

	pthread_mutex_t lock;
	struct note {
		uint8_t uuid[16];
		struct guard_order order;
		int64_t at_ns;
	} notes[MAX_NOTES];
	size_t n;
	unsigned opened, closed;
};

static void *fake_open(void *ctx, const uint8_t uuid[16], struct err *e)
{
	struct fixture *f = ctx;

	if (uuid[0] == ABSENT) {
		err_set(e, ERR_LIBVIRT, "not there");
		return NULL;
	}
	THREAD_LOCKED(&f->lock);
	f->opened++;
	return f;
}

static int fake_check(void *vm, struct err *e)
{
	(void)vm;
	(void)e;
	return 0;
}

static void fake_close(void *vm)
{
	struct fixture *f = vm;

	if (!f)
		return;
	THREAD_LOCKED(&f->lock);
	f->closed++;
}

static int fake_free(void *ctx, void **vm, const uint8_t uuid[16], const struct guard_order *order, bool *runs,
		     struct err *e)
{
	struct fixture *f = ctx;
	(void)vm;
	if (uuid[0] == STUCK)
		poll(NULL, 0, 1200);
	{
		THREAD_LOCKED(&f->lock);
		ck_assert_uint_lt(f->n, MAX_NOTES);
		f->notes[f->n++] = (struct note){ .order = *order, .at_ns = clock_mono_ns() };
		memcpy(f->notes[f->n - 1].uuid, uuid, 16);
	}
	*runs = uuid[0] != FAILS;
	return uuid[0] == UNTIDY || uuid[0] == FAILS ? err_set(e, ERR_LIBVIRT, "no") : 0;
}

static void *run(void *arg)
{
	struct fixture *f = arg;

	f->result = guard_run(f->its, f->lock_fd, f->silence_ns, &f->ops);
	return NULL;
}

static struct fixture *begin(int64_t silence_ns, int lock_fd)
{
	struct fixture *f = mem_alloc(sizeof *f);
	struct err e = ERR_INIT;
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	f->fd = pair[0];
	f->its = pair[1];
	f->silence_ns = silence_ns;
	f->lock_fd = lock_fd;
	f->ops = (struct guard_ops){
		.open = fake_open, .check = fake_check, .free_guest = fake_free, .close = fake_close, .ctx = f
	};
	pthread_mutex_init(&f->lock, NULL);
	ck_assert_int_eq(thread_start(&f->thread, "guard", run, f, &e), 0);
	return f;
}

/* The agent's end goes; returns what guard_run said. The notes stay readable until finish. */
static unsigned agent_ends(struct fixture *f)
{
	fd_close(&f->fd);
	pthread_join(f->thread, NULL);
	ck_assert_uint_eq(f->opened, f->closed);
	return f->result;
}

static void finish(struct fixture *f)
{
	fd_close(&f->its);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

static void say(struct fixture *f, enum guardian_kind kind, const uint8_t *uuid, uint64_t value)
{
	ck_assert_int_eq(guardian_msg_send(f->fd, kind, uuid, value), 0);
}

/* The next answer, but for ACKs; false when there is none until then. */
static bool hear_until(struct fixture *f, struct guardian_msg *m, int64_t until)
{
	int held;

	for (;;) {
		const int rc = guardian_msg_recv(f->fd, m, &held);
		ck_assert_int_ge(rc, 0);
		if (rc == 1 && m->kind != GUARDIAN_ACK)
			return true;
		if (rc == 0 && clock_mono_ns() >= until)
			return false;
		struct pollfd p = { .fd = f->fd, .events = POLLIN };
		poll(&p, 1, clock_poll_ms(until));
	}
}

static void expect(struct fixture *f, enum guardian_kind kind, const uint8_t *uuid, uint64_t value, int64_t within_ns)
{
	struct guardian_msg m;

	ck_assert_msg(hear_until(f, &m, clock_mono_ns() + within_ns), "no answer in time");
	ck_assert_int_eq(m.kind, kind);
	ck_assert_mem_eq(m.uuid, uuid, 16);
	ck_assert_uint_eq(m.value, value);
}

static void expect_nothing(struct fixture *f, int64_t ns)
{
	struct guardian_msg m;
	const int64_t until = clock_mono_ns() + ns;

	ck_assert_msg(!hear_until(f, &m, until), "kind %d", m.kind);
}

static void watched(struct fixture *f, const uint8_t *uuid)
{
	say(f, GUARDIAN_WATCH, uuid, 0);
	expect(f, GUARDIAN_WATCHING, uuid, 0, SLACK);
}

static void watch_another(struct fixture *f, uint8_t vm[16], int kind, int n)
{
	make_uuid(vm, kind, n);
	watched(f, vm);
}

/* With a VM that it watches. */
static struct fixture *begin_with(uint8_t vm[16], int kind)
{
	struct fixture *f = begin(SILENCE, -1);

	watch_another(f, vm, kind, 1);
	return f;
}

START_TEST(late_is_let_go)
{
	uint8_t vm[16];
	struct fixture *f = begin_with(vm, GOOD);

	const int64_t deadline = clock_mono_ns() + 100 * MS;
	say(f, GUARDIAN_ARM, vm, (uint64_t)deadline);
	expect(f, GUARDIAN_FREED, vm, GUARDIAN_END_FREED, 100 * MS + SLACK);
	ck_assert_uint_eq(f->n, 1);
	ck_assert_int_eq(f->notes[0].order.cause, GUARD_AGENT_LATE);
	ck_assert(f->notes[0].order.armed);
	ck_assert_int_ge(f->notes[0].at_ns, deadline);
	ck_assert_int_lt(f->notes[0].at_ns, deadline + SLACK);
	/* It is over: neither the next ARM nor the agent's end has anything more to do. */
	say(f, GUARDIAN_ARM, vm, (uint64_t)clock_mono_ns());
	expect_nothing(f, 100 * MS);
	ck_assert_uint_eq(agent_ends(f), 0);
	ck_assert_uint_eq(f->n, 1);
	finish(f);
}
END_TEST

START_TEST(in_time_is_left_alone)
{
	uint8_t vm[16];
	struct fixture *f = begin_with(vm, GOOD);

	for (int i = 0; i < 5; i++) {
		say(f, GUARDIAN_ARM, vm, (uint64_t)(clock_mono_ns() + NS_PER_S));
		poll(NULL, 0, 10);
		say(f, GUARDIAN_DISARM, vm, 0);
	}
	say(f, GUARDIAN_ARM, vm, (uint64_t)(clock_mono_ns() + 200 * MS)); /* replaced: later */
	say(f, GUARDIAN_ARM, vm, (uint64_t)(clock_mono_ns() + 10 * NS_PER_S));
	expect_nothing(f, 500 * MS);
	say(f, GUARDIAN_DISARM, vm, 0);
	say(f, GUARDIAN_UNWATCH, vm, 0);
	ck_assert_uint_eq(agent_ends(f), 0);
	ck_assert_uint_eq(f->n, 0);
	finish(f);
}
END_TEST

START_TEST(death_lets_all_go)
{
	struct fixture *f = begin(SILENCE, -1);
	enum { N = 40 };
	uint8_t vm[N][16];
	for (int i = 0; i < N; i++)
		watch_another(f, vm[i], GOOD, i);
	say(f, GUARDIAN_ARM, vm[3], (uint64_t)(clock_mono_ns() + 10 * NS_PER_S));
	say(f, GUARDIAN_UNWATCH, vm[7], 0);
	const int64_t died = clock_mono_ns();
	ck_assert_uint_eq(agent_ends(f), 0);
	ck_assert_uint_eq(f->n, N - 1);
	for (size_t i = 0; i < f->n; i++) {
		const struct note *n = &f->notes[i];
		ck_assert_int_eq(n->order.cause, GUARD_AGENT_DIED);
		ck_assert_int_eq(n->order.armed, memcmp(n->uuid, vm[3], 16) == 0);
		ck_assert_int_ne(memcmp(n->uuid, vm[7], 16), 0);
		ck_assert_int_lt(n->at_ns, died + SLACK);
	}
	finish(f);
}
END_TEST

START_TEST(silence_lets_go)
{
	struct fixture *f = begin(300 * MS, -1);
	struct guardian_msg m = { 0 };
	uint8_t vm[16];
	int held;
	make_uuid(vm, GOOD, 1);
	watched(f, vm);
	for (uint64_t i = 1; i <= 12; i++) { /* alive for twice that long */
		say(f, GUARDIAN_BEAT, NULL, i);
		struct pollfd p = { .fd = f->fd, .events = POLLIN };
		ck_assert_int_eq(poll(&p, 1, 500), 1);
		ck_assert_int_eq(guardian_msg_recv(f->fd, &m, &held), 1);
		ck_assert_int_eq(m.kind, GUARDIAN_ACK);
		ck_assert_uint_eq(m.value, i);
		poll(NULL, 0, 50);
	}
	ck_assert_uint_eq(f->n, 0);
	expect(f, GUARDIAN_FREED, vm, GUARDIAN_END_FREED, 300 * MS + SLACK);
	ck_assert_int_eq(f->notes[0].order.cause, GUARD_AGENT_SILENT);
	ck_assert(!f->notes[0].order.armed);
	ck_assert_uint_eq(agent_ends(f), 0);
	finish(f);
}
END_TEST

START_TEST(nonsense_is_ignored)
{
	uint8_t vm[16], packet[64];
	struct fixture *f = begin_with(vm, GOOD);

	for (size_t len = 1; len <= sizeof packet; len++) {
		memset(packet, (int)len, sizeof packet);
		ck_assert_int_eq(send(f->fd, packet, len, 0), (ssize_t)len);
	}
	memset(packet, 0, sizeof packet);
	memcpy(packet, "vmG1", 4);
	static const uint8_t kinds[] = { 0, 7, 15, 20, 255 };
	for (size_t i = 0; i < sizeof kinds; i++) {
		packet[7] = kinds[i];
		ck_assert_int_eq(send(f->fd, packet, 32, 0), 32);
	}
	say(f, GUARDIAN_WATCH, vm, 0x8000); /* a flag that is not known */
	say(f, GUARDIAN_HOLD, vm, 0);       /* and nothing to hold */
	say(f, GUARDIAN_FREED, vm, 0);      /* not the agent's to say */
	uint8_t other[16];
	make_uuid(other, GOOD, 2);
	say(f, GUARDIAN_ARM, other, 0); /* not watched */
	say(f, GUARDIAN_UNWATCH, other, 0);
	expect_nothing(f, 100 * MS);
	say(f, GUARDIAN_ARM, vm, 0); /* it still hears: late since ever */
	expect(f, GUARDIAN_FREED, vm, GUARDIAN_END_FREED, SLACK);
	ck_assert_uint_eq(agent_ends(f), 0);
	ck_assert_uint_eq(f->n, 1);
	finish(f);
}
END_TEST

START_TEST(one_that_is_stuck_delays_no_other)
{
	uint8_t stuck[16], good[16];
	struct fixture *f = begin_with(stuck, STUCK);

	watch_another(f, good, GOOD, 2);
	say(f, GUARDIAN_ARM, stuck, 0);
	say(f, GUARDIAN_ARM, good, 0);
	expect(f, GUARDIAN_FREED, good, GUARDIAN_END_FREED, SLACK);
	expect(f, GUARDIAN_FREED, stuck, GUARDIAN_END_FREED, 1200 * MS + SLACK);
	ck_assert_uint_eq(agent_ends(f), 0);
	finish(f);
}
END_TEST

START_TEST(failures_are_told_and_counted)
{
	uint8_t untidy[16], fails[16];
	struct fixture *f = begin_with(untidy, UNTIDY);

	watch_another(f, fails, FAILS, 2);
	say(f, GUARDIAN_ARM, untidy, 0);
	expect(f, GUARDIAN_FREED, untidy, GUARDIAN_END_UNTIDY, SLACK);
	say(f, GUARDIAN_ARM, fails, 0);
	expect(f, GUARDIAN_FREED, fails, GUARDIAN_END_FAILED, SLACK);
	ck_assert_uint_eq(agent_ends(f), 2);
	finish(f);
}
END_TEST

START_TEST(a_capture_after_a_rescue)
{
	uint8_t vm[16];
	struct fixture *f = begin_with(vm, STUCK);

	say(f, GUARDIAN_ARM, vm, 0);
	poll(NULL, 0, 300); /* in the middle of its rescue a new one is asked for: only when the old one is over */
	say(f, GUARDIAN_UNWATCH, vm, 0);
	say(f, GUARDIAN_WATCH, vm, 0);
	expect(f, GUARDIAN_FREED, vm, GUARDIAN_END_FREED, 1200 * MS + SLACK);
	expect(f, GUARDIAN_WATCHING, vm, 0, SLACK);
	say(f, GUARDIAN_ARM, vm, 0);
	expect(f, GUARDIAN_FREED, vm, GUARDIAN_END_FREED, 1200 * MS + SLACK);
	watched(f, vm); /* and without UNWATCH */
	say(f, GUARDIAN_UNWATCH, vm, 0);
	watched(f, vm); /* and while its thread ends */
	ck_assert_uint_eq(agent_ends(f), 0);
	ck_assert_uint_eq(f->n, 3);
	finish(f);
}
END_TEST

START_TEST(a_vm_that_is_not_there_is_not_confirmed)
{
	struct fixture *f = begin(SILENCE, -1);
	uint8_t vm[16];
	make_uuid(vm, ABSENT, 1);
	say(f, GUARDIAN_WATCH, vm, 0);
	expect_nothing(f, 300 * MS);
	say(f, GUARDIAN_UNWATCH, vm, 0);
	ck_assert_uint_eq(agent_ends(f), 0);
	ck_assert_uint_eq(f->n, 0);
	finish(f);
}
END_TEST

static bool ended(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c;
	return poll(&p, 1, 0) == 1 && read(fd, &c, 1) == 0;
}

START_TEST(the_stream_is_shut_first)
{
	uint8_t vm[16], other[16];
	struct fixture *f = begin_with(vm, STUCK);
	int stream[2], kept[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, kept), 0);
	watch_another(f, other, GOOD, 2);
	ck_assert_int_eq(guardian_msg_send_hold(f->fd, vm, stream[0], false), 0);
	ck_assert_int_eq(guardian_msg_send_hold(f->fd, other, kept[0], false), 0);
	say(f, GUARDIAN_UNWATCH, other, 0);
	say(f, GUARDIAN_ARM, vm, 0);
	const int64_t until = clock_mono_ns() + SLACK;
	while (!ended(stream[1]) && clock_mono_ns() < until)
		poll(NULL, 0, 5);
	ck_assert_msg(clock_mono_ns() < until, "not shut");
	{
		THREAD_LOCKED(&f->lock);
		ck_assert_uint_eq(f->n, 0); /* before the rescue, which is stuck */
	}
	ck_assert(!ended(kept[1]));
	expect(f, GUARDIAN_FREED, vm, GUARDIAN_END_FREED, 1200 * MS + SLACK);
	ck_assert_uint_eq(agent_ends(f), 0);
	for (int i = 0; i < 2; i++) {
		fd_close(&stream[i]);
		fd_close(&kept[i]);
	}
	finish(f);
}
END_TEST

/* More than the socket takes: written whole only if somebody reads, and never to an end that is shut. */
static bool no_threads;

int __real_thread_start_detached(const char *name, void *(*fn)(void *), void *arg, struct err *e);
int __wrap_thread_start_detached(const char *name, void *(*fn)(void *), void *arg, struct err *e);

int __wrap_thread_start_detached(const char *name, void *(*fn)(void *), void *arg, struct err *e)
{
	return no_threads ? err_set(e, ERR_SYS, "no thread for it") : __real_thread_start_detached(name, fn, arg, e);
}

/* Nor does the guardian end before it is over. i = 1: where no thread can be started, it is read before the VM is let go. */
START_TEST(a_stream_to_be_read_on_is_not_shut)
{
	static char much[4 << 20];
	uint8_t vm[16];
	struct fixture *f = begin_with(vm, STUCK);
	struct err e = ERR_INIT;
	int stream[2];

	no_threads = _i == 1;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream), 0);
	ck_assert_int_eq(guardian_msg_send_hold(f->fd, vm, stream[0], true), 0);
	fd_close(&stream[0]);
	say(f, GUARDIAN_ARM, vm, 0);
	ck_assert_msg(fd_write_full(stream[1], much, sizeof much, &e) == 0, "%s", e.text);
	if (_i == 0)
		expect(f, GUARDIAN_FREED, vm, GUARDIAN_END_FREED, 1200 * MS + SLACK);
	fd_close(&f->fd);
	poll(NULL, 0, 200);
	ck_assert_int_eq(pthread_tryjoin_np(f->thread, NULL), EBUSY);
	ck_assert_msg(fd_write_full(stream[1], much, sizeof much, &e) == 0, "%s", e.text);
	fd_close(&stream[1]);
	ck_assert_uint_eq(agent_ends(f), 0);
	ck_assert_uint_eq(f->n, 1);
	ck_assert(f->notes[0].order.armed && f->notes[0].order.background);
	finish(f);
}
END_TEST

START_TEST(one_guardian_at_a_time)
{
	char path[] = "/tmp/vmferry-guardian-XXXXXX";
	int first_lock = mkstemp(path);
	int second_lock = open(path, O_RDWR | O_CLOEXEC);
	uint8_t vm[16], other[16];
	struct fixture *first = begin(SILENCE, first_lock), *second = begin(SILENCE, second_lock);

	ck_assert_int_ge(second_lock, 0);
	make_uuid(vm, STUCK, 1);
	make_uuid(other, GOOD, 2);
	other[0] = 0x77;
	watched(first, vm);
	say(second, GUARDIAN_WATCH, vm, 0);
	expect_nothing(second, 100 * MS);
	watched(second, other); /* another VM waits for no one */
	ck_assert_uint_eq(agent_ends(first), 0);
	expect(second, GUARDIAN_WATCHING, vm, 0, SLACK);
	ck_assert_uint_eq(first->n, 1);
	ck_assert_uint_eq(second->n, 0);
	say(second, GUARDIAN_UNWATCH, vm, 0);
	ck_assert_uint_eq(agent_ends(second), 0);
	finish(first);
	finish(second);
	unlink(path);
}
END_TEST

START_TEST(packets_are_exact)
{
	static const uint8_t good[32] = { 'v', 'm', 'G', '1', 0,  0,  0,  2,  1, 2, 3, 4, 5, 6, 7, 8,
					  9,   10,  11,  12,  13, 14, 15, 16, 0, 0, 0, 0, 0, 0, 1, 2 };
	struct guardian_msg m;
	uint8_t packet[33] = { 0 };
	int pair[2];

	ck_assert_int_eq(guardian_msg_decode(good, sizeof good, &m), 0);
	ck_assert_int_eq(m.kind, GUARDIAN_ARM);
	ck_assert_mem_eq(m.uuid, good + 8, 16);
	ck_assert_uint_eq(m.value, 258);
	for (size_t len = 0; len < sizeof good; len++)
		ck_assert_int_eq(guardian_msg_decode(good, len, &m), -1);
	memcpy(packet, good, sizeof good);
	ck_assert_int_eq(guardian_msg_decode(packet, sizeof packet, &m), -1);
	for (unsigned bit = 0; bit < 7 * 8; bit++) { /* magic, and all of the kind but its last byte */
		packet[bit / 8] ^= (uint8_t)(1u << bit % 8);
		ck_assert_int_eq(guardian_msg_decode(packet, 32, &m), -1);
		packet[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	ck_assert_int_eq(guardian_msg_send(pair[0], GUARDIAN_ARM, good + 8, 258), 0);
	ck_assert_int_eq(recv(pair[1], packet, sizeof packet, 0), 32);
	ck_assert_mem_eq(packet, good, 32);
	fd_close(&pair[0]);
	fd_close(&pair[1]);
}
END_TEST

/* ---- the agent's side, with a guardian of its own process ---- */

static char self[4096];

struct agent {
	struct guardian *g;
	char diary[64]; /* a line for each VM that the other process let go */
	pthread_mutex_t lock;
	unsigned freed;
	char last[40];
	enum guardian_end how;
};

static void on_freed(void *ctx, const char *uuid, enum guardian_end how)
{
	struct agent *a = ctx;

	THREAD_LOCKED(&a->lock);
	a->freed++;
	snprintf(a->last, sizeof a->last, "%s", uuid);
	a->how = how;
}

static struct agent *agent(void)
{
	struct agent *a = mem_alloc(sizeof *a);
	struct err e = ERR_INIT;

	pthread_mutex_init(&a->lock, NULL);
	snprintf(a->diary, sizeof a->diary, "/tmp/vmferry-guardian-XXXXXX");
	int fd = mkstemp(a->diary);
	ck_assert_int_ge(fd, 0);
	fd_close(&fd);
	const struct guardian_opts opts = {
		.program = self, .uri = a->diary, .silence_ns = 2 * NS_PER_S, .freed = on_freed, .ctx = a
	};
	a->g = guardian_start(&opts, &e);
	ck_assert_msg(a->g != NULL, "%s", e.text);
	return a;
}

static void agent_free(struct agent *a)
{
	guardian_stop(a->g);
	unlink(a->diary);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

static bool in_diary(const char *path, const char *words)
{
	char text[4096];
	FD_AUTO int fd = open(path, O_RDONLY | O_CLOEXEC);
	const ssize_t n = read(fd, text, sizeof text - 1);

	ck_assert_int_ge(n, 0);
	text[n] = 0;
	return strstr(text, words) != NULL;
}

static bool comes(const char *path, const char *words, int64_t within_ns)
{
	const int64_t until = clock_mono_ns() + within_ns;

	while (!in_diary(path, words)) {
		if (clock_mono_ns() > until)
			return false;
		poll(NULL, 0, 5);
	}
	return true;
}

static unsigned freed(struct agent *a, int64_t within_ns)
{
	const int64_t until = clock_mono_ns() + within_ns;

	for (;;) {
		{
			THREAD_LOCKED(&a->lock);
			if (a->freed || clock_mono_ns() > until)
				return a->freed;
		}
		poll(NULL, 0, 5);
	}
}

#define VM1 "10aa0000-0000-4000-8000-000000000001"
#define VM2 "10aa0000-0000-4000-8000-000000000002"

START_TEST(a_session_is_told)
{
	struct agent *a = agent();
	struct err e = ERR_INIT;
	int stream[2];

	ck_assert_int_eq(guardian_watch(a->g, "no uuid", &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_msg(guardian_watch(a->g, VM1, &e) == 0, "%s", e.text);
	ck_assert_msg(guardian_watch(a->g, VM2, &e) == 0, "%s", e.text);
	ck_assert_int_eq(guardian_watch(a->g, VM1, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	guardian_arm(a->g, VM1, clock_mono_ns() + 10 * NS_PER_S);
	guardian_disarm(a->g, VM1);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, stream), 0);
	ck_assert_msg(guardian_hold(a->g, VM2, stream[0], true, &e) == 0, "%s", e.text);
	fd_close(&stream[1]);
	guardian_arm(a->g, VM2, clock_mono_ns() + 100 * MS);
	ck_assert_uint_eq(freed(a, 100 * MS + SLACK), 1);
	fd_close(&stream[0]);
	ck_assert_str_eq(a->last, VM2);
	ck_assert_int_eq(a->how, GUARDIAN_END_FREED);
	ck_assert(in_diary(a->diary, VM2 " agent-late armed=1 background=1"));
	guardian_unwatch(a->g, VM2); /* fine, and */
	ck_assert_msg(guardian_watch(a->g, VM2, &e) == 0, "%s", e.text);
	guardian_unwatch(a->g, VM1);
	guardian_unwatch(a->g, VM2);
	const pid_t pid = guardian_pid(a->g);
	ck_assert_int_gt(pid, 0);
	agent_free(a);
	ck_assert_int_eq(kill(pid, 0), -1); /* it ended by itself */
	ck_assert_int_eq(errno, ESRCH);
}
END_TEST

START_TEST(a_vm_that_is_given_away)
{
	struct agent *a = agent();
	struct err e = ERR_INIT;

	/* It stands still, far longer than a pause may last: nobody lets it go, and that is known. */
	ck_assert_msg(guardian_watch(a->g, VM1, &e) == 0, "%s", e.text);
	guardian_arm(a->g, VM1, clock_mono_ns() + 300 * NS_PER_S);
	ck_assert_msg(guardian_part(a->g, VM1, &e) == 0, "%s", e.text);
	ck_assert_uint_eq(freed(a, 50 * MS), 0);
	ck_assert_int_eq(guardian_part(a->g, VM1, &e), -1); /* it is not watched any more: not known */
	/* One that was let go before it was asked, */
	ck_assert_msg(guardian_watch(a->g, VM2, &e) == 0, "%s", e.text);
	guardian_arm(a->g, VM2, clock_mono_ns());
	if (_i == 1)
		ck_assert_uint_eq(freed(a, SLACK), 1);
	/* or is being let go just now. */
	else
		poll(NULL, 0, 1);
	err_clear(&e);
	const int rc = guardian_part(a->g, VM2, &e);
	if (rc < 0)
		ck_assert_ptr_nonnull(strstr(e.text, "has let VM"));
	poll(NULL, 0, 100);
	ck_assert_int_eq(rc < 0, in_diary(a->diary, VM2 " agent-late"));
	ck_assert(_i == 0 || rc < 0);
	/* Watched anew it is as any other. */
	ck_assert_msg(guardian_watch(a->g, VM1, &e) == 0, "%s", e.text);
	guardian_unwatch(a->g, VM1);
	agent_free(a);
}
END_TEST

START_TEST(a_guardian_that_dies_is_started_again)
{
	struct agent *a = agent();
	struct err e = ERR_INIT;

	ck_assert_msg(guardian_watch(a->g, VM1, &e) == 0, "%s", e.text);
	ck_assert_msg(guardian_watch(a->g, VM2, &e) == 0, "%s", e.text);
	const pid_t pid = guardian_pid(a->g);
	/* Later than the second a guardian may have to wait for its next start. */
	guardian_arm(a->g, VM1, clock_mono_ns() + 1500 * MS);
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_uint_eq(freed(a, 1500 * MS + SLACK), 1);
	ck_assert_str_eq(a->last, VM1);
	ck_assert(in_diary(a->diary, VM1 " agent-late armed=1"));
	ck_assert(!in_diary(a->diary, VM2));
	ck_assert_uint_eq(guardian_restarts(a->g), 1);
	ck_assert_int_ne(guardian_pid(a->g), pid);
	guardian_unwatch(a->g, VM1);
	guardian_unwatch(a->g, VM2);
	agent_free(a);
}
END_TEST

START_TEST(a_guardian_that_hangs_is_replaced)
{
	struct agent *a = agent();
	struct err e = ERR_INIT;

	ck_assert_msg(guardian_watch(a->g, VM1, &e) == 0, "%s", e.text);
	const pid_t pid = guardian_pid(a->g);
	ck_assert_int_eq(kill(pid, SIGSTOP), 0);
	const int64_t since = clock_mono_ns();
	for (int i = 0; i < 2000; i++) { /* more than a socket holds */
		guardian_arm(a->g, VM1, clock_mono_ns() + 30 * NS_PER_S);
		guardian_disarm(a->g, VM1);
	}
	ck_assert_int_lt(clock_mono_ns() - since, SLACK);
	const int64_t until = clock_mono_ns() + 8 * NS_PER_S;
	while (guardian_restarts(a->g) == 0 || guardian_pid(a->g) <= 0) {
		ck_assert_msg(clock_mono_ns() < until, "not replaced");
		poll(NULL, 0, 20);
	}
	ck_assert_int_ne(guardian_pid(a->g), pid);
	guardian_arm(a->g, VM1, clock_mono_ns());
	ck_assert_uint_eq(freed(a, 2 * NS_PER_S + SLACK), 1);
	agent_free(a);
}
END_TEST

/* An agent in a process of its own, which sends itself the signal when it has armed VM1; VM2 runs. */
static pid_t doomed_agent(char *diary, size_t size, int sig)
{
	int pipe_fds[2];
	ck_assert_int_eq(pipe(pipe_fds), 0);
	const pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct agent *a = agent();
		struct err e = ERR_INIT;
		if (guardian_watch(a->g, VM1, &e) != 0 || guardian_watch(a->g, VM2, &e) != 0)
			_exit(1);
		guardian_arm(a->g, VM1, clock_mono_ns() + 300 * MS);
		if (write(pipe_fds[1], a->diary, sizeof a->diary) != sizeof a->diary)
			_exit(1);
		raise(sig);
		_exit(0);
	}
	fd_close(&pipe_fds[1]);
	struct err e = ERR_INIT;
	ck_assert_msg(fd_read_full(pipe_fds[0], diary, size, &e) == 0, "%s", e.text);
	fd_close(&pipe_fds[0]);
	return pid;
}

START_TEST(an_agent_that_is_killed)
{
	char diary[sizeof(((struct agent *)NULL)->diary)];
	const pid_t pid = doomed_agent(diary, sizeof diary, SIGKILL);

	ck_assert(comes(diary, VM1 " agent-died armed=1", SLACK));
	ck_assert(comes(diary, VM2 " agent-died armed=0", SLACK));
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	unlink(diary);
}
END_TEST

START_TEST(an_agent_that_is_stopped)
{
	char diary[sizeof(((struct agent *)NULL)->diary)];
	const pid_t pid = doomed_agent(diary, sizeof diary, SIGSTOP);

	ck_assert(comes(diary, VM1 " agent-late armed=1", 300 * MS + SLACK));
	ck_assert(!in_diary(diary, VM2)); /* it runs: no hurry */
	ck_assert(comes(diary, VM2 " agent-silent armed=0", 2 * NS_PER_S + SLACK));
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	unlink(diary);
}
END_TEST

START_TEST(no_program)
{
	struct err e = ERR_INIT;
	const struct guardian_opts opts = { .program = "/nonexistent/guardian", .uri = "x" };

	ck_assert_ptr_null(guardian_start(&opts, &e));
	ck_assert_int_eq(e.cls, ERR_SYS);
	guardian_stop(NULL);
}
END_TEST

/* ---- the guardian that this program is too ---- */

static void *diary_open(void *ctx, const uint8_t uuid[16], struct err *e)
{
	(void)uuid;
	(void)e;
	return ctx;
}

static int diary_free(void *ctx, void **vm, const uint8_t u[16], const struct guard_order *o, bool *runs, struct err *e)
{
	char line[128];
	FD_AUTO int fd = open(ctx, O_WRONLY | O_APPEND | O_CLOEXEC);
	(void)vm;
	const int n = snprintf(
		line, sizeof line,
		"%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x %s armed=%d background=%d\n", u[0],
		u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15],
		guard_cause_name(o->cause), o->armed, o->background);
	*runs = true;
	return fd_write_full(fd, line, (size_t)n, e);
}

static void diary_close(void *vm)
{
	(void)vm;
}

static int be_guardian(char **argv)
{
	const struct guard_ops ops = {
		.open = diary_open, .free_guest = diary_free, .close = diary_close, .ctx = argv[1]
	};

	return guard_run(0, -1, strtoll(argv[2], NULL, 10) * NS_PER_MS, &ops) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc == 3)
		return be_guardian(argv);
	if (readlink("/proc/self/exe", self, sizeof self - 1) <= 0)
		return 1;
	Suite *s = suite_create("guardian");
	TCase *t = tcase_create("loop");
	tcase_set_timeout(t, 30);
	tcase_add_test(t, late_is_let_go);
	tcase_add_test(t, in_time_is_left_alone);
	tcase_add_test(t, death_lets_all_go);
	tcase_add_test(t, silence_lets_go);
	tcase_add_test(t, nonsense_is_ignored);
	tcase_add_test(t, one_that_is_stuck_delays_no_other);
	tcase_add_test(t, failures_are_told_and_counted);
	tcase_add_test(t, a_capture_after_a_rescue);
	tcase_add_test(t, a_vm_that_is_not_there_is_not_confirmed);
	tcase_add_test(t, the_stream_is_shut_first);
	tcase_add_loop_test(t, a_stream_to_be_read_on_is_not_shut, 0, 2);
	tcase_add_test(t, one_guardian_at_a_time);
	tcase_add_test(t, packets_are_exact);
	suite_add_tcase(s, t);
	t = tcase_create("agent");
	tcase_set_timeout(t, 30);
	tcase_add_test(t, a_session_is_told);
	tcase_add_loop_test(t, a_vm_that_is_given_away, 0, 2);
	tcase_add_test(t, a_guardian_that_dies_is_started_again);
	tcase_add_test(t, a_guardian_that_hangs_is_replaced);
	tcase_add_test(t, an_agent_that_is_killed);
	tcase_add_test(t, an_agent_that_is_stopped);
	tcase_add_test(t, no_program);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	const int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
