#include "tools/vmferryd/failback.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "replicator/replicator.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/calls.h"
#include "tools/vmferryd/leftover.h"
#include "tools/vmferryd/takeover.h"

#include <string.h>
#include <unistd.h>

/* The last checkpoint, and the start over there. */
#define TAKEOVER_NS (600 * NS_PER_S)
/* Asked again and again when the connection broke while the other host was at it. */
#define UNDECIDED_NS (60 * NS_PER_S)
#define ASK_NS (5 * NS_PER_S)
#define LOOK_US 200000
#define STUCK_NS (60 * NS_PER_S)

struct failback {
	struct agent *agent;
	struct rpc_call *call;
	char *uuid, *vm, *to, *host;
	uint64_t epoch;  /* ours at first; of the new owner in the end */
	bool handed;     /* by an earlier try */
	int64_t start_ns;
	json_t *report;
	json_t *warnings;
};

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

static void note(struct failback *f, const char *phase)
{
	log_info("failback_phase", "vm=%s to=%s phase=%s", LOG_Q(f->vm), f->to, phase);
	rpc_note(f->call, json_pack("{s:s, s:s}", "phase", phase, "host", f->to));
}

static int stopped(const struct failback *f, struct err *e)
{
	return rpc_cancelled(f->call) || agent_stopping(f->agent) ? err_set(e, ERR_CANCELLED, "cancelled; %s stays here", f->vm) : 0;
}

static int warn(struct failback *f, const struct err *why)
{
	log_warn("failback_left", "vm=%s msg=%s", LOG_Q(f->vm), LOG_Q(why->text));
	return json_array_append_new(f->warnings, json_string(why->text));
}

/* ---- what there is to do ---- */

static bool taken_over(const json_t *protection)
{
	const char *state = text_of(protection, "state");
	return strcmp(state, "handed-over") == 0 || strcmp(state, "fenced") == 0;
}

static int find(struct failback *f, const json_t *replica, const json_t *protection, const char *vm, struct err *e)
{
	const bool promoted = strcmp(text_of(replica, "state"), "promoted") == 0;
	const json_t *of = promoted ? replica : protection;

	f->handed = protection && taken_over(protection);
	if (strcmp(text_of(replica, "state"), "promoting") == 0 && !f->handed) {
		err_set(e, ERR_REFUSED, "the failover of %.80s to %s is not settled yet", vm, f->host);
		return err_remedy(e, "it is looked at every few seconds; if that does not help, the log of %s says why",
				  f->host);
	}
	if (!promoted && !f->handed) {
		err_set(e, ERR_REFUSED, "%.80s was not failed over to %s", vm, f->host);
		return err_remedy(e, "failback is asked at the host on which the VM runs since its failover: 'vmferry vms --all'");
	}
	f->uuid = mem_strdup(text_of(of, "uuid"));
	f->vm = mem_strdup(text_of(of, "vm"));
	f->to = mem_strdup(f->handed ? text_of(protection, "host") : text_of(replica, "from"));
	f->epoch = (uint64_t)json_integer_value(json_object_get(f->handed ? protection : replica, "epoch"));
	if (protection && strcmp(text_of(protection, "host"), f->to) != 0) {
		err_set(e, ERR_REFUSED, "%s is protected to %s now, and came from %s", f->vm, text_of(protection, "host"), f->to);
		return err_remedy(e, "'vmferry unprotect %s' first", f->vm);
	}
	return 0;
}

static int begin(struct failback *f, const char *vm, struct err *e)
{
	const struct settings_view *view = settings_get(f->agent->settings);
	json_t *protection = NULL;

	f->host = mem_strdup(view->config->name);
	settings_put(f->agent->settings, view);
	(void)replicator_protects(f->agent->replicator, vm, &protection);
	json_t *replica = replicas_record(replicator_replicas(f->agent->replicator), vm);
	const int rc = find(f, replica, protection, vm, e);
	json_decref(protection);
	json_decref(replica);
	return rc;
}

/* ---- the other host makes a replica of what it has ---- */

