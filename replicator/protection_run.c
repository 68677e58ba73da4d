/*
 * The thread of a protection. A session: ask the peer for the epoch, begin, capture, a first pass of what differs, then a checkpoint whenever one is due.
 * Whatever ends it, the next begins anew and finds out by hashes what the peer has.
 */
#include "replicator/protection_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "base/units.h"
#include "replicator/epoch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define RETRY_NS NS_PER_S
#define RETRY_MOST 15
#define LOOK_AGAIN_NS (2 * NS_PER_S) /* at a VM that must not run here */
#define ASK_TIMES 5                  /* so many of those: who owns a VM whose protection is paused */
#define PATIENT_POINTS 100 /* after a pause that was too long; by then the pauses speak for themselves */
#define NOT_NOW_NS (200 * NS_PER_MS)
#define SAVE_EVERY_NS (10 * NS_PER_S)
#define THRIFT_LEVEL 1 /* zstd's; what travels is stored as well */

struct session {
	struct protection *p;
	struct guest *guest;
	struct courier *courier;
	struct ship *ship;
	struct capture *capture;
	int64_t due_ns; /* monotonic */
};

/* ---- small things ---- */

static void new_id(char out[80])
{
	char when[32];
	uint16_t r = 0;
	char *to = out;

	(void)!getrandom(&r, sizeof(r), GRND_NONBLOCK);
	clock_format_wall(clock_wall_ns(), when, sizeof(when));
	/* 2026-11-26T00:15:02.123Z -> 20261126T001502.123Z */
	for (const char *c = when; *c; c++)
		if (*c != '-' && *c != ':')
			*to++ = *c;
	snprintf(to, 6, "-%04x", r);
}

static bool wanted(struct protection *p)
{
	THREAD_LOCKED(&p->lock);
	return protection_may_run_locked(p);
}

/* Until the deadline, or somebody wants something else. */
static void wait_until(struct protection *p, int64_t deadline_ns)
{
	THREAD_LOCKED(&p->lock);
	while (protection_may_run_locked(p) && !p->last_wanted)
		if (thread_cond_wait_until(&p->changed, &p->lock, deadline_ns) < 0)
			return;
}

/* What the hour says. */
static void look_at_clock(struct protection *p, struct ship *ship)
{
	const time_t t = (time_t)(clock_wall_ns() / NS_PER_S);
	struct tm tm = { 0 };

	localtime_r(&t, &tm);
	const struct schedule_now now = schedule_at(p->schedule, (unsigned)(tm.tm_hour * 60 + tm.tm_min), p->bandwidth);
	if (ship && now.bandwidth != p->now.bandwidth)
		ship_set_rate_limit(ship, now.bandwidth);
	p->now = now;
	THREAD_LOCKED(&p->lock);
	p->pace.every_ns = now.every_ns;
}

static struct courier_opts courier_opts_of(struct protection *p)
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

/* ---- who owns the VM ---- */

/* The peer runs it: here it stands still from now on, whatever happens. */
static void fence(struct protection *p, const struct err *why)
{
	struct err e = ERR_INIT;
	json_t *changes = json_pack("{s:s}", "state", "fenced");

	/* Durable first: an agent that dies now must not go on replicating when it is back. */
	if (protection_update(p, changes, &e) < 0)
		log_error("fence_not_saved", "uuid=%s msg=%s", p->uuid, LOG_Q(e.text));
	json_decref(changes);
	err_clear(&e);
	struct guest *g = NULL;
	if (fault_point(FAULT_REPLICA_FENCE, &e) == 0)
		g = p->opts.open_guest(p->opts.ctx, p->uuid, &e);
	char text[900];
	if (g && g->ops->pause(g->ctx, &e) == 0)
		snprintf(text, sizeof(text), "%.700s; it is paused here", why->text);
	else if (!g && e.cls == ERR_REFUSED)
		snprintf(text, sizeof(text), "%.700s; it is shut off here", why->text);
	else
		snprintf(text, sizeof(text), "%.500s; it could not be paused here: %.200s", why->text, e.text);
	guest_free(g);
	protection_set_state(p, "fenced", text);
}

