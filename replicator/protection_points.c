/* One capture from its beginning to its end: a first pass of what differs from what the peer has, then a checkpoint whenever one is due. */
#include "replicator/protection_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/units.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define PATIENT_POINTS 100 /* after a pause that was too long; by then the pauses speak for themselves */
#define NOT_NOW_NS (200 * NS_PER_MS)
#define SAVE_EVERY_NS (10 * NS_PER_S)

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

/* What the hour says. */
void protection_points_clock(struct protection *p, struct ship *ship)
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
static struct capture *make_watched(const struct protection_session *s, const struct capture_opts *co, struct err *e)
{
	struct protection *p = s->p;
	struct capture *c = p->opts.capture->make(s->guest, co, e);

	if (!c || protection_watch_begin(p, p->opts.capture->chosen(c), e) == 0)
		return c;
	p->opts.capture->free(c);
	return NULL;
}

static int make_capture(struct protection_session *s, struct err *e)
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
	snprintf(p->capture_reason, sizeof(p->capture_reason), "%.200s%s%.150s", p->opts.capture->reason(c),
		 why[0] ? "; " : "", why);
	return p->interrupt ? err_set(e, ERR_CANCELLED, "interrupted") : 0;
}

void protection_points_drop(struct protection_session *s, bool good)
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
			 (json_int_t)m->pt->dirty_bytes, "sent_bytes", (json_int_t)t->sent_bytes, "wire_bytes",
			 (json_int_t)t->wire_bytes, "quiesced", (int)m->pt->quiesced, "epoch",
			 (json_int_t)__atomic_load_n(&m->p->epoch, __ATOMIC_SEQ_CST), "from", m->p->opts.host_name);
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
		changes = json_pack("{s:{s:s, s:I}}", "last_point", "id", p->point_id, "instant_ns",
				    (json_int_t)p->point_instant_ns);
	}
	if (protection_update(p, changes, &e) < 0)
		log_warn("protection_record", "uuid=%s msg=%s", p->uuid, LOG_Q(e.text));
	json_decref(changes);
}

/* What the last point says about how we keep up. */
static void judge_pace(struct protection_session *s)
{
	struct protection *p = s->p;
	char reason[300] = "", a[32], b[32], c[32];
	const char *state = "protected";

	{
		THREAD_LOCKED(&p->lock);
		const struct pace *pc = &p->pace;
		if (pace_behind(pc)) {
			state = "degraded";
			snprintf(reason, sizeof(reason),
				 "the target of %s is not held: points are up to %s old, their commits take %s",
				 units_format_duration(p->rpo_ns, a, sizeof(a)),
				 units_format_duration(pc->worst_rpo_ns, b, sizeof(b)),
				 units_format_duration(pace_commit_ns(pc), c, sizeof(c)));
		} else if (pc->stretch > 1) {
			state = "degraded";
			snprintf(reason, sizeof(reason),
				 "pauses are over the budget of %s (p99 %s): the interval is stretched to %s",
				 units_format_duration(p->max_pause_ns, a, sizeof(a)),
				 units_format_duration(pace_pause_ns(pc, 0.99), b, sizeof(b)),
				 units_format_duration(pace_interval_ns(pc), c, sizeof(c)));
		}
		ship_set_floor(s->ship, pace_behind(pc) ? CODEC_RAW : PROTECTION_THRIFT_LEVEL);
	}
	protection_set_state(p, state, reason);
}

static void note_committed(struct protection_session *s, const char *id, const struct capture_point *pt,
			   const struct ship_tally *t)
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
		p->space_bytes = courier_space_bytes(s->courier);
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
int protection_points_take(struct protection_session *s, take_call call, char id[80], struct err *e)
{
	struct protection *p = s->p;
	struct capture_point pt = { .instant_ns = clock_wall_ns(),
				    .instant_mono_ns = clock_mono_ns(),
				    .has_memory = true };
	struct ship_tally t;
	uint64_t seq;

	new_id(id);
	struct made m = {
		.p = p, .id = id, .pt = &pt, .chosen = call ? p->opts.capture->chosen(s->capture) : CAPTURE_BACKGROUND
	};
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

/* ---- all of them ---- */

/* The first pass: what differs travels while the guest runs. */
static int first_pass(struct protection_session *s, struct err *e)
{
	struct protection *p = s->p;
	char id[80];
	struct ship_tally t;

	new_id(id);
	if (ship_begin(s->ship, id, e) < 0 ||
	    protection_watch_capture(p, s->capture, NULL, ship_sink(s->ship), NULL, e) < 0)
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

static int checkpoints(struct protection_session *s, struct err *e)
{
	struct protection *p = s->p;
	char id[80];

	s->due_ns = clock_mono_ns();
	while (protection_run_wanted(p)) {
		protection_run_wait(p, s->due_ns);
		if (!protection_run_wanted(p))
			break;
		if (protection_handover_wanted(p) && p->opts.capture->chosen(s->capture) == CAPTURE_BACKGROUND &&
		    !p->for_last) {
			/* Its snapshots are of a VM that runs on. One COLO capture, whatever its pauses, brings the last point. */
			p->for_last = true;
			return 1;
		}
		if (protection_handover_wanted(p)) {
			const int over = protection_handover_run(s, e);
			p->for_last = false;
			return over;
		}
		protection_points_clock(p, s->ship);
		const int rc = protection_points_take(s, p->opts.capture->take, id, e);
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
int protection_points_run(struct protection_session *s, struct err *e)
{
	struct protection *p = s->p;
	struct err ship = ERR_INIT, tidy = ERR_INIT;

	if (make_capture(s, e) < 0) {
		protection_points_drop(s, false);
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
	protection_points_drop(s, rc >= 0);
	if (rc < 0 && !ship_broken(s->ship, &ship) && !ship_cancel(s->ship) && protection_run_wanted(p) &&
	    ship_finish(s->ship, NULL, NULL, NULL, NULL, &tidy) < 0)
		log_info("protection_part", "vm=%s msg=%s", LOG_Q(p->vm), LOG_Q(tidy.text)); /* only lost progress */
	return rc;
}
