/* Reads all that is on disk and checks every checksum, while the store is in use. */
#include "base/clock.h"
#include "base/mem.h"
#include "snapshot/store_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct pass {
	struct store *s;
	bool (*progress)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
	uint64_t done, total;
	uint8_t *data;
};

static int tick(struct pass *p, uint64_t bytes, struct err *e)
{
	p->done += bytes;
	if (p->total < p->done)
		p->total = p->done;
	if (p->progress && !p->progress(p->ctx, p->done, p->total))
		return err_set(e, ERR_CANCELLED, "%s: verification was stopped", p->s->dir);
	return 0;
}

static int verify_layer(struct pass *p, const struct store_layer *l, const char *what, struct err *e)
{
	uint64_t sums[STORE_RUN];

	for (size_t i = 0; i < l->x.n; i++) {
		const struct store_extent *x = &l->x.v[i];
		for (uint64_t skip = 0; x->blob && skip < x->count;) {
			const size_t n = x->count - skip < STORE_RUN ? (size_t)(x->count - skip) : STORE_RUN;
			if (store_extent_read(x, skip, n, p->data, sums, e) < 0 ||
			    store_blocks_check(p->s->salt, x->volume, x->block + skip, n, p->data, sums, what, e) < 0 ||
			    tick(p, (uint64_t)n * STORE_BLOCK, e) < 0)
				return -1;
			skip += n;
		}
	}
	return 0;
}

/* What is committed and not applied. */
static int verify_journal(struct pass *p, struct err *e)
{
	struct store *s = p->s;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	const size_t n = s->n_pending;
	MEM_AUTO struct store_layer **layers = mem_alloc_array(n, sizeof(struct store_layer *));
	for (size_t i = 0; i < n; i++)
		layers[i] = store_layer_ref(s->pending[i]->layer);
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; i < n; i++) {
		if (rc == 0)
			rc = verify_layer(p, layers[i], "journal", e);
		store_layer_unref(layers[i]);
	}
	return rc;
}

static bool undo_listed(struct store *s, const struct store_undo *u)
{
	THREAD_LOCKED(&s->lock);
	for (size_t i = 0; i < s->n_undos; i++)
		if (s->undos[i].from == u->from && s->undos[i].to == u->to)
			return true;
	return false;
}

static int verify_undo(struct pass *p, const struct store_undo *u, struct err *e)
{
	struct err why = ERR_INIT;
	MEM_AUTO char *path = store_undo_path(p->s, u->from, u->to);
	struct store_layer *l = store_undo_load(p->s, u->from, u->to, &why);
	int rc = l ? verify_layer(p, l, path, &why) : -1;

	store_layer_unref(l);
	/* Merged or given up meanwhile: what there is instead was read when it was written. */
	if (rc == 0 || (why.errnum == ENOENT && !undo_listed(p->s, u)))
		return 0;
	*e = why;
	return -1;
}

static int verify_undos(struct pass *p, struct err *e)
{
	struct store *s = p->s;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	const size_t n = s->n_undos;
	MEM_AUTO struct store_undo *undos = mem_alloc_array(n, sizeof(*undos));
	if (n > 0)
		memcpy(undos, s->undos, n * sizeof(*undos));
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = verify_undo(p, &undos[i], e);
	return rc;
}

/* Every retained point can be put together: nothing is missing between it and the heads. And its files are what they were. */
static int verify_points(struct pass *p, struct err *e)
{
	struct store_point *points = NULL;
	size_t n = 0;
	int rc = store_points(p->s, &points, &n, e);

	for (size_t i = 0; rc == 0 && i < n; i++) {
		struct err why = ERR_INIT;
		struct store_view *v = store_view_open(p->s, points[i].seq, &why);
		if (!v && why.cls == ERR_CONFIG) /* given up meanwhile */
			continue;
		rc = v ? store_view_check_files(v, &why) : -1;
		store_view_close(v);
		if (rc < 0)
			*e = why;
		else
			rc = tick(p, 0, e);
	}
	store_points_free(points, n);
	return rc;
}

