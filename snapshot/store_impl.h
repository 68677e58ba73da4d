/*
 * store_impl.h - what the parts of the replica store share. FORMAT.md has the bytes; store.h the contract.
 *
 *	store_blob      an open file, counted: what is unlinked stays readable for those who hold it
 *	store_extents   sorted, disjoint runs of blocks and where they are: an overlay
 *	store_journal   segments and records, writing
 *	store_recover   segments and records, reading
 *	store_heads     head images and their checksums
 *	store_undo      before-images
 *	store_meta      vm.json, and how volumes, files and points are said in JSON
 *	store_catalogue the catalogue, and the checkpoint that writes to it
 *	store_rollback  heads that are ahead of what is left of the journal
 *	store_txn, store_apply, store_points, store_view, store_verify: the calls of store.h
 *
 * Locks, in this order: pruning, applying (held while a transaction goes into the heads), saving (the catalogue), lock (all lists), reading
 * (readers share it; who moves what a reader could look up holds it alone).
 */
#ifndef VMFERRY_SNAPSHOT_STORE_IMPL_H
#define VMFERRY_SNAPSHOT_STORE_IMPL_H

#include "base/buf.h"
#include "base/thread.h"
#include "snapshot/store.h"

#include <pthread.h>
#include <stdatomic.h>

#define STORE_FORMAT 2u
#define STORE_FORMAT_1 1u                   /* had its catalogue in a file that was written whole each time */
#define STORE_PART_FORMAT 1u                /* of segments and undo files */
#define STORE_RUN 256u                      /* blocks in a record of the journal, at most */
#define STORE_MAX_META (1024u * 1024u)      /* a point's meta, as JSON text */
#define STORE_MAX_BYTES (UINT64_C(1) << 46) /* of a volume: 64 TiB */
#define STORE_MAX_FILES 256u                /* of a point */
#define STORE_PENDING_TXNS 4u               /* committed and not applied: more make the writer wait */
#define STORE_PENDING_BYTES (UINT64_C(1) << 30)
#define STORE_UNSAVED_TXNS 64u /* applied since the last checkpoint: so many, or so many bytes, and there is another */
#define STORE_UNSAVED_BYTES (UINT64_C(16) << 20)

/* ---- store_blob ---- */
struct store_blob {
	atomic_uint refs;
	int fd;
	char *path;
};
struct store_blob *store_blob_open(const char *path, int flags, struct err *e);
struct store_blob *store_blob_ref(struct store_blob *b); /* NULL is fine */
void store_blob_unref(struct store_blob *b);             /* NULL is fine */
int store_blob_read(const struct store_blob *b, uint64_t at, void *out, size_t n, struct err *e);
/* As store_blob_read, but what lies beyond the end of the file is zeros. */
int store_blob_read_sparse(const struct store_blob *b, uint64_t at, void *out, size_t n, struct err *e);
int store_blob_write(const struct store_blob *b, uint64_t at, const void *p, size_t n, struct err *e);
int store_blob_sync(const struct store_blob *b, bool data_only, struct err *e);
int store_blob_truncate(const struct store_blob *b, uint64_t len, struct err *e);
/* Makes the range zeros: a hole where the file system can. */
int store_blob_punch(const struct store_blob *b, uint64_t at, uint64_t n, struct err *e);
uint64_t store_blob_length(const struct store_blob *b);
/* Reads ahead where one read follows the other closely, as in a journal. One thread's. */
struct store_reader {
	const struct store_blob *blob; /* borrowed */
	uint64_t at, len;              /* what buf holds */
	uint8_t *buf;
};
void store_reader_fini(struct store_reader *r);
int store_reader_read(struct store_reader *r, const struct store_blob *b, uint64_t at, void *out, size_t n,
		      struct err *e);

/* ---- checksums ---- */
/* Of a block's contents at its place; never 0: 0 stands for a block of zeros. */
uint64_t store_sum_block(uint64_t salt, uint32_t volume, uint64_t block, const uint8_t *data);
bool store_is_zero(const uint8_t *data, size_t n);

