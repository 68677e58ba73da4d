/* The life of all replicas: read at start, let go at the end. */
#include "replicator/replica_internal.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/epoch.h"
#include "replicator/field.h"

#include <stdlib.h>

struct replicas *replicas_new(const struct replicas_opts *opts, struct err *e)
{
	struct replicas *r = mem_alloc(sizeof(*r));
	json_t *record, *all;
	size_t i;

	r->opts = *opts;
	r->host_name = mem_strdup(opts->host_name);
	r->replica_dir = mem_strdup(opts->replica_dir);
	pthread_mutex_init(&r->lock, NULL);
	thread_cond_init(&r->changed);
	all = file_mkdirs(r->replica_dir, 0700, e) < 0 ? NULL : epoch_load_replicas(r->replica_dir, e);
	if (!all || thread_start(&r->keeper, "replica-keeper", replica_keep_thread, r, e) < 0) {
		json_decref(all);
		replicas_free(r);
		return NULL;
	}
	r->keeper_started = true;
	pthread_mutex_lock(&r->lock);
	json_array_foreach (all, i, record) {
		struct replica *p = replica_new(r, field_text(record, "uuid"), json_deep_copy(record));
		p->next = r->first;
		r->first = p;
		if (p->trouble[0] && opts->event)
			opts->event(opts->ctx, "replica.unreadable", p->uuid,
				    json_pack("{s:s, s:s, s:s}", "vm", p->uuid, "host", r->host_name, "reason",
					      p->trouble));
	}
	pthread_mutex_unlock(&r->lock);
	json_decref(all);
	replica_reserve_make(r);
	return r;
}

static void replica_free(struct replica *p)
{
	store_close(p->store);
	json_decref(p->record);
	json_decref(p->last);
	free(p);
}

void replicas_free(struct replicas *r)
{
	if (!r)
		return;
	{
		THREAD_LOCKED(&r->lock);
		r->stopping = true;
		pthread_cond_broadcast(&r->changed);
	}
	for (struct replica *p = r->first; p; p = p->next)
		replica_session_end(p, "the agent stops");
	pthread_mutex_lock(&r->lock);
	while (r->winding_up)
		pthread_cond_wait(&r->changed, &r->lock);
	pthread_mutex_unlock(&r->lock);
	if (r->keeper_started)
		pthread_join(r->keeper, NULL);
	while (r->first) {
		struct replica *p = r->first;
		r->first = p->next;
		replica_free(p);
	}
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	free(r->host_name);
	free(r->replica_dir);
	free(r);
}
