/* Before-images of a range of transactions: FORMAT.md, "Undo files". Durable under their final name before a head is written. */
#include "base/cursor.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/xxh3.h"
#include "snapshot/store_impl.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define HEAD 4096u /* the header is padded to a block */
#define TRAILER 64u
#define ITEM 32u /* of the index */
#define ITEM_ZEROS 1u

/* Writes one, front to back. */
struct maker {
	struct store_blob *blob;
	char *tmp, *path;
	uint64_t from, to, at;
	struct buf pending; /* blocks not written yet, less than a run; behind them there is room for a run */
	struct store_extents x;
	struct buf sums;
};

char *store_undo_path(const struct store *s, uint64_t from, uint64_t to)
{
	return mem_printf("%s/undo/%012" PRIu64 "-%012" PRIu64 ".undo", s->dir, from, to);
}

static int maker_flush(struct maker *m, struct err *e)
{
	if (store_blob_write(m->blob, m->at, m->pending.data, m->pending.len, e) < 0)
		return -1;
	m->at += m->pending.len;
	buf_reset(&m->pending);
	return 0;
}

static int maker_open(struct maker *m, const struct store *s, uint64_t from, uint64_t to, struct err *e)
{
	*m = (struct maker){ .from = from, .to = to, .at = HEAD };
	m->path = store_undo_path(s, from, to);
	m->tmp = mem_printf("%s.tmp", m->path);
	m->blob = store_blob_open(m->tmp, O_RDWR | O_CREAT | O_TRUNC, e);
	buf_reserve(&m->pending, (size_t)2 * STORE_RUN * STORE_BLOCK);
	return m->blob ? 0 : -1;
}

/* Where the next n blocks, at most a run, are read to: to the place from which they are written. */
static uint8_t *maker_room(struct maker *m, size_t n)
{
	return buf_reserve(&m->pending, n * STORE_BLOCK);
}

/* The n blocks there, of which those with sum 0 are zeros and not written. */
static int maker_add(struct maker *m, uint32_t volume, uint64_t block, size_t n, const uint64_t *sums, struct err *e)
{
	const uint8_t *data = m->pending.data + m->pending.len;

	for (size_t i = 0; i < n; i++) {
		struct store_extent x = { .volume = volume, .block = block + i, .count = 1 };
		if (sums[i]) {
			uint8_t *to = m->pending.data + m->pending.len;
			x.blob = m->blob;
			x.data_at = m->at + m->pending.len;
			x.sums_at = m->sums.len;
			if (to != data + i * STORE_BLOCK)
				memcpy(to, data + i * STORE_BLOCK, STORE_BLOCK);
			m->pending.len += STORE_BLOCK;
			buf_put_be64(&m->sums, sums[i]);
		}
		store_extents_add(&m->x, &x);
	}
	return m->pending.len >= (size_t)STORE_RUN * STORE_BLOCK ? maker_flush(m, e) : 0;
}

static void put_index(const struct maker *m, struct buf *out)
{
	for (size_t i = 0; i < m->x.n; i++) {
		const struct store_extent *x = &m->x.v[i];
		buf_put_be32(out, x->volume);
		buf_put_be32(out, x->blob ? 0 : ITEM_ZEROS);
		buf_put_be64(out, x->block);
		buf_put_be64(out, x->count);
		buf_put_be64(out, x->blob ? (x->data_at - HEAD) / STORE_BLOCK : 0);
	}
	buf_append(out, m->sums.data, m->sums.len);
}

static void put_header(struct buf *b, const struct store *s, uint64_t from, uint64_t to)
{
	buf_append(b, "VMFUNDO", 8);
	buf_put_be32(b, STORE_PART_FORMAT);
	buf_put_be32(b, HEAD);
	buf_put_be64(b, s->id);
	buf_put_be64(b, from);
	buf_put_be64(b, to);
	buf_put_be64(b, XXH3_64bits_withSeed(b->data, b->len, s->salt));
}

