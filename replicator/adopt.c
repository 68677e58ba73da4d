#include "replicator/adopt.h"

#include "base/child.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "snapshot/disk_read.h"
#include "snapshot/image.h"
#include "snapshot/ram_reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FD_NAME "vmferry-adopt"
#define DEVICE_MAX (64u << 20)
#define MIGRATION_NS (600 * NS_PER_S)
#define NBD_NS (10 * NS_PER_S)
#define INFO_NS (30 * NS_PER_S)
#define FILE_MAX ((size_t)STORE_MAX_FILE)

/* A transaction, as a capture's sink. */
struct into {
	struct store_txn *txn;
};

static int on_volumes(void *ctx, const struct capture_volume *v, size_t n, struct err *e)
{
	struct into *in = ctx;
	struct store_volume *all = mem_alloc_array(n, sizeof(*all));

	for (size_t i = 0; i < n; i++) {
		all[i].kind = v[i].ram ? STORE_RAM : STORE_DISK;
		snprintf(all[i].name, sizeof(all[i].name), "%s", v[i].name);
		all[i].size_bytes = v[i].size_bytes;
	}
	int rc = n <= STORE_MAX_VOLUMES ? store_txn_volumes(in->txn, all, n, e)
					: err_set(e, ERR_REFUSED, "%zu volumes are too many", n);
	free(all);
	return rc;
}

static int on_page(void *ctx, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e)
{
	return store_txn_block(((struct into *)ctx)->txn, volume, block, data, e);
}

static int on_zero(void *ctx, uint32_t volume, uint64_t block, uint64_t n, struct err *e)
{
	for (uint64_t i = 0; i < n; i++)
		if (store_txn_block(((struct into *)ctx)->txn, volume, block + i, NULL, e) < 0)
			return -1;
	return 0;
}

static int on_file(void *ctx, const char *name, const void *data, size_t len, struct err *e)
{
	return store_txn_file(((struct into *)ctx)->txn, name, data, len, e);
}

static struct capture_sink sink_of(struct into *in)
{
	return (struct capture_sink){ .volumes = on_volumes, .page = on_page, .zero = on_zero, .file = on_file, .ctx = in };
}

/* Its meta, as other points have it. New reference. */
static json_t *point_meta(const json_t *more, const char *kind, const char *capture, const struct capture_point *p)
{
	char when[32], id[64];

	clock_format_wall(p->instant_ns, when, sizeof(when));
	snprintf(id, sizeof(id), "%s-%04x", when, (unsigned)(p->instant_ns / 1000 & 0xffff));
	size_t to = 0;
	for (size_t i = 0; id[i]; i++)
		if (id[i] != ':' && !(id[i] == '-' && i < 10))
			id[to++] = id[i];
	id[to] = 0;
	json_t *meta = json_pack("{s:s, s:I, s:s, s:s, s:I, s:I, s:b}", "id", id, "instant_ns",
				 (json_int_t)p->instant_ns, "kind", kind, "capture", capture, "pause_ns",
				 (json_int_t)p->pause_ns, "dirty_bytes", (json_int_t)p->dirty_bytes, "quiesced",
				 p->quiesced);
	if (more) {
		json_t *copy = json_deep_copy(more);
		json_object_update(meta, copy);
		json_decref(copy);
	}
	return meta;
}

static int commit(struct into *in, json_t *meta, uint64_t *seq, struct err *e)
{
	int rc = store_commit(in->txn, meta, seq, e);
	in->txn = NULL;
	json_decref(meta);
	return rc;
}

int adopt_running(struct guest *g, struct store *s, const struct capture_opts *o, const json_t *meta, uint64_t *seq,
		  struct err *e)
{
	struct capture *c = capture_new(g, o, e);
	struct into in = { .txn = c ? store_begin(s, STORE_TXN_PART, e) : NULL };
	const struct capture_sink sink = sink_of(&in);
	struct capture_point p = { 0 };
	int rc = -1;

