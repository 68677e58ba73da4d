#include "load.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define TICK_NS 10000000 /* work is done in slices of 10 ms */
#define LOADS   3

static const struct load *const loads[LOADS] = {&load_counters, &load_random, &load_redis};

/* Held while a load works on its memory, is set up or verified. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Under the lock. */
static const struct load *current;
static unsigned current_rate;
static int ready[LOADS];
static int worker_started;
static uint64_t operations;

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000L + ts.tv_nsec;
}

static void *worker(void *arg)
{
	int64_t last = now_ns();
	double due = 0;

	for (;;) {
		struct timespec nap = {.tv_nsec = TICK_NS};
		int64_t now, spent;

		nanosleep(&nap, NULL);
		now = now_ns();
		spent = now - last;
		last = now;
		if (spent > 5 * TICK_NS) /* what was missed is not made up for in a burst */
			spent = 5 * TICK_NS;
		pthread_mutex_lock(&lock);
		if (current) {
			due += (double)current_rate * (double)spent / 1e9;
			if (due >= 1) {
				current->step((unsigned)due);
				operations += (unsigned)due;
				due -= (unsigned)due;
			}
		}
		pthread_mutex_unlock(&lock);
	}
	return arg;
}

int load_start(const char *name, unsigned rate, unsigned mb, char *why, size_t why_size)
{
	int rc = 0;

	if (strcmp(name, "idle") == 0) {
		load_stop();
		return 0;
	}
	for (size_t i = 0; i < LOADS; i++) {
		pthread_t thread;

		if (strcmp(name, loads[i]->name) != 0)
			continue;
		pthread_mutex_lock(&lock);
		if (!ready[i])
			rc = loads[i]->setup(mb ? mb : loads[i]->mb, why, why_size);
		if (rc == 0) {
			ready[i] = 1;
			current = loads[i];
			current_rate = rate ? rate : loads[i]->rate;
			if (!worker_started && pthread_create(&thread, NULL, worker, NULL) == 0)
				worker_started = 1;
		}
		pthread_mutex_unlock(&lock);
		return rc;
	}
	snprintf(why, why_size, "no load '%.40s': idle, update, counters or random", name);
	return -1;
}

void load_stop(void)
{
	pthread_mutex_lock(&lock);
	current = NULL;
	pthread_mutex_unlock(&lock);
}

uint64_t load_verify(uint64_t *checked)
{
	uint64_t bad = 0;

	*checked = 0;
	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < LOADS; i++) {
		uint64_t n = 0;

		if (!ready[i])
			continue;
		bad += loads[i]->verify(&n);
		*checked += n;
	}
	pthread_mutex_unlock(&lock);
	return bad;
}

const char *load_name(void)
{
	const char *name;

	pthread_mutex_lock(&lock);
	name = current ? current->name : "idle";
	pthread_mutex_unlock(&lock);
	return name;
}

uint64_t load_operations(void)
{
	uint64_t n;

	pthread_mutex_lock(&lock);
	n = operations;
	pthread_mutex_unlock(&lock);
	return n;
}
