/* A guest that goes on from a point at which its file systems were frozen: what is in its memory outlives the agent that started it. */
#include "replicator/failover.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "base/units.h"

#include <stdlib.h>
#include <string.h>

bool failover_is_frozen(const json_t *record)
{
	const char *state = json_string_value(json_object_get(record, "state"));

	return state && strcmp(state, "promoted") == 0 &&
	       json_is_true(json_object_get(json_object_get(record, "promotion"), "frozen"));
}

bool failover_left_frozen(const json_t *record)
{
	return json_is_true(json_object_get(json_object_get(record, "promotion"), "left_frozen"));
}

/* Into the record of a promoted one; steals changes. */
static int note(const struct failover_records *records, json_t *changes, struct err *e)
{
	json_t *record = records->load(records->ctx, e);
	json_t *promotion = json_deep_copy(json_object_get(record, "promotion"));

	json_decref(record);
	json_object_update(promotion, changes);
	json_decref(changes);
	if (!promotion)
		return err_is_set(e) ? -1 : err_set(e, ERR_REFUSED, "it was not promoted");
	return failover_record_change(records, "promoted", json_pack("{s:o}", "promotion", promotion), e);
}

int failover_note_thawed(const struct failover_records *records, struct err *e)
{
	return note(records, json_pack("{s:b}", "frozen", 0), e);
}

bool failover_say_frozen(const struct failover_records *records)
{
	struct err e = ERR_INIT;
	json_t *record = records->load(records->ctx, &e);
	const bool said = json_is_true(json_object_get(json_object_get(record, "promotion"), "frozen_said"));

	json_decref(record);
	if (said)
		return false;
	if (note(records, json_pack("{s:b}", "frozen_said", 1), &e) < 0)
		log_warn("failover_record", "msg=%s", LOG_Q(e.text));
	return true;
}

/* ---- a question that may never be answered ---- */

struct question {
	char *uuid;
	const struct promote_ops *ops;
	void *ctx;
	bool answered, left; /* left: nobody waits for the answer any more */
	int rc;
	struct err e;
	struct question *next;
};

/* Those that are under way, one for a VM. */
static struct {
	pthread_once_t once;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct question *first;
} questions = { .once = PTHREAD_ONCE_INIT, .lock = PTHREAD_MUTEX_INITIALIZER };

static void make_cond(void)
{
	thread_cond_init(&questions.changed);
}

/* Under questions.lock, as all that follow. */
static struct question *find(const char *uuid)
{
	struct question *q = questions.first;

	while (q && strcmp(q->uuid, uuid) != 0)
		q = q->next;
	return q;
}

static void end(struct question *q)
{
	struct question **at = &questions.first;

	while (*at != q)
		at = &(*at)->next;
	*at = q->next;
	free(q->uuid);
	free(q);
}

static void *ask_main(void *arg)
{
	struct question *q = arg;
	struct err e = ERR_INIT;
	const int rc = q->ops->thaw(q->ctx, q->uuid, &e);

	if (q->ops->let_go)
		q->ops->let_go(q->ctx);
	THREAD_LOCKED(&questions.lock);
	q->rc = rc;
	q->e = e;
	q->answered = true;
	pthread_cond_broadcast(&questions.changed);
	if (q->left)
		end(q);
	return NULL;
}

/* NULL: a thread could not be started. */
static struct question *begin(const struct promote_ops *ops, void *ctx, const char *uuid, struct err *e)
{
	struct question *q = mem_alloc(sizeof(*q));

	*q = (struct question){ .uuid = mem_strdup(uuid), .ops = ops, .ctx = ctx, .next = questions.first };
	questions.first = q;
	if (ops->keep)
		ops->keep(ctx);
	if (thread_start_detached("thaw", ask_main, q, e) == 0)
		return q;
	if (ops->let_go)
		ops->let_go(ctx);
	end(q);
	return NULL;
}

int failover_thaw_ask(const struct promote_ops *ops, void *ctx, const char *uuid, int64_t within_ns, struct err *e)
{
	const int64_t until = clock_mono_ns() + within_ns;
	char within[32];

	pthread_once(&questions.once, make_cond);
	THREAD_LOCKED(&questions.lock);
	if (find(uuid))
		return err_set(e, ERR_LIBVIRT,
			       "its guest agent, or libvirt, has not answered yet when it was asked before");
	struct question *q = begin(ops, ctx, uuid, e);
	if (!q)
		return -1;
	while (!q->answered && thread_cond_wait_until(&questions.changed, &questions.lock, until) == 0)
		;
	if (q->answered) {
		const int rc = q->rc;
		if (rc < 0)
			*e = q->e;
		end(q);
		return rc;
	}
	q->left = true;
	units_format_duration(within_ns, within, sizeof(within));
	return err_set(e, ERR_LIBVIRT, "its guest agent, or libvirt, has not answered within %s", within);
}

/* ---- thawing it ---- */

static int thaw(const char *uuid, const struct promote_ops *ops, void *ctx, int64_t within_ns,
		enum failover_thawed *how, struct err *e)
{
	enum promote_where where;

	if (ops->where(ctx, uuid, &where, e) < 0)
		return -1;
	switch (where) {
	case PROMOTE_ABSENT:
		*how = FAILOVER_LEFT_FROZEN;
		return 0;
	case PROMOTE_OFF:
		return 0; /* its memory is gone, and what was frozen in it */
	case PROMOTE_INCOMING:
	case PROMOTE_PAUSED:
		return err_set(e, ERR_REFUSED, "it is paused, and is thawed once it runs");
	case PROMOTE_RUNNING:
		break;
	}
	if (failover_thaw_ask(ops, ctx, uuid, within_ns, e) < 0)
		return -1;
	*how = FAILOVER_THAWED;
	return 0;
}

int failover_thaw(const struct failover_records *records, const struct promote_ops *ops, void *ctx, int64_t within_ns,
		  enum failover_thawed *how, struct err *e)
{
	json_t *record = records->load(records->ctx, e);
	const char *uuid = json_string_value(json_object_get(record, "uuid"));
	int rc = record ? 0 : -1;

	*how = FAILOVER_NOT_FROZEN;
	if (uuid && failover_is_frozen(record)) {
		rc = thaw(uuid, ops, ctx, within_ns, how, e);
		if (rc == 0 && *how == FAILOVER_LEFT_FROZEN) {
			log_warn("failover_frozen", "uuid=%s msg=%s", uuid,
				 LOG_Q("it is not on this host any more; if it was moved, thaw it there: virsh "
				       "domfsthaw"));
			rc = note(records, json_pack("{s:b, s:b}", "frozen", 0, "left_frozen", 1), e);
		} else if (rc == 0) {
			rc = failover_note_thawed(records, e);
		}
	}
	json_decref(record);
	return rc;
}
