/*
 * store_model.h - what a replica store ought to hold, in memory: every version of every block is one number, from which its contents follow. Random
 * transactions go into the store and into the model; then every retained point of the store is compared.
 */
#ifndef VMFERRY_TESTS_STORE_MODEL_H
#define VMFERRY_TESTS_STORE_MODEL_H

#include "base/clock.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/thread.h"
#include "snapshot/store.h"

#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODEL_VOLUMES 4u
#define MODEL_BLOCKS 96u
#define MODEL_POINTS 256u

#define OK(call, e) ck_assert_msg((call) >= 0, "%s", (e).text)

struct model_volume {
	struct store_volume v;
	uint32_t tag[MODEL_BLOCKS]; /* 0: zeros */
};
/* The VM at one instant. */
struct model_state {
	uint64_t seq;
	size_t n;
	struct model_volume vol[MODEL_VOLUMES];
	uint32_t file; /* tag of file "device", 0: none */
};
struct model {
	struct model_state now;
	struct model_state *points[MODEL_POINTS];
	size_t n_points;
	uint64_t rnd;
	uint32_t next_tag;
	/* the transaction under way */
	struct model_state next;
};

/* For tests that end no process: what is synced or not makes no difference, but for the time it takes. */
static inline int model_sync_nothing(int fd)
{
	(void)fd;
	return 0;
}
static inline void model_no_sync(void)
{
	sys.fsync = model_sync_nothing;
	sys.fdatasync = model_sync_nothing;
}

/* Files in that folder of a store. */
static inline int model_files_in(const char *dir, const char *name)
{
	MEM_AUTO char *path = mem_printf("%s/%s", dir, name);
	DIR *d = opendir(path);
	int n = 0;

	ck_assert_ptr_nonnull(d);
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;)
		n += entry->d_name[0] != '.';
	closedir(d);
	return n;
}

/* A folder of its own, in memory where there is such a place: 32 bytes at least. */
static inline void model_folder(char *out)
{
	strcpy(out, access("/dev/shm", W_OK) == 0 ? "/dev/shm/test_store_XXXXXX" : "/tmp/test_store_XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(out));
}

static inline void model_remove_folder(const char *folder)
{
	MEM_AUTO char *command = mem_printf("rm -rf %s", folder);
	ck_assert_int_eq(system(command), 0);
}

/* What is committed is in the heads; no checkpoint need have said so. */
static inline void model_wait_applied(struct store *s)
{
	const int64_t until = clock_mono_ns() + 20 * NS_PER_S;
	struct err e = ERR_INIT;
	struct store_usage u;

	do {
		ck_assert_msg(store_usage(s, &u, &e) == 0, "%s", e.text);
	} while (u.pending_txns > 0 && clock_mono_ns() < until);
	ck_assert_uint_eq(u.pending_txns, 0);
}

/* The folder of a store, made if need be, with nothing in it: quicker than a process that removes it. */
static inline void model_clear(const char *dir)
{
	static const char *const folders[] = { "", "/journal", "/heads", "/files", "/undo" };

	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		char path[512];
		snprintf(path, sizeof(path), "%s%s", dir, folders[i]);
		ck_assert(mkdir(path, 0700) == 0 || access(path, W_OK) == 0);
		DIR *d = opendir(path);
		ck_assert_ptr_nonnull(d);
		for (const struct dirent *entry; (entry = readdir(d)) != NULL;)
			unlinkat(dirfd(d), entry->d_name, 0);
		closedir(d);
	}
}

static inline uint64_t model_random(struct model *m)
{
	uint64_t z = (m->rnd += UINT64_C(0x9e3779b97f4a7c15));
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}
static inline uint32_t model_below(struct model *m, uint32_t n)
{
	return (uint32_t)(model_random(m) % n);
}

static inline void model_fill(uint32_t tag, uint8_t out[STORE_BLOCK], size_t len)
{
	memset(out, 0, STORE_BLOCK);
	for (size_t i = 0; tag && i < len; i++)
		out[i] = (uint8_t)(1 + (tag * 31 + i * 7 + (i >> 8) * tag) % 255);
}

static inline uint64_t model_blocks(const struct model_volume *v)
{
	return (v->v.size_bytes + STORE_BLOCK - 1) / STORE_BLOCK;
}
/* Of a block, how many bytes are the volume's. */
static inline size_t model_len(const struct model_volume *v, uint64_t block)
{
	const uint64_t left = v->v.size_bytes - block * STORE_BLOCK;
	return left < STORE_BLOCK ? (size_t)left : STORE_BLOCK;
}

