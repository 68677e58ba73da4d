#include "tools/vmferry/spark.h"

#include <stdio.h>
#include <string.h>

static const char *const bars_utf8[] = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" };
static const char *const bars_ascii[] = { "_", ".", "-", "=", "+", "*", "%", "#" };
#define BARS 8

void spark_add(struct spark *s, double value)
{
	s->samples[s->next] = value < 0 ? -1 : value;
	s->next = (s->next + 1) % SPARK_SAMPLES;
	if (s->n < SPARK_SAMPLES)
		s->n++;
}

/* The i-th oldest. */
static double sample(const struct spark *s, unsigned i)
{
	return s->samples[(s->next + SPARK_SAMPLES - s->n + i) % SPARK_SAMPLES];
}

double spark_max(const struct spark *s)
{
	double most = -1;
	for (unsigned i = 0; i < s->n; i++)
		if (sample(s, i) > most)
			most = sample(s, i);
	return most;
}

double spark_min(const struct spark *s)
{
	double least = -1;
	for (unsigned i = 0; i < s->n; i++)
		if (sample(s, i) >= 0 && (least < 0 || sample(s, i) < least))
			least = sample(s, i);
	return least;
}

enum { BLANK = -2, UNKNOWN = -1 };

/* The largest of the samples that column x of `width` stands for. Positions count from the oldest that a full ring
 * would have, so that a column keeps its meaning while the ring fills. */
static double column(const struct spark *s, unsigned x, unsigned width)
{
	unsigned missing = SPARK_SAMPLES - s->n;
	unsigned from = x * SPARK_SAMPLES / width, to = (x + 1) * SPARK_SAMPLES / width;
	double most = BLANK;
	for (unsigned i = from; i < to; i++)
		if (i >= missing && sample(s, i - missing) > most)
			most = sample(s, i - missing);
	return most;
}

static const char *bar(double value, const struct spark_style *style)
{
	const char *const *bars = style->utf8 ? bars_utf8 : bars_ascii;
	if (value <= BLANK)
		return " ";
	if (value < 0)
		return style->utf8 ? "·" : ".";
	double height = style->target > 0 ? value / (2 * style->target) * BARS : 0;
	return bars[height >= BARS - 1 ? BARS - 1 : (unsigned)height];
}

const char *spark_draw(const struct spark *s, const struct spark_style *style, char *buf, size_t size)
{
	unsigned width = style->width > SPARK_SAMPLES ? SPARK_SAMPLES : style->width;
	size_t len = 0;
	buf[0] = '\0';
	for (unsigned x = 0; x < width && len + 16 <= size; x++) {
		double value = column(s, x, width);
		bool late = style->colour && value > style->target;
		len += (size_t)snprintf(buf + len, size - len, "%s%s%s", late ? "\033[31m" : "", bar(value, style),
					late ? "\033[0m" : "");
	}
	return buf;
}
