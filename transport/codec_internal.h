/*
 * codec_internal.h - what batch.c, codec.c and decoded.c share, and nobody else includes.
 *
 * An encoded batch: a header of 40 bytes, then the sections ops, plain, delta as stored. All integers big-endian.
 *
 *	0  u8  format, 1
 *	1  u8  methods: bits 0-1 ops, 2-3 plain, 4-5 delta: 0 stored, 1 zstd; bits 6-7 zero
 *	2  u16 zero
 *	4  u32 raw length: of the bytes reproduced
 *	8  u32 ops length, 12 u32 as stored
 *	16 u32 plain length, 20 u32 as stored
 *	24 u32 delta length, 28 u32 as stored
 *	32 u64 XXH3-64 (seed 0) of the bytes reproduced
 */
#ifndef VMFERRY_TRANSPORT_CODEC_INTERNAL_H
#define VMFERRY_TRANSPORT_CODEC_INTERNAL_H

#include "transport/codec.h"
#include "transport/ops.h"
#include "transport/patch.h"

#include <string.h>

#define BATCH_FORMAT 1
#define BATCH_HEADER_SIZE 40
#define METHOD_STORED 0u
#define METHOD_ZSTD 1u
/* Operations may be a little longer than what they stand for; more than this a batch does not gather. */
#define BATCH_MAX_EXCESS 12288u

enum section { SECTION_OPS, SECTION_PLAIN, SECTION_DELTA, SECTION_COUNT };

/* QEMU's flags in a page record's address. */
#define RECORD_ZERO 0x02u
#define RECORD_PAGE 0x08u
#define RECORD_CONTINUE 0x20u
#define PAGE_HEADER_SIZE 8u
#define ZERO_RECORD_SIZE 9u
#define PAGE_RECORD_SIZE (PAGE_HEADER_SIZE + CODEC_PAGE_SIZE)

static inline void put_record_header(uint8_t *p, uint64_t index, unsigned flags)
{
	uint64_t be = __builtin_bswap64(index << 12 | flags);
	memcpy(p, &be, sizeof(be));
}

struct extent {
	uint32_t at;
	uint32_t len;
};

/* The stream's bytes as they came, and how to say them shorter. What is plain is not copied apart: extents of raw. */
struct batch {
	uint8_t *raw; /* CODEC_MAX_RAW */
	size_t raw_len;
	struct buf ops;
	struct ops_writer writer;
	struct buf delta;
	struct extent *plain;
	size_t n_plain, cap_plain;
	size_t plain_len;
	struct codec_stats counts; /* pages and literal bytes */
	bool uses_slots;           /* an operation reads or fills one */
	struct patch patch;        /* scratch */
};

struct decoded {
	struct {
		const uint8_t *p; /* in unpacked, or what came, if it was stored */
		size_t len;
	} section[SECTION_COUNT];
	struct buf unpacked[SECTION_COUNT];
	size_t raw_len;
	uint64_t hash;
	bool verbatim; /* LITERAL is all there is, and the hash was found right */
};

uint64_t codec_hash(const void *p, size_t n);
/* Are these raw_len bytes the ones that were sent? ERR_CORRUPT */
int codec_check(const struct decoded *d, const uint8_t *raw, struct err *e);

#endif