/* Did it come home since, as a promotion of a later epoch than our record's? Then it is no business of that record. */
static bool came_home(struct protection *p)
{
	struct err ignored = ERR_INIT;
	json_t *kept = NULL, *args = json_pack("{s:s}", "uuid", p->uuid);
	bool home = false;

	if (p->opts.replicas && replicas_status(p->opts.replicas, args, &kept, &ignored) == 0) {
		const char *state = json_string_value(json_object_get(kept, "state"));
		THREAD_LOCKED(&p->lock);
		home = state && (strcmp(state, "promoting") == 0 || strcmp(state, "promoted") == 0) &&
		       (uint64_t)json_integer_value(json_object_get(kept, "epoch")) > p->epoch;
	}
	json_decref(kept);
	json_decref(args);
	return home;
}

/* Fenced or handed over: whoever starts it, and whenever, it must not run. */
static void keep_fenced(struct protection *p)
{
	struct err e = ERR_INIT;
	enum guest_run run;

	if (came_home(p))
		return;
	struct guest *g = p->opts.open_guest(p->opts.ctx, p->uuid, &e);
	if (g && g->ops->state(g->ctx, &run, &e) == 0 && run == GUEST_RUNNING) {
		if (g->ops->pause(g->ctx, &e) == 0)
			log_warn("fenced_again", "vm=%s uuid=%s", LOG_Q(p->vm), p->uuid);
		else
			log_error("fence_failed", "vm=%s uuid=%s msg=%s", LOG_Q(p->vm), p->uuid, LOG_Q(e.text));
	}
	guest_free(g);
}

/* 0: it is ours. */
static int check_owner(struct protection *p, struct err *e)
{
	const struct courier_opts co = courier_opts_of(p);
	json_t *theirs = NULL;
	struct err why = ERR_INIT;

	if (courier_ask(&co, &theirs, e) < 0)
		return -1;
	const enum epoch_verdict v = epoch_judge(__atomic_load_n(&p->epoch, __ATOMIC_SEQ_CST), p->host, theirs, &why);
	json_decref(theirs);
	if (v == EPOCH_OURS)
		return 0;
	if (v == EPOCH_LOST)
		fence(p, &why);
	*e = why;
	return -1;
}

/* ---- capture ---- */

/* "memory" leaves to the capture how; "auto" leaves to it whether, too. */
static enum capture_mode wanted_mode(const struct protection *p)
{
	enum capture_mode m = CAPTURE_AUTO;

	if (p->for_last)
		return CAPTURE_COLO;
	if (strcmp(p->mode, "memory") != 0)
		(void)capture_mode_from_name(p->mode, &m);
	return m == CAPTURE_AUTO ? p->forced : m;
}

/* With the guardian's eye on it. */
static struct capture *make_watched(const struct session *s, const struct capture_opts *co, struct err *e)
{
	struct protection *p = s->p;
	struct capture *c = p->opts.capture->make(s->guest, co, e);

	if (!c || protection_watch_begin(p, p->opts.capture->chosen(c), e) == 0)
		return c;
	p->opts.capture->free(c);
	return NULL;
}

