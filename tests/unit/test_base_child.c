/* Helper programs: what they print, how they end, and that none outlives its deadline. */
#include "base/child.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int64_t in_s(int64_t s)
{
	return clock_mono_ns() + s * NS_PER_S;
}

static int shell(const char *script, int64_t deadline_ns, char **out, struct err *e)
{
	const char *const argv[] = { "sh", "-c", script, NULL };

	return child_run(argv, deadline_ns, NULL, out, e);
}

START_TEST(output_is_captured)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *out = NULL;

	ck_assert_msg(shell("echo one; echo two; echo noise >&2", in_s(20), &out, &e) == 0, "%s", e.text);
	ck_assert_str_eq(out, "one\ntwo\n");
	ck_assert_int_eq(shell("true", in_s(20), NULL, &e), 0);
}
END_TEST

START_TEST(much_output_neither_blocks_nor_fills_memory)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *out = NULL;

	ck_assert_msg(shell("head -c 1000000 /dev/zero | tr '\\0' x; head -c 1000000 /dev/zero >&2", in_s(20), &out,
			    &e) == 0,
		      "%s", e.text);
	ck_assert_uint_ge(strlen(out), 64 * 1024);
	ck_assert_uint_le(strlen(out), 64 * 1024 + 4096);
}
END_TEST

START_TEST(failures_say_why)
{
	struct err e = ERR_INIT;
	char *out = NULL;

	ck_assert_int_eq(shell("echo first >&2; echo 'no space left' >&2; exit 3", in_s(20), &out, &e), -1);
	ck_assert_ptr_null(out);
	ck_assert_int_eq(e.cls, ERR_SYS);
	ck_assert_str_eq(e.text, "sh: no space left");
	ck_assert_int_eq(shell("kill -9 $$", in_s(20), NULL, &e), -1);
	ck_assert_ptr_nonnull(strstr(e.text, "signal 9"));
	const char *const missing[] = { "vmferry-no-such-program", NULL };
	ck_assert_int_eq(child_run(missing, in_s(20), NULL, NULL, &e), -1);
	ck_assert_int_eq(e.errnum, ENOENT);
	ck_assert_str_ne(e.remedy, "");
}
END_TEST

START_TEST(the_deadline_holds)
{
	/* The last one has closed its pipes, so that only its end could be waited for. */
	static const char *const scripts[] = { "exec sleep 60", "exec >/dev/null 2>&1; exec sleep 60" };

	for (size_t i = 0; i < 2; i++) {
		struct err e = ERR_INIT;
		const int64_t start = clock_mono_ns();
		ck_assert_int_eq(shell(scripts[i], start + 100 * NS_PER_MS, NULL, &e), -1);
		ck_assert_str_eq(e.text, "sh: took too long");
		ck_assert_int_lt(clock_mono_ns() - start, 30 * NS_PER_S);
		ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1); /* nothing is left to reap */
	}
}
END_TEST

START_TEST(cancelling)
{
	static const char *const argv[] = { "sleep", "60", NULL };
	struct err e = ERR_INIT;
	const volatile bool cancel = true;

	ck_assert_int_eq(child_run(argv, in_s(60), &cancel, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CANCELLED);
}
END_TEST

START_TEST(signals_and_descriptors_are_not_inherited)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *out = NULL;
	sigset_t all, old;
	int fds[2];
	int foreign = open("/dev/null", O_RDONLY); /* such as a careless parent leaves behind */

	ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
	ck_assert_int_ge(foreign, 3);
	sigfillset(&all);
	signal(SIGPIPE, SIG_IGN);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	const int rc = shell("grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd", in_s(20), &out, &e);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	ck_assert_msg(rc == 0, "%s", e.text);
	/* 3 is ls's own look at the folder. The two signals that libc keeps for itself may be ignored or not. */
	char *ignored = strstr(out, "SigIgn:\t");
	ck_assert_ptr_nonnull(ignored);
	ck_assert_uint_eq(strtoull(ignored + 8, NULL, 16) & ~UINT64_C(0x180000000), 0);
	ck_assert_int_eq(strncmp(out, "SigBlk:\t0000000000000000\n", 25), 0);
	ck_assert_str_eq(strchr(ignored, '\n'), "\n0\n1\n2\n3\n");
	fd_close(&foreign);
	fd_close(&fds[0]);
	fd_close(&fds[1]);
}
END_TEST

START_TEST(started_watched_and_stopped)
{
	static const char *const argv[] = { "sh", "-c", "echo ready; exec cat /dev/zero >/dev/null", NULL };
	struct err e = ERR_INIT;
	pid_t pid = -1;
	int out = -1, status = 0;
	char text[6];

	ck_assert_msg(child_start(argv, &pid, &out, &e) == 0, "%s", e.text);
	ck_assert_int_eq(fd_read_full(out, text, sizeof(text), &e), 0);
	ck_assert_int_eq(memcmp(text, "ready\n", 6), 0);
	fd_close(&out);
	ck_assert_int_eq(child_wait(pid, 0, &status, &e), 1);
	child_stop(pid);
	ck_assert_int_eq(kill(pid, 0), -1);
	child_stop(-1);
	child_stop(0);
	ck_assert_int_eq(child_wait(pid, in_s(1), &status, &e), -1);
	ck_assert_int_eq(e.errnum, ECHILD);
}
END_TEST

START_TEST(who_ignores_sigterm_is_killed)
{
	static const char *const argv[] = { "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done", NULL };
	struct err e = ERR_INIT;
	pid_t pid = -1;
	int out = -1;
	char text[6];

	ck_assert_int_eq(child_start(argv, &pid, &out, &e), 0);
	ck_assert_int_eq(fd_read_full(out, text, sizeof(text), &e), 0);
	child_stop(pid);
	ck_assert_int_eq(kill(pid, 0), -1);
	fd_close(&out);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("child");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_test(t, output_is_captured);
	tcase_add_test(t, much_output_neither_blocks_nor_fills_memory);
	tcase_add_test(t, failures_say_why);
	tcase_add_test(t, the_deadline_holds);
	tcase_add_test(t, cancelling);
	tcase_add_test(t, signals_and_descriptors_are_not_inherited);
	tcase_add_test(t, started_watched_and_stopped);
	tcase_add_test(t, who_ignores_sigterm_is_killed);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