/* A transaction that stopped half way, for want of space, leaves its blocks in the heads neither old nor new: the journal has them. NULL: there is none. */
static struct store_layer *half_applied(struct store *s)
{
	THREAD_LOCKED(&s->lock);
	return err_is_set(&s->stalled) && s->n_pending > 0 ? store_layer_ref(s->pending[0]->layer) : NULL;
}

/* Of the checksums and blocks those that are in doubt become zeros. */
static void leave_out(const struct store_layer *l, const struct store_head *h, uint64_t block, size_t n, uint8_t *data,
		      uint64_t *sums)
{
	for (size_t i = 0; l && i < n; i++) {
		uint64_t run = n - i;
		if (!store_extents_find(&l->x, h->id, block + i, &run))
			continue;
		memset(data + i * STORE_BLOCK, 0, STORE_BLOCK);
		sums[i] = 0;
	}
}

/* A stretch of a head, while nothing is being applied. */
static int verify_stretch(struct pass *p, struct store_head *h, uint64_t block, size_t n, struct err *e)
{
	uint64_t sums[STORE_RUN];

	THREAD_LOCKED(&p->s->applying);
	if (store_head_read(h, block, n, p->data, sums, e) < 0)
		return -1;
	/* store_head_read leaves out what its checksums say is all zeros. */
	if (store_blob_read_sparse(h->data, block * STORE_BLOCK, p->data, n * STORE_BLOCK, e) < 0)
		return -1;
	struct store_layer *half = half_applied(p->s);
	leave_out(half, h, block, n, p->data, sums);
	store_layer_unref(half);
	return store_blocks_check(p->s->salt, h->id, block, n, p->data, sums, h->data->path, e);
}

static int verify_head(struct pass *p, struct store_head *h, struct err *e)
{
	/* A volume may shrink meanwhile: what is beyond the end reads as zeros, and so do its checksums. */
	const uint64_t blocks = store_blocks_of(store_blob_length(h->data));

	for (uint64_t at = 0; at < blocks;) {
		const uint64_t next = store_head_next(h, at);
		if (next > at) {
			at = next;
			continue;
		}
		const size_t n = blocks - at < STORE_RUN ? (size_t)(blocks - at) : STORE_RUN;
		if (verify_stretch(p, h, at, n, e) < 0 || tick(p, (uint64_t)n * STORE_BLOCK, e) < 0)
			return -1;
		at += n;
	}
	return 0;
}

static int verify_heads(struct pass *p, struct err *e)
{
	struct store *s = p->s;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	const size_t n = s->n_heads;
	MEM_AUTO struct store_head **heads = mem_alloc_array(n, sizeof(*heads));
	for (size_t i = 0; i < n; i++)
		heads[i] = store_head_ref(s->heads[i]);
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; i < n; i++) {
		if (rc == 0)
			rc = verify_head(p, heads[i], e);
		store_head_unref(heads[i]);
	}
	return rc;
}

int store_verify(struct store *s, bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, struct err *e)
{
	struct pass p = { .s = s, .progress = progress, .ctx = ctx };
	struct store_usage u;

	if (store_usage(s, &u, e) < 0)
		return -1;
	pthread_mutex_lock(&s->lock);
	const bool poisoned = err_is_set(&s->poison);
	if (poisoned)
		*e = s->poison;
	pthread_mutex_unlock(&s->lock);
	if (poisoned)
		return err_wrap(e, "%s: cannot be verified after", s->dir);
	p.total = u.head_bytes + u.undo_bytes;
	p.data = mem_alloc_array(STORE_RUN, STORE_BLOCK);
	int rc = store_catalogue_check(s, e);
	if (rc == 0)
		rc = verify_journal(&p, e);
	if (rc == 0)
		rc = verify_undos(&p, e);
	if (rc == 0)
		rc = verify_points(&p, e);
	if (rc == 0)
		rc = verify_heads(&p, e);
	free(p.data);
	return rc < 0 ? err_wrap(e, "verify %s", s->dir) : 0;
}
