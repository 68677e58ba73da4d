/*
 * Memory from background snapshots: QEMU stops the VM for a moment, saves its devices, write-protects its memory and
 * sends all of it while the VM goes on. Pages that are as they were given last are dropped here, by a seeded hash.
 */
#include "snapshot/capture_internal.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/thread.h"
#include "base/xxh3.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#define IDLE_NS (60 * NS_PER_S)
#define PAUSE_LIMIT_NS (20 * NS_PER_S)
#define EXPECT_NS \
	NS_PER_S /* the devices' state, the disks' transaction where there are disks; and a second for 4 GiB, to protect them */
#define READ_ON_IDLE_NS (10 * NS_PER_S) /* a QEMU that writes nothing for so long is not waited for */
#define ZERO_PAGE 1u                    /* in place of a hash; 0: never given */

static void free_hashes(struct capture *c)
{
	for (size_t i = 0; c->hashes && i < c->n_blocks; i++)
		free(c->hashes[i]);
	free(c->hashes);
	c->hashes = NULL;
}

void capture_background_free(struct capture *c)
{
	free_hashes(c);
}

static int new_hashes(struct capture *c, const struct ram_block *b, size_t n, struct err *e)
{
	free_hashes(c);
	memcpy(c->blocks, b, n * sizeof(*b));
	c->n_blocks = n;
	c->hashes = mem_alloc_array(n, sizeof(*c->hashes));
	for (size_t i = 0; i < n; i++) {
		c->hashes[i] = mem_try(b[i].bytes / RAM_READER_PAGE, sizeof(uint64_t), "hashes of the memory's pages",
				       e);
		if (!c->hashes[i])
			return -1;
	}
	if (getrandom(c->secret, sizeof(c->secret), 0) != (ssize_t)sizeof(c->secret))
		return err_sys(e, "a random secret");
	return 0;
}

static int on_blocks(void *ctx, const struct ram_block *b, size_t n, struct err *e)
{
	struct capture *c = ctx;
	uint64_t sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += b[i].bytes;
	/* Memory that was plugged in: everything counts as new. */
	if (!c->hashes || n != c->n_blocks || memcmp(b, c->blocks, n * sizeof(*b)) != 0) {
		if (new_hashes(c, b, n, e))
			return -1;
	}
	stage_free(c->stage);
	c->stage = stage_new(c->staging_bytes, sum + c->staging_bytes, c->folder);
	return 0;
}

/* The first page says that QEMU has saved the devices and protects the memory: the VM goes on. Where we stopped it, QEMU 7.2 starts it nevertheless, QEMU 10 leaves
 * it as it found it. */
static void *let_go(void *arg)
{
	struct capture_go *go = arg;
	struct capture *c = go->c;
	go->rc = c->stopped ? guest_watch_qmp(c->g, "cont", NULL, NULL, &go->err) : 0;
	if (go->rc == 0) {
		capture_disarm(c);
		capture_thaw(c);
	}
	return NULL;
}

/* By a thread of its own, while the reading goes on: QEMU's main loop may touch a page that is protected until what lies before it has been read, and QEMU
 * answers nobody then. */
static int first_page(struct capture *c, struct err *e)
{
	c->wait_for_page = false;
	c->go = (struct capture_go){ .c = c };
	if (thread_start(&c->go.thread, "capture-go", let_go, &c->go, e))
		return -1;
	c->go.started = true;
	return 0;
}

/* rc, or the failure of the thread. */
static int has_let_go(struct capture *c, int rc, struct err *e)
{
	if (!c->go.started)
		return rc;
	if (rc)
		capture_background_read_on(c);
	pthread_join(c->go.thread, NULL);
	c->go.started = false;
	if (c->go.rc)
		*e = c->go.err;
	return c->go.rc ? -1 : rc;
}

static int on_page(void *ctx, uint32_t block, uint64_t page, const uint8_t *data, struct err *e)
{
	struct capture *c = ctx;
	if (c->wait_for_page && first_page(c, e))
		return -1;
	uint64_t hash = XXH3_64bits_withSecret(data, RAM_READER_PAGE, c->secret, sizeof(c->secret)) | 2;
	if (c->hashes[block][page] == hash)
		return 0;
	c->hashes[block][page] = hash;
	return stage_page(c->stage, block, page, data, e);
}

static int on_zero(void *ctx, uint32_t block, uint64_t page, struct err *e)
{
	struct capture *c = ctx;
	if (c->wait_for_page && first_page(c, e))
		return -1;
	if (c->hashes[block][page] == ZERO_PAGE)
		return 0;
	c->hashes[block][page] = ZERO_PAGE;
	return stage_zero(c->stage, block, page, e);
}

/* Ends the device state where the description of the devices begins (06, length, JSON), which loaders do not need. */
static int trim_device(struct buf *device, struct err *e)
{
	const uint8_t *p = device->data;
	size_t n = device->len;
	for (size_t i = n >= 7 ? n - 7 : 0; i > 0; i--) {
		if (p[i] != 0 || p[i + 1] != 6 || p[i + 6] != '{')
			continue;
		uint64_t len = (uint64_t)p[i + 2] << 24 | (uint64_t)p[i + 3] << 16 | (uint64_t)p[i + 4] << 8 | p[i + 5];
		if (i + 6 + len == n) {
			device->len = i + 1;
			return 0;
		}
	}
	if (n > 0 && p[n - 1] == 0)
		return 0;
	return err_set(e, ERR_CORRUPT, "QEMU's stream: the device state has no end mark");
}