static int maker_finish(struct maker *m, const struct store *s, uint64_t *bytes, struct err *e)
{
	BUF_AUTO struct buf head = BUF_INIT;
	BUF_AUTO struct buf index = BUF_INIT;

	put_header(&head, s, m->from, m->to);
	if (maker_flush(m, e) < 0 || store_blob_write(m->blob, 0, head.data, head.len, e) < 0)
		return -1;
	put_index(m, &index);
	const uint64_t index_sum = XXH3_64bits_withSeed(index.data ? index.data : (const uint8_t *)"", index.len,
							s->salt);
	const size_t t = index.len;
	buf_append(&index, "VMFUEND", 8);
	buf_put_be64(&index, m->from);
	buf_put_be64(&index, m->to);
	buf_put_be64(&index, m->x.n);
	buf_put_be64(&index, m->sums.len / 8);
	buf_put_be64(&index, index_sum);
	buf_put_be64(&index, 0);
	buf_put_be64(&index, XXH3_64bits_withSeed(index.data + t, TRAILER - 8, s->salt));
	if (store_blob_write(m->blob, m->at, index.data, index.len, e) < 0 || store_blob_sync(m->blob, false, e) < 0)
		return -1;
	if (sys.rename(m->tmp, m->path) < 0)
		return err_sys(e, "rename %s", m->tmp);
	*bytes = m->at + index.len;
	if (file_sync_folder_of(m->path, e) == 0)
		return 0;
	/* Nobody lists it: beside those that it was to replace it would be in the way of what becomes of them. */
	sys.unlink(m->path);
	return -1;
}

/* Also after a failure: then nothing of it is left. */
static void maker_close(struct maker *m, bool done)
{
	if (!done && m->blob)
		sys.unlink(m->tmp);
	store_blob_unref(m->blob);
	buf_fini(&m->pending);
	buf_fini(&m->sums);
	store_extents_fini(&m->x);
	free(m->tmp);
	free(m->path);
}

static void list_add(struct store *s, struct store_undo u)
{
	s->undos = mem_realloc_array(s->undos, s->n_undos + 1, sizeof(s->undos[0]));
	size_t i = s->n_undos++;
	for (; i > 0 && s->undos[i - 1].from > u.from; i--)
		s->undos[i] = s->undos[i - 1];
	s->undos[i] = u;
}

/* The before-images of one extent, as far as the volume was there before. */
static int add_before(struct maker *m, struct store_head *h, struct store_sums *w, const struct store_extent *x,
		      uint64_t blocks, struct err *e)
{
	uint64_t sums[STORE_RUN];
	const uint64_t end = x->block + x->count < blocks ? x->block + x->count : blocks;

	for (uint64_t at = x->block; at < end;) {
		const size_t n = end - at < STORE_RUN ? (size_t)(end - at) : STORE_RUN;
		if (store_head_read_before(h, w, at, n, maker_room(m, n), sums, e) < 0 ||
		    maker_add(m, x->volume, at, n, sums, e) < 0)
			return -1;
		at += n;
	}
	/* A volume that was smaller: those who look at it then do not ask for more. */
	return 0;
}

/* What was written, as store_undo_load would read it. */
static struct store_layer *maker_layer(struct maker *m)
{
	struct store_layer *l = store_layer_new(m->to);
	const uint64_t sums_at = m->at + m->x.n * ITEM;

	for (size_t i = 0; i < m->x.n; i++)
		if (m->x.v[i].blob)
			m->x.v[i].sums_at += sums_at;
	l->x = m->x;
	m->x = (struct store_extents){ 0 };
	free(m->blob->path);
	m->blob->path = mem_strdup(m->path);
	store_layer_hold(l, m->blob);
	return l;
}

struct store_layer *store_undo_make(struct store *s, const struct store_pending *p, const struct store_volset *before,
				    struct err *e)
{
	struct maker m;
	struct store_sums w = { 0 };
	struct store_layer *l = NULL;
	uint64_t bytes = 0;
	int rc = maker_open(&m, s, p->seq, p->seq, e);