	if (!c || !in.txn || capture_start(c, &sink, e) < 0 || commit(&in, json_object(), NULL, e) < 0)
		goto end;
	in.txn = store_begin(s, STORE_TXN_POINT, e);
	if (!in.txn || capture_take(c, &sink, &p, e) < 0)
		goto end;
	rc = commit(&in, point_meta(meta, p.has_memory ? "memory" : "disk", capture_mode_name(capture_chosen(c)), &p),
		    seq, e);
end:
	store_abort(in.txn);
	capture_free(c);
	return rc;
}

/* ---- images ---- */

/* qemu-nbd, reading only; a connected socket in *fd. */
static int serve(const char *path, const char *format, const char *run_dir, pid_t *pid, int *fd, struct err *e)
{
	static unsigned count;
	MEM_AUTO char *socket = mem_printf("%s/adopt-%d-%u.sock", run_dir, (int)getpid(), __atomic_fetch_add(&count, 1, __ATOMIC_SEQ_CST));
	const char *const given[] = { "qemu-nbd", "-r", "-f", format, "-k", socket, path, NULL };
	const char *const guessed[] = { "qemu-nbd", "-r", "-k", socket, path, NULL };
	int64_t until = clock_mono_ns() + NBD_NS;

	(void)unlink(socket);
	if (child_start(format ? given : guessed, pid, NULL, e) < 0)
		return -1;
	for (;;) {
		struct err why = ERR_INIT;
		struct timespec moment = { .tv_nsec = 5 * NS_PER_MS };
		int status;
		if (access(socket, F_OK) == 0 && (*fd = fd_unix_connect(socket, &why)) >= 0)
			break;
		if (child_wait(*pid, 0, &status, &why) == 0) {
			*pid = -1;
			return err_set(e, ERR_SYS, "qemu-nbd cannot read %s (status %d)", path,
				       WIFEXITED(status) ? WEXITSTATUS(status) : -1);
		}
		if (clock_mono_ns() > until)
			return err_set(e, ERR_SYS, "qemu-nbd does not serve %s", path);
		nanosleep(&moment, NULL);
	}
	(void)unlink(socket);
	return 0;
}

static int read_image(const struct capture_sink *sink, uint32_t volume, const char *path, const char *format, uint64_t size,
		      const char *run_dir, struct err *e)
{
	pid_t pid = -1;
	int fd = -1;
	uint64_t bytes = 0;
	int rc = serve(path, format, run_dir, &pid, &fd, e);

	if (rc == 0)
		rc = disk_read(fd, "", NULL, size, volume, sink, &bytes, e);
	child_stop(pid);
	return rc < 0 ? err_wrap(e, "read %s", path) : 0;
}

static int image_size(const char *path, const char *format, uint64_t *size, struct err *e)
{
	const char *const given[] = { "qemu-img", "info", "--output=json", "-f", format, path, NULL };
	const char *const guessed[] = { "qemu-img", "info", "--output=json", path, NULL };
	MEM_AUTO char *out = NULL;

	if (child_run(format ? given : guessed, clock_mono_ns() + INFO_NS, NULL, &out, e) < 0)
		return err_wrap(e, "look at %s", path);
	json_t *info = json_loads(out, 0, NULL);
	json_int_t n = json_integer_value(json_object_get(info, "virtual-size"));
	json_decref(info);
	if (n <= 0)
		return err_set(e, ERR_CORRUPT, "qemu-img says no size of %s", path);
	*size = (uint64_t)n;
	return 0;
}

/* The store's volumes with that disk among them; its index. */
static int place_disk(struct store *s, struct store_volume *v, size_t *n, const char *target, uint64_t size,
		      uint32_t *index, struct err *e)
{
	size_t i = 0;

	*n = store_volumes(s, v, STORE_MAX_VOLUMES);
	while (i < *n && !(v[i].kind == STORE_DISK && strcmp(v[i].name, target) == 0))
		i++;
	if (i == STORE_MAX_VOLUMES || strlen(target) > STORE_NAME_MAX)
		return err_set(e, ERR_REFUSED, "no room for disk %s", target);
	if (i == *n)
		(*n)++;
	v[i].kind = STORE_DISK;
	memcpy(v[i].name, target, strlen(target) + 1);
	v[i].size_bytes = size;
	*index = (uint32_t)i;
	return 0;
}

