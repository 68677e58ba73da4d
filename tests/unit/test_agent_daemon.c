/* The vmferryd program itself, without a libvirtd: what it tells systemd, signals, exit statuses, --check-config. */
#include "tests/unit/agent_fake_migrator.h" /* for the fixture alone: the program has the real one */
#include "tests/unit/agent_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

static int notify_fd;

static void open_notify(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/notify", fixture_dir);
	ck_assert_int_eq(bind(notify_fd, (const struct sockaddr *)&a, sizeof(a)), 0);
}

/* The next datagram, which must begin like that; WATCHDOG=1 may come at any time, unless it is what is waited for. */
static void expect_notify(const char *begin)
{
	char text[400];
	int64_t end = SOON;
	while (clock_mono_ns() < end) {
		struct pollfd p = { .fd = notify_fd, .events = POLLIN };
		if (poll(&p, 1, 100) <= 0)
			continue;
		ssize_t n = recv(notify_fd, text, sizeof(text) - 1, 0);
		ck_assert_int_gt(n, 0);
		text[n] = '\0';
		if (strncmp(text, begin, strlen(begin)) == 0)
			return;
		ck_assert_msg(strcmp(text, "WATCHDOG=1") == 0, "%s, not %s", text, begin);
	}
	ck_abort_msg("no %s", begin);
}

