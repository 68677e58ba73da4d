#include "replicator/schedule.h"

#include <stdbool.h>

#define DAY_S 86400

static bool holds(const struct schedule_window *w, unsigned minute)
{
	if (w->from == w->to)
		return true;
	if (w->from < w->to)
		return minute >= w->from && minute < w->to;
	return minute >= w->from || minute < w->to;
}

struct schedule_now schedule_at(const struct schedule *s, time_t local)
{
	struct schedule_now now = { .every_ns = s->every_ns, .bandwidth = s->bandwidth };
	time_t second = local % DAY_S;
	if (second < 0) /* before 1970: a clock that was never set */
		second += DAY_S;
	unsigned minute = (unsigned)(second / 60);
	for (size_t i = 0; i < s->n_windows && i < SCHEDULE_MAX_WINDOWS; i++) {
		const struct schedule_window *w = &s->windows[i];
		if (!holds(w, minute))
			continue;
		if (w->every_ns)
			now.every_ns = w->every_ns;
		if (w->bandwidth != SCHEDULE_AS_OUTSIDE)
			now.bandwidth = w->bandwidth;
		break;
	}
	return now;
}

time_t schedule_local_time(time_t utc)
{
	struct tm tm;
	if (!localtime_r(&utc, &tm))
		return utc;
	return timegm(&tm);
}