/* ---- store_extents ---- */
struct store_extent {
	uint64_t block, count;
	uint32_t volume;         /* its id, not its index */
	struct store_blob *blob; /* NULL: zeros. Borrowed: the layer holds it */
	uint64_t data_at;        /* offset in the file of the first block's contents */
	uint64_t sums_at;        /* and of its checksum */
};
struct store_extents {
	struct store_extent *v;
	size_t n, cap;
};
void store_extents_fini(struct store_extents *x);
void store_extents_add(struct store_extents *x, const struct store_extent *one);
/* In the order of staging: turns it into sorted and disjoint, later ones win. */
void store_extents_resolve(struct store_extents *x);
/* out = top where it is, else bottom. Both sorted and disjoint; out is empty at first. */
void store_extents_overlay(const struct store_extents *top, const struct store_extents *bottom,
			   struct store_extents *out);
/* The extent that has the block, or NULL; *run is lowered to how many blocks from there on the answer is good for. */
const struct store_extent *store_extents_find(const struct store_extents *x, uint32_t volume, uint64_t block,
					      uint64_t *run);

/* Extents and the files they lie in. */
struct store_layer {
	atomic_uint refs;
	struct store_extents x;
	struct store_blob **blobs;
	size_t n_blobs;
	uint64_t seq; /* of the transaction (undo: the last one) */
};
struct store_layer *store_layer_new(uint64_t seq);
struct store_layer *store_layer_ref(struct store_layer *l);
void store_layer_unref(struct store_layer *l);
void store_layer_hold(struct store_layer *l, struct store_blob *b); /* once per file */

/* ---- volumes and files of a transaction: counted, unchanging but for the files' blobs ---- */
struct store_volset_item {
	uint32_t id;
	struct store_volume v;
};
struct store_volset {
	atomic_uint refs;
	size_t n;
	struct store_volset_item v[STORE_MAX_VOLUMES];
};
struct store_volset *store_volset_new(void);
struct store_volset *store_volset_ref(struct store_volset *s);
void store_volset_unref(struct store_volset *s);
const struct store_volset_item *store_volset_by_id(const struct store_volset *s, uint32_t id);
static inline uint64_t store_blocks_of(uint64_t size_bytes)
{
	return (size_bytes + STORE_BLOCK - 1) / STORE_BLOCK;
}

struct store_file {
	char *name;
	uint64_t seq, offset, len; /* in files/SEQ */
	uint64_t sum;
	struct store_blob *blob; /* the journal's segment as long as it is not applied; under store.lock */
	uint64_t blob_at;
};
struct store_fileset {
	atomic_uint refs;
	size_t n;
	struct store_file *v;
};
struct store_fileset *store_fileset_copy(const struct store_fileset *from); /* NULL: empty */
struct store_fileset *store_fileset_ref(struct store_fileset *s);
void store_fileset_unref(struct store_fileset *s);
struct store_file *store_fileset_find(const struct store_fileset *s, const char *name);
/* The transaction's files are out of the journal. Under lock. */
void store_fileset_let_go(struct store_fileset *s, uint64_t seq);
/* Adds or replaces; takes name. */
void store_fileset_put(struct store_fileset *s, struct store_file f);
uint64_t store_sum_file(uint64_t salt, const void *data, size_t len);

/* ---- what is committed ---- */
struct store_pos {
	uint64_t segment, offset;
};
struct store_entry { /* a retained point */
	uint64_t seq;
	int64_t committed_ns;
	uint64_t bytes;
	json_t *meta;
	struct store_volset *volumes;
	struct store_fileset *files;
	bool dropping; /* store_prune is at it */
	bool listed;   /* in the catalogue on disk */
	bool listing;  /* in what is being written to it, under saving */
};
struct store_pending { /* committed, not applied */
	uint64_t seq;
	enum store_txn_kind kind;
	int64_t committed_ns;
	uint64_t bytes;
	struct store_layer *layer;
	struct store_volset *volumes;
	struct store_fileset *files; /* all in force; those with .seq == seq are this transaction's */
	uint32_t next_volume;
	json_t *meta;
	struct store_pos end; /* where the next record is */
};
void store_pending_free(struct store_pending *p);

