#include "snapshot/disk_points.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/thread.h"
#include "snapshot/disk_read.h"
#include "snapshot/guest_watch.h"
#include "snapshot/overlay.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LIVE "vmferry-live"   /* what was written since the last instant */
#define POINT "vmferry-point" /* what was written until the instant */
#define PREFIX "vmferry-"
#define GRANULARITY 65536
#define TEARDOWN_NS (10 * NS_PER_S)

struct disk {
	char target[32];
	char *node;
	uint64_t size_bytes;
	char overlay[48], job[48], export[48];
	int64_t fdset; /* -1: none */
	bool attached; /* the overlay */
	bool copying;
};

struct disk_points {
	struct guest *g;
	char *folder;
	struct disk *disks;
	size_t n;
	bool live;  /* the live bitmaps are there */
	bool point; /* the points' bitmaps are there */
	bool serving;
	char socket[108];
	int listener;
	pthread_mutex_t lock;
	bool aborted; /* lock */
	int reading;  /* lock; -1, or the socket that a read blocks on */
};

/* A socket for one point: QEMU unlinks it when its server stops. */
static int open_listener(struct disk_points *d, struct err *e)
{
	static unsigned count;
	snprintf(d->socket, sizeof(d->socket), "%s/.nbd-%d-%u.sock", d->folder, (int)getpid(),
		 __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED));
	d->listener = fd_unix_listen(d->socket, 0600, e);
	return d->listener < 0 ? -1 : 0;
}

struct disk_points *disk_points_new(struct guest *g, const struct guest_info *i, const char *folder)
{
	struct disk_points *d = mem_alloc(sizeof(*d));
	d->g = g;
	d->folder = mem_strdup(folder);
	d->listener = d->reading = -1;
	pthread_mutex_init(&d->lock, NULL);
	d->disks = mem_alloc_array(i->n_disks, sizeof(*d->disks));
	for (size_t k = 0; k < i->n_disks; k++) {
		if (i->disks[k].readonly)
			continue;
		struct disk *disk = &d->disks[d->n];
		snprintf(disk->target, sizeof(disk->target), "%s", i->disks[k].target);
		disk->node = mem_strdup(i->disks[k].node);
		disk->size_bytes = i->disks[k].size_bytes;
		disk->fdset = -1;
		snprintf(disk->overlay, sizeof(disk->overlay), PREFIX "o%zu", d->n);
		snprintf(disk->job, sizeof(disk->job), PREFIX "j%zu", d->n);
		snprintf(disk->export, sizeof(disk->export), PREFIX "e%zu", d->n);
		d->n++;
	}
	return d;
}

static void remove_bitmap(struct guest *g, const char *node, const char *name)
{
	guest_watch_try(g, "block-dirty-bitmap-remove", json_pack("{s:s,s:s}", "node", node, "name", name));
}

void disk_points_free(struct disk_points *d)
{
	if (!d)
		return;
	disk_points_release(d);
	for (size_t k = 0; k < d->n; k++) {
		if (d->live)
			remove_bitmap(d->g, d->disks[k].node, LIVE);
		free(d->disks[k].node);
	}
	pthread_mutex_destroy(&d->lock);
	free(d->disks);
	free(d->folder);
	free(d);
}

size_t disk_points_count(const struct disk_points *d)
{
	return d->n;
}

void disk_points_volumes(const struct disk_points *d, struct capture_volume *out)
{
	for (size_t k = 0; k < d->n; k++) {
		memset(&out[k], 0, sizeof(out[k]));
		snprintf(out[k].name, sizeof(out[k].name), "%s", d->disks[k].target);
		out[k].size_bytes = d->disks[k].size_bytes;
	}
}

bool disk_points_same(const struct disk_points *d, const struct guest_info *i)
{
	size_t n = 0;
	for (size_t k = 0; k < i->n_disks; k++) {
		if (i->disks[k].readonly)
			continue;
		if (n == d->n || strcmp(d->disks[n].target, i->disks[k].target) != 0 ||
		    strcmp(d->disks[n].node, i->disks[k].node) != 0 || d->disks[n].size_bytes != i->disks[k].size_bytes)
			return false;
		n++;
	}
	return n == d->n;
}

/* ---- prepare ---- */

