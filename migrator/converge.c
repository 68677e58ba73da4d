#include "migrator/converge.h"

#include "base/clock.h"
#include "base/units.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A pass must need a fifth less time than the best one to count as progress. */
#define PROGRESS 0.8
/* Passes without progress after which the limit is raised, and after which it is called a stall at the highest limit. */
#define RAISE_AFTER 2
#define STALL_AFTER 4
/* Once the guest could switch within the allowed downtime, waiting for less may take an eighth of the time so far, at least a second. */
#define PATIENCE_MIN_NS (1 * NS_PER_S)
#define PATIENCE_SHARE 8
/* Above this ratio of dirty rate to link rate passes hardly shrink. */
#define HOPELESS 0.95
#define THROTTLE_MAX 99

static const char *const on_stall_names[] = {
	[CONVERGE_ABORT] = "abort",
	[CONVERGE_PAUSE] = "pause",
	[CONVERGE_POSTCOPY] = "postcopy",
};

int converge_parse_on_stall(const char *name, enum converge_on_stall *out, struct err *e)
{
	for (size_t i = 0; i < sizeof(on_stall_names) / sizeof(on_stall_names[0]); i++)
		if (strcmp(name, on_stall_names[i]) == 0) {
			*out = (enum converge_on_stall)i;
			return 0;
		}
	return err_set(e, ERR_CONFIG, "on-stall is '%s', but can only be abort, pause or postcopy", name);
}

const char *converge_on_stall_name(enum converge_on_stall on_stall)
{
	return on_stall_names[on_stall];
}

void converge_init(struct converge *c, const struct converge_opts *opts, int64_t start_ns)
{
	*c = (struct converge){ .opts = *opts, .start_ns = start_ns };
	if (c->opts.max_downtime_ms <= 0)
		c->opts.max_downtime_ms = CONVERGE_DEFAULT_MAX_DOWNTIME_MS;
	c->limit_ms = c->opts.max_downtime_ms < CONVERGE_START_DOWNTIME_MS ? c->opts.max_downtime_ms
									    : CONVERGE_START_DOWNTIME_MS;
}

static uint64_t dirty_bps(const struct converge *c, const struct jobstats *s)
{
	uint64_t rate = s->memory_dirty_rate * (s->page_size ? s->page_size : 4096);
	return rate ? rate : c->opts.dirty_hint_bps;
}

/* What a switchover now would take, as of the last dirty-page count: QEMU's own figure where it gives one. */
static double needed_ms(const struct jobstats *s)
{
	if (s->has_downtime && s->downtime_ms > 0)
		return (double)s->downtime_ms;
	return s->memory_bps ? (double)s->memory_remaining * 1000.0 / (double)s->memory_bps : 0;
}

/* Time left: the disks, then what remains of this pass, then a geometric series of passes down to the limit. */
static int64_t eta(const struct converge *c, const struct jobstats *s, bool converging)
{
	double ns = 0;

	if (s->disk_remaining > 0) {
		if (s->disk_bps == 0)
			return -1;
		ns += (double)s->disk_remaining / (double)s->disk_bps * (double)NS_PER_S;
		if (s->memory_bps == 0) /* memory has not begun; it will move as fast */
			return (int64_t)(ns + (double)s->memory_total / (double)s->disk_bps * (double)NS_PER_S);
	}
	if (s->memory_bps == 0 || !converging)
		return -1;
	double ratio = (double)dirty_bps(c, s) / (double)s->memory_bps;
	if (ratio > HOPELESS)
		return -1;
	double pass = (double)s->memory_remaining / (double)s->memory_bps;
	double all = pass / (1 - ratio);
	return (int64_t)((ns + (all + (double)c->limit_ms / 1000.0) * (double)NS_PER_S));
}

static void say_hopeless(const struct converge *c, const struct jobstats *s, struct converge_advice *out)
{
	char dirty[32], link[32];

	units_format_size(dirty_bps(c, s), dirty, sizeof(dirty));
	units_format_size(s->memory_bps, link, sizeof(link));
	snprintf(out->verdict, sizeof(out->verdict),
		 "the guest dirties %s/s and %s/s are moved: it will not converge within %" PRId64 " ms%s", dirty, link,
		 c->opts.max_downtime_ms,
		 c->opts.auto_converge && s->auto_converge_throttle < THROTTLE_MAX ? " unless its CPUs are slowed" : "");
}

static void act_on_stall(struct converge *c, struct converge_advice *out)
{
	static const enum converge_action actions[] = {
		[CONVERGE_ABORT] = CONVERGE_DO_ABORT,
		[CONVERGE_PAUSE] = CONVERGE_DO_PAUSE,
		[CONVERGE_POSTCOPY] = CONVERGE_DO_POSTCOPY,
	};
	c->done = true;
	out->action = actions[c->opts.on_stall];
}

/* Time to send everything if the guest stopped dirtying now: what is left of this pass, and what was dirtied behind its back. That is not
 * counted before the next sync; it is taken to grow to what the last pass dirtied, quickly at first, as a working set does. */
static double drain_ns(const struct converge *c, const struct jobstats *s, int64_t now_ns)
{
	double last_pass = needed_ms(s) * (double)NS_PER_MS;
	double behind = 3.0 * (double)(now_ns - c->pass_ns);
	double rest = (double)s->memory_remaining / (double)s->memory_bps * (double)NS_PER_S;
	return rest + (behind < last_pass ? behind : last_pass);
}

