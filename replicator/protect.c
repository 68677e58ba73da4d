#include "replicator/protect.h"

#include "base/clock.h"
#include "base/log.h"
#include "replicator/courier.h"
#include "replicator/epoch.h"
#include "replicator/field.h"
#include "replicator/schedule.h"

#include <errno.h>
#include <string.h>

#define MIN_RPO_MS 100
#define MAX_RPO_MS (7 * 24 * 3600 * 1000LL)
#define DEFAULT_RPO_MS 5000

/* ---- begin, or change ---- */

static int check_number(const json_t *args, const char *key, int64_t least, int64_t most, struct err *e)
{
	const json_t *v = json_object_get(args, key);

	if (!v || json_is_null(v))
		return 0;
	if (json_is_integer(v) && json_integer_value(v) >= least && json_integer_value(v) <= most)
		return 0;
	return err_set(e, ERR_CONFIG, "protect: %s is not a number from %lld to %lld", key, (long long)least,
		       (long long)most);
}

static int check_args(const struct protection_opts *o, const json_t *args, struct err *e)
{
	const char *mode = field_text(args, "mode");
	const json_t *keep = json_object_get(args, "keep");

	if (!field_text(args, "vm")[0] || !field_text(args, "host")[0])
		return err_set(e, ERR_CONFIG, "protect: which VM, and to which host?");
	if (strcmp(field_text(args, "host"), o->host_name) == 0)
		return err_set(e, ERR_REFUSED, "a VM is not protected by a copy on its own host %s", o->host_name);
	enum capture_mode m;
	if (mode[0] && strcmp(mode, "memory") != 0 && capture_mode_from_name(mode, &m) < 0)
		return err_set(e, ERR_CONFIG, "protect: mode is auto, memory, colo, background or disk, not %.20s",
			       mode);
	if (schedule_check(json_object_get(args, "schedule"), e) < 0)
		return -1;
	if (keep && !json_is_null(keep) && !json_is_object(keep))
		return err_set(e, ERR_CONFIG, "protect: keep is not an object");
	if (check_number(args, "rpo_ms", MIN_RPO_MS, MAX_RPO_MS, e) < 0 ||
	    check_number(args, "max_pause_ms", 0, 60000, e) < 0 || check_number(args, "bandwidth", 0, INT64_MAX, e) < 0 ||
	    check_number(keep, "last", 1, 100000, e) < 0 || check_number(keep, "hourly", 0, 100000, e) < 0 ||
	    check_number(keep, "daily", 0, 100000, e) < 0 || check_number(keep, "max_bytes", 0, INT64_MAX, e) < 0)
		return -1;
	return 0;
}

static int look_at_guest(const struct protection_opts *o, const char *vm, struct guest_info *info, struct err *e)
{
	struct guest *g = o->open_guest(o->ctx, vm, e);

	if (!g) {
		if (e->cls == ERR_REFUSED)
			err_remedy(e, "start it first; once protected, it may be shut off and started at any time");
		return -1;
	}
	const int rc = g->ops->info(g->ctx, info, e);
	guest_free(g);
	return rc;
}

/* The peer has what is left of the VM from when it ran there, of an epoch before ours: it becomes a replica that we may write to. */
static bool is_left_over(const json_t *theirs, uint64_t ours)
{
	return field_is(theirs, "state", "promoted") && field_u64(theirs, "epoch") < ours;
}

