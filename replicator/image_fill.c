#include "replicator/image_fill.h"

#include "base/child.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libnbd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RUN 256u
#define QEMU_IMG_NS (60 * NS_PER_S)
#define NBD_START_NS (10 * NS_PER_S)
#define NBD_END_NS (120 * NS_PER_S)

/* Where stretches of data go. */
struct sink {
	int (*put)(void *ctx, const uint8_t *p, size_t n, uint64_t at, struct err *e);
	void *ctx;
};

/* Everything that is not zeros, in stretches as long as they come. */
static int copy(struct store_view *v, uint32_t volume, uint64_t size, const struct image_fill_opts *o,
		const struct sink *to, struct err *e)
{
	MEM_AUTO uint8_t *pages = mem_alloc_array(RUN, STORE_BLOCK);
	uint64_t n_blocks = size / STORE_BLOCK + (size % STORE_BLOCK != 0);
	bool zero[RUN];

	for (uint64_t at = 0; at < n_blocks; at += RUN) {
		size_t n = n_blocks - at < RUN ? (size_t)(n_blocks - at) : RUN;
		if (o && o->progress && !o->progress(o->ctx, at * STORE_BLOCK, size))
			return err_set(e, ERR_CANCELLED, "cancelled");
		if (store_view_read(v, volume, at, n, pages, zero, e) < 0)
			return -1;
		for (size_t i = 0, end; i < n; i = end) {
			for (end = i + 1; end < n && zero[end] == zero[i]; end++)
				;
			if (zero[i])
				continue;
			uint64_t from = (at + i) * STORE_BLOCK, len = (end - i) * STORE_BLOCK;
			if (from + len > size)
				len = size - from;
			if (to->put(to->ctx, pages + i * STORE_BLOCK, (size_t)len, from, e) < 0)
				return -1;
		}
	}
	return 0;
}

static int put_file(void *ctx, const uint8_t *p, size_t n, uint64_t at, struct err *e)
{
	const int *fd = ctx;

	while (n > 0) {
		ssize_t done = sys.pwrite(*fd, p, n, (off_t)at);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return err_sys(e, "write");
		p += done;
		at += (uint64_t)done;
		n -= (size_t)done;
	}
	return 0;
}

int image_fill_raw(struct store_view *v, uint32_t volume, uint64_t size, const char *path,
		   const struct image_fill_opts *o, struct err *e)
{
	FD_AUTO int fd = sys.open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
	struct sink to = { .put = put_file, .ctx = &fd };

	if (fd < 0)
		return err_sys(e, "create %s", path);
	if (sys.ftruncate(fd, (off_t)size) != 0)
		err_sys(e, "set the length of %s", path);
	else if (copy(v, volume, size, o, &to, e) < 0)
		err_wrap(e, "%s", path);
	else if (sys.fsync(fd) != 0)
		err_sys(e, "sync %s", path);
	else if (file_sync_folder_of(path, e) == 0)
		return 0;
	(void)sys.unlink(path);
	return -1;
}

static int sync_file(const char *path, struct err *e)
{
	FD_AUTO int fd = sys.open(path, O_RDONLY, 0);
	if (fd < 0 || sys.fsync(fd) != 0)
		return err_sys(e, "sync %s", path);
	return file_sync_folder_of(path, e);
}

static int create_qcow2(const char *path, const char *base, uint64_t size, struct err *e)
{
	char bytes[32];
	MEM_AUTO char *backing = base ? mem_printf("%s", base) : NULL;
	const char *const plain[] = { "qemu-img", "create", "-q", "-f", "qcow2", path, bytes, NULL };
	const char *const over[] = { "qemu-img", "create", "-q",  "-f", "qcow2", "-b",
				     backing,    "-F",     "raw", path, bytes,   NULL };

	/* qemu-img would overwrite. */
	if (access(path, F_OK) == 0) {
		err_set(e, ERR_REFUSED, "%s exists", path);
		return err_remedy(e, "move it away, if it is not needed");
	}
	snprintf(bytes, sizeof(bytes), "%" PRIu64, size);
	if (child_run(base ? over : plain, clock_mono_ns() + QEMU_IMG_NS, NULL, NULL, e) < 0)
		return err_wrap(e, "create %s", path);
	if (chmod(path, 0600) != 0)
		return err_sys(e, "set the mode of %s", path);
	return 0;
}

