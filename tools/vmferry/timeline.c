#include "tools/vmferry/timeline.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define S INT64_C(1000)
#define MIN (60 * S)
#define HOUR (60 * MIN)
#define DAY (24 * HOUR)
#define SHORTEST (10 * S) /* that the axis spans */
#define MIN_WIDTH 30

static const struct {
	int64_t age_ms;
	const char *label;
} ticks[] = {
	{ 0, "now" },           { 1 * S, "1 s" },     { 10 * S, "10 s" },   { 1 * MIN, "1 min" },
	{ 10 * MIN, "10 min" }, { 1 * HOUR, "1 h" },  { 6 * HOUR, "6 h" },  { 1 * DAY, "1 d" },
	{ 7 * DAY, "7 d" },     { 30 * DAY, "30 d" }, { 365 * DAY, "1 y" },
};
#define N_TICKS (sizeof(ticks) / sizeof(ticks[0]))

/* Half the axis per few powers of ten: logarithmic, from a second on. */
static unsigned place(int64_t age_ms, int64_t oldest_ms, unsigned width)
{
	double age = age_ms > 0 ? (double)age_ms : 0, oldest = (double)oldest_ms;
	double share = log1p(age / (double)S) / log1p(oldest / (double)S);
	return (unsigned)lround((1 - (share > 1 ? 1 : share)) * (width - 1));
}

static void put_label(char *line, unsigned width, unsigned at, const char *label, unsigned *free_until)
{
	unsigned len = (unsigned)strlen(label);
	unsigned from = at >= len / 2 ? at - len / 2 : 0;
	if (from + len > width)
		from = width - len;
	/* From the right edge to the left; two blanks between. */
	if (from + len > *free_until)
		return;
	memcpy(line + from, label, len);
	*free_until = from >= 2 ? from - 2 : 0;
}

enum mark { LINE, TICK, DISK, MEMORY };

void timeline_draw(const struct timeline_point *points, size_t n, unsigned width, bool utf8, struct buf *out)
{
	static const char *const marks_utf8[] = { "─", "┴", "○", "●" };
	static const char *const marks_ascii[] = { "-", "|", "o", "*" };
	const char *const *marks = utf8 ? marks_utf8 : marks_ascii;
	enum mark line[TIMELINE_MAX_WIDTH] = { LINE };
	char labels[TIMELINE_MAX_WIDTH + 1];
	int64_t oldest = SHORTEST;
	if (n == 0 || width < MIN_WIDTH)
		return;
	width = width > TIMELINE_MAX_WIDTH ? TIMELINE_MAX_WIDTH : width;
	for (size_t i = 0; i < n; i++)
		oldest = points[i].age_ms > oldest ? points[i].age_ms : oldest;
	memset(labels, ' ', width);
	unsigned free_until = width;
	for (size_t i = 0; i < N_TICKS && ticks[i].age_ms <= oldest; i++) {
		unsigned x = place(ticks[i].age_ms, oldest, width);
		line[x] = TICK;
		put_label(labels, width, x, ticks[i].label, &free_until);
	}
	for (size_t i = 0; i < n; i++) {
		enum mark *at = &line[place(points[i].age_ms, oldest, width)];
		enum mark mark = points[i].memory ? MEMORY : DISK;
		*at = *at > mark ? *at : mark;
	}
	for (unsigned x = 0; x < width; x++)
		buf_printf(out, "%s", marks[line[x]]);
	unsigned len = width;
	while (len > 0 && labels[len - 1] == ' ')
		len--;
	buf_printf(out, "\n%.*s\n", (int)len, labels);
}
