#include "migrator/restore_fifo.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "migrator/sessions.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX "restore-"
/* What pipes may have at most without privileges; fewer switches between us and QEMU. */
#define PIPE_BYTES (1 << 20)
/* How long the reader of a head may take to close the file, when it is expected to, and when not. */
#define CLOSE_LIKELY_NS (5 * NS_PER_S)
#define CLOSE_UNLIKELY_NS (0)
#define LOOK_MS 20

struct restore_fifo {
	/* fixed */
	char dir[108];
	char *path;
	bool (*over)(void *ctx);
	void *ctx;
	const volatile bool *cancel;
	int64_t deadline_ns;
	/* of the feeding thread */
	int fd;     /* -1: ended */
	int notify; /* inotify */
	unsigned opens, closes;
	int64_t opened_ns;
	bool early;
};

struct restore_fifo *restore_fifo_new(const char *run_dir, const char *group, struct err *e)
{
	char random[SESSION_ID_LEN], name[SESSION_ID_LEN + sizeof(PREFIX)];
	struct restore_fifo *f = mem_alloc(sizeof(*f));

	f->fd = f->notify = -1;
	if (session_new_id(random, e) < 0)
		goto fail;
	snprintf(name, sizeof(name), PREFIX "%.12s", random);
	if (session_make_dir(run_dir, name, group && *group ? group : NULL, f->dir, sizeof(f->dir), e) < 0) {
		f->dir[0] = 0;
		goto fail;
	}
	f->path = mem_printf("%s/state", f->dir);
	if (mkfifo(f->path, 0600) != 0 || chmod(f->path, 0660) != 0) {
		err_sys(e, "make FIFO %s", f->path);
		goto fail;
	}
	struct stat st;
	/* The folder's group, so that a QEMU which opens it by itself may. */
	if (stat(f->dir, &st) != 0 || chown(f->path, (uid_t)-1, st.st_gid) != 0) {
		err_sys(e, "give FIFO %s to its folder's group", f->path);
		goto fail;
	}
	f->fd = open(f->path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (f->fd < 0) {
		err_sys(e, "open FIFO %s", f->path);
		goto fail;
	}
	(void)fcntl(f->fd, F_SETPIPE_SZ, PIPE_BYTES); /* a smaller one only is slower */
	f->notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (f->notify < 0 || inotify_add_watch(f->notify, f->path, IN_OPEN | IN_CLOSE_NOWRITE) < 0) {
		err_sys(e, "watch FIFO %s", f->path);
		goto fail;
	}
	f->deadline_ns = INT64_MAX;
	return f;
fail:
	restore_fifo_free(f);
	return NULL;
}

void restore_fifo_free(struct restore_fifo *f)
{
	if (!f)
		return;
	restore_fifo_end(f);
	fd_close(&f->notify);
	if (f->path)
		(void)unlink(f->path);
	if (f->dir[0] && rmdir(f->dir) != 0)
		log_warn("restore_left", "folder=%s msg=%s", f->dir, LOG_Q(strerror(errno)));
	free(f->path);
	free(f);
}

const char *restore_fifo_path(const struct restore_fifo *f)
{
	return f->path;
}

void restore_fifo_watch(struct restore_fifo *f, bool (*over)(void *ctx), void *ctx, const volatile bool *cancel,
			int64_t deadline_ns)
{
	f->over = over;
	f->ctx = ctx;
	f->cancel = cancel;
	f->deadline_ns = deadline_ns;
}

static void see(struct restore_fifo *f)
{
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n;

	while ((n = read(f->notify, buf, sizeof(buf))) > 0) {
		for (ssize_t at = 0; at < n;) {
			struct inotify_event ev;
			memcpy(&ev, buf + at, sizeof(ev));
			at += (ssize_t)(sizeof(ev) + ev.len);
			if (ev.mask & IN_OPEN && f->opens++ == 0)
				f->opened_ns = clock_mono_ns();
			if (ev.mask & IN_CLOSE_NOWRITE)
				f->closes++;
			/* One entry can stand for several equal ones in a row, which never are: opens and closes alternate. */
		}
	}
}

/* Why feeding must end; 0: it need not. */
static int broken_off(struct restore_fifo *f, struct err *e)
{
	if (f->cancel && *f->cancel)
		return err_set(e, ERR_CANCELLED, "cancelled");
	if (f->over && f->over(f->ctx)) {
		f->early = true;
		return err_set(e, ERR_LIBVIRT, "libvirt stopped reading the state");
	}
	if (clock_mono_ns() > f->deadline_ns) {
		err_set(e, ERR_SYS, "feeding the state took too long");
		e->errnum = ETIMEDOUT;
		return -1;
	}
	return 0;
}

/* Waits a moment for room (writing) or only for time to pass. */
static void wait_a_moment(struct restore_fifo *f, bool writing)
{
	struct pollfd p[2] = { { .fd = f->notify, .events = POLLIN }, { .fd = f->fd, .events = POLLOUT } };
	(void)poll(p, writing ? 2 : 1, writing ? LOOK_MS : 1);
	see(f);
}

int restore_fifo_write(void *fifo, const void *p, size_t n, struct err *e)
{
	struct restore_fifo *f = fifo;
	const char *at = p;

	while (n > 0) {
		ssize_t done = write(f->fd, at, n);
		if (done >= 0) {
			at += done;
			n -= (size_t)done;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return err_sys(e, "write to FIFO %s", f->path);
		if (broken_off(f, e) < 0)
			return -1;
		wait_a_moment(f, true);
	}
	return 0;
}

static int wait_empty(struct restore_fifo *f, struct err *e)
{
	for (;;) {
		int left = 0;
		if (ioctl(f->fd, FIONREAD, &left) != 0)
			return err_sys(e, "look into FIFO %s", f->path);
		if (left == 0)
			return 0;
		if (broken_off(f, e) < 0)
			return -1;
		wait_a_moment(f, false);
	}
}

int restore_fifo_head(struct restore_fifo *f, const void *p, size_t n, bool likely, struct err *e)
{
	/* Twice is what is known; a third time would be a libvirt that only looked. */
	for (unsigned tries = 0; tries < 3; tries++) {
		if (restore_fifo_write(f, p, n, e) < 0 || wait_empty(f, e) < 0)
			return -1;
		see(f);
		unsigned closes = tries + 1;
		int64_t until = clock_mono_ns() + (likely && tries == 0 ? CLOSE_LIKELY_NS : CLOSE_UNLIKELY_NS);
		while (f->closes < closes && clock_mono_ns() < until) {
			if (broken_off(f, e) < 0)
				return -1;
			wait_a_moment(f, false);
		}
		if (f->closes < closes)
			return 0;
	}
	return err_set(e, ERR_LIBVIRT, "libvirt opened the state's file three times");
}

int restore_fifo_drained(struct restore_fifo *f, struct err *e)
{
	int rc = wait_empty(f, e);
	if (rc == 0)
		fd_close(&f->fd);
	return rc;
}

void restore_fifo_end(struct restore_fifo *f)
{
	fd_close(&f->fd);
	if (!f->path)
		return;
	/* Someone may be waiting in open(2) for a writer: here one is, for a moment. ENXIO: nobody is. */
	int fd = open(f->path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	fd_close(&fd);
}

bool restore_fifo_ended_early(const struct restore_fifo *f)
{
	return f->early;
}

int64_t restore_fifo_opened_ns(const struct restore_fifo *f)
{
	return f->opened_ns;
}

void restore_fifo_clean_up(const char *run_dir)
{
	struct dirent *entry;
	DIR *d = opendir(run_dir);

	while (d && (entry = readdir(d)) != NULL) {
		if (strncmp(entry->d_name, PREFIX, sizeof(PREFIX) - 1) != 0)
			continue;
		MEM_AUTO char *dir = mem_printf("%s/%s", run_dir, entry->d_name);
		MEM_AUTO char *path = mem_printf("%s/state", dir);
		int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
		fd_close(&fd);
		(void)unlink(path);
		if (rmdir(dir) != 0)
			log_warn("restore_left", "folder=%s msg=%s", dir, LOG_Q(strerror(errno)));
	}
	if (d)
		closedir(d);
}
