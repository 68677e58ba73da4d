#include "migrator/migrator.h"
#include "migrator/guest_virt.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "migrator/incoming.h"
#include "migrator/migrator_internal.h"
#include "migrator/probe.h"
#include "migrator/recover.h"
#include "migrator/virt.h"
#include "migrator/prime.h"
#include "migrator/ways.h"
#include "migrator/where.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JANITOR_INTERVAL_NS (3 * NS_PER_S)
#define STOP_GRACE_NS (30 * NS_PER_S)
#define PRIME_LOOK_NS (5 * NS_PER_S)
#define PRIME_AGAIN_NS (600 * NS_PER_S)

/* ---- jobs ---- */

struct job *job_start(struct migrator *m, const char *uuid, const char *name, const char *host, struct err *e)
{
	unsigned n = 0;

	THREAD_LOCKED(&m->lock);
	if (m->stopping) {
		err_set(e, ERR_REFUSED, "the agent of %s is shutting down", m->opts.host_name);
		return NULL;
	}
	for (const struct job *j = m->jobs; j; j = j->next, n++) {
		if (strcmp(j->uuid, uuid) != 0)
			continue;
		err_set(e, ERR_REFUSED, "%s is being migrated to %s already", name, j->host);
		err_remedy(e, "watch it with 'vmferry jobs', or end it with 'vmferry cancel %s'", name);
		return NULL;
	}
	if (n >= m->tuning.max_jobs) {
		err_set(e, ERR_REFUSED, "%u migrations are under way already", n);
		err_remedy(e, "wait for one to end, or raise migration.max_jobs in vmferryd.conf");
		return NULL;
	}
	struct job *j = mem_alloc(sizeof *j);
	snprintf(j->uuid, sizeof j->uuid, "%s", uuid);
	snprintf(j->name, sizeof j->name, "%s", name);
	snprintf(j->host, sizeof j->host, "%s", host);
	j->start_ns = clock_mono_ns();
	j->next = m->jobs;
	m->jobs = j;
	return j;
}

void job_note(struct migrator *m, struct job *j, const struct job_ctl *ctl, json_t *note)
{
	pthread_mutex_lock(&m->lock);
	json_t *old = j->progress;
	j->progress = json_deep_copy(note);
	pthread_mutex_unlock(&m->lock);
	json_decref(old);
	if (ctl && ctl->note)
		ctl->note(ctl->ctx, note);
	else
		json_decref(note);
}

void job_end(struct migrator *m, struct job *j)
{
	pthread_mutex_lock(&m->lock);
	for (struct job **p = &m->jobs; *p; p = &(*p)->next) {
		if (*p == j) {
			*p = j->next;
			break;
		}
	}
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	json_decref(j->progress);
	free(j);
}

int migrator_cancel(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	const char *vm = json_string_value(json_object_get(args, "vm"));

	THREAD_LOCKED(&m->lock);
	for (struct job *j = m->jobs; j && vm; j = j->next) {
		if (strcmp(j->name, vm) != 0 && strcmp(j->uuid, vm) != 0)
			continue;
		j->cancel = true;
		*result = json_pack("{s:s, s:s}", "vm", j->name, "host", j->host);
		return 0;
	}
	err_set(e, ERR_REFUSED, "no migration of %s is under way on %s", vm ? vm : "(no VM named)", m->opts.host_name);
	return err_remedy(e, "see 'vmferry jobs'; a migration is cancelled at its source host");
}

int migrator_jobs(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	json_t *jobs = json_array();

	(void)args;
	(void)e;
	THREAD_LOCKED(&m->lock);
	for (const struct job *j = m->jobs; j; j = j->next) {
		json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:I}", "vm", j->name, "uuid", j->uuid, "direction", "out",
				      "peer", j->host, "elapsed_ms",
				      (json_int_t)((clock_mono_ns() - j->start_ns) / NS_PER_MS));
		if (j->progress)
			json_object_update_missing(o, j->progress);
		json_array_append_new(jobs, o);
	}
	incoming_list_locked(m, jobs);
	*result = json_pack("{s:o}", "jobs", jobs);
	return 0;
}

int migrator_vm_where(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	const char *uuid = json_string_value(json_object_get(args, "uuid"));
	enum where w;

	if (!uuid || strlen(uuid) != MIGRATOR_UUID_LEN - 1)
		return err_set(e, ERR_PROTOCOL, "vm.where: no UUID");
	/* While a session is open the answer could change behind the asker's back. */
	if (incoming_has(m, uuid)) {
		w = WHERE_INCOMING;
	} else {
		VIRT_CONN_AUTO virConnectPtr conn = virt_get(m->virt, e);
		if (!conn || where_is(conn, uuid, &w, NULL, e) != 0)
			return -1;
	}
	*result = json_pack("{s:s}", "state", where_name(w));
	return 0;
}