/* ---- store_journal: the writing end. One thread at a time. ---- */
enum store_record {
	STORE_REC_BEGIN = 1,
	STORE_REC_VOLUMES = 2,
	STORE_REC_BLOCKS = 3,
	STORE_REC_ZEROS = 4,
	STORE_REC_FILE = 5,
	STORE_REC_COMMIT = 6,
};
#define STORE_REC_OPTIONAL UINT32_C(0x80000000)
#define STORE_REC_HEAD 56u
#define STORE_SEG_HEAD 64u
struct store_rec {
	uint32_t type, length;
	uint64_t txn, a, b;
	uint32_t volume;
	uint64_t payload_sum, head_sum;
};
void store_rec_encode(struct store_rec *r, uint64_t seed, uint8_t out[STORE_REC_HEAD]); /* fills head_sum */
/* False: not a record. */
bool store_rec_decode(struct store_rec *r, uint64_t seed, const uint8_t in[STORE_REC_HEAD]);
uint64_t store_rec_seed(uint64_t segment_salt, uint64_t offset);
uint64_t store_rec_chain(uint64_t chain, uint64_t head_sum);
/* What payload_sum is of: of BLOCKS only the checksums, else all of it. */
uint64_t store_rec_payload_sum(uint64_t seed, const void *p, size_t n);

struct store_segment {
	uint64_t number, salt;
	_Atomic uint64_t len; /* written so far */
	struct store_blob *blob;
};
struct store_journal {
	char *dir;
	uint64_t store_id, segment_bytes;
	pthread_mutex_t *lock; /* the store's; of segs */
	struct store_segment **segs;
	size_t n_segs;
	/* the writer's */
	struct store_segment *cur; /* the last of segs, or NULL: the next record begins one */
	uint64_t next_number;
	uint8_t *buf;
	size_t used;                    /* bytes in buf; they belong at cur->len */
	bool sync_failed;               /* what is on disk is not known any more */
	uint64_t chain, records, bytes; /* of the transaction */
	/* the record of blocks or zeros that is being put together; of blocks, at buf + rec_at */
	bool open;
	struct store_rec rec;
	size_t rec_at;
	uint64_t sums[STORE_RUN];
};
void store_journal_init(struct store_journal *j, const char *dir, uint64_t store_id, uint64_t segment_bytes,
			pthread_mutex_t *lock);
void store_journal_fini(struct store_journal *j);
/* A transaction starts here. */
int store_journal_begin(struct store_journal *j, uint64_t txn, enum store_txn_kind kind, struct store_pos *start,
			struct err *e);
/* Blocks and zeros; extents are added to `into` as records are closed. */
int store_journal_block(struct store_journal *j, uint64_t salt, uint64_t txn, uint32_t volume, uint64_t block,
			const uint8_t *data, struct store_layer *into, struct err *e);
int store_journal_zeros(struct store_journal *j, uint64_t txn, uint32_t volume, uint64_t block, uint64_t n,
			struct store_layer *into, struct err *e);
/* Any other record; payload in two parts. *at (may be NULL): where the payload's second part lies. */
int store_journal_record(struct store_journal *j, struct store_rec r, const void *p1, size_t n1, const void *p2,
			 size_t n2, struct store_layer *into, struct store_blob **blob, uint64_t *at, struct err *e);
/* Blocks and zeros that are still being collected become a record. Before chain, records and bytes are read. */
int store_journal_end_run(struct store_journal *j, struct store_layer *into, struct err *e);
int store_journal_flush(struct store_journal *j, struct err *e);
int store_journal_sync(struct store_journal *j, struct err *e);
struct store_pos store_journal_pos(const struct store_journal *j); /* after a flush */
/* Back to where a transaction started. */
int store_journal_undo(struct store_journal *j, struct store_pos start, struct err *e);
/* Removes the segments before this one. */
int store_journal_drop(struct store_journal *j, uint64_t before, struct err *e);
struct store_segment *store_journal_add(struct store_journal *j, struct store_blob *blob, uint64_t number,
					uint64_t salt, uint64_t len);
