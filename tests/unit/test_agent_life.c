/* Starting, stopping and what the agent remembers: one agent per state folder, migrations cancelled at stop with an
 * answer for their callers, events kept, peers asked at once. */
#include "tests/unit/agent_fake_migrator.h"
#include "tests/unit/agent_fixture.h"

#include "base/thread.h"

#include <errno.h>
#include <sys/stat.h>

static void expect_start_error(unsigned node, const char *fragment, const char *remedy)
{
	struct err e = ERR_INIT;
	struct agent *a = fixture_try_start(node, &e);
	ck_assert_msg(a == NULL, "it started");
	ck_assert_msg(strstr(e.text, fragment) != NULL, "%s", e.text);
	ck_assert_msg(strstr(e.remedy, remedy) != NULL, "%s", e.remedy);
}

static const char *const nobody[] = { NULL, NULL, NULL };

START_TEST(what_keeps_it_from_starting)
{
	fixture_write_config(1, nobody, NULL);
	fixture_start(1);
	expect_start_error(1, "another vmferryd runs with the state folder", "systemctl stop vmferryd");
	fixture_write_config(2, nobody, NULL);
	fixture_ports[1] = fixture_ports[0];
	fixture_write_config(2, nobody, NULL);
	expect_start_error(2, "Address already in use", "listen.port");
	fixture_write_config(3, nobody, "control: { group = \"no-such-group-here\"; };");
	expect_start_error(3, "there is no group \"no-such-group-here\"", "groupadd");
	ck_assert_int_eq(unlink(fixture_path("node3/host.key")), 0);
	fixture_write_config(3, nobody, NULL);
	expect_start_error(3, "host.key", "");
}
END_TEST

