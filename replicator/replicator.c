#include "replicator/replicator.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/adopt.h"
#include "replicator/epoch.h"
#include "replicator/schedule.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_NS NS_PER_S
#define HOLD_NS (30 * NS_PER_S)
#define HANDOVER_NS (240 * NS_PER_S)
#define FORWARD_NS (600 * NS_PER_S)
#define MIN_RPO_MS 100
#define MAX_RPO_MS (7 * 24 * 3600 * 1000LL)
#define DEFAULT_RPO_MS 5000
#define MAX_PROTECTIONS 1024u

static const struct capture_calls real_capture = { .make = capture_new,
						   .chosen = capture_chosen,
						   .reason = capture_reason,
						   .start = capture_start,
						   .take = capture_take,
						   .take_last = capture_take_last,
						   .let_go = capture_let_go,
						   .leave = capture_leave,
						   .stop = capture_stop,
						   .abort = capture_abort,
						   .free = capture_free,
						   .clean_up = capture_clean_up,
						   .still = adopt_still };

struct entry {
	struct protection *protection; /* NULL while it is being changed */
	char uuid[GUEST_UUID_LEN];
	unsigned users; /* calls under way; who changes waits for them */
};

struct replicator {
	/* fixed */
	struct replicator_opts opts;
	char *host_name, *state_dir;
	struct pool *pool;
	struct replicas *replicas;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	struct entry *entries[MAX_PROTECTIONS];
	size_t n;
	bool changing; /* one protect or unprotect at a time */
	bool stopping;

	pthread_t looker; /* calls protection_look */
	bool looks;
};

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

/* ---- protections by name ---- */

static struct entry *find_locked(struct replicator *r, const char *vm)
{
	for (size_t i = 0; i < r->n; i++)
		if (strcmp(r->entries[i]->uuid, vm) == 0)
			return r->entries[i];
	for (size_t i = 0; i < r->n; i++)
		if (r->entries[i]->protection && protection_is(r->entries[i]->protection, vm))
			return r->entries[i];
	return NULL;
}

/* For one call; NULL if there is none. */
static struct entry *borrow(struct replicator *r, const char *vm)
{
	THREAD_LOCKED(&r->lock);
	struct entry *en = find_locked(r, vm);
	if (!en || !en->protection)
		return NULL;
	en->users++;
	return en;
}

static void give_back(struct replicator *r, struct entry *en)
{
	THREAD_LOCKED(&r->lock);
	en->users--;
	pthread_cond_broadcast(&r->changed);
}

static int none(const char *vm, const struct replicator *r, struct err *e)
{
	err_set(e, ERR_REFUSED, "%.80s is not protected from %s", vm[0] ? vm : "the VM", r->host_name);
	return err_remedy(e, "'vmferry status' shows what is; 'vmferry protect VM --to HOST' begins");
}

static void begin_change(struct replicator *r)
{
	THREAD_LOCKED(&r->lock);
	while (r->changing)
		pthread_cond_wait(&r->changed, &r->lock);
	r->changing = true;
}

static void end_change(struct replicator *r)
{
	THREAD_LOCKED(&r->lock);
	r->changing = false;
	pthread_cond_broadcast(&r->changed);
}

/* Takes the running protection out of the table and ends it. Its entry stays. */
static void stop_entry(struct replicator *r, struct entry *en)
{
	pthread_mutex_lock(&r->lock);
	struct protection *p = en->protection;
	en->protection = NULL;
	while (en->users)
		pthread_cond_wait(&r->changed, &r->lock);
	pthread_mutex_unlock(&r->lock);
	protection_stop(p);
}

static struct protection_opts protection_opts_of(struct replicator *r)
{
	const struct replicator_opts *o = &r->opts;

	return (struct protection_opts){ .host_name = r->host_name,
					 .state_dir = r->state_dir,
					 .ways = { .connect_peer = o->connect_peer, .connect_data = o->connect_data, .ctx = o->ctx },
					 .pool = r->pool,
					 .delta_cache = o->delta_cache,
					 .staging_bytes = o->staging_bytes,
					 .channels = o->channels,
					 .replicas = r->replicas,
					 .capture = o->capture ? o->capture : &real_capture,
					 .retry_ns = o->retry_ns,
					 .open_guest = o->open_guest,
					 .arm = o->arm,
					 .watch = o->watch,
					 .hold = o->hold,
					 .unwatch = o->unwatch,
					 .part = o->part,
					 .event = o->event,
					 .ctx = o->ctx };
}