static inline void model_init(struct model *m, uint64_t seed)
{
	*m = (struct model){ .rnd = seed, .next_tag = 1 };
}
static inline void model_fini(struct model *m)
{
	for (size_t i = 0; i < m->n_points; i++)
		free(m->points[i]);
	m->n_points = 0;
}

/* Volumes as they are then; sizes of disks change, one comes, one goes. */
static inline int model_volumes(struct model *m, struct store_txn *t, struct err *e)
{
	static const char *const names[MODEL_VOLUMES] = { "pc.ram", "0000:00:02.0/vga.vram", "vda", "vdb" };
	struct model_state *s = &m->next, old = m->next;
	struct store_volume list[MODEL_VOLUMES];

	s->n = 0;
	for (size_t i = 0; i < MODEL_VOLUMES; i++) {
		if (i > 0 && model_below(m, 4) == 0)
			continue;
		struct model_volume *v = &s->vol[s->n];
		memset(v, 0, sizeof(*v));
		for (size_t k = 0; k < old.n; k++)
			if (strcmp(old.vol[k].v.name, names[i]) == 0)
				*v = old.vol[k];
		const bool ram = i < 2;
		const uint64_t was = model_blocks(v);
		v->v.kind = ram ? STORE_RAM : STORE_DISK;
		strcpy(v->v.name, names[i]);
		if (v->v.size_bytes == 0 || model_below(m, 2))
			v->v.size_bytes = (uint64_t)(8 + model_below(m, MODEL_BLOCKS - 8)) * STORE_BLOCK;
		/* Whole blocks: a cut within one would need more than a number to say what it holds. */
		for (uint64_t b = model_blocks(v); b < was; b++)
			v->tag[b] = 0;
		list[s->n++] = v->v;
	}
	return store_txn_volumes(t, list, s->n, e);
}

static inline int model_block(struct model *m, struct store_txn *t, uint32_t v, uint64_t block, uint32_t tag,
			      struct err *e)
{
	uint8_t data[STORE_BLOCK];
	struct model_volume *mv = &m->next.vol[v];

	mv->tag[block] = tag;
	model_fill(tag, data, STORE_BLOCK);
	return store_txn_block(t, v, block, tag || model_below(m, 2) ? data : NULL, e);
}

/* A run of blocks somewhere: new contents, old contents of other blocks, or zeros. */
static inline int model_run(struct model *m, struct store_txn *t, struct err *e)
{
	const uint32_t v = model_below(m, (uint32_t)m->next.n);
	const uint32_t blocks = (uint32_t)model_blocks(&m->next.vol[v]);
	const uint32_t at = model_below(m, blocks), n = 1 + model_below(m, model_below(m, 3) ? 4 : blocks - at);
	const bool zeros = model_below(m, 4) == 0;

	if (zeros && model_below(m, 2) && at + n <= blocks) {
		memset(&m->next.vol[v].tag[at], 0, n * sizeof(uint32_t));
		return store_txn_zeros(t, v, at, n, e);
	}
	for (uint32_t i = 0; i < n && at + i < blocks; i++)
		if (model_block(m, t, v, at + i, zeros ? 0 : m->next_tag++, e) < 0)
			return -1;
	return 0;
}

static inline int model_file(struct model *m, struct store_txn *t, struct err *e)
{
	char text[64];

	m->next.file = m->next_tag++;
	const int n = snprintf(text, sizeof(text), "device state %u", m->next.file);
	return store_txn_file(t, "device", text, (size_t)n, e);
}

/* Stages a random transaction. */
static inline int model_stage(struct model *m, struct store_txn *t, struct err *e)
{
	m->next = m->now;
	if ((m->next.n == 0 || model_below(m, 6) == 0) && model_volumes(m, t, e) < 0)
		return -1;
	const uint32_t runs = model_below(m, 12);
	for (uint32_t i = 0; i < runs; i++)
		if (model_run(m, t, e) < 0)
			return -1;
	return model_below(m, 2) ? model_file(m, t, e) : 0;
}

static inline json_t *model_meta(const struct model *m)
{
	return json_pack("{s:i}", "tag", (int)m->next_tag);
}

