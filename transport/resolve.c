#include "transport/resolve.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct resolve {
	/* fixed */
	char *name;
	char port[8];

	/* under lock */
	struct resolve *next; /* among the pending ones */
	unsigned refs;
	bool done;

	/* set before done */
	int rc;
	struct addrinfo *list;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t answered;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct resolve *pending; /* under lock; its thread holds a reference to each */

static void init(void)
{
	thread_cond_init(&answered);
}

static int look_up(struct resolve *r, int flags)
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC,
					.ai_socktype = SOCK_STREAM,
					.ai_flags = AI_NUMERICSERV | flags };
	return getaddrinfo(r->name, r->port, &hints, &r->list);
}

static struct resolve *resolve_new(const char *name, uint16_t port)
{
	struct resolve *r = mem_alloc(sizeof(*r));

	r->name = mem_strdup(name);
	snprintf(r->port, sizeof(r->port), "%u", port);
	r->refs = 1;
	return r;
}

void resolve_free(struct resolve *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&lock);
	const bool last = --r->refs == 0;
	pthread_mutex_unlock(&lock);
	if (!last)
		return;
	if (r->list)
		freeaddrinfo(r->list);
	free(r->name);
	free(r);
}

static void *ask(void *arg)
{
	struct resolve *r = arg;
	const int rc = look_up(r, 0);

	pthread_mutex_lock(&lock);
	r->rc = rc;
	r->done = true;
	for (struct resolve **p = &pending; *p; p = &(*p)->next) {
		if (*p == r) {
			*p = r->next;
			break;
		}
	}
	pthread_cond_broadcast(&answered);
	pthread_mutex_unlock(&lock);
	resolve_free(r);
	return NULL;
}

/* The one that is under way for this name, or a new one. A reference. */
static struct resolve *join_or_start_locked(const char *name, uint16_t port, struct err *e)
{
	struct resolve *r = resolve_new(name, port);

	for (struct resolve *p = pending; p; p = p->next) {
		if (strcmp(p->name, name) == 0 && strcmp(p->port, r->port) == 0) {
			free(r->name);
			free(r);
			p->refs++;
			return p;
		}
	}
	r->refs = 2; /* the thread's and ours */
	if (thread_start_detached("resolve", ask, r, e) < 0) {
		free(r->name);
		free(r);
		return NULL;
	}
	r->next = pending;
	pending = r;
	return r;
}

static int fail(const char *name, const char *why, const char *remedy, struct err *e)
{
	err_set(e, ERR_PEER, "look up %s: %s", name, why);
	e->errnum = EHOSTUNREACH;
	return err_remedy(e, "%s", remedy);
}

struct resolve *resolve_name(const char *name, uint16_t port, int64_t deadline_ns, struct err *e)
{
	struct resolve *numeric = resolve_new(name, port);

	if (look_up(numeric, AI_NUMERICHOST) == 0)
		return numeric;
	resolve_free(numeric);
	pthread_once(&once, init);
	pthread_mutex_lock(&lock);
	struct resolve *r = join_or_start_locked(name, port, e);
	while (r && !r->done && thread_cond_wait_until(&answered, &lock, deadline_ns) == 0)
		;
	const bool done = r && r->done;
	pthread_mutex_unlock(&lock);
	if (!r || (done && r->rc == 0))
		return r;
	if (!done)
		fail(name, "the resolver has not answered in time",
		     "Give the peer an IP address as `address' in the configuration, or see to /etc/resolv.conf.", e);
	else
		fail(name, gai_strerror(r->rc),
		     "Give the peer an `address` in the configuration, or add the name to DNS or /etc/hosts.", e);
	resolve_free(r);
	return NULL;
}

const struct addrinfo *resolve_addresses(const struct resolve *r)
{
	return r->list;
}
