#include "transport/patch.h"

#include "transport/codec.h"

#include <stdbool.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define CHUNK 64u

/* Bit i: byte i of the 64 differs. */
static inline uint64_t differing(const uint8_t *a, const uint8_t *b)
{
#if defined(__SSE2__)
	uint64_t equal = 0;
	for (unsigned i = 0; i < 4; i++) {
		__m128i x = _mm_loadu_si128((const __m128i *)(const void *)(a + 16 * i));
		__m128i y = _mm_loadu_si128((const __m128i *)(const void *)(b + 16 * i));
		equal |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(x, y)) << (16 * i);
	}
	return ~equal;
#else
	uint64_t mask = 0;
	for (unsigned i = 0; i < 8; i++) {
		uint64_t x, y;
		memcpy(&x, a + 8 * i, 8);
		memcpy(&y, b + 8 * i, 8);
		if (x == y)
			continue;
		for (unsigned k = 0; k < 8; k++)
			mask |= (uint64_t)(a[8 * i + k] != b[8 * i + k]) << (8 * i + k);
	}
	return mask;
#endif
}

/* Adds [at, end), or lengthens the last run when the gap is small. */
static inline bool add_run(struct patch *p, unsigned at, unsigned end)
{
	if (p->runs > 0) {
		unsigned last_end = (unsigned)p->run[p->runs - 1].at + p->run[p->runs - 1].len;
		if (at - last_end <= PATCH_RUN_COST) {
			p->run[p->runs - 1].len = (uint16_t)(end - p->run[p->runs - 1].at);
			p->bytes += end - last_end;
			return p->bytes + p->runs * PATCH_RUN_COST <= PATCH_MAX_COST;
		}
	}
	if (p->bytes + (end - at) + (p->runs + 1) * PATCH_RUN_COST > PATCH_MAX_COST)
		return false;
	p->run[p->runs].at = (uint16_t)at;
	p->run[p->runs].len = (uint16_t)(end - at);
	p->runs++;
	p->bytes += end - at;
	return true;
}

enum patch_kind patch_diff(struct patch *p, const uint8_t *old, const uint8_t *new_page)
{
	p->runs = 0;
	p->bytes = 0;
	for (unsigned base = 0; base < CODEC_PAGE_SIZE; base += CHUNK) {
		uint64_t mask = differing(old + base, new_page + base);
		unsigned at = base;
		while (mask) {
			unsigned skip = (unsigned)__builtin_ctzll(mask);
			mask >>= skip;
			at += skip;
			unsigned len = mask == UINT64_MAX ? 64 : (unsigned)__builtin_ctzll(~mask);
			if (!add_run(p, at, at + len))
				return PATCH_LARGE;
			at += len;
			mask = len == 64 ? 0 : mask >> len;
		}
	}
	return p->runs ? PATCH_SMALL : PATCH_EQUAL;
}
