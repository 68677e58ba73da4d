/*
 * fd.h - descriptors: always CLOEXEC, full reads and writes, close that is never retried. Paths that touch the kernel
 * go through the table in sys.h, so that a test can make the n-th call fail.
 */
#ifndef VMFERRY_BASE_FD_H
#define VMFERRY_BASE_FD_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Closes and sets to -1; -1 is fine. */
void fd_close(int *fd);
#define FD_AUTO __attribute__((cleanup(fd_close)))

/* Exactly len bytes. EOF before that is ERR_CORRUPT "unexpected end". */
int fd_read_full(int fd, void *buf, size_t len, struct err *e);
int fd_write_full(int fd, const void *buf, size_t len, struct err *e);
/* Consumes the vector (entries are modified). Handles short writes and IOV_MAX. */
int fd_writev_full(int fd, struct iovec *iov, size_t n, struct err *e);
/* Up to len bytes; 0 is EOF; retries EINTR; -1 with the error set. */
ssize_t fd_read_some(int fd, void *buf, size_t len, struct err *e);

/* Reads a socket to its end and throws away what comes: until EOF, an error, or idle_ns without a byte. */
void fd_read_out(int fd, int64_t idle_ns);

int fd_set_nonblock(int fd, bool on, struct err *e);

/* UNIX stream sockets. Listening unlinks a socket that was there and refuses anything else; the socket file has `mode`,
 * at no moment more. */
int fd_unix_listen(const char *path, mode_t mode, struct err *e);
int fd_unix_connect(const char *path, struct err *e);

#endif