char *store_segment_path(const char *journal_dir, uint64_t number);
void store_seg_encode(uint64_t store_id, uint64_t number, uint64_t salt, uint8_t out[STORE_SEG_HEAD]);
uint64_t store_journal_bytes(struct store_journal *j);

/* ---- store_recover ---- */
struct store;
/* Reads from s->redo on; fills s->pending, s->points, s->journal.segs; truncates what is after the last commit. */
int store_recover(struct store *s, struct err *e);
/* ---- store_heads ---- */
struct store_head {
	atomic_uint refs;
	uint32_t id;
	bool unsynced; /* written to since the last checkpoint; under store.lock */
	struct store_blob *data, *sums;
};
struct store_head *store_head_ref(struct store_head *h);
void store_head_unref(struct store_head *h);
/* Under store.lock; borrowed, NULL if there is none. */
struct store_head *store_heads_find(struct store *s, uint32_t id);
/* Opens what is there, or makes it; durable by name then. known: a catalogue lists it, and it was made long ago. */
int store_heads_ensure(struct store *s, uint32_t id, bool known, struct err *e);
/* A stretch of a head's checksums, read and written at once: what is changed comes in order. One thread's. */
#define STORE_SUMS 2048u
struct store_sums {
	struct store_head *h;   /* NULL: none; borrowed */
	uint64_t first;         /* block, a multiple of STORE_SUMS */
	size_t low, high;       /* changed: [low, high) */
	uint64_t v[STORE_SUMS]; /* as in the file */
};
int store_sums_get(struct store_sums *w, struct store_head *h, uint64_t block, size_t n, uint64_t *sums, struct err *e);
/* sums NULL: zeros */
int store_sums_put(struct store_sums *w, struct store_head *h, uint64_t block, size_t n, const uint64_t *sums,
		   struct err *e);
/* Before anyone else looks at them, and before w is used with another length of the head. Nothing is kept. */
int store_sums_flush(struct store_sums *w, struct err *e);
/* The blocks and their checksums, these through w; not verified. */
int store_head_read_before(struct store_head *h, struct store_sums *w, uint64_t block, size_t n, uint8_t *out,
			   uint64_t *sums, struct err *e);
/* The blocks and their checksums; not verified. */
int store_head_read(const struct store_head *h, uint64_t block, size_t n, uint8_t *out, uint64_t *sums, struct err *e);
int store_head_resize(const struct store_head *h, uint64_t size_bytes, struct err *e);
int store_head_write(struct store_head *h, struct store_sums *w, uint64_t size_bytes, uint64_t block, size_t n,
		     const uint8_t *data, const uint64_t *sums, struct err *e);
int store_head_zero(struct store_head *h, struct store_sums *w, uint64_t block, uint64_t n, struct err *e);
/* The first block from `block` on that may have contents, or a checksum; UINT64_MAX: none. */
uint64_t store_head_next(const struct store_head *h, uint64_t block);
int store_head_sync(const struct store_head *h, struct err *e);
/* Removes those that no point, view or transaction lists any more. */
void store_heads_collect(struct store *s);

/* ---- blocks from an extent ---- */
/* r: may be NULL */
int store_extent_read_ahead(const struct store_extent *x, struct store_reader *r, uint64_t skip, size_t n, uint8_t *out,
			    uint64_t *sums, struct err *e);
int store_extent_read(const struct store_extent *x, uint64_t skip, size_t n, uint8_t *out, uint64_t *sums,
		      struct err *e);
/* ERR_CORRUPT says which block, of `what`. */
int store_blocks_check(uint64_t salt, uint32_t volume, uint64_t block, size_t n, const uint8_t *data,
		       const uint64_t *sums, const char *what, struct err *e);

