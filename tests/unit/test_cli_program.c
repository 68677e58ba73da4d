/* The vmferry program against agents in this process: what it prints, where, and how it exits; Ctrl-C; a terminal. */
#include "tests/unit/agent_fake_migrator.h"
#include "tests/unit/agent_fixture.h"
#include "tests/unit/cli_run.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

static const char *const commands[] = { "pki",    "check",        "hosts",  "vms",     "plan",     "migrate",
					"cancel", "jobs",         "drain",  "protect", "status",   "pause",
					"resume", "unprotect",    "points", "verify",  "failover", "failback",
					"export", "cpu-baseline", "events" };

START_TEST(usage)
{
	EXPECT(2, "", "Usage: vmferry [OPTION...] COMMAND", "--json");
	EXPECT(2, "", "there is no command", "");
	EXPECT(2, "", "did you mean \"migrate\"?", "migrte");
	EXPECT(2, "", "which VM, and to which host?", "migrate");
	EXPECT(2, "", "to which host?", "migrate", "web1");
	EXPECT(2, "", "one argument too many", "migrate", "web1", "node2", "node3");
	EXPECT(2, "", "unrecognized option", "vms", "--loud");
	EXPECT(2, "", "is out of range", "drain", "--jobs=99");
	EXPECT(2, "", "0 is out of range (allowed: 10ms to 30m)", "plan", "a", "b", "--max-downtime=0");
	EXPECT(2, "", "1ms is out of range (allowed: 1s to 30d)", "plan", "a", "b", "--deadline=1ms");
	EXPECT(2, "", "1k is out of range (allowed: from 1M, or unlimited)", "plan", "a", "b", "--bandwidth=1k");
	/* Less than a byte: the bound is that of the option, too. */
	EXPECT(2, "", "--bandwidth: rate '1' is too small (allowed: from 1M, such as 500M or 1G; or unlimited)", "plan",
	       "a", "b", "--bandwidth=1");
	EXPECT(2, "", "not a number", "events", "--since=x");
	EXPECT(2, "", "which VM?", "cancel");
	EXPECT(2, "", "init, issue or show?", "pki");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		EXPECT(0, "--json", "", commands[i], "--help");
		EXPECT(0, "vmferry 0.", "", commands[i], "--version");
	}
	EXPECT(0, "cpu-baseline", "", "--help");
	EXPECT(0, "cpu-baseline", "", "help");
	EXPECT(0, "Usage: vmferry [OPTION...] COMMAND", "", "help");
	EXPECT(0, "--max-downtime", "", "help", "migrate");
	EXPECT(2, "", "there is no command", "help", "frobnicate");
}
END_TEST

START_TEST(no_agent)
{
	EXPECT(4, "", "cannot reach the agent", "vms");
	EXPECT(4, "", "systemctl start vmferryd", "migrate", "a", "b");
	EXPECT(4, "\"class\": \"peer\"", "", "--json", "vms");
	EXPECT(4, "agent", "", "check");
	EXPECT(4, "vmferryd.conf.example", "", "check");
}
END_TEST

START_TEST(tables)
{
	fixture_start_two();
	EXPECT(0, "vm-of-node1 running node1", "", "vms");
	EXPECT(0, "vm-of-node2 running node2", "", "--host=node2", "vms");
	EXPECT(0, "vm-of-node2 running node2", "", "vms", "--host", "node2");
	EXPECT(4, "vm-of-node2 running node2", "not listed", "vms", "--all");
	EXPECT(0, "\"name\": \"vm-of-node1\"", "", "vms", "--json");
	EXPECT(4, "unreachable", "node3", "hosts");
	EXPECT(4, "migrate-in,operate", "", "hosts");
	EXPECT(0, "No migration is under way.", "", "jobs");
	EXPECT(0, "<cpu mode='custom'/>", "", "cpu-baseline", "node2");
	EXPECT(0, "node2 loses nothing", "", "cpu-baseline", "node2");
	EXPECT(4, "", "node3", "cpu-baseline");
	EXPECT(1, "checks", "", "check");
	EXPECT(1, "VM TO\na  node2\nb stayed:\n  too big", "", "drain", "--dry-run", "--to=node2");
	EXPECT(1, "VM TO    TOTAL DOWNTIME ON THE WIRE\na  node2     -        -           -\nb stayed:", "", "drain",
	       "--to=node2");
	EXPECT(3, "", "drain: nod2 is not a peer of node1; did you mean node2?", "drain", "--to=node3", "--to=nod2");
	EXPECT(3, "", "drain: node1 is this host itself", "drain", "--dry-run", "--to=node1");
	EXPECT(0, "instant can move to node2", "", "plan", "instant", "node2");
	EXPECT(3, "refused cannot move to node2", "", "plan", "refused", "node2");
	EXPECT(3, "", "no migration of x is under way", "cancel", "x");
	EXPECT(3, "", "did you mean node2?", "--host", "nde2", "vms");
	EXPECT(0, "agent.started", "", "events");
	EXPECT(0, "{\"seq\":", "", "events", "--json", "-n", "1");
}
END_TEST

