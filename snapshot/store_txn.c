/* Staging a transaction in the journal, and making it durable. */
#include "base/clock.h"
#include "base/mem.h"
#include "snapshot/store_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int store_poison(struct store *s, const struct err *e)
{
	if (!err_is_set(&s->poison))
		s->poison = *e;
	pthread_cond_broadcast(&s->changed);
	return -1;
}

static uint64_t pending_bytes(const struct store *s)
{
	uint64_t n = 0;
	for (size_t i = 0; i < s->n_pending; i++)
		n += s->pending[i]->bytes;
	return n;
}

/* Waits until the applier has caught up far enough. Under lock. */
static int wait_for_room(struct store *s, struct err *e)
{
	const uint64_t poke = ++s->poke;
	pthread_cond_broadcast(&s->changed);
	for (;;) {
		if (err_is_set(&s->poison)) {
			*e = s->poison;
			err_wrap(e, "the store takes nothing more after an error");
			return err_remedy(
				e, "see to the disk; the store is opened again at the next start of replication");
		}
		if (s->n_pending < STORE_PENDING_TXNS && pending_bytes(s) < STORE_PENDING_BYTES)
			return 0;
		/* An attempt that began after we came: not one that was failing already. */
		if (err_is_set(&s->stalled) && s->tried >= poke) {
			*e = s->stalled;
			return err_wrap(e, "apply");
		}
		pthread_cond_wait(&s->changed, &s->lock);
	}
}

struct store_txn *store_begin(struct store *s, enum store_txn_kind kind, struct err *e)
{
	struct store_txn *t = mem_alloc(sizeof(*t));

	t->s = s;
	t->kind = kind;
	pthread_mutex_lock(&s->lock);
	if (s->txn)
		err_set(e, ERR_REFUSED, "%s: a transaction is open already", s->dir);
	else if (wait_for_room(s, e) < 0)
		err_wrap(e, "%s", s->dir);
	else
		s->txn = t;
	const bool ours = s->txn == t;
	if (ours) {
		t->seq = s->committed + 1;
		t->volumes = store_volset_ref(s->volumes);
		t->files = store_fileset_copy(s->files);
		t->next_volume = s->next_volume;
	}
	pthread_mutex_unlock(&s->lock);
	if (!ours) {
		free(t);
		return NULL;
	}
	t->layer = store_layer_new(t->seq);
	if (store_journal_begin(&s->journal, t->seq, kind, &t->start, e) == 0)
		return t;
	err_wrap(e, "%s: begin", s->dir);
	t->start.segment = 0;
	store_abort(t);
	return NULL;
}

static void txn_free(struct store_txn *t)
{
	struct store *s = t->s;

	pthread_mutex_lock(&s->lock);
	assert(s->txn == t);
	s->txn = NULL;
	/* A fileset that is freed gives back references to segments. */
	store_fileset_unref(t->files);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	store_layer_unref(t->layer);
	store_volset_unref(t->volumes);
	free(t);
}

void store_abort(struct store_txn *t)
{
	struct err e = ERR_INIT;

	if (!t)
		return;
	struct store *s = t->s;
	if (t->start.segment > 0 && store_journal_undo(&s->journal, t->start, &e) < 0) {
		/* What is left behind could be taken for the next one's. */
		pthread_mutex_lock(&s->lock);
		store_poison(s, &e);
		pthread_mutex_unlock(&s->lock);
	} else if (s->journal.sync_failed) {
		err_set(&e, ERR_SYS, "%s: a sync failed", s->dir);
		pthread_mutex_lock(&s->lock);
		store_poison(s, err_is_set(&t->failed) ? &t->failed : &e);
		pthread_mutex_unlock(&s->lock);
	}
	txn_free(t);
}

/* A call of the transaction failed: so has the transaction. */
static int failed(struct store_txn *t, struct err *e)
{
	if (!err_is_set(&t->failed))
		t->failed = *e;
	return -1;
}

static int check_usable(const struct store_txn *t, struct err *e)
{
	if (!err_is_set(&t->failed))
		return 0;
	*e = t->failed;
	return -1;
}

static int refuse(struct store_txn *t, struct err *e, const char *what)
{
	err_set(e, ERR_REFUSED, "%s: %s", t->s->dir, what);
	return failed(t, e);
}

