#include "base/clock.h"

#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <time.h>

static int64_t read_clock(clockid_t id)
{
	struct timespec ts;
	const int rc = clock_gettime(id, &ts);

	assert(rc == 0);
	return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

int64_t clock_mono_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

int64_t clock_wall_ns(void)
{
	return read_clock(CLOCK_REALTIME);
}

int64_t clock_thread_cpu_ns(void)
{
	return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

int clock_poll_ms(int64_t deadline_ns)
{
	if (deadline_ns == INT64_MAX)
		return -1;
	const int64_t now = clock_mono_ns();
	if (deadline_ns <= now)
		return 0;
	const int64_t left = deadline_ns - now;
	const int64_t ms = left / NS_PER_MS + (left % NS_PER_MS != 0);
	return ms > INT_MAX ? INT_MAX : (int)ms;
}

const char *clock_format_wall(int64_t wall_ns, char *buf, size_t size)
{
	int64_t s = wall_ns / NS_PER_S;
	int64_t ns = wall_ns % NS_PER_S;
	if (ns < 0) {
		ns += NS_PER_S;
		s--;
	}
	const time_t t = (time_t)s;
	struct tm tm = { 0 };

	gmtime_r(&t, &tm);
	snprintf(buf, size, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
		 tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(ns / NS_PER_MS));
	return buf;
}
