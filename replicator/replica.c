#include "replicator/replica_internal.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/epoch.h"
#include "replicator/field.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* ---- the table ---- */

struct replica *replica_by_uuid_locked(struct replicas *r, const char *uuid)
{
	for (struct replica *p = r->first; p; p = p->next)
		if (strcmp(p->uuid, uuid) == 0)
			return p;
	return NULL;
}

static struct replica *named_locked(struct replicas *r, const char *name, size_t *n)
{
	struct replica *found = NULL;

	*n = 0;
	for (struct replica *p = r->first; p; p = p->next)
		if (p->record && strcmp(field_text(p->record, "vm"), name) == 0) {
			found = p;
			(*n)++;
		}
	return found;
}

struct replica *replica_find_locked(struct replicas *r, const char *vm)
{
	size_t n;

	/* A peer names its VMs as it likes: no name stands for another's UUID. */
	if (epoch_uuid_ok(vm))
		return replica_by_uuid_locked(r, vm);
	struct replica *p = named_locked(r, vm, &n);
	return n == 1 ? p : NULL;
}

struct replica *replica_new(struct replicas *r, const char *uuid, json_t *record)
{
	struct replica *p = mem_alloc(sizeof(*p));
	struct err why = ERR_INIT;

	p->all = r;
	snprintf(p->uuid, sizeof(p->uuid), "%s", uuid);
	p->record = record;
	if (epoch_check_readable(record, &why) < 0)
		snprintf(p->trouble, sizeof(p->trouble), "%.390s; %.199s", why.text, why.remedy);
	return p;
}

/* A seed is ended for nobody who may not write. */
static int move_locked(struct replica *p, const char *peer, uint64_t epoch, struct err *e)
{
	struct replicas *r = p->all;

	while (p->moving && !r->stopping) {
		if (peer && (epoch_admit(p->record, r->host_name, peer, epoch, e) < 0 ||
			     replica_seed_admit_locked(p, peer, e) < 0))
			return -1;
		replica_seed_stop_locked(p);
		pthread_cond_wait(&r->changed, &r->lock);
	}
	if (r->stopping)
		return err_set(e, ERR_REFUSED, "%s is shutting down", r->host_name);
	p->moving = true;
	return 0;
}

void replica_moved(struct replica *p)
{
	THREAD_LOCKED(&p->all->lock);
	p->moving = false;
	pthread_cond_broadcast(&p->all->changed);
}

/* ---- taking one, for a change ---- */

/* lock is held */
static int no_replica(struct replicas *r, const char *vm, struct err *e)
{
	size_t n = 0;

	if (!epoch_uuid_ok(vm))
		(void)named_locked(r, vm, &n);
	if (n > 1) {
		err_set(e, ERR_REFUSED, "%s keeps replicas of %zu VMs that are named %.80s", r->host_name, n, vm);
		return err_remedy(e, "say the UUID, as 'vmferry status --json' shows it");
	}
	err_set(e, ERR_REFUSED, "%s keeps no replica of %.80s", r->host_name, vm);
	return err_remedy(e, "'vmferry status' shows what is protected, and where to");
}

struct replica *replica_enter(struct replicas *r, const char *uuid, const char *peer, uint64_t epoch, struct err *e)
{
	THREAD_LOCKED(&r->lock);
	struct replica *p = replica_by_uuid_locked(r, uuid);
	if (!p) {
		p = replica_new(r, uuid, NULL);
		p->next = r->first;
		r->first = p;
	}
	return move_locked(p, peer, epoch, e) == 0 ? p : NULL;
}

struct replica *replica_take(struct replicas *r, const char *uuid, const char *peer, uint64_t epoch, struct err *e)
{
	struct replica *p;

	pthread_mutex_lock(&r->lock);
	p = replica_find_locked(r, uuid);
	if (!p || !p->record) {
		no_replica(r, uuid, e);
		p = NULL;
	} else if (move_locked(p, peer, epoch, e) < 0) {
		p = NULL;
	} else if (!p->record) {
		p->moving = false;
		pthread_cond_broadcast(&r->changed);
		no_replica(r, uuid, e);
		p = NULL;
	}
	pthread_mutex_unlock(&r->lock);
	return p;
}

/* ---- stores ---- */

/* What is known of the points, for status and for sources. */
void replica_note_last(struct replica *p, struct store *s)
{
	struct store_point q;
	json_t *last = NULL;
	size_t n = 0;

	if (store_latest(s, &q, &n)) {
		last = json_pack("{s:I, s:s, s:I}", "seq", (json_int_t)q.seq, "id", field_text(q.meta, "id"),
				 "instant_ns", json_integer_value(json_object_get(q.meta, "instant_ns")));
		json_decref(q.meta);
	}
	THREAD_LOCKED(&p->all->lock);
	json_decref(p->last);
	p->last = last;
	p->points = n;
}

void replica_note_space(struct replica *p, struct store *s)
{
	struct store_usage u = { 0 };
	struct err ignored = ERR_INIT;

	if (store_usage(s, &u, &ignored) < 0)
		return;
	THREAD_LOCKED(&p->all->lock);
	p->space_bytes = u.journal_bytes + u.head_bytes + u.undo_bytes;
}

char *replica_store_path(struct replica *p)
{
	MEM_AUTO char *dir = epoch_replica_dir(p->all->replica_dir, p->uuid);
	THREAD_LOCKED(&p->all->lock);
	const char *name = field_text(p->record, "store");

	return mem_printf("%s/%s", dir, name[0] && !strchr(name, '/') ? name : "store");
}

