/* Threads and the pool: signals stay out, names are seen, jobs all run, and side by side. */
#include "base/thread.h"

#include "base/clock.h"
#include "base/pool.h"

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

struct seen {
	sigset_t mask;
	char name[32];
};

static void *look(void *arg)
{
	struct seen *s = arg;

	pthread_sigmask(SIG_BLOCK, NULL, &s->mask);
	pthread_getname_np(pthread_self(), s->name, sizeof(s->name));
	return s;
}

START_TEST(signals_are_blocked_and_names_are_set)
{
	struct err e = ERR_INIT;
	struct seen s = { 0 };
	sigset_t before, after;
	pthread_t t;
	void *got = NULL;

	pthread_sigmask(SIG_BLOCK, NULL, &before);
	ck_assert_int_eq(thread_start(&t, "a-name-that-is-longer-than-15", look, &s, &e), 0);
	pthread_join(t, &got);
	pthread_sigmask(SIG_BLOCK, NULL, &after);
	ck_assert_ptr_eq(got, &s);
	ck_assert_str_eq(s.name, "a-name-that-is-");
	ck_assert_int_eq(sigismember(&s.mask, SIGTERM), 1);
	ck_assert_int_eq(sigismember(&s.mask, SIGINT), 1);
	ck_assert_int_eq(sigismember(&s.mask, SIGHUP), 1);
	ck_assert_int_eq(sigismember(&s.mask, SIGCHLD), 1);
	ck_assert_int_eq(sigismember(&s.mask, SIGSEGV), 0);
	ck_assert_int_eq(sigismember(&after, SIGTERM), sigismember(&before, SIGTERM));
}
END_TEST

struct gate {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool open;
};

static void gate_init(struct gate *g)
{
	pthread_mutex_init(&g->lock, NULL);
	thread_cond_init(&g->cond);
	g->open = false;
}

static void *open_gate(void *arg)
{
	struct gate *g = arg;

	THREAD_LOCKED(&g->lock);
	g->open = true;
	pthread_cond_signal(&g->cond);
	return NULL;
}

START_TEST(detached_threads_run)
{
	static struct gate g;
	struct err e = ERR_INIT;

	gate_init(&g);
	ck_assert_int_eq(thread_start_detached("detached", open_gate, &g, &e), 0);
	THREAD_LOCKED(&g.lock);
	while (!g.open)
		ck_assert_int_eq(thread_cond_wait_until(&g.cond, &g.lock, clock_mono_ns() + 10 * NS_PER_S), 0);
}
END_TEST

START_TEST(waiting_ends_at_the_deadline)
{
	struct gate g;

	gate_init(&g);
	THREAD_LOCKED(&g.lock);
	const int64_t deadline = clock_mono_ns() + 10 * NS_PER_MS;
	int rc = 0;
	while (rc == 0) /* it may wake for nothing */
		rc = thread_cond_wait_until(&g.cond, &g.lock, deadline);
	ck_assert_int_eq(rc, -1);
	ck_assert_int_ge(clock_mono_ns(), deadline);
	ck_assert_int_eq(thread_cond_wait_until(&g.cond, &g.lock, 0), -1);
	ck_assert_int_eq(thread_cond_wait_until(&g.cond, &g.lock, INT64_MIN), -1);
}
END_TEST

START_TEST(a_lock_ends_with_its_scope)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

	for (int i = 0; i < 2; i++) {
		THREAD_LOCKED(&lock);
		ck_assert_int_eq(pthread_mutex_trylock(&lock), EBUSY);
	}
	ck_assert_int_eq(pthread_mutex_trylock(&lock), 0);
	pthread_mutex_unlock(&lock);
	pthread_mutex_destroy(&lock);
}
END_TEST

static atomic_int jobs_run;

static void count_job(void *arg)
{
	atomic_fetch_add(&jobs_run, *(int *)arg);
}

START_TEST(a_pool_runs_all_that_was_submitted)
{
	static const size_t bounds[] = { 0, 1, 4 };
	struct err e = ERR_INIT;
	int one = 1;

	for (size_t b = 0; b < 3; b++) {
		jobs_run = 0;
		struct pool *p = pool_new(3, "count", bounds[b], &e);
		ck_assert_msg(p != NULL, "%s", e.text);
		ck_assert_uint_eq(pool_threads(p), 3);
		for (int i = 0; i < 2000; i++)
			pool_submit(p, count_job, &one);
		pool_free(p);
		ck_assert_int_eq(jobs_run, 2000);
	}
	pool_free(NULL);
}
END_TEST

static void meet(void *arg)
{
	pthread_barrier_wait(arg);
}

START_TEST(a_pool_works_side_by_side)
{
	struct err e = ERR_INIT;
	pthread_barrier_t all;

	/* Ends only if all four are inside at the same time. */
	pthread_barrier_init(&all, NULL, 4);
	struct pool *p = pool_new(4, "meet", 8, &e);
	ck_assert_ptr_nonnull(p);
	for (int i = 0; i < 8; i++)
		pool_submit(p, meet, &all);
	pool_free(p);
	pthread_barrier_destroy(&all);
}
END_TEST

START_TEST(a_pool_fits_the_machine)
{
	struct err e = ERR_INIT;
	struct pool *p = pool_new(0, "auto", 1, &e);

	ck_assert_ptr_nonnull(p);
	ck_assert_uint_ge(pool_threads(p), 1);
	ck_assert_uint_le(pool_threads(p), 8);
	pool_free(p);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("thread");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 30);
	tcase_add_test(t, signals_are_blocked_and_names_are_set);
	tcase_add_test(t, detached_threads_run);
	tcase_add_test(t, waiting_ends_at_the_deadline);
	tcase_add_test(t, a_lock_ends_with_its_scope);
	tcase_add_test(t, a_pool_runs_all_that_was_submitted);
	tcase_add_test(t, a_pool_works_side_by_side);
	tcase_add_test(t, a_pool_fits_the_machine);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