static const struct store_volset_item *same_volume(const struct store_volset *s, const struct store_volume *v)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].v.kind == v->kind && strcmp(s->v[i].v.name, v->name) == 0)
			return &s->v[i];
	return NULL;
}

static const char *bad_volume(const struct store_volume *v, const struct store_volset *so_far)
{
	if (v->kind != STORE_RAM && v->kind != STORE_DISK)
		return "a volume is neither RAM nor disk";
	if (!memchr(v->name, 0, sizeof(v->name)) || v->name[0] == '\0')
		return "a volume has no name";
	if (v->size_bytes > STORE_MAX_BYTES)
		return "a volume is larger than 64 TiB";
	if (v->kind == STORE_RAM && v->size_bytes % STORE_BLOCK != 0)
		return "a RAM volume is not a multiple of 4 KiB";
	return same_volume(so_far, v) ? "two volumes have the same name" : NULL;
}

static int record_volumes(struct store_txn *t, struct err *e)
{
	BUF_AUTO struct buf b = BUF_INIT;
	const struct store_rec r = { .type = STORE_REC_VOLUMES, .txn = t->seq };

	buf_put_be32(&b, t->next_volume);
	buf_put_be32(&b, (uint32_t)t->volumes->n);
	for (size_t i = 0; i < t->volumes->n; i++) {
		const struct store_volset_item *it = &t->volumes->v[i];
		const size_t len = strlen(it->v.name);
		buf_put_be32(&b, it->id);
		buf_put_be32(&b, it->v.kind);
		buf_put_be64(&b, it->v.size_bytes);
		buf_put_u8(&b, (uint8_t)len);
		buf_append(&b, it->v.name, len);
	}
	return store_journal_record(&t->s->journal, r, b.data, b.len, NULL, 0, t->layer, NULL, NULL, e);
}

void store_txn_shrunk(struct store_layer *l, const struct store_volset *before, const struct store_volset *now)
{
	for (size_t i = 0; i < now->n; i++) {
		const struct store_volset_item *was = store_volset_by_id(before, now->v[i].id);
		const uint64_t blocks = store_blocks_of(now->v[i].v.size_bytes);
		const uint64_t had = was ? store_blocks_of(was->v.size_bytes) : 0;
		if (had > blocks) {
			const struct store_extent x = { .volume = now->v[i].id, .block = blocks, .count = had - blocks };
			store_extents_add(&l->x, &x);
		}
	}
}

/* A volume that now ends within a block keeps no more of it than is its own. */
static int trim_last_blocks(struct store_txn *t, const struct store_volset *before, struct err *e)
{
	uint8_t data[STORE_BLOCK];
	struct store_view *newest = NULL;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < t->volumes->n; i++) {
		const struct store_volset_item *now = &t->volumes->v[i];
		const struct store_volset_item *was = store_volset_by_id(before, now->id);
		const size_t keep = (size_t)(now->v.size_bytes % STORE_BLOCK);
		if (!was || was->v.size_bytes <= now->v.size_bytes || keep == 0)
			continue;
		if (!newest && !(newest = store_view_newest(t->s, e)))
			return -1;
		rc = store_view_read(newest, (uint32_t)(was - before->v), now->v.size_bytes / STORE_BLOCK, 1, data,
				     NULL, e);
		if (rc == 0)
			rc = store_txn_block(t, (uint32_t)i, now->v.size_bytes / STORE_BLOCK, data, e);
	}
	store_view_close(newest);
	return rc;
}

int store_txn_volumes(struct store_txn *t, const struct store_volume *v, size_t n, struct err *e)
{
	if (check_usable(t, e) < 0)
		return -1;
	if (t->touched)
		return refuse(t, e, "the list of volumes comes first in a transaction");
	if (n > STORE_MAX_VOLUMES)
		return refuse(t, e, "too many volumes");
	t->touched = true;
	struct store_volset *now = store_volset_new(), *before = t->volumes;
	const char *why = NULL;
	for (size_t i = 0; i < n && !why; i++) {
		why = bad_volume(&v[i], now);
		if (why)
			break;
		const struct store_volset_item *was = same_volume(before, &v[i]);
		struct store_volset_item *it = &now->v[now->n++];
		it->id = was ? was->id : t->next_volume++;
		it->v.kind = v[i].kind;
		it->v.size_bytes = v[i].size_bytes;
		memcpy(it->v.name, v[i].name, strlen(v[i].name));
	}
	if (why) {
		store_volset_unref(now);
		return refuse(t, e, why);
	}
	t->volumes = now;
	store_txn_shrunk(t->layer, before, now);
	int rc = record_volumes(t, e);
	if (rc == 0)
		rc = trim_last_blocks(t, before, e);
	store_volset_unref(before);
	return rc < 0 ? failed(t, e) : 0;
}