	for (size_t i = 0; rc == 0 && i < p->layer->x.n; i++) {
		const struct store_extent *x = &p->layer->x.v[i];
		const struct store_volset_item *was = store_volset_by_id(before, x->volume);
		if (!was)
			continue;
		pthread_mutex_lock(&s->lock);
		struct store_head *h = store_heads_find(s, x->volume);
		pthread_mutex_unlock(&s->lock);
		assert(h);
		rc = add_before(&m, h, &w, x, store_blocks_of(was->v.size_bytes), e);
	}
	if (rc == 0)
		rc = maker_finish(&m, s, &bytes, e);
	if (rc == 0)
		l = maker_layer(&m);
	maker_close(&m, rc == 0);
	if (rc < 0)
		return NULL;
	THREAD_LOCKED(&s->lock);
	list_add(s, (struct store_undo){ .from = p->seq, .to = p->seq, .bytes = bytes });
	return l;
}

bool store_undo_covers(const struct store *s, uint64_t seq)
{
	for (size_t i = s->n_undos; i > 0 && s->undos[i - 1].to >= seq; i--)
		if (s->undos[i - 1].from <= seq)
			return true;
	return false;
}

struct shape {
	uint64_t extents, blocks, index_sum;
};

/* Header and trailer, each against its checksum and against each other. */
static int read_shape(const struct store *s, const struct store_blob *b, uint64_t from, uint64_t to, struct shape *out,
		      struct err *e)
{
	BUF_AUTO struct buf want = BUF_INIT;
	uint8_t head[48], tail[TRAILER];
	struct stat st;

	put_header(&want, s, from, to);
	if (fstat(b->fd, &st) < 0)
		return err_sys(e, "%s: stat", b->path);
	const uint64_t size = (uint64_t)st.st_size;
	if (size < HEAD + TRAILER)
		return err_set(e, ERR_CORRUPT, "%s: is too short", b->path);
	if (store_blob_read(b, 0, head, sizeof(head), e) < 0 || store_blob_read(b, size - TRAILER, tail, TRAILER, e) < 0)
		return -1;
	assert(want.len == sizeof(head));
	struct cursor c = cursor_over(tail, TRAILER);
	const uint8_t *magic = cursor_bytes(&c, 8);
	const uint64_t tail_from = cursor_be64(&c), tail_to = cursor_be64(&c);
	out->extents = cursor_be64(&c);
	out->blocks = cursor_be64(&c);
	out->index_sum = cursor_be64(&c);
	if (memcmp(head, want.data, sizeof(head)) != 0 || memcmp(magic, "VMFUEND", 8) != 0 || tail_from != from ||
	    tail_to != to ||
	    store_sum_file(s->salt, tail, TRAILER - 8) !=
		    __builtin_bswap64(*(const uint64_t *)(const void *)(tail + TRAILER - 8)))
		return err_set(e, ERR_CORRUPT, "%s: does not verify", b->path);
	if (out->blocks > size / STORE_BLOCK || out->extents > size / ITEM ||
	    HEAD + out->blocks * (STORE_BLOCK + 8) + out->extents * ITEM + TRAILER != size)
		return err_set(e, ERR_CORRUPT, "%s: its length is not what it says", b->path);
	return 0;
}

static int decode_index(struct store_layer *l, struct store_blob *b, const struct shape *sh, const uint8_t *index,
			struct err *e)
{
	struct cursor c = cursor_over(index, (size_t)sh->extents * ITEM);
	const uint64_t sums_at = HEAD + sh->blocks * STORE_BLOCK + sh->extents * ITEM;
	uint32_t volume = 0;
	uint64_t end = 0;

	for (uint64_t i = 0; i < sh->extents; i++) {
		struct store_extent x = { .volume = cursor_be32(&c) };
		const uint32_t flags = cursor_be32(&c);
		x.block = cursor_be64(&c);
		x.count = cursor_be64(&c);
		const uint64_t first = cursor_be64(&c);
		const uint64_t most = STORE_MAX_BYTES / STORE_BLOCK;
		bool good = x.count > 0 && x.count <= most && x.block <= most - x.count &&
			    (i == 0 || x.volume > volume || (x.volume == volume && x.block >= end));
		if (flags == 0) {
			good = good && first <= sh->blocks && x.count <= sh->blocks - first;
			x.blob = b;
			x.data_at = HEAD + first * STORE_BLOCK;
			x.sums_at = sums_at + first * 8;
		} else {
			good = good && flags == ITEM_ZEROS;
		}
		if (!good)
			return err_set(e, ERR_CORRUPT, "%s: entry %" PRIu64 " of its index makes no sense", b->path, i);
		volume = x.volume;
		end = x.block + x.count;
		store_extents_add(&l->x, &x);
	}
	return 0;
}

