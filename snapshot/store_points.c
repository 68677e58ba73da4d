/* Retained points: listing, giving up, and what goes with them. */
#include "base/mem.h"
#include "base/sys.h"
#include "snapshot/store_impl.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Files of before-images are merged only with what is about as large: so each block is written again a few times at most, however many points there
 * were. */
#define MERGE_RATIO 2u
#define MERGE_ALWAYS (UINT64_C(64) << 10)
#define MERGE_MAX 64u

char *store_files_path(const struct store *s, uint64_t seq)
{
	return mem_printf("%s/files/%012" PRIu64, s->dir, seq);
}

bool store_points_need(const struct store *s, uint64_t seq)
{
	return (s->n_points > 0 && s->points[0]->seq < seq) || s->ghost > s->saved;
}

/* The first point with that number, or a higher one. Under lock. */
static size_t point_from(const struct store *s, uint64_t seq)
{
	size_t low = 0, high = s->n_points;

	while (low < high) {
		const size_t mid = low + (high - low) / 2;
		if (s->points[mid]->seq < seq)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static bool is_point(const struct store *s, uint64_t seq)
{
	const size_t i = point_from(s, seq);
	return i < s->n_points && s->points[i]->seq == seq;
}

/* *k: where the last search ended; for one that rises. */
static uint64_t undo_between(const struct store *s, uint64_t after, uint64_t until, size_t *k)
{
	uint64_t n = 0;

	while (*k < s->n_undos && s->undos[*k].from <= after)
		(*k)++;
	for (size_t i = *k; i < s->n_undos && s->undos[i].to <= until; i++)
		n += store_undo_bytes(s, &s->undos[i]);
	return n;
}

static void describe(const struct store *s, size_t i, size_t *undo, struct store_point *out)
{
	const struct store_entry *p = s->points[i];
	*out = (struct store_point){
		.seq = p->seq,
		.committed_ns = p->committed_ns,
		.bytes = p->bytes,
		.undo_bytes = undo_between(s, p->seq, i + 1 < s->n_points ? s->points[i + 1]->seq : UINT64_MAX, undo),
		.meta = json_deep_copy(p->meta)
	};
}

int store_points(struct store *s, struct store_point **out, size_t *n, struct err *e)
{
	(void)e;
	THREAD_LOCKED(&s->lock);
	*out = mem_alloc_array(s->n_points, sizeof(**out));
	*n = s->n_points;
	for (size_t i = 0, undo = 0; i < s->n_points; i++)
		describe(s, i, &undo, &(*out)[i]);
	return 0;
}

bool store_latest(struct store *s, struct store_point *out, size_t *n)
{
	THREAD_LOCKED(&s->lock);
	*n = s->n_points;
	if (s->n_points == 0)
		return false;
	const struct store_entry *p = s->points[s->n_points - 1];
	*out = (struct store_point){
		.seq = p->seq, .committed_ns = p->committed_ns, .bytes = p->bytes, .meta = json_deep_copy(p->meta)
	};
	return true;
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

/* Neighbours with no point between them, of transactions that will not be applied again. Under lock. */
static bool may_merge(const struct store *s, const struct store_undo *x, const struct store_undo *y)
{
	return !x->bad && !y->bad && x->to + 1 == y->from && y->to <= s->saved && !is_point(s, x->to);
}

/* From [*first, end), whose neighbours may be merged, those that are worth it: from the newest back, as long as the next is not much larger than all
 * that are newer. How many. */
static size_t worth_merging(const struct store *s, size_t first, size_t end, size_t *begin)
{
	uint64_t bytes = store_undo_bytes(s, &s->undos[end - 1]);
	size_t n = 1;

	for (; end - n > first && n < MERGE_MAX; n++) {
		const uint64_t next = store_undo_bytes(s, &s->undos[end - n - 1]);
		if (next > MERGE_ALWAYS && next / MERGE_RATIO > bytes)
			break;
		bytes += next;
	}
	*begin = end - n;
	return n;
}

/* The first such, of transactions from `from` on; copied to out. How many, 0: there is none. Under lock. */
static size_t find_run(const struct store *s, uint64_t from, struct store_undo out[MERGE_MAX])
{
	for (size_t i = 0; i < s->n_undos;) {
		size_t end = i + 1, begin = 0;
		while (end < s->n_undos && may_merge(s, &s->undos[end - 1], &s->undos[end]))
			end++;
		const size_t n = s->undos[i].from >= from ? worth_merging(s, i, end, &begin) : 0;
		if (n > 1) {
			memcpy(out, &s->undos[begin], n * sizeof(out[0]));
			return n;
		}
		i = end;
	}
	return 0;
}

static void replace_run(struct store *s, const struct store_undo *u, size_t n, uint64_t bytes)
{
	THREAD_LOCKED(&s->lock);
	for (size_t i = 0; i + n <= s->n_undos; i++) {
		if (s->undos[i].from != u[0].from || s->undos[i].to != u[0].to)
			continue;
		s->undos[i].to = u[n - 1].to;
		s->undos[i].bytes = bytes;
		for (size_t k = 1; k < n; k++)
			list_remove(s, i + 1);
		break;
	}
	for (size_t k = 0; k < n; k++) {
		MEM_AUTO char *path = store_undo_path(s, u[k].from, u[k].to);
		sys.unlink(path);
	}
}

static int merge_undos(struct store *s, struct err *e)
{
	struct store_undo run[MERGE_MAX];
	uint64_t from = 0, bytes = 0;

	for (;;) {
		pthread_mutex_lock(&s->lock);
		const size_t n = find_run(s, from, run);
		pthread_mutex_unlock(&s->lock);
		if (n == 0)
			return 0;
		struct err why = ERR_INIT;
		if (store_undo_merge(s, run, n, &bytes, &why) < 0) {
			/* Several files say the same as one. What does not verify is store_verify's to tell, and no reason to keep points. */
			if (why.cls != ERR_CORRUPT) {
				*e = why;
				return err_wrap(e, "merge before-images");
			}
			from = run[n - 1].to + 1;
			continue;
		}
		replace_run(s, run, n, bytes);
	}
}

/* The transactions whose files somebody lists, sorted; of those up to `applied` nobody new will. */
struct listed {
	uint64_t *seq;
	size_t n, cap;
	uint64_t applied;
};

static void list_files(struct listed *l, const struct store_fileset *f)
{
	for (size_t i = 0; i < f->n; i++) {
		if (l->n == l->cap) {
			l->cap = l->cap ? 2 * l->cap : 64;
			l->seq = mem_realloc_array(l->seq, l->cap, sizeof(l->seq[0]));
		}
		l->seq[l->n++] = f->v[i].seq;
	}
}

static int by_number(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static void list_all_files(struct store *s, struct listed *l)
{
	pthread_mutex_lock(&s->lock);
	list_files(l, s->files);
	list_files(l, s->applied_files);
	for (size_t i = 0; i < s->n_points; i++)
		list_files(l, s->points[i]->files);
	for (size_t i = 0; i < s->n_pending; i++)
		list_files(l, s->pending[i]->files);
	/* While a crash would bring back a point that was given up, nothing goes. */
	l->applied = s->ghost > s->saved ? 0 : s->applied;
	pthread_mutex_unlock(&s->lock);
	if (l->n > 0)
		qsort(l->seq, l->n, sizeof(l->seq[0]), by_number);
}

static bool is_listed(struct store *s, const struct listed *l, uint64_t seq)
{
	if (seq > l->applied || (l->n > 0 && bsearch(&seq, l->seq, l->n, sizeof(seq), by_number)))
		return true;
	THREAD_LOCKED(&s->lock);
	return store_view_lists(s, 0, seq);
}

void store_files_collect(struct store *s)
{
	MEM_AUTO char *folder = mem_printf("%s/files", s->dir);
	DIR *d = opendir(folder);
	struct listed l = { 0 };

	if (!d)
		return;
	list_all_files(s, &l);
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
		uint64_t seq = 0;
		int used = 0;
		if (entry->d_name[0] == '.' || sscanf(entry->d_name, "%" SCNu64 "%n", &seq, &used) != 1 ||
		    entry->d_name[used] != '\0' || is_listed(s, &l, seq))
			continue;
		MEM_AUTO char *path = mem_printf("%s/%s", folder, entry->d_name);
		sys.unlink(path);
	}
	closedir(d);
	free(l.seq);
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
		if (is_point(s, all[i].seq)) {
			s->points[point_from(s, all[i].seq)]->dropping = true;
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
			if (p->seq > s->saved && p->seq > s->ghost)
				s->ghost = p->seq;
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
		const int rc = store_checkpoint(s, false, e);
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
