/* Queues: order, bounds, and the two ways in which they end. Nothing here depends on who is faster. */
#include "base/queue.h"

#include "base/clock.h"
#include "base/thread.h"

#include <check.h>
#include <stdatomic.h>
#include <stdlib.h>

static int items[1000];

static atomic_int dropped;

static void count_drop(void *item)
{
	(void)item;
	atomic_fetch_add(&dropped, 1);
}

static pthread_t start(void *(*fn)(void *), void *arg)
{
	struct err e = ERR_INIT;
	pthread_t t;

	ck_assert_msg(thread_start(&t, "test", fn, arg, &e) == 0, "%s", e.text);
	return t;
}

START_TEST(first_in_first_out)
{
	struct queue *q = queue_new(0, 0, NULL);

	/* In and out in steps that make the ring wrap and grow while wrapped. */
	int in = 0, out = 0;
	for (int step = 1; in + step < 1000; step++) {
		for (int i = 0; i < step; i++)
			ck_assert_int_eq(queue_push(q, &items[in++], 2), 0);
		for (int i = 0; i < step / 2; i++)
			ck_assert_ptr_eq(queue_pop(q), &items[out++]);
		ck_assert_uint_eq(queue_len(q), (size_t)(in - out));
		ck_assert_uint_eq(queue_weight(q), 2 * (size_t)(in - out));
	}
	while (out < in)
		ck_assert_ptr_eq(queue_pop(q), &items[out++]);
	ck_assert_uint_eq(queue_weight(q), 0);
	queue_free(q);
	queue_free(NULL);
}
END_TEST

START_TEST(closed_is_drained_and_takes_no_more)
{
	struct queue *q = queue_new(4, 0, count_drop);

	ck_assert_int_eq(queue_push(q, &items[0], 0), 0);
	ck_assert_int_eq(queue_push(q, &items[1], 0), 0);
	queue_close(q);
	ck_assert_int_eq(queue_push(q, &items[2], 0), -1);
	ck_assert_ptr_eq(queue_pop(q), &items[0]);
	ck_assert_ptr_eq(queue_pop(q), &items[1]);
	ck_assert_ptr_null(queue_pop(q));
	ck_assert_int_eq(dropped, 0);
	queue_free(q);
	ck_assert_int_eq(dropped, 0);
}
END_TEST

START_TEST(aborted_drops_everything)
{
	struct queue *q = queue_new(4, 0, count_drop);

	queue_push(q, &items[0], 5);
	queue_push(q, &items[1], 5);
	queue_abort(q);
	ck_assert_int_eq(dropped, 2);
	ck_assert_uint_eq(queue_len(q), 0);
	ck_assert_uint_eq(queue_weight(q), 0);
	ck_assert_ptr_null(queue_pop(q));
	ck_assert_int_eq(queue_push(q, &items[2], 0), -1);
	/* Closing cannot bring it back. */
	queue_close(q);
	ck_assert_int_eq(queue_push(q, &items[2], 0), -1);
	queue_abort(q);
	queue_free(q);
	ck_assert_int_eq(dropped, 2);
}
END_TEST

START_TEST(free_drops_what_is_left)
{
	struct queue *q = queue_new(0, 0, count_drop);

	for (int i = 0; i < 20; i++)
		queue_push(q, &items[i], 0);
	queue_pop(q);
	queue_free(q);
	ck_assert_int_eq(dropped, 19);
}
END_TEST

START_TEST(waiting_ends_at_the_deadline)
{
	struct queue *q = queue_new(0, 0, NULL);
	bool timed_out = false;

	const int64_t deadline = clock_mono_ns() + 20 * NS_PER_MS;
	ck_assert_ptr_null(queue_pop_until(q, deadline, &timed_out));
	ck_assert(timed_out);
	ck_assert_int_ge(clock_mono_ns(), deadline);
	/* A deadline long past, but there is something: it is given. */
	queue_push(q, &items[0], 0);
	ck_assert_ptr_eq(queue_pop_until(q, 0, &timed_out), &items[0]);
	ck_assert(!timed_out);
	ck_assert_ptr_null(queue_pop_until(q, INT64_MIN, &timed_out));
	ck_assert(timed_out);
	queue_close(q);
	ck_assert_ptr_null(queue_pop_until(q, clock_mono_ns() + 60 * NS_PER_S, &timed_out));
	ck_assert(!timed_out);
	queue_free(q);
}
END_TEST

#define PRODUCERS 3
#define PER_PRODUCER 2000
#define MAX_ITEMS 5
#define MAX_WEIGHT 40

struct traffic {
	struct queue *q;
	atomic_int seen[PRODUCERS * PER_PRODUCER];
	atomic_int next_id;
	atomic_int received;
	atomic_int over_bound;
};

static struct traffic traffic;
static int ids[PRODUCERS * PER_PRODUCER];

static void *produce(void *arg)
{
	(void)arg;
	for (int i = 0; i < PER_PRODUCER; i++) {
		const int id = atomic_fetch_add(&traffic.next_id, 1);
		ids[id] = id;
		if (queue_push(traffic.q, &ids[id], (size_t)(id % 17)) < 0)
			break;
	}
	return NULL;
}

