#include "tools/vmferryd/takeover.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "migrator/restore_virt.h"
#include "migrator/where.h"
#include "replicator/export.h"
#include "replicator/failover.h"
#include "replicator/replicator.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/probe.h"
#include "tools/vmferryd/promote_host.h"
#include "tools/vmferryd/recovery.h"

#include <stdlib.h>
#include <string.h>

/* A last checkpoint and its way here; a guest that writes fast over a slow link takes its time. */
#define HAND_OVER_NS (300 * NS_PER_S)
/* How long the source may take to say that it is there: when its session was alive a moment ago, and when not. */
#define PROBE_LIVE_NS (2 * NS_PER_S)
#define PROBE_GONE_NS (1 * NS_PER_S)

struct takeover {
	struct agent *agent;
	struct rpc_call *call;
	struct replicas *replicas;
	char *uuid;
	char *from;
	struct store *store;
	json_t *record;
	struct promote_host *host;
	volatile bool cancel;
	bool again; /* its source may have handed it over already; if not, it shall not */
	bool has_turn;
	struct takeover *next; /* turns.lock */
};

/* Whoever promotes a VM, or settles what was left of that, is the only one: what looks left over may be another's that is under way. */
static struct {
	pthread_mutex_t lock;
	struct takeover *first; /* under lock */
} turns = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int take_turn(struct takeover *t, struct err *e)
{
	THREAD_LOCKED(&turns.lock);
	for (const struct takeover *o = turns.first; o; o = o->next)
		if (strcmp(o->uuid, t->uuid) == 0) {
			err_set(e, ERR_REFUSED, "a failover of this VM is under way");
			return err_remedy(e, "wait for it: see 'vmferry status'");
		}
	t->next = turns.first;
	turns.first = t;
	t->has_turn = true;
	return 0;
}

static void give_turn_back(struct takeover *t)
{
	THREAD_LOCKED(&turns.lock);
	struct takeover **p = &turns.first;
	while (*p != t)
		p = &(*p)->next;
	*p = t->next;
}

/* ---- the record, as the agent's replicas keep it ---- */

static json_t *load(void *ctx, struct err *e)
{
	struct takeover *t = ctx;
	json_t *record = NULL;
	struct store *s = replicas_get(t->replicas, t->uuid, &record, e);

	if (!s)
		return NULL;
	replicas_put(t->replicas, s);
	return record;
}

static int change(void *ctx, const char *expect, const json_t *changes, struct err *e)
{
	struct takeover *t = ctx;
	return replicas_change(t->replicas, t->uuid, expect, changes, e);
}

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

struct promote_host *takeover_host(struct agent *a, struct err *e)
{
	const struct settings_view *view = settings_get(a->settings);
	const struct config *c = view->config;
	struct map_rule *networks = mem_alloc_array(c->restore.n_networks, sizeof(*networks));
	struct map_rule *folders = mem_alloc_array(c->restore.n_disks, sizeof(*folders));

	for (size_t i = 0; i < c->restore.n_networks; i++)
		networks[i] = (struct map_rule){ c->restore.networks[i].from, c->restore.networks[i].to };
	for (size_t i = 0; i < c->restore.n_disks; i++)
		folders[i] = (struct map_rule){ c->restore.disks[i].from, c->restore.disks[i].to };
	const struct promote_host_opts o = { .libvirt_uri = c->libvirt.uri,
					     .run_dir = c->run_dir,
					     .qemu_group = c->libvirt.qemu_group && *c->libvirt.qemu_group
								   ? c->libvirt.qemu_group
								   : NULL,
					     .image_dir = c->migration.image_dir,
					     .networks = networks,
					     .n_networks = c->restore.n_networks,
					     .folders = folders,
					     .n_folders = c->restore.n_disks };
	struct promote_host *p = promote_host_new(&o, e);
	free(networks);
	free(folders);
	settings_put(a->settings, view);
	return p;
}

static void finish(struct takeover *t)
{
	if (t->has_turn)
		give_turn_back(t);
	promote_host_free(t->host);
	if (t->store)
		replicas_put(t->replicas, t->store);
	json_decref(t->record);
	free(t->uuid);
	free(t->from);
}

static int begin(struct takeover *t, struct agent *a, struct rpc_call *call, const json_t *args, struct err *e)
{
	const char *vm = text_of(args, "vm");

	*t = (struct takeover){ .agent = a,
				.call = call,
				.replicas = replicator_replicas(a->replicator),
				.again = json_is_true(json_object_get(args, "again")) };
	if (!*vm)
		return err_set(e, ERR_PROTOCOL, "no vm");
	t->store = replicas_get(t->replicas, vm, &t->record, e);
	if (!t->store)
		return -1;
	t->uuid = mem_strdup(text_of(t->record, "uuid"));
	t->from = mem_strdup(text_of(t->record, "from"));
	t->host = takeover_host(a, e);
	return t->host ? 0 : -1;
}