static int adopt_there(struct failback *f, json_t **settings, struct err *e)
{
	json_t *args = json_pack("{s:s, s:s, s:I}", "uuid", f->uuid, "vm", f->vm, "epoch", (json_int_t)f->epoch);
	json_t *answer = NULL;

	note(f, "adopt");
	const int rc = forward_call(f->agent, f->call, f->to, "replica.adopt", args, &answer, e);
	json_decref(args);
	if (rc == 0) {
		*settings = json_deep_copy(json_object_get(answer, "settings"));
		json_object_set(f->report, "adopted", json_object_get(answer, "adopted"));
		if (json_object_get(answer, "images"))
			json_object_set(f->report, "old_images", json_object_get(answer, "images"));
		if (json_object_get(answer, "definition"))
			json_object_set(f->report, "old_definition", json_object_get(answer, "definition"));
	}
	json_decref(answer);
	return rc;
}

/* ---- protection towards it ---- */

/* Our status as its source. New reference, NULL with the error set. */
static json_t *status_of(struct failback *f, struct err *e)
{
	json_t *args = json_pack("{s:s}", "vm", f->uuid), *all = NULL, *one, *found = NULL;
	size_t i;

	if (replicator_status(f->agent->replicator, args, &all, e) == 0) {
		json_array_foreach(json_object_get(all, "protections"), i, one)
			if (strcmp(text_of(one, "role"), "source") == 0)
				found = json_incref(one);
		if (!found)
			err_set(e, ERR_REFUSED, "the protection of %s was ended meanwhile", f->vm);
	}
	json_decref(all);
	json_decref(args);
	return found;
}

static int protect(struct failback *f, json_t *settings, struct err *e)
{
	json_t *args = json_is_object(settings) ? settings : json_object(), *result = NULL;

	json_object_set_new(args, "vm", json_string(f->uuid));
	json_object_set_new(args, "host", json_string(f->to));
	const int rc = replicator_protect(f->agent->replicator, args, &result, e);
	json_decref(result);
	json_decref(args);
	return rc;
}

static void note_figures(struct failback *f, const json_t *st)
{
	json_object_set(f->report, "dirty_bytes", json_object_get(st, "sent_bytes"));
	json_object_set(f->report, "wire_bytes", json_object_get(st, "wire_bytes"));
	const double sent = (double)json_integer_value(json_object_get(st, "sent_bytes"));
	const double wire = (double)json_integer_value(json_object_get(st, "wire_bytes"));
	if (wire > 0)
		json_object_set_new(f->report, "ratio", json_real(sent / wire));
}

/* 1: a point of this session is at the other host, so that what is left is little. */
static int look_at(struct failback *f, int64_t *good_ns, struct err *e)
{
	json_t *st = status_of(f, e);
	const char *state = text_of(st, "state"), *reason = text_of(st, "reason");
	const int64_t now = clock_mono_ns();
	int rc = 0;

	if (!st)
		return -1;
	if (json_integer_value(json_object_get(st, "points")) >= 1 && (strcmp(state, "protected") == 0 || strcmp(state, "degraded") == 0))
		rc = 1;
	else if (strcmp(state, "failed") == 0 || strcmp(state, "fenced") == 0 || strcmp(state, "paused") == 0)
		rc = err_set(e, ERR_REFUSED, "the protection of %s to %s is %s: %.300s", f->vm, f->to, state, reason);
	/* Waiting and degraded are what a session is that does not come about. */
	if (strcmp(state, "seeding") == 0 || json_integer_value(json_object_get(st, "wire_rate")) > 0)
		*good_ns = now;
	else if (rc == 0 && now - *good_ns > STUCK_NS)
		rc = err_set(e, ERR_PEER, "%s is not being replicated to %s: %.300s", f->vm, f->to, reason[0] ? reason : state);
	rpc_note(f->call, json_pack("{s:s, s:O?, s:O?}", "phase", "compare", "rate", json_object_get(st, "wire_rate"), "ratio",
				    json_object_get(st, "ratio")));
	note_figures(f, st);
	json_decref(st);
	return rc;
}

