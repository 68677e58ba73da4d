#include "transport/rpc_internal.h"

#include "base/clock.h"
#include "base/thread.h"
#include "transport/peer_err.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define CANCEL_CHECK_NS (50 * NS_PER_MS)

static struct rpc_pending *find(struct rpc *r, uint64_t id)
{
	for (struct rpc_pending *p = r->pending; p; p = p->next)
		if (p->id == id)
			return p;
	return NULL;
}

static void unlink_pending(struct rpc *r, const struct rpc_pending *gone)
{
	for (struct rpc_pending **p = &r->pending; *p; p = &(*p)->next) {
		if (*p == gone) {
			*p = gone->next;
			return;
		}
	}
}

/* ---- the connection's thread ---- */

static void pass_note(struct rpc *r, struct rpc_pending *p, const json_t *note)
{
	p->in_note = true; /* keeps the caller, whose stack p is on, from leaving */
	pthread_mutex_unlock(&r->lock);
	p->on_note(p->note_ctx, note);
	pthread_mutex_lock(&r->lock);
	p->in_note = false;
	pthread_cond_broadcast(&r->changed);
}

int rpc_call_answered(struct rpc *r, uint64_t id, json_t *msg, struct err *e)
{
	THREAD_LOCKED(&r->lock);
	struct rpc_pending *p = find(r, id);

	if (!p || p->done) {
		/* Late, after the deadline, is all right; to a call that was never made is not. */
		if (id < r->next_id)
			return 0;
		return err_set(e, ERR_PROTOCOL, "an answer came to a call that was not made");
	}
	json_t *note = json_object_get(msg, "note");
	if (note) {
		if (!json_is_object(note))
			return err_set(e, ERR_PROTOCOL, "a note is not a JSON object");
		if (p->on_note)
			pass_note(r, p, note);
		return 0;
	}
	json_t *ok = json_object_get(msg, "ok");
	if (ok && !json_is_object(ok))
		return err_set(e, ERR_PROTOCOL, "an answer is not a JSON object");
	if (ok)
		p->result = rpc_take_member(msg, "ok");
	else
		peer_err_from_json(json_object_get(msg, "error"), &p->err);
	p->done = true;
	pthread_cond_broadcast(&r->changed);
	return 0;
}

void rpc_call_fail_all(struct rpc *r, const struct err *why)
{
	for (struct rpc_pending *p = r->pending; p; p = p->next) {
		if (p->done)
			continue;
		p->err = *why;
		p->done = true;
	}
}

/* ---- the caller ---- */

static void post_cancel(struct rpc *r, uint64_t id)
{
	struct err ignored = ERR_INIT;

	rpc_post(r, json_pack("{s:I,s:b}", "id", (json_int_t)id, "cancel", 1), false, &ignored);
}

/* With the lock held: p may leave the caller's stack. */
static void forget(struct rpc *r, const struct rpc_pending *p)
{
	while (p->in_note)
		thread_cond_wait_until(&r->changed, &r->lock, INT64_MAX);
	unlink_pending(r, p);
}

/* Until it is answered, or the deadline. The cancel goes out once. */
static void await(struct rpc *r, struct rpc_pending *p, int64_t deadline_ns, const volatile bool *cancel)
{
	bool told = false;

	pthread_mutex_lock(&r->lock);
	while (!p->done) {
		const int64_t now = clock_mono_ns();
		if (now >= deadline_ns)
			break;
		if (cancel && !told && __atomic_load_n(cancel, __ATOMIC_RELAXED)) {
			told = true;
			pthread_mutex_unlock(&r->lock);
			post_cancel(r, p->id);
			pthread_mutex_lock(&r->lock);
			continue;
		}
		int64_t until = deadline_ns;
		if (cancel && !told && until > now + CANCEL_CHECK_NS)
			until = now + CANCEL_CHECK_NS;
		thread_cond_wait_until(&r->changed, &r->lock, until);
	}
	forget(r, p);
	pthread_mutex_unlock(&r->lock);
}

static int send_call(struct rpc *r, struct rpc_pending *p, const char *method, json_t *args, struct err *e)
{
	{
		THREAD_LOCKED(&r->lock);
		p->id = r->next_id++;
		/* Once dead, rpc_post refuses, and nobody would ever fail this. */
		if (!r->dead) {
			p->next = r->pending;
			r->pending = p;
		}
	}
	json_t *msg = json_pack("{s:I,s:s,s:o}", "id", (json_int_t)p->id, "call", method, "args", args);
	assert(msg);
	if (rpc_post(r, msg, false, e) == 0)
		return 0;
	THREAD_LOCKED(&r->lock);
	forget(r, p);
	json_decref(p->result); /* a peer that lies can have answered what it never got */
	return -1;
}

int rpc_call(struct rpc *r, const char *method, json_t *args, int64_t deadline_ns,
	     void (*on_note)(void *ctx, const json_t *note), void *note_ctx, const volatile bool *cancel,
	     json_t **result, struct err *e)
{
	struct rpc_pending p = { .on_note = on_note, .note_ctx = note_ctx };

	/* It would wait for itself. */
	assert(!(rpc_of_thread == r && rpc_is_connection_thread));
	if (send_call(r, &p, method, args ? args : json_object(), e) < 0)
		return err_wrap(e, "call %s", method);
	await(r, &p, deadline_ns, cancel);
	if (!p.done) {
		post_cancel(r, p.id);
		err_set(e, ERR_PEER, "%s: no answer to %s in time", r->label, method);
		e->errnum = ETIMEDOUT;
		return -1;
	}
	if (!p.result) {
		*e = p.err;
		if (strcmp(r->peer, "local") != 0 && strncmp(e->text, r->peer, strlen(r->peer)) != 0)
			err_wrap(e, "%s", r->peer);
		return -1;
	}
	if (result)
		*result = p.result;
	else
		json_decref(p.result);
	return 0;
}
