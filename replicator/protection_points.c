/* One capture from its beginning to its end: a first pass of what differs from what the peer has, then a checkpoint whenever one is due. */
#include "replicator/protection_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/units.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NOT_NOW_NS (200 * NS_PER_MS)
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

/* "memory" leaves to the capture how; "auto" leaves to it whether, too. All others are to be had, or not. */
static enum capture_mode wanted_mode(const struct protection *p)
{
	enum capture_mode m = CAPTURE_AUTO;

	if (p->for_last)
		return CAPTURE_COLO;
	if (strcmp(p->mode, "memory") != 0)
		(void)capture_mode_from_name(p->mode, &m);
	return m;
}

static bool how_is_free(const struct protection *p)
{
	return strcmp(p->mode, "auto") == 0 || strcmp(p->mode, "memory") == 0;
}

#define COLO_AGAIN_NS (15 * 60 * NS_PER_S)
#define COLO_AGAIN_MOST 64

void protection_points_forget_locked(struct protection *p)
{
	p->without_colo = p->colo_or_nothing = false;
	p->colo_wait_ns = p->colo_again_ns = 0;
	pace_init(&p->pace, p->rpo_ns, p->now.every_ns, p->max_pause_ns);
}

/* Each time costs a first pass and the comparing of all disks: less and less often, unless it went well for as long as it was away. */
static void give_up_colo(struct protection *p)
{
	const int64_t first = p->opts.colo_again_ns ? p->opts.colo_again_ns : COLO_AGAIN_NS, now = clock_mono_ns();
	const bool again = p->colo_wait_ns && now - p->colo_again_ns < p->colo_wait_ns;
	const int64_t longer = p->colo_wait_ns * 2;

	p->colo_wait_ns = !again ? first : longer > first * COLO_AGAIN_MOST ? first * COLO_AGAIN_MOST : longer;
	p->colo_again_ns = now + p->colo_wait_ns;
	p->without_colo = true;
}

static void try_colo_again(struct protection *p)
{
	char text[32];

	log_info("colo_again", "vm=%s uuid=%s after=%s", LOG_Q(p->vm), p->uuid,
		 units_format_duration(p->colo_wait_ns, text, sizeof(text)));
	p->without_colo = false;
	p->colo_again_ns = clock_mono_ns();
}

/* With the guardian's eye on it. */
static struct capture *make_watched(const struct protection_session *s, const struct capture_opts *co, struct err *e)
{
	struct protection *p = s->p;
	struct capture *c = p->opts.capture->make(s->guest, co, e);

	if (!c || protection_watch_begin(p, p->opts.capture->chosen(c) != CAPTURE_DISK, e) == 0)
		return c;
	p->opts.capture->free(c);
	return NULL;
}

/* How it is captured: as chosen. What comes of that turns out at its start. */
static void say_how(const struct protection_session *s)
{
	struct protection *p = s->p;

	THREAD_LOCKED(&p->lock);
	snprintf(p->capture_name, sizeof(p->capture_name), "%s", capture_mode_name(p->opts.capture->chosen(s->capture)));
	snprintf(p->capture_reason, sizeof(p->capture_reason), "%.240s%s%.150s", p->opts.capture->reason(s->capture),
		 s->otherwise[0] ? "; " : "", s->otherwise);
}

/* It has started. Another way than the time before is an event; so is the first, if a memory that was to be had is not. The last checkpoint of a hand-over
 * has a way of its own, once. */
static void say_started(const struct protection_session *s)
{
	struct protection *p = s->p;
	const bool any = strcmp(p->mode, "auto") == 0;
	char was[16], now[16], reason[400];

	say_how(s);
	if (p->for_last)
		return;
	{
		THREAD_LOCKED(&p->lock);
		snprintf(was, sizeof(was), "%s", p->started_as);
		snprintf(now, sizeof(now), "%s", p->capture_name);
		snprintf(reason, sizeof(reason), "%s", p->capture_reason);
		snprintf(p->started_as, sizeof(p->started_as), "%s", now);
	}
	if (strcmp(was, now) == 0 || (!was[0] && !(any && strcmp(now, "disk") == 0)))
		return;
	log_info("capture", "vm=%s uuid=%s was=%s now=%s msg=%s", LOG_Q(p->vm), p->uuid, was[0] ? was : "none", now,
		 LOG_Q(reason));
	if (p->opts.event)
		p->opts.event(p->opts.ctx, "protection.capture", p->uuid,
			      json_pack("{s:s, s:s, s:s, s:s, s:s*, s:s}", "vm", p->vm, "host", p->host, "from",
					p->opts.host_name, "capture", now, "was", was[0] ? was : NULL, "reason", reason));
}