static int wait_for_point(struct failback *f, struct err *e)
{
	int64_t good_ns = clock_mono_ns();
	int rc = 0;

	note(f, "compare");
	while (rc == 0) {
		if (stopped(f, e) < 0)
			return -1;
		rc = look_at(f, &good_ns, e);
		if (rc == 0)
			usleep(LOOK_US);
	}
	return rc < 0 ? -1 : 0;
}

/* ---- the other host takes it over ---- */

static void pass_note(void *ctx, const json_t *n)
{
	struct failback *f = ctx;
	rpc_note(f->call, json_deep_copy(n));
}

static int call_there(struct failback *f, const char *method, int64_t within_ns, json_t **answer, struct err *e)
{
	struct rpc *peer = peers_connect(f->agent->peers, f->to, e);

	if (!peer)
		return -1;
	/* Not to be cancelled: from here on it is the other host that decides. */
	const int rc = rpc_call(peer, method, json_pack("{s:s, s:I}", "uuid", f->uuid, "epoch", (json_int_t)f->epoch),
				clock_mono_ns() + within_ns, pass_note, f, NULL, answer, e);
	rpc_unref(peer);
	return rc;
}

/* "promoted", "promoting", "replica", "" if there is none; its epoch. */
static int ask_state(struct failback *f, char state[32], uint64_t *epoch, struct err *e)
{
	json_t *theirs = NULL;

	if (call_there(f, "replica.status", ASK_NS, &theirs, e) < 0)
		return -1;
	/* It goes on with one that was handed over by itself. */
	snprintf(state, 32, "%.31s", json_is_true(json_object_get(theirs, "handover")) ? "promoting" : text_of(theirs, "state"));
	*epoch = (uint64_t)json_integer_value(json_object_get(theirs, "epoch"));
	json_decref(theirs);
	return 0;
}

/* 1: it has taken the VM over, 0: it has not; -1: nobody knows. */
static int is_theirs(struct failback *f, int64_t within_ns, struct err *e)
{
	const int64_t until = clock_mono_ns() + within_ns;
	char state[32] = "";
	uint64_t epoch = 0;

	for (;;) {
		struct err why = ERR_INIT;
		if (ask_state(f, state, &epoch, &why) == 0 && strcmp(state, "promoting") != 0)
			break;
		if (clock_mono_ns() > until || agent_stopping(f->agent)) {
			err_set(e, ERR_PEER, "nobody knows whether %s has taken over %s: %.300s", f->to, f->vm,
				err_is_set(&why) ? why.text : "it is still at it");
			return err_remedy(e, "'vmferry failback %s' again asks %s, once it answers", f->vm, f->to);
		}
		usleep(LOOK_US);
	}
	if (strcmp(state, "promoted") != 0 || epoch < f->epoch || (!f->handed && epoch == f->epoch))
		return 0;
	f->epoch = epoch;
	return 1;
}

static void note_takeover(struct failback *f, const json_t *answer)
{
	const json_int_t instant = json_integer_value(json_object_get(json_object_get(answer, "point"), "instant_ns"));

	/* The guest stands still from its last checkpoint, which is of this host's clock, as is now. */
	if (instant > 0)
		json_object_set_new(f->report, "downtime_ms", json_integer((clock_wall_ns() - instant) / NS_PER_MS));
	if (json_object_get(answer, "phases"))
		json_object_set(f->report, "phases", json_object_get(answer, "phases"));
}

static bool is_handed(struct failback *f)
{
	json_t *record = NULL;
	const bool yes = replicator_protects(f->agent->replicator, f->uuid, &record) && taken_over(record);

	json_decref(record);
	return yes;
}

static int take_over(struct failback *f, struct err *e)
{
	json_t *answer = NULL;
	int rc = f->handed ? is_theirs(f, UNDECIDED_NS, e) : 0;

	if (rc != 0)
		return rc < 0 ? -1 : 0;
	note(f, "hand");
	if (fault_point(FAULT_FAILBACK_TAKEOVER, e) < 0)
		return -1;
	json_t *st = f->handed ? NULL : status_of(f, e);
	if (st)
		note_figures(f, st);
	json_decref(st);
	rc = call_there(f, "replica.takeover", TAKEOVER_NS, &answer, e);
	if (rc == 0) {
		note_takeover(f, answer);
		f->epoch = (uint64_t)json_integer_value(json_object_get(answer, "epoch"));
	} else if (is_handed(f)) {
		struct err why = *e;
		f->handed = true;
		rc = is_theirs(f, UNDECIDED_NS, e);
		if (rc == 0) {
			*e = why;
			err_wrap(e, "%s is paused here, and %s could not start it", f->vm, f->to);
			rc = err_remedy(e, "'vmferry failback %s' tries again, as does 'vmferry failover %s' at %s", f->vm, f->vm, f->to);
		} else if (rc > 0) {
			err_clear(e);
			rc = 0;
		}
	}
	json_decref(answer);
	return rc;
}

