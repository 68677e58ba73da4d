/*
 * store.h - the replica of one VM on this host's disk: a write-ahead journal over head images. FORMAT.md specifies every byte.
 *
 * A transaction is staged in the journal (store_txn_*), and store_commit makes it durable: that is the commit. Applying it to the head images
 * (RAM, one per disk, files) follows in a thread of the store's own; the blocks it overwrites are kept as before-images for as long as an older
 * point needs them. What is applied becomes durable now and then, in a checkpoint: until then the journal has it. So opening the latest point does not depend on history, and any retained point can be opened as an overlay.
 *
 * A transaction is either a point (a VM can be started from it) or a part (progress of a first or a healing copy: no point of its own, and the
 * points before it stay what they were). Blocks are 4 KiB throughout: RAM pages and disk blocks alike.
 *
 * One process at a time (a lock file says so). All calls may come from any thread unless said otherwise. Only one transaction at a time.
 * What fails leaves the last committed points good; after a failed write or fsync the store refuses further transactions (poisoned)
 * until it is opened again. A full disk, or a file that cannot be opened just now, is waited for: the applier tries again.
 */
#ifndef VMFERRY_SNAPSHOT_STORE_H
#define VMFERRY_SNAPSHOT_STORE_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STORE_BLOCK 4096u
#define STORE_MAX_VOLUMES 64u
#define STORE_NAME_MAX 255u
#define STORE_MAX_FILE (64u * 1024u * 1024u)

enum store_volume_kind { STORE_RAM = 1, STORE_DISK = 2 };

/* RAM blocks and disks alike: so many bytes, addressed by 4 KiB block. */
struct store_volume {
	enum store_volume_kind kind;
	char name[STORE_NAME_MAX + 1]; /* RAM: QEMU's idstr ("pc.ram"); disk: target ("vda") */
	uint64_t size_bytes;           /* a multiple of 4096 for RAM; a disk's last block is padded with zeros */
};

struct store_opts {
	uint64_t max_bytes;     /* of the folder; 0: no limit. Committing past it is ERR_REFUSED */
	uint64_t segment_bytes; /* journal segments; 0: 64 MiB */
};

struct store;
/* Makes a new, empty replica in `dir` (which must not exist or be empty), durably. vm: JSON object kept as is ("uuid", "name", ...). */
struct store *store_create(const char *dir, const struct store_opts *opts, const json_t *vm, struct err *e);
/* Opens and recovers: journal up to the first record that does not verify; committed transactions that were not applied are applied, or may not have been.
 * A store of format 1 becomes one of today's, now or once there is room for that. */
struct store *store_open(const char *dir, const struct store_opts *opts, struct err *e);
/* Of the journal, what did not verify when the store was opened, and was cut off: the rest of a transaction that was not committed, if the host
 * crashed; otherwise damage. */
uint64_t store_dropped_bytes(const struct store *s);
/* Among them was a COMMIT that verifies, behind something that does not: damage has cost points that were there. The segments are kept as
 * journal/NUMBER.wal.bad. */
bool store_was_damaged(const struct store *s);
/* Finishes applying what is committed, stops the thread, unlocks. NULL is fine. */
void store_close(struct store *s);
/* Removes the folder; the store must not be open. */
int store_destroy(const char *dir, struct err *e);

const json_t *store_vm(const struct store *s); /* borrowed */
/* The volumes as of the latest committed transaction (or as of the one point). Copies at most max; returns how many there are. */
size_t store_volumes(struct store *s, struct store_volume *out, size_t max);

/* ---- writing: one transaction at a time ---- */
enum store_txn_kind { STORE_TXN_PART, STORE_TXN_POINT };
struct store_txn;
struct store_txn *store_begin(struct store *s, enum store_txn_kind kind, struct err *e);
/* The complete list of volumes from this transaction on. Missing: as before. A volume that is new reads as zeros; one that changed its size keeps
 * what fits; one that is no longer listed ends. First of all calls of a transaction, if made. */
