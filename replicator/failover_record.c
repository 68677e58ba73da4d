#include "replicator/failover_record.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "replicator/failover_disks.h"

#include <stdlib.h>
#include <string.h>

#define RECORD_MAX ((size_t)1 << 20)

static json_t *load(void *ctx, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/replica.json", (const char *)ctx);
	MEM_AUTO char *text = file_read_all(path, RECORD_MAX, NULL, e);
	json_error_t je;

	if (!text)
		return NULL;
	json_t *r = json_loads(text, 0, &je);
	if (!json_is_object(r)) {
		err_set(e, ERR_CORRUPT, "%s: %s", path, r ? "not an object" : je.text);
		json_decref(r);
		return NULL;
	}
	return r;
}

static int change(void *ctx, const char *expect, const json_t *changes, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/replica.json", (const char *)ctx);
	json_t *r = load(ctx, e), *copy = json_deep_copy(changes);
	const char *state = json_string_value(json_object_get(r, "state"));
	char *text = NULL;
	int rc = -1;

	if (!r)
		goto end;
	if (!state || strcmp(state, expect) != 0) {
		err_set(e, ERR_REFUSED, "the replica is %s", state ? state : "in no state");
		goto end;
	}
	json_object_update(r, copy);
	text = json_dumps(r, JSON_INDENT(1) | JSON_SORT_KEYS);
	rc = text ? file_write_durable(path, text, strlen(text), 0600, e) : err_set(e, ERR_SYS, "%s: no JSON", path);
end:
	free(text);
	json_decref(copy);
	json_decref(r);
	return rc;
}

struct failover_records failover_record_files(const char *replica_dir)
{
	/* ctx is not const for others' sake */
	union {
		const char *in;
		void *out;
	} dir = { .in = replica_dir };
	return (struct failover_records){ .load = load, .change = change, .ctx = dir.out };
}

int failover_record_change(const struct failover_records *records, const char *expect, json_t *changes, struct err *e)
{
	const int rc = records->change(records->ctx, expect, changes, e);

	json_decref(changes);
	return rc;
}

int failover_record_promoted(const struct failover_records *records, struct err *e)
{
	json_t *changes = json_pack("{s:s, s:I}", "state", "promoted", "promoted_ns", (json_int_t)clock_wall_ns());

	return failover_record_change(records, "promoting", changes, e);
}

int failover_record_undo(const struct failover_records *records, struct err *e)
{
	json_t *record = records->load(records->ctx, e);

	if (!record)
		return -1;
	failover_disks_remove(json_object_get(json_object_get(record, "promotion"), "made"));
	json_decref(record);
	return failover_record_change(records, "promoting", json_pack("{s:s, s:n}", "state", "replica", "promotion"), e);
}
