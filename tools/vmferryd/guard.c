#include "tools/vmferryd/guard.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/guardian.h"

#include <stdlib.h>

struct guard {
	/* fixed */
	struct guardian *guardian; /* NULL: there is none */
	struct err why;            /* then */

	pthread_mutex_t lock;
	struct replicator *replicator; /* lock */
};

static void freed(void *ctx, const char *uuid, enum guardian_end how)
{
	struct guard *g = ctx;
	THREAD_LOCKED(&g->lock);
	if (g->replicator)
		replicator_rescued(g->replicator, uuid, how);
}

struct guard *guard_start(const struct config *c)
{
	struct guard *g = mem_alloc(sizeof(*g));
	MEM_AUTO char *lock_path = mem_printf("%s/guardian.lock", c->run_dir);
	const struct guardian_opts opts = { .uri = c->libvirt.uri, .lock_path = lock_path, .freed = freed, .ctx = g };
	pthread_mutex_init(&g->lock, NULL);
	g->guardian = guardian_start(&opts, &g->why);
	if (!g->guardian)
		log_error("guardian_missing", "msg=%s remedy=%s", LOG_Q(g->why.text), LOG_Q(g->why.remedy));
	return g;
}

void guard_stop(struct guard *g)
{
	if (!g)
		return;
	guardian_stop(g->guardian);
	pthread_mutex_destroy(&g->lock);
	free(g);
}

void guard_tell(struct guard *g, struct replicator *r)
{
	if (!g)
		return;
	THREAD_LOCKED(&g->lock);
	g->replicator = r;
}

static int missing(const struct guard *g, struct err *e)
{
	err_set(e, ERR_REFUSED, "no guardian would let the VM run if this agent failed while it is paused: %.400s",
		g->why.text);
	return err_remedy(e, "%s", g->why.remedy);
}

int guard_watch(struct guard *g, const char *uuid, struct err *e)
{
	return g->guardian ? guardian_watch(g->guardian, uuid, e) : missing(g, e);
}

int guard_hold(struct guard *g, const char *uuid, int fd, bool read_on, struct err *e)
{
	return g->guardian ? guardian_hold(g->guardian, uuid, fd, read_on, e) : missing(g, e);
}

void guard_arm(struct guard *g, const char *uuid, int64_t deadline_ns)
{
	if (g->guardian && deadline_ns)
		guardian_arm(g->guardian, uuid, deadline_ns);
	else if (g->guardian)
		guardian_disarm(g->guardian, uuid);
}

void guard_unwatch(struct guard *g, const char *uuid)
{
	if (g->guardian)
		guardian_unwatch(g->guardian, uuid);
}

int guard_part(struct guard *g, const char *uuid, struct err *e)
{
	return g->guardian ? guardian_part(g->guardian, uuid, e) : missing(g, e);
}

int guard_status(struct guard *g, pid_t *pid, unsigned *restarts, struct err *e)
{
	if (!g->guardian)
		return missing(g, e);
	*pid = guardian_pid(g->guardian);
	*restarts = guardian_restarts(g->guardian);
	return 0;
}
