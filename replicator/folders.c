#include "replicator/folders.h"

#include "base/file.h"
#include "base/mem.h"
#include "replicator/field.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LEN_MAX 65536u

int folders_noted(const char *path, struct folders *out, struct err *e)
{
	MEM_AUTO char *text = file_read_all(path, LEN_MAX, NULL, e);

	if (!text)
		return -1;
	json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
	const char *state = field_text(j, "state_dir"), *replicas = field_text(j, "replica_dir");
	const bool good = state[0] == '/' && replicas[0] == '/';
	if (good)
		*out = (struct folders){ .state_dir = mem_strdup(state), .replica_dir = mem_strdup(replicas) };
	json_decref(j);
	return good ? 0 : err_set(e, ERR_CORRUPT, "%s: names no folders", path);
}

void folders_fini(struct folders *f)
{
	mem_free_ptr(&f->state_dir);
	mem_free_ptr(&f->replica_dir);
}

int folders_note(const char *path, const char *state_dir, const char *replica_dir, struct err *e)
{
	struct folders was = { 0 };
	struct err ignored = ERR_INIT;
	const bool same = folders_noted(path, &was, &ignored) == 0 && strcmp(was.state_dir, state_dir) == 0 &&
			  strcmp(was.replica_dir, replica_dir) == 0;

	folders_fini(&was);
	if (same)
		return 0;
	MEM_AUTO char *folder = mem_strdup(path);
	char *slash = strrchr(folder, '/');
	*slash = '\0';
	/* As of state_dir, which it usually is. */
	if (file_mkdirs(folder, 0711, e) < 0)
		return -1;
	json_t *j = json_pack("{s:s, s:s}", "state_dir", state_dir, "replica_dir", replica_dir);
	char *text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	if (!text)
		return err_set(e, ERR_CONFIG, "%s: %s or %s is not UTF-8", path, state_dir, replica_dir);
	const int rc = file_write_durable(path, text, strlen(text), 0600, e);
	free(text);
	return rc;
}