START_TEST(migrations)
{
	fixture_start_two();
	EXPECT(0, "instant is now on node2 (running).", "instant -> node2  memory   10 %", "migrate", "instant",
	       "node2");
	EXPECT(0, "\"runs_on\": \"node2\"", "", "migrate", "--json", "instant", "node2");
	EXPECT(0, "\"copy_storage\": true", "", "--json", "migrate", "instant", "node2", "--copy-storage");
	EXPECT(3, "", "the CPU of node2 lacks avx2", "migrate", "refused", "node2");
	EXPECT(3, "", "lacks avx2\n  what to do: baseline\n  warning: clocks differ", "migrate", "refused", "node2");
	EXPECT(3, "\"findings\"", "", "migrate", "--json", "refused", "node2");
	EXPECT(6, "", "stall writes 90 MiB/s", "migrate", "stall", "node2");
}
END_TEST

START_TEST(ctrl_c_cancels_and_waits)
{
	struct run r;
	fixture_start_two();
	RUN(r, "migrate", "slow", "node2");
	wait_for_text(&r, "memory");
	ck_assert_int_eq(kill(r.pid, SIGINT), 0);
	ck_assert_int_eq(finish(&r), 5);
	ck_assert_msg(strstr(text(&r.err_text), "cancelling; press Ctrl-C again") != NULL, "%s", text(&r.err_text));
	ck_assert_msg(strstr(text(&r.err_text), "slow is running on node1 as before") != NULL, "%s", text(&r.err_text));
	done(&r);
}
END_TEST

START_TEST(a_second_ctrl_c_leaves)
{
	struct run r;
	fixture_start_two();
	RUN(r, "migrate", "deaf", "node2");
	wait_for_text(&r, "memory");
	ck_assert_int_eq(kill(r.pid, SIGINT), 0);
	wait_for_text(&r, "cancelling");
	ck_assert_int_eq(kill(r.pid, SIGINT), 0);
	ck_assert_int_eq(finish(&r), 5);
	ck_assert_msg(strstr(text(&r.err_text), "When last heard of, deaf ran on this host") != NULL, "%s",
		      text(&r.err_text));
	ck_assert_msg(strstr(text(&r.err_text), "vmferry jobs") != NULL, "%s", text(&r.err_text));
	done(&r);
	__atomic_store_n(&fake_listen, true, __ATOMIC_SEQ_CST);
}
END_TEST

START_TEST(following_events)
{
	struct run r;
	fixture_start_two();
	RUN(r, "events", "-f", "--json");
	int64_t end = SOON;
	while (!strstr(text(&r.out_text), "agent.started") && clock_mono_ns() < end)
		take(&r);
	agent_event(fixture_agents[0], "test.later", NULL, json_pack("{s:s}", "vm", "x"));
	while (!strstr(text(&r.out_text), "test.later") && clock_mono_ns() < end)
		take(&r);
	ck_assert_int_eq(kill(r.pid, SIGINT), 0);
	ck_assert_int_eq(finish(&r), 0);
	ck_assert_msg(strstr(text(&r.out_text), "\"type\":\"test.later\"") != NULL, "%s", text(&r.out_text));
	done(&r);
}
END_TEST

static unsigned count(const char *in, const char *fragment)
{
	unsigned n = 0;
	for (const char *at = strstr(in, fragment); at; at = strstr(at + 1, fragment))
		n++;
	return n;
}

START_TEST(a_line_on_a_terminal)
{
	struct run r;
	fixture_start_two();
	start(&r, true, (const char *const[]){ "migrate", "slow", "node2", NULL });
	wait_for_text(&r, "memory");
	int64_t end = SOON;
	while (count(text(&r.err_text), "\rslow") < 5 && clock_mono_ns() < end)
		take(&r);
	ck_assert_int_eq(kill(r.pid, SIGINT), 0);
	ck_assert_int_eq(finish(&r), 5);
	/* Every redraw fits the 60 columns; the line is gone before the last words. */
	const char *p = text(&r.err_text);
	unsigned redraws = 0;
	for (const char *line = strstr(p, "\rslow"); line; line = strstr(line + 1, "\rslow")) {
		const char *stop = strstr(line, "\033[K");
		ck_assert_ptr_nonnull(stop);
		ck_assert_int_le(stop - line - 1, 59);
		redraws++;
	}
	ck_assert_uint_ge(redraws, 3);
	const char *last = strstr(p, "vmferry: ");
	ck_assert_ptr_nonnull(last);
	ck_assert_msg(strncmp(last - 4, "\r\033[K", 4) == 0, "%s", p);
	done(&r);
}
END_TEST

