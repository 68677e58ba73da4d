/* A guest that goes on from a point at which its file systems were frozen: what is in its memory outlives the agent that started it. */
#include "replicator/failover.h"

#include "base/log.h"

#include <string.h>

bool failover_is_frozen(const json_t *record)
{
	const char *state = json_string_value(json_object_get(record, "state"));

	return state && strcmp(state, "promoted") == 0 &&
	       json_is_true(json_object_get(json_object_get(record, "promotion"), "frozen"));
}

/* Into the record of a promoted one. */
static int set(const struct failover_records *records, const char *key, bool to, struct err *e)
{
	json_t *record = records->load(records->ctx, e);
	json_t *promotion = json_deep_copy(json_object_get(record, "promotion"));

	json_decref(record);
	if (!promotion)
		return err_is_set(e) ? -1 : err_set(e, ERR_REFUSED, "it was not promoted");
	json_object_set_new(promotion, key, json_boolean(to));
	return failover_record_change(records, "promoted", json_pack("{s:o}", "promotion", promotion), e);
}

int failover_note_thawed(const struct failover_records *records, struct err *e)
{
	return set(records, "frozen", false, e);
}

bool failover_say_frozen(const struct failover_records *records)
{
	struct err e = ERR_INIT;
	json_t *record = records->load(records->ctx, &e);
	const bool said = json_is_true(json_object_get(json_object_get(record, "promotion"), "frozen_said"));

	json_decref(record);
	if (said)
		return false;
	if (set(records, "frozen_said", true, &e) < 0)
		log_warn("failover_record", "msg=%s", LOG_Q(e.text));
	return true;
}

static int thaw(const char *uuid, const struct promote_ops *ops, void *ctx, bool *thawed, struct err *e)
{
	enum promote_where where;

	if (ops->where(ctx, uuid, &where, e) < 0)
		return -1;
	switch (where) {
	case PROMOTE_ABSENT:
		log_warn("failover_frozen", "uuid=%s msg=%s", uuid,
			 LOG_Q("it is not on this host any more; if it was moved, thaw it there: virsh domfsthaw"));
		return 0;
	case PROMOTE_OFF:
		return 0; /* its memory is gone, and what was frozen in it */
	case PROMOTE_INCOMING:
	case PROMOTE_PAUSED:
		return err_set(e, ERR_REFUSED, "it is paused, and is thawed once it runs");
	case PROMOTE_RUNNING:
		break;
	}
	*thawed = ops->thaw(ctx, uuid, e) == 0;
	return *thawed ? 0 : -1;
}

int failover_thaw(const struct failover_records *records, const struct promote_ops *ops, void *ctx, bool *thawed,
		  struct err *e)
{
	json_t *record = records->load(records->ctx, e);
	const char *uuid = json_string_value(json_object_get(record, "uuid"));
	int rc = record ? 0 : -1;

	*thawed = false;
	if (uuid && failover_is_frozen(record)) {
		rc = thaw(uuid, ops, ctx, thawed, e);
		if (rc == 0)
			rc = failover_note_thawed(records, e);
	}
	json_decref(record);
	return rc;
}
