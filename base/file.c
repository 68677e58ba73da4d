#include "base/file.h"

#include "base/fd.h"
#include "base/mem.h"
#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_retry(const char *path, int flags, mode_t mode)
{
	int fd;

	do {
		fd = sys.open(path, flags | O_CLOEXEC, mode);
	} while (fd < 0 && errno == EINTR);
	return fd;
}

static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return mem_strdup(".");
	if (slash == path)
		return mem_strdup("/");
	return mem_printf("%.*s", (int)(slash - path), path);
}

static int open_folder_of(const char *path, struct err *e)
{
	MEM_AUTO char *folder = folder_of(path);
	const int fd = open_retry(folder, O_RDONLY | O_DIRECTORY, 0);

	return fd < 0 ? err_open(e, "%s: open", folder) : fd;
}

static int sync_folder(int fd, const char *path, struct err *e)
{
	if (sys.fsync(fd) < 0)
		return err_sys(e, "%s: sync its folder", path);
	return 0;
}

int file_sync_folder_of(const char *path, struct err *e)
{
	FD_AUTO int fd = open_folder_of(path, e);

	return fd < 0 ? -1 : sync_folder(fd, path, e);
}

/* Creates the temporary, whole and synced. When it fails, the temporary is not there. */
static int write_temporary(const char *tmp, const void *data, size_t len, mode_t mode, struct err *e)
{
	FD_AUTO int fd = open_retry(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);

	if (fd < 0)
		return err_open(e, "create %s", tmp);
	if (fchmod(fd, mode) < 0) { /* what the umask took */
		err_sys(e, "%s: set mode", tmp);
		goto undo;
	}
	if (fd_write_full(fd, data, len, e) < 0) {
		err_wrap(e, "%s", tmp);
		goto undo;
	}
	if (sys.fsync(fd) < 0) {
		err_sys(e, "%s: sync", tmp);
		goto undo;
	}
	const int closing = fd;
	fd = -1;
	if (sys.close(closing) < 0) {
		err_sys(e, "%s: close", tmp);
		goto undo;
	}
	return 0;
undo:
	sys.unlink(tmp);
	return -1;
}

int file_write_durable(const char *path, const void *data, size_t len, mode_t mode, struct err *e)
{
	static atomic_uint counter;
	MEM_AUTO char *tmp = mem_printf("%s.%ld.%u.tmp", path, (long)getpid(), atomic_fetch_add(&counter, 1));
	/* Opened before anything is changed: from the rename on, only its fsync can fail. */
	FD_AUTO int folder = open_folder_of(path, e);

	if (folder < 0)
		return -1;
	/* One of our name can only be the remains of a dead process. */
	if (access(tmp, F_OK) == 0 && sys.unlink(tmp) < 0)
		return err_sys(e, "%s: remove", tmp);
	if (write_temporary(tmp, data, len, mode, e) < 0)
		return -1;
	if (sys.rename(tmp, path) < 0) {
		err_sys(e, "rename %s to %s", tmp, path);
		sys.unlink(tmp);
		return -1;
	}
	return sync_folder(folder, path, e);
}

char *file_read_all(const char *path, size_t max, size_t *len, struct err *e)
{
	FD_AUTO int fd = open_retry(path, O_RDONLY, 0);
	if (fd < 0) {
		err_open(e, "open %s", path);
		return NULL;
	}

	/* The size of the file is only a hint: it may grow, and files of /proc have none. */
	size_t cap = 4096;
	size_t used = 0;
	char *data = mem_alloc(cap);
	for (;;) {
		if (used + 1 == cap)
			data = mem_realloc_array(data, cap *= 2, 1);
		const ssize_t n = fd_read_some(fd, data + used, cap - used - 1, e);
		if (n < 0) {
			err_wrap(e, "%s", path);
			break;
		}
		if (n == 0) {
			data[used] = '\0';
			if (len)
				*len = used;
			return data;
		}
		used += (size_t)n;
		if (used > max) {
			err_set(e, ERR_REFUSED, "%s: larger than the %zu bytes it may have", path, max);
			break;
		}
	}
	free(data);
	return NULL;
}

int file_remove_durable(const char *path, struct err *e)
{
	if (sys.unlink(path) < 0) {
		/* ENOTDIR: not even its folder is there. */
		if (errno == ENOENT || errno == ENOTDIR)
			return 0;
		return err_sys(e, "remove %s", path);
	}
	return file_sync_folder_of(path, e);
}

static int make_folder(const char *path, mode_t mode, struct err *e)
{
	struct stat st;

	if (mkdir(path, mode) == 0)
		return chmod(path, mode) < 0 ? err_sys(e, "%s: set mode", path) : 0;
	const int saved = errno;
	if (stat(path, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			return 0;
		errno = ENOTDIR;
	} else {
		errno = saved;
	}
	return err_sys(e, "create folder %s", path);
}

int file_mkdirs(const char *path, mode_t mode, struct err *e)
{
	MEM_AUTO char *partial = mem_strdup(path);

	for (char *p = partial; *p; p++) {
		if (*p != '/' || p == partial)
			continue;
		*p = '\0';
		const int rc = make_folder(partial, mode, e);
		*p = '/';
		if (rc < 0)
			return -1;
	}
	return make_folder(path, mode, e);
}