static int make_capture(struct session *s, struct err *e)
{
	struct protection *p = s->p;
	const bool any = strcmp(p->mode, "auto") == 0;
	struct capture_opts co = { .mode = wanted_mode(p),
				   .staging_bytes = p->opts.staging_bytes,
				   .quiesce = p->quiesce,
				   .arm = protection_watch_arm,
				   .hold = protection_watch_hold,
				   .ctx = p };
	struct capture *c = make_watched(s, &co, e);
	char why[300] = "";

	if (!c && any && !p->for_last && e->cls == ERR_REFUSED) {
		snprintf(why, sizeof(why), "memory cannot be captured (%.200s)", e->text);
		err_clear(e);
		co.mode = CAPTURE_DISK;
		c = make_watched(s, &co, e);
	}
	if (!c)
		return -1;
	s->capture = c;
	THREAD_LOCKED(&p->lock);
	p->capture = c;
	snprintf(p->capture_name, sizeof(p->capture_name), "%s", capture_mode_name(p->opts.capture->chosen(c)));
	if (p->forced == CAPTURE_BACKGROUND)
		snprintf(why, sizeof(why), "COLO's pauses were over the budget");
	snprintf(p->capture_reason, sizeof(p->capture_reason), "%.200s%s%.150s", p->opts.capture->reason(c), why[0] ? "; " : "", why);
	return p->interrupt ? err_set(e, ERR_CANCELLED, "interrupted") : 0;
}

static void drop_capture(struct session *s, bool good)
{
	struct protection *p = s->p;
	struct capture *c = s->capture;
	struct err e = ERR_INIT;

	if (!c)
		return;
	{
		THREAD_LOCKED(&p->lock);
		p->capture = NULL;
	}
	s->capture = NULL;
	if (good && p->opts.capture->stop(c, &e) < 0)
		log_warn("capture_stop", "vm=%s msg=%s", LOG_Q(p->vm), LOG_Q(e.text));
	p->opts.capture->free(c);
	protection_watch_end(p);
}

/* ---- one checkpoint ---- */

struct made {
	struct protection *p;
	const char *id;
	const struct capture_point *pt;
	enum capture_mode chosen;
};

static json_t *meta_of(void *ctx, const struct ship_tally *t)
{
	const struct made *m = ctx;

	return json_pack("{s:s, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:b, s:I, s:s}", "id", m->id, "instant_ns",
			 (json_int_t)m->pt->instant_ns, "kind", m->pt->has_memory ? "memory" : "disk", "capture",
			 capture_mode_name(m->chosen), "pause_ns", (json_int_t)m->pt->pause_ns, "dirty_bytes",
			 (json_int_t)m->pt->dirty_bytes, "sent_bytes", (json_int_t)t->sent_bytes, "wire_bytes", (json_int_t)t->wire_bytes,
			 "quiesced", (int)m->pt->quiesced, "epoch", (json_int_t)__atomic_load_n(&m->p->epoch, __ATOMIC_SEQ_CST), "from", m->p->opts.host_name);
}

static void save_last(struct protection *p, int64_t now)
{
	struct err e = ERR_INIT;
	json_t *changes;

	if (now - p->saved_ns < SAVE_EVERY_NS && p->saved_ns)
		return;
	p->saved_ns = now;
	{
		THREAD_LOCKED(&p->lock);
		changes = json_pack("{s:{s:s, s:I}}", "last_point", "id", p->point_id, "instant_ns", (json_int_t)p->point_instant_ns);
	}
	if (protection_update(p, changes, &e) < 0)
		log_warn("protection_record", "uuid=%s msg=%s", p->uuid, LOG_Q(e.text));
	json_decref(changes);
}

/* What the last point says about how we keep up. */
static void judge_pace(struct session *s)
{
	struct protection *p = s->p;
	char reason[300] = "", a[32], b[32], c[32];
	const char *state = "protected";

	{
		THREAD_LOCKED(&p->lock);
		const struct pace *pc = &p->pace;
		if (pace_behind(pc)) {
			state = "degraded";
			snprintf(reason, sizeof(reason), "the target of %s is not held: points are up to %s old, their commits take %s",
				 units_format_duration(p->rpo_ns, a, sizeof(a)), units_format_duration(pc->worst_rpo_ns, b, sizeof(b)),
				 units_format_duration(pace_commit_ns(pc), c, sizeof(c)));
		} else if (pc->stretch > 1) {
			state = "degraded";
			snprintf(reason, sizeof(reason), "pauses are over the budget of %s (p99 %s): the interval is stretched to %s",
				 units_format_duration(p->max_pause_ns, a, sizeof(a)),
				 units_format_duration(pace_pause_ns(pc, 0.99), b, sizeof(b)),
				 units_format_duration(pace_interval_ns(pc), c, sizeof(c)));
		}
		ship_set_floor(s->ship, pace_behind(pc) ? CODEC_RAW : THRIFT_LEVEL);
	}
	protection_set_state(p, state, reason);
}