/* The number of the point of that id, or given as a number; 0: the latest. */
static int find_point(struct store *s, const char *id, uint64_t *seq, struct err *e)
{
	struct store_point *p = NULL;
	size_t n = 0;
	char *end;

	*seq = 0;
	if (!*id)
		return 0;
	uint64_t number = strtoull(id, &end, 10);
	if (store_points(s, &p, &n, e) < 0)
		return -1;
	for (size_t i = 0; i < n && *seq == 0; i++)
		if (strcmp(text_of(p[i].meta, "id"), id) == 0 || (!*end && p[i].seq == number))
			*seq = p[i].seq;
	store_points_free(p, n);
	if (*seq != 0)
		return 0;
	err_set(e, ERR_REFUSED, "there is no point %.80s", id);
	return err_remedy(e, "'vmferry points' lists them");
}

static void note(void *ctx, json_t *n)
{
	struct takeover *t = ctx;
	if (!t->call) {
		json_decref(n);
		t->cancel = agent_stopping(t->agent);
		return;
	}
	rpc_note(t->call, n);
	t->cancel = rpc_cancelled(t->call);
}

/* ---- failover ---- */

static void make_room(void *ctx)
{
	struct takeover *t = ctx;
	replicas_make_room(t->replicas, true);
}

static int lost_point(const json_t *said, const json_t *newest, const char *from, struct err *e)
{
	char then[32] = "", now[32] = "none is";

	clock_format_wall(json_integer_value(json_object_get(said, "instant_ns")), then, sizeof(then));
	if (newest)
		clock_format_wall(json_integer_value(json_object_get(newest, "instant_ns")), now, sizeof(now));
	err_set(e, ERR_REFUSED,
		"the VM stands still at %s in point '%.80s' of %s, which was committed here; the newest here is "
		"'%.80s' of %s",
		from, text_of(said, "point"), then, text_of(newest, "id"), now);
	return err_remedy(
		e,
		"this replica has lost points: 'vmferry resume' at %s lets the VM go on there with all that it had; "
		"'vmferry failover --force' here goes on without what came after",
		from);
}

int takeover_check_last(struct store *s, const json_t *said, const char *from, struct err *e)
{
	const char *id = text_of(said, "point");
	const bool exact = json_is_integer(json_object_get(said, "instant_ns"));
	struct store_point *p = NULL;
	size_t n = 0, at = 0;
	int rc = 0;

	if (store_points(s, &p, &n, e) < 0)
		return -1;
	while (at < n && strcmp(text_of(p[at].meta, "id"), id) != 0)
		at++;
	if (exact && at + 1 != n)
		rc = lost_point(said, n > 0 ? p[n - 1].meta : NULL, from, e);
	else if (at == n)
		rc = err_set(e, ERR_PEER,
			     "%s says that the VM stands still there at point '%.80s', which is not here; the newest "
			     "is '%.80s'",
			     from, id, n > 0 ? text_of(p[n - 1].meta, "id") : "");
	store_points_free(p, n);
	return rc;
}

static int hand_over(void *ctx, uint64_t epoch, struct err *e)
{
	struct takeover *t = ctx;
	json_t *answer = NULL;
	struct rpc *peer = peers_connect(t->agent->peers, t->from, e);

	if (!peer)
		return -1;
	json_t *args = json_pack("{s:s, s:I, s:b}", "uuid", t->uuid, "epoch", (json_int_t)epoch, "again", (int)t->again);
	int rc = rpc_call(peer, "source.handover", args, clock_mono_ns() + HAND_OVER_NS, NULL, NULL, &t->cancel,
			  &answer, e);
	rpc_unref(peer);
	if (rc < 0)
		err_remedy(e, "'vmferry failover --force' goes on without it, from the last point that is here");
	if (rc == 0)
		rc = takeover_check_last(t->store, answer, t->from, e);
	json_decref(answer);
	return rc;
}

/* Was it connected just now? Then it is waited for: not to ask it would lose what it did since the last point. */
static bool source_is_connected(struct takeover *t)
{
	static const char *const states[] = { "seeding", "protected", "degraded" };
	json_t *list = json_array();
	bool connected = false;

	replicas_list(t->replicas, t->uuid, list);
	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		connected = connected || strcmp(text_of(json_array_get(list, 0), "state"), states[i]) == 0;
	json_decref(list);
	return connected;
}

/* A promotion that an earlier agent left, or libvirt did not answer to, first. */
static int settle(struct takeover *t, const struct failover_records *records, struct err *e)
{
	enum failover_found found;
	return failover_recover(records, &promote_host_ops, t->host, &found, e);
}

