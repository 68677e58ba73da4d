#include "replicator/export.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/sys.h"
#include "replicator/image_fill.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct export
{
	const struct export_opts *o;
	struct store_view *view;
	char *partial; /* where it is made; renamed when whole */
	char *source_xml, *xml;
	const char *vm, *uuid;
	struct store_volume *volumes;
	size_t n_volumes;
	struct promote_disk disks[STORE_MAX_VOLUMES];
	size_t n_disks;
	bool memory;
	json_t *findings;
	/* progress of one disk */
	const char *target;
	unsigned percent;
};

static bool progress(void *ctx, uint64_t done, uint64_t total)
{
	struct export *x = ctx;
	unsigned percent = total ? (unsigned)((double)done * 100 / (double)total) : 100;

	if (percent != x->percent && x->o->note)
		x->o->note(x->o->ctx,
			   json_pack("{s:s, s:s, s:i}", "phase", "disk", "disk", x->target, "percent", (int)percent));
	x->percent = percent;
	return !x->o->cancel || !*x->o->cancel;
}

/* A folder of ours, one level deep. */
static void remove_folder(const char *dir)
{
	struct dirent *entry;
	DIR *d = opendir(dir);

	while (d && (entry = readdir(d)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		MEM_AUTO char *path = mem_printf("%s/%s", dir, entry->d_name);
		(void)unlink(path);
	}
	if (d)
		closedir(d);
	if (rmdir(dir) != 0 && errno != ENOENT)
		log_warn("export_left", "dir=%s msg=%s", dir, LOG_Q(strerror(errno)));
}

static int plan(struct export *x, struct store *s, struct err *e)
{
	struct stat st;

	if (x->o->dir[0] != '/')
		return err_set(e, ERR_CONFIG, "%s is not an absolute path", x->o->dir);
	if (lstat(x->o->dir, &st) == 0) {
		err_set(e, ERR_REFUSED, "%s exists", x->o->dir);
		return err_remedy(e, "name a folder that does not exist yet");
	}
	x->vm = json_string_value(json_object_get(store_vm(s), "name"));
	x->uuid = json_string_value(json_object_get(store_vm(s), "uuid"));
	if (!x->vm || !x->uuid || strchr(x->vm, '/'))
		return err_set(e, ERR_CORRUPT, "the replica does not say which VM it is of");
	x->view = store_view_open(s, x->o->seq, e);
	x->source_xml = x->view ? store_view_file(x->view, "xml", NULL, e) : NULL;
	if (!x->source_xml)
		return -1;
	const char *kind = json_string_value(json_object_get(store_view_meta(x->view), "kind"));
	x->memory = kind && strcmp(kind, "memory") == 0;
	x->volumes = mem_alloc_array(STORE_MAX_VOLUMES, sizeof(*x->volumes));
	x->n_volumes = store_view_volumes(x->view, x->volumes, STORE_MAX_VOLUMES);
	for (size_t i = 0; i < x->n_volumes && i < STORE_MAX_VOLUMES; i++) {
		if (x->volumes[i].kind != STORE_DISK)
			continue;
		struct promote_disk *d = &x->disks[x->n_disks];
		if (strlen(x->volumes[i].name) >= sizeof(d->target) || strchr(x->volumes[i].name, '/'))
			return err_set(e, ERR_CORRUPT, "'%s' is no name of a disk", x->volumes[i].name);
		memcpy(d->target, x->volumes[i].name, strlen(x->volumes[i].name) + 1);
		d->path = mem_printf("%s/%s.qcow2", x->o->dir, d->target);
		d->format = "qcow2";
		x->n_disks++;
	}
	struct promote_spec spec = {
		.uuid = x->uuid, .name = x->vm, .xml = x->source_xml, .disks = x->disks, .n_disks = x->n_disks
	};
	x->xml = x->o->ops->map(x->o->ops_ctx, &spec, x->findings, e);
	return x->xml ? 0 : -1;
}

static int put_file(struct export *x, const char *name, const void *data, size_t len, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/%s", x->partial, name);
	return file_write_durable(path, data, len, 0600, e);
}

static int put_disks(struct export *x, struct err *e)
{
	struct image_fill_opts fill = { .progress = progress, .ctx = x, .run_dir = x->o->run_dir };

	for (size_t i = 0; i < x->n_volumes; i++) {
		if (x->volumes[i].kind != STORE_DISK)
			continue;
		MEM_AUTO char *path = mem_printf("%s/%s.qcow2", x->partial, x->volumes[i].name);
		x->target = x->volumes[i].name;
		x->percent = ~0u;
		if (image_fill_qcow2(x->view, (uint32_t)i, x->volumes[i].size_bytes, path, &fill, e) < 0)
			return err_wrap(e, "disk %s", x->target);
	}
	return 0;
}

struct saving {
	int fd;
	const volatile bool *cancel;
};

static int write_save(void *ctx, const void *p, size_t n, struct err *e)
{
	const struct saving *s = ctx;
	if (s->cancel && *s->cancel)
		return err_set(e, ERR_CANCELLED, "cancelled");
	return fd_write_full(s->fd, p, n, e);
}

static int put_memory(struct export *x, struct err *e)
{
	size_t len;
	MEM_AUTO char *path = mem_printf("%s/%s.save", x->partial, x->vm);
	MEM_AUTO uint8_t *head = image_save_header(x->xml, true, &len, e);
	FD_AUTO int fd = head ? sys.open(path, O_WRONLY | O_CREAT | O_EXCL, 0600) : -1;
	struct saving s = { .fd = fd, .cancel = x->o->cancel };

	if (!head)
		return -1;
	if (fd < 0)
		return err_sys(e, "create %s", path);
	if (x->o->note)
		x->o->note(x->o->ctx, json_pack("{s:s}", "phase", "memory"));
	if (fd_write_full(fd, head, len, e) < 0 || image_write_stream(x->view, write_save, &s, e) < 0)
		return err_wrap(e, "%s", path);
	return sys.fsync(fd) == 0 ? 0 : err_sys(e, "sync %s", path);
}

static int put_small(struct export *x, struct err *e)
{
	static const char *const kinds[] = { "nvram", "tpm" };
	MEM_AUTO char *xml_name = mem_printf("%s.xml", x->vm);

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct err why = ERR_INIT;
		size_t len;
		MEM_AUTO char *data = store_view_file(x->view, kinds[i], &len, &why);
		if (!data && why.cls != ERR_CONFIG) {
			*e = why;
			return -1;
		}
		if (data && put_file(x, kinds[i], data, len, e) < 0)
			return -1;
	}
	char *meta = json_dumps(store_view_meta(x->view), JSON_INDENT(1) | JSON_SORT_KEYS);
	int rc = put_file(x, "point.json", meta ? meta : "{}", meta ? strlen(meta) : 2, e);
	free(meta);
	return rc < 0 ? -1 : put_file(x, xml_name, x->xml, strlen(x->xml), e);
}