/* Starts what the record says, in the entry of its UUID. */
static int start_entry(struct replicator *r, const json_t *record, struct err *e)
{
	const struct protection_opts o = protection_opts_of(r);
	const char *uuid = text_of(record, "uuid");
	struct protection *p = protection_start(&o, record, e);

	if (!p)
		return -1;
	pthread_mutex_lock(&r->lock);
	struct entry *en = find_locked(r, uuid);
	const bool full = !en && r->n == MAX_PROTECTIONS;
	if (!en && !full) {
		en = mem_alloc(sizeof(*en));
		snprintf(en->uuid, sizeof(en->uuid), "%s", uuid);
		r->entries[r->n++] = en;
	}
	if (!full)
		en->protection = p;
	pthread_mutex_unlock(&r->lock);
	if (!full)
		return 0;
	protection_stop(p);
	return err_set(e, ERR_REFUSED, "more than %u VMs cannot be protected from one host", MAX_PROTECTIONS);
}

static void remove_entry(struct replicator *r, struct entry *en)
{
	THREAD_LOCKED(&r->lock);
	for (size_t i = 0; i < r->n; i++)
		if (r->entries[i] == en)
			r->entries[i] = r->entries[--r->n];
	free(en);
}

/* ---- life ---- */

/* Ends captures that get nowhere. */
static void *look_thread(void *arg)
{
	struct replicator *r = arg;

	THREAD_LOCKED(&r->lock);
	while (!r->stopping) {
		const int64_t now = clock_mono_ns();
		/* The lock is held: what protection_look waits for is never held for long, nor while the table's is asked for. */
		for (size_t i = 0; i < r->n; i++)
			if (r->entries[i]->protection)
				protection_look(r->entries[i]->protection, now);
		thread_cond_wait_until(&r->changed, &r->lock, now + LOOK_NS);
	}
	return NULL;
}

void replicator_rescued(struct replicator *r, const char *uuid, enum guardian_end how)
{
	struct entry *en = borrow(r, uuid);

	if (!en)
		return;
	protection_rescued(en->protection, how);
	give_back(r, en);
}

struct replicator *replicator_new(const struct replicator_opts *opts, struct err *e)
{
	struct replicator *r = mem_alloc(sizeof(*r));
	MEM_AUTO char *below = mem_printf("%s/replicas", opts->state_dir);
	json_t *all = NULL, *record;
	size_t i;

	r->opts = *opts;
	r->host_name = mem_strdup(opts->host_name);
	r->state_dir = mem_strdup(opts->state_dir);
	pthread_mutex_init(&r->lock, NULL);
	thread_cond_init(&r->changed);
	r->pool = pool_new(opts->workers, "replica", 0, e);
	if (!r->pool)
		goto fail;
	const struct replicas_opts ro = { .host_name = r->host_name,
					  .replica_dir = opts->replica_dir ? opts->replica_dir : below,
					  .delta_cache = opts->delta_cache,
					  .pool = r->pool,
					  .event = opts->event,
					  .point = opts->point,
					  .ctx = opts->ctx };
	r->replicas = replicas_new(&ro, e);
	all = r->replicas ? epoch_load_protections(r->state_dir, e) : NULL;
	if (!all)
		goto fail;
	json_array_foreach(all, i, record) {
		struct err one = ERR_INIT;
		/* One that cannot be started must not keep the others from it. */
		if (start_entry(r, record, &one) < 0)
			log_error("protection_not_started", "uuid=%s msg=%s", text_of(record, "uuid"), LOG_Q(one.text));
	}
	json_decref(all);
	all = NULL;
	if (thread_start(&r->looker, "look", look_thread, r, e) < 0)
		goto fail;
	r->looks = true;
	return r;
fail:
	replicator_free(r);
	return NULL;
}

void replicator_free(struct replicator *r)
{
	if (!r)
		return;
	if (r->looks) {
		pthread_mutex_lock(&r->lock);
		r->stopping = true;
		pthread_cond_broadcast(&r->changed);
		pthread_mutex_unlock(&r->lock);
		pthread_join(r->looker, NULL);
	}
	while (r->n) {
		struct entry *en = r->entries[r->n - 1];
		stop_entry(r, en);
		remove_entry(r, en);
	}
	replicas_free(r->replicas);
	pool_free(r->pool);
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	free(r->host_name);
	free(r->state_dir);
	free(r);
}

