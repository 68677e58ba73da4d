#include "replicator/protection_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/epoch.h"
#include "replicator/field.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_AGAIN_NS (60 * NS_PER_S)
#define SAY_AGAIN_NS (120 * NS_PER_S)

static bool one_of(const char *list, const char *state)
{
	const size_t n = strlen(state);

	for (const char *at = list; at; at = strchr(at, '|') ? strchr(at, '|') + 1 : NULL)
		if (strncmp(at, state, n) == 0 && (at[n] == '|' || at[n] == '\0'))
			return true;
	return false;
}

/* ---- life ---- */

static void protection_free(struct protection *p)
{
	json_decref(p->record);
	json_decref(p->keep);
	json_decref(p->schedule);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->lock);
	pthread_mutex_destroy(&p->updating);
	free(p->vm);
	free(p->host);
	free(p->mode);
	free(p);
}

static void read_record(struct protection *p)
{
	const json_t *r = p->record;
	const json_t *last = json_object_get(r, "last_point");

	snprintf(p->uuid, sizeof(p->uuid), "%s", field_text(r, "uuid"));
	p->vm = mem_strdup(field_text(r, "vm"));
	p->host = mem_strdup(field_text(r, "host"));
	p->mode = mem_strdup(field_text(r, "mode")[0] ? field_text(r, "mode") : "auto");
	p->rpo_ns = field_int(r, "rpo_ms", 5000) * NS_PER_MS;
	p->schedule = json_deep_copy(json_object_get(r, "schedule"));
	p->max_pause_ns = field_int(r, "max_pause_ms", 0) * NS_PER_MS;
	p->bandwidth = (uint64_t)field_int(r, "bandwidth", 0);
	p->quiesce = json_is_true(json_object_get(r, "quiesce"));
	p->keep = json_deep_copy(json_object_get(r, "keep"));
	p->epoch = (uint64_t)field_int(r, "epoch", 1);
	if (json_is_object(last)) {
		p->have_point = true;
		snprintf(p->point_id, sizeof(p->point_id), "%s", field_text(last, "id"));
		p->point_instant_ns = field_int(last, "instant_ns", 0);
	}
}

struct protection *protection_start(const struct protection_opts *opts, const json_t *record, struct err *e)
{
	struct protection *p = mem_alloc(sizeof(*p));

	p->opts = *opts;
	p->record = json_deep_copy(record);
	p->idle = true;
	p->progress_ns = INT64_MAX;
	p->space_bytes = p->kept = -1;
	pthread_mutex_init(&p->updating, NULL);
	pthread_mutex_init(&p->lock, NULL);
	thread_cond_init(&p->changed);
	read_record(p);
	pace_init(&p->pace, p->rpo_ns, 0, p->max_pause_ns);
	snprintf(p->state, sizeof(p->state), "waiting");
	if (!epoch_uuid_ok(p->uuid) || !p->vm[0] || !p->host[0])
		err_set(e, ERR_CONFIG, "the record of a protection is not complete");
	else if (thread_start(&p->thread, "protection", protection_run_thread, p, e) == 0)
		return p;
	protection_free(p);
	return NULL;
}

void protection_interrupt_locked(struct protection *p)
{
	__atomic_store_n(&p->interrupt, true, __ATOMIC_SEQ_CST);
	if (p->capture)
		p->opts.capture->abort(p->capture);
	if (p->courier)
		courier_abort(p->courier);
	pthread_cond_broadcast(&p->changed);
}

json_t *protection_end(struct protection *p)
{
	{
		THREAD_LOCKED(&p->lock);
		p->stopping = true;
		protection_interrupt_locked(p);
	}
	pthread_join(p->thread, NULL);
	json_t *record = json_incref(p->record);
	protection_free(p);
	return record;
}

void protection_stop(struct protection *p)
{
	if (p)
		json_decref(protection_end(p));
}

const char *protection_uuid(const struct protection *p)
{
	return p->uuid;
}

bool protection_may_run_locked(const struct protection *p)
{
	return !p->stopping && p->holds == 0 && one_of("active|handing-over", field_text(p->record, "state"));
}

bool protection_wanted(struct protection *p)
{
	THREAD_LOCKED(&p->lock);
	return protection_may_run_locked(p);
}

