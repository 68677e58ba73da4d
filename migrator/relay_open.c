#include "migrator/relay_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* QEMU or libvirtd may be a moment behind. */
#define CONNECT_NS (2 * NS_PER_S)
#define CONNECT_RETRY_NS (5 * NS_PER_MS)
/* Connections at a time: multifd has at most a few dozen, NBD one per disk. */
#define MAX_LIVE 128u
#define SOCKET_MODE 0660

static const char *const kind_name[RELAY_KIND_COUNT] = {
	[RELAY_LIBVIRT] = "libvirt",
	[RELAY_NBD] = "nbd",
	[RELAY_MIGRATION] = "migration",
};

/* ---- a stream ---- */

/* relay.lock is held. */
static struct relay_stream *stream_new(struct relay *r, uint32_t id, enum relay_kind kind, enum stream_state state)
{
	struct relay_stream *s = mem_alloc(sizeof(*s));

	s->relay = r;
	s->id = id;
	s->kind = kind;
	s->state = state;
	s->fd = -1;
	pthread_mutex_init(&s->lock, NULL);
	thread_cond_init(&s->changed);
	if (kind == RELAY_MIGRATION && !r->pages_taken) {
		r->pages_taken = true;
		s->owns_pages = true;
	}
	r->streams[id] = s;
	r->live++;
	flow_tx_add_stream(r->tx, id, kind == RELAY_LIBVIRT);
	return s;
}

/* The threads of closed streams are at their ends: nothing waits here. relay.lock is held. */
static void reap_locked(struct relay_stream *s)
{
	if (s->reader_started)
		pthread_join(s->reader, NULL);
	if (s->writer_started)
		pthread_join(s->writer, NULL);
	s->reader_started = s->writer_started = false;
}

static void reap_closed_locked(struct relay *r)
{
	for (uint32_t i = 1; i <= FLOW_MAX_STREAMS; i++) {
		struct relay_stream *s = r->streams[i];
		if (!s || s->state != STREAM_CLOSED)
			continue;
		reap_locked(s);
		if (relay_open_done_locked(s))
			flow_tx_forget(r->tx, s->id);
	}
}

/* relay.lock is held. */
static void close_stream_locked(struct relay_stream *s)
{
	struct relay *r = s->relay;

	relay_write_drop_items(s);
	{
		THREAD_LOCKED(&s->lock);
		fd_close(&s->fd);
	}
	s->state = STREAM_CLOSED;
	r->live--;
	pthread_cond_broadcast(&r->changed);
}

void relay_open_thread_ended(struct relay_stream *s)
{
	THREAD_LOCKED(&s->relay->lock);
	if (--s->threads == 0)
		close_stream_locked(s);
}

void relay_open_kill(struct relay_stream *s)
{
	THREAD_LOCKED(&s->lock);
	s->killed = true;
	atomic_store(&s->stop_reading, true);
	if (s->fd >= 0)
		shutdown(s->fd, SHUT_RDWR);
	pthread_cond_broadcast(&s->changed);
}

void relay_open_free(struct relay_stream *s)
{
	if (!s)
		return;
	if (s->reader_started)
		pthread_join(s->reader, NULL);
	if (s->writer_started)
		pthread_join(s->writer, NULL);
	relay_write_drop_items(s);
	fd_close(&s->fd);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->changed);
	free(s);
}

bool relay_open_done_locked(struct relay_stream *s)
{
	uint64_t reserved, acked;

	if (s->state != STREAM_CLOSED)
		return false;
	flow_tx_progress(s->relay->tx, s->id, &reserved, &acked);
	return acked == reserved;
}

void relay_open_reset(struct relay_stream *s, const char *why)
{
	struct flow_stream_msg m = { .op = FLOW_RESET, .stream = s->id };

	{
		THREAD_LOCKED(&s->lock);
		if (s->rx_dropped || s->killed)
			return;
		s->tx_ended = true;
		s->rx_dropped = true;
		m.number = s->tx_number;
		pthread_cond_broadcast(&s->changed);
	}
	snprintf(m.text, sizeof(m.text), "%s", why);
	flow_tx_stream(s->relay->tx, &m);
	log_info("relay_reset", "stream=%u kind=%s msg=%s", s->id, kind_name[s->kind], LOG_Q(why));
}

/* ---- threads ---- */

static int start_writer_locked(struct relay_stream *s, struct err *e)
{
	if (thread_start(&s->writer, "relay-write", relay_write_thread, s, e) < 0)
		return -1;
	s->writer_started = true;
	s->threads++;
	return 0;
}

static int start_reader_locked(struct relay_stream *s, void *(*fn)(void *), struct err *e)
{
	if (thread_start(&s->reader, "relay-read", fn, s, e) < 0)
		return -1;
	s->reader_started = true;
	s->threads++;
	return 0;
}

/* ---- source: listening, announcing ---- */

