/*
 * units.h - durations, sizes and rates as people write them.
 */
#ifndef VMFERRY_BASE_UNITS_H
#define VMFERRY_BASE_UNITS_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

/* "300ms", "5s", "10m", "2h", "1d", "1.5s" -> nanoseconds. A number without a unit is refused (but for 0). */
int units_parse_duration(const char *s, int64_t *ns, struct err *e);
/* "512MiB", "64KiB", "10GB", "4096" -> bytes (Ki/Mi/Gi/Ti binary, K/M/G/T decimal, B optional). */
int units_parse_size(const char *s, uint64_t *bytes, struct err *e);
/* "1G", "200M", "1Gbit/s", "800kbit": bits per second -> BYTES per second. "0" or "unlimited" -> 0. "50MB/s" means bytes. */
int units_parse_rate(const char *s, uint64_t *bytes_per_s, struct err *e);

/* For people: "1.2 s", "340 ms", "2 h 05 min"; "1.5 GiB"; "948 Mbit/s". All return buf. */
const char *units_format_duration(int64_t ns, char *buf, size_t size);
const char *units_format_size(uint64_t bytes, char *buf, size_t size);
const char *units_format_rate(uint64_t bytes_per_s, char *buf, size_t size);

#endif