int takeover_check_elsewhere(const json_t *there, const char *vm, const char *host, struct err *e)
{
	const char *state = text_of(there, "state");
	const enum where w = there ? where_from_name(state) : WHERE_ABSENT;

	if (w == WHERE_ABSENT || w == WHERE_SHUTOFF)
		return 0;
	err_set(e, ERR_REFUSED, "%.200s is on %s (%.40s): it would run twice", vm, host, state);
	return err_remedy(e, "it has moved: 'vmferry protect' it there once its old protection and this replica are "
			     "given up ('vmferry unprotect'), or end it there first ('virsh destroy')");
}

/* A VM may have been moved on to a host of which neither its protection nor its replica knows. All that may tell us are asked at once; who does not
 * answer soon is not waited for. */
static int check_elsewhere(struct takeover *t, const struct config *c, struct err *e)
{
	struct probe **asked = mem_alloc_array(c->n_peers ? c->n_peers : 1, sizeof(*asked));
	int rc = 0;

	for (size_t i = 0; i < c->n_peers; i++)
		if (strcmp(c->peers[i].name, t->from) != 0)
			asked[i] = probe_start(t->agent, c->peers[i].name, "vm.where",
					       json_pack("{s:s}", "uuid", t->uuid));
	const int64_t until = clock_mono_ns() + PROBE_GONE_NS;
	for (size_t i = 0; i < c->n_peers; i++) {
		json_t *there = asked[i] ? probe_end(asked[i], until) : NULL;
		if (rc == 0)
			rc = takeover_check_elsewhere(there, text_of(t->record, "vm"), c->peers[i].name, e);
		json_decref(there);
	}
	free(asked);
	return rc;
}

static int run(struct takeover *t, const json_t *args, json_t **result, struct err *e)
{
	const struct failover_records records = { .load = load, .change = change, .ctx = t };
	const struct settings_view *view = settings_get(t->agent->settings);
	const struct config *c = view->config;
	const char *fence[64] = { NULL };
	bool force = json_is_true(json_object_get(args, "force"));
	struct failover_opts o = { .records = &records,
				   .host = c->name,
				   .paused = json_is_true(json_object_get(args, "paused")),
				   .fence_within_ns = c->replication.fencing_timeout,
				   .thaw_within_ns = FAILOVER_THAW_NS,
				   .make_room = make_room,
				   .note = note,
				   .ctx = t,
				   .ops = &promote_host_ops,
				   .ops_ctx = t->host,
				   .cancel = &t->cancel };
	int rc = -1;

	for (size_t i = 0; i < c->replication.n_fencing_command && i < 63; i++)
		fence[i] = c->replication.fencing_command[i];
	if (fence[0])
		o.fence = fence;
	if (settle(t, &records, e) < 0 || find_point(t->store, text_of(args, "point"), &o.seq, e) < 0)
		goto end;
	/* planned: by its source's own wish. Without its last checkpoint there is nothing to be done then. */
	if (json_is_true(json_object_get(args, "planned")) ||
	    (!force && probe_answers(t->agent, t->from, source_is_connected(t) ? PROBE_LIVE_NS : PROBE_GONE_NS))) {
		if (o.seq != 0) {
			err_set(e, ERR_REFUSED,
				"%s still answers; going back to an older point would throw away what the VM did since",
				t->from);
			err_remedy(e, "--force does that");
			goto end;
		}
		o.hand_over = hand_over;
		o.fence = NULL; /* it has stopped the VM itself */
	} else if (!force && !json_is_true(json_object_get(args, "unplanned"))) {
		err_set(e, ERR_REFUSED,
			"%s does not answer now: what the VM did after the last point would be lost, and if %s is "
			"alive it runs twice for a while",
			t->from, t->from);
		err_remedy(e, "try again in a moment; if %s is really gone, --yes goes on from the last point", t->from);
		goto end;
	}
	if (!o.hand_over && check_elsewhere(t, c, e) < 0)
		goto end;
	replicas_make_room(t->replicas, false);
	rc = failover_run(t->store, &o, result, e);
	if (rc == 0)
		json_object_set_new(*result, "planned", json_boolean(o.hand_over != NULL));
end:
	settings_put(t->agent->settings, view);
	return rc;
}

/* Its source was asked to hand it over, and may have. */
static bool is_handing(const struct takeover *t)
{
	json_t *record = replicas_record(t->replicas, t->uuid);
	const bool yes = json_is_object(json_object_get(record, "handover"));

	json_decref(record);
	return yes;
}

