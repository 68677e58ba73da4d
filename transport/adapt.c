#include "transport/adapt.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdbool.h>
#include <string.h>

/* Levels worth having, and what they do to the RAM of Linux guests: only the shape of these curves is used, to
 * infer levels that were not tried from those that were. Cost in ns of CPU a byte. Level 4 hardly gains over 3;
 * above 6 little is gained for much time. */
static const struct {
	int level;
	double ratio;
	double cost;
} prior[] = {
	{ CODEC_RAW, 1.00, 0.10 }, { -5, 2.17, 1.10 }, { -3, 2.27, 1.17 }, { -1, 2.45, 1.37 }, { 1, 2.81, 1.61 },
	{ 2, 2.87, 1.76 },         { 3, 2.97, 2.48 },  { 5, 3.07, 4.90 },  { 6, 3.15, 7.50 },
};
#define LEVELS (sizeof(prior) / sizeof(prior[0]))
#define RAW_INDEX 0u
#define START_INDEX 4u

/* A measurement counts fully once it rests on this much, and is forgotten for older ones at the same pace. */
#define EVIDENCE_BYTES (4.0 * 1024 * 1024)
/* Smaller samples say little about speed. */
#define SAMPLE_MIN (32u * 1024u)
/* A level not measured for so long is inferred again: the guest's memory is not the same everywhere. */
#define STALE_NS (3 * NS_PER_S)
#define TICK_MIN_NS (8 * NS_PER_MS)
/* Ticks with less traffic than this say nothing about the link. */
#define TICK_TRAFFIC_MIN (64u * 1024u)
#define FULL 0.6  /* a link busier than this may be what is scarce */
#define SLACK 0.4 /* and below this it is not */
#define BUSY 0.85 /* the same for the workers */
#define WAIT 0.15 /* QEMU gives no more if it was waited for this part of the time */
/* A level is good enough with this part of the most throughput, and left when it has less than that. */
#define SAME_MIN 0.96
#define ENOUGH_MIN 0.94
/* Where the workers do not get the CPU time that they want, others want it too, the rest of the way and the guest itself; with them in the
 * way a cheaper level is seen to gain next to nothing, and fewer bytes are less work for all. So a level that saves bytes may be so much
 * worse by its own figures. Never worse than to store. */
#define SHARE_MIN 0.8
#define SHARED_LOSS 0.09
/* The price is the part of the link that is taken, which others could use, and the part of the workers' CPU, which matters less. */
#define CPU_WEIGHT 0.25
/* Another level that is good enough must be so much cheaper, or at all and take much less CPU time. */
#define SAVING_MIN 0.03
#define CHEAPER_MAX 0.7
/* How fast a link of which nothing is known is assumed to grow, per second, while it has room. */
#define GROWTH_UNKNOWN 40.0
#define LINK_MAX 1e12
/* One that was seen full is now and then assumed to be so many times as fast, for so long; unless that much more than before goes
 * through it by then, it is what it was. */
#define TRY_FACTOR 3.0
#define TRY_NS (80 * NS_PER_MS)
#define TRY_GAIN 1.2
/* A session that carried less has not learned much. */
#define LEARNED_MIN (64.0 * 1024 * 1024)
#define DWELL_NS (40 * NS_PER_MS)
#define RETRY_FIRST_NS (800 * NS_PER_MS)
#define RETRY_LAST_NS (6400 * NS_PER_MS)
/* Where pages are stored: how often one batch is compressed, to see what that would give. */
#define PROBE_NS (100 * NS_PER_MS)

struct measured {
	double ratio;
	double cost;
	int64_t at; /* when last; 0: never */
};

struct adapt {
	double workers;
	int fixed_level;
	unsigned current; /* index into prior */
	bool probe_due;   /* the next batch measures another level */
	int64_t now;

	/* What the contents are like. */
	struct measured level[LEVELS];
	double ratio_scale; /* (ratio - 1) as a part of the prior's */
	double cost_scale;
	double plain_part; /* plain bytes a raw byte */
	double other_wire; /* wire bytes a raw byte besides the plain section's */
	double share;      /* CPU time a worker gets per time it wants */
	int64_t compressed_at;

	/* What the link does. */
	double link;      /* bytes per second; 0: not known */
	double limit;     /* what it is allowed; 0: all */
	double confirmed; /* its value when it was last seen full; 0: never */
	bool was_full;
	int64_t confirmed_at;
	int64_t retry_ns; /* how long to believe that */
	int64_t try_at;   /* since when it is taken to be faster; 0: it is not */
	double supply;    /* raw bytes per second, if QEMU is what is scarce, else 0 */

