#include "transport/rpc_internal.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/thread.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Frames taken in between two looks at what has to go out. */
#define DRAIN_MAX 64
/* Below this rate a large message is given up: a slow reader holds one thread, but not for ever. */
#define SLOWEST_BYTES_PER_S (128 * 1024)
#define FINISH_WAIT_NS (2 * NS_PER_S)
#define NOTES_MAX_BYTES ((size_t)1024 * 1024)

_Thread_local struct rpc *rpc_of_thread;
_Thread_local bool rpc_is_connection_thread;

/* ---- what goes out ---- */

static void wake(struct rpc *r)
{
	const uint64_t one = 1;
	/* Fails only when the counter is full, and then it is awake. */
	const ssize_t n = write(r->wake_fd, &one, sizeof(one));
	(void)n;
}

int rpc_post(struct rpc *r, json_t *j, bool droppable, struct err *e)
{
	char *text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	if (!text)
		return err_set(e, ERR_PROTOCOL, "a message cannot be written as JSON");
	const size_t len = strlen(text);
	if (len > FRAME_MAX_MSG) {
		free(text);
		return err_set(e, ERR_REFUSED, "a message would have %zu bytes; %zu are allowed", len, FRAME_MAX_MSG);
	}
	int rc = 0;
	{
		THREAD_LOCKED(&r->lock);
		if (r->dead || r->closing) {
			if (err_is_set(&r->why))
				*e = r->why;
			else
				err_set(e, ERR_PEER, "%s: the connection is closed", r->label);
			rc = -1;
		} else if (droppable && r->out_bytes > NOTES_MAX_BYTES) {
			rc = 1;
		} else {
			struct rpc_out *m = mem_alloc(sizeof(*m));
			m->text = text;
			m->len = len;
			if (r->out_tail)
				r->out_tail->next = m;
			else
				r->out_head = m;
			r->out_tail = m;
			r->out_bytes += len;
		}
	}
	if (rc == 0)
		wake(r);
	else
		free(text);
	return rc;
}

static struct rpc_out *take_out(struct rpc *r)
{
	THREAD_LOCKED(&r->lock);
	struct rpc_out *m = r->out_head;

	if (m) {
		r->out_head = m->next;
		r->out_tail = m->next ? r->out_tail : NULL;
		r->out_bytes -= m->len;
	}
	return m;
}

static int send_frame(struct rpc *r, uint16_t type, char *text, size_t len, struct err *e)
{
	const struct iovec iov = { .iov_base = text, .iov_len = len };
	const int64_t patience = r->opts.dead_after_ns + (int64_t)(len / SLOWEST_BYTES_PER_S) * NS_PER_S;

	if (link_send(r->link, type, &iov, len ? 1 : 0, clock_mono_ns() + patience, e) == 0)
		return 0;
	if (e->errnum == ETIMEDOUT)
		err_remedy(e, "Check that vmferryd runs there and is not stopped.");
	return -1;
}

/* One message at a time, so that reading gets its turn: both sides may be sending large ones. Returns 1 if there was
 * one. */
static int send_one(struct rpc *r, struct err *e)
{
	if (r->pong_due) {
		r->pong_due = false;
		return send_frame(r, FRAME_PONG, NULL, 0, e) < 0 ? -1 : 1;
	}
	struct rpc_out *m = take_out(r);
	if (!m)
		return 0;
	const int rc = send_frame(r, FRAME_MSG, m->text, m->len, e);
	free(m->text);
	free(m);
	return rc < 0 ? -1 : 1;
}

/* ---- what comes in ---- */

json_t *rpc_take_member(json_t *msg, const char *key)
{
	json_t *member = json_incref(json_object_get(msg, key));

	json_object_del(msg, key);
	return member;
}

static int on_message(struct rpc *r, const struct link_frame *f, struct err *e)
{
	json_error_t why;
	json_t *msg = json_loadb((const char *)f->payload, f->len, JSON_REJECT_DUPLICATES, &why);
	const json_int_t id = json_integer_value(json_object_get(msg, "id"));
	int rc = 0;

	if (!json_is_object(msg) || id <= 0)
		rc = err_set(e, ERR_PROTOCOL, "a message is not a JSON object with an id");
	else if (json_object_get(msg, "call"))
		rc = rpc_serve_call(r, (uint64_t)id, msg, e);
	else if (json_object_get(msg, "cancel"))
		rpc_serve_cancel(r, (uint64_t)id);
	else if (json_object_get(msg, "ok") || json_object_get(msg, "error") || json_object_get(msg, "note"))
		rc = rpc_call_answered(r, (uint64_t)id, msg, e);
	else
		rc = err_set(e, ERR_PROTOCOL, "a message is neither call, cancel, note, ok nor error");
	json_decref(msg);
	return rc < 0 ? err_wrap(e, "%s", r->label) : 0;
}

