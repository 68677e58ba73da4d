/*
 * migration.c - migrator_migrate: one VM to another host, from the operator's words to the report.
 *
 *	plan -> session -> virDomainMigrate3, watched -> who runs the VM? -> report
 */
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "migrator/domain.h"
#include "migrator/guests.h"
#include "migrator/migration_args.h"
#include "migrator/migrator_internal.h"
#include "migrator/offline.h"
#include "migrator/outgoing.h"
#include "migrator/plan.h"
#include "migrator/preflight.h"
#include "migrator/recover.h"
#include "migrator/sessions.h"
#include "migrator/state_files.h"
#include "migrator/watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SETTLE_NS (10 * NS_PER_S)

/* One migration, while migrator_migrate runs. */
struct migration {
	struct migrator *m;
	const struct job_ctl *ctl;
	struct migration_args args;
	virConnectPtr conn;
	virDomainPtr dom;
	char name[256], uuid[MIGRATOR_UUID_LEN];
	enum where was;
	bool persistent, autostart;
	json_t *plan; /* plan.h */
	struct job *job;
	struct outgoing *session;
	char session_id[SESSION_ID_LEN]; /* of the last session; empty: there was none */

	/* the outcome */
	struct watch_result watched;
	struct relay_stats relay;
	json_t *target; /* migrate.end's answer */
	enum where there;
	int64_t began_ns, ended_ns;
};

static void migration_fini(struct migration *g)
{
	if (g->job)
		job_end(g->m, g->job);
	json_decref(g->plan);
	json_decref(g->target);
	virt_dom_free(&g->dom);
	virt_conn_close(&g->conn);
}

static void event(const struct migration *g, const char *type, const char *text)
{
	json_t *data = json_pack("{s:s, s:s, s:s, s:s*}", "vm", g->name, "from", g->m->opts.host_name, "to",
				 g->args.host, "text", text);
	if (g->m->opts.event)
		g->m->opts.event(g->m->opts.ctx, type, g->uuid, data);
	else
		json_decref(data);
}

static void note_phase(const struct migration *g, const char *phase)
{
	job_note(g->m, g->job, g->ctl, json_pack("{s:s}", "phase", phase));
}

static int find_vm(struct migration *g, struct err *e)
{
	g->conn = virt_get(g->m->virt, e);
	if (!g->conn)
		return -1;
	g->dom = guests_find(g->conn, g->args.vm, e);
	if (!g->dom)
		return -1;
	snprintf(g->name, sizeof g->name, "%s", virDomainGetName(g->dom));
	if (virDomainGetUUIDString(g->dom, g->uuid) != 0)
		return virt_err(e, "UUID of %s", g->name);
	if (where_is(g->conn, g->uuid, &g->was, &g->persistent, e) != 0)
		return -1;
	int autostart = 0;
	/* A transient one has none, and libvirt says so by an error. */
	if (g->persistent && virDomainGetAutostart(g->dom, &autostart) != 0)
		return virt_err(e, "ask whether the host starts %s", g->name);
	g->autostart = autostart != 0;
	return 0;
}

/* Refused before the first byte, with every reason at once. */
static int check_plan(struct migration *g, const json_t *args, struct err *e)
{
	struct preflight_findings found = { 0 };
	json_t *f;
	size_t i;

	if (fault_point(FAULT_PREFLIGHT_GATHER, e) != 0 || plan_make(g->m, args, PLAN_QUICK, g->ctl, &g->plan, e) != 0)
		return -1;
	if (fault_point(FAULT_PREFLIGHT_JUDGE, e) != 0)
		return -1;
	found.list = json_object_get(g->plan, "findings");
	json_array_foreach (found.list, i, f)
		found.errors += strcmp(json_string_value(json_object_get(f, "severity")), "error") == 0;
	job_note(g->m, g->job, g->ctl,
		 json_pack("{s:s, s:O?, s:O?}", "phase", "preflight", "findings", found.list, "forecast",
			   json_object_get(g->plan, "forecast")));
	MEM_AUTO char *what = mem_printf("%s can't move to %s", g->name, g->args.host);
	if (preflight_refuse(&found, what, e) == 0)
		return 0;
	/* Nothing is wrong with the VM: scripts may try again. */
	if (preflight_find(&found, "peer-unreachable"))
		e->cls = ERR_PEER;
	return -1;
}

