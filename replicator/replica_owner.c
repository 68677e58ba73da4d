/*
 * Changes of what a replica is, each durable before anything follows from it: promoted and back, released, or (after a failover, on the way home) a store
 * of this host's own making in the place of the one that was.
 */
#include "replicator/replica_internal.h"

#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/epoch.h"
#include "replicator/failover_disks.h"
#include "replicator/field.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- states ---- */

int replicas_change(struct replicas *r, const char *uuid, const char *expect, const json_t *changes, struct err *e)
{
	struct replica *p = replica_take(r, uuid, NULL, 0, e);
	char state[32], vm[256];

	if (!p)
		return -1;
	{
		THREAD_LOCKED(&r->lock);
		snprintf(state, sizeof(state), "%.31s", field_text(p->record, "state"));
		snprintf(vm, sizeof(vm), "%.255s", field_text(p->record, "vm"));
	}
	int rc = 0;
	if (strcmp(state, expect) != 0)
		rc = err_set(e, ERR_REFUSED, "the replica of VM %s is %s, not %s", vm, state, expect);
	if (rc == 0)
		rc = replica_update(p, changes, e);
	/* After that: from here on the source is refused, whatever happens. */
	const char *now = field_text(changes, "state");
	if (rc == 0 && now[0] && strcmp(now, "replica") != 0)
		replica_session_end(p, "failover");
	replica_moved(p);
	return rc;
}

int replicas_promote(struct replicas *r, const char *uuid, uint64_t *epoch, struct err *e)
{
	uint64_t next = 0;
	{
		THREAD_LOCKED(&r->lock);
		const struct replica *p = replica_find_locked(r, uuid);
		if (p && p->record)
			next = field_u64(p->record, "epoch") + 1;
	}
	json_t *changes = json_pack("{s:s, s:I}", "state", "promoting", "epoch", (json_int_t)next);
	const int rc = replicas_change(r, uuid, "replica", changes, e);
	json_decref(changes);
	if (rc == 0)
		*epoch = next;
	return rc;
}

int replicas_set_state(struct replicas *r, const char *uuid, const char *state, struct err *e)
{
	json_t *changes = json_pack("{s:s}", "state", state);
	const int rc = replicas_change(r, uuid, "promoting", changes, e);

	json_decref(changes);
	return rc;
}

/* ---- release ---- */

/* Nobody may use the store any more; p is being moved by us. */
static int destroy(struct replica *p, struct err *e)
{
	struct replicas *r = p->all;
	MEM_AUTO char *dir = epoch_replica_dir(r->replica_dir, p->uuid);
	MEM_AUTO char *store = replica_store_path(p);
	MEM_AUTO char *record = mem_printf("%s/replica.json", dir);
	struct stat st;

	replica_close_store(p);
	/* The record last: what is half removed is still known to be a replica. */
	if (stat(store, &st) == 0 && store_destroy(store, e) < 0)
		return -1;
	if (file_remove_durable(record, e) < 0)
		return -1;
	if (rmdir(dir) < 0)
		log_warn("replica_folder_left", "dir=%s errno=%d", dir, errno);
	THREAD_LOCKED(&r->lock);
	json_decref(p->record);
	json_decref(p->last);
	p->record = p->last = NULL;
	p->points = 0;
	return 0;
}

static int check_promoted(const struct replica *p, struct err *e)
{
	MEM_AUTO char *dir = epoch_replica_dir(p->all->replica_dir, p->uuid);
	const json_t *disks = json_object_get(json_object_get(p->record, "promotion"), "disks");
	const char *image = field_is(p->record, "state", "promoted") ? failover_disks_over_store(disks, dir) : NULL;

	if (!image)
		return 0;
	err_set(e, ERR_REFUSED, "%s, a disk of VM %s, has most of its contents in this replica", image,
		field_text(p->record, "vm"));
	return err_remedy(e, "move the VM's disks first ('virsh blockcopy', or 'qemu-img convert' while it is off), "
			     "and remove that image");
}

int replicas_release(struct replicas *r, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	const char *uuid = field_text(args, "uuid");
	const uint64_t epoch = field_u64(args, "epoch");

	if (!replicas_has(r, uuid)) {
		*result = json_object();
		return 0;
	}
	struct replica *p = replica_take(r, uuid, rpc ? rpc_peer_name(rpc) : NULL, epoch, e);
	if (!p)
		return -1;
	/* rpc NULL: this host's own operator, who may always but for a VM that runs from it. */
	int rc = 0;
	pthread_mutex_lock(&r->lock);
	if (rpc)
		rc = epoch_admit(p->record, r->host_name, rpc_peer_name(rpc), epoch, e);
	else if (epoch_check_readable(p->record, e) < 0)
		rc = -1;
	else if (field_is(p->record, "state", "promoting"))
		rc = err_set(e, ERR_REFUSED, "a failover of VM %s is under way", field_text(p->record, "vm"));
	else
		rc = check_promoted(p, e);
	pthread_mutex_unlock(&r->lock);
	if (rc == 0) {
		replica_session_end(p, "the replica is given up");
		rc = destroy(p, e);
	}
	replica_moved(p);
	if (rc == 0) {
		log_info("replica_released", "uuid=%s", uuid);
		*result = json_object();
	}
	return rc;
}

/* ---- another store ---- */