void protection_wait(struct protection *p, int64_t deadline_ns)
{
	THREAD_LOCKED(&p->lock);
	while (protection_may_run_locked(p) && !p->last_wanted)
		if (thread_cond_wait_until(&p->changed, &p->lock, deadline_ns) < 0)
			return;
}

struct courier_opts protection_courier_opts(struct protection *p)
{
	return (struct courier_opts){ .ways = p->opts.ways,
				      .host = p->host,
				      .uuid = p->uuid,
				      .vm = p->vm,
				      .mode = p->mode,
				      .epoch = __atomic_load_n(&p->epoch, __ATOMIC_SEQ_CST),
				      .keep = p->keep,
				      .rpo_ms = p->rpo_ns / NS_PER_MS,
				      .channels = p->opts.channels,
				      .delta_cache = p->opts.delta_cache,
				      .rate_limit = p->now.bandwidth,
				      .level = OUTFLOW_LEVEL_AUTO,
				      .part_bytes = p->opts.part_bytes,
				      .pool = p->opts.pool,
				      .cancel = &p->interrupt };
}

/* ---- record ---- */

json_t *protection_record(struct protection *p)
{
	THREAD_LOCKED(&p->lock);
	return json_deep_copy(p->record);
}

int protection_change(struct protection *p, const char *expect, const json_t *changes, struct err *e)
{
	THREAD_LOCKED(&p->updating);
	json_t *record, *copy;

	if (p->replaced)
		return err_set(e, ERR_CANCELLED, "the protection of %s is being changed", p->vm);
	{
		THREAD_LOCKED(&p->lock);
		const char *state = field_text(p->record, "state");
		if (expect && !one_of(expect, state))
			return err_set(e, ERR_REFUSED, "the protection of %s is %s", p->vm, state);
		record = json_deep_copy(p->record);
	}
	copy = json_deep_copy(changes);
	json_object_update(record, copy);
	json_decref(copy);
	if (epoch_save_protection(p->opts.state_dir, record, e) < 0) {
		json_decref(record);
		return -1;
	}
	THREAD_LOCKED(&p->lock);
	json_decref(p->record);
	p->record = record;
	__atomic_store_n(&p->epoch, (uint64_t)field_int(record, "epoch", 1), __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&p->changed);
	return 0;
}

int protection_update(struct protection *p, const json_t *changes, struct err *e)
{
	return protection_change(p, NULL, changes, e);
}

int protection_want(struct protection *p, const char *expect, const char *state, struct err *e)
{
	json_t *changes = json_pack("{s:s}", "state", state);
	const int rc = protection_change(p, expect, changes, e);

	json_decref(changes);
	return rc;
}

/* What this agent writes by itself, beside what operators say. lock is held. */
static void carry_over_locked(const struct protection *p, json_t *record)
{
	static const char *const keys[] = { "last_point", "autostart", "boot_id", "owner_boot" };

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		const json_t *now = json_object_get(p->record, keys[i]);
		if (now)
			json_object_set_new(record, keys[i], json_deep_copy(now));
	}
}

int protection_replace(struct protection *p, const json_t *old, json_t *record, struct err *e)
{
	THREAD_LOCKED(&p->updating);
	bool same;
	{
		THREAD_LOCKED(&p->lock);
		same = strcmp(field_text(p->record, "state"), field_text(old, "state")) == 0 &&
		       field_int(p->record, "epoch", 1) == field_int(old, "epoch", 1) && !p->last_wanted;
		carry_over_locked(p, record);
	}
	if (!same || p->replaced) {
		err_set(e, ERR_REFUSED, "the protection of %s has just changed, or is being handed over", p->vm);
		return err_remedy(e, "look at its status, then try again");
	}
	if (epoch_save_protection(p->opts.state_dir, record, e) < 0)
		return -1;
	p->replaced = true;
	return 0;
}

/* ---- what operators do ---- */

int protection_pause(struct protection *p, struct err *e)
{
	if (protection_want(p, "active|paused", "paused", e) < 0)
		return -1;
	THREAD_LOCKED(&p->lock);
	protection_interrupt_locked(p);
	return 0;
}