static unsigned libvirt_flags(const struct migration *g)
{
	const json_t *copy = json_object_get(json_object_get(g->plan, "disks"), "copy");
	unsigned flags = VIR_MIGRATE_LIVE | VIR_MIGRATE_ABORT_ON_ERROR;

	/* The VM ends defined where it runs, and only there. */
	if (g->persistent)
		flags |= VIR_MIGRATE_PERSIST_DEST | VIR_MIGRATE_UNDEFINE_SOURCE;
	if (json_array_size(copy) > 0)
		flags |= VIR_MIGRATE_NON_SHARED_DISK;
	/* Preflight has proved the storage to be shared; libvirt only knows kinds of file systems. */
	if (json_is_true(json_object_get(json_object_get(g->plan, "disks"), "unsafe")))
		flags |= VIR_MIGRATE_UNSAFE;
	if (g->args.auto_converge)
		flags |= VIR_MIGRATE_AUTO_CONVERGE;
	if (g->args.on_stall == CONVERGE_POSTCOPY)
		flags |= VIR_MIGRATE_POSTCOPY;
	if (g->args.parallel > 0)
		flags |= VIR_MIGRATE_PARALLEL;
	return flags;
}

/* The copy of an overlay is one image: a definition that spells out what was behind it would not find that at the target. */
static int add_definition(const struct migration *g, const char *param, unsigned flags, const json_t *flatten,
			  virTypedParameterPtr *p, int *n, int *max, struct err *e)
{
	VIRT_STR_AUTO char *xml = virDomainGetXMLDesc(g->dom, flags | VIR_DOMAIN_XML_SECURE);

	if (!xml)
		return virt_err(e, "definition of %s", g->name);
	MEM_AUTO char *flat = domain_flatten(xml, flatten, e);
	if (!flat)
		return -1;
	return virTypedParamsAddString(p, n, max, param, flat) == 0 ? 0 : virt_err(e, "parameters of the migration");
}

static int add_definitions(const struct migration *g, virTypedParameterPtr *p, int *n, int *max, struct err *e)
{
	const json_t *flatten = json_object_get(json_object_get(g->plan, "disks"), "flatten");

	if (json_array_size(flatten) == 0)
		return 0;
	if (add_definition(g, VIR_MIGRATE_PARAM_DEST_XML, VIR_DOMAIN_XML_MIGRATABLE, flatten, p, n, max, e) != 0)
		return -1;
	return g->persistent
		       ? add_definition(g, VIR_MIGRATE_PARAM_PERSIST_XML, VIR_DOMAIN_XML_INACTIVE, flatten, p, n, max, e)
		       : 0;
}

static int add_params(const struct migration *g, virTypedParameterPtr *p, int *n, int *max, struct err *e)
{
	const json_t *copy = json_object_get(json_object_get(g->plan, "disks"), "copy"), *disk;
	size_t i;
	int rc = virTypedParamsAddString(p, n, max, VIR_MIGRATE_PARAM_URI, outgoing_migration_uri(g->session));

	if (json_array_size(copy) > 0)
		rc |= virTypedParamsAddString(p, n, max, VIR_MIGRATE_PARAM_DISKS_URI, outgoing_disks_uri(g->session));
	json_array_foreach (copy, i, disk)
		rc |= virTypedParamsAddString(p, n, max, VIR_MIGRATE_PARAM_MIGRATE_DISKS, json_string_value(disk));
	if (g->args.auto_converge) {
		rc |= virTypedParamsAddInt(p, n, max, VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL,
					   CONVERGE_THROTTLE_INITIAL);
		rc |= virTypedParamsAddInt(p, n, max, VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT,
					   CONVERGE_THROTTLE_INCREMENT);
	}
	if (g->args.parallel > 0)
		rc |= virTypedParamsAddInt(p, n, max, VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, (int)g->args.parallel);
	return rc == 0 ? add_definitions(g, p, n, max, e) : virt_err(e, "parameters of the migration");
}