	/* Since the last tick. */
	double seconds;     /* between the last two */
	uint64_t tick_wire; /* wire_bytes then */
	bool ticked;
	double raw_bytes;
	double wall_ns;
	double link_busy;   /* smoothed */
	double supply_wait; /* smoothed */
	double wire_rate;   /* smoothed */
	double raw_rate;    /* smoothed */
	int64_t changed_at;

	double carried[LEVELS]; /* raw bytes, for adapt_learned */
};

static unsigned index_of(int level)
{
	for (unsigned i = 0; i < LEVELS; i++) {
		if (prior[i].level == level)
			return i;
	}
	return LEVELS;
}

struct adapt *adapt_new(unsigned workers, int fixed_level)
{
	struct adapt *a = mem_alloc(sizeof(*a));
	a->workers = workers ? workers : 1;
	a->fixed_level = fixed_level;
	a->current = START_INDEX;
	a->ratio_scale = 1;
	a->cost_scale = 1;
	a->plain_part = 1;
	a->share = 1;
	a->retry_ns = RETRY_FIRST_NS;
	return a;
}

void adapt_begin_with(struct adapt *a, const struct adapt_learned *before)
{
	const unsigned i = index_of(before->level);

	if (i < LEVELS)
		a->current = i;
	a->link = a->confirmed = (double)before->link_rate;
}

void adapt_learned(const struct adapt *a, struct adapt_learned *out)
{
	unsigned most = a->current;
	double all = 0;

	for (unsigned i = 0; i < LEVELS; i++) {
		all += a->carried[i];
		if (a->carried[i] > a->carried[most])
			most = i;
	}
	*out = (struct adapt_learned){ 0 };
	if (a->fixed_level == ADAPT_AUTO && a->limit <= 0 && all >= LEARNED_MIN)
		*out = (struct adapt_learned){ .level = prior[most].level, .link_rate = (uint64_t)a->confirmed };
}

void adapt_free(struct adapt *a)
{
	mem_free_ptr(&a);
}

int adapt_level(const struct adapt *a)
{
	return a->fixed_level == ADAPT_AUTO ? prior[a->current].level : a->fixed_level;
}

uint64_t adapt_link_rate(const struct adapt *a)
{
	return (uint64_t)a->confirmed;
}

void adapt_params(struct adapt *a, struct codec_params *out)
{
	int level = adapt_level(a);
	if (a->probe_due && a->fixed_level == ADAPT_AUTO) {
		level = prior[START_INDEX].level;
		a->probe_due = false;
	}
	out->plain_level = level;
	/* Changes are few bytes: a low level costs next to nothing even where plain pages are stored. */
	out->delta_level = level > 1 ? 3 : 1;
}

struct adapt_sample adapt_sample_of(const struct codec_params *params, const struct codec_stats *one)
{
	return (struct adapt_sample){
		.level = params->plain_level,
		.raw_bytes = one->raw_bytes,
		.encoded_bytes = one->encoded_bytes,
		.plain_in = one->plain_in_bytes,
		.plain_out = one->plain_out_bytes,
	};
}

/* ---- contents ---- */

static void move(double *value, double to, double weight)
{
	*value += (to - *value) * (weight < 1 ? weight : 1);
}

void adapt_encoded(struct adapt *a, const struct adapt_sample *s)
{
	a->raw_bytes += (double)s->raw_bytes;
	a->wall_ns += (double)s->wall_ns;
	if (s->raw_bytes < SAMPLE_MIN)
		return;
	unsigned i = index_of(s->level);
	if (i < LEVELS)
		a->carried[i] += (double)s->raw_bytes;
	double weight = (double)s->raw_bytes / EVIDENCE_BYTES;
	move(&a->plain_part, (double)s->plain_in / (double)s->raw_bytes, weight);
	uint64_t other = s->encoded_bytes > s->plain_out ? s->encoded_bytes - s->plain_out : 0;
	move(&a->other_wire, (double)other / (double)s->raw_bytes, weight);
	if (s->cpu_ns > 0 && s->wall_ns > 0) {
		double share = (double)s->cpu_ns / (double)s->wall_ns;
		move(&a->share, share < 0.05 ? 0.05 : share > 1 ? 1 : share, weight);
	}
	if (i == LEVELS || s->plain_in < SAMPLE_MIN || s->plain_out == 0 || s->cpu_ns <= 0)
		return;
	double ratio = (double)s->plain_in / (double)s->plain_out;
	double cost = (double)s->cpu_ns / (double)s->plain_in;
	struct measured *m = &a->level[i];
	bool fresh = m->at && a->now - m->at < STALE_NS;
	move(&m->ratio, ratio, fresh ? weight : 1);
	move(&m->cost, cost, fresh ? weight : 1);
	m->at = a->now ? a->now : 1;
	if (i == RAW_INDEX)
		return;
	a->compressed_at = a->now;
	move(&a->ratio_scale, (ratio - 1) / (prior[i].ratio - 1), weight);
	move(&a->cost_scale, cost / prior[i].cost, weight);
}

