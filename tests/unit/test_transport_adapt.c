/*
 * The controller in a simulated pipeline: QEMU supplies, workers encode with the speed and ratio of made-up
 * contents, a link drains a bounded queue. What is judged is the raw throughput against the best fixed level, and
 * against storing.
 */
#include "base/clock.h"
#include "transport/adapt.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEP_NS (NS_PER_MS / 2)
#define TICK_NS (25 * NS_PER_MS)
#define BATCH (1024.0 * 1024)
#define WORKERS 2
#define QUEUE_MAX 8 /* batches between the reader and the link */

static const int levels[] = { CODEC_RAW, -5, -3, -1, 1, 2, 3, 5, 6 };
static const double idle_ratio[] = { 1, 2.17, 2.27, 2.45, 2.81, 2.87, 2.97, 3.07, 3.15 };
static const double idle_cost[] = { 0.1, 1.10, 1.17, 1.37, 1.61, 1.76, 2.48, 4.90, 7.50 };
#define LEVELS (sizeof(levels) / sizeof(levels[0]))

struct world {
	double supply;    /* raw bytes per second that QEMU can give */
	double link;      /* bytes per second */
	double share;     /* of a CPU that a worker gets */
	double ratio_fit; /* (ratio - 1) of the contents against an idle guest's */
	double cost_fit;
	bool far;      /* a long way: some bytes are always on it, so that the link never looks idle */
	int bursts_ms; /* QEMU gives for so long, then nothing for as long; 0: always */
};

struct worker {
	double left_cpu_ns; /* of the batch at hand; 0: idle */
	struct adapt_sample sample;
};

struct sim {
	struct world w;
	struct adapt *a;
	struct worker worker[WORKERS];
	double supplied; /* raw bytes waiting */
	double queue;    /* wire bytes waiting for the link */
	double queue_batches;
	double wire, raw; /* through the link; raw counts when a batch is encoded */
	double waited_ns; /* for QEMU, since the last tick */
	int64_t now;
	double at_level_ns[LEVELS];
	int last_level;
	unsigned changes;
};

static unsigned level_index(int level)
{
	for (unsigned i = 0; i < LEVELS; i++) {
		if (levels[i] == level)
			return i;
	}
	ck_abort_msg("level %d is not one of those", level);
}

static double ratio_at(const struct world *w, unsigned i)
{
	return 1 + (idle_ratio[i] - 1) * w->ratio_fit;
}

static double cost_at(const struct world *w, unsigned i)
{
	return i ? idle_cost[i] * w->cost_fit : idle_cost[0];
}

static void start_batch(struct sim *s, struct worker *k)
{
	struct codec_params params;
	adapt_params(s->a, &params);
	unsigned i = level_index(params.plain_level);
	double out = BATCH / ratio_at(&s->w, i);
	s->supplied -= BATCH;
	k->left_cpu_ns = BATCH * cost_at(&s->w, i);
	k->sample = (struct adapt_sample){ .level = params.plain_level,
					   .raw_bytes = (uint64_t)BATCH,
					   .encoded_bytes = (uint64_t)out + 100,
					   .plain_in = (uint64_t)BATCH,
					   .plain_out = (uint64_t)out,
					   .cpu_ns = (int64_t)k->left_cpu_ns };
}

