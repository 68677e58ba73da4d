#include "tools/vmferryd/calls.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/declarer.h"
#include "tools/vmferryd/failback.h"
#include "tools/vmferryd/leftover.h"
#include "tools/vmferryd/seed.h"
#include "tools/vmferryd/takeover.h"

#include <stdio.h>
#include <string.h>

/* ---- the migrator's calls ---- */

static void job_note(void *ctx, json_t *note)
{
	rpc_note(ctx, note);
}

struct job_caller {
	struct agent *agent;
	struct rpc_call *call;
};

static void caller_note(void *ctx, json_t *note)
{
	const struct job_caller *c = ctx;
	job_note(c->call, note);
}

static bool caller_cancelled(void *ctx)
{
	const struct job_caller *c = ctx;
	return rpc_cancelled(c->call) || agent_stopping(c->agent);
}

/* The operator's arguments with what the configuration says where they say nothing. New reference. */
static json_t *with_defaults(struct agent *a, const json_t *options)
{
	json_t *full = options ? json_copy((json_t *)(uintptr_t)options) : json_object();
	const struct settings_view *view = settings_get(a->settings);
	if (!json_object_get(full, "max_downtime_ms"))
		json_object_set_new(full, "max_downtime_ms",
				    json_integer(view->config->migration.max_downtime / NS_PER_MS));
	if (!json_object_get(full, "bandwidth"))
		json_object_set_new(full, "bandwidth", json_integer((json_int_t)view->config->migration.bandwidth));
	settings_put(a->settings, view);
	return full;
}

static int call_plan(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	struct job_caller caller = { .agent = a, .call = call };
	const struct job_ctl ctl = { .note = caller_note, .cancelled = caller_cancelled, .ctx = &caller };
	json_t *full = with_defaults(a, args);
	int rc = migrator_plan(a->migrator, full, &ctl, result, e);
	json_decref(full);
	return rc;
}

/* A VM that has moved is protected no more, and its replica gets older: said where it was moved; or, where it could only be, beforehand. */
static void tell_left_behind(struct agent *a, const char *vm, bool moved, json_t *report)
{
	json_t *record = NULL, *warnings = json_object_get(report, "warnings");

	if (!replicator_protects(a->replicator, vm, &record))
		return;
	if (!json_is_array(warnings)) {
		warnings = json_array();
		json_object_set_new(report, "warnings", warnings);
	}
	json_array_append_new(warnings,
			      json_sprintf(moved ? "its protection to %s has stayed behind and makes no points: "
						   "'vmferry unprotect %s --forget' here, then 'vmferry "
						   "protect' it where it runs now"
						 : "its protection to %s would stay behind and make no points: "
						   "once it has moved, 'vmferry unprotect %s --forget' here, "
						   "then 'vmferry protect' it where it runs then",
					   json_string_value(json_object_get(record, "host")), vm));
	json_decref(record);
}

static int call_migrate(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	struct job_caller caller = { .agent = a, .call = call };
	const struct job_ctl ctl = { .note = caller_note, .cancelled = caller_cancelled, .ctx = &caller };
	const char *vm = json_string_value(json_object_get(args, "vm"));
	/* A VM that is being captured cannot be migrated: its protection lets go of it meanwhile. */
	if (vm && replicator_hold_vm(a->replicator, vm, "it is being migrated", e) < 0)
		return -1;
	json_t *full = with_defaults(a, args);
	int rc = migrator_migrate(a->migrator, full, &ctl, result, e);
	json_decref(full);
	if (vm)
		replicator_release_vm(a->replicator, vm);
	if (vm && rc == 0)
		tell_left_behind(a, vm, true, *result);
	return rc;
}

/* Without "to": all peers. */
static json_t *drain_targets(struct agent *a, const json_t *args)
{
	json_t *to = json_object_get(args, "to");
	if (json_array_size(to) > 0)
		return json_incref(to);
	json_t *all = json_array();
	const struct settings_view *view = settings_get(a->settings);
	for (size_t i = 0; i < view->config->n_peers; i++)
		json_array_append_new(all, json_string(view->config->peers[i].name));
	settings_put(a->settings, view);
	return all;
}

/* A name that is mistyped is found now, and not when there is something to move. */
static int check_targets(struct agent *a, const json_t *to, struct err *e)
{
	size_t i;
	const json_t *name;
	json_array_foreach (to, i, name)
		if (json_is_string(name) && peers_check(a->peers, json_string_value(name), e) < 0)
			return err_wrap(e, "drain");
	return 0;
}

