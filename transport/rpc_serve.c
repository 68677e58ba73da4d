#include "transport/rpc_internal.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/thread.h"
#include "transport/peer_err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* PROTOCOL.md, "Identity and roles". */
static const struct {
	unsigned bit;
	const char *name;
	const char *grants;
} roles[] = {
	{ 1, "migrate-in", "send VMs to" },
	{ 2, "replicate-in", "keep replicas of its VMs on" },
	{ 4, "operate", "give orders to the agent on" },
};

static void answer_error(struct rpc *r, uint64_t id, const struct err *why)
{
	struct err ignored = ERR_INIT;
	json_t *msg = json_pack("{s:I,s:o}", "id", (json_int_t)id, "error", peer_err_to_json(why));

	rpc_post(r, msg, false, &ignored);
}

/* ---- a handler's thread ---- */

static void answer(struct rpc_call *c, int rc, json_t *result, struct err *e)
{
	struct err why = ERR_INIT;

	if (rc == 0) {
		json_t *ok = result ? result : json_object();
		json_t *msg = json_pack("{s:I,s:o}", "id", (json_int_t)c->id, "ok", ok);
		/* Too large, or no valid UTF-8: the caller has to hear something. Gone: then nobody hears this
		 * either. */
		if (rpc_post(c->rpc, msg, false, &why) < 0) {
			err_wrap(&why, "answer to %s", c->method->name);
			answer_error(c->rpc, c->id, &why);
		}
		return;
	}
	json_decref(result);
	if (!err_is_set(e))
		err_set(e, ERR_SYS, "%s failed without saying why", c->method->name);
	answer_error(c->rpc, c->id, e);
}

static void *handler_thread(void *arg)
{
	struct rpc_call *c = arg;
	struct rpc *r = c->rpc;
	json_t *result = NULL;
	struct err e = ERR_INIT;
	bool last;

	rpc_of_thread = r;
	const int rc = c->method->fn(r->service->ctx, c, c->args, &result, &e);
	answer(c, rc, result, &e);
	{
		THREAD_LOCKED(&r->lock);
		for (struct rpc_call **p = &r->calls; *p; p = &(*p)->next) {
			if (*p == c) {
				*p = c->next;
				break;
			}
		}
		/* Freed before the count drops: whoever waits for it may free the arguments' owner next. */
		json_decref(c->args);
		free(c);
		r->n_calls--;
		last = r->orphan && r->thread_done && r->n_calls == 0;
		pthread_cond_broadcast(&r->changed);
	}
	rpc_free_if_last(r, last);
	return NULL;
}

/* ---- the connection's thread ---- */

static const struct rpc_method *find_method(const struct rpc *r, const char *name)
{
	if (!r->service)
		return NULL;
	for (const struct rpc_method *m = r->service->methods; m && m->name; m++)
		if (strcmp(m->name, name) == 0)
			return m;
	return NULL;
}

static int refuse_role(const struct rpc *r, const struct rpc_method *m, unsigned missing, struct err *e)
{
	for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
		if (!(missing & roles[i].bit))
			continue;
		err_set(e, ERR_REFUSED, "%s may not %s %s (%s): it lacks the role \"%s\" there", r->peer,
			roles[i].grants, r->own, m->name, roles[i].name);
		return err_remedy(e,
				  "On %s, add \"%s\" to `roles` of the peer %s in vmferryd.conf (peers: roles), and "
				  "reload vmferryd.",
				  r->own, roles[i].name, r->peer);
	}
	return err_set(e, ERR_REFUSED, "%s may not call %s on %s", r->peer, m->name, r->own);
}