int store_txn_zeros(struct store_txn *t, uint32_t v, uint64_t block, uint64_t n, struct err *e)
{
	if (check_usable(t, e) < 0)
		return -1;
	t->touched = true;
	if (v >= t->volumes->n)
		return refuse(t, e, "there is no such volume");
	const struct store_volset_item *it = &t->volumes->v[v];
	const uint64_t blocks = store_blocks_of(it->v.size_bytes);
	if (block > blocks || n > blocks - block)
		return refuse(t, e, "a block is beyond the end of its volume");
	if (n == 0)
		return 0;
	return store_journal_zeros(&t->s->journal, t->seq, it->id, block, n, t->layer, e) < 0 ? failed(t, e) : 0;
}

int store_txn_block(struct store_txn *t, uint32_t v, uint64_t block, const uint8_t *data, struct err *e)
{
	uint8_t last[STORE_BLOCK];

	if (!data || store_is_zero(data, STORE_BLOCK))
		return store_txn_zeros(t, v, block, 1, e);
	if (check_usable(t, e) < 0)
		return -1;
	t->touched = true;
	if (v >= t->volumes->n)
		return refuse(t, e, "there is no such volume");
	const struct store_volset_item *it = &t->volumes->v[v];
	if (block >= store_blocks_of(it->v.size_bytes))
		return refuse(t, e, "a block is beyond the end of its volume");
	const uint64_t left = it->v.size_bytes - block * STORE_BLOCK;
	if (left < STORE_BLOCK) {
		memset(last, 0, sizeof(last));
		memcpy(last, data, (size_t)left);
		data = last;
		if (store_is_zero(last, sizeof(last)))
			return store_txn_zeros(t, v, block, 1, e);
	}
	const int rc = store_journal_block(&t->s->journal, t->s->salt, t->seq, it->id, block, data, t->layer, e);
	return rc < 0 ? failed(t, e) : 0;
}

int store_txn_file(struct store_txn *t, const char *name, const void *data, size_t len, struct err *e)
{
	struct store *s = t->s;
	const size_t name_len = strlen(name);
	BUF_AUTO struct buf head = BUF_INIT;
	struct store_blob *blob = NULL;
	uint64_t at = 0;

	if (check_usable(t, e) < 0)
		return -1;
	t->touched = true;
	if (name_len == 0 || name_len > STORE_NAME_MAX || len > STORE_MAX_FILE)
		return refuse(t, e, "a file's name or its contents are too long");
	if (!store_fileset_find(t->files, name) && t->files->n == STORE_MAX_FILES)
		return refuse(t, e, "too many files");
	buf_put_u8(&head, (uint8_t)name_len);
	buf_append(&head, name, name_len);
	const struct store_rec r = { .type = STORE_REC_FILE, .txn = t->seq };
	if (store_journal_record(&s->journal, r, head.data, head.len, data, len, t->layer, &blob, &at, e) < 0)
		return failed(t, e);
	const struct store_file f = { .name = mem_strdup(name),
				      .seq = t->seq,
				      .offset = t->file_bytes,
				      .len = len,
				      .sum = store_sum_file(s->salt, len ? data : "", len),
				      .blob = store_blob_ref(blob),
				      .blob_at = at };
	THREAD_LOCKED(&s->lock);
	store_fileset_put(t->files, f);
	t->file_bytes += len;
	return 0;
}

