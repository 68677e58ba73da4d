/*
 * drain.c - migrator_drain: every VM that runs here to where it fits, some at a time.
 *
 * All VMs are placed first (drain_plan.h), by preflight and memory. Then workers move them, largest first. A VM whose
 * host turns out not to take it, or can't be reached, is placed anew among the hosts that it has not tried; any other
 * failure leaves it where it is.
 */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "migrator/drain_plan.h"
#include "migrator/guests.h"
#include "migrator/plan.h"
#include "migrator/virt.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HOSTS 64
#define MAX_PARALLEL 16

enum fate { WAITING, MOVING, MOVED, STAYED };

struct drain_vm {
	enum fate fate;  /* drain.lock while workers run */
	json_t *reasons; /* why it stayed: [{"host","code","text","remedy"}] */
	json_t *report;  /* of its migration */
};

struct drain {
	/* fixed after start */
	struct migrator *m;
	const struct job_ctl *ctl;
	json_t *options;
	bool dry_run;
	unsigned parallel;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* lock, while workers run */
	struct drain_plan plan;
	size_t *order;
	struct drain_vm *vms;
	unsigned moving;

	pthread_mutex_t note_lock; /* one note at a time; never held together with lock */
};

static bool cancelled(void *ctx)
{
	const struct drain *d = ctx;
	return d->ctl && d->ctl->cancelled && d->ctl->cancelled(d->ctl->ctx);
}

static void note(struct drain *d, json_t *item)
{
	THREAD_LOCKED(&d->note_lock);
	if (d->ctl && d->ctl->note)
		d->ctl->note(d->ctl->ctx, item);
	else
		json_decref(item);
}

static void add_reason(struct drain *d, size_t vm, const char *host, const char *code, const char *text,
		       const char *remedy)
{
	json_t *reason = json_pack("{s:s?,s:s,s:s,s:s}", "host", host, "code", code, "text", text, "remedy",
				   remedy ? remedy : "");
	if (reason)
		json_array_append_new(d->vms[vm].reasons, reason);
}

static json_t *args_for(const struct drain *d, size_t vm, size_t host)
{
	json_t *args = d->options ? json_deep_copy(d->options) : json_object();
	json_object_set_new(args, "vm", json_string(d->plan.vms[vm].name));
	json_object_set_new(args, "host", json_string(d->plan.hosts[host].name));
	return args;
}

/* ---- placing ---- */

/* Preflight; what it says against the host is kept. */
static bool possible(void *ctx, size_t vm, size_t host)
{
	struct drain *d = ctx;
	struct drain_plan_host *h = &d->plan.hosts[host];
	struct err why = ERR_INIT;
	json_t *args = args_for(d, vm, host);
	json_t *plan = NULL;
	size_t i;
	json_t *f;

	int rc = plan_make(d->m, args, PLAN_QUICK, d->ctl, &plan, &why);
	json_decref(args);
	if (rc < 0) {
		add_reason(d, vm, h->name, err_class_name(why.cls), why.text, why.remedy);
		return false;
	}
	bool ok = json_is_true(json_object_get(plan, "possible"));
	json_array_foreach (json_object_get(plan, "findings"), i, f)
		if (strcmp(json_string_value(json_object_get(f, "severity")), "error") == 0)
			add_reason(d, vm, h->name, json_string_value(json_object_get(f, "code")),
				   json_string_value(json_object_get(f, "text")),
				   json_string_value(json_object_get(f, "remedy")));
	h->max_jobs = (unsigned)json_integer_value(json_object_get(json_object_get(plan, "target"), "max_jobs"));
	json_decref(plan);
	return ok;
}

static void too_small(void *ctx, size_t vm, size_t host)
{
	struct drain *d = ctx;
	MEM_AUTO char *text = mem_printf("%s has too little memory to spare for it, with what else is placed there",
					 d->plan.hosts[host].name);
	add_reason(d, vm, d->plan.hosts[host].name, "memory-short", text, "");
}

