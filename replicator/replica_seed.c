/*
 * replica.seed: what is at hand here becomes the beginning of a replica, so that only what differs from it has to come from its source.
 *
 * It is read in a thread of its own, which goes on when the connection of whoever asked ends; asked again, he waits for the same. Whoever may
 * write to the replica, and wants something else of it, ends it. What it has brought by then stays: a source compares, whatever is there.
 */
#include "replicator/replica_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/epoch.h"
#include "replicator/field.h"

#include <stdio.h>
#include <stdlib.h>

#define LOOK_NS (200 * NS_PER_MS)

struct replica_seed {
	/* fixed */
	struct replica *replica;
	char peer[256];
	uint64_t epoch;
	json_t *args; /* a copy */
	struct replica_seeder by;
	/* replicas.lock */
	bool stop, over;
	char disk[STORE_NAME_MAX + 1]; /* that is read, and how far */
	uint64_t done, total;
	struct err error;
	unsigned users; /* the thread, and those who wait for it */
};

static void put_locked(struct replica_seed *s)
{
	if (--s->users > 0)
		return;
	json_decref(s->args);
	free(s);
}

/* For its thread. replica_moved, and all else at once: whoever comes next may begin another. */
static void over_locked(struct replica_seed *s, const struct err *e)
{
	struct replica *p = s->replica;
	struct replicas *r = p->all;

	p->moving = false;
	p->seed = NULL;
	s->error = *e;
	s->over = true;
	put_locked(s);
	r->winding_up--;
	pthread_cond_broadcast(&r->changed);
}

void replica_seed_stop_locked(struct replica *p)
{
	if (p->seed)
		p->seed->stop = true;
}

int replica_seed_admit_locked(const struct replica *p, const char *peer, struct err *e)
{
	const struct replica_seed *s = p->seed;

	if (!s || strcmp(s->peer, peer) == 0)
		return 0;
	return err_set(e, ERR_REFUSED, "a replica of VM %s for %s is being begun at %s", field_text(s->args, "name"),
		       s->peer, p->all->host_name);
}

bool replica_seed_said_locked(const struct replica *p, char *out, size_t size)
{
	const struct replica_seed *s = p->seed;

	if (!s)
		return false;
	snprintf(out, size, "an image is read that is here already: %.40s, %d %%", s->disk,
		 s->total ? (int)((double)s->done * 100.0 / (double)s->total) : 0);
	return true;
}

/* ---- its thread ---- */

static bool go_on(void *ctx, const char *disk, uint64_t done, uint64_t total)
{
	struct replica_seed *s = ctx;
	struct replicas *r = s->replica->all;

	THREAD_LOCKED(&r->lock);
	snprintf(s->disk, sizeof(s->disk), "%s", disk);
	s->done = done;
	s->total = total;
	return !s->stop && !r->stopping;
}

/* What a replica begins with is no point's. */
static int check_empty_locked(const struct replica *p, struct err *e)
{
	if (p->points == 0)
		return 0;
	err_set(e, ERR_REFUSED, "%s has %zu points of VM %s already, from which a copy starts by itself",
		p->all->host_name, p->points, field_text(p->record, "vm"));
	return err_remedy(e, "leave the seed out: only what differs from the last point travels");
}

static int check_empty(struct replica *p, struct err *e)
{
	THREAD_LOCKED(&p->all->lock);
	return check_empty_locked(p, e);
}

static int fill(struct replica_seed *s, struct err *e)
{
	struct replica *p = s->replica;
	struct replicas *r = p->all;

	{
		THREAD_LOCKED(&r->lock);
		if (epoch_admit(p->record, r->host_name, s->peer, s->epoch, e) < 0)
			return -1;
	}
	replica_session_end(p, "it starts anew from what is at hand here");
	if (replica_begin_space(r, e) < 0 || replica_begin_record(p, s->peer, s->epoch, s->args, e) < 0)
		return -1;
	json_t *vm = replica_begin_vm(p, s->peer, s->args);
	struct store *store = replica_open(p, vm, e);
	json_decref(vm);
	if (!store)
		return -1;
	replica_note_last(p, store);
	int rc = check_empty(p, e);
	if (rc == 0)
		rc = s->by.fill(s->by.ctx, store, go_on, s, e);
	if (rc == 0)
		rc = fault_point(FAULT_REPLICA_SEEDED, e);
	/* A store whose disk has failed is opened afresh. */
	if (rc < 0 && e->cls != ERR_REFUSED && e->cls != ERR_CANCELLED) {
		THREAD_LOCKED(&r->lock);
		p->reopen = true;
	}
	replica_close(p);
	if (rc < 0)
		return -1;
	json_t *changes = json_pack("{s:O}", "seed", json_object_get(s->args, "disks"));
	rc = replica_update(p, changes, e);
	json_decref(changes);
	return rc;
}

