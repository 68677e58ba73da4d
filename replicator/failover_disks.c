#include "replicator/failover_disks.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "replicator/image_fill.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void failover_disks_fini(struct failover_disks *d)
{
	for (size_t i = 0; i < d->n; i++) {
		free(d->disk[i].path);
		free(d->head[i]);
		free(d->base[i]);
	}
	d->n = 0;
}

/* FOLDER/VM-TARGET.EXT, or with the epoch in it where that name is taken: an earlier promotion's image may still hold what somebody wants. */
static char *free_name(const char *folder, const char *vm, const char *target, uint64_t epoch, const char *ext)
{
	char *path = mem_printf("%s/%s-%s.%s", folder, vm, target, ext);

	for (unsigned n = 0; access(path, F_OK) == 0 && n < 1000; n++) {
		free(path);
		path = n == 0 ? mem_printf("%s/%s-%s.%" PRIu64 ".%s", folder, vm, target, epoch, ext)
			      : mem_printf("%s/%s-%s.%" PRIu64 "-%u.%s", folder, vm, target, epoch, n, ext);
	}
	return path;
}

static int plan_one(struct failover_disks *d, const struct store_volume *vol, uint32_t index, struct store_view *v,
		    const char *vm, uint64_t epoch, const char *folder, struct err *e)
{
	struct promote_disk *disk = &d->disk[d->n];
	struct err why = ERR_INIT;

	if (strlen(vol->name) >= sizeof(disk->target) || strchr(vol->name, '/') || strchr(vm, '/'))
		return err_set(e, ERR_CORRUPT, "'%s' is no name of a disk of '%s'", vol->name, vm);
	memcpy(disk->target, vol->name, strlen(vol->name) + 1);
	char *head = store_view_head_path(v, index, &why);
	if (!head && why.cls != ERR_REFUSED) {
		*e = why;
		return -1;
	}
	disk->format = head ? "qcow2" : "raw";
	disk->path = free_name(folder, vm, vol->name, epoch, disk->format);
	d->head[d->n] = head;
	d->base[d->n] = head ? free_name(folder, vm, vol->name, epoch, "base") : NULL;
	d->volume[d->n] = index;
	d->size_bytes[d->n] = vol->size_bytes;
	d->n++;
	return 0;
}

int failover_disks_plan(struct failover_disks *d, struct store_view *v, const char *vm, uint64_t epoch, const char *xml,
			const struct promote_ops *ops, void *ops_ctx, struct err *e)
{
	struct store_volume *vol = mem_alloc_array(STORE_MAX_VOLUMES, sizeof(*vol));
	size_t n = store_view_volumes(v, vol, STORE_MAX_VOLUMES);
	int rc = 0;

	for (size_t i = 0; i < n && i < STORE_MAX_VOLUMES && rc == 0; i++) {
		if (vol[i].kind != STORE_DISK)
			continue;
		MEM_AUTO char *folder = ops->disk_dir(ops_ctx, xml, vol[i].name, e);
		rc = folder ? plan_one(d, &vol[i], (uint32_t)i, v, vm, epoch, folder, e) : -1;
	}
	if (rc < 0)
		failover_disks_fini(d);
	free(vol);
	return rc;
}

json_t *failover_disks_paths(const struct failover_disks *d)
{
	json_t *all = json_array();

	for (size_t i = 0; i < d->n; i++) {
		json_array_append_new(all, json_string(d->disk[i].path));
		if (d->base[i])
			json_array_append_new(all, json_string(d->base[i]));
	}
	return all;
}

static bool go_on(void *ctx, uint64_t done, uint64_t total)
{
	const volatile bool *cancel = ctx;
	(void)done;
	(void)total;
	return !cancel || !*cancel;
}

/* heads, the store, the replica, replica_dir: folders of ours between an image and what the configuration names. */
#define FOLDERS_ABOVE_HEAD 4

/* A QEMU that does not run as root has to reach the head. It may pass through the folders above, not look around in them; the files there stay
 * their owner's. */