/* ---- facts ---- */

static int read_hosts(struct drain *d, const json_t *args, struct err *e)
{
	const json_t *to = json_object_get(args, "to");
	size_t i;
	json_t *name;

	if (!json_is_array(to) || json_array_size(to) == 0 || json_array_size(to) > MAX_HOSTS)
		return err_set(e, ERR_CONFIG, "drain: to which hosts? 1 to %d can be named", MAX_HOSTS);
	d->plan.hosts = mem_alloc_array(json_array_size(to), sizeof(*d->plan.hosts));
	json_array_foreach (to, i, name) {
		if (!json_is_string(name))
			return err_set(e, ERR_CONFIG, "drain: a host's name is not a string");
		if (strcmp(json_string_value(name), d->m->opts.host_name) == 0)
			return err_set(e, ERR_CONFIG, "drain: %s can't be drained to itself", d->m->opts.host_name);
		d->plan.hosts[d->plan.n_hosts++].name = json_string_value(name);
	}
	return 0;
}

/* Asks every host for its memory; one that does not answer is left out, and every VM that stays says so. */
static void ask_hosts(struct drain *d, json_t *silent)
{
	for (size_t i = 0; i < d->plan.n_hosts; i++) {
		struct drain_plan_host *h = &d->plan.hosts[i];
		struct err why = ERR_INIT;
		json_t *facts = NULL;
		struct rpc *peer = d->m->opts.connect_peer(d->m->opts.ctx, h->name, &why);
		int rc = peer ? rpc_call(peer, "host.facts", json_object(), clock_mono_ns() + 15 * NS_PER_S, NULL, NULL,
					 NULL, &facts, &why)
			      : -1;
		if (peer)
			rpc_unref(peer);
		h->usable = rc == 0;
		json_int_t spare = json_integer_value(json_object_get(json_object_get(facts, "memory"), "spare_bytes"));
		h->spare_bytes = spare > 0 ? (uint64_t)spare : 0;
		json_decref(facts);
		if (rc == 0)
			continue;
		log_warn("drain_host_left_out", "peer=%s msg=%s", h->name, LOG_Q(why.text));
		json_array_append_new(silent, json_pack("{s:s,s:s,s:s,s:s}", "host", h->name, "code",
							why.cls == ERR_REFUSED ? "peer-refused" : "peer-unreachable",
							"text", why.text, "remedy", why.remedy));
	}
}

/* Every VM that has a QEMU process here. */
static int read_vms(struct drain *d, json_t **vms, struct err *e)
{
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(d->m->virt, e);
	size_t i;
	json_t *vm;

	if (!conn || guests_list(conn, d->m->opts.host_name, vms, e) < 0)
		return -1;
	size_t n = json_array_size(*vms);
	d->plan.vms = mem_alloc_array(n + 1, sizeof(*d->plan.vms));
	d->vms = mem_alloc_array(n + 1, sizeof(*d->vms));
	d->order = mem_alloc_array(n + 1, sizeof(*d->order));
	json_array_foreach (*vms, i, vm) {
		const char *state = json_string_value(json_object_get(vm, "state"));
		if (strcmp(state, "running") != 0 && strcmp(state, "paused") != 0)
			continue;
		struct drain_plan_vm *v = &d->plan.vms[d->plan.n_vms];
		v->name = json_string_value(json_object_get(vm, "name"));
		v->memory_bytes = (uint64_t)json_integer_value(json_object_get(vm, "memory_bytes"));
		v->tried = mem_alloc_array(d->plan.n_hosts, sizeof(*v->tried));
		v->host = DRAIN_PLAN_NOWHERE;
		d->vms[d->plan.n_vms].reasons = json_array();
		d->plan.n_vms++;
	}
	drain_plan_order(&d->plan, d->order);
	return 0;
}