int protection_check_crashed(struct protection *p, struct err *e)
{
	struct err ignored = ERR_INIT;
	struct guest *g = p->opts.open_guest(p->opts.ctx, p->uuid, &ignored);
	enum guest_run run = GUEST_GONE;
	const bool crashed = g && g->ops->state(g->ctx, &run, &ignored) == 0 && run == GUEST_CRASHED;

	guest_free(g);
	if (!crashed)
		return 0;
	err_set(e, ERR_REFUSED, "%s has crashed, and is kept as it is (on_crash): elsewhere it would go on", p->vm);
	return err_remedy(e, "look at it (virsh dump), then 'virsh destroy' it, or 'virsh reset' and 'virsh resume'");
}

int protection_hold(struct protection *p, const char *why, int64_t deadline_ns, struct err *e)
{
	if (protection_check_crashed(p, e) < 0)
		return -1;
	THREAD_LOCKED(&p->lock);
	if (p->last_wanted)
		return err_set(e, ERR_REFUSED, "%s is being handed over to %s", p->vm, p->host);
	p->holds++;
	p->was_held = true;
	snprintf(p->hold_why, sizeof(p->hold_why), "%s", why);
	protection_interrupt_locked(p);
	while (!p->idle) {
		if (thread_cond_wait_until(&p->changed, &p->lock, deadline_ns) < 0 && !p->idle) {
			p->holds--;
			return err_set(e, ERR_REFUSED, "the protection of %s does not let go of it in time", p->vm);
		}
	}
	return 0;
}

void protection_release(struct protection *p)
{
	THREAD_LOCKED(&p->lock);
	p->holds--;
	pthread_cond_broadcast(&p->changed);
}

/* ---- state ---- */

void protection_event(struct protection *p, const char *type, const char *reason)
{
	if (p->opts.event)
		p->opts.event(p->opts.ctx, type, p->uuid,
			      json_pack("{s:s, s:s, s:s, s:s}", "vm", p->vm, "host", p->host, "from", p->opts.host_name,
					"reason", reason));
}

/* Reasons have figures in them, which are other ones with each point; names of hosts have them, too. */
static bool is_same_but_for_figures(const char *a, const char *b)
{
	static const char figures[] = "0123456789.";

	for (;;) {
		const size_t n = strcspn(a, figures);

		if (n != strcspn(b, figures) || strncmp(a, b, n) != 0)
			return false;
		a += n, b += n;
		if (!*a || !*b)
			return *a == *b;
		a += strspn(a, figures);
		b += strspn(b, figures);
	}
}

/* It has begun, or there is another reason for it: who was told of a link that is down has still to hear of a disk that is full. */
static bool degraded_is_news_locked(struct protection *p, bool other, const char *reason, int64_t now)
{
	const int64_t again = p->opts.say_again_ns ? p->opts.say_again_ns : SAY_AGAIN_NS;

	if (!other && (is_same_but_for_figures(p->said_reason, reason) || now - p->said_ns < again))
		return false;
	snprintf(p->said_reason, sizeof(p->said_reason), "%.899s", reason);
	p->said_ns = now;
	return true;
}

void protection_set_state(struct protection *p, const char *state, const char *reason)
{
	const char *type = NULL;
	bool log = false;

	{
		THREAD_LOCKED(&p->lock);
		const bool other = strcmp(p->state, state) != 0;
		const int64_t now = clock_mono_ns();
		log = other || !is_same_but_for_figures(p->reason, reason) ||
		      (strcmp(p->reason, reason) != 0 && now - p->logged_ns > LOG_AGAIN_NS);
		if (log)
			p->logged_ns = now;
		if (strcmp(state, "degraded") == 0 && degraded_is_news_locked(p, other, reason, now)) {
			type = "protection.degraded";
			p->degraded_said = true;
		} else if (other && strcmp(state, "protected") == 0) {
			type = p->degraded_said                   ? "protection.recovered"
			       : strcmp(p->state, "seeding") == 0 ? "protection.seeded"
								  : NULL;
			p->degraded_said = false;
		} else if (other && strcmp(state, "fenced") == 0) {
			type = "protection.fenced";
		} else if (other && strcmp(state, "failed") == 0) {
			type = "protection.failed";
		}
		snprintf(p->state, sizeof(p->state), "%s", state);
		snprintf(p->reason, sizeof(p->reason), "%.899s", reason);
	}
	if (log)
		log_info("protection", "vm=%s uuid=%s host=%s state=%s msg=%s", LOG_Q(p->vm), p->uuid, p->host, state,
			 LOG_Q(reason));
	if (type)
		protection_event(p, type, reason);
}

