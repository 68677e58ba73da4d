/* Reading a point: layers over the heads, the first that has a block wins. */
#include "base/mem.h"
#include "snapshot/store_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS_MAX 16u /* then they are laid over each other */

struct store_view {
	/* fixed after opening */
	struct store *s;
	bool newest; /* reads as of the call */
	uint64_t seq;
	json_t *meta;
	struct store_volset *volumes;
	struct store_fileset *files;                 /* its blobs: under store.lock */
	struct store_head *heads[STORE_MAX_VOLUMES]; /* NULL: not made yet; under store.lock */

	/* changed with lock and reading held */
	struct store_layer **layers; /* the journal's, newest first; then before-images, oldest first */
	size_t n_layers;
	bool loading; /* before-images are still to be put between those */
	struct store_view *next;
};

static void add_layer(struct store_view *v, struct store_layer *l)
{
	v->layers = mem_realloc_array(v->layers, v->n_layers + 1, sizeof(struct store_layer *));
	v->layers[v->n_layers++] = store_layer_ref(l);
}

/* Both as one. */
static struct store_layer *joined(struct store_layer *top, struct store_layer *bottom)
{
	struct store_layer *l = store_layer_new(bottom->seq);

	store_extents_overlay(&top->x, &bottom->x, &l->x);
	for (size_t i = 0; i < l->x.n; i++)
		if (l->x.v[i].blob)
			store_layer_hold(l, l->x.v[i].blob);
	return l;
}

static void join_layers(struct store_view *v)
{
	while (v->n_layers > LAYERS_MAX && !v->loading) {
		size_t kept = 0;
		for (size_t i = 0; i < v->n_layers; i += 2) {
			struct store_layer *l = v->layers[i];
			if (i + 1 < v->n_layers) {
				struct store_layer *b = v->layers[i + 1];
				struct store_layer *both = joined(l, b);
				store_layer_unref(l);
				store_layer_unref(b);
				l = both;
			}
			v->layers[kept++] = l;
		}
		v->n_layers = kept;
	}
}

void store_view_publish(struct store *s, uint64_t seq, struct store_layer *l)
{
	for (struct store_view *v = s->views; v; v = v->next)
		if (!v->newest && v->seq < seq) {
			add_layer(v, l);
			join_layers(v);
		}
}

bool store_view_older(const struct store *s, uint64_t seq)
{
	for (const struct store_view *v = s->views; v; v = v->next)
		if (!v->newest && v->seq < seq)
			return true;
	return false;
}

bool store_view_lists(const struct store *s, uint32_t volume, uint64_t file_seq)
{
	for (const struct store_view *v = s->views; v; v = v->next) {
		if (volume && store_volset_by_id(v->volumes, volume))
			return true;
		for (size_t i = 0; file_seq && i < v->files->n; i++)
			if (v->files->v[i].seq == file_seq)
				return true;
	}
	return false;
}

void store_view_let_go(struct store *s, uint64_t seq)
{
	for (const struct store_view *v = s->views; v; v = v->next)
		store_fileset_let_go(v->files, seq);
}

static struct store_entry *find_point(const struct store *s, uint64_t seq)
{
	for (size_t i = s->n_points; i > 0; i--)
		if (seq == 0 || s->points[i - 1]->seq == seq)
			return s->points[i - 1];
	return NULL;
}

/* Under lock. */
static void enlist(struct store *s, struct store_view *v)
{
	v->next = s->views;
	s->views = v;
}

static void delist(struct store *s, struct store_view *v)
{
	for (struct store_view **p = &s->views; *p; p = &(*p)->next)
		if (*p == v) {
			*p = v->next;
			return;
		}
}

static struct store_view *view_new(struct store *s, uint64_t seq, struct store_volset *volumes,
				   struct store_fileset *files)
{
	struct store_view *v = mem_alloc(sizeof(*v));

	v->s = s;
	v->seq = seq;
	v->volumes = store_volset_ref(volumes);
	v->files = store_fileset_copy(files);
	for (size_t i = 0; i < volumes->n; i++) {
		struct store_head *h = store_heads_find(s, volumes->v[i].id);
		v->heads[i] = h ? store_head_ref(h) : NULL;
	}
	return v;
}

