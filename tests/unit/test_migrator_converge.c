#include "base/clock.h"
#include "migrator/converge.h"

#include <check.h>
#include <math.h>
#include <string.h>

#define MB 1e6
#define GIB ((double)(1 << 30))

/* A guest and QEMU's pre-copy loop, in 5 ms steps. The guest writes `rate` bytes a second, spread evenly over `set`
 * bytes. */
struct sim {
	double total, set, rate; /* bytes, bytes, bytes/s */
	double link;             /* bytes/s as QEMU sees it */
	/* seed: the link varies by half every 100 ms, and stands nearly still for 2 s now and then; 0: steady */
	unsigned noise;
	bool throttling; /* VIR_MIGRATE_AUTO_CONVERGE */
	double disk;     /* bytes copied before */

	double now; /* s */
	double remaining, dirtied, sent_in_pass, pass_begin;
	double dirty_rate; /* as measured at the last sync */
	double expected_ms;
	unsigned iteration, high, throttle, limit_sets;
	int64_t limit_ms;
	bool paused, postcopy, aborted, finished;
	double bandwidth; /* of the last 100 ms */
	double stalled_until;
	unsigned hundredths;
	double downtime_ms, finished_at, verdict_at;
	char verdict[320];
};

static void sync_bitmap(struct sim *s)
{
	double took = s->now - s->pass_begin;
	double rate = s->paused ? 0 : s->rate * (1 - s->throttle / 100.0);
	/* What is still to be sent from the pass before is dirty already. */
	double clean = s->remaining < s->set ? s->set - s->remaining : 0;
	double fresh = s->paused ? 0 : clean * (1 - exp(-rate * took / s->set));

	if (took > 0)
		s->dirty_rate = fresh / took;
	if (s->throttling && s->iteration > 0 && fresh > s->sent_in_pass / 2 && ++s->high >= 2) {
		s->high = 0;
		s->throttle = s->throttle ? (s->throttle + 10 > 99 ? 99 : s->throttle + 10) : 20;
	}
	s->remaining += fresh;
	s->iteration++;
	s->sent_in_pass = 0;
	s->pass_begin = s->now;
	s->expected_ms = s->remaining / s->bandwidth * 1000;
}

