/*
 * queue.h - a bounded queue between threads: back-pressure and memory ceiling in one.
 *
 * It ends in one of two ways: closed (producers refused, consumers drain) or aborted (everything dropped, everyone woken).
 */
#ifndef VMFERRY_BASE_QUEUE_H
#define VMFERRY_BASE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct queue;

/* At most max_items and max_weight (0 = no limit); one item is always accepted by an empty queue. `drop` frees items
 * left behind at abort or free; may be NULL. */
struct queue *queue_new(size_t max_items, size_t max_weight, void (*drop)(void *item));
/* Drops what is left. No thread may be inside. NULL is fine. */
void queue_free(struct queue *q);
/* Blocks while full. The item is not NULL. 0, or -1 when closed or aborted: the item is then still the caller's. */
int queue_push(struct queue *q, void *item, size_t weight);
/* Blocks while empty. NULL when closed and drained, or aborted. */
void *queue_pop(struct queue *q);
/* Until a monotonic deadline; on time-out NULL with *timed_out = true. */
void *queue_pop_until(struct queue *q, int64_t deadline_ns, bool *timed_out);
void queue_close(struct queue *q);
void queue_abort(struct queue *q);
size_t queue_len(struct queue *q);
size_t queue_weight(struct queue *q);
void queue_set_max_weight(struct queue *q, size_t max_weight);

#endif
