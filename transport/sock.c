#include "transport/sock.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/thread.h"
#include "transport/resolve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* What waits unsent in the kernel makes the window of the flow lie, and hides how fast the link drains. */
#define NOTSENT_LOWAT (256 * 1024)
#define KEEPALIVE_IDLE_S 2
#define KEEPALIVE_INTERVAL_S 1
#define KEEPALIVE_COUNT 3
#define HELD_STEP ((size_t)64 * 1024)
#define LINGER_MAX_BYTES ((size_t)1024 * 1024)

struct sock {
	/* fixed */
	int fd;
	char addr[SOCK_ADDR_SIZE];
	/* any thread */
	atomic_bool shut;
	pthread_mutex_t sending; /* held over each send(): who has the peer's answer to some bytes finds them counted */
	uint64_t sent;           /* under sending */
	_Atomic uint64_t received;
	/* the thread that uses it */
	uint8_t *held; /* taken in while writing: [held_at, held_len) is not read yet */
	size_t held_at, held_len, held_cap;
	bool no_more_input; /* the end was seen while writing; the next read will meet it again */
};

static int fail_errno(struct err *e, const char *what)
{
	const int err = errno;

	switch (err) {
	case ECONNRESET:
	case EPIPE:
		err_set(e, ERR_PEER, "%s: connection cut off by the peer", what);
		break;
	case ETIMEDOUT:
		err_set(e, ERR_PEER, "%s: connection lost: the peer has acknowledged nothing for %d s", what,
			SOCK_LOST_AFTER_MS / 1000);
		e->errnum = ECONNABORTED;
		return -1;
	default:
		err_sys(e, "%s: connection lost", what);
		e->cls = ERR_PEER;
		break;
	}
	e->errnum = err;
	return -1;
}

static int fail_timeout(struct err *e, const char *what)
{
	err_set(e, ERR_PEER, "%s: timed out", what);
	e->errnum = ETIMEDOUT;
	return -1;
}

static int fail_shut(struct err *e)
{
	return err_set(e, ERR_CANCELLED, "connection was shut down here");
}

static sa_family_t format_peer(int fd, char *out, size_t size)
{
	struct sockaddr_storage ss = { 0 };
	socklen_t len = sizeof(ss);
	char host[INET6_ADDRSTRLEN] = "?";

	/* A peer that is gone already shows at the first read or write. */
	if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0) {
		snprintf(out, size, "unknown address");
	} else if (ss.ss_family == AF_INET) {
		struct sockaddr_in in;
		memcpy(&in, &ss, sizeof(in));
		inet_ntop(AF_INET, &in.sin_addr, host, sizeof(host));
		snprintf(out, size, "%s:%u", host, ntohs(in.sin_port));
	} else if (ss.ss_family == AF_INET6) {
		struct sockaddr_in6 in6;
		memcpy(&in6, &ss, sizeof(in6));
		inet_ntop(AF_INET6, &in6.sin6_addr, host, sizeof(host));
		snprintf(out, size, "[%s]:%u", host, ntohs(in6.sin6_port));
	} else {
		snprintf(out, size, "local");
	}
	return ss.ss_family;
}

void sock_format_peer(int fd, char *out, size_t size)
{
	format_peer(fd, out, size);
}

