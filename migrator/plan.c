#include "migrator/plan.h"

#include "base/clock.h"
#include "base/log.h"
#include "migrator/dirty_rate.h"
#include "migrator/forecast.h"
#include "migrator/guests.h"
#include "migrator/preflight.h"
#include "migrator/probe.h"

#include <string.h>

#define ASK_TIMEOUT_NS (30 * NS_PER_S)

struct plan {
	struct migrator *m;
	struct migration_args args;
	virConnectPtr conn;
	virDomainPtr dom;
	struct preflight_source source;
	json_t *target; /* the target's answer, or NULL */
	struct preflight_verdict verdict;
	struct forecast_in in;
	struct forecast forecast;
};

static void plan_fini(struct plan *p)
{
	if (p->source.dom)
		preflight_source_fini(&p->source);
	if (p->verdict.actions)
		preflight_verdict_fini(&p->verdict);
	json_decref(p->target);
	virt_dom_free(&p->dom);
	virt_conn_close(&p->conn);
}

static int check_cancelled(const struct job_ctl *ctl, struct err *e)
{
	if (ctl && ctl->cancelled && ctl->cancelled(ctl->ctx))
		return err_set(e, ERR_CANCELLED, "cancelled");
	return 0;
}

/* The target's facts; its clock beside ours. */
static int ask_target(struct plan *p, bool *asked, int64_t *skew_ns, struct err *e)
{
	struct rpc *peer = p->m->opts.connect_peer(p->m->opts.ctx, p->args.host, e);
	if (!peer)
		return -1;
	*asked = true;
	int64_t before = clock_wall_ns();
	int rc = rpc_call(peer, "preflight.target", preflight_request(&p->source, &p->args),
			  clock_mono_ns() + ASK_TIMEOUT_NS, NULL, NULL, NULL, &p->target, e);
	*skew_ns = preflight_skew(before, clock_wall_ns(), json_integer_value(json_object_get(p->target, "time_ns")));
	rpc_unref(peer);
	return rc;
}

static void judge(struct plan *p)
{
	struct err why = ERR_INIT;
	int64_t skew = 0;
	bool asked = false;

	if (ask_target(p, &asked, &skew, &why) == 0) {
		preflight_judge(&p->source, p->target, &p->args, skew, &p->verdict);
	} else {
		/* What can be said without the target is said too. */
		json_decref(p->target);
		p->target = NULL;
		preflight_judge_alone(&p->source, &p->args, &p->verdict);
		/* What keeps us from asking at all is not always the target's word, and says whose it is. */
		if (!asked && why.cls == ERR_REFUSED)
			preflight_add(&p->verdict.findings, PREFLIGHT_ERROR, "peer-refused", why.remedy, "%s", why.text);
		else
			preflight_add_err(&p->verdict.findings, p->args.host, &why);
	}
	preflight_remove_probes(&p->source);
}

static void measure(struct plan *p)
{
	struct err slow = ERR_INIT, link = ERR_INIT;
	bool running = p->source.where == WHERE_RUNNING && dirty_rate_start(p->dom, &slow) == 0;

	if (p->target && probe_link_speed(p->m, p->args.host, &p->in.link_bytes_s, &link) < 0)
		log_warn("link_not_measured", "peer=%s msg=%s", p->args.host, LOG_Q(link.text));
	p->in.dirty_known = running && dirty_rate_finish(p->dom, &p->in.dirty_bytes_s, &slow) == 0;
	if (p->source.where == WHERE_PAUSED || p->source.where == WHERE_SHUTOFF)
		p->in.dirty_known = true; /* it is 0 */
	else if (!p->in.dirty_known)
		log_warn("dirty_rate_not_measured", "vm=%s msg=%s", p->source.dom->name, LOG_Q(slow.text));
}

static void look_ahead(struct plan *p, enum plan_depth depth)
{
	uint64_t memory = p->source.dom->memory_bytes;
	uint64_t rss = p->source.dom->hugepage_bytes ? 0 : p->source.rss_bytes; /* hugepages do not count as resident */
	uint64_t limit = p->args.bandwidth ? p->args.bandwidth : p->m->opts.rate_limit;

	p->in.ram_bytes = p->args.offline ? 0 : rss > 0 && rss < memory ? rss : memory;
	p->in.disk_bytes = p->verdict.copy_bytes;
	p->in.max_downtime_ns = (int64_t)p->args.max_downtime_ms * NS_PER_MS;
	if (depth == PLAN_MEASURED)
		measure(p);
	if (limit > 0 && (p->in.link_bytes_s == 0 || limit < p->in.link_bytes_s))
		p->in.link_bytes_s = limit;
	forecast_compute(&p->in, &p->forecast);
}

