#include "tools/vmferryd/guarding.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/guardian.h"

#include <stdlib.h>

struct guarding {
	char *uri, *lock_path; /* fixed */
	pthread_mutex_t lock;
	struct guardian *guardian; /* lock; once made it stays */
};

struct guarding *guarding_new(const char *libvirt_uri, const char *run_dir)
{
	struct guarding *g = mem_alloc(sizeof(*g));

	g->uri = mem_strdup(libvirt_uri);
	g->lock_path = mem_printf("%s/guardian.lock", run_dir);
	pthread_mutex_init(&g->lock, NULL);
	return g;
}

void guarding_free(struct guarding *g)
{
	if (!g)
		return;
	guardian_stop(g->guardian);
	pthread_mutex_destroy(&g->lock);
	free(g->uri);
	free(g->lock_path);
	free(g);
}

static void freed(void *ctx, const char *uuid, enum guardian_end how)
{
	(void)ctx;
	/* The capture finds its stream broken, and its protection begins anew. */
	log_warn("guardian_freed", "uuid=%s how=%s", uuid,
		 how == GUARDIAN_END_FREED ? "freed" : how == GUARDIAN_END_UNTIDY ? "untidy" : "failed");
}

static struct guardian *started(struct guarding *g, struct err *e)
{
	const struct guardian_opts o = { .uri = g->uri, .lock_path = g->lock_path, .freed = freed, .ctx = g };

	THREAD_LOCKED(&g->lock);
	if (!g->guardian)
		g->guardian = guardian_start(&o, e);
	return g->guardian;
}

int guarding_watch(struct guarding *g, const char *uuid, bool suspends, struct err *e)
{
	struct guardian *guardian = started(g, e);

	if (!guardian || guardian_watch(guardian, uuid, suspends, e) < 0)
		return err_wrap(e, "the guardian that lets VMs go on");
	return 0;
}

int guarding_stream(struct guarding *g, const char *uuid, int fd, struct err *e)
{
	return guardian_hold(g->guardian, uuid, fd, e);
}

void guarding_arm(struct guarding *g, const char *uuid, bool on, int64_t expect_ns)
{
	if (on)
		guardian_arm(g->guardian, uuid, clock_mono_ns() + expect_ns + GUARDIAN_GRACE_NS);
	else
		guardian_disarm(g->guardian, uuid);
}

void guarding_unwatch(struct guarding *g, const char *uuid)
{
	guardian_unwatch(g->guardian, uuid);
}
