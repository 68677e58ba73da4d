/*
 * cli_run.h - runs the vmferry program as a shell or a terminal would, and looks at what it says and how it exits.
 * For test programs that have VMFERRY_PROGRAM.
 */
#ifndef VMFERRY_TESTS_CLI_RUN_H
#define VMFERRY_TESTS_CLI_RUN_H

#include "base/buf.h"
#include "base/clock.h"

#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define RUN_HELPER __attribute__((unused)) static
#ifndef SOON
#define SOON (clock_mono_ns() + 10 * NS_PER_S)
#endif

static char run_socket[200];

/* Of the agent that the program talks to. */
RUN_HELPER void run_use_socket(const char *path)
{
	snprintf(run_socket, sizeof(run_socket), "%s", path);
}

struct run {
	pid_t pid;
	int out, err; /* pipes, or the terminal's master in err */
	struct buf out_text, err_text;
};
#define ARGS_MAX 16

RUN_HELPER void exec_child(const char *const args[])
{
	const char *argv[ARGS_MAX + 4] = { VMFERRY_PROGRAM };
	int n = 1;
	for (int i = 0; args[i] && n < ARGS_MAX; i++)
		argv[n++] = args[i];
	signal(SIGPIPE, SIG_DFL);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setenv("VMFERRY_SOCKET", run_socket, 1);
	execv(VMFERRY_PROGRAM, (char *const *)(uintptr_t)argv);
	_exit(127);
}

RUN_HELPER void start(struct run *r, bool terminal, const char *const args[])
{
	int out[2], err[2] = { -1, -1 }, master = -1, slave = -1;
	*r = (struct run){ .out = -1, .err = -1 };
	ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
	if (terminal) {
		struct winsize size = { .ws_col = 60, .ws_row = 24 };
		ck_assert_int_eq(openpty(&master, &slave, NULL, NULL, &size), 0);
	} else {
		ck_assert_int_eq(pipe2(err, O_CLOEXEC), 0);
	}
	r->pid = fork();
	ck_assert_int_ge(r->pid, 0);
	if (r->pid == 0) {
		dup2(out[1], STDOUT_FILENO);
		dup2(terminal ? slave : err[1], STDERR_FILENO);
		setenv("TERM", "xterm", 1);
		exec_child(args);
	}
	close(out[1]);
	close(terminal ? slave : err[1]);
	r->out = out[0];
	r->err = terminal ? master : err[0];
}

/* Takes in what there is; false when both have ended. */
RUN_HELPER bool take(struct run *r)
{
	struct pollfd p[2] = { { .fd = r->out, .events = POLLIN }, { .fd = r->err, .events = POLLIN } };
	struct buf *texts[2] = { &r->out_text, &r->err_text };
	int *fds[2] = { &r->out, &r->err };
	if (r->out < 0 && r->err < 0)
		return false;
	poll(p, 2, 100);
	for (int i = 0; i < 2; i++) {
		char chunk[4096];
		if (*fds[i] < 0 || !p[i].revents)
			continue;
		ssize_t n = read(*fds[i], chunk, sizeof(chunk));
		if (n > 0) {
			buf_printf(texts[i], "%.*s", (int)n, chunk);
		} else {
			close(*fds[i]);
			*fds[i] = -1;
		}
	}
	return true;
}

RUN_HELPER const char *text(const struct buf *b)
{
	return b->data ? (const char *)b->data : "";
}

RUN_HELPER void wait_for_text(struct run *r, const char *fragment)
{
	int64_t end = SOON;
	while (!strstr(text(&r->err_text), fragment) && clock_mono_ns() < end)
		if (!take(r))
			break;
	ck_assert_msg(strstr(text(&r->err_text), fragment) != NULL, "no \"%s\" in: %s", fragment, text(&r->err_text));
}

RUN_HELPER int finish(struct run *r)
{
	int64_t end = SOON;
	while (clock_mono_ns() < end && take(r))
		;
	int status = 0;
	ck_assert_int_eq(waitpid(r->pid, &status, 0), r->pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

RUN_HELPER void done(struct run *r)
{
	buf_fini(&r->out_text);
	buf_fini(&r->err_text);
}

/* The program with a terminal of `columns` for all three of its streams; what it shows is in err_text. */
RUN_HELPER void run_on_terminal(struct run *r, unsigned short columns, const char *const args[])
{
	struct winsize size = { .ws_col = columns, .ws_row = 24 };
	int master = -1, slave = -1;
	*r = (struct run){ .out = -1, .err = -1 };
	ck_assert_int_eq(openpty(&master, &slave, NULL, NULL, &size), 0);
	fcntl(master, F_SETFD, FD_CLOEXEC);
	r->pid = fork();
	ck_assert_int_ge(r->pid, 0);
	if (r->pid == 0) {
		setsid();
		for (int fd = 0; fd < 3; fd++)
			dup2(slave, fd);
		close(slave);
		setenv("TERM", "xterm", 1);
		unsetenv("NO_COLOR");
		exec_child(args);
	}
	close(slave);
	r->err = master;
}

#define RUN(r, ...) start(&(r), false, (const char *const[]){ __VA_ARGS__, NULL })

RUN_HELPER void expect(int code, const char *out, const char *err, const char *const args[])
{
	struct run r;
	start(&r, false, args);
	int got = finish(&r);
	ck_assert_msg(got == code, "exit %d, not %d: %s%s", got, code, text(&r.out_text), text(&r.err_text));
	ck_assert_msg(strstr(text(&r.out_text), out) != NULL, "stdout lacks \"%s\": %s", out, text(&r.out_text));
	ck_assert_msg(strstr(text(&r.err_text), err) != NULL, "stderr lacks \"%s\": %s", err, text(&r.err_text));
	done(&r);
}
#define EXPECT(code, out, err, ...) expect(code, out, err, (const char *const[]){ __VA_ARGS__, NULL })

#endif
