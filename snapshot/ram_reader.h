/*
 * ram_reader.h - takes a QEMU migration stream apart as it comes over a descriptor: head, RAM, and where device state
 * begins. Also the big-endian messages that COLO puts between. Grammar in QEMU-STREAM.md.
 *
 * Unlike qemu_stream.h it believes nothing that it does not know: what is not in the grammar, an address outside its
 * block, a length beyond its cap is ERR_CORRUPT, and the reader is good for nothing more. The end of the connection is
 * ERR_PEER, a deadline that passes ERR_SYS with ETIMEDOUT. One thread; to free it from a read that blocks, shut the
 * socket down.
 */
#ifndef VMFERRY_SNAPSHOT_RAM_READER_H
#define VMFERRY_SNAPSHOT_RAM_READER_H

#include "base/buf.h"
#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define RAM_READER_MAX_BLOCKS 64u
#define RAM_READER_PAGE 4096u

struct ram_block {
	char name[256]; /* QEMU's idstr */
	uint64_t bytes; /* used length, a multiple of 4096 */
};

/* What the RAM holds; -1 ends the reading with that error. Pages count from the block's beginning. */
struct ram_reader_sink {
	int (*blocks)(void *ctx, const struct ram_block *b, size_t n, struct err *e); /* may be NULL */
	int (*page)(void *ctx, uint32_t block, uint64_t page, const uint8_t *data, struct err *e);
	int (*zero)(void *ctx, uint32_t block, uint64_t page, struct err *e);
	void (*end)(void *ctx); /* the last section of the RAM begins: QEMU has stopped the VM for it. May be NULL */
	void *ctx;
};

enum ram_reader_stop {
	RAM_READER_DEVICE, /* device state is next: nothing of it has been taken */
	RAM_READER_END,    /* the end mark has been taken */
};

struct ram_reader;
/* fd is borrowed. */
struct ram_reader *ram_reader_new(int fd);
/* Reads from memory, borrowed: its end is the end of the connection. */
struct ram_reader *ram_reader_new_memory(const void *p, size_t n);
void ram_reader_free(struct ram_reader *r);

/* Monotonic; holds for all reads until set again. INT64_MAX: none. */
void ram_reader_deadline(struct ram_reader *r, int64_t deadline_ns);
/* No read may wait for longer than that; 0: any time. */
void ram_reader_idle(struct ram_reader *r, int64_t idle_ns);

/* Magic, version and configuration, which ram_reader_header then returns as they came. */
int ram_reader_head(struct ram_reader *r, struct err *e);
const uint8_t *ram_reader_header(const struct ram_reader *r, size_t *len);
/* As the last RAM section listed them. */
const struct ram_block *ram_reader_blocks(const struct ram_reader *r, size_t *n);
/* Commands and RAM sections, until something else begins. */
int ram_reader_sections(struct ram_reader *r, const struct ram_reader_sink *sink, enum ram_reader_stop *stop,
			struct err *e);

int ram_reader_be32(struct ram_reader *r, uint32_t *out, struct err *e);
int ram_reader_be64(struct ram_reader *r, uint64_t *out, struct err *e);
/* Appends exactly n bytes; the caller has capped n. */
int ram_reader_take(struct ram_reader *r, size_t n, struct buf *out, struct err *e);
/* Appends all until the end of the connection; more than max is ERR_CORRUPT. */
int ram_reader_rest(struct ram_reader *r, size_t max, struct buf *out, struct err *e);
/* Throws away what has come and what comes within wait_ns; *got says how much that was. */
int ram_reader_discard(struct ram_reader *r, int64_t wait_ns, size_t *got, struct err *e);

#endif