int store_txn_volumes(struct store_txn *t, const struct store_volume *v, size_t n, struct err *e);
/* One block of volume `v` (index in the list in force). data == NULL: zeros. A block may come several times: the last counts. */
int store_txn_block(struct store_txn *t, uint32_t v, uint64_t block, const uint8_t *data, struct err *e);
/* The same for n consecutive blocks of zeros: one record, however many. */
int store_txn_zeros(struct store_txn *t, uint32_t v, uint64_t block, uint64_t n, struct err *e);
/* A small file that belongs to the point: "device" (QEMU's device state), "header" (head of the stream), "xml", "nvram", ... Replaces the one of that name. */
int store_txn_file(struct store_txn *t, const char *name, const void *data, size_t len, struct err *e);
/* Durable when it returns 0. meta: JSON object kept with the point ("id", "instant_ns", "kind" ...; borrowed). *seq (may be NULL): the point's
 * number, rising. Frees the transaction in every case. */
int store_commit(struct store_txn *t, const json_t *meta, uint64_t *seq, struct err *e);
/* One that was begun as a point will be committed as a part: it grew too long, and goes on in the next. */
void store_txn_make_part(struct store_txn *t);
/* As if it had never been. NULL is fine. */
void store_abort(struct store_txn *t);
/* Waits until everything committed is applied to the heads, and makes that durable: opening the store again does not write to them. What waits for space, or
 * for a file that cannot be opened just now, is tried at once; if that fails again, so does this (err_is_full, err_passes), and may be called again. */
int store_settle(struct store *s, int64_t deadline_ns, struct err *e);

/* ---- points ---- */
struct store_point {
	uint64_t seq;
	int64_t committed_ns; /* wall clock */
	uint64_t bytes;       /* of the transaction in the journal */
	uint64_t undo_bytes; /* before-images from this point to the next one: what the oldest point alone keeps on disk */
	json_t *meta;        /* borrowed until store_points_free */
};
/* Oldest first. */
int store_points(struct store *s, struct store_point **out, size_t *n, struct err *e);
void store_points_free(struct store_point *p, size_t n);
/* The latest alone, with its undo_bytes 0, and how many there are; false if there is none. out->meta: the caller's to decref. */
bool store_latest(struct store *s, struct store_point *out, size_t *n);
/* Gives up the points for which keep() is false; the latest is always kept. Frees their before-images; neighbours that no point separates any more are
 * merged. A point that is not applied yet comes back if the process ends before it is: prune again. Open views are not touched. */
int store_prune(struct store *s, bool (*keep)(void *ctx, const struct store_point *p), void *ctx, struct err *e);

/* ---- reading a point, while writing goes on ---- */
struct store_view;
/* seq 0: the latest point. The view stays what it is until it is closed, whatever is committed meanwhile. */
struct store_view *store_view_open(struct store *s, uint64_t seq, struct err *e);
void store_view_close(struct store_view *v);
uint64_t store_view_seq(const struct store_view *v);
const json_t *store_view_meta(const struct store_view *v);
size_t store_view_volumes(const struct store_view *v, struct store_volume *out, size_t max);
/* n consecutive blocks into out (n * 4096 bytes). zero (may be NULL): n flags, true where a block is all zeros. */
int store_view_read(struct store_view *v, uint32_t volume, uint64_t block, size_t n, uint8_t *out, bool *zero,
		    struct err *e);
/* A whole file; NUL-terminated heap block, the caller frees it. ERR_CONFIG if there is none of that name. */
char *store_view_file(struct store_view *v, const char *name, size_t *len, struct err *e);

/* The newest contents, point or part: what the next transaction is written over. Same calls as a view; reads as of the call. */
struct store_view *store_view_newest(struct store *s, struct err *e);

/* ---- promotion: the latest point's disk as a file that a VM can use directly ---- */
/* The head image of a disk volume, raw, when the view is of the newest contents and all is applied: path, to be freed. NULL with ERR_REFUSED when
 * the view is not (older point, or a part came after): its contents must then be read through the view. */
char *store_view_head_path(struct store_view *v, uint32_t volume, struct err *e);

/* ---- looking ---- */
struct store_usage {
	uint64_t journal_bytes, head_bytes, undo_bytes; /* allocated on disk */
	uint64_t pending_txns;                          /* committed, not applied yet */
};
int store_usage(struct store *s, struct store_usage *out, struct err *e);
/* Reads everything, checks every checksum. progress(ctx, done, total) may be NULL; returning false stops (ERR_CANCELLED). ERR_CORRUPT says what and where. Of a
 * transaction that waits for space to go on into the heads, what the journal has is checked, and not what it may have left in them. */
int store_verify(struct store *s, bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, struct err *e);

#endif
