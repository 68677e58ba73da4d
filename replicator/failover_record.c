#include "replicator/failover_record.h"

#include "base/file.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define RECORD_MAX ((size_t)1 << 20)

json_t *failover_record_load(const char *replica_dir, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/replica.json", replica_dir);
	MEM_AUTO char *text = file_read_all(path, RECORD_MAX, NULL, e);
	json_error_t je;

	if (!text)
		return NULL;
	json_t *r = json_loads(text, 0, &je);
	if (!json_is_object(r) || !json_is_string(json_object_get(r, "uuid")) || !json_is_string(json_object_get(r, "state")) ||
	    !json_is_integer(json_object_get(r, "epoch"))) {
		err_set(e, ERR_CORRUPT, "%s: %s", path, r ? "uuid, state or epoch is missing" : je.text);
		err_remedy(e, "restore the file from a backup, or write it by hand; the epoch must not be lower than the source's");
		json_decref(r);
		return NULL;
	}
	return r;
}

int failover_record_save(const char *replica_dir, const json_t *record, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/replica.json", replica_dir);
	char *text = json_dumps(record, JSON_INDENT(1) | JSON_SORT_KEYS);

	if (!text)
		return err_set(e, ERR_SYS, "%s: cannot be written as JSON", path);
	int rc = file_write_durable(path, text, strlen(text), 0600, e);
	free(text);
	return rc;
}