static bool is_fresh(const struct adapt *a, unsigned i)
{
	return a->level[i].at && a->now - a->level[i].at < STALE_NS;
}

static double ratio_of(const struct adapt *a, unsigned i)
{
	if (i == RAW_INDEX)
		return 1;
	if (is_fresh(a, i))
		return a->level[i].ratio;
	double r = 1 + (prior[i].ratio - 1) * a->ratio_scale;
	return r < 1 ? 1 : r;
}

static double cost_of(const struct adapt *a, unsigned i)
{
	if (is_fresh(a, i))
		return a->level[i].cost;
	return i == RAW_INDEX ? prior[i].cost : prior[i].cost * a->cost_scale;
}

/* ---- the choice ---- */

struct outlook {
	double throughput; /* raw bytes per second */
	double wire;       /* bytes a raw byte */
	double cpu;        /* used, of all the workers' */
	double price;
};

static struct outlook outlook_of(const struct adapt *a, unsigned i)
{
	double cost = a->plain_part * cost_of(a, i) + (1 - a->plain_part) * prior[RAW_INDEX].cost;
	double wire = a->plain_part / ratio_of(a, i) + a->other_wire;
	double t = a->workers * a->share * 1e9 / cost;
	if (a->link > 0 && a->link / wire < t)
		t = a->link / wire;
	if (a->supply > 0 && a->supply < t)
		t = a->supply;
	double cpu = t * cost / (a->workers * 1e9);
	double part = a->link > 0 ? t * wire / a->link : 0;
	return (struct outlook){ .throughput = t, .wire = wire, .cpu = cpu, .price = part + CPU_WEIGHT * cpu };
}

/* Has it about as much throughput as the fastest, as far as `part` of it? */
static bool good_enough(const struct adapt *a, const struct outlook *o, const struct outlook *fastest, double store,
			double part)
{
	if (o->throughput >= part * fastest->throughput)
		return true;
	return a->share < SHARE_MIN && o->wire < fastest->wire && o->throughput >= store &&
	       o->throughput >= (part - SHARED_LOSS) * fastest->throughput;
}

/* The cheapest of the levels that are good enough. */
static void choose(struct adapt *a)
{
	if (a->changed_at && a->now - a->changed_at < DWELL_NS)
		return;
	/* That little goes through a link which was never seen full is no reason to compress harder. */
	const unsigned levels = a->confirmed > 0 || a->limit > 0 ? LEVELS : a->current + 1;
	struct outlook o[LEVELS] = { outlook_of(a, RAW_INDEX) };
	const struct outlook *fastest = &o[0];
	for (unsigned i = RAW_INDEX + 1; i < levels; i++) {
		o[i] = outlook_of(a, i);
		if (o[i].throughput > fastest->throughput)
			fastest = &o[i];
	}
	const double store = o[RAW_INDEX].throughput;
	const struct outlook *have = &o[a->current], *best = NULL;
	for (unsigned i = 0; i < levels; i++) {
		if (good_enough(a, &o[i], fastest, store, SAME_MIN) && (!best || o[i].price < best->price))
			best = &o[i];
	}
	if (good_enough(a, have, fastest, store, ENOUGH_MIN)) {
		bool saves = best->price < have->price - SAVING_MIN;
		bool cheaper = best->price < have->price && best->cpu < CHEAPER_MAX * have->cpu;
		if (!saves && !cheaper)
			return;
	}
	a->current = (unsigned)(best - o);
	a->changed_at = a->now;
}

/* ---- the link ---- */

static void believe(struct adapt *a, double rate)
{
	a->link = rate;
	a->confirmed = rate;
	a->confirmed_at = a->now;
	a->try_at = 0;
}