static unsigned next_random(unsigned *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

/* The link of the next 100 ms. */
static void vary(struct sim *s)
{
	s->bandwidth = s->link;
	if (!s->noise)
		return;
	s->bandwidth *= 0.5 + next_random(&s->noise) % 1000 / 1000.0;
	if (s->now < s->stalled_until)
		s->bandwidth *= 0.1;
	else if (next_random(&s->noise) % 100 == 0)
		s->stalled_until = s->now + 2;
}

static void sim_tick(struct sim *s, double dt)
{
	if ((unsigned)(s->now * 10) >= s->hundredths) {
		s->hundredths++;
		vary(s);
	}
	s->now += dt;
	if (s->disk > 0) {
		s->disk -= s->bandwidth * dt;
		s->pass_begin = s->now;
		return;
	}
	if (s->iteration == 0) {
		s->remaining = s->total;
		s->iteration = 1;
		s->pass_begin = s->now;
	}
	double sent = s->bandwidth * dt < s->remaining ? s->bandwidth * dt : s->remaining;
	s->remaining -= sent;
	s->sent_in_pass += sent;
	/* As QEMU does: when what it knows of is below the threshold it counts again, and ends if it still is. */
	double threshold = s->bandwidth * (double)s->limit_ms / 1000;
	if (s->remaining > threshold)
		return;
	sync_bitmap(s);
	if (s->remaining <= threshold || (s->postcopy && s->remaining <= 1)) {
		s->finished = true;
		s->downtime_ms = s->expected_ms;
		s->finished_at = s->now;
	}
	if (s->postcopy)
		s->finished = true;
}

static struct jobstats sim_stats(const struct sim *s)
{
	return (struct jobstats){
		.type = VIR_DOMAIN_JOB_UNBOUNDED,
		.elapsed_ms = (uint64_t)(s->now * 1000),
		.has_downtime = s->iteration > 1,
		.downtime_ms = (uint64_t)s->expected_ms,
		.memory_total = (uint64_t)s->total,
		.memory_remaining = (uint64_t)s->remaining,
		.memory_bps = s->iteration ? (uint64_t)s->bandwidth : 0,
		.memory_dirty_rate = (uint64_t)(s->dirty_rate / 4096),
		.page_size = 4096,
		.iteration = s->iteration,
		.disk_total = s->disk > 0 ? 1000000000 : 0,
		.disk_remaining = s->disk > 0 ? (uint64_t)s->disk : 0,
		.disk_bps = s->disk > 0 ? (uint64_t)s->bandwidth : 0,
		.auto_converge_throttle = (int)s->throttle,
	};
}

static void sim_obey(struct sim *s, const struct converge_advice *a)
{
	switch (a->action) {
	case CONVERGE_WAIT:
		break;
	case CONVERGE_SET_DOWNTIME:
		ck_assert_int_gt(a->downtime_ms, s->limit_ms);
		s->limit_ms = a->downtime_ms;
		s->limit_sets++;
		break;
	case CONVERGE_DO_ABORT:
		s->aborted = s->finished = true;
		s->finished_at = s->now;
		break;
	case CONVERGE_DO_PAUSE:
		s->paused = true;
		break;
	case CONVERGE_DO_POSTCOPY:
		s->postcopy = true;
		break;
	}
	if (a->action > CONVERGE_SET_DOWNTIME) {
		ck_assert_str_ne(a->verdict, "");
		strcpy(s->verdict, a->verdict);
	}
	if (!a->converging && s->verdict_at <= 0)
		s->verdict_at = s->now;
}

static void sim_run(struct sim *s, const struct converge_opts *opts, double until)
{
	struct converge c;
	struct converge_advice a;
	double next_poll = 0;

	converge_init(&c, opts, NS_PER_S);
	s->limit_ms = c.limit_ms;
	while (!s->finished && s->now < until) {
		sim_tick(s, 0.005);
		if (s->now < next_poll)
			continue;
		next_poll = s->now + 0.1;
		struct jobstats js = sim_stats(s);
		converge_step(&c, &js, NS_PER_S + (int64_t)(s->now * 1e9), &a);
		sim_obey(s, &a);
		ck_assert_int_le(s->limit_ms, c.opts.max_downtime_ms);
	}
}

START_TEST(idle_guest)
{
	struct sim s = { .total = 650 * MB, .set = 5 * MB, .rate = 1 * MB, .link = 110 * MB };
	sim_run(&s, &(struct converge_opts){ .on_stall = CONVERGE_ABORT }, 60);
	ck_assert(s.finished && !s.aborted);
	ck_assert_uint_eq(s.limit_sets, 0);
	ck_assert(s.downtime_ms <= 80);
	ck_assert(s.verdict_at <= 0);
	ck_assert(s.finished_at < 650.0 / 110 + 1);
}
END_TEST

START_TEST(busy_but_converging)
{
	/* 80 % of the link: passes shrink slowly, but they do. */
	struct sim s = { .total = 650 * MB, .set = 600 * MB, .rate = 20 * MB, .link = 25 * MB };
	sim_run(&s, &(struct converge_opts){ .on_stall = CONVERGE_ABORT }, 300);
	ck_assert_msg(s.finished && !s.aborted, "%s", s.verdict);
	ck_assert(s.downtime_ms <= 300);
	ck_assert(s.finished_at < 140);
}
END_TEST

START_TEST(small_working_set_needs_a_higher_limit)
{
	/* 20 MB are dirty again whatever is done, 200 ms at this link: the limit must come up to that, soon. */
	struct sim s = { .total = 650 * MB, .set = 20 * MB, .rate = 2000 * MB, .link = 100 * MB };
	sim_run(&s, &(struct converge_opts){ .on_stall = CONVERGE_ABORT }, 60);
	ck_assert_msg(s.finished && !s.aborted, "%s", s.verdict);
	ck_assert_uint_ge(s.limit_sets, 1);
	ck_assert(s.downtime_ms > 150 && s.downtime_ms <= 300);
	ck_assert_msg(s.finished_at < 6.5 + 3, "%f", s.finished_at);
}
END_TEST

START_TEST(limit_stays_within_what_is_allowed)
{
	/* 20 MB are 200 ms; 100 ms are allowed: a stall. */
	struct sim s = { .total = 650 * MB, .set = 20 * MB, .rate = 2000 * MB, .link = 100 * MB };
	sim_run(&s, &(struct converge_opts){ .max_downtime_ms = 100, .on_stall = CONVERGE_ABORT }, 60);
	ck_assert(s.aborted);
	ck_assert_int_eq(s.limit_ms, 100);
	ck_assert_ptr_nonnull(strstr(s.verdict, "100 ms are allowed"));
	ck_assert(s.verdict_at > 0);
}
END_TEST

START_TEST(hopeless)
{
	static const struct {
		enum converge_on_stall on_stall;
	} cases[] = { { CONVERGE_ABORT }, { CONVERGE_PAUSE }, { CONVERGE_POSTCOPY } };
	struct sim s = { .total = 1 * GIB, .set = 800 * MB, .rate = 80 * MB, .link = 25 * MB };
	sim_run(&s, &(struct converge_opts){ .on_stall = cases[_i].on_stall }, 2000);
	ck_assert(s.finished);
	ck_assert_int_eq(s.aborted, cases[_i].on_stall == CONVERGE_ABORT);
	ck_assert_int_eq(s.paused, cases[_i].on_stall == CONVERGE_PAUSE);
	ck_assert_int_eq(s.postcopy, cases[_i].on_stall == CONVERGE_POSTCOPY);
	/* Said within two passes, long before it gives up: the rate that QEMU counts is bounded by the set, so that
	 * the first pass can't tell. */
	ck_assert_msg(s.verdict_at > 0 && s.verdict_at < 2 * GIB / (25 * MB), "%f", s.verdict_at);
	ck_assert_ptr_nonnull(strstr(s.verdict, "no progress"));
}
END_TEST

START_TEST(hopeless_is_said_at_once_with_a_hint)
{
	struct sim s = { .total = 1 * GIB, .set = 800 * MB, .rate = 80 * MB, .link = 25 * MB };
	sim_run(&s, &(struct converge_opts){ .on_stall = CONVERGE_ABORT, .dirty_hint_bps = 80000000 }, 2000);
	ck_assert(s.aborted);
	ck_assert_msg(s.verdict_at > 0 && s.verdict_at < 1, "%f", s.verdict_at);
}
END_TEST

START_TEST(verdict_has_the_numbers)
{
	struct converge c;
	struct converge_advice a;
	struct jobstats js = { .memory_bps = 25 << 20,
			       .memory_dirty_rate = 80 * 256,
			       .page_size = 4096,
			       .iteration = 1,
			       .memory_remaining = 1 << 30,
			       .memory_total = 1 << 30 };
	converge_init(&c, &(struct converge_opts){ .dirty_hint_bps = 80 << 20, .auto_converge = true }, 0);
	converge_step(&c, &js, NS_PER_S, &a);
	ck_assert(!a.converging);
	ck_assert_ptr_nonnull(strstr(a.verdict, "80"));
	ck_assert_ptr_nonnull(strstr(a.verdict, "25"));
	ck_assert_ptr_nonnull(strstr(a.verdict, "300 ms"));
	ck_assert_ptr_nonnull(strstr(a.verdict, "unless its CPUs are slowed"));
	ck_assert_int_eq(a.eta_ns, -1);
}
END_TEST

START_TEST(throttling_rescues)
{
	struct sim s = { .total = 650 * MB, .set = 600 * MB, .rate = 60 * MB, .link = 50 * MB, .throttling = true };
	sim_run(&s, &(struct converge_opts){ .on_stall = CONVERGE_ABORT, .auto_converge = true }, 400);
	ck_assert_msg(s.finished && !s.aborted, "%s at %f", s.verdict, s.finished_at);
	ck_assert_uint_gt(s.throttle, 0);
	ck_assert(s.downtime_ms <= 300);

	/* The same without the flag does not make it. */
	struct sim t = { .total = 650 * MB, .set = 600 * MB, .rate = 60 * MB, .link = 50 * MB };
	sim_run(&t, &(struct converge_opts){ .on_stall = CONVERGE_ABORT }, 400);
	ck_assert(t.aborted);
}
END_TEST

START_TEST(deadline)
{
	/* Abort: at the deadline. */
	struct sim s = { .total = 10 * GIB, .set = 1 * MB, .rate = 1 * MB, .link = 25 * MB };
	sim_run(&s, &(struct converge_opts){ .on_stall = CONVERGE_ABORT, .deadline_ns = 20 * NS_PER_S }, 600);
	ck_assert(s.aborted);
	ck_assert(s.finished_at > 19.9 && s.finished_at < 20.3);
	ck_assert_ptr_nonnull(strstr(s.verdict, "deadline of 20.0 s has passed"));

	/* Pause: early enough to be done by then. */
	struct sim p = { .total = 650 * MB, .set = 300 * MB, .rate = 100 * MB, .link = 50 * MB };
	sim_run(&p, &(struct converge_opts){ .on_stall = CONVERGE_PAUSE, .deadline_ns = 22 * NS_PER_S }, 600);
	ck_assert(p.paused && p.finished);
	ck_assert_msg(p.finished_at < 22.3, "%f", p.finished_at);
	ck_assert_ptr_nonnull(strstr(p.verdict, "can only be met"));
}
END_TEST

START_TEST(nothing_after_the_last_word)
{
	struct converge c;
	struct converge_advice a;
	struct jobstats js = {
		.memory_bps = 1000000, .memory_remaining = 5000000, .iteration = 3, .memory_dirty_rate = 10
	};
	converge_init(&c, &(struct converge_opts){ .on_stall = CONVERGE_PAUSE, .deadline_ns = NS_PER_S }, 0);
	converge_step(&c, &js, 2 * NS_PER_S, &a);
	ck_assert_int_eq(a.action, CONVERGE_DO_PAUSE);
	for (int i = 3; i < 100; i++) {
		js.iteration++;
		converge_step(&c, &js, i * NS_PER_S, &a);
		ck_assert_int_eq(a.action, CONVERGE_WAIT);
	}
	ck_assert_int_eq(a.eta_ns, 5 * NS_PER_S);
}
END_TEST

START_TEST(eta_with_disks)
{
	struct converge c;
	struct converge_advice a;
	struct jobstats js = {
		.disk_total = 1000, .disk_remaining = 500000000, .disk_bps = 100000000, .memory_total = 200000000
	};
	converge_init(&c, &(struct converge_opts){ 0 }, 0);
	converge_step(&c, &js, NS_PER_S, &a);
	ck_assert_int_eq(a.action, CONVERGE_WAIT);
	ck_assert_int_eq(a.eta_ns, 7 * NS_PER_S);
	js.disk_bps = 0;
	converge_step(&c, &js, 2 * NS_PER_S, &a);
	ck_assert_int_eq(a.eta_ns, -1);
}
END_TEST

START_TEST(empty_statistics)
{
	/* Before the migration has begun nothing is known; nothing is done. */
	struct converge c;
	struct converge_advice a;
	struct jobstats js = { 0 };
	converge_init(&c, &(struct converge_opts){ .max_downtime_ms = 50 }, 0);
	ck_assert_int_eq(c.limit_ms, 50);
	for (int i = 0; i < 50; i++) {
		converge_step(&c, &js, i * NS_PER_S, &a);
		ck_assert_int_eq(a.action, CONVERGE_WAIT);
		ck_assert_int_eq(a.eta_ns, -1);
	}
}
END_TEST

START_TEST(noisy_links)
{
	/* A guest that dirties 80 % of a link which varies by half and stands still now and then: it must not be
	 * given up. */
	unsigned aborted = 0;
	for (unsigned seed = 1; seed <= 40; seed++) {
		struct sim s = { .total = 650 * MB, .set = 200 * MB, .rate = 20 * MB, .link = 25 * MB, .noise = seed };
		sim_run(&s, &(struct converge_opts){ .on_stall = CONVERGE_ABORT }, 400);
		ck_assert_msg(s.finished, "seed %u", seed);
		aborted += s.aborted;
		ck_assert(s.aborted || s.downtime_ms <= 301);
	}
	ck_assert_msg(aborted <= 2, "%u of 40 were given up", aborted);
	/* And one that dirties twice the link is given up, not waited for. */
	for (unsigned seed = 1; seed <= 10; seed++) {
		struct sim s = { .total = 650 * MB, .set = 600 * MB, .rate = 80 * MB, .link = 25 * MB, .noise = seed };
		sim_run(&s, &(struct converge_opts){ .on_stall = CONVERGE_ABORT }, 2000);
		ck_assert_msg(s.aborted, "seed %u", seed);
		ck_assert_msg(s.finished_at < 360, "seed %u: %f", seed, s.finished_at);
	}
}
END_TEST

START_TEST(few_passes)
{
	/* A guest that QEMU emulates: the allowed downtime is the limit from the start. */
	struct converge c;
	converge_init(&c, &(struct converge_opts){ .few_passes = true }, 0);
	ck_assert_int_eq(c.limit_ms, CONVERGE_DEFAULT_MAX_DOWNTIME_MS);
	converge_init(&c, &(struct converge_opts){ .few_passes = true, .max_downtime_ms = 20 }, 0);
	ck_assert_int_eq(c.limit_ms, 20);
	converge_init(&c, &(struct converge_opts){ 0 }, 0);
	ck_assert_int_eq(c.limit_ms, CONVERGE_START_DOWNTIME_MS);
}
END_TEST

START_TEST(names)
{
	struct err e = ERR_INIT;
	enum converge_on_stall got;
	for (int i = CONVERGE_ABORT; i <= CONVERGE_POSTCOPY; i++) {
		ck_assert_int_eq(converge_parse_on_stall(converge_on_stall_name((enum converge_on_stall)i), &got, &e),
				 0);
		ck_assert_int_eq(got, i);
	}
	ck_assert_int_eq(converge_parse_on_stall("give-up", &got, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("converge");
	TCase *tc = tcase_create("converge");
	tcase_add_test(tc, idle_guest);
	tcase_add_test(tc, busy_but_converging);
	tcase_add_test(tc, small_working_set_needs_a_higher_limit);
	tcase_add_test(tc, limit_stays_within_what_is_allowed);
	tcase_add_loop_test(tc, hopeless, 0, 3);
	tcase_add_test(tc, hopeless_is_said_at_once_with_a_hint);
	tcase_add_test(tc, verdict_has_the_numbers);
	tcase_add_test(tc, throttling_rescues);
	tcase_add_test(tc, deadline);
	tcase_add_test(tc, nothing_after_the_last_word);
	tcase_add_test(tc, eta_with_disks);
	tcase_add_test(tc, empty_statistics);
	tcase_add_test(tc, noisy_links);
	tcase_add_test(tc, few_passes);
	tcase_add_test(tc, names);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
