#include "base/mem.h"
#include "snapshot/store_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void store_extents_fini(struct store_extents *x)
{
	free(x->v);
	*x = (struct store_extents){ 0 };
}

/* The second goes on where the first ends, on disk as well. */
static bool joins(const struct store_extent *a, const struct store_extent *b)
{
	if (a->volume != b->volume || a->block + a->count != b->block || a->blob != b->blob)
		return false;
	return !a->blob ||
	       (a->data_at + a->count * STORE_BLOCK == b->data_at && a->sums_at + a->count * 8 == b->sums_at);
}

void store_extents_add(struct store_extents *x, const struct store_extent *one)
{
	assert(one->count > 0);
	if (x->n > 0 && joins(&x->v[x->n - 1], one)) {
		x->v[x->n - 1].count += one->count;
		return;
	}
	if (x->n == x->cap) {
		x->cap = x->cap ? x->cap * 2 : 16;
		x->v = mem_realloc_array(x->v, x->cap, sizeof(x->v[0]));
	}
	x->v[x->n++] = *one;
}

/* Blocks [skip, skip + count) of it. */
static struct store_extent piece(const struct store_extent *x, uint64_t skip, uint64_t count)
{
	struct store_extent p = *x;

	p.block += skip;
	p.count = count;
	if (p.blob) {
		p.data_at += skip * STORE_BLOCK;
		p.sums_at += skip * 8;
	}
	return p;
}

static bool before(const struct store_extent *a, uint32_t volume, uint64_t block)
{
	return a->volume < volume || (a->volume == volume && a->block < block);
}

/* What of `x`, from block `at` on, is not under top[i...]; moves *i past what ends before x does. */
static void add_uncovered(const struct store_extent *x, const struct store_extents *top, size_t *i,
			  struct store_extents *out)
{
	uint64_t at = x->block;
	const uint64_t end = x->block + x->count;

	while (at < end) {
		while (*i < top->n && (top->v[*i].volume < x->volume ||
				       (top->v[*i].volume == x->volume && top->v[*i].block + top->v[*i].count <= at))) {
			store_extents_add(out, &top->v[*i]);
			(*i)++;
		}
		const struct store_extent *t = *i < top->n && top->v[*i].volume == x->volume ? &top->v[*i] : NULL;
		if (t && t->block <= at) {
			at = t->block + t->count;
			continue;
		}
		const uint64_t until = t && t->block < end ? t->block : end;
		const struct store_extent p = piece(x, at - x->block, until - at);
		store_extents_add(out, &p);
		at = until;
	}
}

void store_extents_overlay(const struct store_extents *top, const struct store_extents *bottom,
			   struct store_extents *out)
{
	size_t i = 0;

	assert(out->n == 0);
	for (size_t k = 0; k < bottom->n; k++)
		add_uncovered(&bottom->v[k], top, &i, out);
	for (; i < top->n; i++)
		store_extents_add(out, &top->v[i]);
}

static bool is_resolved(const struct store_extents *x)
{
	for (size_t i = 1; i < x->n; i++)
		if (!before(&x->v[i - 1], x->v[i].volume, x->v[i].block) ||
		    (x->v[i - 1].volume == x->v[i].volume && x->v[i - 1].block + x->v[i - 1].count > x->v[i].block))
			return false;
	return true;
}

static int by_place(const void *a, const void *b)
{
	const struct store_extent *x = a, *y = b;

	if (x->volume != y->volume)
		return x->volume < y->volume ? -1 : 1;
	return x->block < y->block ? -1 : x->block > y->block;
}

/* Halves resolved, the later laid over the earlier. */
static void resolve_range(const struct store_extent *v, size_t n, struct store_extents *out)
{
	struct store_extents part = { .v = mem_alloc_array(n, sizeof(*v)), .n = n, .cap = n };

	memcpy(part.v, v, n * sizeof(*v));
	if (n > 1 && !is_resolved(&part)) {
		/* Order does not matter where nothing overlaps. */
		qsort(part.v, n, sizeof(*v), by_place);
		if (!is_resolved(&part)) {
			struct store_extents early = { 0 }, late = { 0 };
			store_extents_fini(&part);
			resolve_range(v, n / 2, &early);
			resolve_range(v + n / 2, n - n / 2, &late);
			store_extents_overlay(&late, &early, &part);
			store_extents_fini(&early);
			store_extents_fini(&late);
		}
	}
	*out = part;
}

void store_extents_resolve(struct store_extents *x)
{
	struct store_extents out = { 0 };

	if (is_resolved(x))
		return;
	resolve_range(x->v, x->n, &out);
	assert(is_resolved(&out));
	store_extents_fini(x);
	*x = out;
}

const struct store_extent *store_extents_find(const struct store_extents *x, uint32_t volume, uint64_t block,
					      uint64_t *run)
{
	size_t low = 0, high = x->n; /* the first that ends after the block */

	while (low < high) {
		const size_t mid = low + (high - low) / 2;
		const struct store_extent *m = &x->v[mid];
		if (m->volume < volume || (m->volume == volume && m->block + m->count <= block))
			low = mid + 1;
		else
			high = mid;
	}
	if (low == x->n || x->v[low].volume != volume)
		return NULL;
	const struct store_extent *f = &x->v[low];
	const bool has = f->block <= block;
	const uint64_t good = has ? f->block + f->count - block : f->block - block;
	if (good < *run)
		*run = good;
	return has ? f : NULL;
}

struct store_layer *store_layer_new(uint64_t seq)
{
	struct store_layer *l = mem_alloc(sizeof(*l));
	l->refs = 1;
	l->seq = seq;
	return l;
}

struct store_layer *store_layer_ref(struct store_layer *l)
{
	atomic_fetch_add(&l->refs, 1);
	return l;
}

void store_layer_unref(struct store_layer *l)
{
	if (!l || atomic_fetch_sub(&l->refs, 1) > 1)
		return;
	for (size_t i = 0; i < l->n_blobs; i++)
		store_blob_unref(l->blobs[i]);
	free(l->blobs);
	store_extents_fini(&l->x);
	free(l);
}

void store_layer_hold(struct store_layer *l, struct store_blob *b)
{
	for (size_t i = l->n_blobs; i > 0; i--)
		if (l->blobs[i - 1] == b)
			return;
	l->blobs = mem_realloc_array(l->blobs, l->n_blobs + 1, sizeof(struct store_blob *));
	l->blobs[l->n_blobs++] = store_blob_ref(b);
}