/* ---- what is left here ---- */

/* It runs there: whatever fails now is said, and no failure. */
static void tidy(struct failback *f)
{
	struct err e = ERR_INIT;
	json_t *left = NULL;

	note(f, "tidy");
	if (fault_point(FAULT_FAILBACK_TIDY, &e) < 0 || leftover_adopt(f->agent, f->uuid, f->vm, f->to, f->epoch, &left, &e) < 0) {
		err_wrap(&e, "%s is home, but what is left of it here could not be made a replica ('vmferry failback %s' again does that)", f->vm, f->vm);
		warn(f, &e);
	} else {
		json_object_set(f->report, "kept", json_object_get(left, "adopted"));
	}
	json_decref(left);
}

/* ---- the whole ---- */

static int run(struct failback *f, struct err *e)
{
	json_t *settings = NULL;

	if (!f->handed) {
		if (adopt_there(f, &settings, e) < 0)
			return -1;
		if (stopped(f, e) < 0) {
			json_decref(settings);
			return -1;
		}
		if (protect(f, settings, e) < 0 || wait_for_point(f, e) < 0)
			return -1;
	}
	if (take_over(f, e) < 0)
		return -1;
	tidy(f);
	return 0;
}

static json_t *finish(struct failback *f)
{
	json_t *r = json_incref(f->report);

	json_object_set_new(r, "epoch", json_integer((json_int_t)f->epoch));
	json_object_set_new(r, "runs_on", json_string(f->to));
	json_object_set_new(r, "state", json_string("running"));
	json_object_set_new(r, "total_ms", json_integer((clock_mono_ns() - f->start_ns) / NS_PER_MS));
	json_object_set(r, "warnings", f->warnings);
	return r;
}

int failback_run(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	struct failback f = { .agent = a, .call = call, .start_ns = clock_mono_ns(), .warnings = json_array() };
	int rc = begin(&f, text_of(args, "vm"), e);

	if (rc == 0) {
		f.report = json_pack("{s:s, s:s, s:s, s:s}", "vm", f.vm, "uuid", f.uuid, "from", f.host, "to", f.to);
		agent_event(a, "failback.started", f.uuid, json_deep_copy(f.report));
		rc = run(&f, e);
		if (rc == 0) {
			*result = finish(&f);
			agent_event(a, "failback.done", f.uuid, json_deep_copy(*result));
		} else {
			agent_event(a, "failback.failed", f.uuid,
				    json_pack("{s:s, s:s, s:s, s:s}", "vm", f.vm, "from", f.host, "to", f.to, "reason", e->text));
		}
	}
	json_decref(f.report);
	json_decref(f.warnings);
	mem_free_ptr(&f.uuid);
	mem_free_ptr(&f.vm);
	mem_free_ptr(&f.to);
	mem_free_ptr(&f.host);
	return rc;
}

int failback_takeover(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	json_t *record = replicas_record(replicator_replicas(a->replicator), text_of(args, "uuid"));
	int rc = -1;

	if (!record || strcmp(text_of(record, "from"), rpc_caller(call)) != 0) {
		err_set(e, ERR_REFUSED, "no replica of VM %s is kept here for %s", text_of(args, "uuid"), rpc_caller(call));
	} else {
		json_t *failover = json_pack("{s:O, s:b}", "vm", json_object_get(record, "uuid"), "planned", 1);
		rc = takeover_failover(a, call, failover, result, e);
		json_decref(failover);
	}
	json_decref(record);
	return rc;
}
