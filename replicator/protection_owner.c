/* Who owns the VM: what the peer says, and a VM that is not ours any more and must stand still. */
#include "replicator/protection_internal.h"

#include "base/fault.h"
#include "base/log.h"
#include "base/thread.h"
#include "replicator/epoch.h"
#include "replicator/field.h"

#include <stdio.h>
#include <string.h>

/* The agent comes up after libvirt: until it has, nothing would hold a VM that libvirt starts with the host. */
static void no_autostart(struct protection *p, struct guest *g)
{
	struct err e = ERR_INIT;
	bool was = false;

	if (g->ops->autostart_off && g->ops->autostart_off(g->ctx, &was, &e) < 0)
		log_warn("autostart_not_off", "vm=%s uuid=%s msg=%s", LOG_Q(p->vm), p->uuid, LOG_Q(e.text));
	else if (was)
		log_warn("autostart_off", "vm=%s uuid=%s msg=%s", LOG_Q(p->vm), p->uuid,
			 LOG_Q("another host has the VM: 'virsh autostart' there is for its operator"));
}

/* The peer runs it: here it stands still from now on, whatever happens. */
static void fence(struct protection *p, const struct err *why)
{
	struct err e = ERR_INIT;
	json_t *changes = json_pack("{s:s}", "state", "fenced");

	/* Durable first: an agent that dies now must not go on replicating when it is back. */
	if (protection_update(p, changes, &e) < 0)
		log_error("fence_not_saved", "uuid=%s msg=%s", p->uuid, LOG_Q(e.text));
	json_decref(changes);
	err_clear(&e);
	struct guest *g = NULL;
	if (fault_point(FAULT_REPLICA_FENCE, &e) == 0)
		g = p->opts.open_guest(p->opts.ctx, p->uuid, &e);
	char text[900];
	if (g && g->ops->pause(g->ctx, &e) == 0)
		snprintf(text, sizeof(text), "%.700s; it is paused here", why->text);
	else if (!g && e.cls == ERR_REFUSED)
		snprintf(text, sizeof(text), "%.700s; it is shut off here", why->text);
	else
		snprintf(text, sizeof(text), "%.500s; it could not be paused here: %.200s", why->text, e.text);
	if (g)
		no_autostart(p, g);
	guest_free(g);
	protection_set_state(p, "fenced", text);
}

/* Did it come home since, as a promotion of a later epoch than our record's? Then it is no business of that record. */
static bool came_home(struct protection *p)
{
	struct err ignored = ERR_INIT;
	json_t *kept = NULL, *args = json_pack("{s:s}", "uuid", p->uuid);
	bool home = false;

	if (p->opts.replicas && replicas_status(p->opts.replicas, args, &kept, &ignored) == 0) {
		THREAD_LOCKED(&p->lock);
		home = epoch_came_home(p->epoch, kept);
	}
	json_decref(kept);
	json_decref(args);
	return home;
}

/* Fenced or handed over: whoever starts it, and whenever, it must not run. */
void protection_owner_keep_fenced(struct protection *p)
{
	struct err e = ERR_INIT;
	enum guest_run run;

	if (came_home(p))
		return;
	struct guest *g = p->opts.open_guest(p->opts.ctx, p->uuid, &e);
	if (g && g->ops->state(g->ctx, &run, &e) == 0 && run == GUEST_RUNNING) {
		if (g->ops->pause(g->ctx, &e) == 0)
			log_warn("fenced_again", "vm=%s uuid=%s", LOG_Q(p->vm), p->uuid);
		else
			log_error("fence_failed", "vm=%s uuid=%s msg=%s", LOG_Q(p->vm), p->uuid, LOG_Q(e.text));
	}
	if (g)
		no_autostart(p, g);
	guest_free(g);
}

/* 0: it is ours. */
int protection_owner_check(struct protection *p, struct err *e)
{
	const struct courier_opts co = protection_courier_opts(p);
	json_t *theirs = NULL;
	struct err why = ERR_INIT;

	if (courier_ask(&co, &theirs, e) < 0)
		return -1;
	const enum epoch_verdict v = epoch_judge(__atomic_load_n(&p->epoch, __ATOMIC_SEQ_CST), p->host, theirs, &why);
	json_decref(theirs);
	if (v == EPOCH_OURS) {
		protection_boot_look(p);
		return 0;
	}
	if (v == EPOCH_LOST)
		fence(p, &why);
	*e = why;
	return -1;
}

/* A VM whose protection rests may be taken over all the same. */
void protection_owner_look(struct protection *p)
{
	struct err e = ERR_INIT;

	{
		THREAD_LOCKED(&p->lock);
		if (p->stopping || p->holds)
			return;
		__atomic_store_n(&p->interrupt, false, __ATOMIC_SEQ_CST);
	}
	if (protection_owner_check(p, &e) < 0)
		log_debug("paused_owner", "uuid=%s msg=%s", p->uuid, LOG_Q(e.text));
}

/* A failover that came to nothing: the peer keeps it as our replica again, and nobody runs it. The session that begins asks once more who owns it. */
static int take_back(struct protection *p, const char *state, struct err *e)
{
	const struct courier_opts co = { .ways = p->opts.ways, .host = p->host, .uuid = p->uuid };
	json_t *theirs = NULL;

	if (courier_ask(&co, &theirs, e) < 0)
		return err_wrap(e, "who owns %s", p->vm);
	const bool ours = field_is(theirs, "state", "replica") &&
			  strcmp(field_text(theirs, "from"), p->opts.host_name) == 0;
	const bool under_way = json_is_true(json_object_get(theirs, "handover"));
	int64_t epoch = field_int(theirs, "epoch", 1);
	json_decref(theirs);
	if (ours && under_way) {
		err_set(e, ERR_REFUSED, "%s is taking %s over at this moment", p->host, p->vm);
		return err_remedy(e, "'vmferry status' at %s says what comes of it", p->host);
	}
	if (!ours) {
		err_set(e, ERR_REFUSED, "the protection of %s is %s: %s has taken the VM over", p->vm, state, p->host);
		return err_remedy(e,
				  "'vmferry failback %s' at %s brings it home; 'vmferry unprotect %s' here gives up "
				  "this side's state",
				  p->vm, p->host, p->vm);
	}
	{
		THREAD_LOCKED(&p->lock);
		if (epoch < (int64_t)p->epoch)
			epoch = (int64_t)p->epoch;
	}
	json_t *changes = json_pack("{s:s, s:I}", "state", "handing-over", "epoch", (json_int_t)epoch);
	const int rc = protection_change(p, state, changes, e);
	json_decref(changes);
	return rc;
}

int protection_resume(struct protection *p, struct err *e)
{
	char state[32];

	{
		THREAD_LOCKED(&p->lock);
		snprintf(state, sizeof(state), "%s", field_text(p->record, "state"));
	}
	if (strcmp(state, "fenced") == 0 || strcmp(state, "handed-over") == 0)
		return take_back(p, state, e);
	return protection_want(p, "active|paused", "active", e);
}
