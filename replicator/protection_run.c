/*
 * The thread of a protection. A session: ask the peer for the epoch, begin, and one capture or more, until something ends it.
 * Whatever that is, the next begins anew and finds out by hashes what the peer has.
 */
#include "replicator/protection_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "replicator/epoch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define RETRY_NS NS_PER_S
#define RETRY_MOST 15
#define LOOK_AGAIN_NS (2 * NS_PER_S) /* at a VM that must not run here */
#define ASK_TIMES 5                  /* so many of those: who owns a VM whose protection is paused */

/* ---- a session ---- */

static int open_guest(struct protection_session *s, struct err *e)
{
	struct protection *p = s->p;
	enum guest_run run;

	s->guest = p->opts.open_guest(p->opts.ctx, p->uuid, e);
	if (!s->guest) {
		if (e->cls == ERR_REFUSED)
			e->errnum = ENOENT; /* nothing is wrong: it is not there */
		if (e->cls == ERR_CONFIG)
			err_set(e, ERR_REFUSED,
				"%s is not on this host: if it has moved, 'vmferry protect' it where it runs now, and "
				"'vmferry unprotect' it here",
				p->vm);
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

/* What was durable there, by its word, is not there any more. */
static void tell_lost(struct protection *p, const char *acknowledged, const char *has)
{
	char reason[300];

	log_error("points_lost", "vm=%s host=%s acknowledged=%s has=%s", LOG_Q(p->vm), p->host, acknowledged,
		  LOG_Q(has ? has : "none"));
	snprintf(reason, sizeof(reason), "%s had committed point %s; its latest is %.80s now", p->host, acknowledged,
		 has ? has : "none");
	if (p->opts.event)
		p->opts.event(p->opts.ctx, "points.lost", p->uuid,
			      json_pack("{s:s, s:s, s:s, s:s, s:s*, s:s}", "vm", p->vm, "host", p->host, "from",
					p->opts.host_name, "acknowledged", acknowledged, "has", has, "reason", reason));
}

/* A point whose acknowledgement was lost on the way. */
static void learn_last(struct protection *p, const json_t *last)
{
	const char *id = json_string_value(json_object_get(last, "id"));
	const int64_t instant = json_integer_value(json_object_get(last, "instant_ns"));

	bool newer, lost;
	char acknowledged[80];
	{
		THREAD_LOCKED(&p->lock);
		lost = p->have_point && (!id || instant < p->point_instant_ns);
		snprintf(acknowledged, sizeof(acknowledged), "%s", p->point_id);
		newer = id && (!p->have_point || strcmp(p->point_id, id) != 0);
		p->have_point = p->have_point && id;
	}
	if (lost)
		tell_lost(p, acknowledged, id);
	if (newer)
		protection_note_point(p, id, instant, 0);
}

static int run_session(struct protection_session *s, struct err *e)
{
	struct protection *p = s->p;

	if (protection_owner_check(p, e) < 0)
		return -1;
	if (protection_handover_begun(p))
		p->cleaned = false; /* a capture may have been left in it */
	if (open_guest(s, e) < 0)
		return -1;
	protection_handover_end(s);
	protection_points_clock(p, NULL);
	if (protection_seed_run(p, e) < 0)
		return -1;
	const struct courier_opts co = protection_courier_opts(p);
	s->courier = courier_open(&co, e);
	if (!s->courier)
		return -1;
	s->ship = courier_ship(s->courier);
	ship_set_floor(s->ship, PROTECTION_THRIFT_LEVEL);
	if (protection_seed_drop(p, e) < 0)
		return -1;
	learn_last(p, courier_last(s->courier));
	{
		THREAD_LOCKED(&p->lock);
		p->courier = s->courier;
		p->space_bytes = courier_space_bytes(s->courier);
		p->kept = courier_points(s->courier);
		p->committed_ns = 0;
		if (p->interrupt)
			return err_set(e, ERR_CANCELLED, "interrupted");
	}
	int rc;
	do {
		rc = protection_points_run(s, e);
		if (rc == 2)
			rc = protection_handover_still(s, e);
	} while (rc == 1);
	p->for_last = false;
	return rc;
}

static void close_session(struct protection_session *s, struct err *why)
{
	struct protection *p = s->p;

	{
		THREAD_LOCKED(&p->lock);
		p->courier = NULL;
	}
	courier_close(s->courier, why);
	guest_free(s->guest);
	protection_handover_over(p, why);
	THREAD_LOCKED(&p->lock);
	p->idle = true;
	pthread_cond_broadcast(&p->changed);
}

/* ---- between sessions ---- */

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
		THREAD_LOCKED(&p->lock);
		protection_points_forget_locked(p);
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

/* What is looked at again while there is nothing to be done. Returns when the next time is. */
static int64_t look_meanwhile(struct protection *p, const char *state, int64_t *asked_ns)
{
	const int64_t every = p->opts.watch_owner_ns ? p->opts.watch_owner_ns : LOOK_AGAIN_NS, now = clock_mono_ns();

	if (strcmp(state, "fenced") == 0 || strcmp(state, "handed-over") == 0) {
		protection_owner_keep_fenced(p);
	} else if (strcmp(state, "paused") == 0 && now >= *asked_ns + ASK_TIMES * every) {
		protection_owner_look(p);
		*asked_ns = clock_mono_ns();
	}
	return clock_mono_ns() + every;
}

/* The VM has an owner all the same, and nobody here knows which. */
static void say_unreadable(struct protection *p)
{
	struct err e = ERR_INIT;
	char text[900];

	{
		THREAD_LOCKED(&p->lock);
		(void)epoch_check_readable(p->record, &e);
	}
	snprintf(text, sizeof(text), "%.500s; %.380s", e.text, e.remedy);
	protection_set_state(p, "failed", text);
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
				if (p->was_held)
					protection_points_forget_locked(p);
				p->was_held = false;
				return true;
			}
			snprintf(state, sizeof(state), "%s", json_string_value(json_object_get(p->record, "state")));
			if (p->holds)
				snprintf(why, sizeof(why), "%s", p->hold_why);
		}
		if (why[0]) {
			protection_set_state(p, "waiting", why);
		} else if (strcmp(state, "paused") == 0) {
			protection_set_state(p, "paused", "by an operator");
		} else if (strcmp(state, "unreadable") == 0) {
			say_unreadable(p);
		}
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
				     have ? "it goes on: what has changed meanwhile is looked for"
					  : "the first copy is on its way");
}

void *protection_run_thread(void *arg)
{
	struct protection *p = arg;

	while (wait_for_work(p)) {
		say_going_on(p);
		struct protection_session s = { .p = p };
		struct err e = ERR_INIT;
		const int rc = run_session(&s, &e);
		protection_points_drop(&s, false);
		protection_handover_end(&s);
		close_session(&s, &e);
		if (rc < 0 && protection_wanted(p))
			protection_wait(p, clock_mono_ns() + after_failure(p, &e));
	}
	return NULL;
}