void protection_note_point(struct protection *p, const char *id, int64_t instant_ns, int64_t mono_ns)
{
	THREAD_LOCKED(&p->lock);
	p->have_point = true;
	snprintf(p->point_id, sizeof(p->point_id), "%s", id);
	p->point_instant_ns = instant_ns;
	p->point_mono_ns = mono_ns;
}

/* Age of the latest committed point, or -1. lock is held. */
static int64_t rpo_locked(const struct protection *p)
{
	if (!p->have_point)
		return -1;
	return p->point_mono_ns ? clock_mono_ns() - p->point_mono_ns : clock_wall_ns() - p->point_instant_ns;
}

static void add_traffic_locked(struct protection *p, json_t *o)
{
	struct outflow_stats os = { 0 };

	if (p->courier)
		ship_stats(courier_ship(p->courier), &os);
	json_object_set_new(o, "throughput",
			    json_integer(!p->courier       ? 0
					 : p->committed_ns ? (json_int_t)p->throughput
							   : (json_int_t)os.rate));
	json_object_set_new(o, "wire_rate", json_integer((json_int_t)os.rate));
	json_object_set_new(o, "dirty_bytes", json_integer((json_int_t)p->dirty_bytes));
	json_object_set_new(o, "sent_bytes", json_integer((json_int_t)p->sent_bytes));
	json_object_set_new(o, "wire_bytes", json_integer((json_int_t)p->wire_bytes));
	json_object_set_new(o, "ratio", json_real(p->wire_bytes ? (double)p->dirty_bytes / (double)p->wire_bytes : 0));
	json_object_set_new(o, "lag_bytes", json_integer((json_int_t)p->lag_bytes));
}

json_t *protection_status(struct protection *p)
{
	THREAD_LOCKED(&p->lock);
	const int64_t rpo = rpo_locked(p);
	json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "vm",
			      p->vm, "uuid", p->uuid, "host", p->host, "role", "source", "state", p->state, "reason",
			      p->reason, "mode", p->mode, "capture", p->capture_name, "capture_reason",
			      p->capture_reason, "rpo_target_ms", (json_int_t)(p->rpo_ns / NS_PER_MS), "pause_p50_ms",
			      (json_int_t)((pace_pause_ns(&p->pace, 0.5) + NS_PER_MS / 2) / NS_PER_MS), "pause_p99_ms",
			      (json_int_t)((pace_pause_ns(&p->pace, 0.99) + NS_PER_MS / 2) / NS_PER_MS), "interval_ms",
			      (json_int_t)(pace_interval_ns(&p->pace) / NS_PER_MS), "points", (json_int_t)p->points,
			      "epoch", (json_int_t)p->epoch);

	json_object_set_new(o, "pause_p50_us", json_integer(pace_pause_ns(&p->pace, 0.5) / 1000));
	json_object_set_new(o, "pause_p99_us", json_integer(pace_pause_ns(&p->pace, 0.99) / 1000));
	json_object_set_new(o, "commit_ms", json_integer(pace_commit_ns(&p->pace) / NS_PER_MS));
	json_object_set_new(o, "rpo_ms", rpo < 0 ? json_null() : json_integer(rpo / NS_PER_MS));
	json_object_set_new(o, "rescues", json_integer((json_int_t)p->rescues));
	json_object_set_new(o, "worst_rpo_ms", json_integer(p->pace.worst_rpo_ns / NS_PER_MS));
	json_object_set_new(o, "last_point",
			    p->have_point ? json_pack("{s:s, s:I}", "id", p->point_id, "instant_ns",
						      (json_int_t)p->point_instant_ns)
					  : json_null());
	json_object_set_new(o, "autostart", json_boolean(json_is_true(json_object_get(p->record, "autostart"))));
	if (p->space_bytes >= 0)
		json_object_set_new(o, "space_bytes", json_integer(p->space_bytes));
	if (p->kept >= 0)
		json_object_set_new(o, "points_kept", json_integer(p->kept));
	json_object_set_new(o, "space_limit_bytes", json_integer(field_int(p->keep, "max_bytes", 0)));
	add_traffic_locked(p, o);
	return o;
}