static void step(struct sim *s)
{
	double dt = (double)STEP_NS;
	s->now += STEP_NS;
	if (!s->w.bursts_ms || s->now / (s->w.bursts_ms * NS_PER_MS) % 2)
		s->supplied += s->w.supply * dt / 1e9;
	if (s->supplied > 4 * BATCH)
		s->supplied = 4 * BATCH;
	if (s->supplied < BATCH && s->queue_batches < QUEUE_MAX)
		s->waited_ns += dt;
	for (unsigned i = 0; i < WORKERS; i++) {
		struct worker *k = &s->worker[i];
		double cpu = dt * s->w.share;
		while (cpu > 0) {
			if (k->left_cpu_ns <= 0) {
				if (s->supplied < BATCH || s->queue_batches >= QUEUE_MAX)
					break;
				start_batch(s, k);
			}
			double use = k->left_cpu_ns < cpu ? k->left_cpu_ns : cpu;
			k->left_cpu_ns -= use;
			k->sample.wall_ns += (int64_t)(use / s->w.share);
			cpu -= use;
			if (k->left_cpu_ns <= 0) {
				s->queue += (double)k->sample.encoded_bytes;
				s->queue_batches += 1;
				s->raw += BATCH;
				adapt_encoded(s->a, &k->sample);
			}
		}
	}
	double sent = s->w.link * dt / 1e9;
	if (sent >= s->queue) {
		sent = s->queue;
		s->queue_batches = 0;
	} else {
		s->queue_batches -= s->queue_batches * sent / s->queue;
	}
	s->queue -= sent;
	s->wire += sent;
	const int level = adapt_level(s->a);
	s->at_level_ns[level_index(level)] += dt;
	s->changes += level != s->last_level;
	s->last_level = level;
	if (s->now % TICK_NS == 0) {
		double fill = s->queue_batches / QUEUE_MAX;
		if (s->w.far && sent > 0)
			fill = 1;
		struct adapt_now t = { .now_ns = s->now + 7 * NS_PER_S,
				       .wire_bytes = (uint64_t)s->wire,
				       .link_busy = fill,
				       .supply_wait = s->waited_ns / (double)TICK_NS };
		adapt_tick(s->a, &t);
		s->waited_ns = 0;
	}
}

static void sim_open(struct sim *s, const struct world *w, int fixed_level)
{
	*s = (struct sim){ .w = *w, .a = adapt_new(WORKERS, fixed_level) };
}

static void sim_close(struct sim *s)
{
	adapt_free(s->a);
}

/* Raw bytes per second over `ms` from now. */
static double run(struct sim *s, int ms)
{
	double before = s->raw;
	memset(s->at_level_ns, 0, sizeof(s->at_level_ns));
	s->changes = 0;
	for (int64_t end = s->now + ms * NS_PER_MS; s->now < end;)
		step(s);
	return (s->raw - before) / ((double)ms / 1e3);
}

static double fixed_throughput(const struct world *w, int level)
{
	struct sim s;
	sim_open(&s, w, level);
	run(&s, 500);
	double t = run(&s, 2000);
	sim_close(&s);
	return t;
}

static double best_throughput(const struct world *w, double *raw)
{
	double best = 0;
	for (unsigned i = 0; i < LEVELS; i++) {
		double t = fixed_throughput(w, levels[i]);
		if (i == 0)
			*raw = t;
		best = t > best ? t : best;
	}
	return best;
}

static const struct {
	const char *name;
	struct world w;
	int most; /* level that must be used most, or ADAPT_AUTO: any */
} worlds[] = {
	{ "unshaped", { 900e6, 2000e6, 1, 1, 1, false, 0 }, CODEC_RAW },
	{ "unshaped, QEMU fast", { 3000e6, 2000e6, 1, 1, 1, false, 0 }, CODEC_RAW },
	{ "10 Gbit/s", { 2000e6, 1180e6, 1, 1, 1, false, 0 }, ADAPT_AUTO },
	{ "1 Gbit/s", { 900e6, 118e6, 1, 1, 1, false, 0 }, 3 },
	{ "1 Gbit/s, half the CPU", { 900e6, 118e6, 0.5, 1, 1, false, 0 }, ADAPT_AUTO },
	{ "1 Gbit/s, a fifth of the CPU", { 900e6, 118e6, 0.2, 1, 1, false, 0 }, ADAPT_AUTO },
	{ "1 Gbit/s, hardly any CPU", { 900e6, 118e6, 0.06, 1, 1, false, 0 }, CODEC_RAW },
	{ "200 Mbit/s", { 900e6, 24e6, 1, 1, 1, false, 0 }, ADAPT_AUTO },
	{ "1 Gbit/s, incompressible", { 900e6, 118e6, 1, 0.001, 0.7, false, 0 }, CODEC_RAW },
	{ "200 Mbit/s, incompressible", { 900e6, 24e6, 1, 0.001, 0.7, false, 0 }, CODEC_RAW },
	{ "1 Gbit/s, compresses well", { 900e6, 118e6, 1, 4, 0.6, false, 0 }, ADAPT_AUTO },
	{ "1 Gbit/s, QEMU slow", { 60e6, 118e6, 1, 1, 1, false, 0 }, CODEC_RAW },
	{ "1 Gbit/s, QEMU a little slow", { 200e6, 118e6, 1, 1, 1, false, 0 }, ADAPT_AUTO },
	{ "10 Gbit/s, far", { 2000e6, 1180e6, 1, 1, 1, true, 0 }, ADAPT_AUTO },
	{ "10 Gbit/s, far, QEMU slow", { 300e6, 1180e6, 1, 1, 1, true, 0 }, CODEC_RAW },
	{ "1 Gbit/s, far", { 900e6, 118e6, 1, 1, 1, true, 0 }, 3 },
	{ "1 Gbit/s, far, half the CPU", { 900e6, 118e6, 0.3, 1, 1, true, 0 }, ADAPT_AUTO },
	{ "1 Gbit/s, far, QEMU slow", { 60e6, 118e6, 1, 1, 1, true, 0 }, CODEC_RAW },
	{ "1 Gbit/s, far, QEMU a little slow", { 200e6, 118e6, 1, 1, 1, true, 0 }, ADAPT_AUTO },
	{ "1 Gbit/s, QEMU in bursts", { 900e6, 118e6, 1, 1, 1, false, 100 }, ADAPT_AUTO },
	{ "200 Mbit/s, QEMU in bursts", { 200e6, 24e6, 1, 1, 1, false, 60 }, ADAPT_AUTO },
	{ "1 Gbit/s, far, QEMU in bursts", { 900e6, 118e6, 1, 1, 1, true, 300 }, ADAPT_AUTO },
};

