/*
 * qemu_stream.h - splits a QEMU migration stream into pages and everything else. Grammar in QEMU-STREAM.md.
 *
 * The parser never changes, drops or reorders a byte: the calls it makes, put together, are the input. On the
 * first thing it does not know, and after the RAM has ended, everything is literal for good ("pass-through").
 */
#ifndef VMFERRY_SNAPSHOT_QEMU_STREAM_H
#define VMFERRY_SNAPSHOT_QEMU_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct qemu_stream;

struct qemu_stream_sink {
	/* Return 0; -1 stops the feed at this unit, which counts as not consumed. */
	int (*literal)(void *ctx, const uint8_t *p, size_t n);
	/* A 4096-byte page; its header is part of the call when `cont`, else it went before as a literal. block
	 * counts from 0 in order of the RAM section's list; addr is the offset in the block. */
	int (*page)(void *ctx, uint32_t block, uint64_t addr, bool cont, const uint8_t *data);
	/* A zero page with fill byte 0 and CONTINUE: 9 bytes. Others come as literals. */
	int (*zero)(void *ctx, uint32_t block, uint64_t addr);
	/* The RAM has ended (SECTION_END of ram): device state follows, the guest is stopped. Once at most. May be
	 * NULL. */
	void (*ram_end)(void *ctx);
	void *ctx;
};

struct qemu_stream *qemu_stream_new(const struct qemu_stream_sink *sink);
void qemu_stream_free(struct qemu_stream *s);
/* Consumes whole units from the front of p; returns how many bytes. What is left (an incomplete unit of at most
 * 4400 bytes, or what the sink refused) must come again at the front of the next call. At the end of the
 * connection the caller sends what is left as a literal. */
size_t qemu_stream_feed(struct qemu_stream *s, const uint8_t *p, size_t n);
/* True once everything is literal; *why says what was met, for one log line ("end of RAM", "unknown command 12",
 * ...). */
bool qemu_stream_passthrough(const struct qemu_stream *s, const char **why);
/* As given by the stream, 0 until the RAM section began. */
uint64_t qemu_stream_ram_bytes(const struct qemu_stream *s);

#endif