static int call_drain(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	struct job_caller caller = { .agent = a, .call = call };
	const struct job_ctl ctl = { .note = caller_note, .cancelled = caller_cancelled, .ctx = &caller };
	json_t *full = json_copy((json_t *)(uintptr_t)args), *moved;
	size_t i;
	json_object_set_new(full, "to", drain_targets(a, args));
	json_object_set_new(full, "options", with_defaults(a, json_object_get(args, "options")));
	int rc = -1;
	if (json_array_size(json_object_get(full, "to")) == 0) {
		err_set(e, ERR_REFUSED, "there is no other host to move VMs to");
		err_remedy(e, "add peers to vmferryd.conf");
	} else if (check_targets(a, json_object_get(full, "to"), e) == 0) {
		rc = migrator_drain(a->migrator, full, &ctl, result, e);
	}
	json_array_foreach (rc == 0 ? json_object_get(*result, "moved") : NULL, i, moved)
		tell_left_behind(a, json_string_value(json_object_get(moved, "vm")),
				 !json_is_true(json_object_get(args, "dry_run")), moved);
	json_decref(full);
	return rc;
}

#define MIGRATOR_CALL(name)                                                                                 \
	static int call_##name(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, \
			       struct err *e)                                                               \
	{                                                                                                   \
		(void)call;                                                                                 \
		return migrator_##name(a->migrator, args, result, e);                                       \
	}
#define INCOMING_CALL(name)                                                                                 \
	static int call_##name(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, \
			       struct err *e)                                                               \
	{                                                                                                   \
		return migrator_##name(a->migrator, rpc_connection(call), args, result, e);                 \
	}
MIGRATOR_CALL(host_facts)
static int call_vms(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	(void)call;
	return fleet_own_vms(a, args, result, e);
}
MIGRATOR_CALL(vm_where)
MIGRATOR_CALL(preflight_target)
MIGRATOR_CALL(cancel)
MIGRATOR_CALL(jobs)
INCOMING_CALL(incoming_begin)
INCOMING_CALL(incoming_end)
INCOMING_CALL(incoming_export)
INCOMING_CALL(incoming_unexport)
INCOMING_CALL(incoming_define)

/* ---- the replicator's calls ---- */

static bool verify_progress(void *ctx, uint64_t done, uint64_t total)
{
	const struct job_caller *c = ctx;
	caller_note(ctx, json_pack("{s:s, s:I, s:I}", "phase", "verify", "done", (json_int_t)done, "total",
				   (json_int_t)total));
	return !rpc_cancelled(c->call) && !agent_stopping(c->agent);
}

static int call_verify(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	struct job_caller caller = { .agent = a, .call = call };
	return replicator_verify(a->replicator, args, verify_progress, &caller, result, e);
}

#define REPLICATOR_CALL(name)                                                                                    \
	static int call_repl_##name(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, \
				    struct err *e)                                                               \
	{                                                                                                        \
		(void)call;                                                                                      \
		return replicator_##name(a->replicator, args, result, e);                                        \
	}
#define REPLICA_CALL(name)                                                                                  \
	static int call_##name(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, \
			       struct err *e)                                                               \
	{                                                                                                   \
		return replicator_##name(a->replicator, rpc_connection(call), args, result, e);             \
	}

static int call_repl_protect(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	(void)call;
	return declarer_allows(a, args, e) < 0 ? -1 : declarer_protect(a, args, result, e);
}

static int call_repl_unprotect(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result,
			       struct err *e)
{
	return declarer_allows(a, args, e) < 0 ? -1 : leftover_unprotect(a, call, args, result, e);
}

REPLICATOR_CALL(pause)
REPLICATOR_CALL(resume)
REPLICATOR_CALL(status)
REPLICATOR_CALL(points)
REPLICATOR_CALL(replica_status)
REPLICA_CALL(replica_begin)
REPLICA_CALL(replica_hashes)
REPLICA_CALL(replica_commit)
REPLICA_CALL(replica_end)
REPLICA_CALL(replica_release)
REPLICA_CALL(source_handover)

/* ---- the table ---- */

#define ANYONE 0u
#define IN ROLE_MIGRATE_IN
#define RIN ROLE_REPLICATE_IN
#define OP ROLE_OPERATE

enum {
	CHANGES = 1,        /* worth a line in the log: who did it */
	WHILE_STOPPING = 2, /* must still be answered for migrations to end well */
};

