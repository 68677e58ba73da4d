/* The applier: one committed transaction after the other goes into the heads. Every step can be done again after a crash. */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "snapshot/store_impl.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Before-images, if anyone looks at what was before; and from now on they look there. */
static int keep_before(struct store *s, const struct store_pending *p, struct err *e)
{
	pthread_mutex_lock(&s->lock);
	const bool need = store_points_need(s, p->seq) || store_view_older(s, p->seq);
	const bool have = store_undo_covers(s, p->seq);
	pthread_mutex_unlock(&s->lock);
	if (!need)
		return 0;
	struct store_layer *l = have ? store_undo_load(s, p->seq, p->seq, e)
				     : store_undo_make(s, p, s->applied_volumes, e);
	if (!l)
		return -1;
	THREAD_LOCKED(&s->lock);
	pthread_rwlock_wrlock(&s->reading);
	store_view_publish(s, p->seq, l);
	store_layer_unref(s->publishing);
	s->publishing = l;
	pthread_rwlock_unlock(&s->reading);
	return 0;
}

static int write_files(struct store *s, const struct store_pending *p, struct err *e)
{
	BUF_AUTO struct buf all = BUF_INIT;
	MEM_AUTO char *path = store_files_path(s, p->seq);

	/* The set is in the order of names, the file in that of offsets; those that were replaced within the transaction leave gaps. */
	for (size_t i = 0; i < p->files->n; i++) {
		const struct store_file *f = &p->files->v[i];
		if (f->seq != p->seq)
			continue;
		const size_t end = (size_t)(f->offset + f->len);
		if (end > all.len) {
			memset(buf_reserve(&all, end - all.len), 0, end - all.len);
			all.len = end;
		}
		if (f->len == 0)
			continue;
		if (store_blob_read(f->blob, f->blob_at, all.data + f->offset, f->len, e) < 0)
			return -1;
		if (store_sum_file(s->salt, all.data + f->offset, f->len) != f->sum)
			return err_set(e, ERR_CORRUPT, "%s: file \"%s\" does not verify", f->blob->path, f->name);
	}
	if (all.len == 0)
		return 0;
	struct store_blob *b = store_blob_open(path, O_RDWR | O_CREAT | O_TRUNC, e);
	const int rc = b ? store_blob_write(b, 0, all.data, all.len, e) : -1;
	store_blob_unref(b);
	if (rc < 0)
		return -1;
	/* Synced by the checkpoint; until then the journal has it. */
	THREAD_LOCKED(&s->lock);
	s->unsynced_files = mem_realloc_array(s->unsynced_files, s->n_unsynced_files + 1, sizeof(uint64_t));
	s->unsynced_files[s->n_unsynced_files++] = p->seq;
	return 0;
}

int store_extent_apply(struct store *s, struct store_sums *w, struct store_reader *r, struct store_head *h,
		       const struct store_extent *x, uint64_t size_bytes, uint8_t *data, struct err *e)
{
	uint64_t sums[STORE_RUN];

	if (!x->blob)
		return store_head_zero(h, w, x->block, x->count, e);
	for (uint64_t skip = 0; skip < x->count;) {
		const size_t n = x->count - skip < STORE_RUN ? (size_t)(x->count - skip) : STORE_RUN;
		if (store_extent_read_ahead(x, r, skip, n, data, sums, e) < 0 ||
		    store_blocks_check(s->salt, x->volume, x->block + skip, n, data, sums, x->blob->path, e) < 0 ||
		    store_head_write(h, w, size_bytes, x->block + skip, n, data, sums, e) < 0)
			return -1;
		skip += n;
	}
	return 0;
}

/* Before it is written to: a checkpoint that ends meanwhile does not count for it. */
static struct store_head *touch(struct store *s, uint32_t id)
{
	THREAD_LOCKED(&s->lock);
	struct store_head *h = store_heads_find(s, id);
	h->unsynced = true;
	return h;
}

/* Of the extents those from *i on that are one volume's. */
static int write_head(struct store *s, const struct store_pending *p, size_t *i, struct store_reader *r, uint8_t *data,
		      struct err *e)
{
	const struct store_extents *x = &p->layer->x;
	const uint32_t id = x->v[*i].volume;
	const struct store_volset_item *it = store_volset_by_id(p->volumes, id);
	struct store_head *h = touch(s, id);
	struct store_sums w = { 0 };

	assert(it && h);
	for (; *i < x->n && x->v[*i].volume == id; (*i)++)
		if (store_extent_apply(s, &w, r, h, &x->v[*i], it->v.size_bytes, data, e) < 0)
			return -1;
	if (store_sums_flush(&w, e) < 0)
		return -1;
	touch(s, id);
	return 0;
}

