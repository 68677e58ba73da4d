#include "transport/rpc.h"

#include "tests/unit/transport_fixture.h"

#include "base/thread.h"
#include "config/config.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

/* A service with a call for every situation, and what happened to it. */
struct side {
	struct rpc_service service;
	struct rpc *rpc;
	unsigned roles;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	int closed;
	struct err close_err;
	int running, cancelled_seen;
	bool let_go;
	bool unref_in_close;
	struct rpc *unref_this; /* dropped by the handler "drop" */
};

static unsigned roles_of(void *ctx, const char *peer)
{
	(void)peer;
	return ((struct side *)ctx)->roles;
}

static void on_close(void *ctx, struct rpc *rpc, const struct err *e)
{
	struct side *s = ctx;
	bool unref;

	pthread_mutex_lock(&s->lock);
	s->closed++;
	s->close_err = *e;
	unref = s->unref_in_close;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (unref)
		rpc_unref(rpc);
}

static int h_echo(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	(void)ctx, (void)c, (void)e;
	*result = json_deep_copy(args);
	return 0;
}

static int h_nothing(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	(void)ctx, (void)c, (void)args, (void)result, (void)e;
	return 0;
}

static int h_fail(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	(void)ctx, (void)c, (void)args, (void)result;
	err_set(e, ERR_LIBVIRT, "domain web1\x1b[31m: \xff not found");
	return err_remedy(e, "Look with virsh list.");
}

static int h_notes(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	const json_int_t n = json_integer_value(json_object_get(args, "n"));

	(void)ctx, (void)result, (void)e;
	for (json_int_t i = 0; i < n; i++)
		rpc_note(c, json_pack("{s:I,s:s}", "i", i, "caller", rpc_caller(c)));
	return 0;
}

