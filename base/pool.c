#include "base/pool.h"

#include "base/mem.h"
#include "base/queue.h"
#include "base/thread.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define THREADS_MAX 8u

struct job {
	void (*fn)(void *arg);
	void *arg;
};

struct pool {
	struct queue *jobs;
	unsigned n;
	pthread_t threads[];
};

static void *worker(void *arg)
{
	struct queue *jobs = arg;
	struct job *job;

	while ((job = queue_pop(jobs)) != NULL) {
		const struct job j = *job;
		free(job);
		j.fn(j.arg);
	}
	return NULL;
}

static unsigned default_threads(void)
{
	const long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (cpus < 1)
		return 1;
	return cpus > (long)THREADS_MAX ? THREADS_MAX : (unsigned)cpus;
}

struct pool *pool_new(unsigned threads, const char *name, size_t max_queued, struct err *e)
{
	if (threads == 0)
		threads = default_threads();

	struct pool *p = mem_alloc(sizeof(*p) + threads * sizeof(p->threads[0]));
	p->jobs = queue_new(max_queued, 0, free);
	while (p->n < threads) {
		char full[32];
		snprintf(full, sizeof(full), "%.11s-%u", name, p->n);
		if (thread_start(&p->threads[p->n], full, worker, p->jobs, e) < 0) {
			pool_free(p);
			return NULL;
		}
		p->n++;
	}
	return p;
}

unsigned pool_threads(const struct pool *p)
{
	return p->n;
}

void pool_submit(struct pool *p, void (*fn)(void *arg), void *arg)
{
	struct job *job = mem_alloc(sizeof(*job));

	job->fn = fn;
	job->arg = arg;
	const int rc = queue_push(p->jobs, job, 0);
	assert(rc == 0); /* nobody submits to a pool that is being freed */
}

void pool_free(struct pool *p)
{
	if (!p)
		return;
	queue_close(p->jobs);
	for (unsigned i = 0; i < p->n; i++)
		pthread_join(p->threads[i], NULL);
	queue_free(p->jobs);
	free(p);
}
