#include "base/thread.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define NAME_BYTES 16 /* the kernel's limit, with the NUL */

struct start {
	void *(*fn)(void *);
	void *arg;
	char name[NAME_BYTES];
};

static void *trampoline(void *p)
{
	const struct start s = *(struct start *)p;

	free(p);
	pthread_setname_np(pthread_self(), s.name);
	return s.fn(s.arg);
}

/* All but those that a thread raises by its own mistake: blocking them would hide where it happened. */
static void fill_blocked(sigset_t *set)
{
	static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS };

	sigfillset(set);
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		sigdelset(set, own[i]);
}

static int start_with(pthread_t *t, const pthread_attr_t *attr, const char *name, void *(*fn)(void *), void *arg,
		      struct err *e)
{
	struct start *s = mem_alloc(sizeof(*s));
	sigset_t blocked;
	sigset_t old;

	s->fn = fn;
	s->arg = arg;
	snprintf(s->name, sizeof(s->name), "%s", name);

	/* The new thread inherits the mask, so that no signal can reach it before it could block them itself. */
	fill_blocked(&blocked);
	pthread_sigmask(SIG_SETMASK, &blocked, &old);
	const int rc = pthread_create(t, attr, trampoline, s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc != 0) {
		free(s);
		errno = rc;
		return err_sys(e, "start thread %s", name);
	}
	return 0;
}

int thread_start(pthread_t *t, const char *name, void *(*fn)(void *), void *arg, struct err *e)
{
	return start_with(t, NULL, name, fn, arg, e);
}

int thread_start_detached(const char *name, void *(*fn)(void *), void *arg, struct err *e)
{
	pthread_attr_t attr;
	pthread_t t;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	const int rc = start_with(&t, &attr, name, fn, arg, e);
	pthread_attr_destroy(&attr);
	return rc;
}

void thread_unlock_ptr(pthread_mutex_t **m)
{
	const int rc = pthread_mutex_unlock(*m);

	assert(rc == 0);
}

void thread_cond_init(pthread_cond_t *c)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	const int rc = pthread_cond_init(c, &attr);
	assert(rc == 0);
	pthread_condattr_destroy(&attr);
}

int thread_cond_wait_until(pthread_cond_t *c, pthread_mutex_t *m, int64_t deadline_ns)
{
	int rc;

	if (deadline_ns == INT64_MAX) {
		rc = pthread_cond_wait(c, m);
	} else {
		const int64_t ns = deadline_ns > 0 ? deadline_ns : 0;
		const struct timespec ts = { .tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S) };
		rc = pthread_cond_timedwait(c, m, &ts);
	}
	assert(rc == 0 || rc == ETIMEDOUT);
	return rc == 0 ? 0 : -1;
}