/* What the journal holds up to the point, and the before-images that are to be loaded. Under lock. */
static size_t collect(struct store *s, struct store_view *v, struct store_undo *undos)
{
	size_t n = 0;

	for (size_t i = s->n_pending; i > 0; i--)
		if (s->pending[i - 1]->seq <= v->seq)
			add_layer(v, s->pending[i - 1]->layer);
	for (size_t i = 0; i < s->n_undos; i++)
		/* Also of the transaction that is going into the heads, or was when the host crashed. */
		if (s->undos[i].to > v->seq)
			undos[n++] = s->undos[i];
	return n;
}

/* From the point on to what is in the heads, nothing may be missing. */
static int check_chain(const struct store *s, const struct store_view *v, const struct store_undo *u, size_t n,
		       struct err *e)
{
	uint64_t next = v->seq + 1;

	for (size_t i = 0; i < n; i++) {
		if (u[i].from > next)
			break;
		if (u[i].bad)
			return err_set(e, ERR_CORRUPT, "%s: point %llu: its before-images do not verify", s->dir,
				       (unsigned long long)v->seq);
		next = u[i].to + 1;
	}
	if (next <= s->applied)
		return err_set(e, ERR_CORRUPT, "%s: point %llu: before-images of transaction %llu are missing", s->dir,
			       (unsigned long long)v->seq, (unsigned long long)next);
	return 0;
}

/* -1 with ENOENT: store_prune has merged or removed files meanwhile; what it lists now is there. */
static int load_chain_once(struct store *s, struct store_view *v, struct err *e)
{
	MEM_AUTO struct store_undo *undos = NULL;
	struct store_layer **loaded = NULL;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	undos = mem_alloc_array(s->n_undos, sizeof(*undos));
	const size_t n = collect(s, v, undos);
	rc = check_chain(s, v, undos, n, e);
	struct store_layer *now = s->publishing && s->publishing->seq > v->seq ? store_layer_ref(s->publishing) : NULL;
	/* From here on the applier tells this view what it overwrites; what comes from disk goes before that. */
	const size_t before = v->n_layers;
	if (rc == 0) {
		pthread_rwlock_wrlock(&s->reading);
		if (now)
			add_layer(v, now);
		v->loading = true;
		enlist(s, v);
		pthread_rwlock_unlock(&s->reading);
	}
	pthread_mutex_unlock(&s->lock);
	store_layer_unref(now);
	if (rc < 0)
		return -1;
	loaded = mem_alloc_array(n, sizeof(struct store_layer *));
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = (loaded[i] = store_undo_load(s, undos[i].from, undos[i].to, e)) ? 0 : -1;
	pthread_mutex_lock(&s->lock);
	pthread_rwlock_wrlock(&s->reading);
	v->loading = false;
	if (rc == 0) {
		v->layers = mem_realloc_array(v->layers, v->n_layers + n + 1, sizeof(struct store_layer *));
		if (n > 0) {
			memmove(v->layers + before + n, v->layers + before,
				(v->n_layers - before) * sizeof(struct store_layer *));
			memcpy(v->layers + before, loaded, n * sizeof(struct store_layer *));
			v->n_layers += n;
		}
		join_layers(v);
	} else {
		delist(s, v);
		for (size_t i = 0; i < n; i++)
			store_layer_unref(loaded[i]);
	}
	pthread_rwlock_unlock(&s->reading);
	pthread_mutex_unlock(&s->lock);
	free(loaded);
	return rc;
}

static void drop_layers(struct store_view *v)
{
	for (size_t i = 0; i < v->n_layers; i++)
		store_layer_unref(v->layers[i]);
	v->n_layers = 0;
}

static int load_chain(struct store *s, struct store_view *v, struct err *e)
{
	for (int tries = 0;; tries++) {
		struct err why = ERR_INIT;
		if (load_chain_once(s, v, &why) == 0)
			return 0;
		drop_layers(v);
		if (why.errnum != ENOENT || tries == 100) {
			*e = why;
			return -1;
		}
	}
}

static void view_free(struct store_view *v)
{
	drop_layers(v);
	for (size_t i = 0; i < STORE_MAX_VOLUMES; i++)
		store_head_unref(v->heads[i]);
	free(v->layers);
	json_decref(v->meta);
	store_volset_unref(v->volumes);
	store_fileset_unref(v->files);
	free(v);
}

