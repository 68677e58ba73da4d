/* Who may do what: over the local socket, as a peer with and without roles, as a stranger, by way of another agent;
 * and what a reload changes. */
#include "tests/unit/agent_fake_migrator.h"
#include "tests/unit/agent_fixture.h"

#include "migrator/where.h"
#include "tools/vmferryd/calls.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void expect_refused(struct rpc *r, const char *method, json_t *args, const char *fragment)
{
	struct err e = ERR_INIT;
	json_t *result = fixture_call(r, method, args, &e);
	ck_assert_msg(result == NULL, "%s was allowed", method);
	ck_assert_msg(e.cls == ERR_REFUSED, "%s: class %s: %s", method, err_class_name(e.cls), e.text);
	ck_assert_msg(strstr(e.text, fragment) != NULL, "%s", e.text);
}

START_TEST(local_callers_may_everything)
{
	fixture_start_two();
	static const char *const calls[] = { "agent.status", "host.facts", "vms",  "vms.all",      "vm.where",
					     "hosts",        "check",      "jobs", "cpu.baseline", "events" };
	struct rpc *r = fixture_local(1);
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		json_decref(fixture_must(r, calls[i], json_pack("{s:[s]}", "hosts", "node1")));
	struct err e = ERR_INIT;
	ck_assert_ptr_null(fixture_call(r, "no.such.call", json_object(), &e));
	rpc_unref(r);
}
END_TEST

/* call, roles that a peer needs one of */
static const struct {
	const char *call;
	unsigned any_of;
} needs[] = {
	{ "agent.status", 0 },
	{ "host.facts", ROLE_MIGRATE_IN | ROLE_OPERATE },
	{ "vms", ROLE_MIGRATE_IN | ROLE_OPERATE },
	{ "vm.where", ROLE_MIGRATE_IN | ROLE_REPLICATE_IN | ROLE_OPERATE },
	{ "preflight.target", ROLE_MIGRATE_IN },
	{ "migrate.begin", ROLE_MIGRATE_IN },
	{ "migrate.end", ROLE_MIGRATE_IN },
	{ "migrate.export", ROLE_MIGRATE_IN },
	{ "migrate.unexport", ROLE_MIGRATE_IN },
	{ "migrate.define", ROLE_MIGRATE_IN },
	{ "vms.all", ROLE_OPERATE },
	{ "hosts", ROLE_OPERATE },
	{ "check", ROLE_OPERATE },
	{ "plan", ROLE_OPERATE },
	{ "migrate", ROLE_OPERATE },
	{ "jobs", ROLE_OPERATE },
	{ "drain", ROLE_OPERATE },
	{ "cpu.baseline", ROLE_OPERATE },
	{ "events", ROLE_OPERATE },
};
static const struct {
	const char *text;
	unsigned bits;
} grants[] = {
	{ "", 0 },
	{ "\"migrate-in\"", ROLE_MIGRATE_IN },
	{ "\"operate\"", ROLE_OPERATE },
	{ "\"replicate-in\"", ROLE_REPLICATE_IN },
};

START_TEST(peers_may_what_their_roles_say)
{
	fixture_write_config(2, (const char *const[]){ grants[_i].text, NULL, NULL }, NULL);
	fixture_start(2);
	struct rpc *r = fixture_peer("node1", 2);
	for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
		json_t *args = json_pack("{s:s, s:s, s:[s]}", "vm", "instant", "host", "node3", "hosts", "node2");
		if (strcmp(needs[i].call, "drain") == 0)
			json_object_set_new(args, "to", json_pack("[s]", "node1"));
		if (needs[i].any_of == 0 || (needs[i].any_of & grants[_i].bits))
			json_decref(fixture_must(r, needs[i].call, args));
		else
			expect_refused(r, needs[i].call, args, "node1 may not call");
	}
	rpc_unref(r);
}
END_TEST

