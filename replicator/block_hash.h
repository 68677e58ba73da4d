/*
 * block_hash.h - 16 bytes that stand for a 4 KiB block, by which both ends of a session find out what the other has.
 *
 * XXH3-128 keyed with the session's secret, so that a guest cannot choose contents that meet; a block of zeros is all zeros. It tells change,
 * nothing is ever copied by it.
 */
#ifndef VMFERRY_REPLICATOR_BLOCK_HASH_H
#define VMFERRY_REPLICATOR_BLOCK_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BLOCK_HASH_SIZE 16u
#define BLOCK_HASH_SECRET 32u

struct block_hash {
	uint8_t expanded[192];
};

void block_hash_init(struct block_hash *h, const uint8_t secret[BLOCK_HASH_SECRET]);
void block_hash_of(const struct block_hash *h, const uint8_t *block /* 4096 bytes */, uint8_t out[BLOCK_HASH_SIZE]);
/* Of anything else, zeros or not. */
void block_hash_bytes(const struct block_hash *h, const void *p, size_t n, uint8_t out[BLOCK_HASH_SIZE]);
bool block_hash_is_zero(const uint8_t *block);

#endif
