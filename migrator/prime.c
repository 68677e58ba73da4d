#include "migrator/prime.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "migrator/cpu.h"
#include "migrator/facts.h"

#include <jansson.h>
#include <stdlib.h>

struct prime {
	/* fixed after start */
	struct virt *virt;
	struct prime_opts opts;
	pthread_t thread;

	/* the thread's */
	uint64_t asked_of; /* the connection that was asked last, as virt_get_opened counts; 0: none */
	int64_t asked_ns;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stop; /* lock */
};

void prime_ask(void *ctx, virConnectPtr conn)
{
	(void)ctx;
	(void)facts_qemu_version(conn);
	/* Of every emulator. */
	free(virConnectGetCapabilities(conn));
	/* And the CPUs that each kind of guest can have here. */
	json_decref(cpu_facts(conn));
}

static void look(struct prime *p)
{
	struct err ignored = ERR_INIT;
	uint64_t opened;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get_opened(p->virt, &opened, &ignored);
	const int64_t now = clock_mono_ns();

	if (!conn || (opened == p->asked_of && now - p->asked_ns < p->opts.again_ns))
		return;
	p->opts.ask(p->opts.ctx, conn);
	/* libvirt may have gone while it was asked; then the next connection is another one. */
	p->asked_of = opened;
	p->asked_ns = clock_mono_ns();
	log_debug("capabilities_asked", "ms=%lld", (long long)((p->asked_ns - now) / NS_PER_MS));
}

static void *prime_thread(void *arg)
{
	struct prime *p = arg;

	for (;;) {
		look(p);
		const int64_t until = clock_mono_ns() + p->opts.look_ns;
		THREAD_LOCKED(&p->lock);
		while (!p->stop && thread_cond_wait_until(&p->changed, &p->lock, until) == 0)
			;
		if (p->stop)
			return NULL;
	}
}

struct prime *prime_start(struct virt *virt, const struct prime_opts *opts, struct err *e)
{
	struct prime *p = mem_alloc(sizeof *p);

	p->virt = virt;
	p->opts = *opts;
	if (!p->opts.ask)
		p->opts.ask = prime_ask;
	pthread_mutex_init(&p->lock, NULL);
	thread_cond_init(&p->changed);
	if (thread_start(&p->thread, "prime", prime_thread, p, e) == 0)
		return p;
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->changed);
	free(p);
	return NULL;
}

void prime_stop(struct prime *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_signal(&p->changed);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->changed);
	free(p);
}
