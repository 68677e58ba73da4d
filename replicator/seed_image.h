/*
 * seed_image.h - an image of this host that a peer has named as the start of a first copy: found only in folders that are given out for that, and only if
 * nobody writes to it.
 *
 * Whoever names an image may learn what is in it, and a guest can write an image's header into its own disk. So what is named is looked at by its
 * descriptor, never by name twice; raw or qcow2 without a backing file, external data or encryption, or refused; and while it is open it has QEMU's own
 * lock against writers.
 */
#ifndef VMFERRY_REPLICATOR_SEED_IMAGE_H
#define VMFERRY_REPLICATOR_SEED_IMAGE_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct seed_image {
	int fd;
	char *path;         /* by which helper programs open just this file, as long as fd is open */
	const char *format; /* "raw" or "qcow2" */
};

/* folders: absolute paths, symbolic links in them followed. size_bytes: what its guest must see. ERR_REFUSED with what to do about it; of what is
 * elsewhere it is not said whether it is there. */
int seed_image_open(const char *path, char *const *folders, size_t n_folders, uint64_t size_bytes,
		    struct seed_image *out, struct err *e);
/* One that was not opened (all zeros) is fine. */
void seed_image_close(struct seed_image *s);

#endif