void migrator_incoming_probe(struct migrator *m, struct link *l)
{
	(void)m;
	probe_serve(l);
}

/* ---- life ---- */

/* Looks at the journal now and again: libvirtd or a peer may have been away the last time. */
static void *janitor(void *arg)
{
	struct migrator *m = arg;

	for (;;) {
		recover_pass(m);
		int64_t until = clock_mono_ns() + JANITOR_INTERVAL_NS;
		pthread_mutex_lock(&m->lock);
		while (!m->stopping && clock_mono_ns() < until)
			thread_cond_wait_until(&m->changed, &m->lock, until);
		bool stop = m->stopping;
		pthread_mutex_unlock(&m->lock);
		if (stop)
			return NULL;
	}
}

static void copy_opts(struct migrator_opts *to, const struct migrator_opts *from)
{
	*to = *from;
	to->host_name = mem_strdup(from->host_name);
	to->libvirt_uri = mem_strdup(from->libvirt_uri);
	to->libvirt_socket = mem_strdup(from->libvirt_socket);
	to->run_dir = mem_strdup(from->run_dir);
	to->state_dir = mem_strdup(from->state_dir);
	to->qemu_group = mem_strdup(from->qemu_group);
	to->tuning = (struct migrator_tuning){ 0 }; /* the one that counts is the migrator's */
}

static void free_const(const char *s)
{
	union {
		const char *in;
		void *out;
	} p = { .in = s };
	free(p.out);
}

static void free_opts(struct migrator_opts *o)
{
	free_const(o->host_name);
	free_const(o->libvirt_uri);
	free_const(o->libvirt_socket);
	free_const(o->run_dir);
	free_const(o->state_dir);
	free_const(o->qemu_group);
}

void migrator_tune(struct migrator *m, const struct migrator_tuning *t)
{
	THREAD_LOCKED(&m->lock);
	free_const(m->tuning.image_dir);
	m->tuning = *t;
	m->tuning.image_dir = mem_strdup(t->image_dir);
	if (m->tuning.max_jobs == 0)
		m->tuning.max_jobs = 1;
}

struct migrator_tuning migrator_tuning_now(struct migrator *m)
{
	THREAD_LOCKED(&m->lock);
	struct migrator_tuning now = m->tuning;
	now.image_dir = NULL;
	return now;
}

char *migrator_image_dir(struct migrator *m)
{
	THREAD_LOCKED(&m->lock);
	return mem_strdup(m->tuning.image_dir);
}

struct migrator *migrator_new(const struct migrator_opts *opts, struct err *e)
{
	const struct prime_opts wo = { .look_ns = PRIME_LOOK_NS, .again_ns = PRIME_AGAIN_NS };
	struct migrator *m = mem_alloc(sizeof *m);

	copy_opts(&m->opts, opts);
	pthread_mutex_init(&m->lock, NULL);
	thread_cond_init(&m->changed);
	migrator_tune(m, &opts->tuning);
	m->virt = virt_new(opts->libvirt_uri, e);
	m->prime = m->virt ? prime_start(m->virt, &wo, e) : NULL;
	if (!m->prime || thread_start(&m->janitor, "janitor", janitor, m, e) != 0) {
		prime_stop(m->prime);
		virt_free(m->virt);
		free_const(m->tuning.image_dir);
		free_opts(&m->opts);
		free(m);
		return NULL;
	}
	return m;
}

/* Cancels the jobs and waits for them. One that is waiting for its target to say whether the VM started there cannot be ended: the
 * process goes without freeing it, libvirt keeps the VM paused, and the next agent settles it from the journal. */
static bool stop_jobs(struct migrator *m)
{
	int64_t until = clock_mono_ns() + STOP_GRACE_NS;

	THREAD_LOCKED(&m->lock);
	m->stopping = true;
	for (struct job *j = m->jobs; j; j = j->next)
		j->cancel = true;
	pthread_cond_broadcast(&m->changed);
	while (m->jobs && clock_mono_ns() < until)
		thread_cond_wait_until(&m->changed, &m->lock, until);
	return m->jobs == NULL;
}

void migrator_free(struct migrator *m)
{
	if (!m)
		return;
	bool idle = stop_jobs(m);
	pthread_join(m->janitor, NULL);
	prime_stop(m->prime);
	incoming_stop_all(m);
	if (!idle) {
		log_warn("stopped_undecided", "msg=%s",
			 LOG_Q("a migration's end is not known yet; see the journal of the next start"));
		return;
	}
	ways_free(m);
	virt_free(m->virt);
	pthread_cond_destroy(&m->changed);
	pthread_mutex_destroy(&m->lock);
	free_const(m->tuning.image_dir);
	free_opts(&m->opts);
	free(m);
}

struct guest *migrator_open_guest(struct migrator *m, const char *vm, struct err *e)
{
	return guest_virt_open(m->virt, vm, e);
}
