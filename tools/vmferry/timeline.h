/*
 * timeline.h - restore points on an axis of their age, oldest left, now right, recent times spread out. Pure.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_TIMELINE_H
#define VMFERRY_TOOLS_VMFERRY_TIMELINE_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TIMELINE_MAX_WIDTH 200

struct timeline_point {
	int64_t age_ms; /* below 0 counts as 0 */
	bool memory;    /* can be resumed; else it boots from its disks */
};

/* Two lines, of marks and of what the axis means there. Nothing without points or below 30 columns. */
void timeline_draw(const struct timeline_point *points, size_t n, unsigned width, bool utf8, struct buf *out);

#endif