int image_fill_overlay(const char *base, uint64_t size_bytes, const char *path, struct err *e)
{
	if (create_qcow2(path, base, size_bytes, e) < 0)
		return -1;
	if (sync_file(path, e) < 0) {
		(void)sys.unlink(path);
		return -1;
	}
	return 0;
}

/* ---- qcow2 through qemu-nbd ---- */

static int nbd_err(struct err *e, const char *what)
{
	int errnum = nbd_get_errno();
	const char *text = nbd_get_error();
	err_set(e, ERR_SYS, "%s: %s", what, text ? text : "unknown");
	e->errnum = errnum;
	return -1;
}

static int put_nbd(void *ctx, const uint8_t *p, size_t n, uint64_t at, struct err *e)
{
	return nbd_pwrite(ctx, p, n, at, 0) == 0 ? 0 : nbd_err(e, "write to qemu-nbd");
}

static int connect_nbd(struct nbd_handle *nbd, const char *socket, pid_t pid, struct err *e)
{
	int64_t until = clock_mono_ns() + NBD_START_NS;

	for (;;) {
		int status;
		struct err ignored = ERR_INIT;
		struct timespec moment = { .tv_nsec = 5 * NS_PER_MS };
		/* It exists a moment before it is listened on; a handle whose connect failed is of no more use, so it gets a connected socket. */
		int fd = access(socket, F_OK) == 0 ? fd_unix_connect(socket, &ignored) : -1;
		if (fd >= 0)
			return nbd_connect_socket(nbd, fd) == 0 ? 0 : nbd_err(e, "connect to qemu-nbd");
		if (child_wait(pid, 0, &status, &ignored) == 0)
			return err_set(e, ERR_SYS, "qemu-nbd ended with status %d",
				       WIFEXITED(status) ? WEXITSTATUS(status) : -1);
		if (clock_mono_ns() > until)
			return err_set(e, ERR_SYS, "qemu-nbd does not listen");
		nanosleep(&moment, NULL);
	}
}

static int fill_nbd(struct store_view *v, uint32_t volume, uint64_t size, const char *path,
		    const struct image_fill_opts *o, struct err *e)
{
	MEM_AUTO char *socket = mem_printf("%s/export-%d.sock", o->run_dir, (int)getpid());
	const char *const argv[] = { "qemu-nbd", "-f", "qcow2", "--cache=writeback", "--discard=unmap", "-k",
				     socket,     path, NULL };
	struct nbd_handle *nbd = nbd_create();
	struct sink to = { .put = put_nbd, .ctx = nbd };
	pid_t pid = -1;
	int rc = -1, status;

	if (!nbd)
		return nbd_err(e, "libnbd");
	(void)unlink(socket);
	if (child_start(argv, &pid, NULL, e) < 0 || connect_nbd(nbd, socket, pid, e) < 0)
		goto end;
	if (copy(v, volume, size, o, &to, e) < 0)
		goto end;
	if (nbd_flush(nbd, 0) != 0 || nbd_shutdown(nbd, 0) != 0) {
		nbd_err(e, "finish qemu-nbd");
		goto end;
	}
	if (child_wait(pid, clock_mono_ns() + NBD_END_NS, &status, e) == 0) {
		pid = -1;
		rc = WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : err_set(e, ERR_SYS, "qemu-nbd failed");
	} else if (!err_is_set(e)) {
		err_set(e, ERR_SYS, "qemu-nbd does not end");
	}
end:
	nbd_close(nbd); /* first: it waits for its client */
	child_stop(pid);
	(void)unlink(socket);
	return rc;
}

int image_fill_qcow2(struct store_view *v, uint32_t volume, uint64_t size, const char *path,
		     const struct image_fill_opts *o, struct err *e)
{
	if (create_qcow2(path, NULL, size, e) < 0)
		return -1;
	if (fill_nbd(v, volume, size, path, o, e) < 0)
		err_wrap(e, "%s", path);
	else if (sync_file(path, e) == 0)
		return 0;
	(void)sys.unlink(path);
	return -1;
}