/* Runs until it is cancelled or let go. */
static int h_wait(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	struct side *s = ctx;
	int rc = 0;

	(void)args, (void)result;
	pthread_mutex_lock(&s->lock);
	s->running++;
	pthread_cond_broadcast(&s->changed);
	while (!s->let_go && !rpc_cancelled(c))
		thread_cond_wait_until(&s->changed, &s->lock, in_ms(2));
	if (rpc_cancelled(c)) {
		s->cancelled_seen++;
		rc = err_set(e, ERR_CANCELLED, "stopped as asked");
	}
	s->running--;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* Calls back to the caller over the same connection. */
static int h_back(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	(void)ctx;
	return rpc_call(rpc_connection(c), "echo", json_deep_copy(args), soon(), NULL, NULL, NULL, result, e);
}

static int h_drop(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	struct side *s = ctx;

	(void)c, (void)args, (void)result, (void)e;
	pthread_mutex_lock(&s->lock);
	struct rpc *r = s->unref_this;
	s->unref_this = NULL;
	pthread_mutex_unlock(&s->lock);
	rpc_unref(r);
	return 0;
}

static int h_large(void *ctx, struct rpc_call *c, const json_t *args, json_t **result, struct err *e)
{
	const size_t n = (size_t)json_integer_value(json_object_get(args, "n"));
	MEM_AUTO char *text = mem_alloc(n + 1);

	(void)ctx, (void)c, (void)e;
	memset(text, 'x', n);
	*result = json_pack("{s:s}", "text", text);
	return 0;
}

static const struct rpc_method methods[] = {
	{ "echo", h_echo, 0 },
	{ "nothing", h_nothing, 0 },
	{ "fail", h_fail, 0 },
	{ "notes", h_notes, 0 },
	{ "wait", h_wait, 0 },
	{ "back", h_back, 0 },
	{ "drop", h_drop, 0 },
	{ "large", h_large, 0 },
	{ "migrate", h_nothing, ROLE_MIGRATE_IN },
	{ "order", h_nothing, ROLE_OPERATE },
	{ 0 },
};

static void side_init(struct side *s)
{
	*s = (struct side){ .service = { .methods = methods, .ctx = s, .roles_of = roles_of, .on_close = on_close } };
	pthread_mutex_init(&s->lock, NULL);
	thread_cond_init(&s->changed);
}

#define WAIT_FOR(s, condition)                                                       \
	do {                                                                         \
		const int64_t until_ = soon();                                       \
		pthread_mutex_lock(&(s)->lock);                                      \
		while (!(condition) && clock_mono_ns() < until_)                     \
			thread_cond_wait_until(&(s)->changed, &(s)->lock, in_ms(5)); \
		const bool met_ = (condition);                                       \
		pthread_mutex_unlock(&(s)->lock);                                    \
		ck_assert_msg(met_, "never: %s", #condition);                        \
	} while (0)

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

/* a is host1 and has connected, b is host2. */
static void connect_sides(struct side *a, struct side *b, bool tls, const struct rpc_opts *opts)
{
	static const struct rpc_opts defaults = { 0 };
	struct link *l[2];
	struct err e = ERR_INIT;

	if (tls)
		fixture_links(host1, host2, l);
	else
		fixture_local_links(l);
	a->rpc = rpc_start_opts(l[0], &a->service, opts ? opts : &defaults, &e);
	b->rpc = rpc_start_opts(l[1], &b->service, opts ? opts : &defaults, &e);
	ck_assert_ptr_nonnull(a->rpc);
	ck_assert_ptr_nonnull(b->rpc);
}

static int call(struct side *s, const char *method, json_t *args, json_t **result, struct err *e)
{
	err_clear(e);
	return rpc_call(s->rpc, method, args, soon(), NULL, NULL, NULL, result, e);
}

/* ---- calls ---- */

static void check_calls(bool tls)
{
	struct side a, b;
	json_t *got = NULL;
	struct err e = ERR_INIT;

	side_init(&a);
	side_init(&b);
	connect_sides(&a, &b, tls, NULL);
	OK(call(&a, "echo", json_pack("{s:i,s:s}", "n", 5, "s", "\u00fc"), &got, &e), e);
	ck_assert_int_eq(json_integer_value(json_object_get(got, "n")), 5);
	ck_assert_str_eq(json_string_value(json_object_get(got, "s")), "\u00fc");
	json_decref(got);
	OK(call(&b, "nothing", NULL, &got, &e), e);
	ck_assert(json_is_object(got) && json_object_size(got) == 0);
	json_decref(got);
	OK(call(&a, "back", json_pack("{s:i}", "n", 7), &got, &e), e);
	ck_assert_int_eq(json_integer_value(json_object_get(got, "n")), 7);
	json_decref(got);
	OK(call(&a, "nothing", NULL, NULL, &e), e);
	ck_assert_str_eq(rpc_peer_name(a.rpc), tls ? "host2" : "local");
	rpc_unref(a.rpc);
	WAIT_FOR(&b, b.closed == 1);
	ck_assert_int_eq(b.close_err.cls, ERR_NONE);
	ck_assert(!rpc_alive(b.rpc));
	rpc_unref(b.rpc);
	ck_assert_int_eq(a.closed, 1);
	ck_assert_int_eq(a.close_err.cls, ERR_NONE);
	ck_assert_int_eq(b.closed, 1);
}

START_TEST(calls_go_both_ways)
{
	check_calls(true);
	check_calls(false);
}
END_TEST

START_TEST(errors_travel)
{
	struct side a, b;
	struct err e = ERR_INIT;

	side_init(&a);
	side_init(&b);
	connect_sides(&a, &b, true, NULL);
	ck_assert_int_eq(call(&a, "fail", NULL, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_LIBVIRT);
	ck_assert_str_eq(e.text, "host2: domain web1 [31m: ? not found");
	ck_assert_str_eq(e.remedy, "Look with virsh list.");

	ck_assert_int_eq(call(&a, "fly", NULL, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "there is no call \"fly\"");
	HAS(e.remedy, "same version");

	ck_assert_int_eq(call(&a, "migrate", NULL, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_str_eq(e.text,
			 "host2: host1 may not send VMs to host2 (migrate): it lacks the role \"migrate-in\" there");
	HAS(e.remedy, "On host2, add \"migrate-in\" to `roles` of the peer host1");

	/* Roles are asked for at each call: a reload takes effect. */
	__atomic_store_n(&b.roles, ROLE_MIGRATE_IN, __ATOMIC_RELAXED);
	OK(call(&a, "migrate", NULL, NULL, &e), e);
	ck_assert_int_eq(call(&a, "order", NULL, NULL, &e), -1);
	HAS(e.text, "\"operate\"");
	rpc_unref(a.rpc);
	rpc_unref(b.rpc);
}
END_TEST

START_TEST(without_service_every_call_is_refused)
{
	struct link *l[2];
	struct err e = ERR_INIT;

	fixture_links(host1, host2, l);
	struct rpc *a = rpc_start(l[0], NULL, &e);
	struct rpc *b = rpc_start(l[1], NULL, &e);
	ck_assert_int_eq(rpc_call(a, "echo", NULL, soon(), NULL, NULL, NULL, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	rpc_unref(a);
	rpc_unref(b);
}
END_TEST

struct many {
	struct side *side;
	int base;
	int wrong;
};

static void *many_thread(void *arg)
{
	struct many *m = arg;
	struct err e = ERR_INIT;

	for (int i = 0; i < 50; i++) {
		json_t *got = NULL;
		const int n = m->base + i;
		if (rpc_call(m->side->rpc, i % 5 ? "echo" : "back", json_pack("{s:i}", "n", n), soon(), NULL, NULL,
			     NULL, &got, &e) != 0 ||
		    json_integer_value(json_object_get(got, "n")) != n)
			m->wrong++;
		json_decref(got);
	}
	return NULL;
}

START_TEST(many_calls_at_once)
{
	enum { THREADS = 12 };
	struct side a, b;
	struct many m[THREADS];
	pthread_t t[THREADS];

	side_init(&a);
	side_init(&b);
	connect_sides(&a, &b, true, NULL);
	for (int i = 0; i < THREADS; i++) {
		m[i] = (struct many){ .side = i % 2 ? &a : &b, .base = i * 1000 };
		pthread_create(&t[i], NULL, many_thread, &m[i]);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(t[i], NULL);
		ck_assert_int_eq(m[i].wrong, 0);
	}
	rpc_unref(b.rpc);
	rpc_unref(a.rpc);
}
END_TEST

struct notes {
	int n;
	bool in_order;
};

static void on_note(void *ctx, const json_t *note)
{
	struct notes *got = ctx;

	got->in_order = got->in_order && json_integer_value(json_object_get(note, "i")) == got->n &&
			strcmp(json_string_value(json_object_get(note, "caller")), "host1") == 0;
	got->n++;
}

START_TEST(notes_come_in_order_before_the_answer)
{
	struct side a, b;
	struct notes got = { .in_order = true };
	struct err e = ERR_INIT;

	side_init(&a);
	side_init(&b);
	connect_sides(&a, &b, true, NULL);
	OK(rpc_call(a.rpc, "notes", json_pack("{s:i}", "n", 300), soon(), on_note, &got, NULL, NULL, &e), e);
	ck_assert_int_eq(got.n, 300);
	ck_assert(got.in_order);
	rpc_unref(a.rpc);
	rpc_unref(b.rpc);
}
END_TEST

static void *large_thread(void *arg)
{
	struct many *m = arg;
	struct err e = ERR_INIT;
	json_t *got = NULL;

	if (rpc_call(m->side->rpc, "large", json_pack("{s:i}", "n", m->base), soon(), NULL, NULL, NULL, &got, &e) != 0 ||
	    json_string_length(json_object_get(got, "text")) != (size_t)m->base)
		m->wrong++;
	json_decref(got);
	return NULL;
}

/* Both threads are in the middle of sending a message that no socket buffer holds. */
START_TEST(large_answers_cross)
{
	enum { THREADS = 8 };
	struct side a, b;
	struct many m[THREADS];
	pthread_t t[THREADS];

	side_init(&a);
	side_init(&b);
	connect_sides(&a, &b, _i == 0, NULL);
	for (int i = 0; i < THREADS; i++) {
		m[i] = (struct many){ .side = i % 2 ? &a : &b, .base = 4000000 };
		pthread_create(&t[i], NULL, large_thread, &m[i]);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(t[i], NULL);
		ck_assert_int_eq(m[i].wrong, 0);
	}
	rpc_unref(a.rpc);
	rpc_unref(b.rpc);
}
END_TEST

START_TEST(too_large_is_said_and_harms_nothing)
{
	struct side a, b;
	struct err e = ERR_INIT;

	side_init(&a);
	side_init(&b);
	connect_sides(&a, &b, true, NULL);
	ck_assert_int_eq(call(&a, "large", json_pack("{s:i}", "n", 5000000), NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "answer to large: a message would have 5000");
	MEM_AUTO char *text = mem_alloc(5000001);
	memset(text, 'x', 5000000);
	ck_assert_int_eq(call(&a, "echo", json_pack("{s:s}", "t", text), NULL, &e), -1);
	HAS(e.text, "call echo: a message would have 5000");
	OK(call(&a, "nothing", NULL, NULL, &e), e);
	rpc_unref(a.rpc);
	rpc_unref(b.rpc);
}
END_TEST

/* ---- cancelling, deadlines, limits ---- */

struct waiting {
	struct side *side;
	volatile bool cancel;
	int64_t deadline_ns;
	int rc;
	struct err e;
};

static void *wait_thread(void *arg)
{
	struct waiting *w = arg;

	w->rc = rpc_call(w->side->rpc, "wait", NULL, w->deadline_ns, NULL, NULL, &w->cancel, NULL, &w->e);
	return NULL;
}

static pthread_t start_waiting(struct waiting *w, struct side *s)
{
	pthread_t t;

	*w = (struct waiting){ .side = s, .deadline_ns = soon() };
	pthread_create(&t, NULL, wait_thread, w);
	return t;
}

START_TEST(cancel_reaches_the_handler)
{
	struct side a, b;
	struct waiting w;

	side_init(&a);
	side_init(&b);
	connect_sides(&a, &b, true, NULL);
	pthread_t t = start_waiting(&w, &a);
	WAIT_FOR(&b, b.running == 1);
	__atomic_store_n(&w.cancel, true, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	ck_assert_int_eq(w.rc, -1);
	ck_assert_int_eq(w.e.cls, ERR_CANCELLED);
	HAS(w.e.text, "stopped as asked");
	ck_assert_int_eq(b.cancelled_seen, 1);
	rpc_unref(a.rpc);
	rpc_unref(b.rpc);
}
END_TEST

START_TEST(deadline_passes_and_handler_is_cancelled)
{
	struct side a, b;
	struct err e = ERR_INIT;

	side_init(&a);
	side_init(&b);
	connect_sides(&a, &b, true, NULL);
	ck_assert_int_eq(rpc_call(a.rpc, "wait", NULL, in_ms(30), NULL, NULL, NULL, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_PEER);
	ck_assert_int_eq(e.errnum, ETIMEDOUT);
	HAS(e.text, "no answer to wait in time");
	WAIT_FOR(&b, b.cancelled_seen == 1 && b.running == 0);
	/* The late answer to it is not taken for another's. */
	OK(call(&a, "nothing", NULL, NULL, &e), e);
	rpc_unref(a.rpc);
	rpc_unref(b.rpc);
}
END_TEST

START_TEST(too_many_calls_are_refused)
{
	const struct rpc_opts opts = { .max_calls = 3 };
	struct side a, b;
	struct waiting w[3];
	pthread_t t[3];
	struct err e = ERR_INIT;

	side_init(&a);
	side_init(&b);
	connect_sides(&a, &b, true, &opts);
	for (int i = 0; i < 3; i++)
		t[i] = start_waiting(&w[i], &a);
	WAIT_FOR(&b, b.running == 3);
	ck_assert_int_eq(call(&a, "nothing", NULL, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "3 calls of host1 are being served already");
	pthread_mutex_lock(&b.lock);
	b.let_go = true;
	pthread_cond_broadcast(&b.changed);
	pthread_mutex_unlock(&b.lock);
	for (int i = 0; i < 3; i++) {
		pthread_join(t[i], NULL);
		ck_assert_int_eq(w[i].rc, 0);
	}
	OK(call(&a, "nothing", NULL, NULL, &e), e);
	rpc_unref(a.rpc);
	rpc_unref(b.rpc);
}
END_TEST

/* ---- ends ---- */

START_TEST(close_with_a_reason_fails_pending_calls)
{
	struct side a, b;
	struct waiting w;
	struct err why = ERR_INIT;
	struct err e = ERR_INIT;

	side_init(&a);
	side_init(&b);
	connect_sides(&a, &b, true, NULL);
	pthread_t t = start_waiting(&w, &a);
	WAIT_FOR(&b, b.running == 1);
	err_set(&why, ERR_REFUSED, "removed from the configuration");
	rpc_close(a.rpc, &why);
	pthread_join(t, NULL);
	ck_assert_int_eq(w.e.cls, ERR_REFUSED);
	HAS(w.e.text, "removed from the configuration");
	WAIT_FOR(&a, a.closed == 1);
	ck_assert_int_eq(a.close_err.cls, ERR_REFUSED);
	WAIT_FOR(&b, b.closed == 1 && b.cancelled_seen == 1);
	ck_assert_int_eq(b.close_err.cls, ERR_PEER);
	ck_assert_int_eq(call(&a, "nothing", NULL, NULL, &e), -1);
	HAS(e.text, "removed from the configuration");
	rpc_unref(a.rpc);
	rpc_unref(b.rpc);
}
END_TEST

START_TEST(references_dropped_inside)
{
	struct side a, b;
	struct err e = ERR_INIT;

	side_init(&a);
	side_init(&b);
	b.unref_in_close = true; /* last one dropped by the connection's own thread */
	connect_sides(&a, &b, true, NULL);
	OK(call(&a, "nothing", NULL, NULL, &e), e);
	rpc_unref(a.rpc);
	WAIT_FOR(&b, b.closed == 1);

	struct side c, d;
	side_init(&c);
	side_init(&d);
	connect_sides(&c, &d, true, NULL);
	d.unref_this = d.rpc; /* last one dropped by a handler */
	call(&c, "drop", NULL, NULL, &e);
	WAIT_FOR(&d, d.closed == 1);
	WAIT_FOR(&c, c.closed == 1);
	rpc_unref(c.rpc);
}
END_TEST

START_TEST(unref_waits_for_handlers)
{
	struct side a, b;
	struct waiting w;

	side_init(&a);
	side_init(&b);
	connect_sides(&a, &b, true, NULL);
	pthread_t t = start_waiting(&w, &a);
	WAIT_FOR(&b, b.running == 1);
	rpc_unref(b.rpc);
	ck_assert_int_eq(b.running, 0);
	ck_assert_int_eq(b.cancelled_seen, 1);
	ck_assert_int_eq(b.closed, 1);
	pthread_join(t, NULL);
	ck_assert_int_eq(w.rc, -1);
	HAS(w.e.text, "closed by the peer");
	rpc_unref(a.rpc);
}
END_TEST

/* A process of its own serves calls, and is killed or stopped. */
static pid_t fork_server(int lfd, const struct rpc_opts *opts)
{
	const pid_t pid = fork();

	if (pid != 0)
		return pid;
	struct side s;
	struct err e = ERR_INIT;
	struct link *l = link_accept(host2, accept(lfd, NULL, NULL), soon(), &e);
	if (!l || link_welcome(l, NULL, soon(), &e) != 0)
		_exit(1);
	side_init(&s);
	s.rpc = rpc_start_opts(l, &s.service, opts, &e);
	for (;;)
		pause();
}

static void check_lost_peer(int sig, const char *text, int64_t within_ns)
{
	const struct rpc_opts opts = { .ping_interval_ns = 50 * NS_PER_MS, .dead_after_ns = 300 * NS_PER_MS };
	struct side a;
	struct waiting w;
	struct err e = ERR_INIT;
	uint16_t port;
	int lfd = fixture_listen(&port);
	const pid_t pid = fork_server(lfd, &opts);
	const struct link_peer peer = { .name = "host2", .address = "127.0.0.1", .port = port };

	fd_close(&lfd);
	struct link *l = link_connect(host1, &peer, NULL, soon(), &e);
	ck_assert_msg(l != NULL, "%s", e.text);
	side_init(&a);
	a.rpc = rpc_start_opts(l, &a.service, &opts, &e);
	pthread_t t = start_waiting(&w, &a);
	OK(call(&a, "nothing", NULL, NULL, &e), e);
	const int64_t before = clock_mono_ns();
	kill(pid, sig);
	pthread_join(t, NULL);
	ck_assert_int_eq(w.rc, -1);
	ck_assert_int_eq(w.e.cls, ERR_PEER);
	HAS(w.e.text, text);
	ck_assert_int_lt(clock_mono_ns() - before, within_ns);
	WAIT_FOR(&a, a.closed == 1);
	ck_assert(!rpc_alive(a.rpc));
	rpc_unref(a.rpc);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

START_TEST(killed_peer)
{
	check_lost_peer(SIGKILL, "host2 (127.0.0.1:", 10 * NS_PER_S);
}
END_TEST

START_TEST(mute_peer)
{
	check_lost_peer(SIGSTOP, "nothing heard for ", 10 * NS_PER_S);
}
END_TEST

/* Alive, since it says PING, but it reads nothing: the sender gives it up. */
START_TEST(peer_that_does_not_read)
{
	const struct rpc_opts opts = { .ping_interval_ns = 50 * NS_PER_MS, .dead_after_ns = 200 * NS_PER_MS };
	struct link *l[2];
	struct side a;
	struct err e = ERR_INIT;
	MEM_AUTO char *text = mem_alloc(260001);

	fixture_local_links(l);
	side_init(&a);
	a.rpc = rpc_start_opts(l[0], &a.service, &opts, &e);
	memset(text, 'x', 260000); /* more than a socket buffer, and 1.2 s at the slowest rate */
	OK(link_send(l[1], FRAME_PING, NULL, 0, soon(), &e), e);
	ck_assert_int_eq(call(&a, "echo", json_pack("{s:s}", "t", text), NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_PEER);
	HAS(e.text, "send: timed out");
	HAS(e.remedy, "vmferryd runs there");
	WAIT_FOR(&a, a.closed == 1);
	rpc_unref(a.rpc);
	link_free(l[1]);
}
END_TEST

/* Notes to a caller that does not read are dropped, and the handler never waits. */
START_TEST(notes_never_wait)
{
	/* The other end is the test's, and sends no PING. */
	const struct rpc_opts opts = { .ping_interval_ns = NS_PER_S, .dead_after_ns = 60 * NS_PER_S };
	struct link *l[2];
	struct side b;
	struct err e = ERR_INIT;
	struct link_frame f;
	static const char call_text[] = "{\"id\":1,\"call\":\"notes\",\"args\":{\"n\":60000}}";
	MEM_AUTO char *copy = mem_strdup(call_text);
	const struct iovec iov = { .iov_base = copy, .iov_len = strlen(call_text) };
	json_int_t seen = 0;
	json_int_t dropped = 0;
	bool answered = false;

	fixture_local_links(l);
	side_init(&b);
	b.rpc = rpc_start_opts(l[1], &b.service, &opts, &e);
	OK(link_send(l[0], FRAME_MSG, &iov, 1, soon(), &e), e);
	WAIT_FOR(&b, b.closed == 0);
	while (!answered && link_recv(l[0], &f, soon(), &e) == 1) {
		if (f.type != FRAME_MSG)
			continue;
		json_t *m = json_loadb((const char *)f.payload, f.len, 0, NULL);
		seen += json_object_get(m, "note") != NULL;
		dropped += json_integer_value(json_object_get(m, "dropped"));
		answered = json_object_get(m, "ok") != NULL;
		json_decref(m);
	}
	ck_assert(answered);
	ck_assert_int_gt(seen, 0);
	ck_assert_int_le(seen + dropped, 60000);
	rpc_close(b.rpc, NULL);
	ck_assert_int_eq(link_recv(l[0], &f, soon(), &e), 0);
	rpc_unref(b.rpc);
	link_free(l[0]);
}
END_TEST

/* ---- peers that lie ---- */

static const struct {
	const char *message;
	const char *text;
} lies[] = {
	{ "[]", "not a JSON object with an id" },
	{ "{\"id\":1,\"call\":", "not a JSON object with an id" },
	{ "{\"id\":0,\"call\":\"echo\"}", "not a JSON object with an id" },
	{ "{\"id\":-4,\"call\":\"echo\"}", "not a JSON object with an id" },
	{ "{\"id\":1}", "neither call" },
	{ "{\"id\":1,\"call\":3}", "a call has no name" },
	{ "{\"id\":1,\"call\":\"echo\",\"args\":[]}", "not a JSON object" },
	{ "{\"id\":9,\"ok\":{}}", "a call that was not made" },
	{ "{\"id\":9,\"note\":{}}", "a call that was not made" },
	{ "{\"id\":1,\"id\":2,\"call\":\"echo\"}", "not a JSON object with an id" },
};

START_TEST(lies_end_the_connection)
{
	struct link *l[2];
	struct side b;
	struct err e = ERR_INIT;
	MEM_AUTO char *copy = mem_strdup(lies[_i].message);
	const struct iovec iov = { .iov_base = copy, .iov_len = strlen(copy) };

	fixture_local_links(l);
	side_init(&b);
	b.rpc = rpc_start(l[1], &b.service, &e);
	OK(link_send(l[0], FRAME_MSG, &iov, 1, soon(), &e), e);
	WAIT_FOR(&b, b.closed == 1);
	ck_assert_int_eq(b.close_err.cls, ERR_PROTOCOL);
	HAS(b.close_err.text, lies[_i].text);
	rpc_unref(b.rpc);
	link_free(l[0]);
}
END_TEST

START_TEST(same_id_twice_ends_the_connection)
{
	struct link *l[2];
	struct side b;
	struct err e = ERR_INIT;
	char text[] = "{\"id\":1,\"call\":\"wait\"}";
	const struct iovec iov = { .iov_base = text, .iov_len = strlen(text) };

	fixture_local_links(l);
	side_init(&b);
	b.rpc = rpc_start(l[1], &b.service, &e);
	OK(link_send(l[0], FRAME_MSG, &iov, 1, soon(), &e), e);
	OK(link_send(l[0], FRAME_MSG, &iov, 1, soon(), &e), e);
	WAIT_FOR(&b, b.closed == 1);
	HAS(b.close_err.text, "same id");
	rpc_unref(b.rpc);
	link_free(l[0]);
}
END_TEST

START_TEST(data_frames_do_not_belong_here)
{
	struct link *l[2];
	struct side b;
	struct err e = ERR_INIT;
	char ack[FRAME_ACK_SIZE] = { 0 };
	const struct iovec iov = { .iov_base = ack, .iov_len = sizeof(ack) };

	fixture_local_links(l);
	side_init(&b);
	b.rpc = rpc_start(l[1], &b.service, &e);
	OK(link_send(l[0], FRAME_ACK, &iov, 1, soon(), &e), e);
	WAIT_FOR(&b, b.closed == 1);
	HAS(b.close_err.text, "ACK frame does not belong");
	rpc_unref(b.rpc);
	link_free(l[0]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("transport rpc");
	TCase *t = tcase_create("rpc");

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, calls_go_both_ways);
	tcase_add_test(t, errors_travel);
	tcase_add_test(t, without_service_every_call_is_refused);
	tcase_add_test(t, many_calls_at_once);
	tcase_add_test(t, notes_come_in_order_before_the_answer);
	tcase_add_loop_test(t, large_answers_cross, 0, 2);
	tcase_add_test(t, too_large_is_said_and_harms_nothing);
	tcase_add_test(t, cancel_reaches_the_handler);
	tcase_add_test(t, deadline_passes_and_handler_is_cancelled);
	tcase_add_test(t, too_many_calls_are_refused);
	tcase_add_test(t, close_with_a_reason_fails_pending_calls);
	tcase_add_test(t, references_dropped_inside);
	tcase_add_test(t, unref_waits_for_handlers);
	tcase_add_test(t, killed_peer);
	tcase_add_test(t, mute_peer);
	tcase_add_test(t, peer_that_does_not_read);
	tcase_add_test(t, notes_never_wait);
	tcase_add_loop_test(t, lies_end_the_connection, 0, (int)(sizeof(lies) / sizeof(lies[0])));
	tcase_add_test(t, same_id_twice_ends_the_connection);
	tcase_add_test(t, data_frames_do_not_belong_here);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
