#include "replicator/seed_image.h"

#include "base/fd.h"
#include "base/mem.h"
#include "replicator/still.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* QEMU's image locks (block/file-posix.c): a byte for what one does, and a byte for what others must not do. */
#define LOCK_DOES 100
#define LOCK_ALONE 200
#define PERM_READ 0
#define PERM_WRITE 1

/* qcow2's header: docs/interop/qcow2.txt. */
#define QCOW2_HEAD 80u
#define INCOMPATIBLE_EXTERNAL_DATA (UINT64_C(1) << 2)

/* ---- where it is ---- */

static bool lies_below(const char *path, const char *folder)
{
	size_t n = strlen(folder);

	while (n > 1 && folder[n - 1] == '/')
		n--;
	return strncmp(path, folder, n) == 0 && (folder[n - 1] == '/' || path[n] == '/');
}

static int check_folder(const char *path, const char *real, char *const *folders, size_t n, struct err *e)
{
	char resolved[PATH_MAX];

	for (size_t i = 0; i < n; i++) {
		/* Of one that is not there, its name decides whether that may be said. */
		if (real ? realpath(folders[i], resolved) && lies_below(real, resolved) : lies_below(path, folders[i]))
			return 0;
	}
	err_set(e, ERR_REFUSED, "%s is in no folder that is given out for seeds", path);
	return err_remedy(
		e, "put it into one of replication.seed_folders of vmferryd.conf there, or add its folder to them");
}

/* Opens nothing: only what it is, is found out. */
static int find(const char *path, char *const *folders, size_t n, struct stat *st, struct err *e)
{
	char link[64], real[PATH_MAX];

	if (path[0] != '/' || strlen(path) >= PATH_MAX || strstr(path, "/../"))
		return err_set(e, ERR_REFUSED, "%.200s is not the absolute path of a file", path);
	const int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0) {
		const int why = errno;
		if (check_folder(path, NULL, folders, n, e) < 0)
			return -1;
		return err_set(e, ERR_REFUSED, "%s: %s", path, strerror(why));
	}
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	const ssize_t len = readlink(link, real, sizeof(real) - 1);
	real[len > 0 ? len : 0] = '\0';
	if (check_folder(path, real, folders, n, e) == 0) {
		if (fstat(fd, st) == 0 && (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode)))
			return fd;
		err_set(e, ERR_REFUSED, "%s is neither a regular file nor a block device", path);
	}
	close(fd);
	return -1;
}

/* ---- who uses it ---- */

static struct flock byte_of(short type, int at)
{
	return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };
}

static int lock(int fd, const char *path, struct err *e)
{
	struct flock read = byte_of(F_RDLCK, LOCK_DOES + PERM_READ), alone = byte_of(F_RDLCK, LOCK_ALONE + PERM_WRITE);
	struct flock writer = byte_of(F_WRLCK, LOCK_DOES + PERM_WRITE),
		     refuser = byte_of(F_WRLCK, LOCK_ALONE + PERM_READ);

	if (fcntl(fd, F_OFD_SETLK, &read) < 0 || fcntl(fd, F_OFD_SETLK, &alone) < 0 ||
	    fcntl(fd, F_OFD_GETLK, &writer) < 0 || fcntl(fd, F_OFD_GETLK, &refuser) < 0)
		return errno == EAGAIN || errno == EACCES ? err_set(e, ERR_REFUSED, "%s is locked", path)
							  : err_sys(e, "lock %s", path);
	if (writer.l_type == F_UNLCK && refuser.l_type == F_UNLCK)
		return 0;
	err_set(e, ERR_REFUSED, "%s is in use by a QEMU", path);
	return err_remedy(e, "take the image of a VM that is off, or a copy of it");
}

/* Mounted, or part of something else of the kernel's. */
static int check_device(const char *link, const char *path, struct err *e)
{
	FD_AUTO int fd = open(link, O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK);

	return fd >= 0 ? 0 : err_set(e, ERR_REFUSED, "%s: %s", path, strerror(errno));
}

/* ---- what is in it ---- */

static uint64_t be(const uint8_t *p, size_t n)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n; i++)
		v = v << 8 | p[i];
	return v;
}

static int look_inside(int fd, const char *path, const char **format, struct err *e)
{
	uint8_t head[QCOW2_HEAD] = { 0 };
	const ssize_t n = pread(fd, head, sizeof(head), 0);
	const char *what = NULL;

	if (n < 0)
		return err_sys(e, "read %s", path);
	*format = "raw";
	if (memcmp(head, "QFI\xfb", 4) != 0)
		return 0;
	*format = "qcow2";
	const uint64_t version = be(head + 4, 4);
	if (n < (ssize_t)sizeof(head) || version < 2 || version > 3)
		what = "is a qcow2 image of a version that is not known";
	else if (be(head + 8, 8) != 0)
		what = "has a backing file";
	else if (be(head + 32, 4) != 0)
		what = "is encrypted";
	else if (version == 3 && be(head + 72, 8) & INCOMPATIBLE_EXTERNAL_DATA)
		what = "has its data in another file";
	if (!what)
		return 0;
	err_set(e, ERR_REFUSED, "%s %s", path, what);
	return err_remedy(e, "'qemu-img convert' makes a whole image of it");
}

static int check_size(const struct seed_image *s, const char *path, uint64_t want, struct err *e)
{
	uint64_t size = 0;

	if (still_image_size(s->path, s->format, &size, e) < 0) {
		/* Nothing of this host's is at fault. */
		e->cls = ERR_REFUSED;
		return err_wrap(e, "%s", path);
	}
	if (size == want)
		return 0;
	return err_set(e, ERR_REFUSED, "%s (%s) is of %llu bytes, the disk of %llu", path, s->format,
		       (unsigned long long)size, (unsigned long long)want);
}

int seed_image_open(const char *path, char *const *folders, size_t n_folders, uint64_t size_bytes,
		    struct seed_image *out, struct err *e)
{
	struct seed_image s = { .fd = -1 };
	struct stat st = { 0 };
	char link[64];
	FD_AUTO int found = find(path, folders, n_folders, &st, e);

	if (found < 0)
		return -1;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", found);
	if (S_ISBLK(st.st_mode) && check_device(link, path, e) < 0)
		return -1;
	s.fd = open(link, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (s.fd < 0)
		return err_sys(e, "open %s", path);
	s.path = mem_printf("/proc/%d/fd/%d", (int)getpid(), s.fd);
	if (lock(s.fd, path, e) == 0 && look_inside(s.fd, path, &s.format, e) == 0 &&
	    check_size(&s, path, size_bytes, e) == 0) {
		*out = s;
		return 0;
	}
	seed_image_close(&s);
	return -1;
}

void seed_image_close(struct seed_image *s)
{
	if (!s->path)
		return;
	fd_close(&s->fd);
	free(s->path);
	*s = (struct seed_image){ .fd = -1 };
}
