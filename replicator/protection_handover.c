/*
 * Hand-over, the planned way of a VM to its peer: one last point, after which it stands still; then the record says so, durably; then the peer is told.
 * Between the one who asks (any thread) and the protection's, which takes the point.
 */
#include "replicator/protection_internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/epoch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the thread ---- */

/* Durable before the guest is paused: an agent that dies then, and is back, lets it run. */
static int begin_hand_over(struct protection *p, struct err *e)
{
	json_t *changes = json_pack("{s:s}", "state", "handing-over");
	const int rc = protection_change(p, "active", changes, e);

	json_decref(changes);
	return rc;
}

bool protection_handover_begun(struct protection *p)
{
	THREAD_LOCKED(&p->lock);
	return strcmp(json_string_value(json_object_get(p->record, "state")), "handing-over") == 0;
}

/* A hand-over that came to nothing, of this agent or one before: the guest runs, and then the record says so. Else the next session tries again. */
void protection_handover_end(struct protection_session *s)
{
	struct protection *p = s->p;
	struct err e = ERR_INIT;
	enum guest_run run;

	if (!s->guest || !protection_handover_begun(p))
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
static int take_last(struct protection_session *s, char id[80], struct err *e)
{
	const struct capture_calls *c = s->p->opts.capture;
	int rc = protection_take(s, c->take, id, e);

	if (rc == 0 && begin_hand_over(s->p, e) < 0)
		return -1;
	if (rc == 0)
		rc = protection_take(s, c->take_last, id, e);
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
int protection_handover_run(struct protection_session *s, struct err *e)
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
int protection_handover_still(struct protection_session *s, struct err *e)
{
	struct protection *p = s->p;
	char id[80] = "";
	struct err why = ERR_INIT;
	int rc = begin_hand_over(p, &why);

	p->for_last = false;
	if (rc == 0)
		rc = s->guest->ops->pause(s->guest->ctx, &why);
	if (rc == 0)
		rc = protection_take(s, NULL, id, &why);
	if (tell_last(p, rc, id, &why))
		return 0;
	/* end_hand_over lets it run. */
	return say_why_not(p, rc < 0 ? &why : NULL, e);
}

bool protection_handover_wanted(struct protection *p)
{
	THREAD_LOCKED(&p->lock);
	return p->last_wanted;
}

void protection_handover_over(struct protection *p, const struct err *why)
{
	THREAD_LOCKED(&p->lock);
	if (!p->last_wanted)
		return;
	if (!p->last_done) {
		p->last_error = *why;
		if (!err_is_set(why))
			err_set(&p->last_error, ERR_CANCELLED, "the session ended before the last point of %s", p->vm);
	}
	p->last_done = true;
	p->last_wanted = false;
	pthread_cond_broadcast(&p->changed);
}

/* ---- who asks ---- */

/* Does the guest still stand still? What cannot be asked counts as a no; one that is gone does. */
static int check_still(struct protection *p, struct err *e)
{
	enum guest_run run = GUEST_GONE;
	struct guest *g = p->opts.open_guest(p->opts.ctx, p->uuid, e);

	if (!g && e->cls != ERR_REFUSED)
		return -1;
	const int rc = g ? g->ops->state(g->ctx, &run, e) : 0;
	guest_free(g);
	if (rc < 0)
		return -1;
	err_clear(e);
	return run == GUEST_RUNNING ? err_set(e, ERR_CANCELLED,
					      "%s runs on here: it was let go while it was being handed over", p->vm)
				    : 0;
}

/* With the last point: whoever takes the VM over must have that one. */
static json_t *handed_over_json(struct protection *p, uint64_t epoch)
{
	THREAD_LOCKED(&p->lock);
	return json_pack("{s:s, s:I, s:{s:s, s:I, s:b}}", "state", "handed-over", "epoch", (json_int_t)epoch,
			 "last_point", "id", p->point_id, "instant_ns", (json_int_t)p->point_instant_ns, "final", 1);
}

/* The guest is paused and the last point is at the peer. From here on it is nobody's here to let go, not even the guardian's: only then may the record
 * say so. It is looked at once more after that, and before the peer hears of it. */
static int commit_hand_over(struct protection *p, uint64_t epoch, struct err *e)
{
	struct err undone = ERR_INIT;
	uint64_t before;
	bool watched;

	{
		THREAD_LOCKED(&p->lock);
		before = p->epoch;
		watched = p->watched; /* its thread waits for us */
	}
	if (watched && p->opts.part && p->opts.part(p->opts.ctx, p->uuid, e) < 0)
		return -1;
	{
		THREAD_LOCKED(&p->lock);
		if (p->late || p->rescued || (p->armed_ns && clock_mono_ns() >= p->armed_ns))
			return err_set(e, ERR_CANCELLED, "%s stood still for too long, and was let go", p->vm);
	}
	json_t *changes = handed_over_json(p, epoch);
	int rc = protection_change(p, "handing-over", changes, e);
	json_decref(changes);
	if (rc < 0 && e->cls == ERR_REFUSED)
		return -1;
	if (rc == 0)
		rc = check_still(p, e);
	if (rc == 0)
		return 0;
	/* Also when it could not be saved: what is on disk then is not known. The thread lets it run, and then says that it is active. */
	changes = json_pack("{s:s, s:I}", "state", "handing-over", "epoch", (json_int_t)before);
	if (protection_update(p, changes, &undone) < 0)
		log_error("hand_over_undo", "uuid=%s msg=%s", p->uuid, LOG_Q(undone.text));
	json_decref(changes);
	return -1;
}

int protection_hand_over(struct protection *p, uint64_t epoch, int64_t deadline_ns, char **point, struct err *e)
{
	if (protection_check_crashed(p, e) < 0)
		return -1;
	{
		THREAD_LOCKED(&p->lock);
		if (!p->courier || !p->capture || p->last_wanted) {
			err_set(e, ERR_REFUSED, "%s is not being replicated at the moment: %s", p->vm, p->reason);
			return err_remedy(
				e, "wait until its status is 'protected', or fail over without its source (--force)");
		}
		p->last_wanted = true;
		p->last_done = p->last_good = false;
		err_clear(&p->last_error);
		pthread_cond_broadcast(&p->changed);
		while (!p->last_done && p->last_wanted)
			if (thread_cond_wait_until(&p->changed, &p->lock, deadline_ns) < 0 && !p->last_done) {
				p->last_wanted = false;
				return err_set(e, ERR_REFUSED, "the last point of %s took too long", p->vm);
			}
		if (!p->last_good) {
			*e = p->last_error;
			return err_is_set(e) ? -1
					     : err_set(e, ERR_CANCELLED, "the last point of %s was not taken", p->vm);
		}
		*point = mem_strdup(p->last_id);
	}
	const int rc = commit_hand_over(p, epoch, e);
	if (rc < 0) {
		free(*point);
		*point = NULL;
	}
	THREAD_LOCKED(&p->lock);
	p->last_wanted = false;
	if (rc < 0)
		p->last_error = *e;
	protection_interrupt_locked(p);
	return rc;
}

int protection_hand_over_again(struct protection *p, uint64_t epoch, char **point, struct err *e)
{
	if (check_still(p, e) < 0) {
		if (e->cls != ERR_CANCELLED)
			return -1;
		err_set(e, ERR_REFUSED, "%s was handed over, and runs here again", p->vm);
		return err_remedy(
			e, "somebody let it go on: find out which state of it is the right one before anything else");
	}
	{
		/* The same once more, if the answer was lost; the next, if it could not be started. */
		THREAD_LOCKED(&p->lock);
		if (epoch != p->epoch && epoch_check_next(p->epoch, epoch, e) < 0)
			return err_remedy(e, "look at both hosts with 'vmferry status' before anything else");
		*point = mem_strdup(p->point_id);
	}
	json_t *changes = json_pack("{s:I}", "epoch", (json_int_t)epoch);
	const int rc = protection_change(p, "handed-over", changes, e);
	json_decref(changes);
	if (rc < 0) {
		free(*point);
		*point = NULL;
	}
	return rc;
}