static void note_committed(struct session *s, const char *id, const struct capture_point *pt, const struct ship_tally *t)
{
	struct protection *p = s->p;
	const int64_t now = clock_mono_ns();

	{
		THREAD_LOCKED(&p->lock);
		const int64_t rpo = p->have_point && p->point_mono_ns ? now - p->point_mono_ns : 0;
		pace_note(&p->pace, pt->pause_ns, now - pt->instant_mono_ns, rpo);
		if (++p->points - p->rescued_points >= PATIENT_POINTS)
			p->patience_ns = 0;
		p->dirty_bytes += pt->dirty_bytes;
		p->sent_bytes += t->sent_bytes;
		p->wire_bytes += t->wire_bytes;
		p->lag_bytes = 0;
		const int64_t took = now - pt->instant_mono_ns;
		p->throughput = took > 0 ? (double)t->sent_bytes * 1e9 / (double)took : 0;
		s->due_ns = pt->instant_mono_ns + pace_interval_ns(&p->pace);
	}
	protection_note_point(p, id, pt->instant_ns, pt->instant_mono_ns);
	p->failures = 0;
	save_last(p, now);
	judge_pace(s);
}

/* call NULL: of a guest that stands still, without a capture. 0: committed. 1: not now. -1 with the error set; the session is over if ship is broken. */
static int take(struct session *s, take_call call, char id[80], struct err *e)
{
	struct protection *p = s->p;
	struct capture_point pt = { .instant_ns = clock_wall_ns(), .instant_mono_ns = clock_mono_ns(), .has_memory = true };
	struct ship_tally t;
	uint64_t seq;

	new_id(id);
	struct made m = { .p = p, .id = id, .pt = &pt, .chosen = call ? p->opts.capture->chosen(s->capture) : CAPTURE_BACKGROUND };
	if (fault_point(FAULT_REPLICA_TAKE, e) < 0 || ship_begin(s->ship, id, e) < 0)
		return -1;
	if (!call && p->opts.capture->still(s->guest, ship_sink(s->ship), p->opts.state_dir, e) < 0)
		return -1;
	if (call && protection_watch_capture(p, s->capture, call, ship_sink(s->ship), &pt, e) < 0) {
		const bool not_now = e->cls == ERR_REFUSED && e->errnum == EAGAIN;
		return ship_cancel(s->ship) && not_now ? 1 : -1;
	}
	{
		THREAD_LOCKED(&p->lock);
		p->lag_bytes = pt.dirty_bytes;
	}
	if (ship_finish(s->ship, meta_of, &m, &seq, &t, e) < 0 || fault_point(FAULT_REPLICA_COMMITTED_SOURCE, e) < 0)
		return -1;
	note_committed(s, id, &pt, &t);
	return 0;
}

/* ---- hand-over ---- */

/* Durable before the guest is paused: an agent that dies then, and is back, lets it run. */
static int begin_hand_over(struct protection *p, struct err *e)
{
	json_t *changes = json_pack("{s:s}", "state", "handing-over");
	const int rc = protection_change(p, "active", changes, e);

	json_decref(changes);
	return rc;
}

static bool handing_over(struct protection *p)
{
	THREAD_LOCKED(&p->lock);
	return strcmp(json_string_value(json_object_get(p->record, "state")), "handing-over") == 0;
}