int adopt_image(struct store *s, const char *target, const char *path, const char *format, const char *run_dir,
		struct err *e)
{
	struct store_volume *v = mem_alloc_array(STORE_MAX_VOLUMES, sizeof(*v));
	struct into in = { 0 };
	const struct capture_sink sink = sink_of(&in);
	size_t n;
	uint64_t size = 0;
	uint32_t index = 0;
	int rc = -1;

	if (image_size(path, format, &size, e) < 0 || place_disk(s, v, &n, target, size, &index, e) < 0)
		goto end;
	in.txn = store_begin(s, STORE_TXN_PART, e);
	if (!in.txn || store_txn_volumes(in.txn, v, n, e) < 0 ||
	    read_image(&sink, index, path, format, size, run_dir, e) < 0)
		goto end;
	rc = commit(&in, json_pack("{s:s, s:s}", "seed", path, "disk", target), NULL, e);
end:
	store_abort(in.txn);
	free(v);
	return rc;
}

/* ---- a paused VM ---- */

struct paused {
	const struct capture_sink *sink;
	const struct guest_info *info;
	size_t n_ram;
};

static int on_blocks(void *ctx, const struct ram_block *b, size_t n, struct err *e)
{
	struct paused *p = ctx;
	struct capture_volume *v;
	size_t disks = 0;

	if (n > RAM_READER_MAX_BLOCKS || n + p->info->n_disks > STORE_MAX_VOLUMES)
		return err_set(e, ERR_REFUSED, "the VM has too many blocks of memory and disks");
	v = mem_alloc_array(n + p->info->n_disks, sizeof(*v));
	for (size_t i = 0; i < n; i++) {
		v[i].ram = true;
		v[i].size_bytes = b[i].bytes;
		memcpy(v[i].name, b[i].name, sizeof(v[i].name));
	}
	for (size_t i = 0; i < p->info->n_disks; i++) {
		if (p->info->disks[i].readonly)
			continue;
		struct capture_volume *d = &v[n + disks++];
		snprintf(d->name, sizeof(d->name), "%s", p->info->disks[i].target);
		d->size_bytes = p->info->disks[i].size_bytes;
	}
	p->n_ram = n;
	int rc = p->sink->volumes(p->sink->ctx, v, n + disks, e);
	free(v);
	return rc;
}

static int on_ram_page(void *ctx, uint32_t block, uint64_t page, const uint8_t *data, struct err *e)
{
	const struct capture_sink *s = ((const struct paused *)ctx)->sink;
	return s->page(s->ctx, block, page, data, e);
}

static int on_ram_zero(void *ctx, uint32_t block, uint64_t page, struct err *e)
{
	const struct capture_sink *s = ((const struct paused *)ctx)->sink;
	return s->zero(s->ctx, block, page, 1, e);
}

static int read_stream(struct paused *p, int fd, struct err *e)
{
	const struct ram_reader_sink sink = { .blocks = on_blocks, .page = on_ram_page, .zero = on_ram_zero, .ctx = p };
	struct ram_reader *r = ram_reader_new(fd);
	BUF_AUTO struct buf device = BUF_INIT;
	enum ram_reader_stop stop;
	size_t len;
	int rc = -1;

	ram_reader_deadline(r, clock_mono_ns() + MIGRATION_NS);
	if (ram_reader_head(r, e) < 0 || ram_reader_sections(r, &sink, &stop, e) < 0)
		goto end;
	const uint8_t *header = ram_reader_header(r, &len);
	if (p->sink->file(p->sink->ctx, "header", header, len, e) < 0 || ram_reader_rest(r, DEVICE_MAX, &device, e) < 0)
		goto end;
	rc = p->sink->file(p->sink->ctx, "device", device.data, image_device_length(device.data, device.len), e);
end:
	ram_reader_free(r);
	return rc;
}

