#include "replicator/pace.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

#define OVER_TO_STRETCH 3u
#define WITHIN_TO_SHRINK 20u
#define MIN_MARGIN_NS (20 * NS_PER_MS)

void pace_init(struct pace *p, int64_t rpo_ns, int64_t every_ns, int64_t max_pause_ns)
{
	*p = (struct pace){ .rpo_ns = rpo_ns, .every_ns = every_ns, .max_pause_ns = max_pause_ns, .stretch = 1 };
}

static void note_pause(struct pace *p, int64_t pause_ns)
{
	p->pause_ns[p->n_pauses++ % PACE_WINDOW] = pause_ns;
	if (p->max_pause_ns == 0)
		return;
	if (pause_ns > p->max_pause_ns) {
		p->within = 0;
		if (++p->over >= OVER_TO_STRETCH && p->stretch < PACE_MAX_STRETCH) {
			p->stretch *= 2;
			p->over = 0;
		}
		return;
	}
	p->over = 0;
	if (++p->within >= WITHIN_TO_SHRINK && p->stretch > 1) {
		p->stretch /= 2;
		p->within = 0;
	}
}

void pace_note(struct pace *p, int64_t pause_ns, int64_t commit_ns, int64_t rpo_ns)
{
	p->commit_ns[p->n_commits++ % PACE_COMMITS] = commit_ns;
	note_pause(p, pause_ns);
	if (rpo_ns > p->rpo_ns) {
		p->late++;
		p->on_time = 0;
	} else {
		p->on_time++;
		if (p->on_time >= 3)
			p->late = 0;
	}
	/* What is said to be late has been later than asked for. */
	if (!p->late || rpo_ns > p->worst_rpo_ns)
		p->worst_rpo_ns = rpo_ns;
}

int64_t pace_commit_ns(const struct pace *p)
{
	const unsigned n = p->n_commits < PACE_COMMITS ? p->n_commits : PACE_COMMITS;
	int64_t worst = 0;

	for (unsigned i = 0; i < n; i++)
		worst = p->commit_ns[i] > worst ? p->commit_ns[i] : worst;
	return worst;
}

int64_t pace_interval_ns(const struct pace *p)
{
	const int64_t margin = p->rpo_ns / 8 > MIN_MARGIN_NS ? p->rpo_ns / 8 : MIN_MARGIN_NS;
	int64_t interval = p->rpo_ns - pace_commit_ns(p) - margin;

	if (interval > p->rpo_ns * 3 / 4)
		interval = p->rpo_ns * 3 / 4;
	if (p->every_ns)
		interval = p->every_ns;
	if (interval < PACE_MIN_INTERVAL_NS)
		interval = PACE_MIN_INTERVAL_NS;
	return interval * p->stretch;
}

static int by_value(const void *a, const void *b)
{
	const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

int64_t pace_pause_ns(const struct pace *p, double q)
{
	const size_t n = p->n_pauses < PACE_WINDOW ? (size_t)p->n_pauses : PACE_WINDOW;
	int64_t sorted[PACE_WINDOW];

	if (n == 0)
		return 0;
	memcpy(sorted, p->pause_ns, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), by_value);
	size_t i = (size_t)(q * (double)n);
	return sorted[i < n ? i : n - 1];
}

bool pace_behind(const struct pace *p)
{
	return p->late >= 2;
}

bool pace_gave_up(const struct pace *p)
{
	return p->stretch >= PACE_MAX_STRETCH && p->over >= OVER_TO_STRETCH;
}