/* The epoch with which this host may begin, asked at the peer; 0 with the error set. */
static uint64_t find_epoch(const struct protection_opts *o, const char *uuid, const char *vm, const char *host,
			   uint64_t ours, struct err *e)
{
	const struct courier_opts co = {
		.ways = o->ways,
		.host = host,
		.uuid = uuid,
	};
	json_t *theirs = NULL;

	if (courier_ask(&co, &theirs, e) < 0) {
		err_wrap(e, "protect %s", vm);
		return 0;
	}
	if (is_left_over(theirs, ours)) {
		const struct courier_opts at = { .ways = o->ways, .host = host, .uuid = uuid, .vm = vm, .epoch = ours };
		json_decref(theirs);
		return courier_adopt(&at, e) < 0 ? 0 : ours;
	}
	const char *state = field_text(theirs, "state");
	const uint64_t epoch = field_u64(theirs, "epoch");
	uint64_t found = ours;
	if (strcmp(state, "promoting") == 0 || strcmp(state, "promoted") == 0) {
		err_set(e, ERR_REFUSED, "%s runs VM %s itself (epoch %llu)", host, vm, (unsigned long long)epoch);
		err_remedy(e, "a VM must run once only: look at both with 'vmferry vms' before anything else");
		found = 0;
	} else if (state[0] && strcmp(state, "released") != 0 && strcmp(field_text(theirs, "from"), o->host_name) != 0) {
		err_set(e, ERR_REFUSED, "%s keeps a replica of VM %s for %s", host, vm, field_text(theirs, "from"));
		err_remedy(e, "if it has moved here: 'vmferry unprotect %s --forget' there first", vm);
		found = 0;
	} else if (epoch > found) {
		found = epoch;
	}
	json_decref(theirs);
	return found;
}

static void copy_keys(json_t *record, const json_t *args)
{
	static const char *const keys[] = { "rpo_ms", "mode", "keep", "quiesce", "max_pause_ms", "schedule", "bandwidth" };

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		const json_t *v = json_object_get(args, keys[i]);
		if (v && !json_is_null(v))
			json_object_set_new(record, keys[i], json_deep_copy(v));
	}
}

/* The epoch this host has for the VM: as its source, or because it was promoted here. */
static uint64_t own_epoch(const struct protection_opts *o, const char *uuid, const json_t *old)
{
	uint64_t epoch = old ? field_u64(old, "epoch") : 1;
	json_t *args = json_pack("{s:s}", "uuid", uuid), *replica = NULL;
	struct err e = ERR_INIT;

	if (replicas_status(o->replicas, args, &replica, &e) == 0 && field_is(replica, "state", "promoted") &&
	    field_u64(replica, "epoch") > epoch)
		epoch = field_u64(replica, "epoch");
	json_decref(args);
	json_decref(replica);
	return epoch;
}

/* ---- what the first copy starts from ---- */

/* The disk that an operator means; NULL with the error set. */
static const struct guest_disk *seed_disk(const struct guest_info *info, const char *target, struct err *e)
{
	const struct guest_disk *found = NULL;
	size_t n = 0;

	for (size_t i = 0; i < info->n_disks; i++) {
		if (info->disks[i].readonly || (target[0] && strcmp(info->disks[i].target, target) != 0))
			continue;
		found = &info->disks[i];
		n++;
	}
	if (n == 1)
		return found;
	if (target[0])
		err_set(e, ERR_REFUSED, "%s has no disk %.40s that is replicated", info->name, target);
	else
		err_set(e, ERR_REFUSED, "%s has %zu disks that are replicated: of which is that image?", info->name, n);
	err_remedy(e, "'virsh domblklist %s' shows them; say --seed DISK=FILE", info->name);
	return NULL;
}

/* {disk: path} as [{"disk","path","size"}], which the peer would take. NULL with the error set. */
static json_t *make_seed(const struct protection_opts *o, const struct guest_info *info, const json_t *record,
			 const json_t *asked, struct err *e)
{
	const struct courier_opts co = { .ways = o->ways,
					 .host = field_text(record, "host"),
					 .uuid = info->uuid,
					 .vm = info->name,
					 .epoch = field_u64(record, "epoch") };
	json_t *seed = json_array(), *path;
	const char *target;

	json_object_foreach ((json_t *)(uintptr_t)asked, target, path) {
		const struct guest_disk *d = seed_disk(info, target, e);
		if (d)
			json_array_append_new(seed, json_pack("{s:s, s:O, s:I}", "disk", d->target, "path", path,
							      "size", (json_int_t)d->size_bytes));
		if (!d || !json_is_string(path)) {
			if (d)
				err_set(e, ERR_CONFIG, "protect: a seed is no path");
			json_decref(seed);
			return NULL;
		}
	}
	if (courier_seed(&co, seed, true, NULL, NULL, e) == 0)
		return seed;
	err_wrap(e, "start from an image at %s", co.host);
	json_decref(seed);
	return NULL;
}