/* Whatever word `vmferry vms' and `vmferry status' show for a state stands in the manual, and in the protocol's answers. */
START_TEST(every_state_is_explained)
{
	static const char *const words[] = { "crashed", "seeding",      "protected",   "degraded",  "waiting",
					     "paused",  "fenced",       "promoting",   "promoted",  "failed",
					     "active",  "handing-over", "handed-over", "unreadable" };
	const size_t n = sizeof(words) / sizeof(words[0]);
	struct err e = ERR_INIT;
	MEM_AUTO char *man = file_read_all(TESTS_DIR "/../tools/man/vmferry.1", 1 << 20, NULL, &e),
		      *protocol = file_read_all(TESTS_DIR "/../transport/PROTOCOL.md", 1 << 20, NULL, &e);
	ck_assert_msg(man && protocol, "%s", e.text);
	for (size_t i = 0; i < n + WHERE_RUNNING; i++) {
		const char *word = i < n ? words[i]
					 : where_name((enum where)(i - n + 1)); /* what is absent is not shown */
		MEM_AUTO char *in_list = mem_printf(".It Cm %s\n", word), *in_text = mem_printf(".Cm %s\n", word),
			      *with_comma = mem_printf(".Cm %s ,\n", word), *with_stop = mem_printf(".Cm %s .\n", word),
			      *quoted = mem_printf("\"%s\"", word);
		ck_assert_msg(strstr(man, in_list) || strstr(man, in_text) || strstr(man, with_comma) ||
				      strstr(man, with_stop),
			      "vmferry.1 has no %s", word);
		/* The last four are of records, which do not travel; crashed is a reason. */
		ck_assert_msg((i >= n - 4 && i < n) || i == 0 || strstr(protocol, quoted), "PROTOCOL.md has no %s",
			      word);
	}
}
END_TEST

START_TEST(the_protocol_lists_every_call)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *text = file_read_all(TESTS_DIR "/../transport/PROTOCOL.md", 1 << 20, NULL, &e);
	ck_assert_msg(text != NULL, "%s", e.text);
	for (const struct rpc_method *m = calls_methods; m->name; m++) {
		char row[64];
		snprintf(row, sizeof(row), "\n| `%s` | ", m->name);
		const char *at = strstr(text, row);
		ck_assert_msg(at != NULL, "PROTOCOL.md has no %s", m->name);
		/* And says who may, as the table above does. */
		for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
			if (strcmp(needs[i].call, m->name) != 0)
				continue;
			const char *roles = needs[i].any_of == 0                 ? "any peer |"
					    : needs[i].any_of == ROLE_MIGRATE_IN ? "migrate-in |"
					    : needs[i].any_of == ROLE_OPERATE    ? "operate |"
					    : needs[i].any_of & ROLE_REPLICATE_IN
						    ? "migrate-in, replicate-in or operate |"
										 : "migrate-in or operate |";
			at += strlen(row);
			ck_assert_msg(strncmp(at, roles, strlen(roles)) == 0, "PROTOCOL.md: %s: not %s", m->name, roles);
		}
	}
}
END_TEST

START_TEST(strangers_are_refused)
{
	struct err e = ERR_INIT, e2 = ERR_INIT, e3 = ERR_INIT;
	fixture_write_config(2, (const char *const[]){ "", NULL, NULL }, NULL);
	fixture_start(2);
	/* Right CA, but not in the configuration. */
	ck_assert_ptr_null(fixture_link("node3", 2, "control", &e));
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_msg(strstr(e.text, "node3 is not a peer of node2") != NULL, "%s", e.text);
	ck_assert_msg(strstr(e.remedy, "vmferryd.conf of node2") != NULL, "%s", e.remedy);
	/* A name that is known, from another CA. */
	struct err pe = ERR_INIT;
	ck_assert_int_eq(pki_init(fixture_path("ca2"), "other", &pe), 0);
	fixture_issue(fixture_path("ca2"), "node1", fixture_path("false"));
	ck_assert_ptr_null(fixture_link("false", 2, "control", &e2));
	/* "local" is nobody's name. */
	const struct pki_issue_opts local = { .ca_dir = fixture_path("ca"),
					      .host = "local",
					      .out_dir = fixture_path("evil") };
	ck_assert_int_eq(pki_issue(&local, &e3), -1);
}
END_TEST