/* A VM that we stopped says of itself that it is paused. It is to run where it is restored, so it says "running" there:
 * section "globalstate" holds be32 length and 100 bytes with the state's name. */
static void say_running(struct buf *device)
{
	static const char name[] = "\x0bglobalstate";
	uint8_t *p = device->data ? memmem(device->data, device->len, name, sizeof(name) - 1) : NULL;
	size_t head = sizeof(name) - 1 + 8;
	if (!p || (size_t)(device->data + device->len - p) < head + 4 + 100)
		return;
	p += head;
	if (memcmp(p, "\0\0\0\7paused\0", 11) != 0)
		return;
	memcpy(p, "\0\0\0\10running\0", 12);
}

static int read_stream(struct capture *c, struct err *e)
{
	const struct ram_reader_sink pages = { on_blocks, on_page, on_zero, NULL, c };
	enum ram_reader_stop stop;
	size_t len;
	ram_reader_idle(c->reader, IDLE_NS);
	if (ram_reader_head(c->reader, e))
		return -1;
	const uint8_t *header = ram_reader_header(c->reader, &len);
	buf_reset(&c->header);
	buf_append(&c->header, header, len);
	if (ram_reader_sections(c->reader, &pages, &stop, e))
		return -1;
	if (stop != RAM_READER_DEVICE)
		return err_set(e, ERR_CORRUPT, "QEMU's stream: no device state after the RAM");
	buf_reset(&c->device);
	return ram_reader_rest(c->reader, CAPTURE_MAX_DEVICE, &c->device, e);
}

void capture_background_read_on(struct capture *c)
{
	fd_read_out(c->sock, READ_ON_IDLE_NS);
}

/* What QEMU says when the capability is set (its migration_caps_check): of the kernel, of the user that it runs as, or of the VM's memory. None of it
 * passes while the VM runs. */
static int set_up(struct capture *c, struct err *e)
{
	json_t *params = json_pack("{s:I}", "max-bandwidth", (json_int_t)1 << 40);
	if (capture_migration_set_up(c, "background-snapshot", params, e) == 0)
		return 0;
	c->impossible = strstr(e->text, "ackground-snapshot is not") || strstr(e->text, "does not know the capability");
	if (c->impossible) {
		e->cls = ERR_REFUSED;
		e->errnum = ENOTSUP;
	}
	if (strstr(e->text, "not supported by host kernel"))
		err_remedy(e, "a QEMU that is not root's needs sysctl vm.unprivileged_userfaultfd=1");
	return -1;
}

/* Everything into the stage. */
static int snapshot(struct capture *c, bool stop_first, struct capture_point *out, struct err *e)
{
	char status[32];
	struct guest_seen before, seen;
	if (set_up(c, e) || capture_migration_open(c, e))
		return -1;
	guest_watch_look(c->watch, &before);
	capture_arm(c, EXPECT_NS + (int64_t)(c->info.memory_bytes >> 32) * NS_PER_S);
	int64_t stopped_ns = clock_mono_ns();
	out->instant_ns = clock_wall_ns();
	out->instant_mono_ns = stopped_ns;
	if (stop_first) {
		if (guest_watch_qmp(c->g, "stop", NULL, NULL, e) || disk_points_instant(c->disks, e) ||
		    capture_read_files(c, e))
			return -1;
	}
	c->wait_for_page = true;
	c->stopped = stop_first;
	if (capture_migration_begin(c, e))
		return -1;
	int rc = has_let_go(c, read_stream(c, e), e);
	if (rc)
		return capture_migration_why(c, e);
	if (capture_check(c, e)) /* an abort lets the stream run out */
		return -1;
	if (capture_migration_wait(c, clock_mono_ns() + PAUSE_LIMIT_NS, status, sizeof(status), e))
		return -1;
	if (strcmp(status, "completed") != 0) {
		err_set(e, ERR_LIBVIRT, "QEMU's background snapshot has %s", status);
		return capture_migration_why(c, e);
	}
	guest_watch_look(c->watch, &seen);
	if (seen.stops > before.stops && seen.resumes > before.resumes && seen.resume_ns > seen.stop_ns)
		out->pause_ns = seen.resume_ns - seen.stop_ns;
	if (!stop_first && seen.stops > before.stops) {
		out->instant_ns += seen.stop_ns - stopped_ns;
		out->instant_mono_ns = seen.stop_ns;
	}
	if (trim_device(&c->device, e))
		return -1;
	if (stop_first)
		say_running(&c->device);
	return 0;
}

static int take(struct capture *c, bool stop_first, struct capture_point *out, struct err *e)
{
	int rc = snapshot(c, stop_first, out, e);
	c->wait_for_page = false;
	capture_migration_end(c);
	return rc;
}

int capture_background_start(struct capture *c, const struct capture_sink *sink, struct err *e)
{
	struct capture_point ignored = { 0 };
	if (take(c, false, &ignored, e) || capture_tell_volumes(c, sink, e))
		return -1;
	int rc = stage_give(c->stage, sink, e);
	stage_reset(c->stage);
	return rc;
}

int capture_background_take(struct capture *c, struct capture_point *out, struct err *e)
{
	return take(c, disk_points_count(c->disks) > 0 || c->info.n_files > 0, out, e);
}
