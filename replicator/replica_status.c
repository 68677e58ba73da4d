/* What is asked about replicas: by sources and by operators. */
#include "replicator/replica_internal.h"

#include "base/clock.h"
#include "base/thread.h"
#include "replicator/epoch.h"
#include "replicator/failover.h"
#include "replicator/field.h"

#include <stdio.h>
#include <string.h>

#define MAX_REPLICAS 4096u

int replicas_status(struct replicas *r, const json_t *args, json_t **result, struct err *e)
{
	const char *uuid = field_text(args, "uuid");

	{
		THREAD_LOCKED(&r->lock);
		struct replica *p = replica_find_locked(r, uuid);
		if (!p || !p->record) {
			*result = json_object();
			return 0;
		}
		if (epoch_check_readable(p->record, e) < 0)
			return -1;
		json_t *ours = json_pack("{s:O, s:O, s:O, s:I, s:O?}", "epoch", json_object_get(p->record, "epoch"),
					 "state", json_object_get(p->record, "state"), "from",
					 json_object_get(p->record, "from"), "points", (json_int_t)p->points, "last",
					 p->last);
		*result = json_deep_copy(ours);
		json_decref(ours);
		if (json_is_object(json_object_get(p->record, "handover")))
			json_object_set_new(*result, "handover", json_true());
		if (p->store)
			return 0;
	}
	/* Not looked into since the agent started. */
	struct store *s = replicas_get(r, uuid, NULL, e);
	if (!s) {
		err_clear(e);
		return 0;
	}
	replicas_put(r, s);
	THREAD_LOCKED(&r->lock);
	struct replica *p = replica_find_locked(r, uuid);
	if (p) {
		json_object_set_new(*result, "points", json_integer((json_int_t)p->points));
		json_object_set_new(*result, "last", p->last ? json_deep_copy(p->last) : json_null());
	}
	return 0;
}

/* Why a replica is in its state, and what to do about it; or empty. */
struct said {
	char reason[800], remedy[600];
};

/* Where a VM that this host has taken over is by now: what a promoted replica is good for. ours: the status of its protection from here, or NULL. */
static void say_promoted(const struct replica *p, const json_t *ours, struct said *said)
{
	const char *from = field_text(p->record, "from"), *vm = field_text(p->record, "vm");
	const char *to = field_text(ours, "host");
	const int64_t when_ns = json_integer_value(json_object_get(p->record, "promoted_ns"));
	char when[40] = "", now[300];

	if (when_ns)
		clock_format_wall(when_ns, when, sizeof(when));
	snprintf(now, sizeof(now), "this host has taken it over from %.100s%s%s", from, when_ns ? ", at " : "", when);
	if (field_is(ours, "state", "fenced")) {
		snprintf(said->reason, sizeof(said->reason), "%s, and since then %s has", now, to);
	} else if (ours) {
		snprintf(said->reason, sizeof(said->reason), "%s, and protects it to %s", now, to);
	} else {
		snprintf(said->reason, sizeof(said->reason), "%s, and does not protect it yet", now);
		snprintf(said->remedy, sizeof(said->remedy),
			 "'vmferry protect %.100s --to %.100s' keeps a replica there; 'vmferry failback %.100s' moves "
			 "it there",
			 vm, from, vm);
	}
}

/* A replica that nobody writes to. */
static void say_waiting(const struct replica *p, struct said *said)
{
	const char *from = field_text(p->record, "from"), *vm = field_text(p->record, "vm");

	if (json_is_true(json_object_get(p->record, "left"))) {
		snprintf(said->reason, sizeof(said->reason),
			 "it went to %s, and this is what was left of it here: no point has come since, and it gets "
			 "older",
			 from);
		snprintf(said->remedy, sizeof(said->remedy),
			 "'vmferry protect %.100s --to %.100s' at %.100s goes on with it; if it is of no use, 'vmferry "
			 "unprotect %.100s --forget' here removes it",
			 vm, p->all->host_name, from, vm);
		return;
	}
	snprintf(said->reason, sizeof(said->reason), "the source is not connected: no points come from %s", from);
	snprintf(said->remedy, sizeof(said->remedy), "'vmferry status %.100s' at %.100s says why%s%.100s%s", vm, from,
		 p->last ? "; if that host is lost, 'vmferry failover " : "", p->last ? vm : "",
		 p->last ? "' here goes on from the last point" : "");
}

/* What is said: why, and what to do about it. */
static const char *shown_state(const struct replica *p, const json_t *ours, struct said *said)
{
	const char *state = field_text(p->record, "state");

	if (p->trouble[0])
		snprintf(said->reason, sizeof(said->reason), "%s", p->trouble);
	if (json_object_get(p->record, "unreadable"))
		return "failed";
	if (strcmp(state, "promoting") == 0) {
		snprintf(said->reason, sizeof(said->reason),
			 "a failover to this host is under way, or what came of it is being found out");
		return "promoting";
	}
	if (strcmp(state, "promoted") == 0) {
		if (failover_is_frozen(p->record))
			snprintf(said->reason, sizeof(said->reason),
				 "the guest's file systems may be frozen, as they were at the point: its agent is "
				 "asked again and again; 'virsh domfsthaw' does it by hand, and a reset of the VM if "
				 "that does not end either");
		else if (failover_left_frozen(p->record))
			snprintf(said->reason, sizeof(said->reason),
				 "it was gone from this host before its file systems could be thawed: 'virsh "
				 "domfsthaw' where it runs");
		else
			say_promoted(p, ours, said);
		return "promoted";
	}
	if (p->session && p->session->receive)
		return p->last ? "protected" : "seeding";
	if (!p->trouble[0])
		say_waiting(p, said);
	return "waiting";
}