static void *seed_thread(void *arg)
{
	struct replica_seed *s = arg;
	struct replica *p = s->replica;
	struct replicas *r = p->all;
	struct err e = ERR_INIT;
	const int64_t start = clock_mono_ns();

	if (fill(s, &e) < 0)
		log_warn("replica_seed", "uuid=%s from=%s class=%s msg=%s", p->uuid, s->peer, err_class_name(e.cls),
			 LOG_Q(e.text));
	else
		log_info("replica_seed", "uuid=%s from=%s ms=%lld", p->uuid, s->peer,
			 (long long)((clock_mono_ns() - start) / NS_PER_MS));
	s->by.free(s->by.ctx);
	THREAD_LOCKED(&r->lock);
	over_locked(s, &e);
	return NULL;
}

/* ---- who asks ---- */

int replicas_seed_check(struct replicas *r, const char *peer, const json_t *args, struct err *e)
{
	json_t *status = NULL;
	uint64_t epoch;

	if (replica_begin_args(args, &epoch, e) < 0)
		return -1;
	/* As far as it is open, that knows the points. */
	if (replicas_status(r, args, &status, e) < 0)
		return -1;
	json_decref(status);
	THREAD_LOCKED(&r->lock);
	const struct replica *p = replica_by_uuid_locked(r, field_text(args, "uuid"));
	if (!p || !p->record)
		return 0;
	return epoch_admit(p->record, r->host_name, peer, epoch, e) < 0 ? -1 : check_empty_locked(p, e);
}

/* One that is under way, or nothing to do (*before), or NULL: to be made. */
static struct replica_seed *find_locked(struct replicas *r, const char *peer, uint64_t epoch, const json_t *args,
					bool *before)
{
	const struct replica *p = replica_by_uuid_locked(r, field_text(args, "uuid"));
	const json_t *disks = json_object_get(args, "disks");
	struct replica_seed *s = p ? p->seed : NULL;

	if (s && !s->stop && s->epoch == epoch && strcmp(s->peer, peer) == 0 &&
	    json_equal(json_object_get(s->args, "disks"), disks)) {
		s->users++;
		return s;
	}
	*before = !s && p && p->record && json_equal(json_object_get(p->record, "seed"), disks) &&
		  field_is(p->record, "state", "replica") && field_is(p->record, "from", peer) &&
		  field_u64(p->record, "epoch") == epoch;
	return NULL;
}

static struct replica_seed *start(struct replicas *r, const char *peer, uint64_t epoch, const json_t *args,
				  struct replica_seeder *by, struct err *e)
{
	struct replica *p = replica_enter(r, field_text(args, "uuid"), peer, epoch, e);

	if (!p)
		return NULL;
	struct replica_seed *s = mem_alloc(sizeof(*s));
	*s = (struct replica_seed){ .replica = p, .epoch = epoch, .by = *by, .users = 2 };
	snprintf(s->peer, sizeof(s->peer), "%s", peer);
	s->args = json_deep_copy(args);
	{
		THREAD_LOCKED(&r->lock);
		p->seed = s;
		r->winding_up++;
	}
	if (thread_start_detached("replica-seed", seed_thread, s, e) == 0) {
		*by = (struct replica_seeder){ 0 };
		return s;
	}
	/* Others may wait for it by now. */
	THREAD_LOCKED(&r->lock);
	over_locked(s, e);
	put_locked(s);
	return NULL;
}

/* Gives it back. */
static int wait_for(struct replicas *r, struct replica_seed *s,
		    bool (*go)(void *ctx, const char *disk, uint64_t done, uint64_t total), void *ctx, struct err *e)
{
	bool wanted = true;
	int rc = 0;

	pthread_mutex_lock(&r->lock);
	while (!s->over && wanted) {
		char disk[sizeof(s->disk)];
		const uint64_t done = s->done, total = s->total;
		memcpy(disk, s->disk, sizeof(disk));
		pthread_mutex_unlock(&r->lock);
		wanted = go(ctx, disk, done, total);
		pthread_mutex_lock(&r->lock);
		if (!s->over && wanted)
			thread_cond_wait_until(&r->changed, &r->lock, clock_mono_ns() + LOOK_NS);
	}
	if (!s->over)
		rc = err_set(e, ERR_CANCELLED, "not waited for; it goes on");
	else if (err_is_set(&s->error)) {
		*e = s->error;
		rc = -1;
	}
	put_locked(s);
	pthread_mutex_unlock(&r->lock);
	return rc;
}

int replicas_seed(struct replicas *r, const char *peer, const json_t *args, struct replica_seeder *by,
		  bool (*go)(void *ctx, const char *disk, uint64_t done, uint64_t total), void *ctx, json_t **result,
		  struct err *e)
{
	bool before = false;
	uint64_t epoch;
	int rc = replica_begin_args(args, &epoch, e);

	if (rc == 0) {
		struct replica_seed *s;
		{
			THREAD_LOCKED(&r->lock);
			s = find_locked(r, peer, epoch, args, &before);
		}
		if (!s && !before)
			s = start(r, peer, epoch, args, by, e);
		rc = s ? wait_for(r, s, go, ctx, e) : before ? 0 : -1;
	}
	if (by->free)
		by->free(by->ctx);
	if (rc == 0)
		*result = json_pack("{s:s}", "seeded", before ? "before" : "now");
	return rc;
}
