/*
 * images.h - RAM to measure codecs on: recorded, given, or made.
 */
#ifndef VMFERRY_TOOLS_BENCH_IMAGES_H
#define VMFERRY_TOOLS_BENCH_IMAGES_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct image {
	char name[32];
	size_t pages;
	uint8_t *ram;
	bool *zero; /* per page */
	/* New versions of some pages, in ascending order of their numbers where they were made here. */
	size_t n_changed;
	uint64_t *changed;
	uint8_t *changes;
};

struct images {
	struct image *image;
	size_t n;
};

/* Raw RAM, a multiple of 4 KiB is used. */
int images_add_file(struct images *s, const char *path, struct err *e);
/* A recorded migration stream. Pages that come twice count as changed. */
int images_add_stream(struct images *s, const char *path, struct err *e);
/* Three images of that size: "update" (records and pointers rewritten), "counters" (one number in many pages),
 * "random". */
void images_make(struct images *s, size_t mib);
void images_fini(struct images *s);

#endif
