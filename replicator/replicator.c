#include "replicator/replicator.h"

#include "base/clock.h"
#include "base/mem.h"
#include "replicator/epoch.h"
#include "replicator/field.h"
#include "replicator/protect.h"
#include "replicator/protections.h"
#include "replicator/still.h"

#include <stdlib.h>
#include <string.h>

#define HANDOVER_NS (240 * NS_PER_S)
#define FORWARD_NS (600 * NS_PER_S)

static const struct capture_calls real_capture = { .make = capture_new,
						   .chosen = capture_chosen,
						   .reason = capture_reason,
						   .start = capture_start,
						   .take = capture_take,
						   .take_last = capture_take_last,
						   .let_go = capture_let_go,
						   .leave = capture_leave,
						   .stop = capture_stop,
						   .abort = capture_abort,
						   .free = capture_free,
						   .clean_up = capture_clean_up,
						   .still = still_capture };

struct replicator {
	struct replicator_opts opts;
	char *host_name, *state_dir;
	struct pool *pool;
	struct replicas *replicas;
	struct protections *protections;
};

/* ---- life ---- */

static struct protection_opts protection_opts_of(struct replicator *r)
{
	const struct replicator_opts *o = &r->opts;

	return (struct protection_opts){
		.host_name = r->host_name,
		.state_dir = r->state_dir,
		.ways = { .connect_peer = o->connect_peer, .connect_data = o->connect_data, .ctx = o->ctx },
		.pool = r->pool,
		.delta_cache = o->delta_cache,
		.staging_bytes = o->staging_bytes,
		.channels = o->channels,
		.replicas = r->replicas,
		.capture = o->capture ? o->capture : &real_capture,
		.retry_ns = o->retry_ns,
		.open_guest = o->open_guest,
		.arm = o->arm,
		.watch = o->watch,
		.hold = o->hold,
		.unwatch = o->unwatch,
		.part = o->part,
		.boot = o->boot,
		.boot_ctx = o->boot_ctx,
		.event = o->event,
		.ctx = o->ctx
	};
}

void replicator_rescued(struct replicator *r, const char *uuid, enum guardian_end how)
{
	struct protection *p = protections_borrow(r->protections, uuid);

	if (!p)
		return;
	protection_rescued(p, how);
	protections_give_back(r->protections, p);
}

struct replicator *replicator_new(const struct replicator_opts *opts, struct err *e)
{
	struct replicator *r = mem_alloc(sizeof(*r));
	MEM_AUTO char *below = mem_printf("%s/replicas", opts->state_dir);

	r->opts = *opts;
	r->host_name = mem_strdup(opts->host_name);
	r->state_dir = mem_strdup(opts->state_dir);
	r->pool = pool_new(opts->workers, "replica", 0, e);
	const struct replicas_opts ro = { .host_name = r->host_name,
					  .replica_dir = opts->replica_dir ? opts->replica_dir : below,
					  .delta_cache = opts->delta_cache,
					  .pool = r->pool,
					  .event = opts->event,
					  .points = opts->points,
					  .ctx = opts->ctx };
	r->replicas = r->pool ? replicas_new(&ro, e) : NULL;
	const struct protection_opts po = protection_opts_of(r);
	r->protections = r->replicas ? protections_new(&po, e) : NULL;
	if (r->protections)
		return r;
	replicator_free(r);
	return NULL;
}

void replicator_free(struct replicator *r)
{
	if (!r)
		return;
	protections_free(r->protections);
	replicas_free(r->replicas);
	pool_free(r->pool);
	free(r->host_name);
	free(r->state_dir);
	free(r);
}

struct replicas *replicator_replicas(struct replicator *r)
{
	return r->replicas;
}

/* ---- operators ---- */

bool replicator_protects(struct replicator *r, const char *vm, json_t **record)
{
	return protections_have(r->protections, vm, record);
}

int replicator_protect(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	return protect_begin(r->protections, args, result, e);
}

int replicator_give_up(struct replicator *r, const char *uuid, struct err *e)
{
	return protect_give_up(r->protections, uuid, e);
}

/* A replica kept here for another host, with all its points. */
static int forget_replica(struct replicator *r, const char *vm, bool forget, json_t **result, struct err *e)
{
	if (!forget) {
		err_set(e, ERR_REFUSED, "%s is not protected from here; %s keeps a replica of it", vm, r->host_name);
		return err_remedy(e, "'vmferry unprotect %s --forget' removes the replica and all its points", vm);
	}
	json_t *record = replicas_record(r->replicas, vm);
	json_t *release = json_pack("{s:s}", "uuid", record ? field_text(record, "uuid") : vm);
	const int rc = replicas_release(r->replicas, NULL, release, result, e);
	json_decref(release);
	json_decref(record);
	return rc;
}