START_TEST(near_the_best)
{
	const struct world *w = &worlds[_i].w;
	double raw = 0, best = best_throughput(w, &raw);
	struct sim s;
	sim_open(&s, w, ADAPT_AUTO);
	double first = run(&s, 500);
	double later = run(&s, 5000);
	unsigned most = 0;
	for (unsigned i = 0; i < LEVELS; i++)
		most = s.at_level_ns[i] > s.at_level_ns[most] ? i : most;
	if (getenv("ADAPT_VERBOSE"))
		printf("%-28s raw %4.0f best %4.0f first %4.0f later %4.0f MB/s, level %d most\n", worlds[_i].name,
		       raw / 1e6, best / 1e6, first / 1e6, later / 1e6, levels[most] == CODEC_RAW ? 0 : levels[most]);
	/* Bursts are shorter than what it takes to be sure of anything. */
	const double part = w->bursts_ms ? 0.85 : 0.93;
	ck_assert_msg(later > part * best, "%s: %.0f MB/s, the best level has %.0f", worlds[_i].name, later / 1e6,
		      best / 1e6);
	ck_assert_msg(later > 0.97 * raw, "%s: %.0f MB/s, storing has %.0f", worlds[_i].name, later / 1e6, raw / 1e6);
	ck_assert_msg(first > 0.80 * raw, "%s: %.0f MB/s at first, storing has %.0f", worlds[_i].name, first / 1e6,
		      raw / 1e6);
	if (worlds[_i].most != ADAPT_AUTO)
		ck_assert_msg(levels[most] == worlds[_i].most, "%s: level %d", worlds[_i].name, levels[most]);
	sim_close(&s);
}
END_TEST

/* From one world to another: soon as good as one that was always there. */
START_TEST(reacts)
{
	static const int from_to[][2] = { { 0, 3 },   { 3, 0 },   { 0, 7 },   { 7, 0 },  { 3, 7 },  { 7, 3 },
					  { 3, 8 },   { 8, 3 },   { 3, 6 },   { 6, 3 },  { 8, 10 }, { 13, 15 },
					  { 15, 13 }, { 14, 13 }, { 17, 15 }, { 14, 15 } };
	const int from = from_to[_i][0], to = from_to[_i][1];
	double raw = 0, best = best_throughput(&worlds[to].w, &raw);
	struct sim s;
	sim_open(&s, &worlds[from].w, ADAPT_AUTO);
	run(&s, 3000);
	s.w = worlds[to].w;
	run(&s, 400);
	double soon = run(&s, 600);
	if (getenv("ADAPT_VERBOSE"))
		printf("%s -> %s: best %.0f raw %.0f soon %.0f MB/s\n", worlds[from].name, worlds[to].name, best / 1e6,
		       raw / 1e6, soon / 1e6);
	ck_assert_msg(soon > 0.80 * best, "%s -> %s: %.0f MB/s of %.0f", worlds[from].name, worlds[to].name, soon / 1e6,
		      best / 1e6);
	sim_close(&s);
}
END_TEST

