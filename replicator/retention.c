#include "replicator/retention.h"

#include "base/clock.h"

#define HOUR_NS (3600 * NS_PER_S)
#define DAY_NS (24 * HOUR_NS)

static int64_t slot_of(int64_t time_ns, int64_t period_ns)
{
	return time_ns >= 0 ? time_ns / period_ns : -((-time_ns - 1) / period_ns) - 1;
}

/* The newest of each of the latest `slots` periods that have any. */
static void keep_newest_of(struct retention_point *p, size_t n, unsigned slots, int64_t period_ns)
{
	int64_t seen = INT64_MAX;

	for (size_t i = n; i > 0 && slots > 0; i--) {
		const int64_t slot = slot_of(p[i - 1].time_ns, period_ns);
		/* A clock that was set back makes older points look newer: they count with what is newer. */
		if (slot >= seen)
			continue;
		seen = slot;
		p[i - 1].keep = true;
		slots--;
	}
}

size_t retention_mark(const struct retention *r, uint64_t other_bytes, struct retention_point *p, size_t n)
{
	uint64_t total = other_bytes;
	size_t going = 0;

	for (size_t i = 0; i < n; i++)
		p[i].keep = n - i <= r->last || i == n - 1;
	keep_newest_of(p, n, r->hourly, HOUR_NS);
	keep_newest_of(p, n, r->daily, DAY_NS);
	for (size_t i = 0; i < n; i++)
		total += p[i].keep ? p[i].bytes : 0;
	for (size_t i = 0; i + 1 < n && r->max_bytes && total > r->max_bytes; i++) {
		if (!p[i].keep)
			continue;
		p[i].keep = false;
		total -= p[i].bytes;
	}
	for (size_t i = 0; i < n; i++)
		going += !p[i].keep;
	return going;
}