struct store_view *store_view_open(struct store *s, uint64_t seq, struct err *e)
{
	pthread_mutex_lock(&s->lock);
	const struct store_entry *p = find_point(s, seq);
	struct store_view *v = NULL;
	if (p) {
		v = view_new(s, p->seq, p->volumes, p->files);
		v->meta = json_deep_copy(p->meta);
	} else if (seq) {
		err_set(e, ERR_CONFIG, "%s: there is no point %llu", s->dir, (unsigned long long)seq);
	} else {
		err_set(e, ERR_CONFIG, "%s: there is no point yet", s->dir);
	}
	pthread_mutex_unlock(&s->lock);
	if (!v || load_chain(s, v, e) == 0)
		return v;
	view_free(v);
	return NULL;
}

struct store_view *store_view_newest(struct store *s, struct err *e)
{
	(void)e;
	THREAD_LOCKED(&s->lock);
	struct store_view *v = view_new(s, s->committed, s->volumes, s->files);
	v->newest = true;
	v->meta = json_object();
	enlist(s, v);
	return v;
}

void store_view_close(struct store_view *v)
{
	if (!v)
		return;
	struct store *s = v->s;
	pthread_mutex_lock(&s->lock);
	pthread_rwlock_wrlock(&s->reading);
	delist(s, v);
	pthread_rwlock_unlock(&s->reading);
	pthread_mutex_unlock(&s->lock);
	view_free(v);
}

/* A view of the newest contents follows what is committed. Under lock. */
static void follow(struct store_view *v)
{
	struct store *s = v->s;

	if (!v->newest || v->seq == s->committed)
		return;
	for (size_t i = 0; i < STORE_MAX_VOLUMES; i++) {
		store_head_unref(v->heads[i]);
		v->heads[i] = NULL;
	}
	v->seq = s->committed;
	store_volset_unref(v->volumes);
	v->volumes = store_volset_ref(s->volumes);
	store_fileset_unref(v->files);
	v->files = store_fileset_copy(s->files);
}

uint64_t store_view_seq(const struct store_view *v)
{
	return v->seq;
}

const json_t *store_view_meta(const struct store_view *v)
{
	return v->meta;
}

static size_t copy_volumes(const struct store_volset *s, struct store_volume *out, size_t max)
{
	for (size_t i = 0; i < s->n && i < max; i++)
		out[i] = s->v[i].v;
	return s->n;
}

size_t store_volumes(struct store *s, struct store_volume *out, size_t max)
{
	THREAD_LOCKED(&s->lock);
	return copy_volumes(s->volumes, out, max);
}

size_t store_view_volumes(const struct store_view *v, struct store_volume *out, size_t max)
{
	return copy_volumes(v->volumes, out, max);
}

/* Who has the block, for how many from there on. With reading held. */
static const struct store_extent *look_up(const struct store_view *v, uint32_t id, uint64_t block, uint64_t *run)
{
	const struct store *s = v->s;
	const struct store_extent *x = NULL;

	for (size_t i = 0; !x && i < v->n_layers; i++)
		x = store_extents_find(&v->layers[i]->x, id, block, run);
	for (size_t i = v->newest ? s->n_pending : 0; !x && i > 0; i--)
		x = store_extents_find(&s->pending[i - 1]->layer->x, id, block, run);
	return x;
}

static int read_run(struct store_view *v, uint32_t volume, uint64_t block, size_t max, uint8_t *out, bool *zero,
		    size_t *done, struct err *e)
{
	const struct store *s = v->s;
	const uint32_t id = v->volumes->v[volume].id;
	uint64_t sums[STORE_RUN];
	uint64_t run = max < STORE_RUN ? max : STORE_RUN;
	const struct store_extent *x = look_up(v, id, block, &run);
	const struct store_head *h = v->heads[volume];
	const size_t n = (size_t)run;
	const char *what = x ? (x->blob ? x->blob->path : "zeros") : h ? h->data->path : "zeros";
	int rc = 0;

	if (x) {
		rc = store_extent_read(x, block - x->block, n, out, sums, e);
	} else if (h) {
		rc = store_head_read(h, block, n, out, sums, e);
	} else {
		memset(out, 0, n * STORE_BLOCK);
		memset(sums, 0, n * sizeof(*sums));
	}
	if (rc == 0)
		rc = store_blocks_check(s->salt, id, block, n, out, sums, what, e);
	for (size_t i = 0; zero && rc == 0 && i < n; i++)
		zero[i] = sums[i] == 0;
	*done = n;
	return rc;
}

