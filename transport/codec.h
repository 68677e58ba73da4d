/*
 * codec.h - batches: a stretch of a byte stream, with the guest pages in it recognised, encoded into fewer bytes
 * and back to exactly the same ones. Pure functions; the bytes are specified in PROTOCOL.md section "Batches".
 *
 * A batch is a list of operations that reproduce the stream (a literal run of bytes; a run of pages with QEMU's
 * CONTINUE headers; a run of zero pages; the data of one page whose header was literal), the plain pages, and the
 * bytes that changed in pages of which the peer already has a version ("delta": cheaper and smaller than their
 * XOR, see patch.h). Operations, plain and delta bytes are compressed apart, whole. A hash of the reproduced bytes
 * closes the batch.
 *
 * The old versions live in slots (page_cache.h). The encoding side alone decides what goes into which slot; the
 * decoding side is an array that does as told. So building and emitting happen in order, one thread each; encoding
 * and decoding are independent of order and run in a pool.
 */
#ifndef VMFERRY_TRANSPORT_CODEC_H
#define VMFERRY_TRANSPORT_CODEC_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CODEC_PAGE_SIZE 4096
/* The bytes of the stream that one batch may stand for. */
#define CODEC_MAX_RAW (1024u * 1024u + 8192u)
/* What an encoded batch can reach at worst. */
#define CODEC_MAX_ENCODED (CODEC_MAX_RAW + 16384u)

/* How hard to try; chosen by adapt.h. CODEC_RAW stores. Levels are zstd's, -5..9. */
#define CODEC_RAW INT32_MIN
struct codec_params {
	int plain_level;
	int delta_level;
};

struct codec_stats {
	uint64_t raw_bytes, encoded_bytes;
	uint64_t zero_pages, same_pages, delta_pages, plain_pages, literal_bytes;
	uint64_t delta_in_bytes, delta_out_bytes, plain_in_bytes, plain_out_bytes;
};

struct page_cache; /* encoding side, page_cache.h */
struct page_slots; /* decoding side, page_cache.h */

/* ---- building, in stream order, one thread ---- */
struct batch; /* holds at most CODEC_MAX_RAW bytes of stream */
struct batch *batch_new(void);
void batch_free(struct batch *b);
void batch_reset(struct batch *b);
size_t batch_raw_bytes(const struct batch *b);
size_t batch_room(const struct batch *b); /* raw bytes that still fit */
/* Where the next byte of the stream will be: CODEC_MAX_RAW - batch_raw_bytes(b) bytes that the caller may fill
 * (receive into). Bytes that are then added from the very place are not copied. */
uint8_t *batch_tail(struct batch *b);
/* The caller has checked batch_room for each of these. */
void batch_literal(struct batch *b, const void *p, size_t n);
/* A RAM page. page_no identifies it in the guest (block << 40 | offset / 4096); addr is the offset in its block as
 * QEMU's header carries it. with_header: the 8-byte header `addr | PAGE(8) | CONTINUE(0x20)` belongs to the
 * operation (raw 4104 bytes), else it went before as a literal (raw 4096 bytes). The cache may be NULL: then the
 * page is plain. Otherwise old versions are looked up and the new one stored, here and now. */
void batch_page(struct batch *b, uint64_t page_no, uint64_t addr, bool with_header, const uint8_t *data,
		struct page_cache *cache);
/* `addr | ZERO(2) | CONTINUE(0x20)`, then one 0 byte: raw 9 bytes. */
void batch_zero(struct batch *b, uint64_t page_no, uint64_t addr, struct page_cache *cache);

/* ---- encoding, any thread, order does not matter; a struct codec per thread keeps compressor state ---- */
struct codec;
struct codec *codec_new(void);
void codec_free(struct codec *c);
/* Appends the encoded batch to out. Cannot fail: worst case is stored. Leaves the batch as it was. */
void codec_encode(struct codec *c, const struct batch *b, const struct codec_params *params, struct buf *out,
		  struct codec_stats *stats /* added to; may be NULL */);

/* ---- decoding, any thread ---- */
struct decoded;
struct decoded *decoded_new(void);
void decoded_free(struct decoded *d);
/* Everything that does not need slots: parse, cap, decompress. ERR_CORRUPT or ERR_PROTOCOL. What was stored is not copied: p must
 * stay until the batch is emitted. */
int codec_decode(struct codec *c, const uint8_t *p, size_t n, struct decoded *d, struct err *e);
/* The bytes of a batch that has no pages, which then need not be emitted; NULL if it has. They belong to d, or to p of codec_decode. */
const uint8_t *decoded_verbatim(const struct decoded *d, size_t *len);
/* ---- in order, one thread: apply slots, reproduce the bytes, check the hash. Replaces out's contents. ---- */
int decoded_emit(const struct decoded *d, struct page_slots *slots, struct buf *out, struct err *e);

#endif