/* virDomainMigrate3 with the watch beside it. 0: the VM has moved. */
static int perform(struct migration *g, struct err *e)
{
	struct watch_opts wo = {
		.m = g->m,
		.session = g->session,
		.job = g->job,
		.ctl = g->ctl,
		.dom = g->dom,
		.converge = { .max_downtime_ms = (int64_t)g->args.max_downtime_ms,
			      .deadline_ns = (int64_t)g->args.deadline_ms * NS_PER_MS,
			      .on_stall = g->args.on_stall,
			      .auto_converge = g->args.auto_converge },
		.disk_bytes =
			(uint64_t)json_integer_value(json_object_get(json_object_get(g->plan, "disks"), "copy_bytes")),
	};
	const char *type = json_string_value(json_object_get(g->plan, "type"));
	virTypedParameterPtr params = NULL;
	int n = 0, max = 0, rc = -1;
	virConnectPtr dconn = NULL;
	struct watch *watch = NULL;
	VIRT_DOM_AUTO virDomainPtr moved = NULL;
	struct err why = ERR_INIT;

	wo.converge.few_passes = type && strcmp(type, "qemu") == 0;
	if (add_params(g, &params, &n, &max, e) != 0)
		goto out;
	dconn = outgoing_libvirt(g->session, e);
	if (!dconn || fault_point(FAULT_MIGRATE_START, e) != 0)
		goto out;
	watch = watch_start(&wo, e);
	if (!watch)
		goto out;
	moved = virDomainMigrate3(g->dom, dconn, params, (unsigned)n, libvirt_flags(g));
	if (!moved)
		virt_err(&why, "libvirt");
	watch_stop(watch, &g->watched);
	g->ended_ns = clock_mono_ns();
	if (moved || g->watched.moved)
		rc = 0;
	else
		*e = g->watched.end != WATCH_END_NONE ? g->watched.why : why;
	if (rc == 0 && fault_point(FAULT_MIGRATE_DONE, &why) != 0)
		log_error("fault", "msg=%s", LOG_Q(why.text));
out:
	if (dconn)
		virConnectClose(dconn);
	virTypedParamsFree(params, n);
	return rc;
}

/* After a failure: libvirt resumes the guest by itself; gives it the time, and a hand where it may. */
static enum where settle_here(struct migration *g, enum where there)
{
	const struct timespec pause = { .tv_nsec = 50 * NS_PER_MS };
	int64_t until = clock_mono_ns() + SETTLE_NS;
	enum where here = WHERE_LEFT;
	struct err e = ERR_INIT;

	while (clock_mono_ns() < until) {
		VIRT_CONN_AUTO virConnectPtr conn = virt_get(g->m->virt, &e);
		if (conn && where_is(conn, g->uuid, &here, NULL, &e) == 0 && here == g->was)
			return here;
		/* Only when the target is certain that it has nothing. */
		if (conn && here == WHERE_LEFT && g->was == WHERE_RUNNING && there == WHERE_ABSENT &&
		    recover_resume_vm(conn, g->uuid, &e) != 0)
			log_warn("resume_failed", "vm=%s msg=%s", g->name, LOG_Q(e.text));
		nanosleep(&pause, NULL);
	}
	return here;
}

/* The last sentence of every failure: where the VM is now. */
static int tell_state(struct migration *g, enum where here, struct err *e)
{
	const struct err why = *e;

	if (here == g->was)
		err_set(e, why.cls, "%s; %s is %s on %s as before", why.text, g->name, where_name(here),
			g->m->opts.host_name);
	else
		err_set(e, why.cls, "%s; %s is %s on %s", why.text, g->name,
			here == WHERE_LEFT ? "paused" : where_name(here), g->m->opts.host_name);
	memcpy(e->remedy, why.remedy, sizeof e->remedy);
	return -1;
}

/* Why pages were not understood; that the device state after them is not is as it should be. */
static const char *unparsed(const struct migration *g)
{
	const char *why = g->relay.passthrough;
	return why && strcmp(why, "end of RAM") != 0 ? why : NULL;
}

