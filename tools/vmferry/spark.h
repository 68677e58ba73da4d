/*
 * spark.h - the last minute of a figure as a row of small bars. Pure: no terminal, no clock.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_SPARK_H
#define VMFERRY_TOOLS_VMFERRY_SPARK_H

#include <stdbool.h>
#include <stddef.h>

#define SPARK_SAMPLES 60

/* Zeroed: no samples. */
struct spark {
	double samples[SPARK_SAMPLES]; /* a ring; below 0: not known then */
	unsigned n, next;
};

void spark_add(struct spark *s, double value);
/* The largest and smallest known value; -1 if there is none. */
double spark_max(const struct spark *s);
double spark_min(const struct spark *s);

struct spark_style {
	unsigned width; /* columns; each shows the largest of its share of the samples */
	double target;  /* half the height of a bar; what is above it is red where there is colour */
	bool utf8, colour;
};
/* Oldest to the left, newest at the right edge; columns without a sample are blank, those with none known a dot. Returns
 * buf; 16 bytes a column are always enough. */
const char *spark_draw(const struct spark *s, const struct spark_style *style, char *buf, size_t size);

#endif