/* ---- store_undo ---- */
struct store_undo {
	uint64_t from, to;
	uint64_t bytes; /* 0: not asked for yet (store_undo_bytes) */
	bool bad;       /* was read, and does not verify */
};
/* Lists undo/; removes temporaries and what a merge left behind. */
int store_undo_scan(struct store *s, struct err *e);
/* Of the file; 0 if it is not there. Under lock. */
uint64_t store_undo_bytes(const struct store *s, struct store_undo *u);
struct store_layer *store_undo_load(struct store *s, uint64_t from, uint64_t to, struct err *e);
/* Before-images of what the transaction overwrites; durable when it returns. */
struct store_layer *store_undo_make(struct store *s, const struct store_pending *p, const struct store_volset *before,
				    struct err *e);
/* Out of n neighbours one; durable. They stay where they are. */
int store_undo_merge(struct store *s, const struct store_undo *u, size_t n, uint64_t *bytes, struct err *e);
char *store_undo_path(const struct store *s, uint64_t from, uint64_t to);
/* Under store.lock. */
bool store_undo_covers(const struct store *s, uint64_t seq);

/* ---- store_meta ---- */
int store_meta_write_vm(const struct store *s, struct err *e);
/* *format: STORE_FORMAT or STORE_FORMAT_1 */
int store_meta_read_vm(struct store *s, unsigned *format, struct err *e);
/* Of a store of format 1: its state and all points. */
int store_meta_load_1(struct store *s, struct err *e);
/* vm.json, and a catalogue of format 1 where that is what counts. Under saving. */
int store_meta_check(struct store *s, struct err *e);
/* The state: applied, redo, next_volume, volumes, files. Under lock. */
json_t *store_meta_state(const struct store *s);
int store_meta_take_state(struct store *s, const json_t *j);
json_t *store_meta_entry(const struct store_entry *p);
/* Into s->points, in order. */
int store_meta_take_points(struct store *s, const json_t *a);
bool store_meta_u64(const json_t *o, const char *key, uint64_t max, uint64_t *out);
bool store_meta_hex(const json_t *o, const char *key, uint64_t *out);
json_t *store_meta_hex_json(uint64_t v);
int store_meta_check_format(const char *path, const json_t *j, struct err *e);

/* ---- store_catalogue ---- */
struct store_catalogue {
	struct store_blob *blob; /* NULL: the next one is written whole */
	uint64_t salt, len, whole_len;
	bool torn;     /* when it was opened there was more, which does not verify */
	bool format_1; /* what counts is catalogue.json still: the next checkpoint converts the store */
};
void store_catalogue_fini(struct store_catalogue *c);
int store_catalogue_load(struct store *s, struct err *e);
/* And vm.json. */
int store_catalogue_check(struct store *s, struct err *e);
/* catalogue.json, which does not count any more. */
void store_catalogue_remove_old(const struct store *s);
/* One line of it: what is before the newline. False: does not verify. */
bool store_catalogue_verify(uint64_t seed, const char *line, size_t len, const char **json, size_t *json_len);
/* What is applied becomes durable: heads, files, then the catalogue says so; takes store.saving. whole: writes the catalogue anew. After a sync of
 * heads or files that failed the store is poisoned; where one could not be opened for a reason that may pass, nothing has changed. */
int store_checkpoint(struct store *s, bool whole, struct err *e);
/* Transactions are applied that it does not list. Under lock. */
bool store_checkpoint_due(const struct store *s);

/* ---- store_rollback ---- */
/* After store_recover: whether the catalogue lost its last line for another reason than a loss of power; and if the heads are ahead of what could
 * be read of the journal, they go back. */
int store_rollback(struct store *s, struct err *e);

/* ---- store_apply ---- */
void *store_apply_main(void *arg);
/* Into the head, through w; checked. data: room for a run. */
int store_extent_apply(struct store *s, struct store_sums *w, struct store_reader *r, struct store_head *h,
		       const struct store_extent *x, uint64_t size_bytes, uint8_t *data, struct err *e);

