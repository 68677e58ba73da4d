#include "base/queue.h"

#include "base/mem.h"
#include "base/thread.h"

#include <assert.h>
#include <stdlib.h>

enum queue_state { QUEUE_OPEN, QUEUE_CLOSED, QUEUE_ABORTED };

struct slot {
	void *item;
	size_t weight;
};

struct queue {
	/* Fixed after queue_new. */
	size_t max_items;
	void (*drop)(void *item);

	pthread_mutex_t lock;
	/* Under the lock. */
	enum queue_state state;
	size_t max_weight;
	struct slot *ring; /* cap slots, `len` of them in use from `head` on */
	size_t cap;
	size_t head;
	size_t len;
	size_t weight;
	unsigned pushers_waiting;
	pthread_cond_t not_empty;
	pthread_cond_t not_full;
};

struct queue *queue_new(size_t max_items, size_t max_weight, void (*drop)(void *item))
{
	struct queue *q = mem_alloc(sizeof(*q));

	q->max_items = max_items;
	q->max_weight = max_weight;
	q->drop = drop;
	pthread_mutex_init(&q->lock, NULL);
	thread_cond_init(&q->not_empty);
	thread_cond_init(&q->not_full);
	return q;
}

/* Takes all that is left out of the queue, for drop_taken outside the lock: `drop` may be slow or lock things itself. */
static struct slot *take_all_locked(struct queue *q, size_t *n)
{
	struct slot *taken = mem_alloc_array(q->len, sizeof(*taken));

	for (size_t i = 0; i < q->len; i++)
		taken[i] = q->ring[(q->head + i) % q->cap];
	*n = q->len;
	q->len = 0;
	q->head = 0;
	q->weight = 0;
	return taken;
}

static void drop_taken(const struct queue *q, struct slot *taken, size_t n)
{
	for (size_t i = 0; q->drop && i < n; i++)
		q->drop(taken[i].item);
	free(taken);
}

void queue_free(struct queue *q)
{
	if (!q)
		return;
	size_t n = 0;
	struct slot *taken = take_all_locked(q, &n);
	drop_taken(q, taken, n);
	pthread_cond_destroy(&q->not_full);
	pthread_cond_destroy(&q->not_empty);
	pthread_mutex_destroy(&q->lock);
	free(q->ring);
	free(q);
}

static bool has_room_locked(const struct queue *q, size_t weight)
{
	if (q->len == 0)
		return true;
	if (q->max_items && q->len >= q->max_items)
		return false;
	return !q->max_weight || (q->weight <= q->max_weight && weight <= q->max_weight - q->weight);
}

static void grow_locked(struct queue *q)
{
	const size_t cap = q->cap ? q->cap * 2 : 16;
	struct slot *ring = mem_alloc_array(cap, sizeof(*ring));

	for (size_t i = 0; i < q->len; i++)
		ring[i] = q->ring[(q->head + i) % q->cap];
	free(q->ring);
	q->ring = ring;
	q->cap = cap;
	q->head = 0;
}

int queue_push(struct queue *q, void *item, size_t weight)
{
	assert(item);
	THREAD_LOCKED(&q->lock);
	while (q->state == QUEUE_OPEN && !has_room_locked(q, weight)) {
		q->pushers_waiting++;
		thread_cond_wait_until(&q->not_full, &q->lock, INT64_MAX);
		q->pushers_waiting--;
	}
	if (q->state != QUEUE_OPEN)
		return -1;
	if (q->len == q->cap)
		grow_locked(q);
	q->ring[(q->head + q->len) % q->cap] = (struct slot){ .item = item, .weight = weight };
	q->len++;
	q->weight += weight;
	pthread_cond_signal(&q->not_empty);
	return 0;
}

void *queue_pop_until(struct queue *q, int64_t deadline_ns, bool *timed_out)
{
	if (timed_out)
		*timed_out = false;
	THREAD_LOCKED(&q->lock);
	while (q->len == 0 && q->state == QUEUE_OPEN) {
		const int rc = thread_cond_wait_until(&q->not_empty, &q->lock, deadline_ns);
		if (rc < 0 && q->len == 0 && q->state == QUEUE_OPEN) {
			if (timed_out)
				*timed_out = true;
			return NULL;
		}
	}
	if (q->len == 0)
		return NULL;
	const struct slot s = q->ring[q->head];
	q->head = (q->head + 1) % q->cap;
	q->len--;
	q->weight -= s.weight;
	/* All of them: the one that a single signal woke might be too heavy, while another would fit. */
	if (q->pushers_waiting)
		pthread_cond_broadcast(&q->not_full);
	return s.item;
}

void *queue_pop(struct queue *q)
{
	return queue_pop_until(q, INT64_MAX, NULL);
}

void queue_close(struct queue *q)
{
	THREAD_LOCKED(&q->lock);
	if (q->state == QUEUE_OPEN)
		q->state = QUEUE_CLOSED;
	pthread_cond_broadcast(&q->not_empty);
	pthread_cond_broadcast(&q->not_full);
}

void queue_abort(struct queue *q)
{
	struct slot *taken = NULL;
	size_t n = 0;

	pthread_mutex_lock(&q->lock);
	q->state = QUEUE_ABORTED;
	taken = take_all_locked(q, &n);
	pthread_cond_broadcast(&q->not_empty);
	pthread_cond_broadcast(&q->not_full);
	pthread_mutex_unlock(&q->lock);
	drop_taken(q, taken, n);
}

size_t queue_len(struct queue *q)
{
	THREAD_LOCKED(&q->lock);
	return q->len;
}

size_t queue_weight(struct queue *q)
{
	THREAD_LOCKED(&q->lock);
	return q->weight;
}

void queue_set_max_weight(struct queue *q, size_t max_weight)
{
	THREAD_LOCKED(&q->lock);
	q->max_weight = max_weight;
	pthread_cond_broadcast(&q->not_full);
}
