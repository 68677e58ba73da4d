/*
 * answers.c - migrator.h's calls that only look: host.facts, vms, preflight.target, cpu.baseline.
 */
#include "base/mem.h"
#include "migrator/cpu.h"
#include "migrator/facts.h"
#include "migrator/guests.h"
#include "migrator/incoming.h"
#include "migrator/migrator_internal.h"
#include "migrator/preflight.h"
#include "migrator/virt.h"

#include <string.h>

int migrator_host_facts(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(m->virt, e);
	json_t *jobs = NULL;

	if (!conn || facts_gather(conn, m->opts.host_name, result, e) < 0)
		return -1;
	if (migrator_jobs(m, args, &jobs, e) < 0) {
		json_decref(*result);
		*result = NULL;
		return -1;
	}
	json_object_set(*result, "jobs", json_object_get(jobs, "jobs"));
	json_decref(jobs);
	return 0;
}

int migrator_vms(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(m->virt, e);
	json_t *list = NULL;

	(void)args;
	if (!conn || guests_list(conn, m->opts.host_name, &list, e) < 0)
		return -1;
	*result = json_pack("{s:o}", "vms", list);
	return 0;
}

static bool is_incoming(void *ctx, const char *uuid)
{
	return incoming_has(ctx, uuid);
}

static unsigned count_incoming(struct migrator *m)
{
	struct err ignored = ERR_INIT;
	json_t *jobs = NULL;
	unsigned n = 0;
	size_t i;
	json_t *job;

	if (migrator_jobs(m, NULL, &jobs, &ignored) < 0)
		return 0;
	json_array_foreach (json_object_get(jobs, "jobs"), i, job) {
		const char *direction = json_string_value(json_object_get(job, "direction"));
		n += direction && strcmp(direction, "in") == 0;
	}
	json_decref(jobs);
	return n;
}

int migrator_preflight_target(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(m->virt, e);
	if (!conn)
		return -1;
	MEM_AUTO char *image_dir = migrator_image_dir(m);
	const struct preflight_target_opts opts = {
		.host_name = m->opts.host_name,
		.image_dir = image_dir,
		.jobs = count_incoming(m),
		.max_jobs = migrator_tuning_now(m).max_jobs,
		.incoming = is_incoming,
		.ctx = m,
	};
	return preflight_target(conn, &opts, args, result, e);
}

int migrator_cpu_baseline(struct migrator *m, const json_t *args, json_t **result, struct err *e)
{
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(m->virt, e);
	return conn ? cpu_baseline(conn, args, result, e) : -1;
}