/* The fewest wire bytes a raw byte, of the levels with about the most throughput. */
static double least_wire(const struct world *w)
{
	double raw, best = best_throughput(w, &raw), least = 1;
	for (unsigned i = 0; i < LEVELS; i++) {
		if (fixed_throughput(w, levels[i]) > 0.97 * best && 1 / ratio_at(w, i) < least)
			least = 1 / ratio_at(w, i);
	}
	return least;
}

/* A link that is known: time first, then bytes; and it stays there. Speeds and costs as measured where QEMU emulates the guest. */
START_TEST(settles)
{
	static const struct world tcg[] = {
		{ 250e6, 118e6, 0.6, 1, 1, false, 0 },   { 180e6, 118e6, 0.6, 1, 1.6, false, 0 },
		{ 125e6, 118e6, 0.7, 1, 1.6, false, 0 }, { 250e6, 24e6, 0.6, 1, 1, false, 0 },
		{ 120e6, 24e6, 0.6, 1, 1.6, false, 0 },  { 250e6, 118e6, 0.6, 1, 1, true, 0 },
	};
	const struct world *w = &tcg[_i];
	double raw, best = best_throughput(w, &raw), least = least_wire(w);
	struct sim s;
	sim_open(&s, w, ADAPT_AUTO);
	run(&s, 1500);
	double wire = s.wire, later = run(&s, 6000);
	wire = (s.wire - wire) / (later * 6);
	if (getenv("ADAPT_VERBOSE"))
		printf("settles %d: %.0f of %.0f MB/s, wire %.3f of %.3f, %u changes\n", _i, later / 1e6, best / 1e6,
		       wire, least, s.changes);
	ck_assert_msg(later > 0.95 * best, "%.0f MB/s, the best level has %.0f", later / 1e6, best / 1e6);
	ck_assert_msg(wire < 1.12 * least, "wire %.3f a byte, could be %.3f", wire, least);
	ck_assert_msg(s.changes <= 10, "%u changes of level in 6 s", s.changes);
	sim_close(&s);
}
END_TEST

/* QEMU, which filled the link for a moment, now gives a little less than it takes raw: that is no reason to store. */
START_TEST(does_not_drift)
{
	static const double supply[] = { 110e6, 90e6, 60e6 };
	struct sim s;
	sim_open(&s, &worlds[3].w, ADAPT_AUTO);
	run(&s, 700);
	s.w.supply = supply[_i];
	s.w.share = 0.6;
	double wire = s.wire, raw = run(&s, 5000) * 5;
	wire = (s.wire - wire) / raw;
	if (getenv("ADAPT_VERBOSE"))
		printf("does_not_drift %d: wire %.3f a byte, %u changes\n", _i, wire, s.changes);
	ck_assert_msg(wire < 0.4, "wire %.3f a byte", wire);
	ck_assert_msg(s.changes <= 10, "%u changes of level in 5 s", s.changes);
	sim_close(&s);
}
END_TEST

/* However long the link was what it was. */
START_TEST(finds_a_faster_link)
{
	static const int from_to[][2] = { { 7, 3 }, { 7, 0 }, { 3, 0 }, { 3, 1 }, { 15, 13 } };
	const struct world *from = &worlds[from_to[_i][0]].w, *to = &worlds[from_to[_i][1]].w;
	double raw, best = best_throughput(to, &raw);
	struct sim s;
	sim_open(&s, from, ADAPT_AUTO);
	run(&s, 30000);
	s.w = *to;
	run(&s, 7000);
	double then = run(&s, 1000);
	ck_assert_msg(then > 0.9 * best, "%.0f MB/s of %.0f", then / 1e6, best / 1e6);
	sim_close(&s);
}
END_TEST

