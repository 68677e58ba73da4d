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

static const char *const names[STATE_FILE_KINDS] = { "nvram", "tpm" };

const char *state_file_name(enum state_file kind)
{
	return names[kind];
}

bool state_file_by_name(const char *name, enum state_file *out)
{
	for (enum state_file kind = 0; name && kind < STATE_FILE_KINDS; kind++) {
		if (strcmp(names[kind], name) != 0)
			continue;
		*out = kind;
		return true;
	}
	return false;
}

/* A name in that folder, not below it. */
static bool directly_in(const char *folder, const char *path)
{
	const size_t n = strlen(folder);
	const char *name = path + n + 1;

	return strncmp(path, folder, n) == 0 && path[n] == '/' && *name && !strchr(name, '/') &&
	       strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

char *state_file_path(const char *root, const struct domain *d, enum state_file kind)
{
	if (kind == STATE_FILE_NVRAM) {
		MEM_AUTO char *folder = mem_printf("%s/qemu/nvram", root);
		return d->nvram && directly_in(folder, d->nvram) ? mem_strdup(d->nvram) : NULL;
	}
	if (!d->tpm_emulator || d->tpm_elsewhere || !d->uuid || strchr(d->uuid, '/'))
		return NULL;
	const bool old = d->tpm_version && strcmp(d->tpm_version, "1.2") == 0;
	return mem_printf("%s/swtpm/%s/%s", root, d->uuid, old ? "tpm1.2/tpm-00.permall" : "tpm2/tpm2-00.permall");
}

json_t *state_files_read(const char *root, const struct domain *d, struct err *e)
{
	json_t *files = json_array();
	size_t sum = 0;

	for (enum state_file kind = 0; kind < STATE_FILE_KINDS; kind++) {
		MEM_AUTO char *path = state_file_path(root, d, kind);
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
		json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "kind", names[kind], "size", (json_int_t)len,
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

int state_file_put(enum state_file kind, const char *path, const void *data, size_t len, struct err *e)
{
	MEM_AUTO char *copy = mem_strdup(path);

	if (file_mkdirs(dirname(copy), 0711, e) != 0 || file_write_durable(path, data, len, 0600, e) != 0)
		return err_wrap(e, "%s file", names[kind]);
	return kind == STATE_FILE_TPM ? give_to_swtpm(path, e) : 0;
}

static bool holds(const char *path, const void *data, size_t len)
{
	struct err ignored = ERR_INIT;
	size_t have;
	MEM_AUTO char *there = file_read_all(path, STATE_FILES_MAX, &have, &ignored);

	return there && have == len && memcmp(there, data, len) == 0;
}

static int write_one(const char *root, const struct domain *d, const json_t *file, struct state_files_done *done,
		     struct err *e)
{
	const char *text = json_string_value(json_object_get(file, "data"));
	const json_int_t size = json_integer_value(json_object_get(file, "size"));
	enum state_file kind = STATE_FILE_NVRAM;

	if (!state_file_by_name(json_string_value(json_object_get(file, "kind")), &kind))
		return err_set(e, ERR_PROTOCOL, "a file of an unknown kind");
	if (done->written[kind])
		return err_set(e, ERR_PROTOCOL, "the %s file twice", names[kind]);
	if (!text || size < 0 || size > (json_int_t)STATE_FILES_MAX)
		return err_set(e, ERR_PROTOCOL, "the %s file without content", names[kind]);
	MEM_AUTO char *path = state_file_path(root, d, kind);
	if (!path)
		return err_set(e, ERR_REFUSED, "the definition of %s names no %s file in libvirt's folder", d->name,
			       names[kind]);
	MEM_AUTO uint8_t *data = mem_alloc((size_t)size + 1);
	if (base64_decode(text, data, (size_t)size) != 0)
		return err_set(e, ERR_PROTOCOL, "the %s file is not in base64", names[kind]);
	if (holds(path, data, (size_t)size))
		return 0;
	MEM_AUTO char *aside = mem_printf("%s.replaced", path);
	done->replaced[kind] = rename(path, aside) == 0;
	if (!done->replaced[kind] && errno != ENOENT)
		return err_sys(e, "move %s aside", path);
	done->written[kind] = true;
	if (done->replaced[kind])
		log_warn("state_file_replaced", "vm=%s file=%s kept=%s", d->name, path, aside);
	return state_file_put(kind, path, data, (size_t)size, e);
}

int state_files_write(const char *root, const struct domain *d, const json_t *files, struct state_files_done *done,
		      struct err *e)
{
	size_t i;
	json_t *file;

	*done = (struct state_files_done){ 0 };
	json_array_foreach ((json_t *)(uintptr_t)files, i, file) {
		if (write_one(root, d, file, done, e) == 0)
			continue;
		state_files_undo(root, d, done);
		return -1;
	}
	return 0;
}

void state_files_remove(const char *root, const struct domain *d, const bool written[STATE_FILE_KINDS])
{
	for (enum state_file kind = 0; kind < STATE_FILE_KINDS; kind++) {
		MEM_AUTO char *path = written[kind] ? state_file_path(root, d, kind) : NULL;
		if (path && unlink(path) != 0 && errno != ENOENT)
			log_warn("state_file_left", "vm=%s file=%s msg=%s", d->name, path, LOG_Q(strerror(errno)));
	}
}

void state_files_undo(const char *root, const struct domain *d, const struct state_files_done *done)
{
	state_files_remove(root, d, done->written);
	for (enum state_file kind = 0; kind < STATE_FILE_KINDS; kind++) {
		MEM_AUTO char *path = done->replaced[kind] ? state_file_path(root, d, kind) : NULL;
		MEM_AUTO char *aside = path ? mem_printf("%s.replaced", path) : NULL;
		if (path && rename(aside, path) != 0)
			log_error("state_file_aside", "vm=%s file=%s msg=%s", d->name, aside, LOG_Q(strerror(errno)));
	}
}
