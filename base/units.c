#include "base/units.h"

#include "base/clock.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define FRACTION_DIGITS 9
#define BILLION UINT64_C(1000000000)

/* A decimal number without sign as whole + billionths / 1e9; no float, no locale. */
struct number {
	uint64_t whole;
	uint64_t billionths;
};

/* Moves *s behind the number; false if there is none or it is too large. More than nine decimals are cut. */
static bool parse_number(const char **s, struct number *out)
{
	const char *p = *s;
	struct number n = { 0 };

	if (!isdigit((unsigned char)*p))
		return false;
	for (; isdigit((unsigned char)*p); p++)
		if (__builtin_mul_overflow(n.whole, 10, &n.whole) ||
		    __builtin_add_overflow(n.whole, (uint64_t)(*p - '0'), &n.whole))
			return false;
	if (*p == '.') {
		p++;
		if (!isdigit((unsigned char)*p))
			return false;
		uint64_t place = BILLION / 10;
		for (; isdigit((unsigned char)*p); p++, place /= 10)
			n.billionths += (uint64_t)(*p - '0') * place;
	}
	*s = p;
	*out = n;
	return true;
}

/* n * unit, rounded down; false above max. */
static bool scale(const struct number *n, uint64_t unit, uint64_t max, uint64_t *out)
{
	const unsigned __int128 v = (unsigned __int128)n->whole * unit +
				    (unsigned __int128)n->billionths * unit / BILLION;

	if (v > max)
		return false;
	*out = (uint64_t)v;
	return true;
}

static bool is_zero(const struct number *n)
{
	return n->whole == 0 && n->billionths == 0;
}

int units_parse_duration(const char *s, int64_t *ns, struct err *e)
{
	static const struct {
		const char *name;
		uint64_t ns;
	} units[] = {
		{ "ns", 1 },
		{ "us", 1000 },
		{ "ms", (uint64_t)NS_PER_MS },
		{ "s", (uint64_t)NS_PER_S },
		{ "m", 60 * (uint64_t)NS_PER_S },
		{ "min", 60 * (uint64_t)NS_PER_S },
		{ "h", 3600 * (uint64_t)NS_PER_S },
		{ "d", 86400 * (uint64_t)NS_PER_S },
	};
	const char *p = s;
	struct number n;

	if (parse_number(&p, &n)) {
		if (*p == '\0' && is_zero(&n)) {
			*ns = 0;
			return 0;
		}
		for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
			if (strcmp(p, units[i].name) != 0)
				continue;
			uint64_t v = 0;
			if (!scale(&n, units[i].ns, INT64_MAX, &v)) {
				err_set(e, ERR_CONFIG, "duration '%s' is too long", s);
				return err_remedy(e, "The longest is about 292 years.");
			}
			*ns = (int64_t)v;
			return 0;
		}
	}
	err_set(e, ERR_CONFIG, "'%s' is not a duration", s);
	return err_remedy(e, "Write a number with a unit: 300ms, 5s, 1.5s, 10m, 2h or 1d.");
}

/* "", k, Ki, M, Mi, ... in either case; moves *s behind it. */
static uint64_t parse_prefix(const char **s)
{
	static const char letters[] = "kmgt";
	const char *p = *s;
	const char *at = *p ? strchr(letters, tolower((unsigned char)*p)) : NULL;

	if (!at)
		return 1;
	const bool binary = p[1] == 'i';
	uint64_t factor = 1;
	for (long i = 0; i <= at - letters; i++)
		factor *= binary ? 1024 : 1000;
	*s = p + (binary ? 2 : 1);
	return factor;
}

int units_parse_size(const char *s, uint64_t *bytes, struct err *e)
{
	const char *p = s;
	struct number n;

	if (parse_number(&p, &n)) {
		const uint64_t factor = parse_prefix(&p);
		if (*p == '\0' || strcmp(p, "B") == 0) {
			if (scale(&n, factor, UINT64_MAX, bytes))
				return 0;
			return err_set(e, ERR_CONFIG, "size '%s' is too large", s);
		}
	}
	err_set(e, ERR_CONFIG, "'%s' is not a size", s);
	return err_remedy(e, "Write a number of bytes, or one with a unit: 64KiB, 512MiB, 1.5GiB, 10GB.");
}

static bool is_one_of(const char *s, const char *const *names)
{
	for (; *names; names++)
		if (strcmp(s, *names) == 0)
			return true;
	return false;
}