struct replicas *replicator_replicas(struct replicator *r)
{
	return r->replicas;
}

bool replicator_protects(struct replicator *r, const char *vm, json_t **record)
{
	struct entry *en = borrow(r, vm);

	if (!en)
		return false;
	if (record)
		*record = protection_record(en->protection);
	give_back(r, en);
	return true;
}

/* ---- protect ---- */

static int check_number(const json_t *args, const char *key, int64_t least, int64_t most, struct err *e)
{
	const json_t *v = json_object_get(args, key);

	if (!v || json_is_null(v))
		return 0;
	if (json_is_integer(v) && json_integer_value(v) >= least && json_integer_value(v) <= most)
		return 0;
	return err_set(e, ERR_CONFIG, "protect: %s is not a number from %lld to %lld", key, (long long)least, (long long)most);
}

static int check_args(const struct replicator *r, const json_t *args, struct err *e)
{
	const char *mode = text_of(args, "mode");
	const json_t *keep = json_object_get(args, "keep");

	if (!text_of(args, "vm")[0] || !text_of(args, "host")[0])
		return err_set(e, ERR_CONFIG, "protect: which VM, and to which host?");
	if (strcmp(text_of(args, "host"), r->host_name) == 0)
		return err_set(e, ERR_REFUSED, "a VM is not protected by a copy on its own host %s", r->host_name);
	enum capture_mode m;
	if (mode[0] && strcmp(mode, "memory") != 0 && capture_mode_from_name(mode, &m) < 0)
		return err_set(e, ERR_CONFIG, "protect: mode is auto, memory, colo, background or disk, not %.20s", mode);
	if (schedule_check(json_object_get(args, "schedule"), e) < 0)
		return -1;
	if (keep && !json_is_null(keep) && !json_is_object(keep))
		return err_set(e, ERR_CONFIG, "protect: keep is not an object");
	if (check_number(args, "rpo_ms", MIN_RPO_MS, MAX_RPO_MS, e) < 0 || check_number(args, "max_pause_ms", 0, 60000, e) < 0 ||
	    check_number(args, "bandwidth", 0, INT64_MAX, e) < 0 || check_number(keep, "last", 1, 100000, e) < 0 ||
	    check_number(keep, "hourly", 0, 100000, e) < 0 || check_number(keep, "daily", 0, 100000, e) < 0 ||
	    check_number(keep, "max_bytes", 0, INT64_MAX, e) < 0)
		return -1;
	return 0;
}

static int look_at_guest(struct replicator *r, const char *vm, struct guest_info *info, struct err *e)
{
	struct guest *g = r->opts.open_guest(r->opts.ctx, vm, e);

	if (!g) {
		if (e->cls == ERR_REFUSED)
			err_remedy(e, "start it first; once protected, it may be shut off and started at any time");
		return -1;
	}
	const int rc = g->ops->info(g->ctx, info, e);
	guest_free(g);
	return rc;
}

/* The epoch with which this host may begin, asked at the peer; 0 with the error set. */
static uint64_t find_epoch(struct replicator *r, const char *uuid, const char *vm, const char *host, uint64_t ours, struct err *e)
{
	const struct courier_opts co = {
		.ways = { .connect_peer = r->opts.connect_peer, .connect_data = r->opts.connect_data, .ctx = r->opts.ctx },
		.host = host,
		.uuid = uuid,
	};
	json_t *theirs = NULL;

	if (courier_ask(&co, &theirs, e) < 0) {
		err_wrap(e, "protect %s", vm);
		return 0;
	}
	const char *state = text_of(theirs, "state");
	const uint64_t epoch = (uint64_t)json_integer_value(json_object_get(theirs, "epoch"));
	uint64_t found = ours;
	if (strcmp(state, "promoting") == 0 || strcmp(state, "promoted") == 0) {
		err_set(e, ERR_REFUSED, "%s runs VM %s itself (epoch %llu)", host, vm, (unsigned long long)epoch);
		err_remedy(e, "a VM must run once only: look at both with 'vmferry vms' before anything else");
		found = 0;
	} else if (state[0] && strcmp(state, "released") != 0 && strcmp(text_of(theirs, "from"), r->host_name) != 0) {
		err_set(e, ERR_REFUSED, "%s keeps a replica of VM %s for %s", host, vm, text_of(theirs, "from"));
		err_remedy(e, "if it has moved here: 'vmferry unprotect %s --forget' there first", vm);
		found = 0;
	} else if (epoch > found) {
		found = epoch;
	}
	json_decref(theirs);
	return found;
}

