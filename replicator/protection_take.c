/* One checkpoint: taken, carried to the peer, and what it says about how we keep up. */
#include "replicator/protection_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/units.h"

#include <errno.h>
#include <stdio.h>
#include <sys/random.h>

#define PATIENT_POINTS 100 /* after a pause that was too long; by then the pauses speak for themselves */
#define SAVE_EVERY_NS (10 * NS_PER_S)

void protection_take_id(char out[80])
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

struct made {
	struct protection *p;
	const char *id;
	const struct capture_point *pt;
	enum capture_mode chosen;
};

static json_t *meta_of(void *ctx, const struct ship_tally *t)
{
	const struct made *m = ctx;

	return json_pack("{s:s, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:b, s:b, s:I, s:s}", "id", m->id, "instant_ns",
			 (json_int_t)m->pt->instant_ns, "kind", m->pt->has_memory ? "memory" : "disk", "capture",
			 capture_mode_name(m->chosen), "pause_ns", (json_int_t)m->pt->pause_ns, "dirty_bytes",
			 (json_int_t)m->pt->dirty_bytes, "sent_bytes", (json_int_t)t->sent_bytes, "wire_bytes",
			 (json_int_t)t->wire_bytes, "quiesced", (int)m->pt->quiesced, "autostart",
			 (int)protection_boot_starts(m->p), "epoch",
			 (json_int_t)__atomic_load_n(&m->p->epoch, __ATOMIC_SEQ_CST), "from", m->p->opts.host_name);
}

static void save_last(struct protection *p, int64_t now)
{
	struct err e = ERR_INIT;
	json_t *changes;

	if (now - p->saved_ns < SAVE_EVERY_NS && p->saved_ns)
		return;
	p->saved_ns = now;
	protection_boot_look(p);
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
		/* A stretched interval is why the target is not held, not the link. */
		if (pc->stretch > 1) {
			state = "degraded";
			snprintf(reason, sizeof(reason),
				 "pauses are over the budget of %s (p99 %s): the interval is stretched to %s%s",
				 units_format_duration(p->max_pause_ns, a, sizeof(a)),
				 units_format_duration(pace_pause_ns(pc, 0.99), b, sizeof(b)),
				 units_format_duration(pace_interval_ns(pc), c, sizeof(c)),
				 pace_behind(pc) ? ", and the target is not held" : "");
		} else if (pace_behind(pc)) {
			state = "degraded";
			snprintf(reason, sizeof(reason),
				 "the target of %s is not held: points are up to %s old, their commits take %s",
				 units_format_duration(p->rpo_ns, a, sizeof(a)),
				 units_format_duration(pc->worst_rpo_ns, b, sizeof(b)),
				 units_format_duration(pace_commit_ns(pc), c, sizeof(c)));
		}
		ship_set_floor(s->ship, pace_behind(pc) && pc->stretch == 1 ? CODEC_RAW : PROTECTION_THRIFT_LEVEL);
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
		p->kept = courier_points(s->courier);
		const int64_t took = now - (p->committed_ns ? p->committed_ns : pt->instant_mono_ns);
		p->throughput = took > 0 ? (double)t->wire_bytes * 1e9 / (double)took : 0;
		p->committed_ns = now;
		s->due_ns = pt->instant_mono_ns + pace_interval_ns(&p->pace);
	}
	protection_note_point(p, id, pt->instant_ns, pt->instant_mono_ns);
	p->failures = 0;
	save_last(p, now);
	judge_pace(s);
}

/* call NULL: of a guest that stands still, without a capture. 0: committed. 1: not now, as e says (EBUSY: although the guest runs). -1 with the error set; the session is over if ship is broken. */
int protection_take(struct protection_session *s, take_call call, char id[80], struct err *e)
{
	struct protection *p = s->p;
	struct capture_point pt = { .instant_ns = clock_wall_ns(),
				    .instant_mono_ns = clock_mono_ns(),
				    .has_memory = true };
	struct ship_tally t;
	uint64_t seq;

	protection_take_id(id);
	struct made m = {
		.p = p, .id = id, .pt = &pt, .chosen = call ? p->opts.capture->chosen(s->capture) : CAPTURE_BACKGROUND
	};
	if (fault_point(FAULT_REPLICA_TAKE, e) < 0 || ship_begin(s->ship, id, e) < 0)
		return -1;
	if (!call && p->opts.capture->still(s->guest, ship_sink(s->ship), p->opts.state_dir, e) < 0)
		return -1;
	if (call && protection_watch_capture(p, s->capture, call, ship_sink(s->ship), &pt, e) < 0) {
		const bool not_now = e->cls == ERR_REFUSED && (e->errnum == EAGAIN || e->errnum == EBUSY);
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
