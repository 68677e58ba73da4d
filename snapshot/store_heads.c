/* Head images: one sparse raw file per volume and one file of checksums beside it. FORMAT.md, "Heads". */
#include "base/file.h"
#include "base/mem.h"
#include "base/sys.h"
#include "snapshot/store_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *head_path(const struct store *s, uint32_t id, const char *suffix)
{
	return mem_printf("%s/heads/%08u.%s", s->dir, id, suffix);
}

struct store_head *store_head_ref(struct store_head *h)
{
	atomic_fetch_add(&h->refs, 1);
	return h;
}

void store_head_unref(struct store_head *h)
{
	if (!h || atomic_fetch_sub(&h->refs, 1) > 1)
		return;
	store_blob_unref(h->data);
	store_blob_unref(h->sums);
	free(h);
}

struct store_head *store_heads_find(struct store *s, uint32_t id)
{
	for (size_t i = 0; i < s->n_heads; i++)
		if (s->heads[i]->id == id)
			return s->heads[i];
	return NULL;
}

static struct store_blob *open_or_make(const char *path, bool known, bool *made, struct err *e)
{
	struct err why = ERR_INIT;
	struct store_blob *b = known ? store_blob_open(path, O_RDWR, &why) : NULL;

	if (b)
		return b;
	*made = true;
	return store_blob_open(path, O_RDWR | O_CREAT, e);
}

int store_heads_ensure(struct store *s, uint32_t id, bool known, struct err *e)
{
	bool made = false;

	pthread_mutex_lock(&s->lock);
	const bool there = store_heads_find(s, id) != NULL;
	pthread_mutex_unlock(&s->lock);
	if (there)
		return 0;
	MEM_AUTO char *raw = head_path(s, id, "raw");
	MEM_AUTO char *sums = head_path(s, id, "sums");
	struct store_head *h = mem_alloc(sizeof(*h));
	h->refs = 1;
	h->id = id;
	h->data = open_or_make(raw, known, &made, e);
	h->sums = h->data ? open_or_make(sums, known, &made, e) : NULL;
	if (!h->sums || (made && file_sync_folder_of(raw, e) < 0)) {
		store_head_unref(h);
		return -1;
	}
	THREAD_LOCKED(&s->lock);
	s->heads = mem_realloc_array(s->heads, s->n_heads + 1, sizeof(struct store_head *));
	s->heads[s->n_heads++] = h;
	return 0;
}

int store_head_read(const struct store_head *h, uint64_t block, size_t n, uint8_t *out, uint64_t *sums, struct err *e)
{
	if (store_blob_read_sparse(h->sums, block * 8, sums, n * 8, e) < 0)
		return -1;
	bool any = false;
	for (size_t i = 0; i < n; i++) {
		any |= sums[i] != 0;
		sums[i] = __builtin_bswap64(sums[i]);
	}
	if (!any) {
		memset(out, 0, n * STORE_BLOCK);
		return 0;
	}
	return store_blob_read_sparse(h->data, block * STORE_BLOCK, out, n * STORE_BLOCK, e);
}

int store_head_resize(const struct store_head *h, uint64_t size_bytes, struct err *e)
{
	if (store_blob_truncate(h->data, size_bytes, e) < 0)
		return -1;
	return store_blob_truncate(h->sums, store_blocks_of(size_bytes) * 8, e);
}

/* ---- checksums in stretches ---- */

int store_sums_flush(struct store_sums *w, struct err *e)
{
	struct store_head *h = w->h;

	w->h = NULL;
	if (!h || w->low >= w->high)
		return 0;
	return store_blob_write(h->sums, (w->first + w->low) * 8, &w->v[w->low], (w->high - w->low) * 8, e);
}

static int turn_to(struct store_sums *w, struct store_head *h, uint64_t block, struct err *e)
{
	const uint64_t first = block - block % STORE_SUMS;

	if (w->h == h && w->first == first)
		return 0;
	if (store_sums_flush(w, e) < 0 || store_blob_read_sparse(h->sums, first * 8, w->v, sizeof(w->v), e) < 0)
		return -1;
	w->h = h;
	w->first = first;
	w->low = STORE_SUMS;
	w->high = 0;
	return 0;
}