static json_t *disks_json(const struct plan *p)
{
	json_t *copy = json_array();
	json_t *create = json_array();
	json_t *leftover = json_array();
	json_t *flatten = json_array();

	for (size_t i = 0; i < p->verdict.n_disks; i++) {
		const struct domain_disk *disk = &p->source.dom->disks[i];
		if (p->verdict.actions[i] == PREFLIGHT_LEAVE)
			continue;
		json_array_append_new(copy, json_string(disk->target));
		json_array_append_new(leftover, json_string(disk->path));
		if (p->source.disks[i].fixed_chain)
			json_array_append_new(flatten, json_string(disk->target));
		if (p->verdict.actions[i] == PREFLIGHT_CREATE)
			json_array_append_new(create,
					      json_pack("{s:s,s:s,s:I}", "path", disk->path, "format", disk->format,
							"virtual_size", (json_int_t)p->source.disks[i].virtual_bytes));
	}
	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:I,s:b}", "all", preflight_disks_json(&p->source, &p->verdict), "copy",
			 copy, "create", create, "leftover", leftover, "flatten", flatten, "copy_bytes",
			 (json_int_t)p->verdict.copy_bytes, "unsafe", p->verdict.unsafe);
}

static json_t *target_json(const struct plan *p)
{
	if (!p->target)
		return json_null();
	json_t *memory = json_object_get(p->target, "memory");
	return json_pack("{s:I,s:I,s:I}", "spare_bytes", json_integer_value(json_object_get(memory, "spare_bytes")),
			 "jobs", json_integer_value(json_object_get(p->target, "jobs")), "max_jobs",
			 json_integer_value(json_object_get(p->target, "max_jobs")));
}

static int find(struct plan *p, const json_t *args, struct err *e)
{
	if (migration_args_parse(args, &p->args, e) < 0)
		return -1;
	p->conn = virt_get(p->m->virt, e);
	if (!p->conn)
		return -1;
	p->dom = guests_find(p->conn, p->args.vm, e);
	if (!p->dom)
		return -1;
	if (strcmp(p->args.host, p->m->opts.host_name) == 0) {
		err_set(e, ERR_REFUSED, "%s is on %s already", p->args.vm, p->args.host);
		return err_remedy(e, "name another host; vmferry hosts lists them");
	}
	return 0;
}

int plan_make(struct migrator *m, const json_t *args, enum plan_depth depth, const struct job_ctl *ctl, json_t **result,
	      struct err *e)
{
	struct plan p = { .m = m, .source = { .job = -1 } };
	int rc = -1;

	if (find(&p, args, e) < 0 || preflight_gather(p.conn, p.dom, &p.source, e) < 0 || check_cancelled(ctl, e) < 0)
		goto out;
	judge(&p);
	if (check_cancelled(ctl, e) < 0)
		goto out;
	look_ahead(&p, depth);
	*result = json_pack("{s:s,s:s,s:s,s:s,s:b,s:O,s:o,s:o,s:o}", "vm", p.source.dom->name, "uuid",
			    p.source.dom->uuid, "type", p.source.dom->type ? p.source.dom->type : "", "host",
			    p.args.host, "possible", p.verdict.findings.errors == 0, "findings",
			    p.verdict.findings.list, "forecast", forecast_json(&p.in, &p.forecast), "disks",
			    disks_json(&p), "target", target_json(&p));
	rc = *result ? 0
		     : err_set(e, ERR_CORRUPT, "the plan for %s can't be put into words: names that are not UTF-8",
			       p.args.vm);
out:
	plan_fini(&p);
	return rc;
}

int migrator_plan(struct migrator *m, const json_t *args, const struct job_ctl *ctl, json_t **result, struct err *e)
{
	return plan_make(m, args, PLAN_MEASURED, ctl, result, e);
}
