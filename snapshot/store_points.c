/* Retained points: listing, giving up, and what goes with them. */
#include "base/mem.h"
#include "base/sys.h"
#include "snapshot/store_impl.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Files of before-images are merged only with ones of about their size, so that a large one is not written again for each small
 * one. */
#define MERGE_RATIO 8u
#define MERGE_ALWAYS (UINT64_C(4) << 20)

char *store_files_path(const struct store *s, uint64_t seq)
{
	return mem_printf("%s/files/%012" PRIu64, s->dir, seq);
}

bool store_points_need(const struct store *s, uint64_t seq)
{
	return s->n_points > 0 && s->points[0]->seq < seq;
}

static uint64_t undo_between(const struct store *s, uint64_t after, uint64_t until)
{
	uint64_t n = 0;
	for (size_t i = 0; i < s->n_undos; i++)
		if (s->undos[i].from > after && s->undos[i].to <= until)
			n += s->undos[i].bytes;
	return n;
}

static void describe(const struct store *s, size_t i, struct store_point *out)
{
	const struct store_entry *p = s->points[i];
	*out = (struct store_point){
		.seq = p->seq,
		.committed_ns = p->committed_ns,
		.bytes = p->bytes,
		.undo_bytes = undo_between(s, p->seq, i + 1 < s->n_points ? s->points[i + 1]->seq : UINT64_MAX),
		.meta = json_deep_copy(p->meta)
	};
}

int store_points(struct store *s, struct store_point **out, size_t *n, struct err *e)
{
	(void)e;
	THREAD_LOCKED(&s->lock);
	*out = mem_alloc_array(s->n_points, sizeof(**out));
	*n = s->n_points;
	for (size_t i = 0; i < s->n_points; i++)
		describe(s, i, &(*out)[i]);
	return 0;
}

void store_points_free(struct store_point *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		json_decref(p[i].meta);
	free(p);
}

static void list_remove(struct store *s, size_t i)
{
	memmove(&s->undos[i], &s->undos[i + 1], (s->n_undos - i - 1) * sizeof(s->undos[0]));
	s->n_undos--;
}

/* Before-images that only points looked at which are gone. */
static void drop_undos(struct store *s)
{
	THREAD_LOCKED(&s->lock);
	const uint64_t oldest = s->n_points > 0 ? s->points[0]->seq : UINT64_MAX;

	while (s->n_undos > 0 && s->undos[0].to <= oldest && s->undos[0].to <= s->saved) {
		MEM_AUTO char *path = store_undo_path(s, s->undos[0].from, s->undos[0].to);
		/* Failing leaves a file too many; the next opening and pruning finds it. */
		sys.unlink(path);
		list_remove(s, 0);
	}
}

static bool point_within(const struct store *s, uint64_t seq)
{
	for (size_t i = 0; i < s->n_points; i++)
		if (s->points[i]->seq == seq)
			return true;
	return false;
}

static bool worth_merging(const struct store_undo *a, const struct store_undo *b)
{
	const uint64_t small = a->bytes < b->bytes ? a->bytes : b->bytes;
	const uint64_t large = a->bytes < b->bytes ? b->bytes : a->bytes;
	return large <= MERGE_ALWAYS || large / MERGE_RATIO <= small;
}

/* Two neighbours with no point between them, both of transactions that will not be applied again. Under lock. */
static bool find_pair(const struct store *s, uint64_t from, struct store_undo *a, struct store_undo *b)
{
	for (size_t i = 0; i + 1 < s->n_undos; i++) {
		const struct store_undo *x = &s->undos[i], *y = &s->undos[i + 1];
		if (x->from < from || x->bad || y->bad || x->to + 1 != y->from || y->to > s->saved ||
		    point_within(s, x->to) || !worth_merging(x, y))
			continue;
		*a = *x;
		*b = *y;
		return true;
	}
	return false;
}

static void replace_pair(struct store *s, const struct store_undo *a, const struct store_undo *b, uint64_t bytes)
{
	THREAD_LOCKED(&s->lock);
	for (size_t i = 0; i + 1 < s->n_undos; i++) {
		if (s->undos[i].from != a->from || s->undos[i].to != a->to)
			continue;
		s->undos[i].to = b->to;
		s->undos[i].bytes = bytes;
		list_remove(s, i + 1);
		break;
	}
	MEM_AUTO char *path_a = store_undo_path(s, a->from, a->to);
	MEM_AUTO char *path_b = store_undo_path(s, b->from, b->to);
	sys.unlink(path_a);
	sys.unlink(path_b);
}