static int on_frame(struct rpc *r, const struct link_frame *f, struct err *e)
{
	char name[16];

	switch ((enum frame_type)f->type) {
	case FRAME_MSG:
		return on_message(r, f, e);
	case FRAME_PING:
		r->pong_due = true; /* one for all: a flood of pings cannot make us queue */
		return 0;
	case FRAME_PONG:
		return 0;
	case FRAME_BATCH:
	case FRAME_ACK:
	case FRAME_STREAM:
	case FRAME_HELLO:
	case FRAME_END:
	case FRAME_END_ACK:
	default:
		return err_set(e, ERR_PROTOCOL, "%s: a %s frame does not belong on a control link", r->label,
			       frame_type_name(f->type, name, sizeof(name)));
	}
}

/* Takes in what is there, without waiting. 0 when nothing more is there, 1 when there may be, 2 at the peer's END,
 * -1. */
static int drain(struct rpc *r, struct err *e)
{
	for (int i = 0; i < DRAIN_MAX; i++) {
		struct link_frame f;
		const int rc = link_recv(r->link, &f, 0, e);
		if (rc == 0)
			return 2;
		if (rc < 0 && e->errnum == ETIMEDOUT) {
			err_clear(e);
			return 0;
		}
		if (rc < 0 || on_frame(r, &f, e) < 0)
			return -1;
	}
	return 1;
}

/* ---- the thread ---- */

/* Called after drain, so that what came while we ourselves were kept from running counts. */
static int keep_alive(struct rpc *r, struct err *e)
{
	const int64_t now = clock_mono_ns();
	uint64_t sent;
	uint64_t received;

	link_wire_bytes(r->link, &sent, &received);
	if (received != r->seen_bytes) {
		r->seen_bytes = received;
		r->last_heard_ns = now;
	}
	if (now - r->last_heard_ns > r->opts.dead_after_ns) {
		err_set(e, ERR_PEER, "%s: nothing heard for %.1f s: it is taken for dead", r->label,
			(double)(now - r->last_heard_ns) / (double)NS_PER_S);
		return err_remedy(e, "Check the host, vmferryd on it, and the network between.");
	}
	if (now < r->next_ping_ns)
		return 0;
	r->next_ping_ns = now + r->opts.ping_interval_ns;
	return send_frame(r, FRAME_PING, NULL, 0, e) < 0 ? -1 : 1;
}

static int wait_for_work(struct rpc *r, struct err *e)
{
	const int64_t dead_at = r->last_heard_ns + r->opts.dead_after_ns + NS_PER_MS;
	struct pollfd p[2] = { { .fd = link_fd(r->link), .events = POLLIN }, { .fd = r->wake_fd, .events = POLLIN } };
	uint64_t ignored;

	if (poll(p, 2, clock_poll_ms(r->next_ping_ns < dead_at ? r->next_ping_ns : dead_at)) < 0 && errno != EINTR)
		return err_sys(e, "poll");
	if (p[1].revents) {
		const ssize_t n = read(r->wake_fd, &ignored, sizeof(ignored));
		(void)n;
	}
	return 0;
}

static bool asked_to_close(struct rpc *r)
{
	THREAD_LOCKED(&r->lock);
	return r->closing && !r->out_head;
}

/* Until the end, whatever it is: 0 when it is a clean one, with *by_peer. */
static int serve(struct rpc *r, bool *by_peer, struct err *e)
{
	for (;;) {
		const int in = drain(r, e);
		if (in == 2)
			*by_peer = true;
		if (in == 2 || in < 0)
			return in < 0 ? -1 : 0;
		const int out = send_one(r, e);
		if (out < 0)
			return -1;
		if (out == 0 && asked_to_close(r))
			return link_finish(r->link, clock_mono_ns() + FINISH_WAIT_NS, e);
		const int ping = keep_alive(r, e);
		if (ping < 0)
			return -1;
		/* A write may have taken in bytes that poll does not know of. */
		if (in == 0 && out == 0 && ping == 0 && wait_for_work(r, e) < 0)
			return -1;
	}
}

static void drop_out(struct rpc *r)
{
	struct rpc_out *m;

	while ((m = take_out(r))) {
		free(m->text);
		free(m);
	}
}

