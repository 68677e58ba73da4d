#include "tools/vmferryd/declarer.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/replicator.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/declared.h"

#include <stdlib.h>
#include <string.h>

#define RETRY_NS (10 * NS_PER_S)

struct declarer {
	struct agent *agent; /* fixed */
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	bool stop, reloaded;
};

int declarer_protect(struct agent *a, const json_t *args, json_t **result, struct err *e)
{
	const char *vm = json_string_value(json_object_get(args, "vm"));
	json_t *full = json_copy((json_t *)(uintptr_t)args);

	if (vm && !replicator_protects(a->replicator, vm, NULL)) {
		const struct settings_view *view = settings_get(a->settings);
		if (!json_object_get(full, "max_pause_ms"))
			json_object_set_new(full, "max_pause_ms", json_integer(view->config->replication.max_pause / NS_PER_MS));
		if (!json_object_get(full, "bandwidth"))
			json_object_set_new(full, "bandwidth", json_integer((json_int_t)view->config->replication.bandwidth));
		settings_put(a->settings, view);
	}
	int rc = replicator_protect(a->replicator, full, result, e);
	json_decref(full);
	return rc;
}

/* Does the record have all of it? What stands in no entry is not the file's. */
static bool has_all(const json_t *record, const json_t *args)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)args, key, value)
	{
		if (strcmp(key, "vm") != 0 && !json_equal(json_object_get(record, key), value))
			return false;
	}
	return true;
}

/* 0: as it should be. */
static int declare(struct agent *a, const struct config_protection *p, bool *said)
{
	json_t *args = declared_args(p), *record = NULL, *status = NULL;
	struct err e = ERR_INIT;
	int rc = 0;

	if (!replicator_protects(a->replicator, p->vm, &record) || !has_all(record, args))
		rc = declarer_protect(a, args, &status, &e);
	if (rc < 0 && !*said)
		log_warn("declared_protection", "vm=%s host=%s class=%s msg=%s", LOG_Q(p->vm), LOG_Q(p->to), err_class_name(e.cls),
			 LOG_Q(e.text));
	*said = rc < 0;
	json_decref(args);
	json_decref(record);
	json_decref(status);
	return rc;
}

/* One round over the file. 0: all is as it says. */
static int declare_all(struct agent *a, bool *said)
{
	const struct settings_view *view = settings_get(a->settings);
	const struct config *c = view->config;
	int rc = 0;

	for (size_t i = 0; i < c->n_protections && !agent_stopping(a); i++)
		rc |= declare(a, &c->protections[i], &said[i]);
	settings_put(a->settings, view);
	return rc;
}

static void *declarer_thread(void *arg)
{
	struct declarer *d = arg;
	bool *said = mem_alloc_array(CONFIG_MAX_PROTECTIONS, sizeof(*said));

	pthread_mutex_lock(&d->lock);
	while (!d->stop) {
		d->reloaded = false;
		pthread_mutex_unlock(&d->lock);
		int64_t until = declare_all(d->agent, said) == 0 ? INT64_MAX : clock_mono_ns() + RETRY_NS;
		pthread_mutex_lock(&d->lock);
		while (!d->stop && !d->reloaded && thread_cond_wait_until(&d->changed, &d->lock, until) == 0)
			;
		if (d->reloaded)
			memset(said, 0, CONFIG_MAX_PROTECTIONS * sizeof(*said));
	}
	pthread_mutex_unlock(&d->lock);
	free(said);
	return NULL;
}

struct declarer *declarer_start(struct agent *a, struct err *e)
{
	struct declarer *d = mem_alloc(sizeof(*d));

	d->agent = a;
	pthread_mutex_init(&d->lock, NULL);
	thread_cond_init(&d->changed);
	if (thread_start(&d->thread, "declarer", declarer_thread, d, e) < 0) {
		free(d);
		return NULL;
	}
	return d;
}

void declarer_reload(struct declarer *d)
{
	THREAD_LOCKED(&d->lock);
	d->reloaded = true;
	pthread_cond_signal(&d->changed);
}

void declarer_stop(struct declarer *d)
{
	if (!d)
		return;
	{
		THREAD_LOCKED(&d->lock);
		d->stop = true;
		pthread_cond_signal(&d->changed);
	}
	pthread_join(d->thread, NULL);
	pthread_mutex_destroy(&d->lock);
	pthread_cond_destroy(&d->changed);
	free(d);
}

int declarer_allows(struct agent *a, const json_t *args, struct err *e)
{
	const char *vm = json_string_value(json_object_get(args, "vm"));
	json_t *record = NULL;
	int rc = 0;

	if (!vm)
		return 0;
	(void)replicator_protects(a->replicator, vm, &record);
	const char *name = json_string_value(json_object_get(record, "vm")), *uuid = json_string_value(json_object_get(record, "uuid"));
	const struct settings_view *view = settings_get(a->settings);
	for (size_t i = 0; i < view->config->n_protections && rc == 0; i++) {
		const char *listed = view->config->protections[i].vm;
		if (strcmp(listed, vm) != 0 && (!name || strcmp(listed, name) != 0) && (!uuid || strcmp(listed, uuid) != 0))
			continue;
		rc = err_set(e, ERR_REFUSED, "the protection of %s stands in the configuration of %s", listed, view->config->name);
		err_remedy(e, "change `protections' in vmferryd.conf there, then systemctl reload vmferryd");
	}
	settings_put(a->settings, view);
	json_decref(record);
	return rc;
}
