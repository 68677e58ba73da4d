#include "replicator/protections.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/epoch.h"
#include "replicator/field.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_NS NS_PER_S
#define HOLD_NS (30 * NS_PER_S)
#define MAX_PROTECTIONS 1024u

struct entry {
	struct protection *protection; /* NULL while it is being changed */
	char uuid[GUEST_UUID_LEN];
	char *vm;       /* as it is named in the record */
	unsigned users; /* calls under way; who ends it waits for them */
	bool ending;    /* and nobody else may begin to use it */
};

struct protections {
	struct protection_opts opts; /* fixed */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	struct entry *entries[MAX_PROTECTIONS];
	size_t n;
	struct protections_change *changes;
	bool stopping;

	pthread_t looker; /* calls protection_look */
	bool looks;
};

/* ---- by name ---- */

static struct entry *find_locked(struct protections *t, const char *vm)
{
	for (size_t i = 0; i < t->n; i++)
		if (strcmp(t->entries[i]->uuid, vm) == 0)
			return t->entries[i];
	for (size_t i = 0; i < t->n; i++)
		if (strcmp(t->entries[i]->vm, vm) == 0)
			return t->entries[i];
	return NULL;
}

bool protections_uuid(struct protections *t, const char *vm, char uuid[GUEST_UUID_LEN])
{
	THREAD_LOCKED(&t->lock);
	const struct entry *en = find_locked(t, vm);
	if (en)
		snprintf(uuid, GUEST_UUID_LEN, "%s", en->uuid);
	return en != NULL;
}

struct protection *protections_borrow(struct protections *t, const char *vm)
{
	THREAD_LOCKED(&t->lock);
	struct entry *en = find_locked(t, vm);
	if (!en || !en->protection || en->ending)
		return NULL;
	en->users++;
	return en->protection;
}

void protections_give_back(struct protections *t, struct protection *p)
{
	THREAD_LOCKED(&t->lock);
	find_locked(t, protection_uuid(p))->users--;
	pthread_cond_broadcast(&t->changed);
}

int protections_none(const struct protections *t, const char *vm, struct err *e)
{
	err_set(e, ERR_REFUSED, "%.80s is not protected from %s", vm[0] ? vm : "the VM", t->opts.host_name);
	return err_remedy(e, "'vmferry status' shows what is; 'vmferry protect VM --to HOST' begins");
}

bool protections_have(struct protections *t, const char *vm, json_t **record)
{
	struct protection *p = protections_borrow(t, vm);

	if (!p)
		return false;
	if (record)
		*record = protection_record(p);
	protections_give_back(t, p);
	return true;
}

void protections_list(struct protections *t, const char *vm, json_t *out)
{
	THREAD_LOCKED(&t->lock);
	for (size_t i = 0; i < t->n; i++) {
		const struct entry *en = t->entries[i];
		if (en->protection && (!vm || strcmp(en->uuid, vm) == 0 || strcmp(en->vm, vm) == 0))
			json_array_append_new(out, protection_status(en->protection));
	}
}

int protections_hold(struct protections *t, const char *vm, const char *why, struct err *e)
{
	struct protection *p = protections_borrow(t, vm);

	if (!p)
		return 0;
	const int rc = protection_hold(p, why, clock_mono_ns() + HOLD_NS, e);
	/* Borrowed until it is released: it cannot be unprotected meanwhile. */
	if (rc < 0)
		protections_give_back(t, p);
	return rc;
}

void protections_release(struct protections *t, const char *vm)
{
	struct protection *p;

	{
		/* Also one that somebody waits to end. */
		THREAD_LOCKED(&t->lock);
		const struct entry *en = find_locked(t, vm);
		p = en && en->users ? en->protection : NULL;
	}
	if (!p)
		return;
	protection_release(p);
	protections_give_back(t, p);
}

/* ---- changes ---- */

static bool changes_locked(const struct protections *t, const char *uuid)
{
	const struct protections_change *c = t->changes;

	while (c && strcmp(c->uuid, uuid) != 0)
		c = c->next;
	return c != NULL;
}

void protections_begin_change(struct protections *t, const char *uuid, struct protections_change *c)
{
	THREAD_LOCKED(&t->lock);
	while (changes_locked(t, uuid))
		pthread_cond_wait(&t->changed, &t->lock);
	*c = (struct protections_change){ .uuid = uuid, .next = t->changes };
	t->changes = c;
}