static void copy_keys(json_t *record, const json_t *args)
{
	static const char *const keys[] = { "rpo_ms", "mode", "keep", "quiesce", "max_pause_ms", "schedule", "bandwidth" };

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		const json_t *v = json_object_get(args, keys[i]);
		if (v && !json_is_null(v))
			json_object_set_new(record, keys[i], json_deep_copy(v));
	}
}

/* The epoch this host has for the VM: as its source, or because it was promoted here. */
static uint64_t own_epoch(struct replicator *r, const char *uuid, const json_t *old)
{
	uint64_t epoch = old ? (uint64_t)json_integer_value(json_object_get(old, "epoch")) : 1;
	json_t *args = json_pack("{s:s}", "uuid", uuid), *replica = NULL;
	struct err e = ERR_INIT;

	if (replicas_status(r->replicas, args, &replica, &e) == 0 && strcmp(text_of(replica, "state"), "promoted") == 0 &&
	    (uint64_t)json_integer_value(json_object_get(replica, "epoch")) > epoch)
		epoch = (uint64_t)json_integer_value(json_object_get(replica, "epoch"));
	json_decref(args);
	json_decref(replica);
	return epoch;
}

static json_t *make_record(struct replicator *r, const struct guest_info *info, const json_t *args, const json_t *old, struct err *e)
{
	const char *state = text_of(old, "state"), *host = text_of(args, "host");

	if (strcmp(state, "fenced") == 0 || strcmp(state, "handed-over") == 0) {
		err_set(e, ERR_REFUSED, "the protection of %s is %s: %s has taken the VM over", info->name, state, text_of(old, "host"));
		err_remedy(e, "'vmferry unprotect %s' gives up this side first", info->name);
		return NULL;
	}
	if (strcmp(state, "handing-over") == 0) {
		err_set(e, ERR_REFUSED, "%s is being handed over to %s", info->name, text_of(old, "host"));
		return NULL;
	}
	if (old && strcmp(text_of(old, "host"), host) != 0) {
		err_set(e, ERR_REFUSED, "%s is protected to %s already", info->name, text_of(old, "host"));
		err_remedy(e, "'vmferry unprotect %s' first (--forget removes the replica there)", info->name);
		return NULL;
	}
	const uint64_t epoch = find_epoch(r, info->uuid, info->name, host, own_epoch(r, info->uuid, old), e);
	if (!epoch)
		return NULL;
	json_t *record = old ? json_deep_copy(old) : json_pack("{s:i, s:s}", "rpo_ms", DEFAULT_RPO_MS, "mode", "auto");
	copy_keys(record, args);
	json_object_set_new(record, "uuid", json_string(info->uuid));
	json_object_set_new(record, "vm", json_string(info->name));
	json_object_set_new(record, "host", json_string(host));
	json_object_set_new(record, "role", json_string("source"));
	json_object_set_new(record, "state", json_string("active"));
	json_object_set_new(record, "epoch", json_integer((json_int_t)epoch));
	return record;
}

static int protect(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	struct guest_info info = { 0 };
	json_t *old = NULL;

	if (look_at_guest(r, text_of(args, "vm"), &info, e) < 0)
		return -1;
	pthread_mutex_lock(&r->lock);
	struct entry *en = find_locked(r, info.uuid);
	if (en && en->protection)
		old = protection_record(en->protection);
	pthread_mutex_unlock(&r->lock);
	json_t *record = make_record(r, &info, args, old, e);
	int rc = !record ? -1 : old ? protection_replace(en->protection, old, record, e) : epoch_save_protection(r->state_dir, record, e);
	if (rc == 0) {
		if (en)
			stop_entry(r, en);
		rc = start_entry(r, record, e);
	}
	if (rc == 0) {
		r->opts.event(r->opts.ctx, old ? "protection.changed" : "protection.started", info.uuid,
			      json_pack("{s:s, s:s, s:s, s:O}", "vm", info.name, "host", text_of(args, "host"), "from", r->host_name, "rpo_ms",
					json_object_get(record, "rpo_ms")));
		struct entry *now = borrow(r, info.uuid);
		*result = now ? protection_status(now->protection) : json_object();
		if (now)
			give_back(r, now);
	}
	json_decref(record);
	json_decref(old);
	guest_info_fini(&info);
	return rc;
}