START_TEST(data_links_need_migrate_in)
{
	struct err e = ERR_INIT;
	fixture_write_config(2, (const char *const[]){ "\"operate\"", NULL, "\"migrate-in\"" }, NULL);
	fixture_start(2);
	ck_assert_ptr_null(fixture_link("node1", 2, "data", &e));
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_msg(strstr(e.text, "node1 may not migrate VMs to node2") != NULL, "%s", e.text);
	ck_assert_int_eq(FAKE_GET(fake_attached), 0);
	struct err e2 = ERR_INIT;
	struct link *l = fixture_link("node3", 2, "data", &e2);
	ck_assert_msg(l != NULL, "%s", e2.text);
	FIXTURE_WAIT(FAKE_GET(fake_attached) == 1);
	link_free(l);
	struct err e4 = ERR_INIT;
	ck_assert_ptr_null(fixture_link("node3", 2, "party\n", &e4));
	ck_assert_msg(strstr(e4.text, "party?") != NULL, "%s", e4.text);
}
END_TEST

START_TEST(calls_are_passed_on_where_operate_is_granted)
{
	fixture_start_two();
	struct rpc *r = fixture_local(1);
	json_t *vms = fixture_must(r, "vms", json_pack("{s:s}", "at", "node2"));
	const json_t *vm = json_array_get(json_object_get(vms, "vms"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(vm, "name")), "vm-of-node2");
	json_decref(vms);
	/* This host's own name is no journey. */
	json_decref(fixture_must(r, "vms", json_pack("{s:s}", "at", "node1")));
	expect_refused(r, "vms", json_pack("{s:s}", "at", "nod2"), "nod2 is not a peer of node1; did you mean node2?");
	rpc_unref(r);
	/* node2 has no role at node1. */
	r = fixture_local(2);
	expect_refused(r, "migrate", json_pack("{s:s, s:s, s:s}", "at", "node1", "vm", "instant", "host", "node2"),
		       "node2 may not call \"migrate\" on node1");
	rpc_unref(r);
	/* What node1 may at node2 is not node2's to lend. */
	r = fixture_peer("node1", 2);
	expect_refused(r, "vms", json_pack("{s:s}", "at", "node3"), "calls of peers are not passed on");
	rpc_unref(r);
}
END_TEST

START_TEST(a_reload_gives_and_takes_roles)
{
	fixture_write_config(2, (const char *const[]){ "", NULL, "" }, NULL);
	fixture_start(2);
	struct rpc *r = fixture_peer("node1", 2), *other = fixture_peer("node3", 2);
	expect_refused(r, "jobs", json_object(), "node1 may not call");
	fixture_write_config(2, (const char *const[]){ "\"operate\"", NULL, "" }, NULL);
	agent_reload(fixture_agents[1]);
	json_decref(fixture_must(r, "jobs", json_object()));
	/* A file that is wrong changes nothing. */
	fixture_write_config(2, (const char *const[]){ "", NULL, "" }, "nonsense = 1;");
	agent_reload(fixture_agents[1]);
	json_decref(fixture_must(r, "jobs", json_object()));
	/* What later migrations do changes too. */
	fixture_write_config(2, (const char *const[]){ "\"operate\"", NULL, "" }, "migration: { max_jobs = 7; };");
	agent_reload(fixture_agents[1]);
	ck_assert_uint_eq(FAKE_GET(fake_max_jobs), 7);
	/* Who is no longer a peer is cut off, others are not. */
	fixture_write_config(2, (const char *const[]){ "\"operate\"", NULL, NULL }, NULL);
	agent_reload(fixture_agents[1]);
	FIXTURE_WAIT(!rpc_alive(other));
	json_decref(fixture_must(r, "jobs", json_object()));
	ck_assert(rpc_alive(r));
	FIXTURE_WAIT(FAKE_GET(fake_closed) == 1);
	rpc_unref(r);
	rpc_unref(other);
}
END_TEST

START_TEST(a_reload_takes_new_certificates)
{
	fixture_start_two();
	char command[300];
	/* node2's certificate and CA are replaced, node1 does not know: it no longer trusts node2. */
	struct err pe = ERR_INIT;
	ck_assert_int_eq(pki_init(fixture_path("ca2"), "other", &pe), 0);
	fixture_issue(fixture_path("ca2"), "node2", fixture_path("new2"));
	snprintf(command, sizeof(command), "cp %s/new2/* %s/node2/", fixture_dir, fixture_dir);
	ck_assert_int_eq(system(command), 0);
	agent_reload(fixture_agents[1]);
	struct rpc *r = fixture_local(1);
	struct err e = ERR_INIT;
	ck_assert_ptr_null(fixture_call(r, "vms", json_pack("{s:s}", "at", "node2"), &e));
	/* node1 gets one of the new CA as well. */
	fixture_issue(fixture_path("ca2"), "node1", fixture_path("new1"));
	snprintf(command, sizeof(command), "cp %s/new1/* %s/node1/", fixture_dir, fixture_dir);
	ck_assert_int_eq(system(command), 0);
	agent_reload(fixture_agents[0]);
	json_decref(fixture_must(r, "vms", json_pack("{s:s}", "at", "node2")));
	rpc_unref(r);
}
END_TEST

