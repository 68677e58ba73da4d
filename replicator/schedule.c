#include "replicator/schedule.h"

#include "base/clock.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define DAY_S 86400
#define EVERY_MIN_MS 100
#define EVERY_MAX_MS ((json_int_t)DAY_S * 1000)
#define BANDWIDTH_MIN 125000
#define BANDWIDTH_MAX INT64_C(1000000000000)

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

/* Absent: *ns stays as it is. */
static int every_from_json(const json_t *o, int64_t *ns, struct err *e)
{
	const json_t *v = json_object_get(o, "every_ms");
	json_int_t ms = json_integer_value(v);
	if (!v)
		return 0;
	if (!json_is_integer(v) || ms < EVERY_MIN_MS || ms > EVERY_MAX_MS)
		return err_set(e, ERR_CONFIG, "schedule: every is out of range (allowed: 100ms to 1d)");
	*ns = ms * NS_PER_MS;
	return 0;
}

static int time_from_json(const json_t *o, const char *key, unsigned *minutes, struct err *e)
{
	const char *text = json_string_value(json_object_get(o, key));
	unsigned h = 0, m = 0;
	int n = 0;
	if (!text || strlen(text) != 5 || sscanf(text, "%2u:%2u%n", &h, &m, &n) != 2 || n != 5 || h > 23 || m > 59)
		return err_set(e, ERR_CONFIG,
			       "schedule: a window's \"%s\" is no time of the day (allowed: 00:00 to 23:59)", key);
	*minutes = h * 60 + m;
	return 0;
}

static int window_from_json(const json_t *o, struct schedule_window *w, struct err *e)
{
	const json_t *rate = json_object_get(o, "bandwidth");
	json_int_t value = json_integer_value(rate);
	w->bandwidth = SCHEDULE_AS_OUTSIDE;
	if (time_from_json(o, "from", &w->from, e) < 0 || time_from_json(o, "to", &w->to, e) < 0 ||
	    every_from_json(o, &w->every_ns, e) < 0)
		return -1;
	if (w->from == w->to)
		return err_set(e, ERR_CONFIG, "schedule: a window's from and to are the same time");
	if (rate &&
	    (!json_is_integer(rate) || value < 0 || (value > 0 && value < BANDWIDTH_MIN) || value > BANDWIDTH_MAX))
		return err_set(e, ERR_CONFIG, "schedule: a window's bandwidth is out of range (allowed: from 1Mbit)");
	if (rate)
		w->bandwidth = (uint64_t)value;
	return 0;
}

int schedule_from_json(const json_t *o, struct schedule *s, struct err *e)
{
	struct schedule made = *s;
	const json_t *windows = json_object_get(o, "windows");
	if (every_from_json(o, &made.every_ns, e) < 0)
		return -1;
	if (windows && (!json_is_array(windows) || json_array_size(windows) > SCHEDULE_MAX_WINDOWS))
		return err_set(e, ERR_CONFIG, "schedule: windows are no list of at most %d", SCHEDULE_MAX_WINDOWS);
	if (windows)
		made.n_windows = json_array_size(windows);
	for (size_t i = 0; windows && i < made.n_windows; i++) {
		made.windows[i] = (struct schedule_window){ 0 };
		if (window_from_json(json_array_get(windows, i), &made.windows[i], e) < 0)
			return -1;
	}
	*s = made;
	return 0;
}

time_t schedule_local_time(time_t utc)
{
	struct tm tm;
	if (!localtime_r(&utc, &tm))
		return utc;
	return timegm(&tm);
}
