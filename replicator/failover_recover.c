/* What an agent that died in the middle of a failover left. */
#include "replicator/failover.h"

#include "base/clock.h"
#include "base/log.h"
#include "replicator/failover_disks.h"

#include <string.h>
#include <time.h>

#define RECOVER_NS (15 * NS_PER_S)

/* A QEMU that waits for a state which nobody sends ends by itself, as its stream has ended; clear helps. */
static int where_settled(const struct promote_ops *ops, void *ctx, const char *uuid, enum promote_where *where,
			 struct err *e)
{
	int64_t until = clock_mono_ns() + RECOVER_NS;

	for (;;) {
		struct timespec moment = { .tv_nsec = 100 * NS_PER_MS };
		if (ops->where(ctx, uuid, where, e) < 0)
			return -1;
		if (*where != PROMOTE_INCOMING)
			return 0;
		if (clock_mono_ns() > until)
			return err_set(e, ERR_LIBVIRT, "VM %s still waits for its state", uuid);
		if (ops->clear(ctx, uuid, e) < 0)
			return -1;
		nanosleep(&moment, NULL);
	}
}

static int recover(const struct failover_records *records, const json_t *record, const struct promote_ops *ops,
		   void *ctx, enum failover_found *found, struct err *e)
{
	const char *uuid = json_string_value(json_object_get(record, "uuid"));
	const json_t *images = json_object_get(json_object_get(record, "promotion"), "images");
	enum promote_where where;
	struct err late = ERR_INIT;

	if (where_settled(ops, ctx, uuid, &where, e) < 0)
		return -1;
	const bool off = where == PROMOTE_ABSENT || where == PROMOTE_OFF;
	if (off && !failover_disks_changed(images)) {
		if (ops->clear(ctx, uuid, e) < 0 || failover_record_undo(records, e) < 0)
			return -1;
		*found = FAILOVER_UNDONE;
		return 0;
	}
	if (off)
		log_warn("failover_off",
			 "uuid=%s msg=\"the VM ran here and is off; what it wrote is in its images, which stay\"", uuid);
	if ((!off && ops->settle(ctx, uuid, e) < 0) || failover_record_promoted(records, e) < 0)
		return -1;
	if (json_is_true(json_object_get(json_object_get(record, "promotion"), "autostart")) &&
	    ops->autostart(ctx, uuid, &late) < 0)
		log_warn("failover_autostart", "uuid=%s msg=%s", uuid, LOG_Q(late.text));
	*found = off ? FAILOVER_OFF : FAILOVER_PROMOTED;
	return 0;
}

int failover_recover(const struct failover_records *records, const struct promote_ops *ops, void *ctx,
		     enum failover_found *found, struct err *e)
{
	json_t *record = records->load(records->ctx, e);
	const char *state = json_string_value(json_object_get(record, "state"));
	const char *uuid = json_string_value(json_object_get(record, "uuid"));
	int rc = 0;

	if (!record)
		return -1;
	*found = FAILOVER_NOTHING;
	if (state && uuid && strcmp(state, "promoting") == 0)
		rc = recover(records, record, ops, ctx, found, e);
	else if (state && strcmp(state, "replica") == 0 && json_is_object(json_object_get(record, "handover")))
		*found = FAILOVER_HANDING;
	if (rc == 0 && *found != FAILOVER_NOTHING && *found != FAILOVER_HANDING)
		log_info("failover_recovered", "uuid=%s outcome=%s", uuid,
			 *found == FAILOVER_UNDONE ? "undone"
			 : *found == FAILOVER_OFF  ? "off"
						   : "promoted");
	json_decref(record);
	return rc;
}