static void place_all(struct drain *d, const json_t *silent)
{
	for (size_t i = 0; i < d->plan.n_vms; i++) {
		size_t vm = d->order[i];
		if (cancelled(d)) {
			add_reason(d, vm, NULL, "cancelled", "the drain was cancelled before its turn", "");
			d->vms[vm].fate = STAYED;
			continue;
		}
		note(d, json_pack("{s:s,s:s}", "phase", "preflight", "vm", d->plan.vms[vm].name));
		if (drain_plan_place(&d->plan, vm))
			continue;
		d->vms[vm].fate = STAYED;
		size_t k;
		json_t *s;
		json_array_foreach ((json_t *)(uintptr_t)silent, k, s)
			json_array_append(d->vms[vm].reasons, s);
	}
}

/* ---- moving ---- */

struct note_ctx {
	struct drain *d;
	const char *vm, *host;
};

static void forward_note(void *ctx, json_t *item)
{
	const struct note_ctx *n = ctx;
	json_object_set_new(item, "vm", json_string(n->vm));
	json_object_set_new(item, "host", json_string(n->host));
	note(n->d, item);
}

static bool forward_cancelled(void *ctx)
{
	const struct note_ctx *n = ctx;
	return cancelled(n->d);
}

/* 0, or -1 with the error; `report` is the migration's. No lock is held. */
static int move(struct drain *d, size_t vm, size_t host, json_t **report, struct err *e)
{
	struct note_ctx n = { d, d->plan.vms[vm].name, d->plan.hosts[host].name };
	const struct job_ctl ctl = { .note = forward_note, .cancelled = forward_cancelled, .ctx = &n };
	json_t *args = args_for(d, vm, host);
	int rc = migrator_migrate(d->m, args, &ctl, report, e);
	json_decref(args);
	return rc;
}

/* The next VM whose host has room for one more at a time, or nothing. Lock held. */
static size_t next_locked(struct drain *d)
{
	for (size_t i = 0; i < d->plan.n_vms; i++) {
		size_t vm = d->order[i];
		if (d->vms[vm].fate != WAITING)
			continue;
		const struct drain_plan_host *h = &d->plan.hosts[d->plan.vms[vm].host];
		if (h->max_jobs == 0 || h->moving < h->max_jobs)
			return vm;
	}
	return DRAIN_PLAN_NOWHERE;
}

/* After a failure: another host, if the trouble was the host's. Lock held. */
static void settle_failure_locked(struct drain *d, size_t vm, size_t host, const struct err *why)
{
	bool elsewhere = (why->cls == ERR_REFUSED || why->cls == ERR_PEER) && !cancelled(d);

	add_reason(d, vm, d->plan.hosts[host].name, err_class_name(why->cls), why->text, why->remedy);
	drain_plan_release(&d->plan, vm);
	d->vms[vm].fate = elsewhere && drain_plan_place(&d->plan, vm) ? WAITING : STAYED;
}

static void run_one_locked(struct drain *d, size_t vm)
{
	size_t host = d->plan.vms[vm].host;
	struct err why = ERR_INIT;
	json_t *report = NULL;

	d->vms[vm].fate = MOVING;
	d->plan.hosts[host].moving++;
	d->moving++;
	pthread_mutex_unlock(&d->lock);
	int rc = move(d, vm, host, &report, &why);
	pthread_mutex_lock(&d->lock);
	d->moving--;
	d->plan.hosts[host].moving--;
	if (rc == 0) {
		d->vms[vm].fate = MOVED;
		d->vms[vm].report = report;
	} else {
		settle_failure_locked(d, vm, host, &why);
	}
	pthread_cond_broadcast(&d->changed);
}

