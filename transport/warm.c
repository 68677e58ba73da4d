#include "transport/warm.h"

#include "base/clock.h"
#include "base/thread.h"

#include <stdbool.h>
#include <sys/mman.h>

struct kept {
	void *p; /* NULL: free place */
	size_t size;
	int64_t until_ns;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct kept kept[WARM_MAX]; /* under lock */
static bool reaper_runs;           /* under lock */

/* All migrations of an agent ask for the same size, that of delta_cache: of these the one that was used last. */
static void *take_locked(size_t size)
{
	struct kept *best = NULL;

	for (size_t i = 0; i < WARM_MAX; i++) {
		struct kept *k = &kept[i];
		if (k->p && k->size == size && (!best || k->until_ns > best->until_ns))
			best = k;
	}
	if (!best)
		return NULL;
	void *p = best->p;
	best->p = NULL;
	return p;
}

void *warm_get(size_t size, const char *what, struct err *e)
{
	{
		THREAD_LOCKED(&lock);
		void *p = take_locked(size);
		if (p)
			return p;
	}
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) {
		err_sys(e, "memory for %s (%zu MiB)", what, size >> 20);
		return NULL;
	}
	return p;
}

/* Returns what has been kept long enough; ends when nothing is kept. */
static void *reaper(void *arg)
{
	pthread_cond_t never;

	(void)arg;
	thread_cond_init(&never);
	pthread_mutex_lock(&lock);
	for (;;) {
		int64_t next = INT64_MAX, now = clock_mono_ns();
		for (size_t i = 0; i < WARM_MAX; i++) {
			struct kept *k = &kept[i];
			if (k->p && k->until_ns <= now) {
				munmap(k->p, k->size);
				k->p = NULL;
			} else if (k->p && k->until_ns < next) {
				next = k->until_ns;
			}
		}
		if (next == INT64_MAX)
			break;
		thread_cond_wait_until(&never, &lock, next);
	}
	reaper_runs = false;
	pthread_mutex_unlock(&lock);
	pthread_cond_destroy(&never);
	return NULL;
}

void warm_put(void *p, size_t size)
{
	struct err e = ERR_INIT;

	if (!p)
		return;
	{
		THREAD_LOCKED(&lock);
		if (!reaper_runs)
			reaper_runs = thread_start_detached("warm", reaper, NULL, &e) == 0;
		for (size_t i = 0; reaper_runs && i < WARM_MAX; i++) {
			if (!kept[i].p) {
				kept[i] = (struct kept){ .p = p, .size = size, .until_ns = clock_mono_ns() + WARM_KEEP_NS };
				return;
			}
		}
	}
	munmap(p, size);
}