START_TEST(certificates_without_an_agent)
{
	struct run r;
	char ca[200], out[200];
	snprintf(ca, sizeof(ca), "--ca=%s/fleet", fixture_dir);
	snprintf(out, sizeof(out), "--out=%s/host9", fixture_dir);
	EXPECT(0, "certificate authority is in", "", "pki", "init", ca);
	EXPECT(3, "", "", "pki", "init", ca);
	EXPECT(0, "host9, good until 20", "", "pki", "issue", "host9", ca, out);
	EXPECT(3, "", "", "pki", "issue", "host9", ca, out);
	EXPECT(0, "host9, good until 20", "", "pki", "issue", "host9", ca, out, "--renew", "--days=10",
	       "--address=192.0.2.1");
	EXPECT(2, "", "allowed: 1 to", "pki", "issue", "host9", "--days=0");
	EXPECT(2, "", "for which host?", "pki", "issue");
	EXPECT(2, "", "", "pki", "issue", "not a name", ca, out);
	EXPECT(2, "", "there is no \"revoke\"", "pki", "revoke", "x");
	char file[200];
	snprintf(file, sizeof(file), "%s/host9/host.pem", fixture_dir);
	RUN(r, "pki", "show", file, "--json");
	ck_assert_int_eq(finish(&r), 0);
	json_t *shown = json_loads(text(&r.out_text), 0, NULL);
	const json_t *cert = json_array_get(json_object_get(shown, "certificates"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(cert, "name")), "host9");
	json_int_t left = json_integer_value(json_object_get(cert, "days_left"));
	ck_assert_msg(left == 9 || left == 10, "%d", (int)left);
	json_decref(shown);
	done(&r);
}
END_TEST

static char *file_text(const char *path)
{
	struct err e = ERR_INIT;
	char *t = file_read_all(path, 1 << 20, NULL, &e);
	ck_assert_msg(t != NULL, "%s", e.text);
	return t;
}

/* Every long option that --help shows is in the manual page ("Fl -name") and in the completion ("--name"). */
START_TEST(help_manual_and_completion_agree)
{
	char *man = file_text(TESTS_DIR "/../tools/man/vmferry.1");
	char *completion = file_text(TESTS_DIR "/../tools/packaging/vmferry.bash-completion");
	unsigned seen = 0;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		struct run r;
		char heading[40];
		snprintf(heading, sizeof(heading), "\n.Ss %s", commands[i]);
		ck_assert_msg(strstr(man, heading) != NULL, "no section for %s", commands[i]);
		ck_assert_msg(strstr(completion, commands[i]) != NULL, "no completion of %s", commands[i]);
		RUN(r, commands[i], "--help");
		ck_assert_int_eq(finish(&r), 0);
		for (const char *o = strstr(text(&r.out_text), " --"); o; o = strstr(o + 1, " --")) {
			char name[40], in_man[48];
			size_t n = strspn(o + 3, "abcdefghijklmnopqrstuvwxyz-");
			ck_assert_uint_lt(n, sizeof(name));
			snprintf(name, sizeof(name), "--%.*s", (int)n, o + 3);
			snprintf(in_man, sizeof(in_man), " -%.*s", (int)n, o + 3);
			ck_assert_msg(strstr(man, in_man) != NULL, "vmferry(1) lacks %s of %s", name, commands[i]);
			ck_assert_msg(strstr(completion, name) != NULL, "completion lacks %s of %s", name, commands[i]);
			seen++;
		}
		done(&r);
	}
	ck_assert_uint_gt(seen, 160);
	free(man);
	free(completion);
}
END_TEST

START_TEST(output_that_cannot_be_written)
{
	struct run r;
	fixture_start_two();
	start(&r, false, (const char *const[]){ "vms", NULL });
	finish(&r);
	done(&r);
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		int full = open("/dev/full", O_WRONLY | O_CLOEXEC), null = open("/dev/null", O_WRONLY | O_CLOEXEC);
		dup2(full, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		exec_child((const char *const[]){ "vms", NULL });
	}
	int status = 0;
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 1);
}
END_TEST

static void set_up(void)
{
	fixture_set_up();
	run_use_socket(fixture_path("run1/control.sock"));
}

int main(void)
{
	Suite *s = suite_create("cli_program");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up, fixture_tear_down);
	tcase_add_test(t, usage);
	tcase_add_test(t, no_agent);
	tcase_add_test(t, tables);
	tcase_add_test(t, migrations);
	tcase_add_test(t, ctrl_c_cancels_and_waits);
	tcase_add_test(t, a_second_ctrl_c_leaves);
	tcase_add_test(t, following_events);
	tcase_add_test(t, a_line_on_a_terminal);
	tcase_add_test(t, certificates_without_an_agent);
	tcase_add_test(t, help_manual_and_completion_agree);
	tcase_add_test(t, output_that_cannot_be_written);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