int disk_points_check_jobs(struct disk_points *d, struct err *e)
{
	json_t *jobs = NULL, *job;
	bool busy = false;
	size_t at;

	if (d->n == 0)
		return 0;
	if (guest_watch_qmp(d->g, "query-block-jobs", NULL, &jobs, e))
		return -1;
	json_array_foreach (jobs, at, job) {
		const char *id = json_string_value(json_object_get(job, "device"));
		const char *type = json_string_value(json_object_get(job, "type"));
		if (!id || strncmp(id, PREFIX, strlen(PREFIX)) == 0)
			continue;
		err_set(e, ERR_REFUSED,
			"a block job that is not vmferry's is under way (%.40s, %.80s): no points until it has ended",
			type ? type : "?", id);
		e->errnum = EBUSY;
		busy = true;
		break;
	}
	json_decref(jobs);
	return busy ? -1 : 0;
}

static int attach_overlay(struct disk_points *d, struct disk *disk, struct err *e)
{
	FD_AUTO int fd = overlay_create(d->folder, disk->size_bytes, e);
	if (fd < 0)
		return -1;
	json_t *r = NULL;
	if (d->g->ops->qmp(d->g->ctx, "add-fd", json_pack("{s:s}", "opaque", disk->overlay), fd, &r, e))
		return -1;
	disk->fdset = json_integer_value(json_object_get(r, "fdset-id"));
	json_decref(r);
	char path[64];
	snprintf(path, sizeof(path), "/dev/fdset/%lld", (long long)disk->fdset);
	json_t *file = json_pack("{s:s,s:s,s:s}", "driver", "file", "filename", path, "locking", "off");
	json_t *args = json_pack("{s:s,s:s,s:o,s:s}", "driver", "qcow2", "node-name", disk->overlay, "file", file,
				 "backing", disk->node);
	if (guest_watch_qmp(d->g, "blockdev-add", args, NULL, e))
		return -1;
	disk->attached = true;
	return 0;
}

int disk_points_prepare(struct disk_points *d, struct err *e)
{
	for (size_t k = 0; k < d->n; k++)
		if (attach_overlay(d, &d->disks[k], e))
			return err_wrap(e, "disk %s", d->disks[k].target);
	return 0;
}

/* ---- the instant ---- */

static void add_action(json_t *actions, const char *type, json_t *data)
{
	json_array_append_new(actions, json_pack("{s:s,s:o}", "type", type, "data", data));
}

int disk_points_instant(struct disk_points *d, struct err *e)
{
	if (d->n == 0)
		return 0;
	json_t *actions = json_array();
	for (size_t k = 0; k < d->n; k++) {
		struct disk *disk = &d->disks[k];
		if (d->live) {
			add_action(actions, "block-dirty-bitmap-add",
				   json_pack("{s:s,s:s,s:i,s:b}", "node", disk->node, "name", POINT, "granularity",
					     GRANULARITY, "disabled", 1));
			add_action(actions, "block-dirty-bitmap-merge",
				   json_pack("{s:s,s:s,s:[s]}", "node", disk->node, "target", POINT, "bitmaps", LIVE));
			add_action(actions, "block-dirty-bitmap-clear",
				   json_pack("{s:s,s:s}", "node", disk->node, "name", LIVE));
		} else {
			add_action(actions, "block-dirty-bitmap-add",
				   json_pack("{s:s,s:s,s:i}", "node", disk->node, "name", LIVE, "granularity",
					     GRANULARITY));
		}
		add_action(actions, "blockdev-backup",
			   json_pack("{s:s,s:s,s:s,s:s}", "job-id", disk->job, "device", disk->node, "target",
				     disk->overlay, "sync", "none"));
	}
	if (guest_watch_qmp(d->g, "transaction", json_pack("{s:o}", "actions", actions), NULL, e))
		return err_wrap(e, "disks at one instant");
	d->point = d->live;
	d->live = true;
	for (size_t k = 0; k < d->n; k++)
		d->disks[k].copying = true;
	return 0;
}

/* ---- read ---- */

static int serve(struct disk_points *d, struct err *e)
{
	static const char *const name = "vmferry-nbd";
	if (open_listener(d, e))
		return -1;
	if (d->g->ops->qmp(d->g->ctx, "getfd", json_pack("{s:s}", "fdname", name), d->listener, NULL, e))
		return -1;
	json_t *address = json_pack("{s:s,s:{s:s}}", "type", "fd", "data", "str", name);
	if (guest_watch_qmp(d->g, "nbd-server-start", json_pack("{s:o}", "addr", address), NULL, e)) {
		guest_watch_try(d->g, "closefd", json_pack("{s:s}", "fdname", name));
		return err_remedy(e, "a storage migration or a backup of this VM may be using QEMU's only NBD server: "
				     "wait for it to end");
	}
	d->serving = true;
	return 0;
}

