#include "migrator/sessions.h"

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_MAX ((size_t)256 * 1024)

int session_new_id(char out[SESSION_ID_LEN], struct err *e)
{
	unsigned char raw[(SESSION_ID_LEN - 1) / 2];

	if (getrandom(raw, sizeof raw, 0) != (ssize_t)sizeof raw)
		return err_sys(e, "random bytes for a session");
	for (size_t i = 0; i < sizeof raw; i++)
		snprintf(out + 2 * i, 3, "%02x", raw[i]);
	return 0;
}

int session_check_id(const char *id, struct err *e)
{
	if (!id || strlen(id) != SESSION_ID_LEN - 1 || strspn(id, "0123456789abcdef") != SESSION_ID_LEN - 1)
		return err_set(e, ERR_PROTOCOL, "not a session: %.40s", id ? id : "(none)");
	return 0;
}

static char *record_path(const char *state_dir, const char *session)
{
	return mem_printf("%s/sessions/%s.json", state_dir, session);
}

int sessions_save(const char *state_dir, const json_t *record, struct err *e)
{
	const char *session = json_string_value(json_object_get(record, "session"));
	MEM_AUTO char *folder = mem_printf("%s/sessions", state_dir);
	MEM_AUTO char *text = NULL;
	MEM_AUTO char *path = NULL;

	if (session_check_id(session, e) != 0 || file_mkdirs(folder, 0700, e) != 0)
		return -1;
	path = record_path(state_dir, session);
	text = json_dumps(record, JSON_INDENT(1) | JSON_SORT_KEYS);
	if (!text)
		return err_set(e, ERR_SYS, "session journal: cannot be written as JSON");
	if (file_write_durable(path, text, strlen(text), 0600, e) != 0)
		return err_wrap(e, "session journal");
	return 0;
}

int sessions_remove(const char *state_dir, const char *session, struct err *e)
{
	MEM_AUTO char *path = record_path(state_dir, session);
	if (file_remove_durable(path, e) != 0)
		return err_wrap(e, "session journal");
	return 0;
}

static json_t *load_one(const char *path)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *text = file_read_all(path, RECORD_MAX, NULL, &e);
	json_error_t je;
	json_t *record;

	if (!text) {
		log_warn("session_unreadable", "file=%s msg=%s", path, LOG_Q(e.text));
		return NULL;
	}
	record = json_loads(text, 0, &je);
	if (!json_is_object(record) ||
	    session_check_id(json_string_value(json_object_get(record, "session")), &e) != 0) {
		log_warn("session_unreadable", "file=%s msg=%s", path, LOG_Q(record ? e.text : je.text));
		json_decref(record);
		return NULL;
	}
	return record;
}

json_t *sessions_load(const char *state_dir, struct err *e)
{
	MEM_AUTO char *folder = mem_printf("%s/sessions", state_dir);
	json_t *all = json_array();
	struct dirent *entry;
	DIR *d = opendir(folder);

	if (!d) {
		if (errno == ENOENT)
			return all;
		err_sys(e, "open %s", folder);
		json_decref(all);
		return NULL;
	}
	while ((entry = readdir(d)) != NULL) {
		size_t n = strlen(entry->d_name);
		if (n != SESSION_ID_LEN - 1 + 5 || strcmp(entry->d_name + n - 5, ".json") != 0)
			continue;
		MEM_AUTO char *path = mem_printf("%s/%s", folder, entry->d_name);
		json_t *record = load_one(path);
		if (record)
			json_array_append_new(all, record);
	}
	closedir(d);
	return all;
}

int session_make_dir(const char *run_dir, const char *session, const char *group, char *out, size_t size, struct err *e)
{
	int n = snprintf(out, size, "%s/%s", run_dir, session);
	/* A UNIX socket's path has 107 characters; the longest below is "/libvirt.sock". */
	if (n < 0 || (size_t)n >= size || n > 90)
		return err_set(e, ERR_CONFIG, "run_dir %s is too long for a socket's path", run_dir);
	if (file_mkdirs(run_dir, 0755, e) != 0)
		return -1;
	if (mkdir(out, 0770) != 0)
		return err_sys(e, "make folder %s", out);
	if (group) {
		struct group *g = getgrnam(group);
		if (!g) {
			rmdir(out);
			err_set(e, ERR_CONFIG, "no group named %s", group);
			return err_remedy(e, "set libvirt.qemu_group to the group that QEMU runs in (qemu.conf: group)");
		}
		if (chown(out, (uid_t)-1, g->gr_gid) != 0 || chmod(out, 0770) != 0) {
			err_sys(e, "give folder %s to group %s", out, group);
			rmdir(out);
			return -1;
		}
	}
	return 0;
}

void session_remove_dir(const char *dir)
{
	struct dirent *entry;
	DIR *d = opendir(dir);

	if (!d)
		return;
	while ((entry = readdir(d)) != NULL) {
		if (entry->d_name[0] == '.')
			continue;
		unlinkat(dirfd(d), entry->d_name, 0);
	}
	closedir(d);
	if (rmdir(dir) != 0 && errno != ENOENT)
		log_warn("session_folder_left", "dir=%s errno=%d", dir, errno);
}
