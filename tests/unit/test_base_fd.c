/* Descriptors: whole reads and writes whatever the kernel hands out, and UNIX sockets. */
#include "base/fd.h"

#include "base/mem.h"
#include "base/sys.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64], path[96];

static void set_up(void)
{
	strcpy(dir, "/tmp/test_fd_XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/sock", dir);
}

static void tear_down(void)
{
	unlink(path);
	ck_assert_int_eq(rmdir(dir), 0);
}

static void make_pipe(int fds[2])
{
	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
}

/* Kernels that interrupt every other call and hand out three bytes at a time. */
static int calls;

static ssize_t stingy_read(int fd, void *buf, size_t n)
{
	if (calls++ % 2 == 0) {
		errno = EINTR;
		return -1;
	}
	return read(fd, buf, n < 3 ? n : 3);
}

static ssize_t stingy_write(int fd, const void *buf, size_t n)
{
	if (calls++ % 2 == 0) {
		errno = EINTR;
		return -1;
	}
	return write(fd, buf, n < 3 ? n : 3);
}

static ssize_t stingy_writev(int fd, const struct iovec *iov, int n)
{
	if (calls++ % 2 == 0) {
		errno = EINTR;
		return -1;
	}
	if (n > IOV_MAX) {
		errno = EINVAL;
		return -1;
	}
	/* What a short write looks like: two whole entries and a byte of the third, or less. */
	uint8_t flat[8];
	size_t len = 0;
	for (int i = 0; i < n && i < 3; i++)
		for (size_t k = 0; k < iov[i].iov_len && len < sizeof(flat) && (i < 2 || k < 1); k++)
			flat[len++] = ((const uint8_t *)iov[i].iov_base)[k];
	return write(fd, flat, len);
}

START_TEST(close_forgets_the_descriptor)
{
	int fds[2];

	make_pipe(fds);
	const int old = fds[0];
	errno = ENOSPC;
	fd_close(&fds[0]);
	ck_assert_int_eq(fds[0], -1);
	ck_assert_int_eq(fcntl(old, F_GETFD), -1);
	fd_close(&fds[0]);
	fd_close(&fds[1]);
	errno = ENOSPC;
	fd_close(&fds[1]);
	ck_assert_int_eq(errno, ENOSPC);
}
END_TEST

START_TEST(reads_and_writes_are_whole)
{
	struct err e = ERR_INIT;
	char in[] = "a text that takes more than one call", out[sizeof(in)] = { 0 };
	int fds[2];

	make_pipe(fds);
	sys.read = stingy_read;
	sys.write = stingy_write;
	ck_assert_msg(fd_write_full(fds[1], in, sizeof(in), &e) == 0, "%s", e.text);
	ck_assert_msg(fd_read_full(fds[0], out, sizeof(out), &e) == 0, "%s", e.text);
	ck_assert_str_eq(out, in);
	ck_assert_int_eq(fd_read_full(fds[0], out, 0, &e), 0);
	fd_close(&fds[0]);
	fd_close(&fds[1]);
}
END_TEST

