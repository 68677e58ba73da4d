#include "migrator/state_files.h"

#include "base/base64.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "migrator/qemu_conf.h"

#include <errno.h>
#include <grp.h>
#include <libgen.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const state_files_kinds[] = { "nvram", "tpm", NULL };

/* A name in that folder, not below it. */
static bool directly_in(const char *folder, const char *path)
{
	const size_t n = strlen(folder);
	const char *name = path + n + 1;

	return strncmp(path, folder, n) == 0 && path[n] == '/' && *name && !strchr(name, '/') &&
	       strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

char *state_files_path(const char *root, const struct domain *d, const char *kind)
{
	if (strcmp(kind, "nvram") == 0) {
		MEM_AUTO char *folder = mem_printf("%s/qemu/nvram", root);
		return d->nvram && directly_in(folder, d->nvram) ? mem_strdup(d->nvram) : NULL;
	}
	if (strcmp(kind, "tpm") != 0 || !d->tpm_emulator || d->tpm_elsewhere || !d->uuid || strchr(d->uuid, '/'))
		return NULL;
	const bool old = d->tpm_version && strcmp(d->tpm_version, "1.2") == 0;
	return mem_printf("%s/swtpm/%s/%s", root, d->uuid, old ? "tpm1.2/tpm-00.permall" : "tpm2/tpm2-00.permall");
}

json_t *state_files_read(const char *root, const struct domain *d, struct err *e)
{
	json_t *files = json_array();
	size_t sum = 0;

	for (const char *const *kind = state_files_kinds; *kind; kind++) {
		MEM_AUTO char *path = state_files_path(root, d, *kind);
		if (!path || access(path, F_OK) != 0)
			continue;
		size_t len;
		MEM_AUTO char *data = file_read_all(path, STATE_FILES_MAX - sum, &len, e);
		if (!data) {
			json_decref(files);
			return NULL;
		}
		sum += len;
		MEM_AUTO char *text = base64_encode((const uint8_t *)data, len);
		json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "kind", *kind, "size", (json_int_t)len,
						       "data", text));
	}
	return files;
}

/* libvirt sees to who owns UEFI variables when it starts the VM, but not to what swtpm finds in its folder. */
static int give_to_swtpm(const char *path, struct err *e)
{
	MEM_AUTO char *user = qemu_conf_string(QEMU_CONF, "swtpm_user");
	MEM_AUTO char *group = qemu_conf_string(QEMU_CONF, "swtpm_group");
	const struct passwd *u = getpwnam(user ? user : "tss");
	const struct group *g = getgrnam(group ? group : "tss");
	MEM_AUTO char *copy = mem_strdup(path);

	if (!u || !g) /* then libvirt starts no swtpm either */
		return 0;
	if (chown(path, u->pw_uid, g->gr_gid) != 0 || chown(dirname(copy), u->pw_uid, g->gr_gid) != 0)
		return err_sys(e, "give %s to %s", path, u->pw_name);
	return 0;
}

int state_files_put(const char *kind, const char *path, const void *data, size_t len, struct err *e)
{
	MEM_AUTO char *copy = mem_strdup(path);

	if (file_mkdirs(dirname(copy), 0711, e) != 0 || file_write_durable(path, data, len, 0600, e) != 0)
		return err_wrap(e, "%s file", kind);
	return strcmp(kind, "tpm") == 0 ? give_to_swtpm(path, e) : 0;
}

static bool holds(const char *path, const void *data, size_t len)
{
	struct err ignored = ERR_INIT;
	size_t have;
	MEM_AUTO char *there = file_read_all(path, STATE_FILES_MAX, &have, &ignored);

	return there && have == len && memcmp(there, data, len) == 0;
}

static int write_one(const char *root, const struct domain *d, const json_t *file, bool *wrote, struct err *e)
{
	const char *kind = json_string_value(json_object_get(file, "kind"));
	const char *text = json_string_value(json_object_get(file, "data"));
	const json_int_t size = json_integer_value(json_object_get(file, "size"));
	MEM_AUTO char *path = kind ? state_files_path(root, d, kind) : NULL;

	if (!text || size < 0 || size > (json_int_t)STATE_FILES_MAX)
		return err_set(e, ERR_PROTOCOL, "a file of the VM without content");
	if (!path)
		return err_set(e, ERR_REFUSED, "the definition of %s names no %s file here", d->name,
			       kind ? kind : "such");
	MEM_AUTO uint8_t *data = mem_alloc((size_t)size + 1);
	if (base64_decode(text, data, (size_t)size) != 0)
		return err_set(e, ERR_PROTOCOL, "the %s file is not in base64", kind);
	*wrote = !holds(path, data, (size_t)size);
	if (!*wrote)
		return 0;
	MEM_AUTO char *aside = mem_printf("%s.replaced", path);
	if (rename(path, aside) == 0)
		log_warn("state_file_replaced", "vm=%s file=%s kept=%s", d->name, path, aside);
	else if (errno != ENOENT)
		return err_sys(e, "move %s aside", path);
	return state_files_put(kind, path, data, (size_t)size, e);
}

static void remove_one(const char *root, const struct domain *d, const json_t *file)
{
	const char *kind = json_string_value(json_object_get(file, "kind"));
	MEM_AUTO char *path = kind ? state_files_path(root, d, kind) : NULL;

	if (path && unlink(path) != 0 && errno != ENOENT)
		log_warn("state_file_left", "vm=%s file=%s msg=%s", d->name, path, LOG_Q(strerror(errno)));
}

int state_files_write(const char *root, const struct domain *d, const json_t *files, bool *all_there, struct err *e)
{
	bool wrote[8] = { false };
	size_t n = json_array_size(files), i;

	if (n > sizeof(wrote) / sizeof(wrote[0]))
		return err_set(e, ERR_PROTOCOL, "%zu files of a VM", n);
	*all_there = n > 0;
	for (i = 0; i < n; i++) {
		if (write_one(root, d, json_array_get(files, i), &wrote[i], e) != 0)
			break;
		*all_there = *all_there && !wrote[i];
	}
	if (i == n)
		return 0;
	for (size_t k = 0; k <= i; k++)
		if (wrote[k])
			remove_one(root, d, json_array_get(files, k));
	return -1;
}

void state_files_remove(const char *root, const struct domain *d, const json_t *files)
{
	size_t i;
	json_t *file;

	json_array_foreach ((json_t *)(uintptr_t)files, i, file)
		remove_one(root, d, file);
}