static struct store_layer *load(const struct store *s, uint64_t from, uint64_t to, struct err *e)
{
	MEM_AUTO char *path = store_undo_path(s, from, to);
	MEM_AUTO uint8_t *index = NULL;
	struct shape sh = { 0 };
	struct store_blob *b = store_blob_open(path, O_RDONLY, e);
	struct store_layer *l = NULL;

	if (!b)
		return NULL;
	if (read_shape(s, b, from, to, &sh, e) < 0)
		goto out;
	const size_t len = (size_t)(sh.extents * ITEM + sh.blocks * 8);
	index = mem_try(len + 1, 1, "index of before-images", e);
	if (!index || store_blob_read(b, HEAD + sh.blocks * STORE_BLOCK, index, len, e) < 0)
		goto out;
	if (store_sum_file(s->salt, index, len) != sh.index_sum) {
		err_set(e, ERR_CORRUPT, "%s: its index does not verify", path);
		goto out;
	}
	l = store_layer_new(to);
	store_layer_hold(l, b);
	if (decode_index(l, b, &sh, index, e) < 0) {
		store_layer_unref(l);
		l = NULL;
	}
out:
	store_blob_unref(b);
	return l;
}

static void mark_bad(struct store *s, uint64_t from, uint64_t to)
{
	THREAD_LOCKED(&s->lock);
	for (size_t i = 0; i < s->n_undos; i++)
		if (s->undos[i].from == from && s->undos[i].to == to)
			s->undos[i].bad = true;
}

struct store_layer *store_undo_load(struct store *s, uint64_t from, uint64_t to, struct err *e)
{
	struct err why = ERR_INIT;
	struct store_layer *l = load(s, from, to, &why);

	if (l)
		return l;
	if (why.cls == ERR_CORRUPT)
		mark_bad(s, from, to);
	*e = why;
	return NULL;
}

uint64_t store_undo_bytes(const struct store *s, struct store_undo *u)
{
	MEM_AUTO char *path = u->bytes ? NULL : store_undo_path(s, u->from, u->to);
	struct stat st;

	if (path && stat(path, &st) == 0)
		u->bytes = (uint64_t)st.st_size;
	return u->bytes;
}

/* All of them as one. Who looks from before the first wants what was first: the older before-image wins. */
static int overlay_all(struct store *s, const struct store_undo *u, size_t n, struct store_layer **layers,
		       struct store_extents *all, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		layers[i] = store_undo_load(s, u[i].from, u[i].to, e);
		if (!layers[i])
			return -1;
		struct store_extents both = { 0 };
		store_extents_overlay(all, &layers[i]->x, &both);
		store_extents_fini(all);
		*all = both;
	}
	return 0;
}

static int add_extent(struct store *s, struct maker *m, const struct store_extent *x, struct err *e)
{
	uint64_t sums[STORE_RUN];

	for (uint64_t skip = 0; skip < x->count;) {
		const size_t n = x->count - skip < STORE_RUN ? (size_t)(x->count - skip) : STORE_RUN;
		uint8_t *data = maker_room(m, n);
		if (store_extent_read(x, skip, n, data, sums, e) < 0 ||
		    store_blocks_check(s->salt, x->volume, x->block + skip, n, data, sums, "before-images", e) < 0 ||
		    maker_add(m, x->volume, x->block + skip, n, sums, e) < 0)
			return -1;
		skip += n;
	}
	return 0;
}

