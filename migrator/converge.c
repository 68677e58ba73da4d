#include "migrator/converge.h"

#include "base/clock.h"
#include "base/units.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A switchover must need a tenth less time than before to count as progress. */
#define PROGRESS 0.9
/* Without progress for so many passes of the present length, and at least so long, the limit is raised a step, ... */
#define RAISE_PASSES 1.5
#define RAISE_MIN_NS (300 * NS_PER_MS)
/* ... and at the highest limit it is called a stall. */
#define STALL_PASSES 3
#define STALL_MIN_NS (10 * NS_PER_S)
/* When less is dirtied than moved, passes should shrink: a link that stood still for a while is the likelier reason,
 * and gets so much longer. */
#define STALL_LENIENCE 3
#define SHRINKING 0.9
/* Once the guest could switch within the allowed downtime, waiting for less may take an eighth of the time so far, at
 * least a second. */
#define PATIENCE_MIN_NS (1 * NS_PER_S)
#define PATIENCE_SHARE 8
/* Above this ratio of dirty rate to link rate passes hardly shrink. */
#define HOPELESS 0.95
#define THROTTLE_MAX 99
/* QEMU's rates are of the last 100 ms and jump about; they are smoothed over so long. */
#define SMOOTH_NS (2 * NS_PER_S)

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
	c->limit_ms = c->opts.few_passes || c->opts.max_downtime_ms < CONVERGE_START_DOWNTIME_MS
			      ? c->opts.max_downtime_ms
			      : CONVERGE_START_DOWNTIME_MS;
}

/* RAM bytes per second that QEMU gets rid of. */
static double link_bps(const struct converge *c, const struct jobstats *s)
{
	return c->bps > 0 ? c->bps : (double)s->memory_bps;
}

static double dirty_bps(const struct converge *c, const struct jobstats *s)
{
	uint64_t rate = s->memory_dirty_rate * (s->page_size ? s->page_size : 4096);
	return (double)(rate ? rate : c->opts.dirty_hint_bps);
}

static void smooth(struct converge *c, const struct jobstats *s, int64_t now_ns)
{
	double dt = (double)(now_ns - c->seen_ns);

	c->seen_ns = now_ns;
	if (s->memory_bps == 0 || dt < 0)
		return;
	if (c->bps <= 0)
		c->bps = (double)s->memory_bps;
	else
		c->bps += ((double)s->memory_bps - c->bps) * dt / (dt + (double)SMOOTH_NS);
}

/* What a switchover would have taken at the last dirty-page count. QEMU tells it for the rate of a moment: what
 * remained is had back from that, and held against the smoothed rate. */
static double needed_ms(const struct converge *c, const struct jobstats *s)
{
	double remaining = s->has_downtime && s->downtime_ms > 0
				   ? (double)s->downtime_ms / 1000.0 * (double)s->memory_bps
				   : (double)s->memory_remaining;
	return link_bps(c, s) > 0 ? remaining * 1000.0 / link_bps(c, s) : 0;
}

static int64_t to_ns(double ms)
{
	return ms < 1e12 ? (int64_t)(ms * (double)NS_PER_MS) : INT64_MAX / 2;
}

/* Time left: the disks, then what remains of this pass, then a geometric series of passes down to the limit. */
static int64_t eta(const struct converge *c, const struct jobstats *s, bool converging)
{
	double ms = 0;

	if (s->disk_remaining > 0) {
		if (s->disk_bps == 0)
			return -1;
		ms += (double)s->disk_remaining / (double)s->disk_bps * 1000.0;
		if (s->memory_bps == 0) /* memory has not begun; it will move as fast */
			return to_ns(ms + (double)s->memory_total / (double)s->disk_bps * 1000.0);
	}
	if (s->memory_bps == 0 || !converging)
		return -1;
	double ratio = dirty_bps(c, s) / link_bps(c, s);
	if (ratio > HOPELESS)
		return -1;
	double pass = (double)s->memory_remaining / link_bps(c, s) * 1000.0;
	return to_ns(ms + pass / (1 - ratio) + (double)c->limit_ms);
}

/* "the guest dirties 80 MiB/s and 25 MiB/s are moved" */
static void say_rates(const struct converge *c, const struct jobstats *s, char *buf, size_t size)
{
	char dirty[32], moved[32];

	units_format_size((uint64_t)dirty_bps(c, s), dirty, sizeof(dirty));
	units_format_size((uint64_t)link_bps(c, s), moved, sizeof(moved));
	snprintf(buf, size, "the guest dirties %s/s and %s/s are moved", dirty, moved);
}