int replicator_protect(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	if (check_args(r, args, e) < 0)
		return -1;
	begin_change(r);
	const int rc = protect(r, args, result, e);
	end_change(r);
	return rc;
}

/* ---- unprotect ---- */

static int forget_at_peer(struct replicator *r, const json_t *record, struct err *e)
{
	const struct courier_opts co = {
		.ways = { .connect_peer = r->opts.connect_peer, .connect_data = r->opts.connect_data, .ctx = r->opts.ctx },
		.host = text_of(record, "host"),
		.uuid = text_of(record, "uuid"),
		.epoch = (uint64_t)json_integer_value(json_object_get(record, "epoch")),
	};

	if (courier_release(&co, e) == 0)
		return 0;
	err_wrap(e, "remove the replica at %s", co.host);
	return err_remedy(e, "without --forget the replica stays there, and 'vmferry unprotect %s --forget' at %s removes it",
			  text_of(record, "vm"), co.host);
}

static int unprotect(struct replicator *r, struct entry *en, bool forget, struct err *e)
{
	json_t *record;

	{
		THREAD_LOCKED(&r->lock);
		record = protection_record(en->protection);
	}
	stop_entry(r, en);
	int rc = forget ? forget_at_peer(r, record, e) : 0;
	if (rc == 0)
		rc = epoch_remove_protection(r->state_dir, text_of(record, "uuid"), e);
	if (rc == 0) {
		remove_entry(r, en);
		r->opts.event(r->opts.ctx, "protection.stopped", text_of(record, "uuid"),
			      json_pack("{s:s, s:s, s:s, s:b}", "vm", text_of(record, "vm"), "host", text_of(record, "host"), "from",
					r->host_name, "forgotten", (int)forget));
	} else {
		struct err again = ERR_INIT;
		if (start_entry(r, record, &again) < 0)
			log_error("protection_not_started", "uuid=%s msg=%s", text_of(record, "uuid"), LOG_Q(again.text));
	}
	json_decref(record);
	return rc;
}

int replicator_give_up(struct replicator *r, const char *uuid, struct err *e)
{
	int rc = 0;

	begin_change(r);
	pthread_mutex_lock(&r->lock);
	struct entry *en = find_locked(r, uuid);
	if (en && !en->protection)
		en = NULL;
	pthread_mutex_unlock(&r->lock);
	if (en)
		rc = unprotect(r, en, false, e);
	end_change(r);
	return rc;
}

int replicator_unprotect(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	const char *vm = text_of(args, "vm");
	const bool forget = json_is_true(json_object_get(args, "forget"));
	int rc;

	begin_change(r);
	pthread_mutex_lock(&r->lock);
	struct entry *en = find_locked(r, vm);
	if (en && !en->protection)
		en = NULL;
	pthread_mutex_unlock(&r->lock);
	if (en) {
		rc = unprotect(r, en, forget, e);
	} else if (replicas_has(r->replicas, vm)) {
		json_t *record = NULL, *release = NULL;
		struct store *s = replicas_get(r->replicas, vm, &record, e);
		if (s)
			replicas_put(r->replicas, s);
		err_clear(e);
		if (!forget) {
			rc = err_set(e, ERR_REFUSED, "%s is not protected from here; %s keeps a replica of it", vm, r->host_name);
			err_remedy(e, "'vmferry unprotect %s --forget' removes the replica and all its points", vm);
		} else {
			release = json_pack("{s:s}", "uuid", record ? text_of(record, "uuid") : vm);
			rc = replicas_release(r->replicas, NULL, release, result, e);
		}
		json_decref(release);
		json_decref(record);
	} else {
		rc = none(vm, r, e);
	}
	end_change(r);
	if (rc == 0 && !*result)
		*result = json_object();
	return rc;
}

/* ---- the rest of what operators do ---- */

int replicator_pause(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	struct entry *en = borrow(r, text_of(args, "vm"));

	if (!en)
		return none(text_of(args, "vm"), r, e);
	const int rc = protection_pause(en->protection, e);
	if (rc == 0) {
		r->opts.event(r->opts.ctx, "protection.paused", en->uuid, json_pack("{s:s}", "vm", text_of(args, "vm")));
		*result = protection_status(en->protection);
	}
	give_back(r, en);
	return rc;
}