/* id, name, handler, roles of which a peer needs one, flags */
#define CALLS(X)                                                                                      \
	X(STATUS, "agent.status", fleet_status, ANYONE, 0)                                            \
	X(HOST_FACTS, "host.facts", call_host_facts, IN | OP, 0)                                      \
	X(VMS, "vms", call_vms, IN | OP, 0)                                                           \
	X(VMS_ALL, "vms.all", fleet_vms, OP, 0)                                                       \
	X(VM_WHERE, "vm.where", call_vm_where, IN | RIN | OP, WHILE_STOPPING)                         \
	X(PREFLIGHT_TARGET, "preflight.target", call_preflight_target, IN, 0)                         \
	X(MIGRATE_BEGIN, "migrate.begin", call_incoming_begin, IN, CHANGES)                           \
	X(MIGRATE_END, "migrate.end", call_incoming_end, IN, CHANGES | WHILE_STOPPING)                \
	X(MIGRATE_EXPORT, "migrate.export", call_incoming_export, IN, CHANGES)                        \
	X(MIGRATE_UNEXPORT, "migrate.unexport", call_incoming_unexport, IN, CHANGES | WHILE_STOPPING) \
	X(MIGRATE_DEFINE, "migrate.define", call_incoming_define, IN, CHANGES)                        \
	X(HOSTS, "hosts", fleet_hosts, OP, 0)                                                         \
	X(CHECK, "check", doctor_check, OP, 0)                                                        \
	X(PLAN, "plan", call_plan, OP, 0)                                                             \
	X(MIGRATE, "migrate", call_migrate, OP, CHANGES)                                              \
	X(CANCEL, "cancel", call_cancel, OP, CHANGES | WHILE_STOPPING)                                \
	X(JOBS, "jobs", call_jobs, OP, WHILE_STOPPING)                                                \
	X(DRAIN, "drain", call_drain, OP, CHANGES)                                                    \
	X(CPU_BASELINE, "cpu.baseline", fleet_baseline, OP, 0)                                        \
	X(EVENTS, "events", feed_events, OP, 0)                                                       \
	X(PROTECT, "protect", call_repl_protect, OP, CHANGES)                                         \
	X(UNPROTECT, "unprotect", call_repl_unprotect, OP, CHANGES)                                   \
	X(PROTECTION_PAUSE, "protection.pause", call_repl_pause, OP, CHANGES)                         \
	X(PROTECTION_RESUME, "protection.resume", call_repl_resume, OP, CHANGES)                      \
	X(PROTECTIONS, "status", call_repl_status, OP, 0)                                             \
	X(POINTS, "points", call_repl_points, RIN | OP, 0)                                            \
	X(VERIFY, "verify", call_verify, RIN | OP, 0)                                                 \
	X(REPLICA_STATUS, "replica.status", call_repl_replica_status, RIN | OP, WHILE_STOPPING)       \
	X(REPLICA_BEGIN, "replica.begin", call_replica_begin, RIN, CHANGES)                           \
	X(REPLICA_FITS, "replica.fits", takeover_fits, RIN, 0)                                        \
	X(REPLICA_SEED, "replica.seed", seed_call, RIN, CHANGES)                                      \
	X(REPLICA_HASHES, "replica.hashes", call_replica_hashes, RIN, 0)                              \
	X(REPLICA_COMMIT, "replica.commit", call_replica_commit, RIN, WHILE_STOPPING)                 \
	X(REPLICA_END, "replica.end", call_replica_end, RIN, CHANGES | WHILE_STOPPING)                \
	X(REPLICA_RELEASE, "replica.release", call_replica_release, RIN, CHANGES)                     \
	X(FAILOVER, "failover", takeover_failover, OP, CHANGES)                                       \
	X(UNPROTECT_LOOK, "unprotect.look", leftover_unprotect_look, OP, 0)                           \
	X(FAILBACK, "failback", failback_run, OP, CHANGES)                                            \
	X(REPLICA_ADOPT, "replica.adopt", leftover_adopt_call, RIN, CHANGES)                          \
	X(REPLICA_TAKEOVER, "replica.takeover", failback_takeover, RIN, CHANGES)                      \
	X(EXPORT, "export", takeover_export, OP, CHANGES)                                             \
	X(SOURCE_HANDOVER, "source.handover", call_source_handover, ANYONE, CHANGES)

struct call_entry {
	const char *name;
	calls_fn fn;
	unsigned any_of;
	unsigned flags;
};

enum call_id {
#define X(id, name, fn, any_of, flags) CALL_##id,
	CALLS(X)
#undef X
};

static const struct call_entry entries[] = {
#define X(id, name, fn, any_of, flags) { name, fn, any_of, flags },
	CALLS(X)
#undef X
};

