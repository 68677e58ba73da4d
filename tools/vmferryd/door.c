#include "tools/vmferryd/door.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct guest {
	struct guest *next; /* door.lock */
	/* fixed */
	struct door *door;
	int fd;
	char addr[80];
	char host[64]; /* addr without the port */
};

struct door {
	/* fixed */
	struct door_opts opts;
	int stop; /* eventfd */
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t gone;
	/* under lock */
	struct guest *guests;
	unsigned pending;

	/* the accepting thread's */
	int64_t said_ns; /* last complaint in the log */
	unsigned unsaid;
};

const char *door_format_address(const struct sockaddr_storage *addr, char *buf, size_t size)
{
	char text[INET6_ADDRSTRLEN] = "";
	if (addr->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const void *)addr;
		inet_ntop(AF_INET, &in->sin_addr, text, sizeof(text));
		snprintf(buf, size, "%s:%u", text, ntohs(in->sin_port));
	} else if (addr->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const void *)addr;
		bool mapped = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);
		if (mapped)
			inet_ntop(AF_INET, &in6->sin6_addr.s6_addr[12], text, sizeof(text));
		else
			inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof(text));
		snprintf(buf, size, mapped ? "%s:%u" : "[%s]:%u", text, ntohs(in6->sin6_port));
	} else {
		snprintf(buf, size, "local");
	}
	return buf;
}

static void leave(struct guest *g)
{
	struct door *d = g->door;
	THREAD_LOCKED(&d->lock);
	for (struct guest **p = &d->guests; *p; p = &(*p)->next) {
		if (*p == g) {
			*p = g->next;
			break;
		}
	}
	free(g);
	d->pending--;
	pthread_cond_broadcast(&d->gone);
}

static void *greet(void *arg)
{
	struct guest *g = arg;
	g->door->opts.greet(g->door->opts.ctx, g->fd, g->addr);
	leave(g);
	return NULL;
}

/* At most one line a second: a flood of connections must not become a flood of logs. */
static void complain(struct door *d, const char *addr, const char *what)
{
	int64_t now = clock_mono_ns();
	d->unsaid++;
	if (now - d->said_ns < NS_PER_S && d->said_ns)
		return;
	log_warn("connection_refused", "door=%s addr=%s refused=%u msg=%s", d->opts.name, addr, d->unsaid, LOG_Q(what));
	d->said_ns = now;
	d->unsaid = 0;
}

/* Counts the newcomer in; false if there are too many. */
static bool enter(struct door *d, struct guest *g)
{
	unsigned same = 0;
	THREAD_LOCKED(&d->lock);
	for (const struct guest *other = d->guests; other; other = other->next)
		same += strcmp(other->host, g->host) == 0;
	if (d->pending >= DOOR_MAX_PENDING || same >= DOOR_MAX_PENDING_PER_ADDRESS)
		return false;
	g->next = d->guests;
	d->guests = g;
	d->pending++;
	return true;
}

static void admit(struct door *d, int fd, const struct sockaddr_storage *from)
{
	struct err e = ERR_INIT;
	struct guest *g = mem_alloc(sizeof(*g));
	g->door = d;
	g->fd = fd;
	door_format_address(from, g->addr, sizeof(g->addr));
	snprintf(g->host, sizeof(g->host), "%.63s", g->addr);
	char *colon = strrchr(g->host, ':');
	if (colon)
		*colon = '\0';
	if (!enter(d, g)) {
		complain(d, g->addr, "too many connections that have not said yet who they are");
		fd_close(&g->fd);
		free(g);
		return;
	}
	if (thread_start_detached(d->opts.name, greet, g, &e) < 0) {
		complain(d, g->addr, e.text);
		fd_close(&g->fd);
		leave(g);
	}
}

static void *accept_loop(void *arg)
{
	struct door *d = arg;
	for (;;) {
		struct pollfd fds[2] = { { .fd = d->stop, .events = POLLIN }, { .fd = d->opts.fd, .events = POLLIN } };
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (fds[0].revents)
			return NULL;
		if (!fds[1].revents)
			continue;
		struct sockaddr_storage from = { 0 };
		socklen_t len = sizeof(from);
		int fd = accept4(d->opts.fd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC);
		if (fd >= 0) {
			admit(d, fd, &from);
		} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			complain(d, "-", strerror(errno));
			/* The connection stays in the queue: without a pause this would spin. */
			poll(fds, 1, 100);
		}
	}
}

struct door *door_open(const struct door_opts *opts, struct err *e)
{
	struct door *d = mem_alloc(sizeof(*d));
	d->opts = *opts;
	pthread_mutex_init(&d->lock, NULL);
	thread_cond_init(&d->gone);
	d->stop = eventfd(0, EFD_CLOEXEC);
	if (d->stop < 0) {
		err_sys(e, "eventfd");
		goto fail;
	}
	if (fd_set_nonblock(d->opts.fd, true, e) < 0) /* who has gone again must not block accept */
		goto fail;
	if (thread_start(&d->thread, d->opts.name, accept_loop, d, e) < 0)
		goto fail;
	return d;
fail:
	fd_close(&d->stop);
	fd_close(&d->opts.fd);
	pthread_cond_destroy(&d->gone);
	pthread_mutex_destroy(&d->lock);
	free(d);
	return NULL;
}

void door_close(struct door *d)
{
	if (!d)
		return;
	uint64_t one = 1;
	while (write(d->stop, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(d->thread, NULL);
	fd_close(&d->opts.fd);
	pthread_mutex_lock(&d->lock);
	while (d->pending > 0)
		pthread_cond_wait(&d->gone, &d->lock);
	pthread_mutex_unlock(&d->lock);
	fd_close(&d->stop);
	pthread_cond_destroy(&d->gone);
	pthread_mutex_destroy(&d->lock);
	free(d);
}