int store_sums_get(struct store_sums *w, struct store_head *h, uint64_t block, size_t n, uint64_t *sums, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		if (turn_to(w, h, block + i, e) < 0)
			return -1;
		sums[i] = __builtin_bswap64(w->v[(block + i) % STORE_SUMS]);
	}
	return 0;
}

int store_sums_put(struct store_sums *w, struct store_head *h, uint64_t block, size_t n, const uint64_t *sums,
		   struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		const size_t at = (block + i) % STORE_SUMS;
		if (turn_to(w, h, block + i, e) < 0)
			return -1;
		w->v[at] = sums ? __builtin_bswap64(sums[i]) : 0;
		w->low = at < w->low ? at : w->low;
		w->high = at + 1 > w->high ? at + 1 : w->high;
	}
	return 0;
}

int store_head_read_before(struct store_head *h, struct store_sums *w, uint64_t block, size_t n, uint8_t *out,
			   uint64_t *sums, struct err *e)
{
	bool any = false;

	if (store_sums_get(w, h, block, n, sums, e) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		any |= sums[i] != 0;
	/* Where all are zeros nobody looks at what is in `out`. */
	return any ? store_blob_read_sparse(h->data, block * STORE_BLOCK, out, n * STORE_BLOCK, e) : 0;
}

int store_head_write(struct store_head *h, struct store_sums *w, uint64_t size_bytes, uint64_t block, size_t n,
		     const uint8_t *data, const uint64_t *sums, struct err *e)
{
	const uint64_t at = block * STORE_BLOCK;
	/* Of the last block only what belongs to the volume: the file is as long as the disk. */
	const uint64_t len = at + n * STORE_BLOCK > size_bytes ? size_bytes - at : n * STORE_BLOCK;

	if (store_blob_write(h->data, at, data, (size_t)len, e) < 0)
		return -1;
	return store_sums_put(w, h, block, n, sums, e);
}

int store_head_zero(struct store_head *h, struct store_sums *w, uint64_t block, uint64_t n, struct err *e)
{
	if (store_blob_punch(h->data, block * STORE_BLOCK, n * STORE_BLOCK, e) < 0)
		return -1;
	if (n <= STORE_SUMS)
		return store_sums_put(w, h, block, (size_t)n, NULL, e);
	return store_sums_flush(w, e) < 0 ? -1 : store_blob_punch(h->sums, block * 8, n * 8, e);
}

static uint64_t next_data(const struct store_blob *b, uint64_t at)
{
	const off_t next = lseek(b->fd, (off_t)at, SEEK_DATA);
	if (next >= 0)
		return (uint64_t)next;
	return errno == ENXIO ? UINT64_MAX : at; /* not every file system knows */
}

uint64_t store_head_next(const struct store_head *h, uint64_t block)
{
	const uint64_t data = next_data(h->data, block * STORE_BLOCK) / STORE_BLOCK;
	const uint64_t sums = next_data(h->sums, block * 8) / 8;
	const uint64_t next = data < sums ? data : sums;
	return next >= UINT64_MAX / STORE_BLOCK ? UINT64_MAX : next < block ? block : next;
}

int store_head_sync(const struct store_head *h, struct err *e)
{
	return store_blob_sync(h->data, true, e) < 0 ? -1 : store_blob_sync(h->sums, true, e);
}

/* Under lock. */
static bool listed(const struct store *s, uint32_t id)
{
	if (store_volset_by_id(s->volumes, id) || store_volset_by_id(s->applied_volumes, id) ||
	    store_view_lists(s, id, 0))
		return true;
	for (size_t i = 0; i < s->n_points; i++)
		if (store_volset_by_id(s->points[i]->volumes, id))
			return true;
	for (size_t i = 0; i < s->n_pending; i++)
		if (store_volset_by_id(s->pending[i]->volumes, id))
			return true;
	return false;
}

void store_heads_collect(struct store *s)
{
	THREAD_LOCKED(&s->lock);
	/* A crash would bring back a point that may list any of them. */
	if (s->ghost > s->saved)
		return;
	for (size_t i = 0; i < s->n_heads;) {
		struct store_head *h = s->heads[i];
		if (listed(s, h->id)) {
			i++;
			continue;
		}
		/* Failing leaves a file too many: the next opening removes it. */
		sys.unlink(h->data->path);
		sys.unlink(h->sums->path);
		s->heads[i] = s->heads[--s->n_heads];
		store_head_unref(h);
	}
}