static json_t *report(const struct migration *g)
{
	const json_t *old = json_object_get(json_object_get(g->plan, "disks"), "leftover"), *path;
	uint64_t qemu = g->relay.stream_bytes[RELAY_MIGRATION], disk = g->relay.stream_bytes[RELAY_NBD];
	json_t *warnings = json_array();
	size_t i;

	json_array_foreach (old, i, path)
		json_array_append_new(warnings, json_sprintf("the old image %s stays on %s until you remove it",
							     json_string_value(path), g->m->opts.host_name));
	if (g->watched.moved)
		json_array_append_new(warnings,
				      json_string(
					      "the connection was lost in the last moment; the target confirmed that "
					      "the VM runs there"));
	/* libvirt does not move it. An agent of before does not, either. */
	if (g->autostart && !json_is_true(json_object_get(g->target, "autostart")))
		json_array_append_new(warnings, json_sprintf("it started with its host, and does not with %s: 'virsh "
							     "autostart' there",
							     g->args.host));
	if (g->was == WHERE_RUNNING && g->there != WHERE_RUNNING)
		json_array_append_new(
			warnings,
			json_sprintf("the VM arrived running and is %s on %s now: its guest powered off, crashed or "
				     "was paused since; libvirt's log of the VM there says more",
				     where_name(g->there), g->args.host));
	json_t *r = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:f, s:I, s:s?, s:b, s:b, s:o}", "vm",
			      g->name, "uuid", g->uuid, "from", g->m->opts.host_name, "to", g->args.host, "runs_on",
			      g->args.host, "state", where_name(g->there), "total_ms",
			      (json_int_t)((g->ended_ns - g->began_ns) / NS_PER_MS), "qemu_bytes", (json_int_t)qemu,
			      "disk_bytes", (json_int_t)disk, "wire_bytes", (json_int_t)g->relay.wire_bytes, "ratio",
			      g->relay.wire_bytes ? (double)(qemu + disk) / (double)g->relay.wire_bytes : 1.0,
			      "iterations", (json_int_t)g->watched.last.iteration, "passthrough", unparsed(g),
			      "paused_to_finish", (int)g->watched.paused, "postcopy", (int)g->watched.postcopy,
			      "warnings", warnings);
	/* libvirt counted to the end; the last look from here was before the switch. */
	json_t *downtime = json_object_get(g->target, "downtime_ms"),
	       *passes = json_object_get(g->target, "iterations");
	if (downtime)
		json_object_set(r, "downtime_ms", downtime);
	if (json_integer_value(passes) > 0)
		json_object_set(r, "iterations", passes);
	return r;
}

/* ---- the two ways to move ---- */

static int begin_session(struct migration *g, struct err *e)
{
	struct outgoing_spec spec = {
		.uuid = g->uuid,
		.name = g->name,
		.host = g->args.host,
		.was = g->was,
		.autostart = g->autostart,
		.disks = json_object_get(json_object_get(g->plan, "disks"), "create"),
		.rate_limit = g->args.bandwidth ? g->args.bandwidth : g->m->opts.rate_limit,
		.level = g->args.level,
	};
	note_phase(g, "begin");
	g->session = outgoing_begin(g->m, &spec, e);
	if (!g->session)
		return -1;
	snprintf(g->session_id, sizeof g->session_id, "%s", outgoing_session(g->session));
	return 0;
}

/* The session ends at both ends, and the last figures are taken. */
static void end_session(struct migration *g, bool done)
{
	if (!g->session)
		return;
	outgoing_stats(g->session, &g->relay);
	outgoing_end(g->session, done, g->watched.paused, &g->target);
	g->session = NULL;
	g->there = g->target ? where_from_name(json_string_value(json_object_get(g->target, "state"))) : WHERE_INCOMING;
}

static int move_live(struct migration *g, struct err *e)
{
	if (begin_session(g, e) != 0)
		return -1;
	int rc = perform(g, e);
	end_session(g, rc == 0);
	if (rc == 0 && g->there == WHERE_INCOMING)
		g->there = g->was;
	/* virDomainMigrate3 has undefined it here; when the answer was lost, the watch has. */
	return rc;
}

/* Somebody may start it at any moment; what runs is not what was copied. */
static int still_off(const struct migration *g, struct err *e)
{
	enum where here;

	if (where_is(g->conn, g->uuid, &here, NULL, e) != 0)
		return -1;
	return here == WHERE_SHUTOFF ? 0 : err_set(e, ERR_REFUSED, "it was started here while it was moved");
}

/* Its last steps, when its disks are at the target. */
static int hand_over_offline(struct migration *g, const char *own_xml, const char *xml, const struct domain *d,
			     const json_t *files, struct err *e)
{
	bool written[STATE_FILE_KINDS];

	if (fault_point(FAULT_OFFLINE_COPIED, e) != 0 || still_off(g, e) != 0 ||
	    offline_define(g->session, xml, files, written, e) != 0 || fault_point(FAULT_OFFLINE_DEFINED, e) != 0)
		return -1;
	if (offline_forget(g->conn, g->uuid, own_xml, e) == 0) {
		state_files_remove(STATE_FILES_ROOT, d, written);
		return 0;
	}
	if (e->cls == ERR_REFUSED)
		err_remedy(e, "undefine it at %s, where it is defined too, with disks as they were", g->args.host);
	return -1;
}