/* One that was asked for before, and has not begun, is only what is asked for now. */
static int add_seed(const struct protection_opts *o, const struct guest_info *info, json_t *record, const json_t *asked,
		    struct err *e)
{
	json_object_del(record, "seed");
	if (json_object_size(asked) == 0)
		return 0;
	json_t *seed = make_seed(o, info, record, asked, e);
	return seed ? json_object_set_new(record, "seed", seed) : -1;
}

/* A replica that could not be started is of no use: that is said before there is one. Of one that exists already, status and failover say it. */
static int check_fits(const struct protection_opts *o, const struct guest_info *info, const char *host,
		      json_t **findings, struct err *e)
{
	const struct courier_opts co = { .ways = o->ways, .host = host, .uuid = info->uuid, .vm = info->name };
	json_t *disks = json_array();

	for (size_t i = 0; i < info->n_disks; i++)
		if (!info->disks[i].readonly)
			json_array_append_new(disks, json_string(info->disks[i].target));
	int rc = info->xml ? courier_fits(&co, info->xml, disks, findings, e) : 0;
	json_decref(disks);
	if (rc < 0)
		err_wrap(e, "%s could not be started at %s", info->name, host);
	return rc;
}

static json_t *make_record(const struct protection_opts *o, const struct guest_info *info, const json_t *args,
			   const json_t *old, struct err *e)
{
	const char *state = field_text(old, "state"), *host = field_text(args, "host");

	if (strcmp(state, "fenced") == 0 || strcmp(state, "handed-over") == 0) {
		err_set(e, ERR_REFUSED, "the protection of %s is %s: %s has taken the VM over", info->name, state,
			field_text(old, "host"));
		err_remedy(e, "'vmferry unprotect %s' gives up this side first", info->name);
		return NULL;
	}
	if (strcmp(state, "handing-over") == 0) {
		err_set(e, ERR_REFUSED, "%s is being handed over to %s", info->name, field_text(old, "host"));
		return NULL;
	}
	if (old && strcmp(field_text(old, "host"), host) != 0) {
		err_set(e, ERR_REFUSED, "%s is protected to %s already", info->name, field_text(old, "host"));
		err_remedy(e, "'vmferry unprotect %s' first (--forget removes the replica there)", info->name);
		return NULL;
	}
	const uint64_t epoch = find_epoch(o, info->uuid, info->name, host, own_epoch(o, info->uuid, old), e);
	if (!epoch)
		return NULL;
	json_t *record = old ? json_deep_copy(old) : json_pack("{s:i, s:s}", "rpo_ms", DEFAULT_RPO_MS, "mode", "auto");
	copy_keys(record, args);
	json_object_set_new(record, "uuid", json_string(info->uuid));
	json_object_set_new(record, "vm", json_string(info->name));
	json_object_set_new(record, "host", json_string(host));
	json_object_set_new(record, "role", json_string("source"));
	json_object_set_new(record, "state", json_string("active"));
	json_object_set_new(record, "epoch", json_integer((json_int_t)epoch));
	if (add_seed(o, info, record, json_object_get(args, "seed"), e) == 0)
		return record;
	json_decref(record);
	return NULL;
}

/* In the place of the one that was, if there was one. */
static int put_in_place(struct protections *t, const struct guest_info *info, json_t *old, json_t *record, struct err *e)
{
	const struct protection_opts *o = protections_opts(t);

	if (!old)
		return epoch_save_protection(o->state_dir, record, e) < 0 ? -1 : protections_start(t, record, e);
	struct protection *p = protections_borrow(t, info->uuid);
	const int rc = p ? protection_replace(p, old, record, e) : protections_none(t, info->name, e);
	if (p)
		protections_give_back(t, p);
	if (rc < 0)
		return -1;
	json_decref(protections_stop(t, info->uuid));
	return protections_start(t, record, e);
}

