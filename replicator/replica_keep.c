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

	for (size_t i = 0; i < m->n; i++)
		if (m->points[i].seq == q->seq)
			return m->marks[i].keep;
	return true;
}

/* Those that came since the last time, and those that go. */
static void tell_points(struct replica *p, const struct marked *m)
{
	const struct replicas_opts *o = &p->all->opts;

	for (size_t i = 0; o->point && i < m->n; i++) {
		const struct store_point *q = &m->points[i];
		const char *id = json_string_value(json_object_get(q->meta, "id"));
		if (!id || (m->marks[i].keep && q->seq <= p->told_seq))
			continue;
		json_t *data = json_pack("{s:I, s:I, s:O}", "seq", (json_int_t)q->seq, "committed_ns",
					 (json_int_t)q->committed_ns, "meta", q->meta);
		o->point(o->ctx, p->uuid, id, m->marks[i].keep ? data : NULL);
		json_decref(data);
	}
	if (m->n > 0)
		p->told_seq = m->points[m->n - 1].seq;
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

void *replica_keep_thread(void *arg)
{
	struct replicas *r = arg;

	pthread_mutex_lock(&r->lock);
	while (!r->stopping) {
		struct replica *p = r->first;
		while (p && !(p->prune_due && p->record && !p->moving))
			p = p->next;
		if (!p) {
			thread_cond_wait_until(&r->changed, &r->lock, INT64_MAX);
			continue;
		}
		const struct retention keep = replica_keep_of(p->record);
		p->prune_due = false;
		pthread_mutex_unlock(&r->lock);
		prune_one(p, &keep);
		pthread_mutex_lock(&r->lock);
		const int64_t until = clock_mono_ns() + PRUNE_EVERY_NS;
		while (!r->stopping && clock_mono_ns() < until)
			thread_cond_wait_until(&r->changed, &r->lock, until);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}
