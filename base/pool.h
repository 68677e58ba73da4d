/*
 * pool.h - a fixed set of worker threads for CPU-bound work.
 */
#ifndef VMFERRY_BASE_POOL_H
#define VMFERRY_BASE_POOL_H

#include "base/err.h"

#include <stddef.h>

struct pool;

/* threads = 0: one per online CPU, at most 8. */
struct pool *pool_new(unsigned threads, const char *name, size_t max_queued, struct err *e);
unsigned pool_threads(const struct pool *p);
/* Blocks while max_queued jobs wait (0: no limit). Not from within a job: it could wait for itself. */
void pool_submit(struct pool *p, void (*fn)(void *arg), void *arg);
/* Runs what was submitted, then joins. NULL is fine. */
void pool_free(struct pool *p);

#endif
