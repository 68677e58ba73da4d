/*
 * sys.h - the system calls that durable writes and descriptors make, behind one table, so that tests can fail the n-th.
 */
#ifndef VMFERRY_BASE_SYS_H
#define VMFERRY_BASE_SYS_H

#include <sys/types.h>
#include <sys/uio.h>

struct sys_calls {
	int (*open)(const char *path, int flags, mode_t mode);
	ssize_t (*read)(int fd, void *buf, size_t n);
	ssize_t (*write)(int fd, const void *buf, size_t n);
	ssize_t (*writev)(int fd, const struct iovec *iov, int n);
	ssize_t (*pread)(int fd, void *buf, size_t n, off_t off);
	ssize_t (*pwrite)(int fd, const void *buf, size_t n, off_t off);
	int (*fallocate)(int fd, int mode, off_t off, off_t len);
	int (*fsync)(int fd);
	int (*fdatasync)(int fd);
	int (*rename)(const char *from, const char *to);
	int (*unlink)(const char *path);
	int (*ftruncate)(int fd, off_t len);
	int (*close)(int fd);
};

extern struct sys_calls sys; /* the kernel's, unless a test replaced entries */

#endif