/* A session that begins with what an earlier one learned is right from its first batch; wrong, it is soon put right. */
START_TEST(learns_for_the_next)
{
	static const int from_to[][2] = { { 0, 0 }, { 3, 3 }, { 7, 7 }, { 0, 7 }, { 7, 3 }, { 15, 0 } };
	const struct world *from = &worlds[from_to[_i][0]].w, *to = &worlds[from_to[_i][1]].w;
	struct adapt_learned learned;
	double raw, best = best_throughput(to, &raw);
	struct sim s;
	sim_open(&s, from, ADAPT_AUTO);
	adapt_learned(s.a, &learned);
	ck_assert_int_eq(learned.level, 0);
	run(&s, 3000);
	adapt_learned(s.a, &learned);
	sim_close(&s);
	sim_open(&s, to, ADAPT_AUTO);
	adapt_begin_with(s.a, &learned);
	const double at_once = run(&s, 200);
	if (from == to) {
		ck_assert_uint_le(s.changes, 4); /* one is from none */
		ck_assert_msg(at_once > 0.9 * best, "%.0f MB/s of %.0f", at_once / 1e6, best / 1e6);
	}
	run(&s, 1300);
	const double then = run(&s, 1000);
	ck_assert_msg(then > 0.85 * best, "%.0f MB/s of %.0f", then / 1e6, best / 1e6);
	sim_close(&s);
}
END_TEST

/* A limit says nothing about the link. */
START_TEST(learns_nothing_behind_a_limit)
{
	struct adapt_learned learned;
	struct sim s;
	sim_open(&s, &worlds[3].w, ADAPT_AUTO);
	run(&s, 2000);
	adapt_tick(s.a, &(struct adapt_now){
				.now_ns = s.now + 8 * NS_PER_S, .wire_bytes = (uint64_t)s.wire, .rate_limit = 1000000 });
	adapt_learned(s.a, &learned);
	ck_assert_int_eq(learned.level, 0);
	ck_assert_uint_eq(learned.link_rate, 0);
	sim_close(&s);
}
END_TEST

START_TEST(fixed_stays)
{
	struct sim s;
	struct codec_params p;
	sim_open(&s, &worlds[3].w, 6);
	run(&s, 1000);
	adapt_params(s.a, &p);
	ck_assert_int_eq(p.plain_level, 6);
	ck_assert_int_eq(p.delta_level, 3);
	sim_close(&s);
	sim_open(&s, &worlds[3].w, CODEC_RAW);
	run(&s, 1000);
	adapt_params(s.a, &p);
	ck_assert_int_eq(p.plain_level, CODEC_RAW);
	ck_assert_int_eq(p.delta_level, 1);
	sim_close(&s);
}
END_TEST

/* Numbers that cannot be: nothing breaks, and the level stays one of those that exist. */
START_TEST(odd_input)
{
	struct adapt *a = adapt_new(0, ADAPT_AUTO);
	struct adapt_sample samples[] = {
		{ .level = 77, .raw_bytes = 1 << 20, .plain_in = 1 << 20, .plain_out = 1, .cpu_ns = 1, .wall_ns = 1 },
		{ .level = 1, .raw_bytes = 1 << 20, .plain_in = 1 << 20, .plain_out = 0, .cpu_ns = -5, .wall_ns = -7 },
		{ .level = 1, .raw_bytes = 1 << 20, .encoded_bytes = 1, .plain_in = 1 << 20, .plain_out = 5 << 20 },
		{ .level = 1 },
	};
	struct codec_params p;
	for (unsigned i = 0; i < 2000; i++) {
		adapt_encoded(a, &samples[i % 4]);
		adapt_tick(a, &(struct adapt_now){ .now_ns = (int64_t)i * 20 * NS_PER_MS,
						   .wire_bytes = i % 3 ? 0 : UINT64_MAX,
						   .link_busy = i % 5 ? 1.5 : -1 });
		adapt_params(a, &p);
		level_index(p.plain_level);
	}
	adapt_free(a);
	adapt_free(NULL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("transport/adapt");
	TCase *tc = tcase_create("all");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, near_the_best, 0, (int)(sizeof(worlds) / sizeof(worlds[0])));
	tcase_add_loop_test(tc, reacts, 0, 16);
	tcase_add_loop_test(tc, settles, 0, 6);
	tcase_add_loop_test(tc, does_not_drift, 0, 3);
	tcase_add_loop_test(tc, finds_a_faster_link, 0, 5);
	tcase_add_loop_test(tc, learns_for_the_next, 0, 6);
	tcase_add_test(tc, learns_nothing_behind_a_limit);
	tcase_add_test(tc, fixed_stays);
	tcase_add_test(tc, odd_input);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