/* Do images of the promotion lie over the store's own files, and not over links to them? */
static bool needed(const json_t *promotion)
{
	size_t i;
	const json_t *disk;

	json_array_foreach (json_object_get(promotion, "disks"), i, disk)
		if (field_is(disk, "format", "qcow2") && !field_text(disk, "base")[0])
			return true;
	return false;
}

/* What there was before, or null. */
static json_t *old_json(const json_t *record)
{
	const json_t *promotion = json_object_get(record, "promotion");
	const json_t *made = json_object_get(promotion, "made");

	if (!record)
		return json_null();
	return json_pack("{s:s, s:o, s:b}", "store",
			 field_text(record, "store")[0] ? field_text(record, "store") : "store", "made",
			 json_is_array(made) ? json_deep_copy(made) : json_array(), "needed", (int)needed(promotion));
}

static int remove_store(const char *path, struct err *e)
{
	struct stat st;

	return stat(path, &st) == 0 ? store_destroy(path, e) : 0;
}

/* The replica is moved by us, and no session writes to it: a promoted one lets none in. */
static int adopt(struct replica *p, json_t *changes, const char *path,
		 int (*fill)(void *ctx, struct store *s, struct err *e), void *ctx, struct err *e)
{
	MEM_AUTO char *dir = epoch_replica_dir(p->all->replica_dir, p->uuid);
	json_t *vm = json_pack("{s:s, s:O, s:O}", "uuid", p->uuid, "name", json_object_get(changes, "vm"), "from",
			       json_object_get(changes, "from"));
	struct store *s = NULL;

	/* What an interrupted one has left. */
	if (file_mkdirs(dir, 0700, e) == 0 && remove_store(path, e) == 0)
		s = store_create(path, &(struct store_opts){ 0 }, vm, e);
	json_decref(vm);
	if (!s)
		return -1;
	int rc = fill(ctx, s, e);
	store_close(s);
	if (rc == 0)
		rc = fault_point(FAULT_FAILBACK_ADOPT, e);
	if (rc == 0) {
		replica_session_end(p, "this host makes a replica of its own");
		replica_close_store(p);
		rc = replica_update(p, changes, e);
	}
	if (rc < 0) {
		struct err ignored = ERR_INIT;
		(void)remove_store(path, &ignored);
	}
	return rc;
}

int replicas_adopt(struct replicas *r, const char *uuid, const char *vm, const char *from, uint64_t epoch,
		   const json_t *extra, int (*fill)(void *ctx, struct store *s, struct err *e), void *ctx, struct err *e)
{
	struct replica *p = replica_enter(r, uuid, NULL, 0, e);

	if (!p)
		return -1;
	json_t *record = replicas_record(r, uuid);
	MEM_AUTO char *dir = epoch_replica_dir(r->replica_dir, uuid);
	MEM_AUTO char *name = mem_printf("store-%" PRIu64, epoch);
	MEM_AUTO char *path = mem_printf("%s/%s", dir, name);
	json_t *changes = json_pack("{s:s, s:s, s:I, s:s, s:s, s:o, s:b, s:n, s:n, s:n}", "vm", vm, "from", from,
				    "epoch", (json_int_t)epoch, "state", "replica", "store", name, "old",
				    old_json(record), "left", 1, "promotion", "promoted_ns", "seed");
	int rc = 0;

	if (extra) {
		json_t *more = json_deep_copy(extra);
		json_object_update(changes, more);
		json_decref(more);
	}
	if (epoch_check_readable(record, e) < 0)
		rc = -1;
	else if (field_is(record, "state", "promoting"))
		rc = err_set(e, ERR_REFUSED, "a failover of VM %s is under way at %s", vm, r->host_name);
	else if (record && (field_u64(record, "epoch") >= epoch || strcmp(field_text(record, "store"), name) == 0))
		rc = err_set(e, ERR_REFUSED, "%s has a replica of VM %s of epoch %lld already", r->host_name, vm,
			     (long long)json_integer_value(json_object_get(record, "epoch")));
	if (rc == 0)
		rc = adopt(p, changes, path, fill, ctx, e);
	json_decref(changes);
	json_decref(record);
	replica_moved(p);
	if (rc == 0)
		log_info("replica_adopted", "uuid=%s vm=%s from=%s epoch=%" PRIu64, uuid, LOG_Q(vm), from, epoch);
	return rc;
}

int replicas_forget_old(struct replicas *r, const char *uuid, bool images, struct err *e)
{
	struct replica *p = replica_take(r, uuid, NULL, 0, e);

	if (!p)
		return -1;
	json_t *record = replicas_record(r, uuid);
	const json_t *old = json_object_get(record, "old");
	const char *name = field_text(old, "store");
	MEM_AUTO char *dir = epoch_replica_dir(r->replica_dir, uuid);
	MEM_AUTO char *path = mem_printf("%s/%s", dir, name);
	const bool stays = json_is_true(json_object_get(old, "needed")) && !images;
	int rc = 0;

	if (json_is_object(old)) {
		if (images)
			failover_disks_remove(json_object_get(old, "made"));
		if (name[0] && !strchr(name, '/') && strcmp(name, field_text(record, "store")) != 0 && !stays)
			rc = remove_store(path, e);
		json_t *changes = json_pack("{s:n}", "old");
		if (rc == 0)
			rc = replica_update(p, changes, e);
		json_decref(changes);
	}
	json_decref(record);
	replica_moved(p);
	return rc;
}