/* It runs and the record does not say so, or libvirt did not say whether it does: found out as soon as that can be. */
static void settle_later(const struct takeover *t)
{
	json_t *record = replicas_record(t->replicas, t->uuid);

	if (strcmp(text_of(record, "state"), "promoting") == 0 || failover_is_frozen(record))
		recovery_again(t->agent);
	json_decref(record);
}

static void tell_failed(struct takeover *t, const struct err *e)
{
	const bool open = is_handing(t);

	/* Tried every few seconds: what is still open is no news. */
	if (!open || !t->again)
		agent_event(t->agent, "failover.failed", t->uuid,
			    json_pack("{s:s, s:s, s:s}", "vm", text_of(t->record, "vm"), "from", t->from, "reason",
				      e->text));
	if (open && !t->again)
		recovery_again(t->agent);
}

int takeover_failover(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	struct err old = ERR_INIT;
	struct takeover t;
	int rc = begin(&t, a, call, args, e);

	if (rc == 0)
		rc = take_turn(&t, e);
	if (rc == 0) {
		if (!t.again)
			agent_event(a, "failover.started", t.uuid,
				    json_pack("{s:s, s:s}", "vm", text_of(t.record, "vm"), "from", t.from));
		rc = run(&t, args, result, e);
		/* Our own record from before it went away would have the VM paused. */
		if (rc == 0 && replicator_give_up(a->replicator, t.uuid, &old) < 0)
			log_warn("old_protection", "uuid=%s msg=%s", t.uuid, LOG_Q(old.text));
		if (rc == 0)
			agent_event(a, "failover.done", t.uuid, json_deep_copy(*result));
		else
			tell_failed(&t, e);
		settle_later(&t);
	}
	finish(&t);
	return rc;
}

int takeover_settle(struct agent *a, const char *uuid, struct err *e)
{
	json_t *args = json_pack("{s:s}", "vm", uuid);
	struct takeover t;
	int rc = begin(&t, a, NULL, args, e);

	if (rc == 0)
		rc = take_turn(&t, e);
	if (rc == 0) {
		const struct failover_records records = { .load = load, .change = change, .ctx = &t };
		rc = settle(&t, &records, e);
	}
	finish(&t);
	json_decref(args);
	return rc;
}

static void tell_thaw(const struct takeover *t, const char *type, const char *reason)
{
	agent_event(t->agent, type, t->uuid,
		    json_pack("{s:s, s:s, s:s*}", "vm", text_of(t->record, "vm"), "from", t->from, "reason", reason));
}

static void tell_frozen(const struct takeover *t, const char *why, const char *remedy)
{
	MEM_AUTO char *reason = mem_printf("the guest's file systems may be frozen, as they were at the point: %s; %s",
					   why, remedy);
	tell_thaw(t, "failover.frozen", reason);
}

int takeover_thaw(struct agent *a, const char *uuid, struct err *e)
{
	json_t *args = json_pack("{s:s}", "vm", uuid);
	struct takeover t;
	int rc = begin(&t, a, NULL, args, e);
	enum failover_thawed how = FAILOVER_NOT_FROZEN;

	if (rc == 0)
		rc = take_turn(&t, e);
	if (rc == 0) {
		const struct failover_records records = { .load = load, .change = change, .ctx = &t };
		rc = failover_thaw(&records, &promote_host_ops, t.host, FAILOVER_THAW_NS, &how, e);
		if (rc < 0 && failover_say_frozen(&records))
			tell_frozen(&t, e->text,
				    "it is asked again and again; 'virsh domfsthaw' does it by hand, and a reset "
				    "of the VM if that does not end either");
		else if (rc < 0)
			err_clear(e);
		else if (how == FAILOVER_LEFT_FROZEN)
			tell_frozen(&t, "it is not on this host any more", "'virsh domfsthaw' where it runs");
		if (how == FAILOVER_THAWED) {
			log_info("failover_thawed", "vm=%s uuid=%s", LOG_Q(text_of(t.record, "vm")), t.uuid);
			tell_thaw(&t, "failover.thawed", NULL);
		}
	}
	finish(&t);
	json_decref(args);
	return rc;
}

/* ---- export ---- */

int takeover_export(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	struct takeover t;
	int rc = begin(&t, a, call, args, e);

	if (rc == 0) {
		const struct settings_view *view = settings_get(a->settings);
		struct export_opts o = { .dir = text_of(args, "dir"),
					 .run_dir = view->config->run_dir,
					 .note = note,
					 .ctx = &t,
					 .cancel = &t.cancel,
					 .ops = &promote_host_ops,
					 .ops_ctx = t.host };
		rc = find_point(t.store, text_of(args, "point"), &o.seq, e);
		if (rc == 0)
			rc = export_point(t.store, &o, result, e);
		settings_put(a->settings, view);
	}
	finish(&t);
	return rc;
}