/* A crash cuts off what was on its way; damage cuts off points that were there, and that is not to be found out at a failover. */
static void tell_dropped(struct replica *p, const struct store *s)
{
	const struct replicas *r = p->all;
	const uint64_t bytes = store_dropped_bytes(s);

	if (bytes == 0 && !store_was_damaged(s))
		return;
	log_warn("replica_journal_cut", "uuid=%s bytes=%llu damaged=%d", p->uuid, (unsigned long long)bytes,
		 (int)store_was_damaged(s));
	if (!store_was_damaged(s) || !r->opts.event)
		return;
	const char *name = json_string_value(json_object_get(store_vm(s), "name"));
	r->opts.event(
		r->opts.ctx, "replica.damaged", p->uuid,
		json_pack("{s:s, s:s, s:I, s:s}", "vm", name ? name : "", "host", r->host_name, "dropped_bytes",
			  (json_int_t)bytes, "reason",
			  "a record of the journal does not verify, and committed points come after it; they are lost, "
			  "and the rest is kept as .bad"));
}

static struct store *open_or_create(struct replica *p, const json_t *create, struct err *e)
{
	struct replicas *r = p->all;
	MEM_AUTO char *path = replica_store_path(p);
	struct stat st;

	{
		/* Which of its stores, and whether a VM runs on it: opening alone would write to it. */
		THREAD_LOCKED(&r->lock);
		if (epoch_check_readable(p->record, e) < 0)
			return NULL;
	}
	if (stat(path, &st) == 0) {
		struct store *s = store_open(path, &(struct store_opts){ 0 }, e);
		if (s)
			tell_dropped(p, s);
		return s;
	}
	if (errno != ENOENT) {
		err_sys(e, "%s", path);
		return NULL;
	}
	if (!create) {
		err_set(e, ERR_REFUSED, "nothing of this VM has come to %s yet", r->host_name);
		return NULL;
	}
	return store_create(path, &(struct store_opts){ 0 }, create, e);
}

struct store *replica_open(struct replica *p, const json_t *create, struct err *e)
{
	struct replicas *r = p->all;

	pthread_mutex_lock(&r->lock);
	/* One that failed is closed by its last user; nobody begins to use it anew before. And one at a time opens: two would write
	 * to the same files. */
	while (p->opening || (p->reopen && p->store && p->users))
		pthread_cond_wait(&r->changed, &r->lock);
	if (p->store && !p->reopen) {
		p->users++;
		pthread_mutex_unlock(&r->lock);
		return p->store;
	}
	struct store *old = p->store;
	p->store = NULL;
	p->reopen = p->opening = true;
	p->users++;
	pthread_mutex_unlock(&r->lock);

	store_close(old);
	struct store *s = open_or_create(p, create, e);
	if (s)
		replica_note_last(p, s);
	THREAD_LOCKED(&r->lock);
	p->store = s;
	p->reopen = !s;
	p->opening = false;
	if (!s)
		p->users--;
	pthread_cond_broadcast(&r->changed);
	return s;
}

void replica_close(struct replica *p)
{
	THREAD_LOCKED(&p->all->lock);
	p->users--;
	pthread_cond_broadcast(&p->all->changed);
}

void replica_close_store(struct replica *p)
{
	struct replicas *r = p->all;

	pthread_mutex_lock(&r->lock);
	while (p->users)
		pthread_cond_wait(&r->changed, &r->lock);
	struct store *s = p->store;
	p->store = NULL;
	pthread_mutex_unlock(&r->lock);
	store_close(s);
}

struct store *replicas_get(struct replicas *r, const char *vm, json_t **record, struct err *e)
{
	struct replica *p;

	{
		THREAD_LOCKED(&r->lock);
		p = replica_find_locked(r, vm);
		if (!p || !p->record) {
			no_replica(r, vm, e);
			return NULL;
		}
		if (record)
			*record = json_deep_copy(p->record);
	}
	struct store *s = replica_open(p, NULL, e);
	if (!s && record) {
		json_decref(*record);
		*record = NULL;
	}
	return s;
}

void replicas_put(struct replicas *r, struct store *s)
{
	struct replica *p;

	{
		THREAD_LOCKED(&r->lock);
		for (p = r->first; p && p->store != s; p = p->next)
			;
	}
	if (p)
		replica_close(p);
}

bool replicas_has(struct replicas *r, const char *vm)
{
	THREAD_LOCKED(&r->lock);
	const struct replica *p = replica_find_locked(r, vm);
	size_t n = 0;
	/* Which one, is the next question. */
	return p ? p->record != NULL : named_locked(r, vm, &n) != NULL;
}

/* ---- records ---- */

int replica_update(struct replica *p, const json_t *changes, struct err *e)
{
	struct replicas *r = p->all;
	json_t *record;

	pthread_mutex_lock(&r->lock);
	record = p->record ? json_deep_copy(p->record) : json_object();
	pthread_mutex_unlock(&r->lock);
	json_object_set_new(record, "uuid", json_string(p->uuid));
	json_object_set_new(record, "role", json_string("target"));
	json_t *copy = json_deep_copy(changes);
	json_object_update(record, copy);
	json_decref(copy);
	int rc = epoch_save_replica(r->replica_dir, record, e);
	if (rc < 0 && err_is_full(e) && replica_reserve_give(r)) {
		err_clear(e);
		rc = epoch_save_replica(r->replica_dir, record, e);
	}
	if (rc < 0) {
		json_decref(record);
		return -1;
	}
	THREAD_LOCKED(&r->lock);
	json_decref(p->record);
	p->record = record;
	return 0;
}

json_t *replicas_record(struct replicas *r, const char *vm)
{
	THREAD_LOCKED(&r->lock);
	const struct replica *p = replica_find_locked(r, vm);
	return p && p->record ? json_deep_copy(p->record) : NULL;
}