int relay_open_listeners(struct relay *r, struct err *e)
{
	for (int k = 1; k < RELAY_KIND_COUNT; k++) {
		if (!r->path[k])
			continue;
		r->listen_fd[k] = fd_unix_listen(r->path[k], SOCKET_MODE, e);
		if (r->listen_fd[k] < 0)
			return -1;
		r->listening[k] = true;
		if (fd_set_nonblock(r->listen_fd[k], true, e) < 0)
			return -1;
	}
	return 0;
}

/* One of a kind at a time, so that the target connects in the order of acceptance. relay.lock is held. */
static void announce_locked(struct relay *r, enum relay_kind kind)
{
	struct relay_stream *first = NULL;

	for (uint32_t i = r->n_streams; i >= 1; i--) {
		struct relay_stream *s = r->streams[i];
		if (s->kind != kind)
			continue;
		if (s->state == STREAM_OPENING)
			return;
		if (s->state == STREAM_WAITING)
			first = s;
	}
	if (!first)
		return;
	first->state = STREAM_OPENING;
	const struct flow_stream_msg m = { .op = FLOW_OPEN, .stream = first->id, .a = (uint32_t)kind };
	flow_tx_stream(r->tx, &m);
}

static void accepted(struct relay *r, enum relay_kind kind, int fd)
{
	struct err e = ERR_INIT;

	if (fault_point(FAULT_RELAY_OPEN_SOURCE, &e) < 0) {
		log_warn("relay_open", "kind=%s msg=%s", kind_name[kind], LOG_Q(e.text));
		fd_close(&fd);
		return;
	}
	THREAD_LOCKED(&r->lock);
	if (r->dead || r->stop_accepting || r->n_streams == FLOW_MAX_STREAMS || r->live >= MAX_LIVE) {
		fd_close(&fd);
		return;
	}
	reap_closed_locked(r);
	struct relay_stream *s = stream_new(r, ++r->n_streams, kind, STREAM_WAITING);
	s->fd = fd;
	announce_locked(r, kind);
}

static void accept_all(struct relay *r, enum relay_kind kind)
{
	int fd;

	while ((fd = accept4(r->listen_fd[kind], NULL, NULL, SOCK_CLOEXEC)) >= 0)
		accepted(r, kind, fd);
}

void *relay_open_acceptor(void *relay)
{
	struct relay *r = relay;
	struct pollfd p[RELAY_KIND_COUNT];

	p[0] = (struct pollfd){ .fd = r->wake_fd, .events = POLLIN };
	for (int k = 1; k < RELAY_KIND_COUNT; k++)
		p[k] = (struct pollfd){ .fd = r->listen_fd[k], .events = POLLIN };
	for (;;) {
		if (poll(p, RELAY_KIND_COUNT, -1) < 0 && errno != EINTR) {
			struct err e = ERR_INIT;
			err_sys(&e, "wait for local connections");
			relay_fail(r, &e);
			break;
		}
		if (p[0].revents)
			break;
		for (int k = 1; k < RELAY_KIND_COUNT; k++)
			if (p[k].revents)
				accept_all(r, (enum relay_kind)k);
	}
	/* Whoever connects from now on is refused at once instead of waiting for nobody. */
	for (int k = 1; k < RELAY_KIND_COUNT; k++)
		fd_close(&r->listen_fd[k]);
	return NULL;
}

static void *source_reader(void *arg)
{
	struct relay_stream *s = arg;

	relay_read_run(s);
	relay_open_thread_ended(s);
	return NULL;
}

static int opened(struct relay_stream *s, struct err *e)
{
	struct relay *r = s->relay;

	THREAD_LOCKED(&r->lock);
	if (r->dead || s->state == STREAM_CLOSED)
		return 0;
	if (s->state != STREAM_OPENING)
		return err_set(e, ERR_PROTOCOL, "the peer opened stream %u, which waits for nothing", s->id);
	s->state = STREAM_OPEN;
	if (start_writer_locked(s, e) < 0 || start_reader_locked(s, source_reader, e) < 0)
		return -1;
	announce_locked(r, s->kind);
	return 0;
}

static int failed(struct relay_stream *s, const char *why, struct err *e)
{
	struct relay *r = s->relay;

	log_warn("relay_open", "stream=%u kind=%s msg=%s", s->id, kind_name[s->kind], LOG_Q(why));
	THREAD_LOCKED(&r->lock);
	if (r->dead)
		return 0;
	if (s->state != STREAM_OPENING)
		return err_set(e, ERR_PROTOCOL, "the peer refused stream %u, which waits for nothing", s->id);
	r->open_failed = true;
	r->open_failed_kind = s->kind;
	err_set(&r->open_error, ERR_PEER, "%s", why);
	{
		THREAD_LOCKED(&s->lock);
		s->rx_dropped = true;
	}
	close_stream_locked(s);
	announce_locked(r, s->kind);
	return 0;
}

/* ---- target: connecting ---- */

