/*
 * adoption_fill.h - the contents of an adoption (adoption.h), or of a copy that is at hand (a seed): a VM that stands still here, or images.
 *
 * Nothing is taken away: the VM and its images stay as they are.
 */
#ifndef VMFERRY_REPLICATOR_ADOPTION_FILL_H
#define VMFERRY_REPLICATOR_ADOPTION_FILL_H

#include "base/err.h"
#include "snapshot/guest.h"
#include "snapshot/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* A VM that is paused (fenced), by still_capture, as a point. meta: more keys of it (borrowed; may be NULL). The store is empty or of this VM. *seq (may be
 * NULL): the point's number. */
int adoption_fill_paused(struct guest *g, struct store *s, const char *run_dir, const json_t *meta, uint64_t *seq,
			 struct err *e);
struct adoption_image {
	const char *target; /* the disk: "vda" */
	const char *path;
	const char *format; /* "raw", "qcow2"; NULL: qemu finds out, only of an image that no guest can have written a header into */
	const char *name; /* how the store's journal calls it; NULL: path */
	/* Now and then; false ends it: ERR_CANCELLED. May be NULL. */
	bool (*progress)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
};
/* The contents of an image as that disk, in parts: no point. Other volumes of the store stay. What fails leaves the parts before. */
int adoption_fill_image(struct store *s, const struct adoption_image *image, const char *run_dir, struct err *e);

#endif
