#include "snapshot/guest_watch.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct guest_watch {
	struct guest *g; /* fixed */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct guest_seen seen; /* lock, as what follows */
	void (*on_stop)(void *arg);
	void *on_stop_arg;
};

static void on_event(void *arg, const char *event, const json_t *data)
{
	struct guest_watch *w = arg;
	THREAD_LOCKED(&w->lock);
	struct guest_seen *s = &w->seen;
	s->events++;
	if (strcmp(event, "STOP") == 0) {
		s->stops++;
		s->stopped = true;
		s->stop_ns = clock_mono_ns();
		if (w->on_stop)
			w->on_stop(w->on_stop_arg);
	} else if (strcmp(event, "RESUME") == 0) {
		s->resumes++;
		s->stopped = false;
		s->resume_ns = clock_mono_ns();
	} else if (strcmp(event, "SHUTDOWN") == 0) {
		s->gone = true;
	} else if (strcmp(event, "MIGRATION") == 0) {
		const char *status = json_string_value(json_object_get(data, "status"));
		if (status)
			snprintf(s->migration, sizeof(s->migration), "%s", status);
	}
	pthread_cond_broadcast(&w->changed);
}

struct guest_watch *guest_watch_new(struct guest *g, struct err *e)
{
	struct guest_watch *w = mem_alloc(sizeof(*w));
	w->g = g;
	pthread_mutex_init(&w->lock, NULL);
	thread_cond_init(&w->changed);
	if (g->ops->listen(g->ctx, on_event, w, e)) {
		pthread_cond_destroy(&w->changed);
		pthread_mutex_destroy(&w->lock);
		free(w);
		return NULL;
	}
	return w;
}

void guest_watch_free(struct guest_watch *w)
{
	if (!w)
		return;
	w->g->ops->unlisten(w->g->ctx);
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

void guest_watch_look(struct guest_watch *w, struct guest_seen *out)
{
	THREAD_LOCKED(&w->lock);
	*out = w->seen;
}

void guest_watch_forget(struct guest_watch *w)
{
	THREAD_LOCKED(&w->lock);
	w->seen.migration[0] = '\0';
}

void guest_watch_on_stop(struct guest_watch *w, void (*fn)(void *arg), void *arg)
{
	THREAD_LOCKED(&w->lock);
	w->on_stop = fn;
	w->on_stop_arg = arg;
}

void guest_watch_wait(struct guest_watch *w, unsigned events, int64_t deadline_ns, struct guest_seen *out)
{
	THREAD_LOCKED(&w->lock);
	while (w->seen.events == events && !w->seen.aborted)
		if (thread_cond_wait_until(&w->changed, &w->lock, deadline_ns))
			break;
	*out = w->seen;
}

void guest_watch_abort(struct guest_watch *w)
{
	THREAD_LOCKED(&w->lock);
	w->seen.aborted = true;
	pthread_cond_broadcast(&w->changed);
}

int guest_watch_check(struct guest_watch *w, struct err *e)
{
	THREAD_LOCKED(&w->lock);
	return w->seen.aborted ? err_set(e, ERR_CANCELLED, "the capture was ended") : 0;
}

int guest_watch_qmp(struct guest *g, const char *command, json_t *args, json_t **result, struct err *e)
{
	return g->ops->qmp(g->ctx, command, args, -1, result, e);
}

void guest_watch_try(struct guest *g, const char *command, json_t *args)
{
	struct err ignored = ERR_INIT;
	(void)g->ops->qmp(g->ctx, command, args, -1, NULL, &ignored);
}

int guest_watch_migration(struct guest *g, char *out, size_t size, struct err *e)
{
	json_t *r = NULL;
	if (guest_watch_qmp(g, "query-migrate", NULL, &r, e))
		return -1;
	const char *status = json_string_value(json_object_get(r, "status"));
	snprintf(out, size, "%s", status ? status : "none");
	json_decref(r);
	return 0;
}
