/*
 * records.h - the byte stream of a replication session: what batches reproduce, in order. PROTOCOL.md section "Replication" specifies it.
 *
 *	be64 addr|028 + 4096 bytes             a block of the current volume
 *	be64 addr|022 + 1 zero byte            a block of zeros
 *	be64 len<<12|800|kind + len bytes      a control record
 *
 * A transaction is BEGIN, then VOLUMES (if there are new ones), then the rest in any order, then COMMIT or ABORT. The reader takes what comes
 * from a peer: everything is checked here, so that a sink is only told what can be.
 */
#ifndef VMFERRY_REPLICATOR_RECORDS_H
#define VMFERRY_REPLICATOR_RECORDS_H

#include "base/buf.h"
#include "base/err.h"
#include "snapshot/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RECORDS_PAGE 0x028u /* QEMU's PAGE | CONTINUE */
#define RECORDS_ZERO 0x022u /* ZERO | CONTINUE */
#define RECORDS_CONTROL 0x800u
#define RECORDS_MAX_JSON 65536u
#define RECORDS_ID_MAX 64u
/* A volume's blocks, so that volume and block together fit in a batch's page number, and addresses in 52 bits. */
#define RECORDS_MAX_BLOCKS (UINT64_C(1) << 40)

enum records_kind {
	RECORDS_VOLUMES = 1, /* JSON {"volumes":[{"kind":"ram"|"disk","name","size"}]}: all there are, from here on */
	RECORDS_VOLUME = 2,  /* be32 index: the current volume from here on */
	RECORDS_FILE = 3,    /* u8 length of the name, name, contents */
	RECORDS_ZEROS = 4,   /* be64 first block, be64 count: of the current volume */
	RECORDS_BEGIN = 5,   /* JSON {"id","kind":"point"|"part"} */
	RECORDS_COMMIT = 6,  /* JSON {"id","blocks","zeros","files","hash"}: what came since BEGIN; hash: XXH3-64 of its bytes, BEGIN included */
	RECORDS_ABORT = 7,   /* empty: it shall not have been */
};

/* What a transaction has held so far. */
struct records_counts {
	uint64_t blocks, zeros, files;
};

/* ---- writing: appended to a buffer ---- */
void records_put_control(struct buf *out, enum records_kind kind, const void *data, size_t len);
void records_put_json(struct buf *out, enum records_kind kind, const json_t *o);
void records_put_volumes(struct buf *out, const struct store_volume *v, size_t n);
void records_put_volume(struct buf *out, uint32_t index);
void records_put_zeros(struct buf *out, uint64_t first, uint64_t count);
void records_put_begin(struct buf *out, const char *id, bool point);
void records_put_commit(struct buf *out, const char *id, const struct records_counts *c, uint64_t hash);
/* The header of a FILE record and the name; the `len` bytes of contents follow it. */
void records_put_file_head(struct buf *out, const char *name, size_t len);

/* ---- reading ---- */
struct records_sink {
	int (*begin)(void *ctx, const char *id, bool point, struct err *e);
	int (*volumes)(void *ctx, const struct store_volume *v, size_t n, struct err *e);
	int (*block)(void *ctx, uint32_t volume, uint64_t block, const uint8_t *data /* NULL: zeros */, struct err *e);
	int (*zeros)(void *ctx, uint32_t volume, uint64_t first, uint64_t count, struct err *e);
	int (*file)(void *ctx, const char *name, const void *data, size_t len, struct err *e);
	/* Counts and hash were right. */
	int (*commit)(void *ctx, const char *id, bool point, struct err *e);
	int (*abort)(void *ctx, struct err *e);
	void *ctx;
};

struct records;
struct records *records_new(const struct records_sink *sink);
void records_free(struct records *r);
/* Any stretch of the stream. ERR_PROTOCOL, ERR_CORRUPT (hash), or the sink's error; then the reader is only good for records_free. */
int records_feed(struct records *r, const uint8_t *p, size_t n, struct err *e);
/* Inside a transaction, or of a record? */
bool records_idle(const struct records *r);

/* Volumes are named as QEMU does: 1 to 255 printable ASCII characters. */
bool records_volume_name_ok(const char *name);
/* Names of files come from a peer and may end up in paths: 1 to 255 of [A-Za-z0-9._/-@:+,], no "..", no leading '/'. */
bool records_name_ok(const char *name, size_t len);
/* Ids of points: 1 to 64 of [A-Za-z0-9._-]. */
bool records_id_ok(const char *id);

#endif
