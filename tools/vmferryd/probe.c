#include "tools/vmferryd/probe.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "tools/vmferryd/agent.h"

#include <stdlib.h>

#define ANSWER_NS (2 * NS_PER_S)

struct probe {
	struct agent *agent;
	char *host;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	/* under lock */
	unsigned refs;
	bool done, there;
};

static void probe_unref(struct probe *p)
{
	pthread_mutex_lock(&p->lock);
	bool last = --p->refs == 0;
	pthread_mutex_unlock(&p->lock);
	if (!last)
		return;
	pthread_cond_destroy(&p->cond);
	pthread_mutex_destroy(&p->lock);
	free(p->host);
	free(p);
}

static void *probe_main(void *arg)
{
	struct probe *p = arg;
	struct agent *a = p->agent;
	struct err ignored = ERR_INIT;
	struct rpc *peer = peers_connect(a->peers, p->host, &ignored);
	bool there = peer && rpc_call(peer, "agent.status", NULL, clock_mono_ns() + ANSWER_NS, NULL, NULL, NULL, NULL,
				      &ignored) == 0;

	if (peer)
		rpc_unref(peer);
	pthread_mutex_lock(&p->lock);
	p->there = there;
	p->done = true;
	pthread_cond_broadcast(&p->cond);
	pthread_mutex_unlock(&p->lock);
	probe_unref(p);
	__atomic_sub_fetch(&a->calls, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

bool probe_answers(struct agent *a, const char *host, int64_t within_ns)
{
	struct err e = ERR_INIT;
	const int64_t until = clock_mono_ns() + within_ns;
	struct probe *p = mem_alloc(sizeof(*p));
	bool there = false;

	p->agent = a;
	p->host = mem_strdup(host);
	p->refs = 2;
	pthread_mutex_init(&p->lock, NULL);
	thread_cond_init(&p->cond);
	__atomic_add_fetch(&a->calls, 1, __ATOMIC_SEQ_CST); /* the agent waits for it when it stops */
	if (thread_start_detached("probe", probe_main, p, &e) < 0) {
		__atomic_sub_fetch(&a->calls, 1, __ATOMIC_SEQ_CST);
		p->refs = 1;
	} else {
		THREAD_LOCKED(&p->lock);
		while (!p->done && thread_cond_wait_until(&p->cond, &p->lock, until) == 0)
			;
		there = p->done && p->there;
	}
	probe_unref(p);
	return there;
}