static int put_readme(struct export *x, struct err *e)
{
	const json_t *meta = store_view_meta(x->view);
	const char *id = json_string_value(json_object_get(meta, "id"));
	json_t *instant = json_object_get(meta, "instant_ns");
	char when[32] = "";
	BUF_AUTO struct buf b = BUF_INIT;

	if (json_is_integer(instant))
		clock_format_wall(json_integer_value(instant), when, sizeof(when));
	buf_printf(&b, "%s, as it was at %s (point %s)\n\n", x->vm, *when ? when : "an unknown time", id ? id : "?");
	buf_printf(&b, "Nothing here needs vmferry. The files name each other by this path:\n\n    %s\n\n", x->o->dir);
	buf_printf(&b, "If you put them elsewhere, change it in %s.xml. QEMU's user must be able to open the disks.\n\n",
		   x->vm);
	for (size_t i = 0; i < x->n_disks; i++)
		buf_printf(&b, "%s.qcow2    disk %s\n", x->disks[i].target, x->disks[i].target);
	buf_printf(&b, "%s.xml    the definition\npoint.json    what was recorded about the point\n", x->vm);
	if (x->memory) {
		buf_printf(&b, "%s.save    memory and devices: a save image of libvirt\n\n", x->vm);
		buf_printf(&b,
			   "To go on where it was, with memory, once (the disks then move on, and the save image no "
			   "longer fits them):\n\n"
			   "    virsh restore %s/%s.save --xml %s/%s.xml\n\n",
			   x->o->dir, x->vm, x->o->dir, x->vm);
	}
	buf_printf(&b, "\nTo boot it from its disks:\n\n    virsh define %s/%s.xml\n    virsh start %s\n", x->o->dir,
		   x->vm, x->vm);
	buf_printf(&b,
		   "\nIf there is a file nvram or tpm here: it belongs where the definition's <nvram> says, or to\n"
		   "/var/lib/libvirt/swtpm/%s/tpm2/tpm2-00.permall, before the VM is booted.\n",
		   x->uuid);
	size_t i;
	json_t *finding;
	if (json_array_size(x->findings) > 0)
		buf_printf(&b, "\nDifferent from what it was:\n\n");
	json_array_foreach (x->findings, i, finding)
		buf_printf(&b, "  - %s\n", json_string_value(json_object_get(finding, "text")));
	return put_file(x, "README.txt", b.data, b.len, e);
}