/* A hand-over that came to nothing, of this agent or one before: the guest runs, and then the record says so. Else the next session tries again. */
static void end_hand_over(struct session *s)
{
	struct protection *p = s->p;
	struct err e = ERR_INIT;
	enum guest_run run;

	if (!s->guest || !handing_over(p))
		return;
	int rc = s->guest->ops->state(s->guest->ctx, &run, &e);
	if (rc == 0 && run == GUEST_PAUSED)
		rc = s->guest->ops->resume(s->guest->ctx, &e);
	json_t *changes = json_pack("{s:s}", "state", "active");
	if (rc == 0)
		rc = protection_change(p, "handing-over", changes, &e);
	json_decref(changes);
	if (rc < 0)
		log_error("hand_over_end", "vm=%s msg=%s", LOG_Q(p->vm), LOG_Q(e.text));
}

/* What is dirty travels first while it runs, so that it stands still only for the rest. 0: it stands still, and all of it is at the peer. */
static int take_last(struct session *s, char id[80], struct err *e)
{
	const struct capture_calls *c = s->p->opts.capture;
	int rc = take(s, c->take, id, e);

	if (rc == 0 && begin_hand_over(s->p, e) < 0)
		return -1;
	if (rc == 0)
		rc = take(s, c->take_last, id, e);
	return rc > 0 ? -1 : rc;
}

/* The last point is at the peer, or why not. True: the guest is the peer's from here on. */
static bool tell_last(struct protection *p, int rc, const char *id, const struct err *why)
{
	pthread_mutex_lock(&p->lock);
	snprintf(p->last_id, sizeof(p->last_id), "%s", id);
	p->last_error = *why;
	p->last_done = true;
	p->last_good = rc == 0;
	pthread_cond_broadcast(&p->changed);
	/* Until the record says handed-over, or it was given up. */
	while (rc == 0 && p->last_wanted && !p->stopping)
		pthread_cond_wait(&p->changed, &p->lock);
	if (rc < 0)
		p->last_wanted = false;
	const bool gone = rc == 0 && strcmp(json_string_value(json_object_get(p->record, "state")), "handed-over") == 0;
	pthread_mutex_unlock(&p->lock);
	return gone;
}

/* -1. why: NULL if it was for what happened after the last point. */
static int say_why_not(struct protection *p, const struct err *why, struct err *e)
{
	THREAD_LOCKED(&p->lock);
	*e = why ? *why : p->last_error;
	return err_is_set(e) ? -1 : err_set(e, ERR_CANCELLED, "the last point came when nobody waited for it any more");
}

/* 0: the guest is the peer's from here on. */
static int hand_over(struct session *s, struct err *e)
{
	struct protection *p = s->p;
	char id[80] = "";
	struct err why = ERR_INIT;
	const int rc = take_last(s, id, &why);

	if (tell_last(p, rc, id, &why)) {
		p->opts.capture->leave(s->capture);
		return 0;
	}
	/* It runs on here. The guardian may have been told that this capture is over: begin anew. */
	if (rc == 0 && p->opts.capture->let_go(s->capture, e) < 0)
		return -1;
	return say_why_not(p, rc < 0 ? &why : NULL, e);
}

/* Without a capture, where none can leave the guest standing still: it is paused as a user would, and read as it stands. What differs from the peer's
 * is found by hashes. Takes as long as reading all of it does. */
static int hand_over_still(struct session *s, struct err *e)
{
	struct protection *p = s->p;
	char id[80] = "";
	struct err why = ERR_INIT;
	int rc = begin_hand_over(p, &why);

	p->for_last = false;
	if (rc == 0)
		rc = s->guest->ops->pause(s->guest->ctx, &why);
	if (rc == 0)
		rc = take(s, NULL, id, &why);
	if (tell_last(p, rc, id, &why))
		return 0;
	/* end_hand_over lets it run. */
	return say_why_not(p, rc < 0 ? &why : NULL, e);
}

static bool last_wanted(struct protection *p)
{
	THREAD_LOCKED(&p->lock);
	return p->last_wanted;
}