/* A head that was made after the view was opened. Under lock. */
static void find_heads(struct store_view *v)
{
	for (size_t i = 0; i < v->volumes->n; i++) {
		struct store_head *h = v->heads[i] ? NULL : store_heads_find(v->s, v->volumes->v[i].id);
		if (h)
			v->heads[i] = store_head_ref(h);
	}
}

int store_view_read(struct store_view *v, uint32_t volume, uint64_t block, size_t n, uint8_t *out, bool *zero,
		    struct err *e)
{
	struct store *s = v->s;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	follow(v);
	find_heads(v);
	pthread_rwlock_rdlock(&s->reading);
	pthread_mutex_unlock(&s->lock);
	const uint64_t blocks = volume < v->volumes->n ? store_blocks_of(v->volumes->v[volume].v.size_bytes) : 0;
	if (block > blocks || n > blocks - block)
		rc = err_set(e, ERR_CONFIG, "%s: volume %u has no block %llu", s->dir, volume,
			     (unsigned long long)(block + n));
	for (size_t done = 0; rc == 0 && n > 0; n -= done) {
		rc = read_run(v, volume, block, n, out, zero, &done, e);
		block += done;
		out += done * STORE_BLOCK;
		zero = zero ? zero + done : NULL;
	}
	pthread_rwlock_unlock(&s->reading);
	return rc;
}

char *store_view_file(struct store_view *v, const char *name, size_t *len, struct err *e)
{
	struct store *s = v->s;
	struct store_blob *blob = NULL;

	pthread_mutex_lock(&s->lock);
	follow(v);
	const struct store_file *found = store_fileset_find(v->files, name);
	const struct store_file f = found ? *found : (struct store_file){ 0 };
	if (found)
		blob = store_blob_ref(f.blob);
	pthread_mutex_unlock(&s->lock);
	if (!found) {
		err_set(e, ERR_CONFIG, "%s: there is no file \"%s\"", s->dir, name);
		return NULL;
	}
	char *data = mem_alloc(f.len + 1);
	int rc = 0;
	if (f.len > 0 && !blob) {
		MEM_AUTO char *path = store_files_path(s, f.seq);
		blob = store_blob_open(path, O_RDONLY, e);
		rc = blob ? store_blob_read(blob, f.offset, data, f.len, e) : -1;
	} else if (f.len > 0) {
		rc = store_blob_read(blob, f.blob_at, data, f.len, e);
	}
	if (rc == 0 && store_sum_file(s->salt, data, f.len) != f.sum)
		rc = err_set(e, ERR_CORRUPT, "%s: file \"%s\" of transaction %llu does not verify", s->dir, name,
			     (unsigned long long)f.seq);
	store_blob_unref(blob);
	if (rc == 0) {
		if (len)
			*len = f.len;
		return data;
	}
	free(data);
	return NULL;
}

int store_view_check_files(struct store_view *v, struct err *e)
{
	for (size_t i = 0; i < v->files->n; i++) {
		MEM_AUTO char *data = store_view_file(v, v->files->v[i].name, NULL, e);
		if (!data)
			return -1;
	}
	return 0;
}

static char *head_path(struct store_view *v, uint32_t volume, bool *saved, struct err *e)
{
	struct store *s = v->s;

	THREAD_LOCKED(&s->lock);
	follow(v);
	find_heads(v);
	if (volume >= v->volumes->n || v->volumes->v[volume].v.kind != STORE_DISK) {
		err_set(e, ERR_CONFIG, "%s: there is no disk %u", s->dir, volume);
		return NULL;
	}
	if (v->seq != s->committed || s->n_pending > 0 || !v->heads[volume]) {
		err_set(e, ERR_REFUSED, "%s: the head image is not what it was at point %llu", s->dir,
			(unsigned long long)v->seq);
		return NULL;
	}
	*saved = s->saved == s->applied;
	return mem_strdup(v->heads[volume]->data->path);
}

char *store_view_head_path(struct store_view *v, uint32_t volume, struct err *e)
{
	bool saved = false;
	char *path = head_path(v, volume, &saved, e);

	/* A VM is going to write to it: the journal must not be applied once more, and what it has not written must be there after a loss of power. */
	if (!path || saved || store_checkpoint(v->s, false, e) == 0)
		return path;
	free(path);
	return NULL;
}
