#include "replicator/schedule.h"

#include "base/clock.h"
#include "base/units.h"

#include <stdbool.h>
#include <string.h>

#define MAX_WINDOWS 16u
#define MAX_EVERY_MS (7 * 24 * 3600 * INT64_C(1000))
#define MIN_EVERY_MS 100

/* Minutes since midnight, or -1. */
static int minute_of(const json_t *time)
{
	const char *s = json_string_value(time);

	if (!s || strlen(s) != 5 || s[2] != ':' || strspn(s, "0123456789") != 2 || strspn(s + 3, "0123456789") != 2)
		return -1;
	const int h = (s[0] - '0') * 10 + s[1] - '0', m = (s[3] - '0') * 10 + s[4] - '0';
	return h < 24 && m < 60 ? h * 60 + m : -1;
}

static int check_every(const json_t *o, struct err *e)
{
	const json_t *v = json_object_get(o, "every_ms");

	if (!v || (json_is_integer(v) && json_integer_value(v) >= MIN_EVERY_MS && json_integer_value(v) <= MAX_EVERY_MS))
		return 0;
	return err_set(e, ERR_CONFIG, "schedule: every_ms is not a number from %d to %lld", MIN_EVERY_MS, (long long)MAX_EVERY_MS);
}

int schedule_check(const json_t *schedule, struct err *e)
{
	const json_t *windows = json_object_get(schedule, "windows");
	size_t i;
	json_t *w;

	if (!schedule || json_is_null(schedule))
		return 0;
	if (!json_is_object(schedule) || (windows && !json_is_array(windows)) || json_array_size(windows) > MAX_WINDOWS)
		return err_set(e, ERR_CONFIG, "schedule: not an object with at most %u windows", MAX_WINDOWS);
	if (check_every(schedule, e) < 0)
		return -1;
	json_array_foreach(windows, i, w) {
		const int from = minute_of(json_object_get(w, "from")), to = minute_of(json_object_get(w, "to"));
		const json_t *bandwidth = json_object_get(w, "bandwidth");
		if (from < 0 || to < 0 || from == to)
			return err_set(e, ERR_CONFIG, "schedule: window %zu does not say from and to as HH:MM", i + 1);
		if (bandwidth && (!json_is_integer(bandwidth) || json_integer_value(bandwidth) < 0))
			return err_set(e, ERR_CONFIG, "schedule: bandwidth of window %zu is no number of bytes a second", i + 1);
		if (check_every(w, e) < 0)
			return -1;
	}
	return 0;
}

int schedule_check_rpo(const json_t *schedule, int64_t rpo_ns, struct err *e)
{
	const int64_t every_ns = json_integer_value(json_object_get(schedule, "every_ms")) * NS_PER_MS;
	char every[32], rpo[32];

	if (every_ns <= rpo_ns)
		return 0;
	err_set(e, ERR_CONFIG, "with a checkpoint every %s an RPO of %s cannot be held",
		units_format_duration(every_ns, every, sizeof(every)), units_format_duration(rpo_ns, rpo, sizeof(rpo)));
	return err_remedy(e,
			  "an interval of at most %s, or an RPO of %s and more; without --every the interval is what "
			  "the RPO asks for",
			  rpo, every);
}

static bool holds(const json_t *w, int minute)
{
	const int from = minute_of(json_object_get(w, "from")), to = minute_of(json_object_get(w, "to"));

	return from < to ? minute >= from && minute < to : minute >= from || minute < to;
}

struct schedule_now schedule_at(const json_t *schedule, unsigned minute, uint64_t bandwidth)
{
	struct schedule_now now = { .every_ns = json_integer_value(json_object_get(schedule, "every_ms")) * NS_PER_MS,
				    .bandwidth = bandwidth };
	size_t i;
	json_t *w;

	json_array_foreach(json_object_get(schedule, "windows"), i, w) {
		if (!holds(w, (int)minute))
			continue;
		if (json_object_get(w, "every_ms"))
			now.every_ns = json_integer_value(json_object_get(w, "every_ms")) * NS_PER_MS;
		if (json_object_get(w, "bandwidth"))
			now.bandwidth = (uint64_t)json_integer_value(json_object_get(w, "bandwidth"));
		break;
	}
	return now;
}