static void back_off(struct adapt *a)
{
	if (a->retry_ns < RETRY_LAST_NS)
		a->retry_ns *= 2;
}

/* The link is full: its speed is what goes through it. */
static void link_is_full(struct adapt *a)
{
	double rate = a->wire_rate;
	if (!a->was_full) {
		/* Full again after a time of slack. If the link is as fast as it was, the next try may wait longer. */
		bool as_before = a->confirmed > 0 && rate < 1.2 * a->confirmed && rate > 0.8 * a->confirmed;
		if (as_before)
			back_off(a);
		else
			a->retry_ns = RETRY_FIRST_NS;
		a->link = rate;
		/* The rate is smoothed, and needs a moment to rise. */
		a->changed_at = a->now;
	}
	move(&a->link, rate, rate > a->link ? 1 : 0.5);
	believe(a, a->link);
	a->was_full = true;
	a->supply = 0;
	/* Storing says nothing about how well the pages would compress. */
	if (a->current == RAW_INDEX && a->now - a->compressed_at > PROBE_NS)
		a->probe_due = true;
}

/* The link has room. It is at least as fast as what goes through it, and after a while perhaps faster than it was: a try shows it, if
 * there is a level that would gain by that. */
static void link_has_room(struct adapt *a)
{
	a->was_full = false;
	if (a->wire_rate > a->link)
		a->link = a->wire_rate;
	if (a->confirmed == 0) {
		if (a->link < LINK_MAX)
			a->link *= 1 + GROWTH_UNKNOWN * a->seconds;
	} else if (a->wire_rate > TRY_GAIN * a->confirmed) {
		believe(a, a->wire_rate);
		a->retry_ns = RETRY_FIRST_NS;
		a->try_at = a->now;
	} else if (!a->try_at) {
		if (a->now - a->confirmed_at >= a->retry_ns)
			a->try_at = a->now;
	} else if (a->now - a->try_at >= TRY_NS) {
		believe(a, a->confirmed);
		back_off(a);
	}
	if (a->try_at)
		a->link = TRY_FACTOR * a->confirmed;
	if (a->limit > 0 && a->link > a->limit)
		a->link = a->limit;
}

/* What is scarce: QEMU's bytes, the workers, or the link. A link with a long way looks busy whenever there is
 * traffic, so it is only believed when nothing else holds things up. */
static void find_scarce(struct adapt *a, double workers_busy)
{
	if (a->supply_wait > WAIT || (a->link_busy < SLACK && workers_busy < BUSY)) {
		/* What QEMU could give if it got more CPU is not known. */
		a->supply = 1.2 * a->raw_rate;
		link_has_room(a);
	} else if (workers_busy >= BUSY) {
		/* What goes through is not what the link could do. */
		a->supply = 0;
		link_has_room(a);
	} else if (a->link_busy > FULL) {
		link_is_full(a);
	}
}

/* A limit is a link whose speed is known; a limit that changes makes it unknown again. */
static void set_limit(struct adapt *a, double limit)
{
	if (limit == a->limit)
		return;
	a->limit = limit;
	a->link = limit;
	a->confirmed = 0;
	a->try_at = 0;
	a->retry_ns = RETRY_FIRST_NS;
}

void adapt_tick(struct adapt *a, const struct adapt_now *now)
{
	int64_t dt = now->now_ns - a->now;
	if (!a->ticked) {
		a->ticked = true;
		a->now = now->now_ns;
		a->tick_wire = now->wire_bytes;
		return;
	}
	if (dt < TICK_MIN_NS)
		return;
	a->seconds = (double)dt / 1e9;
	set_limit(a, (double)now->rate_limit);
	uint64_t wire = now->wire_bytes - a->tick_wire;
	double raw = a->raw_bytes;
	double workers_busy = a->wall_ns / (a->workers * (double)dt);
	a->now = now->now_ns;
	a->tick_wire = now->wire_bytes;
	a->raw_bytes = 0;
	a->wall_ns = 0;
	move(&a->link_busy, now->link_busy, 0.6);
	move(&a->supply_wait, now->supply_wait, 0.6);
	move(&a->wire_rate, (double)wire / a->seconds, 0.5);
	move(&a->raw_rate, raw / a->seconds, 0.3);
	if (wire + (uint64_t)raw < TICK_TRAFFIC_MIN && a->link_busy < FULL)
		return;
	find_scarce(a, workers_busy);
	choose(a);
}
