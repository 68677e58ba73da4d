/*
 * buf.h - a growable byte buffer with big-endian writers. Growth aborts when memory is out: callers cap sizes first.
 */
#ifndef VMFERRY_BASE_BUF_H
#define VMFERRY_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *data;
	size_t len;
	size_t cap;
};

/* clang-format off */
#define BUF_INIT { 0 }
/* clang-format on */

void buf_fini(struct buf *b);
#define BUF_AUTO __attribute__((cleanup(buf_fini)))
void buf_reset(struct buf *b); /* len = 0, memory kept */
/* Room for n more bytes; returns where they go. Does not change len. */
uint8_t *buf_reserve(struct buf *b, size_t n);
void buf_append(struct buf *b, const void *p, size_t n);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* keeps a NUL behind len */
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_be16(struct buf *b, uint16_t v);
void buf_put_be32(struct buf *b, uint32_t v);
void buf_put_be64(struct buf *b, uint64_t v);
/* Unsigned LEB128, at most 10 bytes; zigzag for signed. */
void buf_put_uleb(struct buf *b, uint64_t v);
void buf_put_sleb(struct buf *b, int64_t v);

#endif
