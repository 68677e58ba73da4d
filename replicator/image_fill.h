/*
 * image_fill.h - a disk of a point as a file of its own.
 */
#ifndef VMFERRY_REPLICATOR_IMAGE_FILL_H
#define VMFERRY_REPLICATOR_IMAGE_FILL_H

#include "base/err.h"
#include "snapshot/store.h"

#include <stdbool.h>
#include <stdint.h>

struct image_fill_opts {
	/* May be NULL; returning false stops (ERR_CANCELLED). */
	bool (*progress)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
	const char *run_dir; /* for qemu-nbd's socket (qcow2 only) */
};

/* The file must not exist; it is durable when 0 is returned, and gone otherwise. Zeros are holes. */
int image_fill_raw(struct store_view *v, uint32_t volume, uint64_t size_bytes, const char *path,
		   const struct image_fill_opts *o, struct err *e);
/* The same as qcow2, written by qemu-nbd. */
int image_fill_qcow2(struct store_view *v, uint32_t volume, uint64_t size_bytes, const char *path,
		     const struct image_fill_opts *o, struct err *e);
/* An empty qcow2 over `base` (raw), `size_bytes` large. */
int image_fill_overlay(const char *base, uint64_t size_bytes, const char *path, struct err *e);

#endif