static int connect_once(const char *path, struct err *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(addr.sun_path)) {
		errno = ENAMETOOLONG;
		return err_sys(e, "connect to %s", path);
	}
	strcpy(addr.sun_path, path);
	/* Non-blocking: with a full backlog the kernel would wait longer than we may. */
	FD_AUTO int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_sys(e, "connect to %s", path);
	if (fd_set_nonblock(fd, false, e) < 0)
		return -1;
	const int result = fd;
	fd = -1;
	return result;
}

static int connect_local(struct relay_stream *s, struct err *e)
{
	const int64_t deadline = clock_mono_ns() + CONNECT_NS;

	if (fault_point(FAULT_RELAY_OPEN_TARGET, e) < 0)
		return -1;
	for (;;) {
		const int fd = connect_once(s->relay->path[s->kind], e);
		const bool again = e->errnum == ENOENT || e->errnum == ECONNREFUSED || e->errnum == EAGAIN;
		if (fd >= 0 || !again || clock_mono_ns() >= deadline)
			return fd;
		THREAD_LOCKED(&s->lock);
		if (s->killed)
			return err_set(e, ERR_CANCELLED, "the session has ended");
		thread_cond_wait_until(&s->changed, &s->lock, clock_mono_ns() + CONNECT_RETRY_NS);
	}
}

/* 0 with the writer started. */
static int target_open(struct relay_stream *s, struct err *e)
{
	struct relay *r = s->relay;
	int fd = connect_local(s, e);

	if (fd < 0)
		return -1;
	THREAD_LOCKED(&r->lock);
	{
		THREAD_LOCKED(&s->lock);
		s->fd = fd;
		if (s->killed)
			shutdown(fd, SHUT_RDWR);
	}
	s->state = STREAM_OPEN;
	return start_writer_locked(s, e);
}

static void *target_reader(void *arg)
{
	struct relay_stream *s = arg;
	struct flow_stream_msg m = { .op = FLOW_OPENED, .stream = s->id };
	struct err e = ERR_INIT;

	if (target_open(s, &e) < 0) {
		m.op = FLOW_FAILED;
		snprintf(m.text, sizeof(m.text), "%.199s", e.text);
		flow_tx_stream(s->relay->tx, &m);
		log_warn("relay_open", "stream=%u kind=%s msg=%s", s->id, kind_name[s->kind], LOG_Q(e.text));
	} else {
		flow_tx_stream(s->relay->tx, &m);
		relay_read_run(s);
	}
	relay_open_thread_ended(s);
	return NULL;
}

static int open_locally(struct relay *r, const struct flow_stream_msg *m, struct err *e)
{
	THREAD_LOCKED(&r->lock);
	if (r->source)
		return err_set(e, ERR_PROTOCOL, "the peer opens a stream from the wrong side");
	if (m->stream > FLOW_MAX_STREAMS || r->streams[m->stream])
		return err_set(e, ERR_PROTOCOL, "the peer opens stream %u, which %s", m->stream,
			       m->stream > FLOW_MAX_STREAMS ? "is over the limit" : "exists");
	if (m->a < 1 || m->a >= RELAY_KIND_COUNT || !r->path[m->a])
		return err_set(e, ERR_PROTOCOL, "the peer opens a stream of kind %u, which is not part of this session",
			       m->a);
	if (r->live >= MAX_LIVE)
		return err_set(e, ERR_PROTOCOL, "the peer has more than %u streams open", MAX_LIVE);
	if (r->dead)
		return 0;
	reap_closed_locked(r);
	struct relay_stream *s = stream_new(r, m->stream, (enum relay_kind)m->a, STREAM_OPENING);
	return start_reader_locked(s, target_reader, e);
}

/* ---- what the peer says about streams ---- */

static struct relay_stream *find(struct relay *r, uint32_t id)
{
	THREAD_LOCKED(&r->lock);
	return id <= FLOW_MAX_STREAMS ? r->streams[id] : NULL;
}

int relay_open_on_message(struct relay *r, const struct flow_stream_msg *m, struct err *e)
{
	if (m->op == FLOW_OPEN)
		return open_locally(r, m, e);
	struct relay_stream *s = find(r, m->stream);
	if (!s)
		return err_set(e, ERR_PROTOCOL, "the peer speaks of stream %u, which does not exist", m->stream);
	switch ((enum flow_stream_op)m->op) {
	case FLOW_OPENED:
	case FLOW_FAILED:
		if (!r->source)
			return err_set(e, ERR_PROTOCOL, "the peer answers for stream %u, which it opened itself",
				       m->stream);
		return m->op == FLOW_OPENED ? opened(s, e) : failed(s, m->text, e);
	case FLOW_END:
	case FLOW_RESET:
		return relay_write_on_end(s, m->number, m->op == FLOW_RESET, e);
	case FLOW_OPEN:
		break;
	}
	return err_set(e, ERR_PROTOCOL, "a STREAM frame with unknown operation %u", m->op);
}
