#include "base/fd.h"

#include "base/clock.h"
#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_BACKLOG 64

void fd_close(int *fd)
{
	if (*fd < 0)
		return;
	const int saved = errno;
	sys.close(*fd); /* the descriptor is gone even when this fails; trying again could close another's */
	*fd = -1;
	errno = saved;
}

ssize_t fd_read_some(int fd, void *buf, size_t len, struct err *e)
{
	for (;;) {
		const ssize_t n = sys.read(fd, buf, len);
		if (n >= 0)
			return n;
		if (errno != EINTR)
			return err_sys(e, "read");
	}
}

void fd_read_out(int fd, int64_t idle_ns)
{
	char ignored[64 << 10];
	int64_t until = clock_mono_ns() + idle_ns;

	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		const int ready = poll(&p, 1, clock_poll_ms(until));
		if (ready == 0 || (ready < 0 && errno != EINTR))
			return;
		/* It may have been read by another meanwhile. */
		const ssize_t n = recv(fd, ignored, sizeof ignored, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
			return;
		if (n > 0)
			until = clock_mono_ns() + idle_ns;
		else if (clock_mono_ns() >= until)
			return;
	}
}

int fd_read_full(int fd, void *buf, size_t len, struct err *e)
{
	uint8_t *p = buf;

	while (len > 0) {
		const ssize_t n = fd_read_some(fd, p, len, e);
		if (n < 0)
			return -1;
		if (n == 0)
			return err_set(e, ERR_CORRUPT, "unexpected end: %zu bytes missing", len);
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int fd_write_full(int fd, const void *buf, size_t len, struct err *e)
{
	const uint8_t *p = buf;

	while (len > 0) {
		const ssize_t n = sys.write(fd, p, len);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return err_sys(e, "write");
		}
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int fd_writev_full(int fd, struct iovec *iov, size_t n, struct err *e)
{
	while (n > 0) {
		if (iov->iov_len == 0) {
			iov++;
			n--;
			continue;
		}
		const ssize_t written = sys.writev(fd, iov, (int)(n < IOV_MAX ? n : IOV_MAX));
		if (written < 0) {
			if (errno == EINTR)
				continue;
			return err_sys(e, "write");
		}
		size_t done = (size_t)written;
		while (n > 0 && done >= iov->iov_len) {
			done -= iov->iov_len;
			iov++;
			n--;
		}
		if (n > 0) {
			iov->iov_base = (uint8_t *)iov->iov_base + done;
			iov->iov_len -= done;
		}
	}
	return 0;
}

int fd_set_nonblock(int fd, bool on, struct err *e)
{
	const int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0)
		return err_sys(e, "set O_NONBLOCK");
	return 0;
}

static int unix_address(const char *path, struct sockaddr_un *addr, struct err *e)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	const size_t len = strlen(path);
	if (len == 0 || len >= sizeof(addr->sun_path)) {
		errno = len ? ENAMETOOLONG : EINVAL;
		return err_sys(e, "socket %s", path);
	}
	memcpy(addr->sun_path, path, len + 1);
	return 0;
}

static int unix_socket(const char *path, struct err *e)
{
	const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd < 0 ? err_sys(e, "socket %s", path) : fd;
}

/* A socket left behind by a run before us goes; anything else is someone's file. */
static int remove_old_socket(const char *path, struct err *e)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_sys(e, "socket %s", path);
	if (!S_ISSOCK(st.st_mode)) {
		err_set(e, ERR_REFUSED, "socket %s: there is something at that path that is not a socket", path);
		return err_remedy(e, "Move it away, or configure another path.");
	}
	if (sys.unlink(path) < 0 && errno != ENOENT)
		return err_sys(e, "socket %s: remove the old one", path);
	return 0;
}

int fd_unix_listen(const char *path, mode_t mode, struct err *e)
{
	struct sockaddr_un addr;
	FD_AUTO int fd = -1;

	if (unix_address(path, &addr, e) < 0 || remove_old_socket(path, e) < 0)
		return -1;
	fd = unix_socket(path, e);
	if (fd < 0)
		return -1;
	/* The mode of the unbound socket bounds that of the file bind() makes, so it is never wider than `mode`; the
	 * chmod after it gives back what the umask took. */
	if (fchmod(fd, mode) < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_sys(e, "socket %s: bind", path);
	if (chmod(path, mode) < 0 || listen(fd, LISTEN_BACKLOG) < 0) {
		err_sys(e, "socket %s: listen", path);
		sys.unlink(path);
		return -1;
	}
	const int result = fd;
	fd = -1;
	return result;
}

int fd_unix_connect(const char *path, struct err *e)
{
	struct sockaddr_un addr;
	FD_AUTO int fd = -1;

	if (unix_address(path, &addr, e) < 0)
		return -1;
	fd = unix_socket(path, e);
	if (fd < 0)
		return -1;
	while (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		if (errno != EINTR)
			return err_sys(e, "connect to %s", path);
	const int result = fd;
	fd = -1;
	return result;
}