static int export_disk(struct disk_points *d, struct disk *disk, struct err *e)
{
	json_t *args = json_pack("{s:s,s:s,s:s,s:s}", "type", "nbd", "id", disk->export, "node-name", disk->overlay,
				 "name", disk->export);
	if (d->point)
		json_object_set_new(args, "bitmaps", json_pack("[{s:s,s:s}]", "node", disk->node, "name", POINT));
	return guest_watch_qmp(d->g, "block-export-add", args, NULL, e);
}

/* Is the copy before write still going? If not (no space for the overlay), what was read may be newer than the instant. */
static int still_copying(struct disk_points *d, struct err *e)
{
	json_t *jobs = NULL, *job;
	size_t at, found = 0;
	if (guest_watch_qmp(d->g, "query-block-jobs", NULL, &jobs, e))
		return -1;
	json_array_foreach (jobs, at, job) {
		const char *id = json_string_value(json_object_get(job, "device"));
		const char *io = json_string_value(json_object_get(job, "io-status"));
		for (size_t k = 0; id && k < d->n; k++)
			found += strcmp(id, d->disks[k].job) == 0 && (!io || strcmp(io, "ok") == 0);
	}
	json_decref(jobs);
	if (found != d->n)
		return err_set(e, ERR_CORRUPT,
			       "the point in time of the disks was lost while it was read: is there space in %s?",
			       d->folder);
	return 0;
}

/* A connection, unless the capture was ended; it blocks no longer than until disk_points_abort. */
static int connect_reader(struct disk_points *d, struct err *e)
{
	FD_AUTO int fd = fd_unix_connect(d->socket, e);
	if (fd < 0)
		return -1;
	THREAD_LOCKED(&d->lock);
	if (d->aborted)
		return err_set(e, ERR_CANCELLED, "the capture was ended");
	d->reading = dup(fd);
	int given = fd;
	fd = -1;
	return given;
}

static int read_disk(struct disk_points *d, struct disk *disk, const struct capture_sink *sink, uint32_t volume,
		     uint64_t *dirty, struct err *e)
{
	int fd = connect_reader(d, e);
	if (fd < 0)
		return -1;
	int rc = disk_read(fd, disk->export, d->point ? POINT : NULL, disk->size_bytes, volume, sink, dirty, e);
	THREAD_LOCKED(&d->lock);
	fd_close(&d->reading);
	return rc && d->aborted ? err_set(e, ERR_CANCELLED, "the capture was ended") : rc;
}

int disk_points_read(struct disk_points *d, const struct capture_sink *sink, uint32_t first_volume,
		     uint64_t *dirty_bytes, struct err *e)
{
	if (d->n == 0)
		return 0;
	if (serve(d, e))
		return -1;
	for (size_t k = 0; k < d->n; k++)
		if (export_disk(d, &d->disks[k], e) ||
		    read_disk(d, &d->disks[k], sink, first_volume + (uint32_t)k, dirty_bytes, e))
			return err_wrap(e, "disk %s", d->disks[k].target);
	return still_copying(d, e);
}

void disk_points_abort(struct disk_points *d)
{
	THREAD_LOCKED(&d->lock);
	d->aborted = true;
	if (d->reading >= 0)
		(void)shutdown(d->reading, SHUT_RDWR);
}

/* ---- release ---- */

/* Does QEMU still list something of ours under that key? */
static bool listed(struct guest *g, const char *query, const char *key, const char *name)
{
	struct err ignored = ERR_INIT;
	json_t *list = NULL, *one;
	size_t at;
	bool found = false;
	if (guest_watch_qmp(g, query, NULL, &list, &ignored))
		return false;
	json_array_foreach (list, at, one) {
		const char *id = json_string_value(json_object_get(one, key));
		if (id && (name ? strcmp(id, name) == 0 : strncmp(id, PREFIX, strlen(PREFIX)) == 0))
			found = true;
	}
	json_decref(list);
	return found;
}

/* QEMU stops its server only once all its clients are gone, and in its main loop, which holds up the VM: it would never see the end of one that it
 * is still greeting. Ours has closed its end; with one more command QEMU has seen that. */
static void stop_server(struct guest *g)
{
	(void)listed(g, "query-block-exports", "id", NULL);
	guest_watch_try(g, "nbd-server-stop", NULL); /* with its exports */
}

static void until_gone(struct guest *g, const char *query, const char *key, const char *name)
{
	const struct timespec nap = { .tv_nsec = NS_PER_MS };
	int64_t deadline = clock_mono_ns() + TEARDOWN_NS;
	while (listed(g, query, key, name) && clock_mono_ns() < deadline)
		(void)nanosleep(&nap, NULL);
}

