/*
 * known.h - what the peer has, block by block, as hashes (block_hash.h): by it the source leaves out what need not travel.
 *
 * RAM: all of it, 16 bytes a page. Disks: a cache of the grains that were touched last; what is not in it must be asked for. Lives as long as
 * a session: a new one asks anew, so that nothing is assumed about a peer that was away. One thread.
 */
#ifndef VMFERRY_REPLICATOR_KNOWN_H
#define VMFERRY_REPLICATOR_KNOWN_H

#include "base/err.h"
#include "replicator/block_hash.h"
#include "snapshot/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum known_state {
	KNOWN_HASH,    /* the hash is that of the peer's block */
	KNOWN_NOT,     /* ask the peer */
	KNOWN_CHANGED, /* it was sent in this transaction, and the peer cannot say yet: send */
};

struct known;
/* peer: the volumes that the peer has at the beginning; all others read as zeros there. */
struct known *known_new(const uint8_t secret[BLOCK_HASH_SECRET], const struct store_volume *peer, size_t n);
void known_free(struct known *k);

void known_hash(const struct known *k, const uint8_t *block, uint8_t out[BLOCK_HASH_SIZE]);

/* The volumes from now on. What is known of one of the same kind and name stays, as far as its size allows. */
int known_set_volumes(struct known *k, const struct store_volume *v, size_t n, struct err *e);
size_t known_volumes(const struct known *k);
const struct store_volume *known_volume(const struct known *k, uint32_t v);
uint64_t known_blocks(const struct known *k, uint32_t v);
/* RAM of which the peer has [0, *blocks) and was not asked yet: known_fill all of them before known_get. */
bool known_wants_fill(const struct known *k, uint32_t v, uint64_t *blocks);

/* out is set for KNOWN_HASH. */
enum known_state known_get(const struct known *k, uint32_t v, uint64_t block, uint8_t out[BLOCK_HASH_SIZE]);
/* It was sent. */
void known_put(struct known *k, uint32_t v, uint64_t block, const uint8_t hash[BLOCK_HASH_SIZE]);
/* The peer said what it has. */
void known_fill(struct known *k, uint32_t v, uint64_t first, uint64_t count, const uint8_t *hashes);
/* Has the peer the file as it is here, from this session? If not, it will: it must be sent. */
bool known_file(struct known *k, const char *name, const void *data, size_t len);
/* What was sent is committed: the peer's answers include it from now on. */
void known_committed(struct known *k);

#endif
