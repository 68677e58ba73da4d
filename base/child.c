#include "base/child.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CAPTURE_MAX ((size_t)64 * 1024)
#define POLL_SLICE_NS (20 * NS_PER_MS)

static void sleep_ns(int64_t ns)
{
	struct timespec t = { .tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S };
	nanosleep(&t, NULL);
}

/* in_fd, out_fd, err_fd: what becomes 0, 1, 2; -1: /dev/null for 0, our stderr for the others. */
static int spawn(const char *const argv[], int out_fd, int err_fd, pid_t *pid, struct err *e)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;
	int rc;

	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	/* A group of its own: Ctrl-C at an agent's terminal is for the agent, which then stops its children in order. */
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, out_fd >= 0 ? out_fd : 2, 1);
	if (err_fd >= 0)
		posix_spawn_file_actions_adddup2(&actions, err_fd, 2);
	/* Ours are all CLOEXEC; whoever started us may have left us others. */
	posix_spawn_file_actions_addclosefrom_np(&actions, 3);
	/* execvp does not change the strings; its prototype predates const. */
	union {
		const char *const *in;
		char *const *out;
	} args = { .in = argv };
	rc = posix_spawnp(pid, argv[0], &actions, &attr, args.out, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	if (rc != 0) {
		errno = rc;
		err_sys(e, "start %s", argv[0]);
		if (rc == ENOENT)
			err_remedy(e, "install the program %s (packages qemu-utils, libnbd-bin)", argv[0]);
		return -1;
	}
	return 0;
}

int child_start(const char *const argv[], pid_t *pid, int *out_fd, struct err *e)
{
	int pipe_fds[2] = { -1, -1 };

	if (out_fd && pipe2(pipe_fds, O_CLOEXEC) != 0)
		return err_sys(e, "pipe");
	int rc = spawn(argv, pipe_fds[1], -1, pid, e);
	fd_close(&pipe_fds[1]);
	if (rc != 0) {
		fd_close(&pipe_fds[0]);
		return -1;
	}
	if (out_fd)
		*out_fd = pipe_fds[0];
	return 0;
}

int child_wait(pid_t pid, int64_t deadline_ns, int *status, struct err *e)
{
	for (;;) {
		pid_t got = waitpid(pid, status, WNOHANG);
		if (got == pid)
			return 0;
		if (got < 0 && errno != EINTR)
			return err_sys(e, "wait for process %d", (int)pid);
		if (clock_mono_ns() >= deadline_ns)
			return 1;
		sleep_ns(5 * NS_PER_MS);
	}
}

void child_stop(pid_t pid)
{
	struct err ignored = ERR_INIT;
	int status;

	if (pid <= 0)
		return;
	kill(pid, SIGTERM);
	if (child_wait(pid, clock_mono_ns() + NS_PER_S, &status, &ignored) != 1)
		return;
	kill(pid, SIGKILL);
	child_wait(pid, INT64_MAX, &status, &ignored);
}

/* Appends what is there to b, capped; -1 at the end of the pipe. */
static int drain(int fd, struct buf *b)
{
	char chunk[4096];
	ssize_t n = read(fd, chunk, sizeof chunk);
	if (n < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -1;
	if (n == 0)
		return -1;
	if (b->len < CAPTURE_MAX)
		buf_append(b, chunk, (size_t)n);
	return 0;
}

/* 0 when both pipes have ended; -1 on deadline or cancel. */
static int capture(int fds[2], struct buf out[2], int64_t deadline_ns, const volatile bool *cancel, struct err *e)
{
	while (fds[0] >= 0 || fds[1] >= 0) {
		struct pollfd p[2] = { { .fd = fds[0], .events = POLLIN }, { .fd = fds[1], .events = POLLIN } };
		int64_t now = clock_mono_ns();
		if (cancel && *cancel)
			return err_set(e, ERR_CANCELLED, "cancelled");
		if (now >= deadline_ns)
			return err_set(e, ERR_SYS, "took too long");
		int64_t until = deadline_ns - now > POLL_SLICE_NS ? now + POLL_SLICE_NS : deadline_ns;
		if (poll(p, 2, clock_poll_ms(until)) < 0 && errno != EINTR)
			return err_sys(e, "poll");
		for (int i = 0; i < 2; i++)
			if ((p[i].revents & (POLLIN | POLLHUP | POLLERR)) && drain(fds[i], &out[i]) != 0)
				fd_close(&fds[i]);
	}
	return 0;
}

/* For the child that closed its pipes and goes on; stopped at the deadline or when cancelled. */
static int wait_cancellable(pid_t pid, int64_t deadline_ns, const volatile bool *cancel, int *status, struct err *e)
{
	for (;;) {
		const int64_t now = clock_mono_ns();
		const int64_t slice = deadline_ns - now > POLL_SLICE_NS ? now + POLL_SLICE_NS : deadline_ns;
		const int rc = child_wait(pid, slice, status, e);
		if (rc <= 0)
			return rc;
		if (cancel && *cancel)
			err_set(e, ERR_CANCELLED, "cancelled");
		else if (clock_mono_ns() >= deadline_ns)
			err_set(e, ERR_SYS, "took too long");
		else
			continue;
		child_stop(pid);
		return -1;
	}
}

/* The last line that says something. */
static const char *last_line(struct buf *b)
{
	buf_append(b, "", 1);
	char *text = (char *)b->data;
	size_t n = strlen(text);
	while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
		text[--n] = 0;
	char *nl = strrchr(text, '\n');
	return nl ? nl + 1 : text;
}

int child_run(const char *const argv[], int64_t deadline_ns, const volatile bool *cancel, char **out, struct err *e)
{
	int out_pipe[2] = { -1, -1 }, err_pipe[2] = { -1, -1 };
	struct buf got[2] = { BUF_INIT, BUF_INIT };
	pid_t pid = -1;
	int status = 0, rc = -1;

	if (pipe2(out_pipe, O_CLOEXEC) != 0 || pipe2(err_pipe, O_CLOEXEC) != 0) {
		err_sys(e, "pipe");
		goto out;
	}
	if (spawn(argv, out_pipe[1], err_pipe[1], &pid, e) != 0)
		goto out;
	fd_close(&out_pipe[1]);
	fd_close(&err_pipe[1]);
	int fds[2] = { out_pipe[0], err_pipe[0] };
	int captured = capture(fds, got, deadline_ns, cancel, e);
	out_pipe[0] = fds[0];
	err_pipe[0] = fds[1];
	if (captured != 0) {
		child_stop(pid);
		err_wrap(e, "%s", argv[0]);
		goto out;
	}
	if (wait_cancellable(pid, deadline_ns, cancel, &status, e) != 0) {
		err_wrap(e, "%s", argv[0]);
		goto out;
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		if (WIFSIGNALED(status))
			err_set(e, ERR_SYS, "%s was killed by signal %d", argv[0], WTERMSIG(status));
		else
			err_set(e, ERR_SYS, "%s: %s", argv[0], last_line(&got[1]));
		goto out;
	}
	if (out) {
		buf_append(&got[0], "", 1);
		*out = (char *)got[0].data;
		got[0] = (struct buf)BUF_INIT;
	}
	rc = 0;
out:
	fd_close(&out_pipe[0]);
	fd_close(&out_pipe[1]);
	fd_close(&err_pipe[0]);
	fd_close(&err_pipe[1]);
	buf_fini(&got[0]);
	buf_fini(&got[1]);
	return rc;
}