int replicator_unprotect(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	const char *vm = field_text(args, "vm");
	int rc = protect_end(r->protections, args, e);

	if (rc == 1)
		rc = replicas_has(r->replicas, vm)
			     ? forget_replica(r, vm, json_is_true(json_object_get(args, "forget")), result, e)
			     : protections_none(r->protections, vm, e);
	if (rc == 0 && !*result)
		*result = json_object();
	return rc;
}

/* Pause or resume. */
static int set_going(struct replicator *r, const json_t *args, int (*fn)(struct protection *p, struct err *e),
		     const char *event, json_t **result, struct err *e)
{
	const char *vm = field_text(args, "vm");
	struct protection *p = protections_borrow(r->protections, vm);

	if (!p)
		return protections_none(r->protections, vm, e);
	const int rc = fn(p, e);
	if (rc == 0) {
		r->opts.event(r->opts.ctx, event, protection_uuid(p), json_pack("{s:s}", "vm", vm));
		*result = protection_status(p);
	}
	protections_give_back(r->protections, p);
	return rc;
}

int replicator_pause(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	return set_going(r, args, protection_pause, "protection.paused", result, e);
}

int replicator_resume(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	return set_going(r, args, protection_resume, "protection.resumed", result, e);
}

int replicator_status(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	const char *vm = json_string_value(json_object_get(args, "vm"));
	json_t *list = json_array();

	protections_list(r->protections, vm, list);
	replicas_list(r->replicas, vm, list);
	if (vm && json_array_size(list) == 0) {
		json_decref(list);
		return protections_none(r->protections, vm, e);
	}
	*result = json_pack("{s:o}", "protections", list);
	return 0;
}

/* Of a VM that is protected from here the points are at the other host; a replica that is here as well is what an earlier failover has left. That
 * host asks nobody in turn. */
static bool kept_here(struct replicator *r, const json_t *args)
{
	const char *vm = field_text(args, "vm");

	return json_is_true(json_object_get(args, "kept")) ||
	       (!replicator_protects(r, vm, NULL) && replicas_has(r->replicas, vm));
}

/* The same call at the host that keeps the replica. */
static int ask_peer(struct replicator *r, const char *method, const char *vm, json_t **result, struct err *e)
{
	json_t *record = NULL;

	if (!replicator_protects(r, vm, &record)) {
		err_set(e, ERR_REFUSED, "%.80s is neither protected from %s nor kept here", vm, r->host_name);
		return err_remedy(e, "'vmferry status' shows what is protected, and where to");
	}
	struct rpc *rpc = r->opts.connect_peer(r->opts.ctx, field_text(record, "host"), e);
	const int rc = rpc ? rpc_call(rpc, method, json_pack("{s:s,s:b}", "vm", field_text(record, "uuid"), "kept", true),
				      clock_mono_ns() + FORWARD_NS, NULL, NULL, NULL, result, e)
			   : -1;
	rpc_unref(rpc);
	json_decref(record);
	return rc;
}

int replicator_points(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	return kept_here(r, args) ? replicas_points(r->replicas, args, result, e)
				  : ask_peer(r, "points", field_text(args, "vm"), result, e);
}