int replicator_resume(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	struct entry *en = borrow(r, text_of(args, "vm"));

	if (!en)
		return none(text_of(args, "vm"), r, e);
	const int rc = protection_resume(en->protection, e);
	if (rc == 0) {
		r->opts.event(r->opts.ctx, "protection.resumed", en->uuid, json_pack("{s:s}", "vm", text_of(args, "vm")));
		*result = protection_status(en->protection);
	}
	give_back(r, en);
	return rc;
}

int replicator_status(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	const char *vm = json_string_value(json_object_get(args, "vm"));
	json_t *list = json_array();

	{
		THREAD_LOCKED(&r->lock);
		for (size_t i = 0; i < r->n; i++) {
			struct protection *p = r->entries[i]->protection;
			if (p && (!vm || protection_is(p, vm)))
				json_array_append_new(list, protection_status(p));
		}
	}
	replicas_list(r->replicas, vm, list);
	if (vm && json_array_size(list) == 0) {
		json_decref(list);
		return none(vm, r, e);
	}
	*result = json_pack("{s:o}", "protections", list);
	return 0;
}

/* The same call at the host that keeps the replica. */
static int ask_peer(struct replicator *r, const char *method, const char *vm, json_t **result, struct err *e)
{
	json_t *record = NULL;

	if (!replicator_protects(r, vm, &record)) {
		err_set(e, ERR_REFUSED, "%.80s is neither protected from %s nor kept here", vm, r->host_name);
		return err_remedy(e, "'vmferry status' shows what is protected, and where to");
	}
	struct rpc *rpc = r->opts.connect_peer(r->opts.ctx, text_of(record, "host"), e);
	const int rc = rpc ? rpc_call(rpc, method, json_pack("{s:s}", "vm", text_of(record, "uuid")), clock_mono_ns() + FORWARD_NS, NULL,
				      NULL, NULL, result, e) :
			     -1;
	rpc_unref(rpc);
	json_decref(record);
	return rc;
}

int replicator_points(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	const char *vm = text_of(args, "vm");

	return replicas_has(r->replicas, vm) ? replicas_points(r->replicas, args, result, e) : ask_peer(r, "points", vm, result, e);
}

int replicator_verify(struct replicator *r, const json_t *args, bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
		      json_t **result, struct err *e)
{
	const char *vm = text_of(args, "vm");

	return replicas_has(r->replicas, vm) ? replicas_verify(r->replicas, args, progress, ctx, result, e) :
					       ask_peer(r, "verify", vm, result, e);
}

int replicator_hold_vm(struct replicator *r, const char *vm, const char *why, struct err *e)
{
	struct entry *en = borrow(r, vm);

	if (!en)
		return 0;
	const int rc = protection_hold(en->protection, why, clock_mono_ns() + HOLD_NS, e);
	/* Borrowed until it is released: it cannot be unprotected meanwhile. */
	if (rc < 0)
		give_back(r, en);
	return rc;
}

void replicator_release_vm(struct replicator *r, const char *vm)
{
	struct entry *en;

	{
		THREAD_LOCKED(&r->lock);
		en = find_locked(r, vm);
	}
	if (!en || !en->protection)
		return;
	protection_release(en->protection);
	give_back(r, en);
}

/* ---- peers ---- */

/* The VM was ours and is another host's now: {"state" of our record}, "handed-over" or "fenced". What we once promoted is then a replica like any. */
static bool went_away(struct replicator *r, const char *uuid, uint64_t *epoch)
{
	json_t *record = NULL;

	if (!replicator_protects(r, uuid, &record))
		return false;
	const char *state = text_of(record, "state");
	const bool away = strcmp(state, "handed-over") == 0 || strcmp(state, "fenced") == 0;
	*epoch = (uint64_t)json_integer_value(json_object_get(record, "epoch"));
	json_decref(record);
	return away;
}

/* The way back: a replica that was promoted here may be written to again once its VM has gone on elsewhere, and nothing of it is left running on the
 * images. Durable. */