/* It was committed: what was staged is what there is. */
static inline void model_committed(struct model *m, enum store_txn_kind kind, uint64_t seq)
{
	m->now = m->next;
	m->now.seq = seq;
	if (kind != STORE_TXN_POINT)
		return;
	ck_assert_uint_lt(m->n_points, MODEL_POINTS);
	m->points[m->n_points] = mem_alloc(sizeof(struct model_state));
	*m->points[m->n_points++] = m->now;
}

static inline int model_txn(struct model *m, struct store *s, enum store_txn_kind kind, struct err *e)
{
	uint64_t seq = 0;
	struct store_txn *t = store_begin(s, kind, e);

	if (!t)
		return -1;
	if (model_stage(m, t, e) < 0) {
		store_abort(t);
		return -1;
	}
	json_t *meta = model_meta(m);
	const int rc = store_commit(t, meta, &seq, e);
	json_decref(meta);
	if (rc == 0)
		model_committed(m, kind, seq);
	return rc;
}

static inline void model_compare_volume(const struct model_volume *mv, struct store_view *v, uint32_t volume)
{
	struct err e = ERR_INIT;
	uint8_t data[STORE_BLOCK];
	const size_t blocks = (size_t)model_blocks(mv);
	MEM_AUTO uint8_t *all = mem_alloc_array(blocks, STORE_BLOCK);
	bool zero[MODEL_BLOCKS];

	OK(store_view_read(v, volume, 0, blocks, all, zero, &e), e);
	for (size_t b = 0; b < blocks; b++) {
		model_fill(mv->tag[b], data, model_len(mv, b));
		ck_assert_msg(memcmp(data, all + b * STORE_BLOCK, STORE_BLOCK) == 0,
			      "seq %llu: block %zu of %s is not version %u", (unsigned long long)store_view_seq(v), b,
			      mv->v.name, mv->tag[b]);
		ck_assert_msg(zero[b] == (mv->tag[b] == 0), "block %zu of %s: zero %d", b, mv->v.name, zero[b]);
	}
}

static inline void model_compare(const struct model_state *want, struct store_view *v)
{
	struct err e = ERR_INIT;
	struct store_volume list[STORE_MAX_VOLUMES];
	char text[64];
	size_t len = 0;

	ck_assert_uint_eq(store_view_volumes(v, list, STORE_MAX_VOLUMES), want->n);
	for (uint32_t i = 0; i < want->n; i++) {
		ck_assert_str_eq(list[i].name, want->vol[i].v.name);
		ck_assert_uint_eq(list[i].size_bytes, want->vol[i].v.size_bytes);
		model_compare_volume(&want->vol[i], v, i);
	}
	MEM_AUTO char *file = store_view_file(v, "device", &len, &e);
	if (want->file == 0) {
		ck_assert_ptr_null(file);
		ck_assert_int_eq(e.cls, ERR_CONFIG);
		return;
	}
	ck_assert_msg(file != NULL, "%s", e.text);
	ck_assert_int_eq((int)len, snprintf(text, sizeof(text), "device state %u", want->file));
	ck_assert_str_eq(file, text);
}

/* The store's list of points is the model's, and each of them reads as it should; so does the newest. */
static inline void model_compare_all(const struct model *m, struct store *s)
{
	struct err e = ERR_INIT;
	struct store_point *points = NULL;
	size_t n = 0;

	OK(store_points(s, &points, &n, &e), e);
	ck_assert_uint_eq(n, m->n_points);
	for (size_t i = 0; i < n; i++) {
		ck_assert_uint_eq(points[i].seq, m->points[i]->seq);
		struct store_view *v = store_view_open(s, points[i].seq, &e);
		ck_assert_msg(v != NULL, "%s", e.text);
		model_compare(m->points[i], v);
		store_view_close(v);
	}
	store_points_free(points, n);
	struct store_view *v = store_view_newest(s, &e);
	ck_assert_msg(v != NULL, "%s", e.text);
	model_compare(&m->now, v);
	store_view_close(v);
}

static inline bool model_keep(void *ctx, const struct store_point *p)
{
	const struct model *m = ctx;
	for (size_t i = 0; i < m->n_points; i++)
		if (m->points[i]->seq == p->seq)
			return true;
	return false;
}

/* Gives up about one point in `one_in`; never the latest. */
static inline void model_forget(struct model *m, uint32_t one_in)
{
	size_t kept = 0;

	for (size_t i = 0; i < m->n_points; i++) {
		if (i + 1 < m->n_points && model_below(m, one_in) == 0)
			free(m->points[i]);
		else
			m->points[kept++] = m->points[i];
	}
	m->n_points = kept;
}

#endif
