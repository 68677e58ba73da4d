/* Fault points: each action does what it says, at the N-th pass, once. */
#include "base/fault.h"

#include "base/clock.h"

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static void arm(const char *spec)
{
	struct err e = ERR_INIT;

	ck_assert_msg(fault_arm(spec, &e) == 0, "%s: %s", spec, e.text);
}

/* Passes the point; 0 or -1. */
static int pass(enum fault_id id)
{
	struct err e = ERR_INIT;
	const int rc = fault_point(id, &e);

	ck_assert_int_eq(err_is_set(&e), rc < 0);
	return rc;
}

START_TEST(nothing_armed_nothing_happens)
{
	for (unsigned i = 0; i < FAULT_COUNT; i++)
		ck_assert_int_eq(pass((enum fault_id)i), 0);
}
END_TEST

START_TEST(fails_once_at_the_nth_pass)
{
	struct err e = ERR_INIT;

	arm("channel.send=fail@3");
	ck_assert_int_eq(pass(FAULT_CHANNEL_SEND), 0);
	ck_assert_int_eq(pass(FAULT_CHANNEL_RECV), 0);
	ck_assert_int_eq(pass(FAULT_CHANNEL_SEND), 0);
	ck_assert_int_eq(fault_point(FAULT_CHANNEL_SEND, &e), -1);
	ck_assert_int_eq(e.cls, ERR_SYS);
	ck_assert_int_eq(e.errnum, EIO);
	ck_assert_str_eq(e.text, "fault injected at channel.send");
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(pass(FAULT_CHANNEL_SEND), 0);
}
END_TEST

START_TEST(several_at_once)
{
	arm("relay.read=fail,relay.write=fail@2,relay.read=fail@3");
	ck_assert_int_eq(pass(FAULT_RELAY_READ), -1);
	ck_assert_int_eq(pass(FAULT_RELAY_READ), 0);
	ck_assert_int_eq(pass(FAULT_RELAY_READ), -1);
	ck_assert_int_eq(pass(FAULT_RELAY_WRITE), 0);
	ck_assert_int_eq(pass(FAULT_RELAY_WRITE), -1);
	arm("relay.read=fail");
	arm("");
	ck_assert_int_eq(pass(FAULT_RELAY_READ), 0);
	arm("relay.read=fail");
	arm(NULL);
	ck_assert_int_eq(pass(FAULT_RELAY_READ), 0);
}
END_TEST

START_TEST(every_point_can_be_armed)
{
	for (unsigned i = 0; i < FAULT_COUNT; i++) {
		char spec[100];
		snprintf(spec, sizeof(spec), "%s=fail", fault_name((enum fault_id)i));
		arm(spec);
		for (unsigned k = 0; k < FAULT_COUNT; k++)
			ck_assert_int_eq(pass((enum fault_id)k), k == i ? -1 : 0);
	}
}
END_TEST

START_TEST(bad_specifications_change_nothing)
{
	static const char *const bad[] = {
		"channel.send",          "no.such.point=fail",        "channel.send=explode",
		"channel.send=fail@0",   "channel.send=fail@",        "channel.send=fail@-1",
		"channel.send=delay",    "channel.send=delay:",       "channel.send=delay:9999999",
		"channel.send=delay:1x", "relay.read=fail,what=fail", "channel.send=fail@99999999999999999999",
		"channel.send="
	};

	arm("channel.recv=fail");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err e = ERR_INIT;
		ck_assert_msg(fault_arm(bad[i], &e) == -1, "'%s' was taken", bad[i]);
		ck_assert_int_eq(e.cls, ERR_CONFIG);
	}
	ck_assert_int_eq(pass(FAULT_RELAY_READ), 0);
	ck_assert_int_eq(pass(FAULT_CHANNEL_RECV), -1);
}
END_TEST

START_TEST(the_environment_arms)
{
	struct err e = ERR_INIT;

	unsetenv("VMFERRY_FAULT");
	ck_assert_int_eq(fault_arm_env(&e), 0);
	setenv("VMFERRY_FAULT", "end.target=fail", 1);
	ck_assert_int_eq(fault_arm_env(&e), 0);
	ck_assert_int_eq(pass(FAULT_END_TARGET), -1);
	setenv("VMFERRY_FAULT", "nonsense", 1);
	ck_assert_int_eq(fault_arm_env(&e), -1);
	ck_assert_ptr_nonnull(strstr(e.text, "VMFERRY_FAULT"));
}
END_TEST

START_TEST(delays)
{
	arm("relay.encode=delay:20");
	const int64_t start = clock_mono_ns();
	ck_assert_int_eq(pass(FAULT_RELAY_ENCODE), 0);
	ck_assert_int_ge(clock_mono_ns() - start, 20 * NS_PER_MS);
}
END_TEST

/* A child passes the armed point, then exits with 7. */
static pid_t spawn_passing(const char *spec, int alarm_ms)
{
	const pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct err e = ERR_INIT;
		const struct itimerval timer = { .it_value = { .tv_usec = alarm_ms * 1000 } };
		signal(SIGALRM, SIG_DFL);
		if (fault_arm(spec, &e) < 0)
			_exit(1);
		setitimer(ITIMER_REAL, &timer, NULL);
		fault_point(FAULT_MIGRATE_START, &e);
		_exit(7);
	}
	return pid;
}

START_TEST(kills)
{
	int status = 0;
	const pid_t pid = spawn_passing("migrate.start=kill", 0);

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), SIGKILL);
}
END_TEST

START_TEST(stops_until_continued)
{
	int status = 0;
	const pid_t pid = spawn_passing("migrate.start=stop", 0);

	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	ck_assert(WIFSTOPPED(status));
	kill(pid, SIGCONT);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 7);
}
END_TEST

START_TEST(hangs)
{
	int status = 0;
	/* Only the alarm ends it. */
	const pid_t pid = spawn_passing("migrate.start=hang", 100);

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), SIGALRM);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("fault");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 30);
	tcase_add_test(t, nothing_armed_nothing_happens);
	tcase_add_test(t, fails_once_at_the_nth_pass);
	tcase_add_test(t, several_at_once);
	tcase_add_test(t, every_point_can_be_armed);
	tcase_add_test(t, bad_specifications_change_nothing);
	tcase_add_test(t, the_environment_arms);
	tcase_add_test(t, delays);
	tcase_add_test(t, kills);
	tcase_add_test(t, stops_until_continued);
	tcase_add_test(t, hangs);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