int replicator_verify(struct replicator *r, const json_t *args,
		      bool (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, json_t **result,
		      struct err *e)
{
	return kept_here(r, args) ? replicas_verify(r->replicas, args, progress, ctx, result, e)
				  : ask_peer(r, "verify", field_text(args, "vm"), result, e);
}

void replicator_see_through(struct replicator *r, json_t *vms, int64_t since_ns)
{
	size_t i;
	json_t *vm;

	json_array_foreach (vms, i, vm) {
		/* A reason that is not the pause itself, such as an I/O error, stays. Which of the two libvirt says depends on its version. */
		const char *reason = field_text(vm, "reason");
		if (!field_is(vm, "state", "paused") || (reason[0] && strcmp(reason, "user") != 0))
			continue;
		struct protection *p = protections_borrow(r->protections, field_text(vm, "uuid"));
		if (!p)
			continue;
		if (protection_pauses(p, since_ns)) {
			json_object_set_new(vm, "state", json_string("running"));
			json_object_set_new(vm, "reason", json_null());
		}
		protections_give_back(r->protections, p);
	}
}

int replicator_hold_vm(struct replicator *r, const char *vm, const char *why, struct err *e)
{
	return protections_hold(r->protections, vm, why, e);
}

void replicator_release_vm(struct replicator *r, const char *vm)
{
	protections_release(r->protections, vm);
}

/* ---- peers ---- */

/* A host does not keep a replica of a VM that it protects itself, nor of one that went on elsewhere and still stands here: what is left of that is
 * adopted (adoption.h), or given up. */
static int check_not_ours(struct replicator *r, const json_t *args, struct err *e)
{
	const char *uuid = field_text(args, "uuid");
	struct err shut_off = ERR_INIT;
	json_t *record = NULL;

	if (!replicator_protects(r, uuid, &record))
		return 0;
	const bool away = field_is(record, "state", "fenced") || field_is(record, "state", "handed-over");
	struct guest *g = away ? r->opts.open_guest(r->opts.ctx, uuid, &shut_off) : NULL;
	int rc = 0;
	if (!away) {
		rc = err_set(e, ERR_REFUSED, "%s protects VM %s itself, to %s", r->host_name, field_text(record, "vm"),
			     field_text(record, "host"));
		err_remedy(e, "a VM must run once only: look at both hosts with 'vmferry vms' before anything else");
	} else if (g) {
		rc = err_set(e, ERR_REFUSED, "the old VM still stands on %s", r->host_name);
		err_remedy(e,
			   "it went on elsewhere: look at it once more if need be, then 'vmferry unprotect %s' on %s "
			   "gives it up",
			   field_text(record, "vm"), r->host_name);
	} else if (shut_off.cls != ERR_REFUSED) {
		*e = shut_off;
		rc = -1;
	}
	guest_free(g);
	json_decref(record);
	return rc;
}

int replicator_replica_begin(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	return check_not_ours(r, args, e) < 0 ? -1 : replicas_begin(r->replicas, rpc, args, result, e);
}

int replicator_replica_seed_check(struct replicator *r, const char *peer, const json_t *args, struct err *e)
{
	return check_not_ours(r, args, e) < 0 ? -1 : replicas_seed_check(r->replicas, peer, args, e);
}

int replicator_replica_seed(struct replicator *r, const char *peer, const json_t *args, struct replica_seeder *by,
			    bool (*go)(void *ctx, const char *disk, uint64_t done, uint64_t total), void *ctx,
			    json_t **result, struct err *e)
{
	if (check_not_ours(r, args, e) == 0)
		return replicas_seed(r->replicas, peer, args, by, go, ctx, result, e);
	by->free(by->ctx);
	return -1;
}

int replicator_replica_hashes(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	return replicas_hashes(r->replicas, rpc, args, result, e);
}

int replicator_replica_commit(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	return replicas_commit(r->replicas, rpc, args, result, e);
}

int replicator_replica_end(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	return replicas_end(r->replicas, rpc, args, result, e);
}

int replicator_replica_status(struct replicator *r, const json_t *args, json_t **result, struct err *e)
{
	return replicas_status(r->replicas, args, result, e);
}

int replicator_replica_release(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	return replicas_release(r->replicas, rpc, args, result, e);
}

/* Only the host that keeps the replica, and only for the next epoch. */
static int hand_over(struct protection *p, const char *peer, const json_t *record, const json_t *args, char **point,
		     struct err *e)
{
	const uint64_t epoch = field_u64(args, "epoch");
	const char *vm = field_text(record, "vm"), *host = field_text(record, "host");

	if (strcmp(host, peer) != 0)
		return err_set(e, ERR_REFUSED, "the replica of %s is kept by %s, not by %s", vm, host, peer);
	if (field_is(record, "state", "handed-over"))
		return protection_hand_over_again(p, epoch, point, e);
	if (json_is_true(json_object_get(args, "again")))
		return err_set(e, ERR_REFUSED, "%s was not handed over", vm);
	if (epoch_check_next(field_u64(record, "epoch"), epoch, e) < 0)
		return -1;
	return protection_hand_over(p, epoch, clock_mono_ns() + HANDOVER_NS, point, e);
}

int replicator_source_handover(struct replicator *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	const char *uuid = field_text(args, "uuid");
	struct protection *p = protections_borrow(r->protections, uuid);
	char *point = NULL;

	if (!p)
		return protections_none(r->protections, uuid, e);
	json_t *record = protection_record(p);
	const int rc = hand_over(p, rpc_peer_name(rpc), record, args, &point, e);
	json_decref(record);
	if (rc == 0) {
		record = protection_record(p);
		const json_t *last = json_object_get(record, "last_point");
		*result = json_pack("{s:s}", "point", point);
		/* A record of an older agent may name one that was not the last. */
		if (json_is_true(json_object_get(last, "final")))
			json_object_set(*result, "instant_ns", json_object_get(last, "instant_ns"));
		json_decref(record);
	}
	free(point);
	protections_give_back(r->protections, p);
	return rc;
}

void replicator_attach(struct replicator *r, struct link *l)
{
	replicas_attach(r->replicas, l);
}

void replicator_closed(struct replicator *r, struct rpc *rpc)
{
	replicas_closed(r->replicas, rpc);
}