static int move_offline(struct migration *g, struct err *e)
{
	const json_t *create = json_object_get(json_object_get(g->plan, "disks"), "create"), *d;
	size_t i, n = json_array_size(create);
	struct offline_disk *disks = mem_alloc_array(n + 1, sizeof *disks);
	VIRT_STR_AUTO char *live = virDomainGetXMLDesc(g->dom, VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE);
	MEM_AUTO char *flat = NULL;
	MEM_AUTO char *xml = NULL;
	DOMAIN_AUTO struct domain *dom = NULL;
	json_t *files = NULL;
	int rc = -1;

	json_array_foreach (create, i, d)
		disks[i] = (struct offline_disk){
			.path = json_string_value(json_object_get(d, "path")),
			.format = json_string_value(json_object_get(d, "format")),
			.virtual_size = (uint64_t)json_integer_value(json_object_get(d, "virtual_size")),
		};
	if (!live)
		virt_err(e, "definition of %s", g->name);
	else
		flat = domain_flatten(live, json_object_get(json_object_get(g->plan, "disks"), "flatten"), e);
	xml = flat ? domain_for_define(flat, NULL, 0, e) : NULL;
	dom = xml ? domain_parse(xml, e) : NULL;
	files = dom ? state_files_read(STATE_FILES_ROOT, dom, e) : NULL;
	if (files && begin_session(g, e) == 0 && offline_copy(g->m, g->job, g->ctl, g->session, disks, n, e) == 0)
		rc = hand_over_offline(g, live, xml, dom, files, e);
	g->ended_ns = clock_mono_ns();
	end_session(g, rc == 0);
	free(disks);
	json_decref(files);
	return rc;
}

static int run(struct migration *g, const json_t *args, struct err *e)
{
	if (migration_args_parse(args, &g->args, e) != 0 || find_vm(g, e) != 0)
		return -1;
	g->job = job_start(g->m, g->uuid, g->name, g->args.host, e);
	if (!g->job)
		return -1;
	event(g, "migration.started", NULL);
	if (check_plan(g, args, e) != 0)
		return tell_state(g, g->was, e);
	int rc = g->was == WHERE_SHUTOFF ? move_offline(g, e) : move_live(g, e);
	if (rc == 0)
		return 0;
	enum where here = settle_here(g, g->there);
	/* While it is not known who runs the VM the record stays: recover.c goes on asking. */
	struct err ignored = ERR_INIT;
	if (here != WHERE_LEFT && g->session_id[0] && sessions_remove(g->m->opts.state_dir, g->session_id, &ignored) != 0)
		log_error("session_journal", "session=%s msg=%s", g->session_id, LOG_Q(ignored.text));
	return tell_state(g, here, e);
}

int migrator_migrate(struct migrator *m, const json_t *args, const struct job_ctl *ctl, json_t **result, struct err *e)
{
	struct migration g = { .m = m, .ctl = ctl, .there = WHERE_INCOMING, .began_ns = clock_mono_ns() };
	const char *vm = json_string_value(json_object_get(args, "vm"));
	const bool held = vm && m->opts.hold;

	if (held && m->opts.hold(m->opts.ctx, vm, e) != 0)
		return -1;
	int rc = run(&g, args, e);

	if (rc == 0) {
		*result = report(&g);
		log_info("migration_done", "vm=%s to=%s total_ms=%lld wire_bytes=%llu", g.name, g.args.host,
			 (long long)((g.ended_ns - g.began_ns) / NS_PER_MS), (unsigned long long)g.relay.wire_bytes);
		event(&g, "migration.done", NULL);
	} else if (g.job) {
		log_warn("migration_failed", "vm=%s to=%s class=%s msg=%s", g.name, g.args.host, err_class_name(e->cls),
			 LOG_Q(e->text));
		event(&g, e->cls == ERR_CANCELLED ? "migration.cancelled" : "migration.failed", e->text);
	}
	migration_fini(&g);
	if (held)
		m->opts.let_go(m->opts.ctx, vm);
	return rc;
}