/* Pausing and post-copy still have to send what is left, so they start before the deadline; an abort waits for it. */
static bool deadline_due(const struct converge *c, const struct jobstats *s, int64_t now_ns)
{
	if (c->opts.deadline_ns <= 0)
		return false;
	int64_t left = c->start_ns + c->opts.deadline_ns - now_ns;
	if (left <= 0)
		return true;
	/* Not while disks are copied, nor in the first pass: pausing then would only make the gap long. */
	if (c->opts.on_stall == CONVERGE_ABORT || s->memory_bps == 0 || s->disk_remaining > 0 || c->passes == 0)
		return false;
	return drain_ns(c, s, now_ns) >= (double)left;
}

static void note_pass(struct converge *c, const struct jobstats *s, int64_t now_ns)
{
	uint64_t ended = s->iteration - c->iteration;
	double need = needed_ms(s);

	c->iteration = s->iteration;
	c->pass_ns = now_ns;
	c->passes += ended;
	if (c->best_ms <= 0 || need < c->best_ms * PROGRESS) {
		c->best_ms = need;
		c->since_best = 0;
	} else {
		c->since_best += ended < RAISE_AFTER ? (unsigned)ended : RAISE_AFTER;
	}
	if (s->auto_converge_throttle > c->throttle) {
		c->throttle = s->auto_converge_throttle;
		c->since_throttle = 0;
	} else {
		c->since_throttle += ended < RAISE_AFTER ? (unsigned)ended : RAISE_AFTER;
	}
	if (c->reachable_ns == 0 && need <= (double)c->opts.max_downtime_ms)
		c->reachable_ns = now_ns;
}

static void consider_raising(struct converge *c, const struct jobstats *s, int64_t now_ns, struct converge_advice *out)
{
	double need = needed_ms(s);
	int64_t max = c->opts.max_downtime_ms;
	int64_t patience = (now_ns - c->start_ns) / PATIENCE_SHARE;

	if (need <= (double)c->limit_ms || c->limit_ms >= max)
		return;
	if (patience < PATIENCE_MIN_NS)
		patience = PATIENCE_MIN_NS;
	bool impatient = c->reachable_ns > 0 && now_ns - c->reachable_ns > patience;
	if (!impatient && c->since_best < RAISE_AFTER)
		return;
	int64_t limit = c->limit_ms + (c->limit_ms / 2 > 20 ? c->limit_ms / 2 : 20);
	if (need > (double)max) /* out of reach as it is: small steps would only cost passes */
		limit = max;
	else if (impatient && need * 1.125 > (double)limit)
		limit = (int64_t)(need * 1.125) + 1;
	c->limit_ms = limit < max ? limit : max;
	c->since_best = 0;
	out->action = CONVERGE_SET_DOWNTIME;
	out->downtime_ms = c->limit_ms;
	snprintf(out->verdict, sizeof(out->verdict),
		 "a switchover now would take %.0f ms and is not getting shorter: downtime limit raised to %" PRId64 " ms", need,
		 c->limit_ms);
}

/* No progress at the highest limit, and slowing the guest has had its chance. */
static bool stalled(const struct converge *c, const struct jobstats *s)
{
	if (c->limit_ms < c->opts.max_downtime_ms || c->since_best < STALL_AFTER)
		return false;
	if (needed_ms(s) <= (double)c->opts.max_downtime_ms)
		return false;
	return !c->opts.auto_converge || c->throttle >= THROTTLE_MAX || c->since_throttle >= STALL_AFTER;
}

void converge_step(struct converge *c, const struct jobstats *s, int64_t now_ns, struct converge_advice *out)
{
	char text[32];
	*out = (struct converge_advice){ .action = CONVERGE_WAIT, .eta_ns = -1, .converging = true };

	if (c->done) {
		out->eta_ns = s->memory_bps ? (int64_t)((double)s->memory_remaining / (double)s->memory_bps * (double)NS_PER_S) : -1;
		return;
	}
	uint64_t dirty = dirty_bps(c, s);
	if (s->memory_bps > 0 && (double)dirty >= HOPELESS * (double)s->memory_bps &&
	    (c->passes > 0 ? needed_ms(s) > (double)c->opts.max_downtime_ms : c->opts.dirty_hint_bps > 0)) {
		out->converging = false;
		say_hopeless(c, s, out);
	}
	out->eta_ns = eta(c, s, out->converging);

	if (c->iteration == 0)
		c->iteration = s->iteration;
	if (s->iteration > c->iteration && s->memory_bps > 0) {
		note_pass(c, s, now_ns);
		consider_raising(c, s, now_ns, out);
	}
	if (deadline_due(c, s, now_ns)) {
		units_format_duration(c->opts.deadline_ns, text, sizeof(text));
		snprintf(out->verdict, sizeof(out->verdict), "the deadline of %s %s", text,
			 now_ns - c->start_ns >= c->opts.deadline_ns ? "has passed" : "can only be met by stopping the guest here now");
		act_on_stall(c, out);
	} else if (out->action == CONVERGE_WAIT && stalled(c, s)) {
		char moved[32];
		units_format_size(dirty, text, sizeof(text));
		units_format_size(s->memory_bps, moved, sizeof(moved));
		snprintf(out->verdict, sizeof(out->verdict),
			 "no progress in %u passes: a switchover would take %.0f ms, %" PRId64
			 " ms are allowed; the guest dirties %s/s, %s/s are moved%s",
			 c->since_best, needed_ms(s), c->opts.max_downtime_ms, text, moved,
			 c->throttle > 0 ? ", its CPUs slowed already" : "");
		out->converging = false;
		act_on_stall(c, out);
	}
}
