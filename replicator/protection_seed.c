/* A first copy that starts from images at the peer: those are read there, and the sessions that follow find out by hashes what differs. */
#include "replicator/protection_internal.h"

#include "base/log.h"
#include "base/thread.h"
#include "replicator/field.h"

#include <stdio.h>

/* Of what is no refusal, and may be over by then. */
#define TRIES 3

static json_t *wanted(struct protection *p)
{
	THREAD_LOCKED(&p->lock);
	json_t *seed = json_object_get(p->record, "seed");

	return json_array_size(seed) ? json_deep_copy(seed) : NULL;
}

static int forget(struct protection *p, struct err *e)
{
	json_t *changes = json_pack("{s:n}", "seed");
	const int rc = protection_update(p, changes, e);

	json_decref(changes);
	return rc;
}

static void on_note(void *ctx, const json_t *note)
{
	struct protection *p = ctx;
	const int64_t done = field_int(note, "done", 0), total = field_int(note, "total", 0);
	char text[300];

	snprintf(text, sizeof(text), "%s reads the image that the first copy starts from: %.40s, %d %%", p->host,
		 field_text(note, "disk"), total > 0 && done >= 0 ? (int)((double)done * 100.0 / (double)total) : 0);
	protection_set_state(p, "seeding", text);
}

/* A connection that breaks takes nothing from the peer's reading. */
static bool is_worth_another_try(const struct protection *p, const struct err *e)
{
	if (e->cls == ERR_PEER || e->cls == ERR_CANCELLED)
		return true;
	return e->cls != ERR_REFUSED && e->cls != ERR_PROTOCOL && p->failures < TRIES;
}

int protection_seed_run(struct protection *p, struct err *e)
{
	const struct courier_opts co = protection_courier_opts(p);
	json_t *seed = wanted(p);
	struct err why = ERR_INIT;

	if (!seed)
		return 0;
	protection_set_state(p, "seeding", "the first copy starts from an image at the peer");
	const int rc = courier_seed(&co, seed, false, on_note, p, &why);
	json_decref(seed);
	if (rc < 0 && is_worth_another_try(p, &why)) {
		*e = why;
		return -1;
	}
	p->unseeded[0] = '\0';
	if (rc == 0)
		return forget(p, e);
	snprintf(p->unseeded, sizeof(p->unseeded), "%.290s", why.text);
	return 0;
}

int protection_seed_drop(struct protection *p, struct err *e)
{
	json_t *seed = wanted(p);

	if (!seed)
		return 0;
	json_decref(seed);
	log_warn("protection_unseeded", "vm=%s host=%s msg=%s", LOG_Q(p->vm), p->host, LOG_Q(p->unseeded));
	protection_event(p, "seed.failed", p->unseeded);
	return forget(p, e);
}

void protection_seed_say_seeding(struct protection *p)
{
	char text[400];

	snprintf(text, sizeof(text), "the first copy is on its way%s%s", p->unseeded[0] ? ", all of it: " : "",
		 p->unseeded);
	protection_set_state(p, "seeding", text);
}