/* ---- a session ---- */

/* The first pass: what differs travels while the guest runs. */
static int first_pass(struct session *s, struct err *e)
{
	struct protection *p = s->p;
	char id[80];
	struct ship_tally t;

	new_id(id);
	if (ship_begin(s->ship, id, e) < 0 || protection_watch_capture(p, s->capture, NULL, ship_sink(s->ship), NULL, e) < 0)
		return -1;
	if (ship_cancel(s->ship))
		return 0;
	if (ship_finish(s->ship, NULL, NULL, NULL, &t, e) < 0)
		return -1;
	THREAD_LOCKED(&p->lock);
	p->wire_bytes += t.wire_bytes;
	p->sent_bytes += t.sent_bytes;
	return 0;
}

static int checkpoints(struct session *s, struct err *e)
{
	struct protection *p = s->p;
	char id[80];

	s->due_ns = clock_mono_ns();
	while (wanted(p)) {
		wait_until(p, s->due_ns);
		if (!wanted(p))
			break;
		if (last_wanted(p) && p->opts.capture->chosen(s->capture) == CAPTURE_BACKGROUND && !p->for_last) {
			/* Its snapshots are of a VM that runs on. One COLO capture, whatever its pauses, brings the last point. */
			p->for_last = true;
			return 1;
		}
		if (last_wanted(p)) {
			const int over = hand_over(s, e);
			p->for_last = false;
			return over;
		}
		look_at_clock(p, s->ship);
		const int rc = take(s, p->opts.capture->take, id, e);
		if (rc < 0)
			return -1;
		if (rc == 1) {
			protection_set_state(p, "waiting", e->text);
			err_clear(e);
			s->due_ns = clock_mono_ns() + NOT_NOW_NS;
		}
		bool change;
		{
			THREAD_LOCKED(&p->lock);
			change = pace_gave_up(&p->pace) && p->forced == CAPTURE_AUTO && strcmp(p->mode, "auto") == 0;
			if (change)
				pace_init(&p->pace, p->rpo_ns, p->now.every_ns, p->max_pause_ns);
		}
		if (change && p->opts.capture->chosen(s->capture) == CAPTURE_COLO) {
			p->forced = CAPTURE_BACKGROUND;
			return 1;
		}
	}
	return 0;
}

/* One capture from its beginning to its end; 1: the same session can go on with another. 2: the hand-over has to do without one. */
static int run_capture(struct session *s, struct err *e)
{
	struct protection *p = s->p;
	struct err ship = ERR_INIT, tidy = ERR_INIT;

	if (make_capture(s, e) < 0) {
		drop_capture(s, false);
		if (!p->for_last || e->cls != ERR_REFUSED)
			return -1;
		err_clear(e);
		return 2;
	}
	bool have;
	{
		THREAD_LOCKED(&p->lock);
		have = p->have_point;
	}
	if (!have)
		protection_set_state(p, "seeding", "the first copy is on its way");
	int rc = first_pass(s, e);
	if (rc == 0)
		rc = checkpoints(s, e);
	drop_capture(s, rc >= 0);
	if (rc < 0 && !ship_broken(s->ship, &ship) && !ship_cancel(s->ship) && wanted(p) &&
	    ship_finish(s->ship, NULL, NULL, NULL, NULL, &tidy) < 0)
		log_info("protection_part", "vm=%s msg=%s", LOG_Q(p->vm), LOG_Q(tidy.text)); /* only lost progress */
	return rc;
}

static int open_guest(struct session *s, struct err *e)
{
	struct protection *p = s->p;
	enum guest_run run;

	s->guest = p->opts.open_guest(p->opts.ctx, p->uuid, e);
	if (!s->guest) {
		if (e->cls == ERR_REFUSED)
			e->errnum = ENOENT; /* nothing is wrong: it is not there */
		return -1;
	}
	if (!p->cleaned) {
		if (p->opts.capture->clean_up(s->guest, e) < 0)
			return err_wrap(e, "what an earlier capture left in %s", p->vm);
		p->cleaned = true;
	}
	if (s->guest->ops->state(s->guest->ctx, &run, e) < 0)
		return -1;
	if (run == GUEST_GONE) {
		err_set(e, ERR_REFUSED, "%s is shut off", p->vm);
		e->errnum = ENOENT;
		return -1;
	}
	return 0;
}