START_TEST(it_leaves_nothing_behind_and_starts_again)
{
	struct stat st;
	fixture_write_config(1, nobody, NULL);
	for (int i = 0; i < 3; i++) {
		fixture_start(1);
		struct rpc *r = fixture_local(1);
		json_decref(fixture_must(r, "agent.status", json_object()));
		fixture_stop(1);
		FIXTURE_WAIT(!rpc_alive(r));
		rpc_unref(r);
		ck_assert_int_eq(stat(fixture_path("run1/control.sock"), &st), -1);
		ck_assert_int_eq(FAKE_GET(fake_freed), i + 1);
	}
	ck_assert_int_eq(stat(fixture_path("state1"), &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0711);
}
END_TEST

struct slow {
	struct rpc *rpc;
	const char *vm, *at;
	int notes, rc;
	struct err e;
	volatile bool cancel_flag;
};

static void count_note(void *ctx, const json_t *note)
{
	struct slow *s = ctx;
	(void)note;
	FAKE_COUNT(s->notes);
}

static void *migrate_slowly(void *arg)
{
	struct slow *s = arg;
	json_t *args = json_pack("{s:s, s:s}", "vm", s->vm ? s->vm : "slow", "host", "node2");
	if (s->at)
		json_object_set_new(args, "at", json_string(s->at));
	s->rc = rpc_call(s->rpc, "migrate", args, INT64_MAX, count_note, s, &s->cancel_flag, NULL, &s->e);
	return NULL;
}

static void start_slow(struct slow *s, pthread_t *t)
{
	struct err e = ERR_INIT;
	ck_assert_int_eq(thread_start(t, "caller", migrate_slowly, s, &e), 0);
	FIXTURE_WAIT(FAKE_GET(s->notes) > 3);
}

START_TEST(stopping_cancels_and_answers)
{
	fixture_start_two();
	struct slow s = { .rpc = fixture_local(1) };
	pthread_t t;
	start_slow(&s, &t);
	fixture_stop(1);
	pthread_join(t, NULL);
	ck_assert_int_eq(s.rc, -1);
	ck_assert_int_eq(s.e.cls, ERR_CANCELLED);
	ck_assert_msg(strstr(s.e.text, "slow is running on node1 as before") != NULL, "%s", s.e.text);
	rpc_unref(s.rpc);
}
END_TEST

START_TEST(cancelling_a_call_that_was_passed_on)
{
	fixture_start_two();
	struct slow s = { .rpc = fixture_local(1), .at = "node2" };
	pthread_t t;
	start_slow(&s, &t);
	__atomic_store_n(&s.cancel_flag, true, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	ck_assert_int_eq(s.e.cls, ERR_CANCELLED);
	ck_assert_msg(strstr(s.e.text, "slow is running on node2 as before") != NULL, "%s", s.e.text);
	rpc_unref(s.rpc);
}
END_TEST

START_TEST(a_caller_that_goes_away_cancels)
{
	fixture_start_two();
	struct slow s = { .rpc = fixture_local(1) };
	pthread_t t;
	start_slow(&s, &t);
	struct err gone = ERR_INIT;
	err_set(&gone, ERR_CANCELLED, "gone");
	rpc_close(s.rpc, &gone);
	pthread_join(t, NULL);
	FIXTURE_WAIT(__atomic_load_n(&fixture_agents[0]->calls, __ATOMIC_SEQ_CST) == 0);
	rpc_unref(s.rpc);
}
END_TEST

/* The migrator of node1 opens a control connection and a data link to node2 through the agent; node2's migrator
 * learns of their end. */
START_TEST(sessions_end_with_their_connection)
{
	fixture_start_two();
	struct slow s = { .rpc = fixture_local(1), .vm = "begin" };
	pthread_t t;
	start_slow(&s, &t);
	ck_assert_int_eq(FAKE_GET(fake_begun), 1);
	FIXTURE_WAIT(FAKE_GET(fake_attached) == 1);
	ck_assert_int_eq(FAKE_GET(fake_closed), 0);
	fixture_stop(1);
	pthread_join(t, NULL);
	FIXTURE_WAIT(FAKE_GET(fake_closed) == 1);
	rpc_unref(s.rpc);
}
END_TEST

static json_t *read_events(struct rpc *r, json_t *args)
{
	json_t *result = fixture_must(r, "events", args);
	json_t *events = json_incref(json_object_get(result, "events"));
	json_decref(result);
	return events;
}

static const char *type_of(const json_t *events, size_t i)
{
	return json_string_value(json_object_get(json_array_get(events, i), "type"));
}

START_TEST(events_are_kept)
{
	fixture_start_two();
	struct rpc *r = fixture_local(1);
	json_decref(fixture_must(r, "migrate", json_pack("{s:s, s:s}", "vm", "instant", "host", "node2")));
	rpc_unref(r);
	fixture_stop(1);
	fixture_start(1);
	r = fixture_local(1);
	json_t *events = read_events(r, json_object());
	ck_assert_uint_eq(json_array_size(events), 4);
	ck_assert_str_eq(type_of(events, 0), "agent.started");
	ck_assert_str_eq(type_of(events, 1), "migration.started");
	ck_assert_str_eq(type_of(events, 2), "agent.stopped");
	ck_assert_str_eq(type_of(events, 3), "agent.started");
	json_decref(events);
	events = read_events(r, json_pack("{s:i}", "last", 1));
	ck_assert_uint_eq(json_array_size(events), 1);
	json_decref(events);
	events = read_events(r, json_pack("{s:i}", "since", 2));
	ck_assert_uint_eq(json_array_size(events), 2);
	json_decref(events);
	events = read_events(r, json_pack("{s:i, s:i}", "since", 4, "wait_ms", 30));
	ck_assert_uint_eq(json_array_size(events), 0);
	json_decref(events);
	rpc_unref(r);
}
END_TEST

static void *say_something(void *arg)
{
	agent_event(arg, "test.said", NULL, json_object());
	return NULL;
}

START_TEST(waiting_for_an_event)
{
	fixture_write_config(1, nobody, NULL);
	fixture_start(1);
	struct rpc *r = fixture_local(1);
	struct err e = ERR_INIT;
	pthread_t t;
	ck_assert_int_eq(thread_start(&t, "say", say_something, fixture_agents[0], &e), 0);
	json_t *events = read_events(r, json_pack("{s:i, s:i}", "since", 1, "wait_ms", 9000));
	ck_assert_uint_eq(json_array_size(events), 1);
	ck_assert_str_eq(type_of(events, 0), "test.said");
	pthread_join(t, NULL);
	json_decref(events);
	rpc_unref(r);
}
END_TEST

START_TEST(a_broken_event_file_does_not_keep_it_down)
{
	fixture_write_config(1, nobody, NULL);
	ck_assert_int_eq(mkdir(fixture_path("state1"), 0700), 0);
	FILE *f = fopen(fixture_path("state1/events.db"), "w");
	ck_assert_ptr_nonnull(f);
	for (int i = 0; i < 2000; i++)
		fputs("not a database ", f);
	fclose(f);
	fixture_start(1);
	struct rpc *r = fixture_local(1);
	json_t *events = read_events(r, json_object());
	ck_assert_str_eq(type_of(events, 0), "agent.events_set_aside");
	json_decref(events);
	rpc_unref(r);
}
END_TEST

static const json_t *host_named(const json_t *result, const char *name)
{
	size_t i;
	const json_t *host;
	json_array_foreach (json_object_get(result, "hosts"), i, host) {
		if (strcmp(json_string_value(json_object_get(host, "name")), name) == 0)
			return host;
	}
	ck_abort_msg("no %s", name);
}

START_TEST(hosts_are_asked_and_told_apart)
{
	fixture_start_two();
	struct rpc *r = fixture_local(1);
	json_t *result = fixture_must(r, "hosts", json_object());
	ck_assert_uint_eq(json_array_size(json_object_get(result, "hosts")), 3);
	ck_assert(json_is_true(json_object_get(host_named(result, "node1"), "self")));
	const json_t *two = host_named(result, "node2"), *three = host_named(result, "node3");
	ck_assert(json_is_true(json_object_get(two, "reachable")));
	ck_assert_uint_eq(json_array_size(json_object_get(two, "may_there")), 2);
	ck_assert_uint_eq(json_array_size(json_object_get(two, "may_here")), 0);
	ck_assert_str_eq(json_string_value(json_object_get(json_object_get(two, "facts"), "name")), "node2");
	ck_assert(json_is_false(json_object_get(three, "reachable")));
	ck_assert_ptr_nonnull(strstr(json_string_value(json_object_get(three, "error")), "refused"));
	json_decref(result);
	result = fixture_must(r, "vms.all", json_object());
	ck_assert_uint_eq(json_array_size(json_object_get(result, "vms")), 2);
	ck_assert_uint_eq(json_array_size(json_object_get(result, "unreachable")), 1);
	json_decref(result);
	rpc_unref(r);
}
END_TEST

START_TEST(a_peer_that_comes_back_is_found)
{
	fixture_start_two();
	struct rpc *r = fixture_local(1);
	struct err e = ERR_INIT;
	json_decref(fixture_must(r, "vms", json_pack("{s:s}", "at", "node2")));
	fixture_stop(2);
	ck_assert_ptr_null(fixture_call(r, "vms", json_pack("{s:s}", "at", "node2"), &e));
	ck_assert_int_eq(e.cls, ERR_PEER);
	fixture_start(2);
	json_decref(fixture_must(r, "vms", json_pack("{s:s}", "at", "node2")));
	rpc_unref(r);
}
END_TEST

static const char *status_of(const json_t *result, const char *name, const char *fragment)
{
	size_t i;
	const json_t *c;
	json_array_foreach (json_object_get(result, "checks"), i, c) {
		if (strcmp(json_string_value(json_object_get(c, "name")), name) == 0 &&
		    strstr(json_string_value(json_object_get(c, "text")), fragment))
			return json_string_value(json_object_get(c, "status"));
	}
	return "none";
}

START_TEST(the_doctor)
{
	fixture_start_two();
	struct rpc *r = fixture_local(1);
	json_t *result = fixture_must(r, "check", json_object());
	ck_assert_str_eq(status_of(result, "agent", "node1"), "ok");
	ck_assert_str_eq(status_of(result, "libvirt", "9.0.0"), "ok");
	ck_assert_str_eq(status_of(result, "certificate", "host.pem is good for 7"), "ok");
	ck_assert_str_eq(status_of(result, "replica_dir", "replicas has "), "ok");
	ck_assert_str_eq(status_of(result, "peer", "node2 answers"), "ok");
	ck_assert_str_eq(status_of(result, "peer", "node3"), "fail");
	json_decref(result);
	__atomic_store_n(&fake_no_libvirt, true, __ATOMIC_SEQ_CST);
	result = fixture_must(r, "check", json_object());
	ck_assert_str_eq(status_of(result, "libvirt", "libvirtd does not answer"), "fail");
	json_decref(result);
	rpc_unref(r);
}
END_TEST

START_TEST(the_configuration_fills_in)
{
	fixture_write_config(1, (const char *const[]){ NULL, "", NULL },
			     "migration: { max_downtime = \"150ms\"; bandwidth = \"80M\"; };");
	fixture_start(1);
	struct rpc *r = fixture_local(1);
	json_t *result = fixture_must(r, "migrate", json_pack("{s:s, s:s}", "vm", "instant", "host", "node2"));
	const json_t *args = json_object_get(result, "args");
	ck_assert_int_eq(json_integer_value(json_object_get(args, "max_downtime_ms")), 150);
	ck_assert_int_eq(json_integer_value(json_object_get(args, "bandwidth")), 10000000);
	json_decref(result);
	result = fixture_must(r, "migrate",
			      json_pack("{s:s, s:s, s:i, s:i}", "vm", "instant", "host", "node2", "max_downtime_ms", 7,
					"bandwidth", 0));
	args = json_object_get(result, "args");
	ck_assert_int_eq(json_integer_value(json_object_get(args, "max_downtime_ms")), 7);
	ck_assert_int_eq(json_integer_value(json_object_get(args, "bandwidth")), 0);
	json_decref(result);
	result = fixture_must(r, "drain", json_object());
	args = json_object_get(result, "args");
	ck_assert_str_eq(json_string_value(json_array_get(json_object_get(args, "to"), 0)), "node2");
	ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(args, "options"), "max_downtime_ms")), 150);
	json_decref(result);
	rpc_unref(r);
}
END_TEST

