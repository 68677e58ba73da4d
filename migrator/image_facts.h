/*
 * image_facts.h - what a path is on this host, for preflight: size, file system, and whether two hosts see the same
 * thing.
 */
#ifndef VMFERRY_MIGRATOR_IMAGE_FACTS_H
#define VMFERRY_MIGRATOR_IMAGE_FACTS_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define IMAGE_FACTS_TOKEN_LEN 33 /* 32 hex digits and NUL */

struct image_facts {
	bool exists; /* a regular file or a block device */
	bool device;
	bool folder;        /* the folder it is or would be in is there */
	uint64_t size;      /* of the file or device */
	uint64_t allocated; /* bytes that the file takes */
	uint64_t inode;
	int64_t mtime_ns;
	bool network_fs;  /* of a kind that libvirt takes for shared among hosts */
	uint64_t fs_id;   /* equal for paths on one file system of this host */
	uint64_t fs_free; /* bytes that a file there may still take */
};

/* Never fails: what cannot be seen is not there. */
void image_facts_get(const char *path, struct image_facts *out);

/* The size that a guest sees of an image of that format ("raw", "qcow2"; others are asked of qemu-img). ERR_CORRUPT
 * when it is not of that format. */
int image_facts_virtual_size(const char *path, const char *format, uint64_t *size, struct err *e);

/* How many snapshots a qcow2 image has inside; 0 for what is none, or can't be read. */
unsigned image_facts_snapshots(const char *path);

/* What a block device is, on every host that sees it: its WWN, or the UUID of an LVM volume or multipath map; heap,
 * or NULL when nothing of that kind is known. Partitions are told apart. */
char *image_facts_device_id(const char *path);

/* Makes a small hidden file with a random token in it, in the folder where the image really is (symbolic links
 * followed); *probe is its path (heap). Probes that an agent left behind more than ten minutes ago are removed on the
 * way. */
int image_facts_make_probe(const char *image, char **probe, char token[IMAGE_FACTS_TOKEN_LEN], struct err *e);
/* Is there a probe of that name where this host's image really is, with that token in it? Names that are no probe's
 * are never opened. */
bool image_facts_check_probe(const char *image, const char *name, const char *token);

#endif