/* ---- serving ---- */

static int check_roles(struct agent *a, const struct call_entry *entry, const char *peer, struct err *e)
{
	const struct settings_view *view = settings_get(a->settings);
	const struct config_peer *p = config_peer_find(view->config, peer);
	int rc = 0;
	if (!p || (entry->any_of && !(p->roles & entry->any_of))) {
		char needed[64];
		/* Said in full: the operator who reads this often sits at the other host. */
		config_roles_format(entry->any_of & IN    ? IN
				    : entry->any_of & RIN ? RIN
							  : entry->any_of,
				    needed, sizeof(needed)); /* the lesser one */
		rc = err_set(e, ERR_REFUSED, "%s may not call \"%s\" on %s", peer, entry->name, view->config->name);
		err_remedy(e,
			   "give %s the role \"%s\" in `peers' of vmferryd.conf on %s, then systemctl reload vmferryd "
			   "there",
			   peer, needed, view->config->name);
	}
	settings_put(a->settings, view);
	return rc;
}

/* NULL: here. A host that is this one is here as well. */
static const char *elsewhere(struct agent *a, const json_t *args)
{
	const char *at = json_string_value(json_object_get(args, "at"));
	if (!at)
		return NULL;
	const struct settings_view *view = settings_get(a->settings);
	bool here = strcmp(at, view->config->name) == 0;
	settings_put(a->settings, view);
	return here ? NULL : at;
}

static int check_call(struct agent *a, const struct clients_endpoint *endpoint, const struct call_entry *entry,
		      struct rpc_call *call, const json_t *args, struct err *e)
{
	if (!json_is_object(args))
		return err_set(e, ERR_PROTOCOL, "call \"%s\": its arguments are not a JSON object", entry->name);
	if (!endpoint->local && check_roles(a, entry, rpc_caller(call), e) < 0)
		return -1;
	if (!endpoint->local && elsewhere(a, args))
		return err_set(e, ERR_REFUSED, "calls of peers are not passed on");
	if (agent_stopping(a) && !(entry->flags & WHILE_STOPPING)) {
		err_set(e, ERR_REFUSED, "the agent is stopping");
		return err_remedy(e, "try again when it is back (systemctl status vmferryd)");
	}
	return 0;
}

static void log_call(const char *event, const struct call_entry *entry, const char *who, const json_t *args,
		     const struct err *e)
{
	const char *vm = json_string_value(json_object_get(args, "vm"));
	if (!vm)
		vm = json_string_value(json_object_get(args, "uuid"));
	if (e)
		log_warn(event, "call=%s %s vm=%s class=%s msg=%s", entry->name, who, LOG_Q(vm ? vm : ""),
			 err_class_name(e->cls), LOG_Q(e->text));
	else if (entry->flags & CHANGES)
		log_info(event, "call=%s %s vm=%s", entry->name, who, LOG_Q(vm ? vm : ""));
	else
		log_debug(event, "call=%s %s", entry->name, who);
}

static int serve(const struct clients_endpoint *endpoint, struct rpc_call *call, const struct call_entry *entry,
		 const json_t *args, json_t **result, struct err *e)
{
	struct agent *a = endpoint->agent;
	char who[400];
	clients_who(a->clients, rpc_connection(call), who, sizeof(who));
	if (check_call(a, endpoint, entry, call, args, e) < 0) {
		log_call("call_refused", entry, who, args, e);
		return -1;
	}
	log_call("call", entry, who, args, NULL);
	__atomic_add_fetch(&a->calls, 1, __ATOMIC_SEQ_CST);
	const char *host = elsewhere(a, args);
	int rc = host ? forward_call(a, call, host, entry->name, args, result, e) : entry->fn(a, call, args, result, e);
	__atomic_sub_fetch(&a->calls, 1, __ATOMIC_SEQ_CST);
	if (rc < 0 && (entry->flags & CHANGES))
		log_call("call_failed", entry, who, args, e);
	return rc;
}

#define X(id, name, fn, any_of, flags)                                                                              \
	static int serve_##id(void *ctx, struct rpc_call *call, const json_t *args, json_t **result, struct err *e) \
	{                                                                                                           \
		return serve(ctx, call, &entries[CALL_##id], args, result, e);                                      \
	}
CALLS(X)
#undef X

/* Roles are checked in serve(), which knows alternatives and says what to do. */
const struct rpc_method calls_methods[] = {
#define X(id, name, fn, any_of, flags) { name, serve_##id, 0 },
	CALLS(X)
#undef X
		{ NULL, NULL, 0 },
};