/* stdout and stderr go to DIR/out. */
static pid_t start_daemon(const char *const args[])
{
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid > 0)
		return pid;
	const char *argv[12] = { VMFERRYD_PROGRAM };
	char own_pid[16];
	for (int i = 0; args[i]; i++)
		argv[i + 1] = args[i];
	int out = open(fixture_path("out"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	snprintf(own_pid, sizeof(own_pid), "%d", (int)getpid());
	setenv("NOTIFY_SOCKET", fixture_path("notify"), 1);
	setenv("WATCHDOG_USEC", "100000", 1);
	setenv("WATCHDOG_PID", own_pid, 1);
	execv(VMFERRYD_PROGRAM, (char *const *)(uintptr_t)argv);
	_exit(127);
}

static int end_of(pid_t pid)
{
	int status = 0;
	for (int64_t end = clock_mono_ns() + 40 * NS_PER_S; clock_mono_ns() < end; usleep(5000)) {
		pid_t got = waitpid(pid, &status, WNOHANG);
		ck_assert_int_ge(got, 0);
		if (got == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
	}
	kill(pid, SIGKILL);
	ck_abort_msg("it did not end");
}

static char *said(void)
{
	struct err e = ERR_INIT;
	char *text = file_read_all(fixture_path("out"), 1 << 20, NULL, &e);
	ck_assert_msg(text != NULL, "%s", e.text);
	return text;
}

static void expect_said(const char *fragment)
{
	MEM_AUTO char *text = said();
	ck_assert_msg(strstr(text, fragment) != NULL, "no \"%s\" in: %s", fragment, text);
}

static const char *conf(void)
{
	return fixture_path("node1.conf");
}

START_TEST(a_whole_life)
{
	struct stat st;
	open_notify();
	/* libvirtd is not there, and "*" is all addresses of both families. */
	fixture_write_config(1, (const char *const[]){ NULL, "", NULL }, NULL);
	char command[300];
	snprintf(command, sizeof(command),
		 "sed -i 's|127.0.0.1\"; port = %u|*\"; port = %u|; s|\"error\"|\"info\"|; "
		 "s|libvirt: { |libvirt: { socket = \"%s/none\"; |' %s",
		 fixture_ports[0], fixture_ports[0], fixture_dir, conf());
	ck_assert_int_eq(system(command), 0);
	pid_t pid = start_daemon((const char *const[]){ "--foreground", "--config", conf(), NULL });
	expect_notify("READY=1\nSTATUS=running");
	expect_notify("WATCHDOG=1");
	struct rpc *r = fixture_local(1);
	json_decref(fixture_must(r, "agent.status", json_object()));
	json_decref(fixture_must(r, "jobs", json_object()));
	rpc_unref(r);
	struct rpc *peer = fixture_peer("node2", 1);
	json_decref(fixture_must(peer, "agent.status", json_object()));
	rpc_unref(peer);
	ck_assert_int_eq(kill(pid, SIGHUP), 0);
	expect_notify("RELOADING=1\nMONOTONIC_USEC=");
	expect_notify("READY=1");
	/* A second agent for the same folders is told so. */
	pid_t second = start_daemon((const char *const[]){ "--config", conf(), NULL });
	ck_assert_int_eq(end_of(second), 1);
	expect_said("another vmferryd runs with the state folder");
	ck_assert_int_eq(kill(pid, SIGTERM), 0);
	expect_notify("STOPPING=1");
	ck_assert_int_eq(end_of(pid), 0);
	ck_assert_int_eq(stat(fixture_path("run1/control.sock"), &st), -1);
	close(notify_fd);
}
END_TEST

START_TEST(killed_and_started_again)
{
	open_notify();
	fixture_write_config(1, (const char *const[]){ NULL, "", NULL }, NULL);
	pid_t pid = start_daemon((const char *const[]){ "--config", conf(), NULL });
	expect_notify("READY=1");
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_int_eq(end_of(pid), 1000 + SIGKILL);
	pid = start_daemon((const char *const[]){ "--config", conf(), NULL });
	expect_notify("READY=1");
	struct rpc *r = fixture_local(1);
	json_decref(fixture_must(r, "agent.status", json_object()));
	rpc_unref(r);
	ck_assert_int_eq(kill(pid, SIGINT), 0);
	ck_assert_int_eq(end_of(pid), 0);
	close(notify_fd);
}
END_TEST

START_TEST(exit_statuses)
{
	ck_assert_int_eq(end_of(start_daemon((const char *const[]){ "--config", "/nonexistent", NULL })), 1);
	expect_said("vmferryd: cannot read the configuration");
	expect_said("what to do: write the file");
	ck_assert_int_eq(end_of(start_daemon((const char *const[]){ "--check-config", "-c", "/nonexistent", NULL })), 2);
	expect_said("vmferryd: cannot read the configuration: open /nonexistent: No such file or directory\n"
		    "  what to do: write the file");
	ck_assert_int_eq(end_of(start_daemon((const char *const[]){ "--check-config", "-c", "/etc", NULL })), 2);
	expect_said("/etc: read: Is a directory");
	ck_assert_int_eq(end_of(start_daemon((const char *const[]){ "--loud", NULL })), 2);
	ck_assert_int_eq(end_of(start_daemon((const char *const[]){ "extra", NULL })), 2);
	ck_assert_int_eq(end_of(start_daemon((const char *const[]){ "--version", NULL })), 0);
	expect_said("vmferryd 0.");
	FILE *f = fopen(fixture_path("bad.conf"), "w");
	ck_assert_ptr_nonnull(f);
	fputs("listen: { port = 0; };\nlgo: { };\n", f);
	fclose(f);
	const char *bad = fixture_path("bad.conf");
	ck_assert_int_eq(end_of(start_daemon((const char *const[]){ "--config", bad, NULL })), 2);
	expect_said("bad.conf:2: lgo: unknown key; did you mean \"log\"?\n");
	expect_said("vmferryd: 2 problems in");
	expect_said("--check-config");
	ck_assert_int_eq(end_of(start_daemon((const char *const[]){ "--check-config", "--config", bad, NULL })), 2);
	expect_said("bad.conf:1: listen.port: 0 is out of range (allowed: 1 to 65535)\n");
	expect_said("bad.conf:2: lgo: unknown key; did you mean \"log\"?\n");
	expect_said("2 problems in");
	fixture_write_config(1, (const char *const[]){ NULL, "\"operate\"", NULL }, NULL);
	ck_assert_int_eq(end_of(start_daemon((const char *const[]){ "--check-config", "-c", conf(), NULL })), 0);
	expect_said("migration.delta_cache = \"512MiB\"\n");
	expect_said("peer node2 = 127.0.0.1 port ");
	expect_said(", may: operate\n");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent_daemon");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 80);
	tcase_add_checked_fixture(t, fixture_set_up, fixture_tear_down);
	tcase_add_test(t, a_whole_life);
	tcase_add_test(t, killed_and_started_again);
	tcase_add_test(t, exit_statuses);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
