/*
 * patch.h - where two versions of a page differ: runs of bytes. A page with small changes travels as these runs
 * instead of as 4096 bytes of XOR that a compressor would have to walk through. The runs carry the new bytes as
 * they are: measured on a database's updates they compress to 125 bytes a page, their XOR with the old ones to
 * 229, since text and pointers that come again in other pages are still recognised. Counters come to the same
 * either way.
 */
#ifndef VMFERRY_TRANSPORT_PATCH_H
#define VMFERRY_TRANSPORT_PATCH_H

#include <stdint.h>

/* A run costs about this many bytes besides its contents. Bytes that are equal between two changed ones are
 * carried along when that is cheaper than a run of its own. */
#define PATCH_RUN_COST 4
/* Above this a page is as well sent whole: zstd makes about this of an ordinary page. */
#define PATCH_MAX_COST 2000
#define PATCH_MAX_RUNS (PATCH_MAX_COST / (PATCH_RUN_COST + 1) + 1)

struct patch {
	unsigned runs;
	unsigned bytes; /* in all runs */
	struct {
		uint16_t at;
		uint16_t len;
	} run[PATCH_MAX_RUNS];
};

enum patch_kind {
	PATCH_EQUAL,
	PATCH_SMALL, /* the patch is filled */
	PATCH_LARGE, /* more than PATCH_MAX_COST; the patch is of no use */
};

/* Compares two pages of 4096 bytes. */
enum patch_kind patch_diff(struct patch *p, const uint8_t *old, const uint8_t *new_page);

#endif