static int let_through(const char *head, struct err *e)
{
	MEM_AUTO char *folder = mem_strdup(head);
	struct stat st;

	for (int i = 0; i < FOLDERS_ABOVE_HEAD; i++) {
		char *slash = strrchr(folder, '/');
		if (!slash || slash == folder)
			break;
		*slash = '\0';
		if (stat(folder, &st) != 0 || ((st.st_mode & 0011) != 0011 && chmod(folder, (st.st_mode & 07777) | 0011) != 0))
			return err_sys(e, "let QEMU through folder %s", folder);
	}
	return 0;
}

static int make_one(struct failover_disks *d, size_t i, struct store_view *v, const volatile bool *cancel, struct err *e)
{
	/* progress only looks at it; its ctx is not const */
	union {
		const volatile bool *in;
		void *out;
	} ctx = { .in = cancel };
	struct image_fill_opts fill = { .progress = go_on, .ctx = ctx.out };

	if (!d->head[i])
		return image_fill_raw(v, d->volume[i], d->size_bytes[i], d->disk[i].path, &fill, e);
	/* A link of its own keeps the image good whatever becomes of the store's folder, and QEMU's user need not be let into that. Another file
	 * system, or another mount of the same as the systemd unit makes: the head where it is. */
	if (link(d->head[i], d->base[i]) != 0) {
		if (errno != EXDEV && errno != EPERM && errno != EOPNOTSUPP)
			return err_sys(e, "link %s to %s", d->head[i], d->base[i]);
		free(d->base[i]);
		d->base[i] = NULL;
		if (let_through(d->head[i], e) < 0)
			return -1;
	}
	return image_fill_overlay(d->base[i] ? d->base[i] : d->head[i], d->size_bytes[i], d->disk[i].path, e);
}

int failover_disks_make(struct failover_disks *d, struct store_view *v, const volatile bool *cancel, struct err *e)
{
	for (size_t i = 0; i < d->n; i++)
		if (make_one(d, i, v, cancel, e) < 0)
			return err_wrap(e, "disk %s", d->disk[i].target);
	return 0;
}

static json_t *image_json(const char *path, const struct stat *st)
{
	return json_pack("{s:s, s:I, s:I, s:I}", "path", path, "mtime_ns",
			 (json_int_t)(st->st_mtim.tv_sec * NS_PER_S + st->st_mtim.tv_nsec), "size", (json_int_t)st->st_size,
			 "blocks", (json_int_t)st->st_blocks);
}

json_t *failover_disks_images(const struct failover_disks *d, struct err *e)
{
	json_t *images = json_array();

	for (size_t i = 0; i < d->n; i++) {
		struct stat st;
		if (stat(d->disk[i].path, &st) != 0) {
			err_sys(e, "%s", d->disk[i].path);
			json_decref(images);
			return NULL;
		}
		json_array_append_new(images, image_json(d->disk[i].path, &st));
	}
	return images;
}

bool failover_disks_changed(const json_t *images)
{
	bool changed = false;
	size_t i;
	json_t *image;

	json_array_foreach (images, i, image) {
		const char *path = json_string_value(json_object_get(image, "path"));
		struct stat st;
		if (!path || stat(path, &st) != 0) {
			changed = changed || !path || errno != ENOENT;
			continue;
		}
		json_t *now = image_json(path, &st);
		changed = changed || !json_equal(now, image);
		json_decref(now);
	}
	return changed;
}

const char *failover_disks_over_store(const json_t *disks, const char *store_dir)
{
	const size_t len = strlen(store_dir);
	size_t i;
	json_t *disk;

	json_array_foreach (disks, i, disk) {
		const char *path = json_string_value(json_object_get(disk, "path"));
		const char *format = json_string_value(json_object_get(disk, "format"));
		const char *base = json_string_value(json_object_get(disk, "base"));
		if (!path || !format || strcmp(format, "qcow2") != 0 || (access(path, F_OK) != 0 && errno == ENOENT))
			continue;
		if (!base || (strncmp(base, store_dir, len) == 0 && base[len] == '/') || access(base, F_OK) != 0)
			return path;
	}
	return NULL;
}

void failover_disks_remove(const json_t *paths)
{
	size_t i;
	json_t *path;

	json_array_foreach (paths, i, path) {
		const char *p = json_string_value(path);
		if (p && unlink(p) != 0 && errno != ENOENT)
			log_warn("failover_left", "file=%s msg=%s", p, LOG_Q(strerror(errno)));
	}
}