/* A point whose acknowledgement was lost on the way. */
static void learn_last(struct protection *p, const json_t *last)
{
	const char *id = json_string_value(json_object_get(last, "id"));
	const int64_t instant = json_integer_value(json_object_get(last, "instant_ns"));

	bool newer, lost;
	{
		THREAD_LOCKED(&p->lock);
		lost = p->have_point && (!id || instant < p->point_instant_ns);
		if (lost)
			log_error("points_lost", "vm=%s host=%s acknowledged=%s has=%s", LOG_Q(p->vm), p->host,
				  p->point_id, LOG_Q(id ? id : "none"));
		newer = id && (!p->have_point || strcmp(p->point_id, id) != 0);
		p->have_point = p->have_point && id;
	}
	if (newer)
		protection_note_point(p, id, instant, 0);
}

static int run_session(struct session *s, struct err *e)
{
	struct protection *p = s->p;

	if (check_owner(p, e) < 0)
		return -1;
	if (handing_over(p))
		p->cleaned = false; /* a capture may have been left in it */
	if (open_guest(s, e) < 0)
		return -1;
	end_hand_over(s);
	look_at_clock(p, NULL);
	const struct courier_opts co = courier_opts_of(p);
	s->courier = courier_open(&co, e);
	if (!s->courier)
		return -1;
	s->ship = courier_ship(s->courier);
	ship_set_floor(s->ship, THRIFT_LEVEL);
	learn_last(p, courier_last(s->courier));
	{
		THREAD_LOCKED(&p->lock);
		p->courier = s->courier;
		if (p->interrupt)
			return err_set(e, ERR_CANCELLED, "interrupted");
	}
	int rc;
	do {
		rc = run_capture(s, e);
		if (rc == 2)
			rc = hand_over_still(s, e);
	} while (rc == 1);
	p->for_last = false;
	return rc;
}

static void close_session(struct session *s, struct err *why)
{
	struct protection *p = s->p;

	{
		THREAD_LOCKED(&p->lock);
		p->courier = NULL;
	}
	courier_close(s->courier, why);
	guest_free(s->guest);
	THREAD_LOCKED(&p->lock);
	p->idle = true;
	if (p->last_wanted) {
		/* Whoever asked for the last point is told, and the next session owes none to anybody. */
		if (!p->last_done) {
			p->last_error = *why;
			if (!err_is_set(why))
				err_set(&p->last_error, ERR_CANCELLED, "the session ended before the last point of %s", p->vm);
		}
		p->last_done = true;
		p->last_wanted = false;
	}
	pthread_cond_broadcast(&p->changed);
}

/* What people are told after a session that failed, and how long until the next. */
static int64_t after_failure(struct protection *p, const struct err *e)
{
	const int64_t first = p->opts.retry_ns ? p->opts.retry_ns : RETRY_NS;
	char text[900];
	bool have;

	if (!protection_watch_said(p, text, sizeof(text)))
		snprintf(text, sizeof(text), "%.800s", e->text);
	{
		THREAD_LOCKED(&p->lock);
		have = p->have_point;
	}
	if (e->errnum == ENOENT && e->cls == ERR_REFUSED) {
		protection_set_state(p, "waiting", text);
		p->failures = 0;
		return first;
	}
	if (e->cls == ERR_REFUSED && p->failures >= 2 && !have)
		protection_set_state(p, "failed", text);
	else
		protection_set_state(p, have ? "degraded" : "seeding", text);
	const int64_t times = p->failures < 4 ? INT64_C(1) << p->failures : RETRY_MOST;
	p->failures++;
	return first * times;
}