static int check_space(struct store_txn *t, struct err *e)
{
	struct store_usage u;

	if (t->s->opts.max_bytes == 0)
		return 0;
	if (store_usage(t->s, &u, e) < 0)
		return -1;
	const uint64_t used = u.journal_bytes + u.head_bytes + u.undo_bytes + t->s->journal.used;
	if (used <= t->s->opts.max_bytes)
		return 0;
	err_set(e, ERR_REFUSED, "%s: %llu MiB used, with this transaction, are more than the %llu MiB it may have",
		t->s->dir, (unsigned long long)(used >> 20), (unsigned long long)(t->s->opts.max_bytes >> 20));
	return err_remedy(e, "keep fewer points, or allow the store more space");
}

/* The record that makes it count. */
static int write_commit(struct store_txn *t, int64_t now, const char *meta, struct err *e)
{
	struct store_journal *j = &t->s->journal;
	BUF_AUTO struct buf b = BUF_INIT;

	if (store_journal_end_run(j, t->layer, e) < 0 || check_space(t, e) < 0)
		return -1;
	buf_put_be64(&b, (uint64_t)now);
	buf_put_be64(&b, j->records);
	buf_put_be64(&b, j->bytes);
	buf_put_be64(&b, j->chain);
	const struct store_rec r = { .type = STORE_REC_COMMIT, .txn = t->seq, .a = t->kind };
	if (store_journal_record(j, r, b.data, b.len, meta, strlen(meta), t->layer, NULL, NULL, e) < 0)
		return -1;
	return store_journal_sync(j, e);
}

void store_publish(struct store *s, struct store_pending *p)
{
	if (p->kind == STORE_TXN_POINT) {
		struct store_entry *entry = mem_alloc(sizeof(*entry));
		*entry = (struct store_entry){ .seq = p->seq,
					       .committed_ns = p->committed_ns,
					       .bytes = p->bytes,
					       .meta = json_incref(p->meta),
					       .volumes = store_volset_ref(p->volumes),
					       .files = store_fileset_ref(p->files) };
		s->points = mem_realloc_array(s->points, s->n_points + 1, sizeof(struct store_entry *));
		s->points[s->n_points++] = entry;
		s->last_point = p->seq;
	}
	pthread_rwlock_wrlock(&s->reading);
	s->pending = mem_realloc_array(s->pending, s->n_pending + 1, sizeof(struct store_pending *));
	s->pending[s->n_pending++] = p;
	pthread_rwlock_unlock(&s->reading);
	s->committed = p->seq;
	s->next_volume = p->next_volume;
	store_volset_unref(s->volumes);
	s->volumes = store_volset_ref(p->volumes);
	store_fileset_unref(s->files);
	s->files = store_fileset_ref(p->files);
	pthread_cond_broadcast(&s->changed);
}

void store_txn_make_part(struct store_txn *t)
{
	t->kind = STORE_TXN_PART;
}

int store_commit(struct store_txn *t, const json_t *meta, uint64_t *seq, struct err *e)
{
	struct store *s = t->s;
	const int64_t now = clock_wall_ns();
	char *text = meta ? json_dumps(meta, JSON_COMPACT) : mem_strdup("{}");

	if (err_is_set(&t->failed))
		*e = t->failed;
	else if (!text || (meta && !json_is_object(meta)) || strlen(text) > STORE_MAX_META)
		refuse(t, e, "meta is not a JSON object of at most 1 MiB");
	else if (write_commit(t, now, text, e) < 0)
		failed(t, e);
	free(text);
	if (err_is_set(&t->failed)) {
		store_abort(t);
		return -1;
	}
	struct store_pending *p = mem_alloc(sizeof(*p));
	*p = (struct store_pending){ .seq = t->seq,
				     .kind = t->kind,
				     .committed_ns = now,
				     .bytes = s->journal.bytes,
				     .layer = store_layer_ref(t->layer),
				     .volumes = store_volset_ref(t->volumes),
				     .next_volume = t->next_volume,
				     .meta = meta ? json_deep_copy(meta) : json_object(),
				     .end = store_journal_pos(&s->journal) };
	store_extents_resolve(&p->layer->x);
	if (seq)
		*seq = t->seq;
	pthread_mutex_lock(&s->lock);
	p->files = store_fileset_ref(t->files);
	store_publish(s, p);
	pthread_mutex_unlock(&s->lock);
	txn_free(t);
	return 0;
}