static int make_capture(struct protection_session *s, struct err *e)
{
	struct protection *p = s->p;
	const bool any = strcmp(p->mode, "auto") == 0;
	struct capture_opts co = { .mode = wanted_mode(p),
				   .memory = strcmp(p->mode, "memory") == 0,
				   .no_colo = p->without_colo,
				   .staging_bytes = p->opts.staging_bytes,
				   .quiesce = p->quiesce,
				   .arm = protection_watch_arm,
				   .hold = protection_watch_hold,
				   .ctx = p };
	struct capture *c = make_watched(s, &co, e);
	char wait[32];

	s->otherwise[0] = '\0';
	if (!c && any && !p->for_last && e->cls == ERR_REFUSED) {
		snprintf(s->otherwise, sizeof(s->otherwise), "memory cannot be captured (%.200s)", e->text);
		err_clear(e);
		co.mode = CAPTURE_DISK;
		c = make_watched(s, &co, e);
	}
	if (!c)
		return -1;
	if (p->without_colo)
		snprintf(s->otherwise, sizeof(s->otherwise),
			 "COLO's pauses were over the budget; it is tried again after %s",
			 units_format_duration(p->colo_wait_ns, wait, sizeof(wait)));
	s->capture = c;
	say_how(s);
	THREAD_LOCKED(&p->lock);
	p->capture = c;
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

/* The first pass: what differs travels while the guest runs. */
static int first_pass(struct protection_session *s, struct err *e)
{
	struct protection *p = s->p;
	char id[80];
	struct ship_tally t;

	protection_take_id(id);
	if (ship_begin(s->ship, id, e) < 0 ||
	    protection_watch_capture(p, s->capture, NULL, ship_sink(s->ship), NULL, e) < 0)
		return -1;
	say_started(s);
	if (ship_cancel(s->ship))
		return 0;
	if (ship_finish(s->ship, NULL, NULL, NULL, &t, e) < 0)
		return -1;
	THREAD_LOCKED(&p->lock);
	p->wire_bytes += t.wire_bytes;
	p->sent_bytes += t.sent_bytes;
	return 0;
}

/* A guest that stands still has nothing new to lose; one that runs has. */
static void say_not_now(struct protection *p, const struct err *e)
{
	bool have;

	{
		THREAD_LOCKED(&p->lock);
		have = p->have_point;
	}
	protection_set_state(p, e->errnum != EBUSY ? "waiting" : have ? "degraded" : "seeding", e->text);
}

static int checkpoints(struct protection_session *s, struct err *e)
{
	struct protection *p = s->p;
	char id[80];

	s->due_ns = clock_mono_ns();
	while (protection_wanted(p)) {
		protection_wait(p, s->due_ns);
		if (!protection_wanted(p))
			break;
		if (protection_handover_wanted(p) && p->opts.capture->chosen(s->capture) == CAPTURE_BACKGROUND &&
		    !p->for_last) {
			/* Its snapshots are of a VM that runs on: this one leaves little that has to travel while it stands still. Then one
			 * COLO capture, whatever its pauses, brings the last point. */
			if (protection_take(s, p->opts.capture->take, id, e) < 0)
				return -1;
			err_clear(e);
			p->for_last = true;
			return 1;
		}
		if (protection_handover_wanted(p)) {
			const int over = protection_handover_run(s, e);
			p->for_last = false;
			return over;
		}
		protection_points_clock(p, s->ship);
		const int rc = protection_take(s, p->opts.capture->take, id, e);
		if (rc < 0)
			return -1;
		if (rc == 1) {
			say_not_now(p, e);
			err_clear(e);
			s->due_ns = clock_mono_ns() + NOT_NOW_NS;
		}
		bool change;
		{
			THREAD_LOCKED(&p->lock);
			change = pace_gave_up(&p->pace) && !p->without_colo && !p->colo_or_nothing && how_is_free(p);
			if (change)
				pace_init(&p->pace, p->rpo_ns, p->now.every_ns, p->max_pause_ns);
		}
		if (change && p->opts.capture->chosen(s->capture) == CAPTURE_COLO) {
			give_up_colo(p);
			return 1;
		}
		if (p->without_colo && clock_mono_ns() >= p->colo_again_ns &&
		    !protection_handover_wanted(p)) {
			THREAD_LOCKED(&p->lock);
			pace_init(&p->pace, p->rpo_ns, p->now.every_ns, p->max_pause_ns);
			try_colo_again(p);
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
		protection_seed_say_seeding(p);
	int rc = first_pass(s, e);
	if (rc == 0)
		rc = checkpoints(s, e);
	if (rc < 0 && e->errnum == ENOTSUP && p->without_colo) {
		/* Better with long pauses than not at all. */
		log_info("colo_or_nothing", "vm=%s uuid=%s msg=%s", LOG_Q(p->vm), p->uuid, LOG_Q(e->text));
		p->without_colo = false;
		p->colo_or_nothing = true;
	}
	protection_points_drop(s, rc >= 0);
	if (rc < 0 && !ship_broken(s->ship, &ship) && !ship_cancel(s->ship) && protection_wanted(p) &&
	    ship_finish(s->ship, NULL, NULL, NULL, NULL, &tidy) < 0)
		log_info("protection_part", "vm=%s msg=%s", LOG_Q(p->vm), LOG_Q(tidy.text)); /* only lost progress */
	return rc;
}