static void *worker(void *arg)
{
	struct drain *d = arg;

	pthread_mutex_lock(&d->lock);
	for (;;) {
		size_t vm = cancelled(d) ? DRAIN_PLAN_NOWHERE : next_locked(d);
		if (vm != DRAIN_PLAN_NOWHERE)
			run_one_locked(d, vm);
		else if (d->moving > 0 && !cancelled(d)) /* one that comes back may be placed anew, or free a place */
			(void)thread_cond_wait_until(&d->changed, &d->lock, clock_mono_ns() + NS_PER_S);
		else
			break;
	}
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

static void move_all(struct drain *d)
{
	pthread_t threads[MAX_PARALLEL];
	unsigned n = 0;
	struct err e = ERR_INIT;

	while (n + 1 < d->parallel && thread_start(&threads[n], "drain", worker, d, &e) == 0)
		n++;
	(void)worker(d);
	for (unsigned i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < d->plan.n_vms; i++)
		if (d->vms[i].fate == WAITING) {
			d->vms[i].fate = STAYED;
			add_reason(d, i, NULL, "cancelled", "the drain was cancelled before its turn", "");
		}
}

/* ---- the answer ---- */

static json_t *moved_json(const struct drain *d, size_t vm)
{
	const char *host = d->plan.hosts[d->plan.vms[vm].host].name;
	json_t *item = d->vms[vm].report ? json_copy(d->vms[vm].report) : json_object();
	json_object_set_new(item, "vm", json_string(d->plan.vms[vm].name));
	json_object_set_new(item, "to", json_string(host));
	return item;
}

static json_t *answer(const struct drain *d)
{
	json_t *moved = json_array();
	json_t *stayed = json_array();

	for (size_t i = 0; i < d->plan.n_vms; i++) {
		size_t vm = d->order[i];
		if (d->vms[vm].fate == MOVED || (d->dry_run && d->vms[vm].fate == WAITING))
			json_array_append_new(moved, moved_json(d, vm));
		else
			json_array_append_new(stayed, json_pack("{s:s,s:O}", "vm", d->plan.vms[vm].name, "reasons",
								d->vms[vm].reasons));
	}
	return json_pack("{s:b,s:o,s:o}", "dry_run", d->dry_run, "moved", moved, "stayed", stayed);
}

static void drain_fini(struct drain *d)
{
	for (size_t i = 0; i < d->plan.n_vms; i++) {
		free(d->plan.vms[i].tried);
		json_decref(d->vms[i].reasons);
		json_decref(d->vms[i].report);
	}
	free(d->plan.hosts);
	free(d->plan.vms);
	free(d->vms);
	free(d->order);
	pthread_cond_destroy(&d->changed);
	pthread_mutex_destroy(&d->lock);
	pthread_mutex_destroy(&d->note_lock);
}

static unsigned parallel_of(struct migrator *m, const json_t *args)
{
	json_int_t n = json_integer_value(json_object_get(args, "parallel"));
	unsigned jobs = migrator_tuning_now(m).max_jobs;
	unsigned limit = jobs < MAX_PARALLEL ? jobs : MAX_PARALLEL;
	return n < 1 ? 1 : n > (json_int_t)limit ? limit : (unsigned)n;
}

int migrator_drain(struct migrator *m, const json_t *args, const struct job_ctl *ctl, json_t **result, struct err *e)
{
	struct drain d = {
		.m = m,
		.ctl = ctl,
		.options = json_object_get(args, "options"),
		.dry_run = json_is_true(json_object_get(args, "dry_run")),
		.parallel = parallel_of(m, args),
		.plan = { .possible = possible, .too_small = too_small },
	};
	json_t *vms = NULL;
	json_t *silent = json_array();

	d.plan.ctx = &d;
	pthread_mutex_init(&d.lock, NULL);
	pthread_mutex_init(&d.note_lock, NULL);
	thread_cond_init(&d.changed);
	int rc = read_hosts(&d, args, e) < 0 || read_vms(&d, &vms, e) < 0 ? -1 : 0;
	if (rc == 0) {
		ask_hosts(&d, silent);
		place_all(&d, silent);
		if (!d.dry_run)
			move_all(&d);
		*result = answer(&d);
	}
	drain_fini(&d);
	json_decref(vms);
	json_decref(silent);
	return rc;
}