static int merge_undos(struct store *s, struct err *e)
{
	struct store_undo a = { 0 }, b = { 0 };
	uint64_t from = 0, bytes = 0;

	for (;;) {
		pthread_mutex_lock(&s->lock);
		const bool found = find_pair(s, from, &a, &b);
		pthread_mutex_unlock(&s->lock);
		if (!found)
			return 0;
		struct err why = ERR_INIT;
		if (store_undo_merge(s, a, b, &bytes, &why) < 0) {
			/* Two files say the same as one. What does not verify is store_verify's to tell, and no reason to keep points. */
			if (why.cls != ERR_CORRUPT) {
				*e = why;
				return err_wrap(e, "merge before-images");
			}
			from = a.from + 1;
			continue;
		}
		replace_pair(s, &a, &b, bytes);
	}
}

static bool file_listed(const struct store *s, uint64_t seq)
{
	const struct store_fileset *sets[2] = { s->files, s->applied_files };

	if (seq > s->applied || store_view_lists(s, 0, seq))
		return true;
	for (size_t i = 0; i < 2 + s->n_points + s->n_pending; i++) {
		const struct store_fileset *f = i < 2                 ? sets[i]
						: i - 2 < s->n_points ? s->points[i - 2]->files
								      : s->pending[i - 2 - s->n_points]->files;
		for (size_t k = 0; k < f->n; k++)
			if (f->v[k].seq == seq)
				return true;
	}
	return false;
}

void store_files_collect(struct store *s)
{
	MEM_AUTO char *folder = mem_printf("%s/files", s->dir);
	DIR *d = opendir(folder);

	if (!d)
		return;
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
		uint64_t seq = 0;
		int used = 0;
		if (entry->d_name[0] == '.' || sscanf(entry->d_name, "%" SCNu64 "%n", &seq, &used) != 1 ||
		    entry->d_name[used] != '\0')
			continue;
		THREAD_LOCKED(&s->lock);
		if (file_listed(s, seq))
			continue;
		MEM_AUTO char *path = mem_printf("%s/%s", folder, entry->d_name);
		sys.unlink(path);
	}
	closedir(d);
}

int store_points_collect(struct store *s, struct err *e)
{
	drop_undos(s);
	store_files_collect(s);
	store_heads_collect(s);
	return merge_undos(s, e);
}

/* Which ones go, decided without the lock. The latest point stays whatever keep() says. */
static size_t mark_dropping(struct store *s, bool (*keep)(void *ctx, const struct store_point *p), void *ctx)
{
	struct store_point *all = NULL;
	size_t n = 0, marked = 0;
	struct err e = ERR_INIT;

	store_points(s, &all, &n, &e);
	for (size_t i = 0; i + 1 < n; i++) {
		if (keep(ctx, &all[i]))
			continue;
		THREAD_LOCKED(&s->lock);
		for (size_t k = 0; k < s->n_points; k++)
			if (s->points[k]->seq == all[i].seq) {
				s->points[k]->dropping = true;
				marked++;
			}
	}
	store_points_free(all, n);
	return marked;
}

static void finish_dropping(struct store *s, bool done)
{
	size_t kept = 0;

	THREAD_LOCKED(&s->lock);
	for (size_t i = 0; i < s->n_points; i++) {
		struct store_entry *p = s->points[i];
		if (p->dropping && done) {
			store_entry_free(p);
			continue;
		}
		p->dropping = false;
		s->points[kept++] = p;
	}
	s->n_points = kept;
}

int store_prune(struct store *s, bool (*keep)(void *ctx, const struct store_point *p), void *ctx, struct err *e)
{
	THREAD_LOCKED(&s->pruning);
	pthread_mutex_lock(&s->lock);
	const bool poisoned = err_is_set(&s->poison);
	if (poisoned)
		*e = s->poison;
	pthread_mutex_unlock(&s->lock);
	if (poisoned)
		return err_wrap(e, "%s: not pruned, after an error", s->dir);
	if (mark_dropping(s, keep, ctx) > 0) {
		const int rc = store_meta_save(s, e);
		finish_dropping(s, rc == 0);
		if (rc < 0)
			return err_wrap(e, "%s: prune", s->dir);
	}
	const int rc = store_points_collect(s, e);
	pthread_mutex_lock(&s->lock);
	s->poke++; /* there may be space now */
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return rc < 0 ? err_wrap(e, "%s: prune", s->dir) : 0;
}