static void say_hopeless(const struct converge *c, const struct jobstats *s, struct converge_advice *out)
{
	char rates[120];

	say_rates(c, s, rates, sizeof(rates));
	snprintf(out->verdict, sizeof(out->verdict), "%s: it will not converge within %" PRId64 " ms%s", rates,
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

/* Time to send everything if the guest stopped dirtying now: what is left of this pass, and what was dirtied behind
 * its back. That is not counted before the next sync; it is taken to grow to what the last pass dirtied, quickly at
 * first, as a working set does. */
static double drain_ns(const struct converge *c, const struct jobstats *s, int64_t now_ns)
{
	double last_pass = c->need_ms * (double)NS_PER_MS;
	double behind = 3.0 * (double)(now_ns - c->pass_ns);
	double rest = (double)s->memory_remaining / link_bps(c, s) * (double)NS_PER_S;
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
	c->need_ms = needed_ms(c, s);
	c->passes += s->iteration - c->iteration;
	c->iteration = s->iteration;
	c->pass_ns = now_ns;
	if (c->best_ms <= 0 || c->need_ms < c->best_ms * PROGRESS) {
		c->best_ms = c->need_ms;
		c->best_ns = now_ns;
		c->best_pass = c->passes;
	}
	if (c->reachable_ns == 0 && c->need_ms <= (double)c->opts.max_downtime_ms)
		c->reachable_ns = now_ns;
}

/* So long without progress, counted in passes of the present length. A pass can be tiny: QEMU counts dirty pages
 * again as soon as little enough is left. */
static bool without_progress(const struct converge *c, int64_t now_ns, double passes, int64_t at_least)
{
	int64_t span = to_ns(c->need_ms * passes);
	int64_t since = c->best_ns > c->raised_ns ? c->best_ns : c->raised_ns;
	return now_ns - since > (span > at_least ? span : at_least);
}

static void consider_raising(struct converge *c, int64_t now_ns, struct converge_advice *out)
{
	int64_t max = c->opts.max_downtime_ms;
	int64_t patience = (now_ns - c->start_ns) / PATIENCE_SHARE;

	if (c->need_ms <= (double)c->limit_ms || c->limit_ms >= max)
		return;
	if (patience < PATIENCE_MIN_NS)
		patience = PATIENCE_MIN_NS;
	bool impatient = c->reachable_ns > 0 && now_ns - c->reachable_ns > patience;
	if (!impatient && !without_progress(c, now_ns, RAISE_PASSES, RAISE_MIN_NS))
		return;
	int64_t limit = c->limit_ms + (c->limit_ms / 2 > 20 ? c->limit_ms / 2 : 20);
	if (c->need_ms > (double)max) /* out of reach as it is: small steps would only cost passes */
		limit = max;
	else if (impatient && c->need_ms * 1.125 > (double)limit)
		limit = (int64_t)(c->need_ms * 1.125) + 1;
	c->limit_ms = limit < max ? limit : max;
	c->raised_ns = now_ns;
	out->action = CONVERGE_SET_DOWNTIME;
	out->downtime_ms = c->limit_ms;
	snprintf(out->verdict, sizeof(out->verdict),
		 "a switchover now would take %.0f ms and is not getting shorter: downtime limit raised to %" PRId64
		 " ms",
		 c->need_ms, c->limit_ms);
}

/* No progress at the highest limit, and slowing the guest has had its chance. */
static bool stalled(const struct converge *c, const struct jobstats *s, int64_t now_ns)
{
	if (c->passes == 0 || c->limit_ms < c->opts.max_downtime_ms || c->need_ms <= (double)c->opts.max_downtime_ms)
		return false;
	int lenience = dirty_bps(c, s) < SHRINKING * link_bps(c, s) ? STALL_LENIENCE : 1;
	if (!without_progress(c, now_ns, STALL_PASSES * lenience, STALL_MIN_NS * lenience))
		return false;
	int64_t span = to_ns(c->need_ms * STALL_PASSES);
	return !c->opts.auto_converge || c->throttle >= THROTTLE_MAX ||
	       now_ns - c->throttle_ns > (span > STALL_MIN_NS ? span : STALL_MIN_NS);
}

static void say_deadline(const struct converge *c, int64_t now_ns, struct converge_advice *out)
{
	char text[32];

	units_format_duration(c->opts.deadline_ns, text, sizeof(text));
	snprintf(out->verdict, sizeof(out->verdict), "the deadline of %s %s", text,
		 now_ns - c->start_ns >= c->opts.deadline_ns ? "has passed"
							     : "can only be met by stopping the guest here now");
}

static void say_stalled(const struct converge *c, const struct jobstats *s, int64_t now_ns, struct converge_advice *out)
{
	char text[32], rates[120];

	say_rates(c, s, rates, sizeof(rates));
	units_format_duration(now_ns - c->best_ns, text, sizeof(text));
	snprintf(out->verdict, sizeof(out->verdict),
		 "no progress in %s (%" PRIu64 " passes): a switchover would take %" PRId64 " ms, %" PRId64
		 " ms are allowed; %s%s",
		 text, c->passes - c->best_pass, (int64_t)c->need_ms, c->opts.max_downtime_ms, rates,
		 c->throttle > 0 ? ", its CPUs slowed already" : "");
	out->converging = false;
}

static bool hopeless(const struct converge *c, const struct jobstats *s)
{
	if (s->memory_bps == 0 || dirty_bps(c, s) < HOPELESS * link_bps(c, s))
		return false;
	return c->passes > 0 ? c->need_ms > (double)c->opts.max_downtime_ms : c->opts.dirty_hint_bps > 0;
}

void converge_step(struct converge *c, const struct jobstats *s, int64_t now_ns, struct converge_advice *out)
{
	*out = (struct converge_advice){ .action = CONVERGE_WAIT, .eta_ns = -1, .converging = true };

	smooth(c, s, now_ns);
	if (c->done) {
		if (s->memory_bps > 0)
			out->eta_ns = to_ns((double)s->memory_remaining / link_bps(c, s) * 1000.0);
		return;
	}
	if (s->auto_converge_throttle > c->throttle) {
		c->throttle = s->auto_converge_throttle;
		c->throttle_ns = now_ns;
	}
	if (c->iteration == 0)
		c->iteration = s->iteration;
	if (s->iteration > c->iteration && s->memory_bps > 0) {
		note_pass(c, s, now_ns);
		consider_raising(c, now_ns, out);
	}
	if (hopeless(c, s)) {
		out->converging = false;
		if (out->action == CONVERGE_WAIT)
			say_hopeless(c, s, out);
	}
	out->eta_ns = eta(c, s, out->converging);
	if (deadline_due(c, s, now_ns)) {
		say_deadline(c, now_ns, out);
		act_on_stall(c, out);
	} else if (out->action == CONVERGE_WAIT && stalled(c, s, now_ns)) {
		say_stalled(c, s, now_ns, out);
		act_on_stall(c, out);
	}
}