static int write_heads(struct store *s, const struct store_pending *p, struct err *e)
{
	MEM_AUTO uint8_t *data = mem_alloc_array(STORE_RUN, STORE_BLOCK);
	struct store_reader r = { 0 };
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < p->volumes->n; i++) {
		const struct store_volset_item *it = &p->volumes->v[i];
		const struct store_volset_item *was = store_volset_by_id(s->applied_volumes, it->id);
		if (was && was->v.size_bytes == it->v.size_bytes)
			continue;
		rc = store_head_resize(touch(s, it->id), it->v.size_bytes, e);
		touch(s, it->id);
	}
	for (size_t i = 0; rc == 0 && i < p->layer->x.n;)
		rc = write_head(s, p, &i, &r, data, e);
	store_reader_fini(&r);
	return rc;
}

static void mark_applied(struct store *s, struct store_pending *p)
{
	THREAD_LOCKED(&s->lock);
	assert(s->n_pending > 0 && s->pending[0] == p);
	/* Older ones do not have them. */
	for (size_t i = s->n_points; i > 0 && s->points[i - 1]->seq >= p->seq; i--)
		store_fileset_let_go(s->points[i - 1]->files, p->seq);
	for (size_t i = 0; i < s->n_pending; i++)
		store_fileset_let_go(s->pending[i]->files, p->seq);
	store_fileset_let_go(s->files, p->seq);
	if (s->txn)
		store_fileset_let_go(s->txn->files, p->seq);
	store_view_let_go(s, p->seq);
	store_volset_unref(s->applied_volumes);
	s->applied_volumes = store_volset_ref(p->volumes);
	store_fileset_unref(s->applied_files);
	s->applied_files = store_fileset_ref(p->files);
	s->applied_next_volume = p->next_volume;
	s->applied = p->seq;
	s->redo = p->end;
	s->unsaved_bytes += p->bytes;
	pthread_rwlock_wrlock(&s->reading);
	s->n_pending--;
	memmove(s->pending, s->pending + 1, s->n_pending * sizeof(struct store_pending *));
	store_layer_unref(s->publishing);
	s->publishing = NULL;
	pthread_rwlock_unlock(&s->reading);
	store_pending_free(p);
	pthread_cond_broadcast(&s->changed);
}

/* p: NULL when all is in the heads and only the checkpoint is to be done again. */
static int apply(struct store *s, struct store_pending *p, struct err *e)
{
	if (p) {
		for (size_t i = 0; i < p->volumes->n; i++)
			if (store_heads_ensure(s, p->volumes->v[i].id, false, e) < 0)
				return -1;
		if (keep_before(s, p, e) < 0 || write_files(s, p, e) < 0 || write_heads(s, p, e) < 0)
			return -1;
		mark_applied(s, p);
	}
	pthread_mutex_lock(&s->lock);
	const bool due = !p || store_checkpoint_due(s);
	pthread_mutex_unlock(&s->lock);
	return due ? store_checkpoint(s, false, e) : 0;
}

bool store_may_pass(const struct err *e)
{
	return err_passes(e) || err_is_full(e);
}

/* Under lock. Waits for a reason to try again. */
static void wait_to_pass(struct store *s, uint64_t poke, const struct err *e)
{
	const int64_t until = clock_mono_ns() + NS_PER_S;

	if (!err_is_set(&s->stalled))
		log_warn("store_stalled", "store=%s msg=%s", s->dir, LOG_Q(e->text));
	s->stalled = *e;
	s->tried = poke;
	pthread_cond_broadcast(&s->changed);
	while (!s->stopping && s->poke == poke && thread_cond_wait_until(&s->changed, &s->lock, until) == 0)
		;
}

void *store_apply_main(void *arg)
{
	struct store *s = arg;
	bool unsaved = false;

	pthread_mutex_lock(&s->lock);
	while (!err_is_set(&s->poison)) {
		if (s->n_pending == 0 && !unsaved) {
			s->busy = false;
			pthread_cond_broadcast(&s->changed);
			if (s->stopping)
				break;
			pthread_cond_wait(&s->changed, &s->lock);
			continue;
		}
		struct err e = ERR_INIT;
		struct store_pending *p = s->n_pending > 0 ? s->pending[0] : NULL;
		s->busy = true;
		const uint64_t applied = s->applied, poke = s->poke;
		pthread_mutex_unlock(&s->lock);
		pthread_mutex_lock(&s->applying);
		const int rc = apply(s, p, &e);
		pthread_mutex_unlock(&s->applying);
		pthread_mutex_lock(&s->lock);
		unsaved = rc < 0 && (p == NULL || s->applied != applied);
		if (rc == 0) {
			err_clear(&s->stalled);
			continue;
		}
		if (store_may_pass(&e) && s->stopping)
			break;
		if (!store_may_pass(&e))
			store_poison(s, &e);
		else if (!unsaved || s->n_pending == 0) /* a checkpoint that failed keeps nothing out of the heads */
			wait_to_pass(s, poke, &e);
	}
	s->busy = false;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return NULL;
}