/* ---- the store ---- */
struct store_txn {
	struct store *s;
	uint64_t seq;
	enum store_txn_kind kind;
	struct store_pos start;
	struct store_layer *layer; /* in the order of staging */
	struct store_volset *volumes;
	struct store_fileset *files;
	uint32_t next_volume;
	uint64_t file_bytes; /* so far in files/SEQ */
	bool touched;        /* something other than BEGIN was staged */
	struct err failed;
};

struct store {
	/* fixed after opening */
	char *dir;
	struct store_opts opts;
	uint64_t id, salt;
	json_t *vm;
	int lock_fd;
	pthread_t applier;
	bool applier_runs;

	pthread_mutex_t pruning, applying, saving, lock;
	pthread_rwlock_t reading;
	pthread_cond_t changed; /* of what is under lock */

	/* under lock */
	bool stopping;
	bool busy;          /* the applier is at a transaction, its catalogue and its cleaning up */
	struct err poison;  /* set: no more transactions */
	struct err stalled; /* the applier waits for space */
	uint64_t poke;      /* counts reasons for the applier to try again */
	uint64_t tried;     /* what poke was when the attempt began that `stalled` is of */
	struct store_txn *txn;
	uint64_t committed;  /* newest transaction */
	uint64_t last_point; /* newest point, 0: none */
	uint64_t applied;    /* in the heads */
	uint64_t saved;      /* what the catalogue on disk says is applied */
	uint64_t ghost; /* newest that store_prune gave up before it was saved: until then a crash brings it back */
	struct store_pos redo, saved_redo; /* where the journal is read from at the next opening */
	uint64_t unsaved_bytes;            /* applied since `saved` */
	uint64_t *unsynced_files;          /* transactions whose files/SEQ was written and not synced */
	size_t n_unsynced_files;
	uint32_t next_volume, applied_next_volume;
	struct store_volset *volumes, *applied_volumes; /* of `committed`, of `applied` */
	struct store_fileset *files, *applied_files;
	struct store_entry **points; /* oldest first */
	size_t n_points;
	struct store_undo *undos; /* by from */
	size_t n_undos;
	struct store_head **heads;
	size_t n_heads;
	struct store_view *views;
	struct store_layer *publishing; /* undo of the transaction that goes into the heads now */
	/* changed with lock and reading held, read with either */
	struct store_pending **pending; /* oldest first */
	size_t n_pending;

	struct store_catalogue catalogue; /* under saving */
	struct store_journal journal;
	uint64_t dropped_bytes; /* of the journal, at opening */
	bool damaged;           /* there was a COMMIT in them, and they were set aside */
};

int store_poison(struct store *s, const struct err *e); /* under lock; -1 */
/* No room, or a file that cannot be opened just now: nothing is in doubt, and the applier tries again. */
bool store_may_pass(const struct err *e);
void store_entry_free(struct store_entry *p);
/* Points or views older than seq. Under lock. */
bool store_points_need(const struct store *s, uint64_t seq);
/* Files that nobody lists any more go; before-images are merged. */
int store_points_collect(struct store *s, struct err *e);
/* Removes files/SEQ that nobody lists any more. */
void store_files_collect(struct store *s);
char *store_files_path(const struct store *s, uint64_t seq);

/* Blocks that a volume lost become zeros. */
void store_txn_shrunk(struct store_layer *l, const struct store_volset *before, const struct store_volset *now);
/* A committed transaction becomes visible; takes p. Under lock. */
void store_publish(struct store *s, struct store_pending *p);

/* Views that are older than seq see `l` below what they have. Under lock. */
void store_view_publish(struct store *s, uint64_t seq, struct store_layer *l);
int store_view_check_files(struct store_view *v, struct err *e);
void store_view_let_go(struct store *s, uint64_t seq); /* as store_fileset_let_go, for all of them */
bool store_view_older(const struct store *s, uint64_t seq);
bool store_view_lists(const struct store *s, uint32_t volume, uint64_t file_seq);

#endif