/* A VM whose protection rests may be taken over all the same. */
static void look_at_owner(struct protection *p)
{
	struct err e = ERR_INIT;

	{
		THREAD_LOCKED(&p->lock);
		if (p->stopping || p->holds)
			return;
		__atomic_store_n(&p->interrupt, false, __ATOMIC_SEQ_CST);
	}
	if (check_owner(p, &e) < 0)
		log_debug("paused_owner", "uuid=%s msg=%s", p->uuid, LOG_Q(e.text));
}

/* What is looked at again while there is nothing to be done. Returns when the next time is. */
static int64_t look_meanwhile(struct protection *p, const char *state, int64_t *asked_ns)
{
	const int64_t every = p->opts.watch_owner_ns ? p->opts.watch_owner_ns : LOOK_AGAIN_NS, now = clock_mono_ns();

	if (strcmp(state, "fenced") == 0 || strcmp(state, "handed-over") == 0) {
		keep_fenced(p);
	} else if (strcmp(state, "paused") == 0 && now >= *asked_ns + ASK_TIMES * every) {
		look_at_owner(p);
		*asked_ns = clock_mono_ns();
	}
	return clock_mono_ns() + every;
}

/* Waits as long as nothing is to be done; false at the end. */
static bool wait_for_work(struct protection *p)
{
	int64_t asked_ns = clock_mono_ns();

	for (;;) {
		char state[32], why[200] = "";
		{
			THREAD_LOCKED(&p->lock);
			if (p->stopping)
				return false;
			if (protection_may_run_locked(p)) {
				__atomic_store_n(&p->interrupt, false, __ATOMIC_SEQ_CST);
				p->idle = false;
				return true;
			}
			snprintf(state, sizeof(state), "%s", json_string_value(json_object_get(p->record, "state")));
			if (p->holds)
				snprintf(why, sizeof(why), "%s", p->hold_why);
		}
		if (why[0])
			protection_set_state(p, "waiting", why);
		else if (strcmp(state, "paused") == 0)
			protection_set_state(p, "paused", "by an operator");
		if (strcmp(state, "fenced") == 0 && strcmp(p->state, "fenced") != 0)
			protection_set_state(p, "fenced", "the peer has taken this VM over; it is paused here");
		if (strcmp(state, "handed-over") == 0)
			protection_set_state(p, "fenced", "the VM was handed over to the peer and runs there");
		const int64_t again_ns = why[0] ? INT64_MAX : look_meanwhile(p, state, &asked_ns);
		THREAD_LOCKED(&p->lock);
		const char *now = json_string_value(json_object_get(p->record, "state"));
		if (!p->stopping && !protection_may_run_locked(p) && strcmp(now, state) == 0)
			thread_cond_wait_until(&p->changed, &p->lock, again_ns);
	}
}

/* What kept it from work is over; until the next point is at the peer that must not be what people read. */
static void say_going_on(struct protection *p)
{
	bool stale, have;

	{
		THREAD_LOCKED(&p->lock);
		stale = strcmp(p->state, "paused") == 0 || (p->hold_why[0] && strcmp(p->reason, p->hold_why) == 0);
		have = p->have_point;
	}
	if (stale)
		protection_set_state(p, have ? "degraded" : "seeding",
				     have ? "it goes on: what has changed meanwhile is looked for" : "the first copy is on its way");
}

void *protection_run_thread(void *arg)
{
	struct protection *p = arg;

	while (wait_for_work(p)) {
		say_going_on(p);
		struct session s = { .p = p };
		struct err e = ERR_INIT;
		const int rc = run_session(&s, &e);
		drop_capture(&s, false);
		end_hand_over(&s);
		close_session(&s, &e);
		if (rc < 0 && wanted(p))
			wait_until(p, clock_mono_ns() + after_failure(p, &e));
	}
	return NULL;
}