static const struct rpc_method *admit(struct rpc *r, const char *name, struct err *e)
{
	const struct rpc_method *m = find_method(r, name);
	char shown[64];

	if (!m) {
		err_set(e, ERR_REFUSED, "there is no call \"%s\" here (vmferry %s)",
			peer_err_printable(name, shown, sizeof(shown)), VMFERRY_VERSION);
		err_remedy(e, "Run the same version of vmferry on both sides.");
		return NULL;
	}
	const unsigned has = r->service->roles_of ? r->service->roles_of(r->service->ctx, r->peer) : 0;
	if ((has & m->roles) != m->roles) {
		refuse_role(r, m, m->roles & ~has, e);
		return NULL;
	}
	return m;
}

/* Under the lock. 1: fine; 0: refused, with the error; -1: the peer broke the protocol. */
static int enter(struct rpc *r, struct rpc_call *call, struct err *e)
{
	for (const struct rpc_call *c = r->calls; c; c = c->next)
		if (c->id == call->id)
			return err_set(e, ERR_PROTOCOL, "two calls at a time have the same id");
	if (r->n_calls >= r->opts.max_calls) {
		err_set(e, ERR_REFUSED, "%u calls of %s are being served already", r->n_calls, r->peer);
		err_remedy(e, "Try again when some of them are done.");
		return 0;
	}
	call->next = r->calls;
	r->calls = call;
	r->n_calls++;
	return 1;
}

static void leave(struct rpc *r, const struct rpc_call *call)
{
	THREAD_LOCKED(&r->lock);
	for (struct rpc_call **p = &r->calls; *p; p = &(*p)->next) {
		if (*p == call) {
			*p = call->next;
			break;
		}
	}
	r->n_calls--;
}

int rpc_serve_call(struct rpc *r, uint64_t id, json_t *msg, struct err *e)
{
	const char *name = json_string_value(json_object_get(msg, "call"));
	const json_t *args = json_object_get(msg, "args");
	struct err why = ERR_INIT;

	if (!name || (args && !json_is_object(args)))
		return err_set(e, ERR_PROTOCOL, "a call has no name, or arguments that are not a JSON object");
	const struct rpc_method *m = admit(r, name, &why);
	if (!m) {
		answer_error(r, id, &why);
		return 0;
	}
	struct rpc_call *c = mem_alloc(sizeof(*c));
	c->rpc = r;
	c->id = id;
	c->method = m;
	atomic_init(&c->cancelled, false);
	atomic_init(&c->dropped, 0);
	int rc;
	{
		THREAD_LOCKED(&r->lock);
		rc = enter(r, c, &why);
	}
	if (rc <= 0) {
		free(c);
		if (rc == 0)
			answer_error(r, id, &why);
		else
			*e = why;
		return rc;
	}
	c->args = args ? rpc_take_member(msg, "args") : json_object();
	if (thread_start_detached("rpc-call", handler_thread, c, &why) == 0)
		return 0;
	leave(r, c);
	json_decref(c->args);
	free(c);
	answer_error(r, id, &why);
	return 0;
}

void rpc_serve_cancel(struct rpc *r, uint64_t id)
{
	THREAD_LOCKED(&r->lock);

	/* None: it has been answered meanwhile. */
	for (struct rpc_call *c = r->calls; c; c = c->next)
		if (c->id == id)
			atomic_store(&c->cancelled, true);
}

/* ---- inside a handler ---- */

void rpc_note(struct rpc_call *c, json_t *note)
{
	const unsigned dropped = atomic_load(&c->dropped);
	struct err ignored = ERR_INIT;
	json_t *msg = json_pack("{s:I,s:o}", "id", (json_int_t)c->id, "note", note);

	if (dropped)
		json_object_set_new(msg, "dropped", json_integer(dropped));
	if (rpc_post(c->rpc, msg, true, &ignored) == 0)
		atomic_fetch_sub(&c->dropped, dropped);
	else
		atomic_fetch_add(&c->dropped, 1);
}

bool rpc_cancelled(const struct rpc_call *c)
{
	return atomic_load(&c->cancelled);
}

struct rpc *rpc_connection(struct rpc_call *c)
{
	return c->rpc;
}

const char *rpc_caller(const struct rpc_call *c)
{
	return c->rpc->peer;
}