void disk_points_release(struct disk_points *d)
{
	struct guest *g = d->g;
	if (d->serving) {
		stop_server(g);
		until_gone(g, "query-block-exports", "id", NULL);
		d->serving = false;
	}
	if (d->listener >= 0) {
		fd_close(&d->listener);
		(void)unlink(d->socket); /* QEMU has done it already, where it may */
	}
	for (size_t k = 0; k < d->n; k++)
		if (d->disks[k].copying)
			guest_watch_try(g, "block-job-cancel",
					json_pack("{s:s,s:b}", "device", d->disks[k].job, "force", 1));
	for (size_t k = 0; k < d->n; k++) {
		struct disk *disk = &d->disks[k];
		if (disk->copying)
			until_gone(g, "query-block-jobs", "device", disk->job);
		if (disk->attached)
			guest_watch_try(g, "blockdev-del", json_pack("{s:s}", "node-name", disk->overlay));
		if (disk->fdset >= 0)
			guest_watch_try(g, "remove-fd", json_pack("{s:I}", "fdset-id", (json_int_t)disk->fdset));
		if (d->point)
			remove_bitmap(g, disk->node, POINT);
		disk->copying = disk->attached = false;
		disk->fdset = -1;
	}
	d->point = false;
}

/* ---- what a process that died has left ---- */

static bool ours(const char *name)
{
	return name && strncmp(name, PREFIX, strlen(PREFIX)) == 0;
}

static void cancel_jobs(struct guest *g)
{
	struct err ignored = ERR_INIT;
	json_t *list = NULL, *one;
	size_t at;
	if (guest_watch_qmp(g, "query-block-jobs", NULL, &list, &ignored))
		return;
	json_array_foreach (list, at, one) {
		const char *id = json_string_value(json_object_get(one, "device"));
		if (ours(id))
			guest_watch_try(g, "block-job-cancel", json_pack("{s:s,s:b}", "device", id, "force", 1));
	}
	json_decref(list);
	until_gone(g, "query-block-jobs", "device", NULL);
}

static void delete_exports(struct guest *g)
{
	struct err ignored = ERR_INIT;
	json_t *list = NULL, *one;
	size_t at, all = 0, of_us = 0;
	if (guest_watch_qmp(g, "query-block-exports", NULL, &list, &ignored))
		return;
	json_array_foreach (list, at, one) {
		const char *id = json_string_value(json_object_get(one, "id"));
		all++;
		if (!ours(id))
			continue;
		of_us++;
		guest_watch_try(g, "block-export-del", json_pack("{s:s,s:s}", "id", id, "mode", "hard"));
	}
	json_decref(list);
	until_gone(g, "query-block-exports", "id", NULL);
	if (of_us > 0 && of_us == all)
		stop_server(g);
}

/* Bitmaps and overlays. */
static int delete_nodes(struct guest *g, struct err *e)
{
	json_t *list = NULL, *one, *bitmap;
	size_t at, k;
	if (guest_watch_qmp(g, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), &list, e))
		return -1;
	json_array_foreach (list, at, one) {
		const char *node = json_string_value(json_object_get(one, "node-name"));
		if (ours(node)) {
			guest_watch_try(g, "blockdev-del", json_pack("{s:s}", "node-name", node));
			continue;
		}
		json_array_foreach (json_object_get(one, "dirty-bitmaps"), k, bitmap) {
			const char *name = json_string_value(json_object_get(bitmap, "name"));
			if (node && ours(name))
				remove_bitmap(g, node, name);
		}
	}
	json_decref(list);
	return 0;
}

static void remove_fds(struct guest *g)
{
	struct err ignored = ERR_INIT;
	json_t *list = NULL, *one;
	size_t at;
	if (guest_watch_qmp(g, "query-fdsets", NULL, &list, &ignored))
		return;
	json_array_foreach (list, at, one) {
		json_t *first = json_array_get(json_object_get(one, "fds"), 0);
		if (ours(json_string_value(json_object_get(first, "opaque"))))
			guest_watch_try(g, "remove-fd",
					json_pack("{s:I}", "fdset-id",
						  json_integer_value(json_object_get(one, "fdset-id"))));
	}
	json_decref(list);
}

int disk_points_clean_up(struct guest *g, struct err *e)
{
	delete_exports(g);
	cancel_jobs(g);
	if (delete_nodes(g, e))
		return -1;
	remove_fds(g);
	return 0;
}