static int qmp(struct guest *g, const char *command, json_t *args, int fd, json_t **result, struct err *e)
{
	json_t *ignored = NULL;
	int rc = g->ops->qmp(g->ctx, command, args, fd, &ignored, e);
	if (rc == 0 && result)
		*result = ignored;
	else
		json_decref(ignored);
	return rc;
}

/* Until QEMU has let go of the images. */
static int wait_completed(struct guest *g, struct err *e)
{
	int64_t until = clock_mono_ns() + 30 * NS_PER_S;

	for (;;) {
		json_t *r = NULL;
		struct timespec moment = { .tv_nsec = 10 * NS_PER_MS };
		if (qmp(g, "query-migrate", NULL, -1, &r, e) < 0)
			return -1;
		const char *status = json_string_value(json_object_get(r, "status"));
		bool done = status && strcmp(status, "completed") == 0, failed = status && strcmp(status, "failed") == 0;
		json_decref(r);
		if (done)
			return 0;
		if (failed || clock_mono_ns() > until)
			return err_set(e, ERR_LIBVIRT, "QEMU did not finish writing its state");
		nanosleep(&moment, NULL);
	}
}

static int take_memory(struct guest *g, struct paused *p, struct err *e)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
		return err_sys(e, "a socket for QEMU's stream");
	FD_AUTO int ours = pair[0];
	FD_AUTO int theirs = pair[1];
	if (qmp(g, "migrate-set-parameters", json_pack("{s:I}", "max-bandwidth", (json_int_t)1 << 40), -1, NULL, e) < 0 ||
	    qmp(g, "getfd", json_pack("{s:s}", "fdname", FD_NAME), theirs, NULL, e) < 0)
		return -1;
	fd_close(&theirs);
	if (qmp(g, "migrate", json_pack("{s:s}", "uri", "fd:" FD_NAME), -1, NULL, e) < 0)
		return -1;
	if (read_stream(p, ours, e) < 0)
		return -1;
	return wait_completed(g, e);
}

static int take_disks(struct paused *p, const char *run_dir, struct err *e)
{
	uint32_t volume = (uint32_t)p->n_ram;

	for (size_t i = 0; i < p->info->n_disks; i++) {
		const struct guest_disk *d = &p->info->disks[i];
		if (!d->readonly && read_image(p->sink, volume++, d->path, d->format, d->size_bytes, run_dir, e) < 0)
			return -1;
	}
	return 0;
}

static int take_files(struct paused *p, struct err *e)
{
	for (size_t i = 0; i < p->info->n_files; i++) {
		size_t len;
		MEM_AUTO char *data = file_read_all(p->info->files[i].path, FILE_MAX, &len, e);
		if (!data || p->sink->file(p->sink->ctx, p->info->files[i].kind, data, len, e) < 0)
			return -1;
	}
	return p->sink->file(p->sink->ctx, "xml", p->info->xml, strlen(p->info->xml), e);
}

int adopt_still(struct guest *g, const struct capture_sink *sink, const char *run_dir, struct err *e)
{
	struct guest_info info = { 0 };
	struct paused p = { .sink = sink, .info = &info };
	int rc = -1;

	if (g->ops->info(g->ctx, &info, e) < 0)
		return -1;
	if (info.running)
		err_set(e, ERR_REFUSED, "%s runs: it would go on writing while it is read", info.name);
	else if (take_memory(g, &p, e) == 0 && take_disks(&p, run_dir, e) == 0)
		rc = take_files(&p, e);
	guest_info_fini(&info);
	return rc;
}

int adopt_paused(struct guest *g, struct store *s, const char *run_dir, const json_t *meta, uint64_t *seq, struct err *e)
{
	struct into in = { .txn = store_begin(s, STORE_TXN_POINT, e) };
	const struct capture_sink sink = sink_of(&in);
	struct capture_point point = { .instant_ns = clock_wall_ns(), .has_memory = true };
	int rc = in.txn ? adopt_still(g, &sink, run_dir, e) : -1;

	if (rc == 0)
		rc = commit(&in, point_meta(meta, "memory", "paused", &point), seq, e);
	store_abort(in.txn);
	return rc;
}