/* Its protection stays behind: said of one that has moved, and beforehand of one that would. */
START_TEST(what_a_drain_leaves_behind)
{
	static const char record[] =
		"{\"uuid\":\"6b0e4a2c-0000-4000-8000-000000000001\",\"vm\":\"a\",\"host\":\"node2\","
		"\"epoch\":1,\"role\":\"source\",\"state\":\"paused\",\"rpo_ms\":5000,\"mode\":\"auto\"}";
	struct err e = ERR_INIT;
	fixture_write_config(1, (const char *const[]){ NULL, "", NULL }, NULL);
	ck_assert_int_eq(mkdir(fixture_path("state1"), 0700), 0);
	ck_assert_int_eq(mkdir(fixture_path("state1/protections"), 0700), 0);
	ck_assert_int_eq(file_write_durable(fixture_path(
						    "state1/protections/6b0e4a2c-0000-4000-8000-000000000001.json"),
					    record, strlen(record), 0600, &e),
			 0);
	fixture_start(1);
	struct rpc *r = fixture_local(1);
	for (int dry = 0; dry < 2; dry++) {
		json_t *result = fixture_must(r, "drain", json_pack("{s:b}", "dry_run", dry));
		const json_t *moved = json_array_get(json_object_get(result, "moved"), 0);
		const char *said = json_string_value(json_array_get(json_object_get(moved, "warnings"), 0));
		ck_assert_ptr_nonnull(said);
		ck_assert_ptr_nonnull(strstr(said, dry ? "its protection to node2 would stay behind"
						       : "its protection to node2 has stayed behind"));
		json_decref(result);
	}
	rpc_unref(r);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent_life");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 40);
	tcase_add_checked_fixture(t, fixture_set_up, fixture_tear_down);
	tcase_add_test(t, what_keeps_it_from_starting);
	tcase_add_test(t, it_leaves_nothing_behind_and_starts_again);
	tcase_add_test(t, stopping_cancels_and_answers);
	tcase_add_test(t, cancelling_a_call_that_was_passed_on);
	tcase_add_test(t, a_caller_that_goes_away_cancels);
	tcase_add_test(t, sessions_end_with_their_connection);
	tcase_add_test(t, events_are_kept);
	tcase_add_test(t, waiting_for_an_event);
	tcase_add_test(t, a_broken_event_file_does_not_keep_it_down);
	tcase_add_test(t, hosts_are_asked_and_told_apart);
	tcase_add_test(t, a_peer_that_comes_back_is_found);
	tcase_add_test(t, the_doctor);
	tcase_add_test(t, the_configuration_fills_in);
	tcase_add_test(t, what_a_drain_leaves_behind);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
