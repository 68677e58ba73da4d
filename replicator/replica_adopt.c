/* A replica of this host's own making: what it has of a VM that has moved on becomes the store into which the VM comes home. */
#include "replicator/replica_internal.h"

#include "base/fault.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/epoch.h"
#include "replicator/failover_disks.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

json_t *replicas_record(struct replicas *r, const char *vm)
{
	THREAD_LOCKED(&r->lock);
	const struct replica *p = replica_find_locked(r, vm);
	return p && p->record ? json_deep_copy(p->record) : NULL;
}

/* Do images of the promotion lie over the store's own files, and not over links to them? */
static bool needed(const json_t *promotion)
{
	size_t i;
	const json_t *disk;

	json_array_foreach(json_object_get(promotion, "disks"), i, disk)
		if (strcmp(text_of(disk, "format"), "qcow2") == 0 && !text_of(disk, "base")[0])
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
	return json_pack("{s:s, s:o, s:b}", "store", text_of(record, "store")[0] ? text_of(record, "store") : "store", "made",
			 json_is_array(made) ? json_deep_copy(made) : json_array(), "needed", (int)needed(promotion));
}

static int remove_store(const char *path, struct err *e)
{
	struct stat st;

	return stat(path, &st) == 0 ? store_destroy(path, e) : 0;
}

/* The replica is moved by us, and no session writes to it: a promoted one lets none in. */
static int adopt(struct replica *p, json_t *changes, const char *path, int (*fill)(void *ctx, struct store *s, struct err *e), void *ctx,
		 struct err *e)
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

int replicas_adopt(struct replicas *r, const char *uuid, const char *vm, const char *from, uint64_t epoch, const json_t *extra,
		   int (*fill)(void *ctx, struct store *s, struct err *e), void *ctx, struct err *e)
{
	struct replica *p = replica_enter(r, uuid, e);

	if (!p)
		return -1;
	json_t *record = replicas_record(r, uuid);
	MEM_AUTO char *dir = epoch_replica_dir(r->replica_dir, uuid);
	MEM_AUTO char *name = mem_printf("store-%" PRIu64, epoch);
	MEM_AUTO char *path = mem_printf("%s/%s", dir, name);
	json_t *changes = json_pack("{s:s, s:s, s:I, s:s, s:s, s:o, s:n, s:n}", "vm", vm, "from", from, "epoch", (json_int_t)epoch, "state",
				    "replica", "store", name, "old", old_json(record), "promotion", "promoted_ns");
	int rc = 0;

	if (extra) {
		json_t *more = json_deep_copy(extra);
		json_object_update(changes, more);
		json_decref(more);
	}
	if (epoch_check_readable(record, e) < 0)
		rc = -1;
	else if (strcmp(text_of(record, "state"), "promoting") == 0)
		rc = err_set(e, ERR_REFUSED, "a failover of VM %s is under way at %s", vm, r->host_name);
	else if (record && ((uint64_t)json_integer_value(json_object_get(record, "epoch")) >= epoch || strcmp(text_of(record, "store"), name) == 0))
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
	struct replica *p = replica_take(r, uuid, e);

	if (!p)
		return -1;
	json_t *record = replicas_record(r, uuid);
	const json_t *old = json_object_get(record, "old");
	const char *name = text_of(old, "store");
	MEM_AUTO char *dir = epoch_replica_dir(r->replica_dir, uuid);
	MEM_AUTO char *path = mem_printf("%s/%s", dir, name);
	const bool stays = json_is_true(json_object_get(old, "needed")) && !images;
	int rc = 0;

	if (json_is_object(old)) {
		if (images)
			failover_disks_remove(json_object_get(old, "made"));
		if (name[0] && !strchr(name, '/') && strcmp(name, text_of(record, "store")) != 0 && !stays)
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
