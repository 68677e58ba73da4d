#include "replicator/replica_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/epoch.h"
#include "replicator/failover_disks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_REPLICAS 4096u

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

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
		if (p->record && strcmp(text_of(p->record, "vm"), name) == 0) {
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

static struct replica *replica_new(struct replicas *r, const char *uuid, json_t *record)
{
	struct replica *p = mem_alloc(sizeof(*p));

	p->all = r;
	snprintf(p->uuid, sizeof(p->uuid), "%s", uuid);
	p->record = record;
	snprintf(p->trouble, sizeof(p->trouble), "%.399s", text_of(record, "unreadable"));
	return p;
}

static void replica_free(struct replica *p)
{
	store_close(p->store);
	json_decref(p->record);
	json_decref(p->last);
	free(p);
}

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
	json_array_foreach(all, i, record) {
		struct replica *p = replica_new(r, text_of(record, "uuid"), json_deep_copy(record));
		p->next = r->first;
		r->first = p;
	}
	pthread_mutex_unlock(&r->lock);
	json_decref(all);
	return r;
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

bool replica_move_locked(struct replica *p)
{
	struct replicas *r = p->all;

	while (p->moving && !r->stopping)
		pthread_cond_wait(&r->changed, &r->lock);
	if (r->stopping)
		return false;
	p->moving = true;
	return true;
}

void replica_moved(struct replica *p)
{
	THREAD_LOCKED(&p->all->lock);
	p->moving = false;
	pthread_cond_broadcast(&p->all->changed);
}

/* ---- stores ---- */

/* What is known of the points, for status and for sources. */
void replica_note_last(struct replica *p, struct store *s)
{
	struct store_point *points = NULL;
	struct err e = ERR_INIT;
	size_t n = 0;
	json_t *last = NULL;

	if (store_points(s, &points, &n, &e) < 0) {
		log_warn("replica_points", "uuid=%s msg=%s", p->uuid, LOG_Q(e.text));
		return;
	}
	if (n) {
		const struct store_point *q = &points[n - 1];
		last = json_pack("{s:I, s:s, s:I}", "seq", (json_int_t)q->seq, "id", text_of(q->meta, "id"), "instant_ns",
				 json_integer_value(json_object_get(q->meta, "instant_ns")));
	}
	store_points_free(points, n);
	THREAD_LOCKED(&p->all->lock);
	json_decref(p->last);
	p->last = last;
	p->points = n;
}

char *replica_store_path(struct replica *p)
{
	MEM_AUTO char *dir = epoch_replica_dir(p->all->replica_dir, p->uuid);
	THREAD_LOCKED(&p->all->lock);
	const char *name = text_of(p->record, "store");

	return mem_printf("%s/%s", dir, name[0] && !strchr(name, '/') ? name : "store");
}

/* A crash cuts off what was on its way; damage cuts off points that were there, and that is not to be found out at a failover. */
static void tell_dropped(struct replica *p, const struct store *s)
{
	const struct replicas *r = p->all;
	const uint64_t bytes = store_dropped_bytes(s);

	if (bytes == 0)
		return;
	log_warn("replica_journal_cut", "uuid=%s bytes=%llu damaged=%d", p->uuid, (unsigned long long)bytes, (int)store_was_damaged(s));
	if (!store_was_damaged(s) || !r->opts.event)
		return;
	const char *name = json_string_value(json_object_get(store_vm(s), "name"));
	r->opts.event(r->opts.ctx, "replica.damaged", p->uuid,
		      json_pack("{s:s, s:s, s:I, s:s}", "vm", name ? name : "", "host", r->host_name, "dropped_bytes", (json_int_t)bytes, "reason",
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
	if (epoch_save_replica(r->replica_dir, record, e) < 0) {
		json_decref(record);
		return -1;
	}
	THREAD_LOCKED(&r->lock);
	json_decref(p->record);
	p->record = record;
	return 0;
}

/* ---- what is asked ---- */

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

int replicas_status(struct replicas *r, const json_t *args, json_t **result, struct err *e)
{
	const char *uuid = text_of(args, "uuid");

	{
		THREAD_LOCKED(&r->lock);
		struct replica *p = replica_find_locked(r, uuid);
		if (!p || !p->record) {
			*result = json_object();
			return 0;
		}
		if (epoch_check_readable(p->record, e) < 0)
			return -1;
		*result = json_pack("{s:O, s:O, s:O, s:I, s:O?}", "epoch", json_object_get(p->record, "epoch"), "state",
				    json_object_get(p->record, "state"), "from", json_object_get(p->record, "from"), "points",
				    (json_int_t)p->points, "last", p->last);
		if (p->store)
			return 0;
	}
	/* Not looked into since the agent started. */
	struct store *s = replicas_get(r, uuid, NULL, e);
	if (!s) {
		err_clear(e);
		return 0;
	}
	replicas_put(r, s);
	THREAD_LOCKED(&r->lock);
	struct replica *p = replica_find_locked(r, uuid);
	if (p) {
		json_object_set_new(*result, "points", json_integer((json_int_t)p->points));
		json_object_set(*result, "last", p->last ? p->last : json_null());
	}
	return 0;
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

static const char *shown_state(const struct replica *p, const char **reason)
{
	const char *state = text_of(p->record, "state");

	*reason = p->trouble;
	if (strcmp(state, "promoting") == 0 || strcmp(state, "promoted") == 0)
		return "promoted";
	if (p->session && p->session->receive)
		return p->last ? "protected" : "seeding";
	if (!p->trouble[0])
		*reason = "the source is not connected";
	return "waiting";
}

static json_t *status_of(struct replica *p, const struct store_usage *u)
{
	const char *reason;
	const char *state = shown_state(p, &reason);
	const struct replica_session *ss = p->session;
	/* Of a record of whatever age: what is not in it is left out, or 0. */
	json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:O*}", "vm", text_of(p->record, "vm"), "uuid", p->uuid, "host",
			      text_of(p->record, "from"), "role", "target", "state", state, "reason", reason, "points",
			      (json_int_t)p->points, "epoch", json_integer_value(json_object_get(p->record, "epoch")), "rpo_target_ms",
			      json_object_get(p->record, "rpo_ms"));

	if (p->last) {
		const int64_t instant = json_integer_value(json_object_get(p->last, "instant_ns"));
		json_object_set(o, "last_point", p->last);
		json_object_set_new(o, "rpo_ms", json_integer((clock_wall_ns() - instant) / NS_PER_MS));
	}
	if (ss)
		json_object_set_new(o, "wire_bytes",
				    json_integer((json_int_t)(ss->receive ? receive_wire_bytes(ss->receive) : 0)));
	json_object_set_new(o, "space_bytes", json_integer((json_int_t)(u->journal_bytes + u->head_bytes + u->undo_bytes)));
	return o;
}

void replicas_list(struct replicas *r, const char *vm, json_t *out)
{
	size_t n = 0;
	char uuid[MAX_REPLICAS / 16][37];

	{
		THREAD_LOCKED(&r->lock);
		for (struct replica *p = r->first; p && n < sizeof(uuid) / sizeof(uuid[0]); p = p->next)
			if (p->record && (!vm || strcmp(vm, p->uuid) == 0 || strcmp(vm, text_of(p->record, "vm")) == 0))
				snprintf(uuid[n++], sizeof(uuid[0]), "%s", p->uuid);
	}
	for (size_t i = 0; i < n; i++) {
		struct store_usage u = { 0 };
		struct err e = ERR_INIT;
		struct store *s = replicas_get(r, uuid[i], NULL, &e);
		if (s) {
			(void)store_usage(s, &u, &e);
			replicas_put(r, s);
		}
		THREAD_LOCKED(&r->lock);
		struct replica *p = replica_find_locked(r, uuid[i]);
		if (!p || !p->record)
			continue;
		json_t *o = status_of(p, &u);
		if (err_is_set(&e) && e.cls != ERR_REFUSED)
			json_object_set_new(o, "reason", json_string(e.text));
		json_array_append_new(out, o);
	}
}

static json_t *point_json(const struct store_point *q)
{
	json_t *o = json_deep_copy(q->meta);

	if (!o)
		o = json_object();
	json_object_set_new(o, "seq", json_integer((json_int_t)q->seq));
	json_object_set_new(o, "committed_ns", json_integer(q->committed_ns));
	json_object_set_new(o, "bytes", json_integer((json_int_t)q->bytes));
	json_object_set_new(o, "undo_bytes", json_integer((json_int_t)q->undo_bytes));
	return o;
}

int replicas_points(struct replicas *r, const json_t *args, json_t **result, struct err *e)
{
	struct store_point *points = NULL;
	struct store_usage u = { 0 };
	size_t n = 0;
	const char *vm = text_of(args, json_object_get(args, "vm") ? "vm" : "uuid");
	struct store *s = replicas_get(r, vm, NULL, e);

	if (!s)
		return -1;
	int rc = store_points(s, &points, &n, e);
	if (rc == 0)
		rc = store_usage(s, &u, e);
	if (rc == 0) {
		json_t *list = json_array();
		for (size_t i = 0; i < n; i++)
			json_array_append_new(list, point_json(&points[i]));
		*result = json_pack("{s:o, s:{s:I, s:I, s:I, s:I}}", "points", list, "usage", "journal_bytes",
				    (json_int_t)u.journal_bytes, "head_bytes", (json_int_t)u.head_bytes, "undo_bytes",
				    (json_int_t)u.undo_bytes, "pending", (json_int_t)u.pending_txns);
	}
	store_points_free(points, n);
	replicas_put(r, s);
	return rc;
}

int replicas_verify(struct replicas *r, const json_t *args, bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
		    json_t **result, struct err *e)
{
	struct store *s = replicas_get(r, text_of(args, "vm"), NULL, e);

	if (!s)
		return -1;
	const int64_t start = clock_mono_ns();
	const int rc = store_verify(s, progress, ctx, e);
	if (rc == 0)
		*result = json_pack("{s:b, s:I}", "verified", 1, "ms", (json_int_t)((clock_mono_ns() - start) / NS_PER_MS));
	replicas_put(r, s);
	return rc;
}

/* ---- changes of owner ---- */

struct replica *replica_take(struct replicas *r, const char *uuid, struct err *e)
{
	struct replica *p;

	pthread_mutex_lock(&r->lock);
	p = replica_find_locked(r, uuid);
	if (!p || !p->record) {
		no_replica(r, uuid, e);
		p = NULL;
	} else if (!replica_move_locked(p)) {
		err_set(e, ERR_REFUSED, "%s is shutting down", r->host_name);
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

int replicas_change(struct replicas *r, const char *uuid, const char *expect, const json_t *changes, struct err *e)
{
	struct replica *p = replica_take(r, uuid, e);
	char state[32], vm[256];

	if (!p)
		return -1;
	{
		THREAD_LOCKED(&r->lock);
		snprintf(state, sizeof(state), "%.31s", text_of(p->record, "state"));
		snprintf(vm, sizeof(vm), "%.255s", text_of(p->record, "vm"));
	}
	int rc = 0;
	if (strcmp(state, expect) != 0)
		rc = err_set(e, ERR_REFUSED, "the replica of VM %s is %s, not %s", vm, state, expect);
	if (rc == 0)
		rc = replica_update(p, changes, e);
	/* After that: from here on the source is refused, whatever happens. */
	const char *now = text_of(changes, "state");
	if (rc == 0 && now[0] && strcmp(now, "replica") != 0)
		replica_session_end(p, "failover");
	replica_moved(p);
	return rc;
}

int replicas_promote(struct replicas *r, const char *uuid, uint64_t *epoch, struct err *e)
{
	uint64_t next = 0;
	{
		THREAD_LOCKED(&r->lock);
		const struct replica *p = replica_find_locked(r, uuid);
		if (p && p->record)
			next = (uint64_t)json_integer_value(json_object_get(p->record, "epoch")) + 1;
	}
	json_t *changes = json_pack("{s:s, s:I}", "state", "promoting", "epoch", (json_int_t)next);
	const int rc = replicas_change(r, uuid, "replica", changes, e);
	json_decref(changes);
	if (rc == 0)
		*epoch = next;
	return rc;
}

int replicas_set_state(struct replicas *r, const char *uuid, const char *state, struct err *e)
{
	json_t *changes = json_pack("{s:s}", "state", state);
	const int rc = replicas_change(r, uuid, "promoting", changes, e);

	json_decref(changes);
	return rc;
}

/* ---- release ---- */

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

/* Nobody may use the store any more; p is being moved by us. */
static int destroy(struct replica *p, struct err *e)
{
	struct replicas *r = p->all;
	MEM_AUTO char *dir = epoch_replica_dir(r->replica_dir, p->uuid);
	MEM_AUTO char *store = replica_store_path(p);
	MEM_AUTO char *record = mem_printf("%s/replica.json", dir);
	struct stat st;

	replica_close_store(p);
	/* The record last: what is half removed is still known to be a replica. */
	if (stat(store, &st) == 0 && store_destroy(store, e) < 0)
		return -1;
	if (file_remove_durable(record, e) < 0)
		return -1;
	if (rmdir(dir) < 0)
		log_warn("replica_folder_left", "dir=%s errno=%d", dir, errno);
	THREAD_LOCKED(&r->lock);
	json_decref(p->record);
	json_decref(p->last);
	p->record = p->last = NULL;
	p->points = 0;
	return 0;
}

static int check_promoted(const struct replica *p, struct err *e)
{
	MEM_AUTO char *dir = epoch_replica_dir(p->all->replica_dir, p->uuid);
	const json_t *disks = json_object_get(json_object_get(p->record, "promotion"), "disks");
	const char *image = strcmp(text_of(p->record, "state"), "promoted") == 0 ? failover_disks_over_store(disks, dir) : NULL;

	if (!image)
		return 0;
	err_set(e, ERR_REFUSED, "%s, a disk of VM %s, has most of its contents in this replica", image, text_of(p->record, "vm"));
	return err_remedy(e, "move the VM's disks first ('virsh blockcopy', or 'qemu-img convert' while it is off), and remove that image");
}

int replicas_release(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	const char *uuid = text_of(args, "uuid");
	const uint64_t epoch = (uint64_t)json_integer_value(json_object_get(args, "epoch"));

	if (!replicas_has(r, uuid)) {
		*result = json_object();
		return 0;
	}
	struct replica *p = replica_take(r, uuid, e);
	if (!p)
		return -1;
	/* rpc NULL: this host's own operator, who may always but for a VM that runs from it. */
	int rc = 0;
	pthread_mutex_lock(&r->lock);
	if (rpc)
		rc = epoch_admit(p->record, r->host_name, rpc_peer_name(rpc), epoch, e);
	else if (epoch_check_readable(p->record, e) < 0)
		rc = -1;
	else if (strcmp(text_of(p->record, "state"), "promoting") == 0)
		rc = err_set(e, ERR_REFUSED, "a failover of VM %s is under way", text_of(p->record, "vm"));
	else
		rc = check_promoted(p, e);
	pthread_mutex_unlock(&r->lock);
	if (rc == 0) {
		replica_session_end(p, "the replica is given up");
		rc = destroy(p, e);
	}
	replica_moved(p);
	if (rc == 0) {
		log_info("replica_released", "uuid=%s", uuid);
		*result = json_object();
	}
	return rc;
}
