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
	const char *method;
	json_t *args;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	/* under lock */
	unsigned refs;
	bool done;
	json_t *answer;
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
	json_decref(p->args);
	json_decref(p->answer);
	free(p->host);
	free(p);
}

static void *probe_main(void *arg)
{
	struct probe *p = arg;
	struct agent *a = p->agent;
	struct err ignored = ERR_INIT;
	struct rpc *peer = peers_connect(a->peers, p->host, &ignored);
	json_t *answer = NULL;

	if (peer &&
	    rpc_call(peer, p->method, json_incref(p->args), clock_mono_ns() + ANSWER_NS, NULL, NULL, NULL, &answer, &ignored) == 0 &&
	    !answer)
		answer = json_object();
	if (peer)
		rpc_unref(peer);
	pthread_mutex_lock(&p->lock);
	p->answer = answer;
	p->done = true;
	pthread_cond_broadcast(&p->cond);
	pthread_mutex_unlock(&p->lock);
	probe_unref(p);
	__atomic_sub_fetch(&a->calls, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

struct probe *probe_start(struct agent *a, const char *host, const char *method, json_t *args)
{
	struct err e = ERR_INIT;
	struct probe *p = mem_alloc(sizeof(*p));

	p->agent = a;
	p->host = mem_strdup(host);
	p->method = method;
	p->args = args;
	p->refs = 2;
	pthread_mutex_init(&p->lock, NULL);
	thread_cond_init(&p->cond);
	__atomic_add_fetch(&a->calls, 1, __ATOMIC_SEQ_CST); /* the agent waits for it when it stops */
	if (thread_start_detached("probe", probe_main, p, &e) < 0) {
		__atomic_sub_fetch(&a->calls, 1, __ATOMIC_SEQ_CST);
		p->refs = 1;
		p->done = true;
	}
	return p;
}

json_t *probe_end(struct probe *p, int64_t until_ns)
{
	json_t *answer;
	{
		THREAD_LOCKED(&p->lock);
		while (!p->done && thread_cond_wait_until(&p->cond, &p->lock, until_ns) == 0)
			;
		answer = p->answer;
		p->answer = NULL;
	}
	probe_unref(p);
	return answer;
}

bool probe_answers(struct agent *a, const char *host, int64_t within_ns)
{
	const int64_t until = clock_mono_ns() + within_ns;
	json_t *answer = probe_end(probe_start(a, host, "agent.status", NULL), until);
	const bool there = answer != NULL;

	json_decref(answer);
	return there;
}
