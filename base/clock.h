/*
 * clock.h - monotonic time for logic, wall-clock time for labels. Both in int64 nanoseconds.
 */
#ifndef VMFERRY_BASE_CLOCK_H
#define VMFERRY_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)

int64_t clock_mono_ns(void);
int64_t clock_wall_ns(void);
/* CPU time of the calling thread. */
int64_t clock_thread_cpu_ns(void);
/* poll(2) timeout in ms until a monotonic deadline: 0 if passed, rounded up, -1 if deadline is INT64_MAX. */
int clock_poll_ms(int64_t deadline_ns);
/* "2026-01-02T03:04:05.678Z" into a buffer of at least 25 bytes; returns buf. */
const char *clock_format_wall(int64_t wall_ns, char *buf, size_t size);

#endif