/* What other VMs write to a disk is in no dirty bitmap of this one's QEMU: its replica would be made of two times. */
static int check_disks(const struct guest_info *info, struct err *e)
{
	for (size_t i = 0; i < info->n_disks; i++) {
		const struct guest_disk *d = &info->disks[i];
		if (!d->shareable || d->readonly)
			continue;
		err_set(e, ERR_REFUSED, "disk %s of %s is shared with other VMs: what they write to it is not seen here",
			d->target, info->name);
		return err_remedy(e,
				  "if this VM alone writes to it, take <shareable/> out of its definition and start it "
				  "anew");
	}
	return 0;
}

/* Who asks for memory has it, or is told at once why not. */
static int check_mode(const struct guest_info *info, const json_t *record, struct err *e)
{
	const char *mode = field_text(record, "mode");
	const bool memory = strcmp(mode, "memory") == 0;
	enum capture_mode m = CAPTURE_AUTO;

	if (!memory && capture_mode_from_name(mode, &m) < 0)
		return 0; /* a record of whatever age */
	return capture_possible(info, m, memory, e) < 0 ? err_wrap(e, "%s", info->name) : 0;
}

/* Of what is said now, and what was said before or goes without saying. */
static int check_schedule(const struct guest_info *info, const json_t *args, const json_t *old, struct err *e)
{
	const json_t *schedule = json_object_get(args, "schedule");

	if (!schedule || json_is_null(schedule))
		schedule = json_object_get(old, "schedule");
	const int64_t rpo_ms = field_int(args, "rpo_ms", field_int(old, "rpo_ms", DEFAULT_RPO_MS));
	return schedule_check_rpo(schedule, rpo_ms * NS_PER_MS, e) < 0 ? err_wrap(e, "%s", info->name) : 0;
}

static int protect(struct protections *t, const struct guest_info *info, const json_t *args, json_t **result,
		   struct err *e)
{
	const struct protection_opts *o = protections_opts(t);
	json_t *old = NULL, *findings = NULL;

	(void)protections_have(t, info->uuid, &old);
	json_t *record = check_schedule(info, args, old, e) < 0 ? NULL : make_record(o, info, args, old, e);
	int rc = record ? check_mode(info, record, e) : -1;
	if (rc == 0 && !old && (rc = check_disks(info, e)) == 0)
		rc = check_fits(o, info, field_text(args, "host"), &findings, e);
	if (rc == 0)
		rc = put_in_place(t, info, old, record, e);
	if (rc == 0) {
		o->event(o->ctx, old ? "protection.changed" : "protection.started", info->uuid,
			 json_pack("{s:s, s:s, s:s, s:O}", "vm", info->name, "host", field_text(args, "host"), "from",
				   o->host_name, "rpo_ms", json_object_get(record, "rpo_ms")));
		struct protection *now = protections_borrow(t, info->uuid);
		*result = now ? protection_status(now) : json_object();
		if (now)
			protections_give_back(t, now);
		if (findings)
			json_object_set(*result, "findings", findings);
	}
	json_decref(findings);
	json_decref(record);
	json_decref(old);
	return rc;
}

int protect_begin(struct protections *t, const json_t *args, json_t **result, struct err *e)
{
	const struct protection_opts *o = protections_opts(t);
	struct protections_change change;
	struct guest_info info = { 0 };

	if (check_args(o, args, e) < 0 || look_at_guest(o, field_text(args, "vm"), &info, e) < 0)
		return -1;
	protections_begin_change(t, info.uuid, &change);
	const int rc = protect(t, &info, args, result, e);
	protections_end_change(t, &change);
	guest_info_fini(&info);
	return rc;
}