static int take_back(struct replicator *r, const char *uuid, struct err *e)
{
	json_t *args, *now = NULL;
	uint64_t epoch = 0;
	int rc = 0;

	if (!went_away(r, uuid, &epoch))
		return 0;
	struct err ignored = ERR_INIT;
	struct guest *g = r->opts.open_guest(r->opts.ctx, uuid, &ignored);
	if (g) {
		guest_free(g);
		err_set(e, ERR_REFUSED, "the old VM still stands on %s", r->host_name);
		return err_remedy(e, "it went on elsewhere: look at it once more if need be, then 'virsh destroy' it on %s", r->host_name);
	}
	if (ignored.cls != ERR_REFUSED) {
		*e = ignored;
		return -1;
	}
	args = json_pack("{s:s}", "uuid", uuid);
	/* A record of an epoch before the promotion's is a leftover: the VM came home after it. */
	if (replicas_status(r->replicas, args, &now, e) == 0 && strcmp(text_of(now, "state"), "promoted") == 0 &&
	    epoch >= (uint64_t)json_integer_value(json_object_get(now, "epoch"))) {
		json_t *changes = json_pack("{s:s}", "state", "released");
		rc = replicas_change(r->replicas, uuid, "promoted", changes, e);
		json_decref(changes);
	}
	json_decref(now);
	json_decref(args);
	return rc;
}

/* A host does not keep a replica of a VM that it protects itself. */
static int check_not_ours(struct replicator *r, const json_t *args, struct err *e)
{
	json_t *record = NULL;
	int rc = 0;

	if (!replicator_protects(r, text_of(args, "uuid"), &record))
		return 0;
	const char *state = text_of(record, "state");
	if (strcmp(state, "fenced") != 0 && strcmp(state, "handed-over") != 0) {
		rc = err_set(e, ERR_REFUSED, "%s protects VM %s itself, to %s", r->host_name, text_of(record, "vm"), text_of(record, "host"));
		err_remedy(e, "a VM must run once only: look at both hosts with 'vmferry vms' before anything else");
	}
	json_decref(record);
	return rc;
}

int replicator_replica_begin(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	if (check_not_ours(r, args, e) < 0 || take_back(r, text_of(args, "uuid"), e) < 0)
		return -1;
	return replicas_begin(r->replicas, rpc, args, result, e);
}

int replicator_replica_hashes(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	return replicas_hashes(r->replicas, rpc, args, result, e);
}

int replicator_replica_commit(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	return replicas_commit(r->replicas, rpc, args, result, e);
}

int replicator_replica_end(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	return replicas_end(r->replicas, rpc, args, result, e);
}

int replicator_replica_status(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	uint64_t epoch = 0;

	if (replicas_status(r->replicas, args, result, e) < 0)
		return -1;
	const uint64_t kept = (uint64_t)json_integer_value(json_object_get(*result, "epoch"));
	if (strcmp(text_of(*result, "state"), "promoted") == 0 && went_away(r, text_of(args, "uuid"), &epoch) && epoch >= kept) {
		json_object_set_new(*result, "state", json_string("released"));
		if (kept < epoch)
			json_object_set_new(*result, "epoch", json_integer((json_int_t)epoch));
	}
	return 0;
}

int replicator_replica_release(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	return replicas_release(r->replicas, rpc, args, result, e);
}

int replicator_source_handover(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	const json_int_t epoch = json_integer_value(json_object_get(args, "epoch"));
	struct entry *en = borrow(r, text_of(args, "uuid"));
	char *point = NULL;
	int rc;

	if (!en)
		return none(text_of(args, "uuid"), r, e);
	json_t *record = protection_record(en->protection);
	/* Only the host that keeps the replica, and only for the next epoch. */
	if (strcmp(text_of(record, "host"), rpc_peer_name(rpc)) != 0)
		rc = err_set(e, ERR_REFUSED, "the replica of %s is kept by %s, not by %s", text_of(record, "vm"), text_of(record, "host"),
			     rpc_peer_name(rpc));
	else if (strcmp(text_of(record, "state"), "handed-over") == 0)
		rc = protection_hand_over_again(en->protection, (uint64_t)epoch, &point, e);
	else if (epoch != json_integer_value(json_object_get(record, "epoch")) + 1)
		rc = err_set(e, ERR_REFUSED, "epoch %lld does not follow ours", (long long)epoch);
	else
		rc = protection_hand_over(en->protection, (uint64_t)epoch, clock_mono_ns() + HANDOVER_NS, &point, e);
	if (rc == 0)
		*result = json_pack("{s:s}", "point", point);
	free(point);
	json_decref(record);
	give_back(r, en);
	return rc;
}

void replicator_attach(struct replicator *r, struct link *l)
{
	replicas_attach(r->replicas, l);
}

void replicator_closed(struct replicator *r, struct rpc *rpc)
{
	replicas_closed(r->replicas, rpc);
}