START_TEST(an_early_end_is_an_error)
{
	struct err e = ERR_INIT;
	char buf[8];
	int fds[2];

	make_pipe(fds);
	ck_assert_int_eq(fd_write_full(fds[1], "abc", 3, &e), 0);
	fd_close(&fds[1]);
	ck_assert_int_eq(fd_read_full(fds[0], buf, 8, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	ck_assert_str_eq(e.text, "unexpected end: 5 bytes missing");
	ck_assert_int_eq(fd_read_some(fds[0], buf, 8, &e), 0);
	fd_close(&fds[0]);
}
END_TEST

START_TEST(errors_of_the_kernel_are_told)
{
	struct err e = ERR_INIT;
	char buf[8] = { 0 };
	struct iovec iov = { .iov_base = buf, .iov_len = sizeof(buf) };

	ck_assert_int_eq(fd_read_full(-1, buf, 8, &e), -1);
	ck_assert_int_eq(e.errnum, EBADF);
	ck_assert_int_eq(fd_read_some(-1, buf, 8, &e), -1);
	ck_assert_int_eq(fd_write_full(-1, buf, 8, &e), -1);
	ck_assert_int_eq(e.errnum, EBADF);
	ck_assert_int_eq(fd_writev_full(-1, &iov, 1, &e), -1);
	ck_assert_int_eq(e.cls, ERR_SYS);
	ck_assert_int_eq(fd_set_nonblock(-1, true, &e), -1);
}
END_TEST

/* `n` entries of 0 to 3 bytes through a pipe; compared with the same bytes in one piece. */
static void writev_round(size_t n)
{
	struct err e = ERR_INIT;
	MEM_AUTO struct iovec *iov = mem_alloc_array(n, sizeof(*iov));
	MEM_AUTO uint8_t *want = mem_alloc(3 * n + 1);
	MEM_AUTO uint8_t *got = mem_alloc(3 * n + 1);
	size_t len = 0;
	int fds[2];

	for (size_t i = 0; i < n; i++) {
		iov[i] = (struct iovec){ .iov_base = want + len, .iov_len = i % 4 };
		for (size_t k = 0; k < i % 4; k++, len++)
			want[len] = (uint8_t)(i * 7 + k);
	}
	make_pipe(fds);
	ck_assert_msg(fd_writev_full(fds[1], iov, n, &e) == 0, "%s", e.text);
	fd_close(&fds[1]);
	ck_assert_msg(fd_read_full(fds[0], got, len, &e) == 0, "%s", e.text);
	ck_assert_int_eq(fd_read_some(fds[0], got + len, 1, &e), 0);
	ck_assert_int_eq(memcmp(got, want, len), 0);
	fd_close(&fds[0]);
}

START_TEST(vectors_are_whole)
{
	writev_round(1);
	writev_round(4);
	writev_round((size_t)IOV_MAX * 3 + 5);
	sys.writev = stingy_writev;
	writev_round(0);
	writev_round(1);
	writev_round(2);
	writev_round(50);
	writev_round((size_t)IOV_MAX + 5);
}
END_TEST

START_TEST(nonblocking_is_switched)
{
	struct err e = ERR_INIT;
	char c;
	int fds[2];

	make_pipe(fds);
	ck_assert_int_eq(fd_set_nonblock(fds[0], true, &e), 0);
	ck_assert_int_eq(fd_read_some(fds[0], &c, 1, &e), -1);
	ck_assert_int_eq(e.errnum, EAGAIN);
	ck_assert_int_eq(fd_set_nonblock(fds[0], false, &e), 0);
	ck_assert_int_eq(fcntl(fds[0], F_GETFL) & O_NONBLOCK, 0);
	fd_close(&fds[0]);
	fd_close(&fds[1]);
}
END_TEST

START_TEST(unix_sockets_listen_and_connect)
{
	struct err e = ERR_INIT;
	struct stat st;
	char c = 'x';

	umask(0777);
	int listener = fd_unix_listen(path, 0660, &e);
	ck_assert_msg(listener >= 0, "%s", e.text);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0660);
	ck_assert_int_eq(fcntl(listener, F_GETFD), FD_CLOEXEC);
	int client = fd_unix_connect(path, &e);
	ck_assert_msg(client >= 0, "%s", e.text);
	ck_assert_int_eq(fcntl(client, F_GETFD), FD_CLOEXEC);
	int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_eq(fd_write_full(client, "y", 1, &e), 0);
	ck_assert_int_eq(fd_read_full(server, &c, 1, &e), 0);
	ck_assert_int_eq(c, 'y');
	fd_close(&server);
	fd_close(&client);
	fd_close(&listener);
	/* Nobody listens any more, the file is still there. */
	ck_assert_int_eq(fd_unix_connect(path, &e), -1);
	ck_assert_int_eq(e.errnum, ECONNREFUSED);
	ck_assert_ptr_nonnull(strstr(e.text, path));
	/* And does not keep the next one from listening. */
	umask(0);
	listener = fd_unix_listen(path, 0600, &e);
	ck_assert_msg(listener >= 0, "%s", e.text);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	fd_close(&listener);
}
END_TEST

START_TEST(files_of_others_are_not_removed)
{
	struct err e = ERR_INIT;
	struct stat st;
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	fd_close(&fd);
	ck_assert_int_eq(fd_unix_listen(path, 0600, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_int_eq(stat(path, &st), 0);
}
END_TEST

START_TEST(bad_socket_paths)
{
	struct err e = ERR_INIT;
	char longer[200];

	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	ck_assert_int_eq(fd_unix_listen(longer, 0600, &e), -1);
	ck_assert_int_eq(e.errnum, ENAMETOOLONG);
	ck_assert_int_eq(fd_unix_connect(longer, &e), -1);
	ck_assert_int_eq(e.errnum, ENAMETOOLONG);
	/* An empty name would be an abstract socket, open to everyone. */
	ck_assert_int_eq(fd_unix_listen("", 0600, &e), -1);
	ck_assert_int_eq(fd_unix_connect(path, &e), -1);
	ck_assert_int_eq(e.errnum, ENOENT);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("fd");
	TCase *t = tcase_create("all");
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, close_forgets_the_descriptor);
	tcase_add_test(t, reads_and_writes_are_whole);
	tcase_add_test(t, an_early_end_is_an_error);
	tcase_add_test(t, errors_of_the_kernel_are_told);
	tcase_add_test(t, vectors_are_whole);
	tcase_add_test(t, nonblocking_is_switched);
	tcase_add_test(t, unix_sockets_listen_and_connect);
	tcase_add_test(t, files_of_others_are_not_removed);
	tcase_add_test(t, bad_socket_paths);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