/* What is protected from here is in the list already. */
static const json_t *protection_in(const json_t *list, const char *uuid)
{
	size_t i;
	const json_t *o;

	json_array_foreach (list, i, o)
		if (field_is(o, "role", "source") && field_is(o, "uuid", uuid))
			return o;
	return NULL;
}

static json_t *status_of(struct replica *p, const struct store_usage *u, const json_t *ours)
{
	struct said said = { 0 };
	const char *state = shown_state(p, ours, &said), *reason = said.reason;
	char seed[200];
	if (replica_seed_said_locked(p, seed, sizeof(seed))) {
		state = "seeding";
		reason = seed;
		said.remedy[0] = '\0';
	}
	const struct replica_session *ss = p->session;
	/* Of a record of whatever age: what is not in it is left out, or 0. Copies: what is ours goes with a lock that who has the answer does not hold. */
	json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:o*}", "vm", field_text(p->record, "vm"),
			      "uuid", p->uuid, "host", field_text(p->record, "from"), "role", "target", "state", state,
			      "reason", reason, "points", (json_int_t)p->points, "epoch",
			      json_integer_value(json_object_get(p->record, "epoch")), "rpo_target_ms",
			      json_deep_copy(json_object_get(p->record, "rpo_ms")));

	if (said.remedy[0])
		json_object_set_new(o, "remedy", json_string(said.remedy));
	if (p->last) {
		const int64_t instant = json_integer_value(json_object_get(p->last, "instant_ns"));
		json_object_set_new(o, "last_point", json_deep_copy(p->last));
		json_object_set_new(o, "rpo_ms", json_integer((clock_wall_ns() - instant) / NS_PER_MS));
	}
	if (ss)
		json_object_set_new(o, "wire_bytes",
				    json_integer((json_int_t)(ss->receive ? receive_wire_bytes(ss->receive) : 0)));
	json_object_set_new(o, "space_bytes",
			    json_integer((json_int_t)(u->journal_bytes + u->head_bytes + u->undo_bytes)));
	json_object_set_new(o, "space_limit_bytes", json_integer((json_int_t)replica_keep_of(p->record).max_bytes));
	return o;
}

void replicas_list(struct replicas *r, const char *vm, json_t *out)
{
	size_t n = 0;
	char uuid[MAX_REPLICAS / 16][37];

	{
		THREAD_LOCKED(&r->lock);
		for (struct replica *p = r->first; p && n < sizeof(uuid) / sizeof(uuid[0]); p = p->next)
			if (p->record &&
			    (!vm || strcmp(vm, p->uuid) == 0 || strcmp(vm, field_text(p->record, "vm")) == 0))
				snprintf(uuid[n++], sizeof(uuid[0]), "%s", p->uuid);
	}
	for (size_t i = 0; i < n; i++) {
		struct store_usage u = { 0 };
		struct err e = ERR_INIT;
		struct store *s = replicas_get(r, uuid[i], NULL, &e);
		if (s) {
			(void)store_usage(s, &u, &e);
			replicas_put(r, s);
		}
		THREAD_LOCKED(&r->lock);
		struct replica *p = replica_find_locked(r, uuid[i]);
		if (!p || !p->record)
			continue;
		json_t *o = status_of(p, &u, protection_in(out, uuid[i]));
		if (err_is_set(&e) && e.cls != ERR_REFUSED) {
			json_object_set_new(o, "reason", json_string(e.text));
			json_object_del(o, "remedy");
		}
		json_array_append_new(out, o);
	}
}

static json_t *point_json(const struct store_point *q)
{
	json_t *o = json_deep_copy(q->meta);

	if (!o)
		o = json_object();
	json_object_set_new(o, "seq", json_integer((json_int_t)q->seq));
	json_object_set_new(o, "committed_ns", json_integer(q->committed_ns));
	json_object_set_new(o, "bytes", json_integer((json_int_t)q->bytes));
	json_object_set_new(o, "undo_bytes", json_integer((json_int_t)q->undo_bytes));
	return o;
}

int replicas_points(struct replicas *r, const json_t *args, json_t **result, struct err *e)
{
	struct store_point *points = NULL;
	struct store_usage u = { 0 };
	size_t n = 0;
	const char *vm = field_text(args, json_object_get(args, "vm") ? "vm" : "uuid");
	struct store *s = replicas_get(r, vm, NULL, e);

	if (!s)
		return -1;
	int rc = store_points(s, &points, &n, e);
	if (rc == 0)
		rc = store_usage(s, &u, e);
	if (rc == 0) {
		json_t *list = json_array();
		for (size_t i = 0; i < n; i++)
			json_array_append_new(list, point_json(&points[i]));
		*result = json_pack("{s:o, s:{s:I, s:I, s:I, s:I}}", "points", list, "usage", "journal_bytes",
				    (json_int_t)u.journal_bytes, "head_bytes", (json_int_t)u.head_bytes, "undo_bytes",
				    (json_int_t)u.undo_bytes, "pending", (json_int_t)u.pending_txns);
	}
	store_points_free(points, n);
	replicas_put(r, s);
	return rc;
}

int replicas_verify(struct replicas *r, const json_t *args, bool (*progress)(void *ctx, uint64_t done, uint64_t total),
		    void *ctx, json_t **result, struct err *e)
{
	struct store *s = replicas_get(r, field_text(args, "vm"), NULL, e);

	if (!s)
		return -1;
	const int64_t start = clock_mono_ns();
	const int rc = store_verify(s, progress, ctx, e);
	if (rc == 0)
		*result = json_pack("{s:b, s:I}", "verified", 1, "ms",
				    (json_int_t)((clock_mono_ns() - start) / NS_PER_MS));
	replicas_put(r, s);
	return rc;
}
