#include "replicator/still.h"

#include "base/child.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "snapshot/disk_read.h"
#include "snapshot/image.h"
#include "snapshot/ram_reader.h"
#include "snapshot/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FD_NAME "vmferry-still"
#define DEVICE_MAX (64u << 20)
#define MIGRATION_NS (600 * NS_PER_S)
#define NBD_NS (10 * NS_PER_S)
#define INFO_NS (30 * NS_PER_S)
#define FILE_MAX ((size_t)STORE_MAX_FILE)

/* ---- images ---- */

/* qemu-nbd, reading only; a connected socket in *fd. */
static int serve(const char *path, const char *format, const char *run_dir, pid_t *pid, int *fd, struct err *e)
{
	static unsigned count;
	MEM_AUTO char *socket = mem_printf("%s/adopt-%d-%u.sock", run_dir, (int)getpid(),
					   __atomic_fetch_add(&count, 1, __ATOMIC_SEQ_CST));
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

int still_image(const struct capture_sink *sink, uint32_t volume, const char *path, const char *format,
		uint64_t size_bytes, const char *run_dir, struct err *e)
{
	pid_t pid = -1;
	int fd = -1;
	uint64_t bytes = 0;
	int rc = serve(path, format, run_dir, &pid, &fd, e);

	if (rc == 0)
		rc = disk_read(fd, "", NULL, size_bytes, volume, sink, &bytes, e);
	child_stop(pid);
	return rc < 0 ? err_wrap(e, "read %s", path) : 0;
}

int still_image_size(const char *path, const char *format, uint64_t *size_bytes, struct err *e)
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
	*size_bytes = (uint64_t)n;
	return 0;
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
		if (!d->readonly && still_image(p->sink, volume++, d->path, d->format, d->size_bytes, run_dir, e) < 0)
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

int still_capture(struct guest *g, const struct capture_sink *sink, const char *run_dir, struct err *e)
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