int store_undo_merge(struct store *s, const struct store_undo *u, size_t n, uint64_t *bytes, struct err *e)
{
	struct store_layer **layers = mem_alloc_array(n, sizeof(struct store_layer *));
	struct store_extents all = { 0 };
	struct maker m = { 0 };
	int rc = overlay_all(s, u, n, layers, &all, e);

	if (rc == 0)
		rc = maker_open(&m, s, u[0].from, u[n - 1].to, e);
	for (size_t i = 0; rc == 0 && i < all.n; i++)
		rc = add_extent(s, &m, &all.v[i], e);
	if (rc == 0)
		rc = maker_finish(&m, s, bytes, e);
	maker_close(&m, rc == 0);
	store_extents_fini(&all);
	for (size_t i = 0; i < n; i++)
		store_layer_unref(layers[i]);
	free(layers);
	return rc;
}

/* Of each other's range, the longer one first. */
static int by_range(const void *a, const void *b)
{
	const struct store_undo *x = a, *y = b;
	if (x->from != y->from)
		return x->from < y->from ? -1 : 1;
	return x->to > y->to ? -1 : x->to < y->to;
}

static void remove_file(const struct store *s, const struct store_undo *u)
{
	MEM_AUTO char *path = store_undo_path(s, u->from, u->to);
	sys.unlink(path);
}

/* u lies within *outer, and one of them goes: the parts, unless what they were merged into has rotted. Cannot be read: both stay. True: u goes. */
static bool is_merged(struct store *s, struct store_undo *outer, const struct store_undo *u)
{
	struct err why = ERR_INIT;
	struct store_layer *l = store_undo_load(s, outer->from, outer->to, &why);
	const bool good = l != NULL;

	store_layer_unref(l);
	if (good)
		remove_file(s, u);
	else if (why.cls == ERR_CORRUPT)
		remove_file(s, outer);
	return good;
}

/* What is inside another one's range was merged into it, and not removed any more. They are in order, and no two that stay overlap. */
static void drop_merged(struct store *s)
{
	size_t kept = 0;

	for (size_t i = 0; i < s->n_undos; i++) {
		const struct store_undo u = s->undos[i];
		struct store_undo *last = kept > 0 ? &s->undos[kept - 1] : NULL;
		if (last && u.to <= last->to && is_merged(s, last, &u))
			continue;
		if (last && u.to <= last->to && last->bad)
			kept--;
		s->undos[kept++] = u;
	}
	s->n_undos = kept;
}

static int scan_one(struct store *s, const char *folder, const char *name, struct err *e)
{
	struct store_undo u = { 0 };
	MEM_AUTO char *path = mem_printf("%s/%s", folder, name);
	MEM_AUTO char *again = NULL;
	const size_t len = strlen(name);

	if (len > 4 && strcmp(name + len - 4, ".tmp") == 0) {
		sys.unlink(path);
		return 0;
	}
	if (sscanf(name, "%" SCNu64 "-%" SCNu64 ".undo", &u.from, &u.to) == 2 && u.from >= 1 && u.from <= u.to)
		again = store_undo_path(s, u.from, u.to);
	if (!again || strcmp(again, path) != 0)
		return err_set(e, ERR_CORRUPT, "%s: is not a file of the store", path);
	s->undos = mem_realloc_array(s->undos, s->n_undos + 1, sizeof(s->undos[0]));
	s->undos[s->n_undos++] = u;
	return 0;
}

/* By their names alone, however many there are. Each was synced before it had its name: one that does not verify has rotted, costs the points that need it,
 * and is found out where one of those is opened, or everything verified. */
int store_undo_scan(struct store *s, struct err *e)
{
	MEM_AUTO char *folder = mem_printf("%s/undo", s->dir);
	DIR *d = opendir(folder);
	int rc = 0;

	if (!d)
		return err_sys(e, "open %s", folder);
	for (const struct dirent *entry; rc == 0 && (entry = readdir(d)) != NULL;)
		if (entry->d_name[0] != '.')
			rc = scan_one(s, folder, entry->d_name, e);
	closedir(d);
	if (s->n_undos > 0)
		qsort(s->undos, s->n_undos, sizeof(s->undos[0]), by_range);
	if (rc == 0)
		drop_merged(s);
	return rc;
}
