/*
 * thread.h - named threads with all signals blocked. Never cancelled: stopping is recording the error, aborting the
 * queues, shutting the sockets, joining.
 */
#ifndef VMFERRY_BASE_THREAD_H
#define VMFERRY_BASE_THREAD_H

#include "base/err.h"

#include <pthread.h>
#include <stdint.h>

int thread_start(pthread_t *t, const char *name, void *(*fn)(void *), void *arg, struct err *e);
/* As thread_start, detached. */
int thread_start_detached(const char *name, void *(*fn)(void *), void *arg, struct err *e);

void thread_unlock_ptr(pthread_mutex_t **m);
/* Holds the mutex until the end of the scope. */
#define THREAD_LOCKED(m) THREAD_LOCKED_AT(m, __LINE__)
#define THREAD_LOCKED_AT(m, line) THREAD_LOCKED_AS(m, line)
#define THREAD_LOCKED_AS(m, line)                           \
	__attribute__((cleanup(thread_unlock_ptr), unused)) \
	pthread_mutex_t *thread_locked_##line = (pthread_mutex_lock(m), (m))
/* A condition variable on the monotonic clock. */
void thread_cond_init(pthread_cond_t *c);
/* Waits until signalled or the monotonic deadline (INT64_MAX: for ever); 0, or -1 on time-out. */
int thread_cond_wait_until(pthread_cond_t *c, pthread_mutex_t *m, int64_t deadline_ns);

#endif