static int sync_folder(const char *dir, struct err *e)
{
	MEM_AUTO char *inside = mem_printf("%s/.", dir);
	return file_sync_folder_of(inside, e);
}

static int make(struct export *x, struct err *e)
{
	remove_folder(x->partial);
	if (mkdir(x->partial, 0700) != 0)
		return err_sys(e, "make folder %s", x->partial);
	if (put_disks(x, e) < 0 || (x->memory && put_memory(x, e) < 0) || put_small(x, e) < 0 || put_readme(x, e) < 0 ||
	    sync_folder(x->partial, e) < 0)
		return -1;
	/* rename would replace an empty folder that was made meanwhile, and nothing more. */
	if (sys.rename(x->partial, x->o->dir) != 0)
		return err_sys(e, "rename %s to %s", x->partial, x->o->dir);
	return file_sync_folder_of(x->o->dir, e);
}

static json_t *report_of(const struct export *x)
{
	json_t *files = json_array(), *point = json_deep_copy(store_view_meta(x->view));
	struct dirent *entry;
	DIR *d = opendir(x->o->dir);

	while (d && (entry = readdir(d)) != NULL) {
		struct stat st;
		if (entry->d_name[0] != '.' && fstatat(dirfd(d), entry->d_name, &st, 0) == 0)
			json_array_append_new(files, json_pack("{s:s, s:I}", "name", entry->d_name, "bytes",
							       (json_int_t)st.st_size));
	}
	if (d)
		closedir(d);
	return json_pack("{s:s, s:o, s:o, s:O}", "dir", x->o->dir, "point", point ? point : json_object(), "files",
			 files, "findings", x->findings);
}

int export_point(struct store *s, const struct export_opts *o, json_t **report, struct err *e)
{
	struct export x = { .o = o, .findings = json_array(), .partial = mem_printf("%s.partial", o->dir) };
	int rc = plan(&x, s, e);

	if (rc == 0 && (rc = make(&x, e)) < 0)
		remove_folder(x.partial);
	if (rc == 0 && report)
		*report = report_of(&x);
	if (rc < 0)
		err_wrap(e, "export to %s", o->dir);
	for (size_t i = 0; i < x.n_disks; i++)
		free(x.disks[i].path);
	store_view_close(x.view);
	json_decref(x.findings);
	free(x.volumes);
	free(x.partial);
	free(x.source_xml);
	free(x.xml);
	return rc;
}
