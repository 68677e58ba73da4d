/*
 * patch.h - where two versions of a page differ: runs of bytes. A page with small changes travels as these runs, its bytes XOR the old
 * ones, instead of as 4096 bytes that a compressor would have to walk through.
 */
#ifndef VMFERRY_TRANSPORT_PATCH_H
#define VMFERRY_TRANSPORT_PATCH_H

#include <stdint.h>

/* A run costs about this many bytes besides its contents. Bytes that are equal between two changed ones are carried along
 * when that is cheaper than a run of its own. */
#define PATCH_RUN_COST 3
/* Above this a page is as well sent whole: zstd makes about this of an ordinary page. */
#define PATCH_MAX_COST 1400
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

/* xor[i] = page[i] ^ new_page[i], page[i] = new_page[i]. */
void patch_take(uint8_t *page, const uint8_t *new_page, uint8_t *xor_out, unsigned n);
/* page[i] ^= xor[i] */
void patch_apply(uint8_t *page, const uint8_t *xor_in, unsigned n);

#endif
