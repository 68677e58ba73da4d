#include "replicator/block_hash.h"

#include "base/xxh3.h"
#include "snapshot/store.h"

#include <string.h>

void block_hash_init(struct block_hash *h, const uint8_t secret[BLOCK_HASH_SECRET])
{
	for (unsigned i = 0; i < sizeof(h->expanded) / 8; i++) {
		XXH64_canonical_t c;
		XXH64_canonicalFromHash(&c, XXH3_64bits_withSeed(secret, BLOCK_HASH_SECRET, i));
		memcpy(h->expanded + (size_t)8 * i, c.digest, 8);
	}
}

bool block_hash_is_zero(const uint8_t *block)
{
	return block[0] == 0 && memcmp(block, block + 1, STORE_BLOCK - 1) == 0;
}

void block_hash_bytes(const struct block_hash *h, const void *p, size_t n, uint8_t out[BLOCK_HASH_SIZE])
{
	XXH128_canonical_t c;

	XXH128_canonicalFromHash(&c, XXH3_128bits_withSecret(p, n, h->expanded, sizeof(h->expanded)));
	memcpy(out, c.digest, BLOCK_HASH_SIZE);
}

void block_hash_of(const struct block_hash *h, const uint8_t *block, uint8_t out[BLOCK_HASH_SIZE])
{
	if (block_hash_is_zero(block))
		memset(out, 0, BLOCK_HASH_SIZE);
	else
		block_hash_bytes(h, block, STORE_BLOCK, out);
}
