/* Retention: after commits, in a thread of its own, so that no commit waits for it. */
#include "replicator/replica_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

#include <stdlib.h>

/* Points come as often as ten times a second; what is to go, goes together. */
#define PRUNE_EVERY_NS NS_PER_S
#define DEFAULT_LAST 16u

static unsigned count_of(const json_t *keep, const char *key, unsigned otherwise)
{
	const json_t *v = json_object_get(keep, key);
	const json_int_t n = json_integer_value(v);

	return !json_is_integer(v) || n < 0 ? otherwise : n > 1000000 ? 1000000u : (unsigned)n;
}

struct retention replica_keep_of(const json_t *record)
{
	const json_t *keep = json_object_get(record, "keep");
	const json_int_t bytes = json_integer_value(json_object_get(keep, "max_bytes"));

	return (struct retention){ .last = count_of(keep, "last", DEFAULT_LAST),
				   .hourly = count_of(keep, "hourly", 0),
				   .daily = count_of(keep, "daily", 0),
				   .max_bytes = bytes > 0 ? (uint64_t)bytes : 0 };
}

struct marked {
	const struct store_point *points;
	const struct retention_point *marks;
	size_t n;
};

/* What was committed since is not in the list, and stays. */
static bool keep_point(void *ctx, const struct store_point *q)
{
	const struct marked *m = ctx;
	size_t low = 0, high = m->n;

	while (low < high) {
		const size_t mid = low + (high - low) / 2;
		if (m->points[mid].seq < q->seq)
			low = mid + 1;
		else
			high = mid;
	}
	return low == m->n || m->points[low].seq != q->seq || m->marks[low].keep;
}

/* Those that came since the last time, and those that go. Who came and goes at once was never there. */
static void tell_points(struct replica *p, const struct marked *m)
{
	const struct replicas_opts *o = &p->all->opts;
	struct replica_news *news = mem_alloc_array(m->n, sizeof(*news));
	json_t *all = json_array(); /* holds what news refers to */
	size_t n = 0;

	for (size_t i = 0; o->points && i < m->n; i++) {
		const struct store_point *q = &m->points[i];
		const char *id = json_string_value(json_object_get(q->meta, "id"));
		const bool new = q->seq > p->told_seq;
		/* After a start nobody knows what was told: what goes may have been. */
		if (!id || (m->marks[i].keep && !new) || (!m->marks[i].keep && new && p->told_seq > 0))
			continue;
		json_t *data = json_pack("{s:I, s:I, s:O}", "seq", (json_int_t)q->seq, "committed_ns",
					 (json_int_t)q->committed_ns, "meta", q->meta);
		json_array_append_new(all, data);
		news[n++] = (struct replica_news){ .id = id, .data = m->marks[i].keep ? data : NULL };
	}
	if (n > 0)
		o->points(o->ctx, p->uuid, news, n);
	if (m->n > 0)
		p->told_seq = m->points[m->n - 1].seq;
	json_decref(all);
	free(news);
}

static int prune(struct replica *p, struct store *s, const struct retention *keep, struct err *e)
{
	struct store_point *points = NULL;
	struct store_usage u;
	size_t n = 0;
	int rc = -1;

	if (fault_point(FAULT_REPLICA_PRUNE, e) < 0 || store_points(s, &points, &n, e) < 0)
		return -1;
	struct retention_point *marks = mem_alloc_array(n, sizeof(*marks));
	for (size_t i = 0; i < n; i++)
		marks[i] = (struct retention_point){ .time_ns = points[i].committed_ns, .bytes = points[i].undo_bytes };
	struct marked m = { .points = points, .marks = marks, .n = n };
	if (store_usage(s, &u, e) == 0)
		rc = retention_mark(keep, u.head_bytes + u.journal_bytes, marks, n) ? store_prune(s, keep_point, &m, e)
										    : 0;
	if (rc == 0)
		tell_points(p, &m);
	free(marks);
	store_points_free(points, n);
	return rc;
}

static void prune_one(struct replica *p, const struct retention *keep)
{
	struct err e = ERR_INIT;
	struct store *s = replica_open(p, NULL, &e);

	if (!s)
		return;
	if (prune(p, s, keep, &e) < 0)
		log_warn("replica_prune", "uuid=%s msg=%s", p->uuid, LOG_Q(e.text));
	replica_note_last(p, s);
	replica_note_space(p, s);
	replica_close(p);
}

/* The one whose turn it is; NULL, and when it will be somebody's. Each has its own pace: many replicas do not make each other wait. */
static struct replica *due_locked(struct replicas *r, int64_t *next_ns)
{
	struct replica *first = NULL;

	for (struct replica *p = r->first; p; p = p->next)
		if (p->prune_due && p->record && !p->moving && (!first || p->prune_at_ns < first->prune_at_ns))
			first = p;
	*next_ns = first ? first->prune_at_ns : INT64_MAX;
	return *next_ns <= clock_mono_ns() ? first : NULL;
}

void *replica_keep_thread(void *arg)
{
	struct replicas *r = arg;

	pthread_mutex_lock(&r->lock);
	while (!r->stopping) {
		int64_t next_ns = INT64_MAX;
		struct replica *p = due_locked(r, &next_ns);
		if (!p) {
			thread_cond_wait_until(&r->changed, &r->lock, next_ns);
			continue;
		}
		const struct retention keep = replica_keep_of(p->record);
		p->prune_due = false;
		p->prune_at_ns = clock_mono_ns() + PRUNE_EVERY_NS;
		pthread_mutex_unlock(&r->lock);
		prune_one(p, &keep);
		pthread_mutex_lock(&r->lock);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}