static void *consume(void *arg)
{
	int *item;

	(void)arg;
	while ((item = queue_pop(traffic.q)) != NULL) {
		atomic_fetch_add(&traffic.seen[*item], 1);
		atomic_fetch_add(&traffic.received, 1);
		if (queue_len(traffic.q) > MAX_ITEMS || queue_weight(traffic.q) > MAX_WEIGHT)
			atomic_fetch_add(&traffic.over_bound, 1);
	}
	return NULL;
}

START_TEST(many_threads_lose_nothing_and_keep_the_bounds)
{
	pthread_t producers[PRODUCERS], consumers[2];

	traffic.q = queue_new(MAX_ITEMS, MAX_WEIGHT, NULL);
	for (int i = 0; i < 2; i++)
		consumers[i] = start(consume, NULL);
	for (int i = 0; i < PRODUCERS; i++)
		producers[i] = start(produce, NULL);
	for (int i = 0; i < PRODUCERS; i++)
		pthread_join(producers[i], NULL);
	queue_close(traffic.q);
	for (int i = 0; i < 2; i++)
		pthread_join(consumers[i], NULL);
	ck_assert_int_eq(traffic.received, PRODUCERS * PER_PRODUCER);
	for (int i = 0; i < PRODUCERS * PER_PRODUCER; i++)
		ck_assert_int_eq(traffic.seen[i], 1);
	ck_assert_int_eq(traffic.over_bound, 0);
	queue_free(traffic.q);
}
END_TEST

START_TEST(the_heaviest_item_passes_an_empty_queue)
{
	struct queue *q = queue_new(0, 10, NULL);

	ck_assert_int_eq(queue_push(q, &items[0], 1000), 0);
	ck_assert_ptr_eq(queue_pop(q), &items[0]);
	ck_assert_int_eq(queue_push(q, &items[1], SIZE_MAX), 0);
	ck_assert_ptr_eq(queue_pop(q), &items[1]);
	queue_free(q);
}
END_TEST

struct pusher {
	struct queue *q;
	size_t weight;
	int rc;
};

static void *push_one(void *arg)
{
	struct pusher *p = arg;

	p->rc = queue_push(p->q, &items[9], p->weight);
	return NULL;
}

static void *pop_one(void *arg)
{
	return queue_pop(arg);
}

/* A push that must block gets through by `release`, or the test times out. */
static int blocked_push(size_t max_items, size_t max_weight, void (*release)(struct queue *q))
{
	struct queue *q = queue_new(max_items, max_weight, count_drop);
	struct pusher p = { .q = q, .weight = 8, .rc = 77 };

	queue_push(q, &items[0], 8);
	pthread_t t = start(push_one, &p);
	release(q);
	pthread_join(t, NULL);
	queue_free(q);
	return p.rc;
}

static void release_by_pop(struct queue *q)
{
	ck_assert_ptr_eq(queue_pop(q), &items[0]);
}

static void release_by_weight(struct queue *q)
{
	queue_set_max_weight(q, 16);
}

static void release_by_no_weight(struct queue *q)
{
	queue_set_max_weight(q, 0);
}

START_TEST(who_waits_for_room_is_woken)
{
	ck_assert_int_eq(blocked_push(1, 0, release_by_pop), 0);
	ck_assert_int_eq(blocked_push(0, 10, release_by_pop), 0);
	ck_assert_int_eq(blocked_push(0, 10, release_by_weight), 0);
	ck_assert_int_eq(blocked_push(0, 10, release_by_no_weight), 0);
	ck_assert_int_eq(blocked_push(1, 0, queue_close), -1);
	ck_assert_int_eq(blocked_push(0, 10, queue_abort), -1);
}
END_TEST

START_TEST(who_waits_for_an_item_is_woken)
{
	static void (*const ends[])(struct queue *) = { queue_close, queue_abort };

	for (int i = 0; i < 2; i++) {
		struct queue *q = queue_new(0, 0, NULL);
		pthread_t a = start(pop_one, q), b = start(pop_one, q);
		void *got_a = q, *got_b = q;
		ends[i](q);
		pthread_join(a, &got_a);
		pthread_join(b, &got_b);
		ck_assert_ptr_null(got_a);
		ck_assert_ptr_null(got_b);
		queue_free(q);
	}
	struct queue *q = queue_new(0, 0, NULL);
	pthread_t t = start(pop_one, q);
	void *got = NULL;
	queue_push(q, &items[3], 0);
	pthread_join(t, &got);
	ck_assert_ptr_eq(got, &items[3]);
	queue_free(q);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("queue");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 30);
	tcase_add_test(t, first_in_first_out);
	tcase_add_test(t, closed_is_drained_and_takes_no_more);
	tcase_add_test(t, aborted_drops_everything);
	tcase_add_test(t, free_drops_what_is_left);
	tcase_add_test(t, waiting_ends_at_the_deadline);
	tcase_add_test(t, many_threads_lose_nothing_and_keep_the_bounds);
	tcase_add_test(t, the_heaviest_item_passes_an_empty_queue);
	tcase_add_test(t, who_waits_for_room_is_woken);
	tcase_add_test(t, who_waits_for_an_item_is_woken);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
