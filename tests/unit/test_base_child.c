/* Helper programs: what they print, how they end, and that they end. */
#include "base/child.h"
#include "base/clock.h"
#include "base/fd.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int64_t soon(void)
{
	return clock_mono_ns() + 10 * NS_PER_S;
}

START_TEST(captures_stdout)
{
	const char *const argv[] = { "sh", "-c", "echo one; echo two; echo not this >&2", NULL };
	struct err e = ERR_INIT;
	char *out = NULL;

	ck_assert_msg(child_run(argv, soon(), NULL, &out, &e) == 0, "%s", e.text);
	ck_assert_str_eq(out, "one\ntwo\n");
	free(out);
}
END_TEST

START_TEST(failure_has_the_last_line)
{
	const char *const argv[] = { "sh", "-c", "echo first >&2; echo no space left >&2; exit 3", NULL };
	struct err e = ERR_INIT;

	ck_assert_int_eq(child_run(argv, soon(), NULL, NULL, &e), -1);
	ck_assert_str_eq(e.text, "sh: no space left");
	ck_assert_int_eq(e.cls, ERR_SYS);
}
END_TEST

START_TEST(missing_program_has_a_remedy)
{
	const char *const argv[] = { "vmferry-no-such-program", NULL };
	struct err e = ERR_INIT;

	ck_assert_int_eq(child_run(argv, soon(), NULL, NULL, &e), -1);
	ck_assert_int_eq(e.errnum, ENOENT);
	ck_assert_ptr_nonnull(strstr(e.remedy, "install"));
}
END_TEST

START_TEST(deadline_kills)
{
	const char *const argv[] = { "sh", "-c", "trap '' TERM; sleep 60 & wait; sleep 60", NULL };
	struct err e = ERR_INIT;
	int64_t began = clock_mono_ns();

	ck_assert_int_eq(child_run(argv, clock_mono_ns() + 200 * NS_PER_MS, NULL, NULL, &e), -1);
	ck_assert_ptr_nonnull(strstr(e.text, "too long"));
	ck_assert_int_lt(clock_mono_ns() - began, 5 * NS_PER_S);
	/* Reaped. */
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
}
END_TEST

START_TEST(cancel_kills)
{
	const char *const argv[] = { "sleep", "60", NULL };
	struct err e = ERR_INIT;
	volatile bool cancel = true;

	ck_assert_int_eq(child_run(argv, soon(), &cancel, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CANCELLED);
}
END_TEST

START_TEST(no_descriptor_is_inherited)
{
	const char *const argv[] = { "sh", "-c", "test ! -e /proc/self/fd/200", NULL };
	struct err e = ERR_INIT;
	int held = fcntl(2, F_DUPFD_CLOEXEC, 200);

	ck_assert_int_eq(held, 200);
	ck_assert_msg(child_run(argv, soon(), NULL, NULL, &e) == 0, "%s", e.text);
	fd_close(&held);
}
END_TEST

START_TEST(signals_are_as_in_a_new_process)
{
	/* The last 31 bits: what is above belongs to the C library. */
	const char *const argv[] = { "sh", "-c", "grep -E 'SigBlk|SigIgn' /proc/self/status | grep -vE '[08]0000000$'", NULL };
	struct err e = ERR_INIT;
	sigset_t all;

	signal(SIGPIPE, SIG_IGN);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	ck_assert_int_eq(child_run(argv, soon(), NULL, NULL, &e), -1);
}
END_TEST

START_TEST(started_child_is_stopped)
{
	const char *const argv[] = { "sh", "-c", "echo ready; sleep 60", NULL };
	struct err e = ERR_INIT;
	char line[6];
	pid_t pid;
	int out, status;

	ck_assert_int_eq(child_start(argv, &pid, &out, &e), 0);
	ck_assert_int_eq(fd_read_full(out, line, 6, &e), 0);
	ck_assert_mem_eq(line, "ready\n", 6);
	ck_assert_int_eq(child_wait(pid, clock_mono_ns(), &status, &e), 1);
	child_stop(pid);
	ck_assert_int_eq(kill(pid, 0), -1);
	ck_assert_int_eq(errno, ESRCH);
	fd_close(&out);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("child");
	TCase *t = tcase_create("child");

	tcase_set_timeout(t, 20);
	tcase_add_test(t, captures_stdout);
	tcase_add_test(t, failure_has_the_last_line);
	tcase_add_test(t, missing_program_has_a_remedy);
	tcase_add_test(t, deadline_kills);
	tcase_add_test(t, cancel_kills);
	tcase_add_test(t, no_descriptor_is_inherited);
	tcase_add_test(t, signals_are_as_in_a_new_process);
	tcase_add_test(t, started_child_is_stopped);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