int units_parse_rate(const char *s, uint64_t *bytes_per_s, struct err *e)
{
	static const char *const in_bits[] = { "", "b", "b/s", "bps", "bit", "bit/s", NULL };
	static const char *const in_bytes[] = { "B", "B/s", NULL };
	const char *p = s;
	struct number n;

	if (strcmp(s, "unlimited") == 0) {
		*bytes_per_s = 0;
		return 0;
	}
	if (parse_number(&p, &n)) {
		const uint64_t factor = parse_prefix(&p);
		const bool bytes = is_one_of(p, in_bytes);
		if (bytes || is_one_of(p, in_bits)) {
			uint64_t v = 0;
			if (!scale(&n, factor, UINT64_MAX, &v))
				return err_set(e, ERR_CONFIG, "rate '%s' is too large", s);
			if (!bytes)
				v /= 8;
			/* 0 means unlimited, which nobody means who writes "1bit". */
			if (v == 0 && !is_zero(&n)) {
				err_set(e, ERR_CONFIG, "rate '%s' is too small", s);
				return err_remedy(e, "Write 0 or 'unlimited' for no limit.");
			}
			*bytes_per_s = v;
			return 0;
		}
	}
	err_set(e, ERR_CONFIG, "'%s' is not a rate", s);
	return err_remedy(
		e, "Write bits per second (1G, 200M, 800kbit, 1Gbit/s), bytes per second (50MB/s), or 'unlimited'.");
}

/* A value in units of `unit` with one decimal below 100, as tenths: "1.5", "99.9", "948". */
static void format_tenths(unsigned __int128 tenths, const char *suffix, char *buf, size_t size)
{
	if (tenths < 1000)
		snprintf(buf, size, "%u.%u%s", (unsigned)(tenths / 10), (unsigned)(tenths % 10), suffix);
	else
		snprintf(buf, size, "%llu%s", (unsigned long long)((tenths + 5) / 10), suffix);
}

static unsigned __int128 to_tenths(uint64_t v, uint64_t unit)
{
	return ((unsigned __int128)v * 10 + unit / 2) / unit;
}

const char *units_format_duration(int64_t ns, char *buf, size_t size)
{
	const bool negative = ns < 0;
	const uint64_t v = negative ? (uint64_t)0 - (uint64_t)ns : (uint64_t)ns;
	char text[48];
	const uint64_t us = (v + 500) / 1000;
	const uint64_t ms = (v + 500000) / 1000000;
	const uint64_t s = (v + 500000000) / 1000000000;
	const uint64_t min = (s + 30) / 60;

	if (v == 0)
		snprintf(text, sizeof(text), "0 s");
	else if (us < 1000)
		snprintf(text, sizeof(text), "%llu us", (unsigned long long)us);
	else if (ms < 1000)
		snprintf(text, sizeof(text), "%llu ms", (unsigned long long)ms);
	else if (to_tenths(v, (uint64_t)NS_PER_S) < 600)
		format_tenths(to_tenths(v, (uint64_t)NS_PER_S), " s", text, sizeof(text));
	else if (s < 3600)
		snprintf(text, sizeof(text), "%llu min %02llu s", (unsigned long long)(s / 60),
			 (unsigned long long)(s % 60));
	else if (min < 24 * 60)
		snprintf(text, sizeof(text), "%llu h %02llu min", (unsigned long long)(min / 60),
			 (unsigned long long)(min % 60));
	else
		snprintf(text, sizeof(text), "%llu d %02llu h", (unsigned long long)((min + 30) / 1440),
			 (unsigned long long)((min + 30) / 60 % 24));
	snprintf(buf, size, "%s%s", negative ? "-" : "", text);
	return buf;
}

/* The largest unit in which the rounded value is at least 1. */
static const char *format_scaled(uint64_t v, uint64_t step, const char *const *suffixes, unsigned n, char *buf,
				 size_t size)
{
	uint64_t unit = 1;
	unsigned i = 0;

	while (i + 1 < n && to_tenths(v, unit) + 5 >= (unsigned __int128)step * 10) {
		unit *= step;
		i++;
	}
	if (i == 0)
		snprintf(buf, size, "%llu%s", (unsigned long long)v, suffixes[0]);
	else
		format_tenths(to_tenths(v, unit), suffixes[i], buf, size);
	return buf;
}

const char *units_format_size(uint64_t bytes, char *buf, size_t size)
{
	static const char *const suffixes[] = { " B", " KiB", " MiB", " GiB", " TiB", " PiB" };

	return format_scaled(bytes, 1024, suffixes, sizeof(suffixes) / sizeof(suffixes[0]), buf, size);
}

const char *units_format_rate(uint64_t bytes_per_s, char *buf, size_t size)
{
	static const char *const suffixes[] = { " bit/s", " kbit/s", " Mbit/s", " Gbit/s", " Tbit/s" };
	const uint64_t bits = bytes_per_s > UINT64_MAX / 8 ? UINT64_MAX : bytes_per_s * 8;

	return format_scaled(bits, 1000, suffixes, sizeof(suffixes) / sizeof(suffixes[0]), buf, size);
}