static void end(struct rpc *r, bool by_peer, const struct err *e)
{
	struct err for_calls = ERR_INIT;
	struct link *link;

	{
		THREAD_LOCKED(&r->lock);
		if (!err_is_set(&r->why))
			r->why = *e;
		for_calls = r->why;
		if (!err_is_set(&for_calls))
			err_set(&for_calls, by_peer ? ERR_PEER : ERR_CANCELLED, "%s: the connection was closed%s",
				r->label, by_peer ? " by the peer" : "");
		r->dead = true;
		link = r->link;
		r->link = NULL;
		rpc_call_fail_all(r, &for_calls);
		for (struct rpc_call *c = r->calls; c; c = c->next)
			atomic_store(&c->cancelled, true);
		pthread_cond_broadcast(&r->changed);
	}
	link_free(link);
	drop_out(r);
	if (r->service && r->service->on_close)
		r->service->on_close(r->service->ctx, r, &r->why);
}

static void destroy(struct rpc *r)
{
	assert(!r->pending && !r->calls && !r->link && !r->out_head);
	fd_close(&r->wake_fd);
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

void rpc_free_if_last(struct rpc *r, bool last)
{
	if (last)
		destroy(r);
}

static void *connection_thread(void *arg)
{
	struct rpc *r = arg;
	struct err e = ERR_INIT;
	bool by_peer = false;
	bool last;

	rpc_of_thread = r;
	rpc_is_connection_thread = true;
	r->last_heard_ns = clock_mono_ns();
	r->next_ping_ns = r->last_heard_ns + r->opts.ping_interval_ns;
	serve(r, &by_peer, &e);
	end(r, by_peer, &e);
	{
		THREAD_LOCKED(&r->lock);
		r->thread_done = true;
		last = r->orphan && r->n_calls == 0;
		pthread_cond_broadcast(&r->changed);
	}
	rpc_free_if_last(r, last);
	return NULL;
}

/* ---- life ---- */

struct rpc *rpc_start_opts(struct link *l, const struct rpc_service *service, const struct rpc_opts *opts, struct err *e)
{
	struct rpc *r = mem_alloc(sizeof(*r));

	r->opts = *opts;
	if (r->opts.ping_interval_ns <= 0)
		r->opts.ping_interval_ns = RPC_PING_INTERVAL_NS;
	if (r->opts.dead_after_ns <= 0)
		r->opts.dead_after_ns = RPC_DEAD_AFTER_NS;
	if (r->opts.max_calls == 0)
		r->opts.max_calls = RPC_MAX_CALLS;
	r->service = service;
	r->link = l;
	r->next_id = 1;
	snprintf(r->peer, sizeof(r->peer), "%s", link_peer_name(l));
	snprintf(r->own, sizeof(r->own), "%s", link_own_name(l));
	snprintf(r->addr, sizeof(r->addr), "%s", link_peer_addr(l));
	if (strcmp(r->peer, "local") == 0)
		snprintf(r->label, sizeof(r->label), "local connection");
	else
		snprintf(r->label, sizeof(r->label), "%s (%s)", r->peer, r->addr);
	atomic_init(&r->refs, 1);
	pthread_mutex_init(&r->lock, NULL);
	thread_cond_init(&r->changed);
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->wake_fd < 0)
		err_sys(e, "eventfd");
	else if (thread_start(&r->thread, "rpc", connection_thread, r, e) == 0)
		return r;
	link_free(l);
	r->link = NULL;
	destroy(r);
	return NULL;
}

struct rpc *rpc_start(struct link *l, const struct rpc_service *service, struct err *e)
{
	const struct rpc_opts defaults = { 0 };

	return rpc_start_opts(l, service, &defaults, e);
}

struct rpc *rpc_ref(struct rpc *r)
{
	const unsigned before = atomic_fetch_add(&r->refs, 1);

	assert(before > 0);
	return r;
}

void rpc_close(struct rpc *r, const struct err *why)
{
	{
		THREAD_LOCKED(&r->lock);
		if (r->dead)
			return;
		if (why) {
			if (!err_is_set(&r->why))
				r->why = *why;
			link_shutdown(r->link);
		}
		r->closing = true;
	}
	wake(r);
}

void rpc_unref(struct rpc *r)
{
	if (!r || atomic_fetch_sub(&r->refs, 1) != 1)
		return;
	rpc_close(r, NULL);
	if (rpc_of_thread == r) {
		THREAD_LOCKED(&r->lock);
		pthread_detach(r->thread);
		r->orphan = true; /* this thread has not left yet, so it is not us who free */
		return;
	}
	{
		THREAD_LOCKED(&r->lock);
		while (!r->thread_done || r->n_calls > 0)
			thread_cond_wait_until(&r->changed, &r->lock, INT64_MAX);
	}
	pthread_join(r->thread, NULL);
	destroy(r);
}

bool rpc_alive(struct rpc *r)
{
	THREAD_LOCKED(&r->lock);
	return !r->dead && !r->closing;
}

const char *rpc_peer_name(const struct rpc *r)
{
	return r->peer;
}

const char *rpc_peer_addr(const struct rpc *r)
{
	return r->addr;
}