void protections_end_change(struct protections *t, struct protections_change *c)
{
	THREAD_LOCKED(&t->lock);
	struct protections_change **at = &t->changes;
	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	pthread_cond_broadcast(&t->changed);
}

json_t *protections_stop(struct protections *t, const char *uuid)
{
	struct protection *p = NULL;

	pthread_mutex_lock(&t->lock);
	struct entry *en = find_locked(t, uuid);
	if (en) {
		en->ending = true;
		while (en->users)
			pthread_cond_wait(&t->changed, &t->lock);
		p = en->protection;
		en->protection = NULL;
		en->ending = false;
	}
	pthread_mutex_unlock(&t->lock);
	return p ? protection_end(p) : NULL;
}

int protections_start(struct protections *t, const json_t *record, struct err *e)
{
	const char *uuid = field_text(record, "uuid");
	struct protection *p = protection_start(&t->opts, record, e);

	if (!p)
		return -1;
	pthread_mutex_lock(&t->lock);
	struct entry *en = find_locked(t, uuid);
	const bool full = !en && t->n == MAX_PROTECTIONS;
	if (!en && !full) {
		en = mem_alloc(sizeof(*en));
		snprintf(en->uuid, sizeof(en->uuid), "%s", uuid);
		t->entries[t->n++] = en;
	}
	if (!full) {
		en->protection = p;
		free(en->vm);
		en->vm = mem_strdup(field_text(record, "vm"));
	}
	pthread_mutex_unlock(&t->lock);
	if (!full)
		return 0;
	protection_stop(p);
	return err_set(e, ERR_REFUSED, "more than %u VMs cannot be protected from one host", MAX_PROTECTIONS);
}

void protections_remove(struct protections *t, const char *uuid)
{
	THREAD_LOCKED(&t->lock);
	for (size_t i = 0; i < t->n; i++)
		if (strcmp(t->entries[i]->uuid, uuid) == 0) {
			free(t->entries[i]->vm);
			free(t->entries[i]);
			t->entries[i] = t->entries[--t->n];
			return;
		}
}

/* ---- life ---- */

/* Ends captures that get nowhere. */
static void *look_thread(void *arg)
{
	struct protections *t = arg;

	THREAD_LOCKED(&t->lock);
	while (!t->stopping) {
		const int64_t now = clock_mono_ns();
		/* The lock is held: what protection_look waits for is never held for long, nor while the table's is asked for. */
		for (size_t i = 0; i < t->n; i++)
			if (t->entries[i]->protection)
				protection_look(t->entries[i]->protection, now);
		thread_cond_wait_until(&t->changed, &t->lock, now + LOOK_NS);
	}
	return NULL;
}

struct protections *protections_new(const struct protection_opts *opts, struct err *e)
{
	struct protections *t = mem_alloc(sizeof(*t));
	json_t *all, *record;
	size_t i;

	t->opts = *opts;
	pthread_mutex_init(&t->lock, NULL);
	thread_cond_init(&t->changed);
	all = epoch_load_protections(opts->state_dir, e);
	json_array_foreach (all, i, record) {
		struct err one = ERR_INIT;
		/* One that cannot be started must not keep the others from it. */
		if (protections_start(t, record, &one) < 0)
			log_error("protection_not_started", "uuid=%s msg=%s", field_text(record, "uuid"),
				  LOG_Q(one.text));
	}
	t->looks = all && thread_start(&t->looker, "look", look_thread, t, e) == 0;
	json_decref(all);
	if (t->looks)
		return t;
	protections_free(t);
	return NULL;
}

void protections_free(struct protections *t)
{
	if (!t)
		return;
	if (t->looks) {
		pthread_mutex_lock(&t->lock);
		t->stopping = true;
		pthread_cond_broadcast(&t->changed);
		pthread_mutex_unlock(&t->lock);
		pthread_join(t->looker, NULL);
	}
	while (t->n) {
		char uuid[GUEST_UUID_LEN];
		memcpy(uuid, t->entries[t->n - 1]->uuid, sizeof(uuid));
		json_decref(protections_stop(t, uuid));
		protections_remove(t, uuid);
	}
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

const struct protection_opts *protections_opts(const struct protections *t)
{
	return &t->opts;
}
