#include "migrator/warm.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "migrator/cpu.h"
#include "migrator/facts.h"

#include <jansson.h>
#include <stdlib.h>

struct warm {
	/* fixed after start */
	struct virt *virt;
	struct warm_opts opts;
	pthread_t thread;

	/* the thread's */
	uint64_t asked_of; /* virt_opened() of the connection that was asked last; 0: none */
	int64_t asked_ns;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stop; /* lock */
};

void warm_ask(void *ctx, virConnectPtr conn)
{
	(void)ctx;
	(void)facts_qemu_version(conn);
	/* Of every emulator. */
	VIRT_STR_AUTO char *caps = virConnectGetCapabilities(conn);
	/* And the CPUs that each kind of guest can have here. */
	json_decref(cpu_facts(conn));
}

static void look(struct warm *w)
{
	struct err ignored = ERR_INIT;
	uint64_t opened;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get_opened(w->virt, &opened, &ignored);
	const int64_t now = clock_mono_ns();

	if (!conn || (opened == w->asked_of && now - w->asked_ns < w->opts.again_ns))
		return;
	w->opts.ask(w->opts.ctx, conn);
	/* libvirt may have gone while it was asked; then the next connection is another one. */
	w->asked_of = opened;
	w->asked_ns = clock_mono_ns();
	log_debug("capabilities_asked", "ms=%lld", (long long)((w->asked_ns - now) / NS_PER_MS));
}

static void *warm_thread(void *arg)
{
	struct warm *w = arg;

	for (;;) {
		look(w);
		const int64_t until = clock_mono_ns() + w->opts.look_ns;
		THREAD_LOCKED(&w->lock);
		while (!w->stop && thread_cond_wait_until(&w->changed, &w->lock, until) == 0)
			;
		if (w->stop)
			return NULL;
	}
}

struct warm *warm_start(struct virt *virt, const struct warm_opts *opts, struct err *e)
{
	struct warm *w = mem_alloc(sizeof *w);

	w->virt = virt;
	w->opts = *opts;
	if (!w->opts.ask)
		w->opts.ask = warm_ask;
	pthread_mutex_init(&w->lock, NULL);
	thread_cond_init(&w->changed);
	if (thread_start(&w->thread, "warm", warm_thread, w, e) == 0)
		return w;
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->changed);
	free(w);
	return NULL;
}

void warm_stop(struct warm *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->changed);
	free(w);
}
