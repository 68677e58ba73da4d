/*
 * mix.h - reproducible contents: what a page, record or sector must hold follows from its number and version, so that the
 * guest can check its own memory and disk without keeping a second copy.
 */
#ifndef GUEST_MIX_H
#define GUEST_MIX_H

#include <stddef.h>
#include <stdint.h>

#define GUEST_PAGE 4096

/* splitmix64: the next number of the sequence. */
static inline uint64_t mix_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* A start for the sequence of item `number` in its `version`. */
static inline uint64_t mix_seed(uint64_t number, uint64_t version)
{
	uint64_t state = number * 0xd1342543de82ef95u + version;

	return mix_next(&state);
}

/* Incompressible contents; n is a multiple of 8. */
void mix_fill(void *out, size_t n, uint64_t seed);
/* Does it hold what mix_fill made? */
int mix_holds(const void *data, size_t n, uint64_t seed);
/* Detects change; n is a multiple of 8. */
uint64_t mix_hash(const void *data, size_t n);
/* Like a row of a business database: field names and words, about 2.5 times compressible. Exactly n characters. */
void mix_record(char *out, size_t n, uint64_t number, uint64_t version);

#endif
