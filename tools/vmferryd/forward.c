/* Passing an operator's call on to another host's agent. */
#include "base/clock.h"
#include "base/thread.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/calls.h"

#define LOOK_NS (50 * NS_PER_MS)

/* rpc_call watches a flag; a served call tells of its cancellation only when asked. A thread carries the one to the
 * other. */
struct watcher {
	struct agent *agent;
	struct rpc_call *call;
	volatile bool cancel;

	pthread_mutex_t lock;
	pthread_cond_t ended;
	bool over; /* under lock */
};

static void *watch(void *arg)
{
	struct watcher *w = arg;
	THREAD_LOCKED(&w->lock);
	while (!w->over) {
		if (rpc_cancelled(w->call) || agent_stopping(w->agent))
			__atomic_store_n(&w->cancel, true, __ATOMIC_RELAXED);
		thread_cond_wait_until(&w->ended, &w->lock, clock_mono_ns() + LOOK_NS);
	}
	return NULL;
}

static void pass_note(void *ctx, const json_t *note)
{
	struct watcher *w = ctx;
	rpc_note(w->call, json_deep_copy(note));
}

static int call_watched(struct watcher *w, struct rpc *rpc, const char *method, json_t *args, json_t **result,
			struct err *e)
{
	pthread_t thread;
	pthread_mutex_init(&w->lock, NULL);
	thread_cond_init(&w->ended);
	int rc = -1;
	if (thread_start(&thread, "forward", watch, w, e) == 0) {
		rc = rpc_call(rpc, method, args, INT64_MAX, pass_note, w, &w->cancel, result, e);
		pthread_mutex_lock(&w->lock);
		w->over = true;
		pthread_cond_broadcast(&w->ended);
		pthread_mutex_unlock(&w->lock);
		pthread_join(thread, NULL);
	} else {
		json_decref(args);
	}
	pthread_cond_destroy(&w->ended);
	pthread_mutex_destroy(&w->lock);
	return rc;
}

int forward_call(struct agent *a, struct rpc_call *call, const char *host, const char *method, const json_t *args,
		 json_t **result, struct err *e)
{
	struct rpc *rpc = peers_connect(a->peers, host, e);
	if (!rpc)
		return -1;
	struct watcher w = { .agent = a, .call = call };
	json_t *copy = json_deep_copy(args);
	json_object_del(copy, "at");
	int rc = call_watched(&w, rpc, method, copy, result, e);
	rpc_unref(rpc);
	return rc;
}