START_TEST(other_users_are_refused)
{
	if (geteuid() != 0) {
		printf("skipped: other_users_are_refused needs root\n");
		return;
	}
	fixture_write_config(1, (const char *const[]){ NULL, NULL, NULL }, NULL);
	fixture_start(1);
	struct stat st;
	ck_assert_int_eq(stat(fixture_path("run1/control.sock"), &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	/* Even if someone opens the file to all, the kernel says who calls. */
	ck_assert_int_eq(chmod(fixture_path("run1/control.sock"), 0666), 0);
	ck_assert_int_eq(chmod(fixture_dir, 0755), 0);
	ck_assert_int_eq(chmod(fixture_path("run1"), 0755), 0);
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct err e = ERR_INIT;
		if (setgid(65534) < 0 || setuid(65534) < 0)
			_exit(2);
		struct link *l = link_connect_local(fixture_path("run1/control.sock"),
						    json_pack("{s:s}", "purpose", "control"), SOON, &e);
		_exit(!l && e.cls == ERR_REFUSED && strstr(e.text, "user 65534 may not command this agent") ? 0 : 1);
	}
	int status = 0;
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

static int from_address(const char *from, unsigned port)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	inet_pton(AF_INET, from, &a.sin_addr);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	a.sin_port = htons((uint16_t)port);
	inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

START_TEST(silent_strangers_keep_nobody_out)
{
	int fds[60];
	fixture_write_config(2, (const char *const[]){ "\"operate\"", NULL, NULL }, NULL);
	fixture_start(2);
	for (int i = 0; i < 60; i++)
		fds[i] = from_address("127.0.0.7", fixture_ports[1]);
	struct rpc *r = fixture_peer("node1", 2);
	json_decref(fixture_must(r, "agent.status", json_object()));
	rpc_unref(r);
	/* They are let go after a while: the 25th and on at once, the others at their deadline. */
	char c;
	for (int i = 0; i < 60; i++) {
		ck_assert_int_le(recv(fds[i], &c, 1, 0), 0);
		close(fds[i]);
	}
}
END_TEST

START_TEST(garbage_is_no_handshake)
{
	fixture_write_config(2, (const char *const[]){ "\"operate\"", NULL, NULL }, NULL);
	fixture_start(2);
	int fd = from_address("127.0.0.1", fixture_ports[1]);
	static const char junk[] = "GET / HTTP/1.0\r\n\r\n";
	ck_assert_int_eq(send(fd, junk, sizeof(junk) - 1, MSG_NOSIGNAL), (ssize_t)sizeof(junk) - 1);
	char buf[512];
	while (recv(fd, buf, sizeof(buf), 0) > 0)
		;
	close(fd);
	struct rpc *r = fixture_peer("node1", 2);
	json_decref(fixture_must(r, "agent.status", json_object()));
	rpc_unref(r);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent_roles");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 40);
	tcase_add_checked_fixture(t, fixture_set_up, fixture_tear_down);
	tcase_add_test(t, local_callers_may_everything);
	tcase_add_loop_test(t, peers_may_what_their_roles_say, 0, (int)(sizeof(grants) / sizeof(grants[0])));
	tcase_add_test(t, every_state_is_explained);
	tcase_add_test(t, the_protocol_lists_every_call);
	tcase_add_test(t, strangers_are_refused);
	tcase_add_test(t, data_links_need_migrate_in);
	tcase_add_test(t, calls_are_passed_on_where_operate_is_granted);
	tcase_add_test(t, a_reload_gives_and_takes_roles);
	tcase_add_test(t, a_reload_takes_new_certificates);
	tcase_add_test(t, other_users_are_refused);
	tcase_add_test(t, silent_strangers_keep_nobody_out);
	tcase_add_test(t, garbage_is_no_handshake);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