static void tune_tcp(int fd)
{
	const int on = 1;
	const int idle = KEEPALIVE_IDLE_S;
	const int interval = KEEPALIVE_INTERVAL_S;
	const int count = KEEPALIVE_COUNT;
	const unsigned lost_after = SOCK_LOST_AFTER_MS;
	const int lowat = NOTSENT_LOWAT;

	/* Each of these is an improvement; a kernel that lacks one still carries the bytes. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &lost_after, sizeof(lost_after));
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
}

struct sock *sock_new(int fd, struct err *e)
{
	if (fd_set_nonblock(fd, true, e) < 0) {
		fd_close(&fd);
		return NULL;
	}
	struct sock *s = mem_alloc(sizeof(*s));
	s->fd = fd;
	atomic_init(&s->shut, false);
	pthread_mutex_init(&s->sending, NULL);
	const sa_family_t family = format_peer(fd, s->addr, sizeof(s->addr));
	if (family == AF_INET || family == AF_INET6)
		tune_tcp(fd);
	return s;
}

void sock_free(struct sock *s)
{
	if (!s)
		return;
	fd_close(&s->fd);
	free(s->held);
	pthread_mutex_destroy(&s->sending);
	free(s);
}

/* ---- connecting ---- */

static int connect_until(int fd, const struct addrinfo *ai, int64_t deadline_ns)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (connect(fd, ai->ai_addr, ai->ai_addrlen) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return -1;
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLOUT };
		const int n = poll(&p, 1, clock_poll_ms(deadline_ns));
		if (n > 0)
			break;
		if (n == 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		if (errno != EINTR)
			return -1;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		return -1;
	errno = err;
	return err == 0 ? 0 : -1;
}

static int fail_connect(struct err *e, int err)
{
	char name[128];

	err_set(e, ERR_PEER, "connect: %s", strerror_r(err, name, sizeof(name)));
	e->errnum = err;
	switch (err) {
	case ECONNREFUSED:
		return err_remedy(
			e, "Start vmferryd there (systemctl start vmferryd), and check address and port in `peers`.");
	case ETIMEDOUT:
	case EHOSTUNREACH:
	case ENETUNREACH:
		return err_remedy(e, "Check that the host is up, the address in `peers`, and that firewalls let the "
				     "port through.");
	default:
		return -1;
	}
}

int sock_connect_tcp(const char *address, uint16_t port, int64_t deadline_ns, struct err *e)
{
	struct resolve *r = resolve_name(address, port, deadline_ns, e);
	int last = ETIMEDOUT;

	if (!r)
		return -1;
	for (const struct addrinfo *ai = resolve_addresses(r); ai; ai = ai->ai_next) {
		const int type = ai->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC;
		FD_AUTO int fd = socket(ai->ai_family, type, ai->ai_protocol);
		if (fd >= 0 && connect_until(fd, ai, deadline_ns) == 0) {
			const int result = fd;
			fd = -1;
			resolve_free(r);
			return result;
		}
		last = errno;
	}
	resolve_free(r);
	return fail_connect(e, last);
}

/* ---- bytes ---- */

int sock_fd(const struct sock *s)
{
	return s->fd;
}

const char *sock_addr(const struct sock *s)
{
	return s->addr;
}

bool sock_has_held(const struct sock *s)
{
	return s->held_at < s->held_len;
}

static ssize_t take_held(struct sock *s, void *buf, size_t len)
{
	const size_t left = s->held_len - s->held_at;
	const size_t n = len < left ? len : left;

	memcpy(buf, s->held + s->held_at, n);
	s->held_at += n;
	if (s->held_at == s->held_len) {
		free(s->held);
		s->held = NULL;
		s->held_at = s->held_len = s->held_cap = 0;
	}
	return (ssize_t)n;
}

/* Called while a write waits: room for what has come in, so that the peer's own write can end. */
static int hold_input(struct sock *s, struct err *e)
{
	if (s->held_at > 0) {
		memmove(s->held, s->held + s->held_at, s->held_len - s->held_at);
		s->held_len -= s->held_at;
		s->held_at = 0;
	}
	if (s->held_cap - s->held_len < HELD_STEP) {
		const size_t cap = s->held_cap ? s->held_cap * 2 : HELD_STEP * 2;
		s->held = mem_realloc_array(s->held, cap, 1);
		s->held_cap = cap;
	}
	const ssize_t n = recv(s->fd, s->held + s->held_len, HELD_STEP, MSG_DONTWAIT);
	if (n > 0) {
		s->held_len += (size_t)n;
		atomic_fetch_add_explicit(&s->received, (uint64_t)n, memory_order_relaxed);
	} else if (n == 0) {
		s->no_more_input = true;
	} else if (errno != EAGAIN && errno != EINTR) {
		/* The kernel says it once; the write would only hear EPIPE. */
		return fail_errno(e, "send");
	}
	return 0;
}

/* 0 when the write may be tried again. */
static int wait_writable(struct sock *s, int64_t deadline_ns, struct err *e)
{
	struct pollfd p = { .fd = s->fd, .events = POLLOUT };

	if (!s->no_more_input && s->held_len - s->held_at < SOCK_MAX_HELD)
		p.events |= POLLIN;
	const int n = poll(&p, 1, clock_poll_ms(deadline_ns));
	if (n < 0 && errno != EINTR)
		return fail_errno(e, "send");
	if (n == 0)
		return fail_timeout(e, "send");
	if (n > 0 && (p.revents & POLLIN) && (p.events & POLLIN))
		return hold_input(s, e);
	return 0;
}

static ssize_t send_now(struct sock *s, const void *buf, size_t len)
{
	THREAD_LOCKED(&s->sending);
	const ssize_t n = send(s->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n > 0)
		s->sent += (uint64_t)n;
	return n;
}

int sock_send(struct sock *s, const void *buf, size_t len, int64_t deadline_ns, struct err *e)
{
	const uint8_t *p = buf;

	while (len > 0) {
		if (atomic_load(&s->shut))
			return fail_shut(e);
		const ssize_t n = send_now(s, p, len);
		if (n >= 0) {
			p += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			if (wait_writable(s, deadline_ns, e) < 0)
				return -1;
		} else if (errno != EINTR) {
			return atomic_load(&s->shut) ? fail_shut(e) : fail_errno(e, "send");
		}
	}
	return 0;
}

ssize_t sock_recv(struct sock *s, void *buf, size_t len, int64_t deadline_ns, struct err *e)
{
	for (;;) {
		if (atomic_load(&s->shut))
			return fail_shut(e);
		if (sock_has_held(s))
			return take_held(s, buf, len);
		const ssize_t n = recv(s->fd, buf, len, MSG_DONTWAIT);
		if (n >= 0) {
			if (n == 0 && atomic_load(&s->shut))
				return fail_shut(e);
			atomic_fetch_add_explicit(&s->received, (uint64_t)n, memory_order_relaxed);
			return n;
		}
		if (errno == EAGAIN) {
			struct pollfd p = { .fd = s->fd, .events = POLLIN };
			const int ready = poll(&p, 1, clock_poll_ms(deadline_ns));
			if (ready == 0)
				return fail_timeout(e, "receive");
			if (ready < 0 && errno != EINTR)
				return fail_errno(e, "receive");
		} else if (errno != EINTR) {
			return atomic_load(&s->shut) ? fail_shut(e) : fail_errno(e, "receive");
		}
	}
}

void sock_linger(struct sock *s, int64_t deadline_ns)
{
	uint8_t drop[4096];
	size_t dropped = 0;
	struct err ignored = ERR_INIT;

	if (shutdown(s->fd, SHUT_WR) < 0)
		return;
	while (dropped < LINGER_MAX_BYTES) {
		const ssize_t n = sock_recv(s, drop, sizeof(drop), deadline_ns, &ignored);
		if (n <= 0)
			return;
		dropped += (size_t)n;
	}
}

void sock_shutdown(struct sock *s)
{
	atomic_store(&s->shut, true);
	shutdown(s->fd, SHUT_RDWR);
}

void sock_bytes(struct sock *s, uint64_t *sent, uint64_t *received)
{
	THREAD_LOCKED(&s->sending);
	*sent = s->sent;
	*received = atomic_load_explicit(&s->received, memory_order_relaxed);
}