/* ---- end ---- */

static int forget_at_peer(const struct protection_opts *o, const json_t *record, struct err *e)
{
	const struct courier_opts co = {
		.ways = o->ways,
		.host = field_text(record, "host"),
		.uuid = field_text(record, "uuid"),
		.epoch = field_u64(record, "epoch"),
	};

	if (courier_release(&co, e) == 0)
		return 0;
	err_wrap(e, "remove the replica at %s", co.host);
	return err_remedy(
		e, "without --forget the replica stays there, and 'vmferry unprotect %s --forget' at %s removes it",
		field_text(record, "vm"), co.host);
}

/* Whether libvirt does it, if it was on. Of one that was taken over it is the other host's, and of one that libvirt does not know any more nobody's. */
static int set_autostart(const struct protection_opts *o, const json_t *record, bool on, struct err *e)
{
	if (!o->boot || !json_is_true(json_object_get(record, "autostart")) || field_is(record, "state", "fenced") ||
	    field_is(record, "state", "handed-over"))
		return 0;
	if (o->boot->autostart(o->boot_ctx, field_text(record, "uuid"), &on, NULL, e) == 0)
		return 0;
	if (e->cls == ERR_REFUSED && e->errnum == ENOENT) {
		err_clear(e);
		return 0;
	}
	return -1;
}

/* All of it, or nothing: a VM whose autostart libvirt does not give back stays protected, as its record alone knows that it starts with its host. While
 * there is one, an agent that is killed takes autostart over again. */
static int give_back(const struct protection_opts *o, const json_t *record, bool forget, struct err *e)
{
	struct err again = ERR_INIT;

	if (set_autostart(o, record, true, e) < 0) {
		err_wrap(e, "%s is to start with its host again, which libvirt does not take", field_text(record, "vm"));
		return err_remedy(e, "it stays protected; 'vmferry unprotect' again once libvirt answers");
	}
	if ((!forget || forget_at_peer(o, record, e) == 0) &&
	    epoch_remove_protection(o->state_dir, field_text(record, "uuid"), e) == 0)
		return 0;
	/* Its thread does it as well. */
	if (set_autostart(o, record, false, &again) < 0)
		log_warn("autostart", "vm=%s msg=%s", LOG_Q(field_text(record, "vm")), LOG_Q(again.text));
	return -1;
}

static int end(struct protections *t, const char *uuid, bool forget, struct err *e)
{
	const struct protection_opts *o = protections_opts(t);
	json_t *record = protections_stop(t, uuid);
	const int rc = give_back(o, record, forget, e);

	if (rc == 0) {
		protections_remove(t, uuid);
		o->event(o->ctx, "protection.stopped", uuid,
			 json_pack("{s:s, s:s, s:s, s:b}", "vm", field_text(record, "vm"), "host",
				   field_text(record, "host"), "from", o->host_name, "forgotten", (int)forget));
	} else {
		struct err again = ERR_INIT;
		if (protections_start(t, record, &again) < 0)
			log_error("protection_not_started", "uuid=%s msg=%s", uuid, LOG_Q(again.text));
	}
	json_decref(record);
	return rc;
}

/* 1: there is none. */
static int end_named(struct protections *t, const char *vm, bool forget, struct err *e)
{
	struct protections_change change;
	char uuid[GUEST_UUID_LEN];

	if (!protections_uuid(t, vm, uuid))
		return 1;
	protections_begin_change(t, uuid, &change);
	/* Another call may have ended it meanwhile. */
	const int rc = protections_have(t, uuid, NULL) ? end(t, uuid, forget, e) : 1;
	protections_end_change(t, &change);
	return rc;
}

int protect_give_up(struct protections *t, const char *uuid, struct err *e)
{
	return end_named(t, uuid, false, e) < 0 ? -1 : 0;
}

int protect_end(struct protections *t, const json_t *args, struct err *e)
{
	return end_named(t, field_text(args, "vm"), json_is_true(json_object_get(args, "forget")), e);
}
