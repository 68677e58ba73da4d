/* Events: order, durability across processes that die, retention, waiting, and databases that are not ours. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/outbox.h"

#include <check.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64], path[96];

static void set_up(void)
{
	strcpy(dir, "/tmp/test_outbox_XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/events.db", dir);
}

static void tear_down(void)
{
	char command[128];
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

static struct outbox *must_open(uint64_t keep)
{
	struct err e = ERR_INIT;
	struct outbox *o = outbox_open(path, keep, &e);
	ck_assert_msg(o != NULL, "%s", e.text);
	return o;
}

static uint64_t must_append(struct outbox *o, const char *type, const char *subject, int value)
{
	struct err e = ERR_INIT;
	uint64_t seq = 0;
	json_t *data = json_pack("{s:i}", "value", value);
	ck_assert_msg(outbox_append(o, type, subject, data, &seq, &e) == 0, "%s", e.text);
	json_decref(data);
	return seq;
}

struct collected {
	json_t *events;
	size_t stop_after;
};

static bool collect(void *ctx, const struct outbox_event *ev)
{
	struct collected *c = ctx;
	json_array_append_new(c->events, outbox_event_json(ev));
	return c->stop_after == 0 || json_array_size(c->events) < c->stop_after;
}

static json_t *read_all(struct outbox *o, uint64_t after, unsigned max)
{
	struct err e = ERR_INIT;
	struct collected c = { .events = json_array() };
	ck_assert_int_eq(outbox_read(o, after, max, collect, &c, &e), (int)json_array_size(c.events));
	return c.events;
}

static json_int_t field(const json_t *events, size_t i, const char *name)
{
	return json_integer_value(json_object_get(json_array_get(events, i), name));
}

START_TEST(appended_events_are_read_in_order)
{
	struct outbox *o = must_open(0);
	ck_assert_uint_eq(outbox_last(o), 0);
	ck_assert_uint_eq(must_append(o, "migration.started", "u-1", 10), 1);
	ck_assert_uint_eq(must_append(o, "migration.done", NULL, 11), 2);
	json_t *all = read_all(o, 0, 100);
	ck_assert_uint_eq(json_array_size(all), 2);
	ck_assert_int_eq(field(all, 0, "seq"), 1);
	const json_t *first = json_array_get(all, 0);
	ck_assert_str_eq(json_string_value(json_object_get(first, "type")), "migration.started");
	ck_assert_str_eq(json_string_value(json_object_get(first, "subject")), "u-1");
	ck_assert_uint_eq(strlen(json_string_value(json_object_get(first, "id"))), 36);
	ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(first, "data"), "value")), 10);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(all, 1), "subject")), "");
	json_decref(all);
	all = read_all(o, 1, 100);
	ck_assert_uint_eq(json_array_size(all), 1);
	ck_assert_int_eq(field(all, 0, "seq"), 2);
	json_decref(all);
	all = read_all(o, UINT64_MAX, 100);
	ck_assert_uint_eq(json_array_size(all), 0);
	json_decref(all);
	struct err e = ERR_INIT;
	struct collected c = { .events = json_array(), .stop_after = 1 };
	ck_assert_int_eq(outbox_read(o, 0, 100, collect, &c, &e), 1);
	json_decref(c.events);
	outbox_close(o);
}
END_TEST

START_TEST(only_the_newest_are_kept)
{
	struct outbox *o = must_open(3);
	for (int i = 1; i <= 10; i++)
		ck_assert_uint_eq(must_append(o, "t", "s", i), (uint64_t)i);
	json_t *all = read_all(o, 0, 100);
	ck_assert_uint_eq(json_array_size(all), 3);
	ck_assert_int_eq(field(all, 0, "seq"), 8);
	json_decref(all);
	outbox_close(o);
	/* Numbers go on after a restart, also when all rows have been deleted. */
	o = must_open(3);
	ck_assert_uint_eq(outbox_last(o), 10);
	outbox_close(o);
	sqlite3 *db = NULL;
	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db, "DELETE FROM events", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	o = must_open(3);
	ck_assert_uint_eq(must_append(o, "t", "s", 0), 11);
	outbox_close(o);
}
END_TEST

START_TEST(survives_a_killed_process)
{
	int fds[2];
	ck_assert_int_eq(pipe(fds), 0);
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		struct err e = ERR_INIT;
		struct outbox *o = outbox_open(path, 0, &e);
		for (int i = 0; o && i < 20; i++)
			if (outbox_append(o, "t", "s", NULL, NULL, &e) < 0)
				_exit(1);
		ssize_t n = write(fds[1], "x", 1);
		(void)n;
		for (;;)
			pause();
	}
	char c;
	ck_assert_int_eq(read(fds[0], &c, 1), 1);
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	struct outbox *o = must_open(0);
	ck_assert_uint_eq(outbox_last(o), 20);
	ck_assert_uint_eq(must_append(o, "t", "s", 1), 21);
	outbox_close(o);
}
END_TEST

static void *append_later(void *arg)
{
	struct outbox *o = arg;
	for (int i = 0; i < 50; i++)
		must_append(o, "t", "s", i);
	return NULL;
}

START_TEST(waiting_sees_what_another_thread_appends)
{
	struct outbox *o = must_open(0);
	struct err e = ERR_INIT;
	pthread_t t;
	ck_assert_int_eq(thread_start(&t, "append", append_later, o, &e), 0);
	uint64_t seen = 0;
	while (seen < 50) {
		ck_assert(outbox_wait(o, seen, clock_mono_ns() + 20 * NS_PER_S));
		json_t *some = read_all(o, seen, 7);
		for (size_t i = 0; i < json_array_size(some); i++)
			ck_assert_int_eq(field(some, i, "seq"), (json_int_t)++seen);
		json_decref(some);
	}
	pthread_join(t, NULL);
	ck_assert(!outbox_wait(o, 50, clock_mono_ns() + 20 * NS_PER_MS));
	outbox_close(o);
}
END_TEST

static void *wake_soon(void *arg)
{
	/* Until the main thread has been let go: it may not be waiting yet. */
	struct {
		struct outbox *o;
		bool done;
	} *w = arg;
	for (int i = 0; i < 2000 && !__atomic_load_n(&w->done, __ATOMIC_ACQUIRE); i++) {
		outbox_wake(w->o);
		usleep(1000);
	}
	return NULL;
}

START_TEST(wake_ends_waiting)
{
	struct {
		struct outbox *o;
		bool done;
	} w = { .o = must_open(0) };
	struct err e = ERR_INIT;
	pthread_t t;
	ck_assert_int_eq(thread_start(&t, "wake", wake_soon, &w, &e), 0);
	int64_t before = clock_mono_ns();
	ck_assert(!outbox_wait(w.o, 0, before + 60 * NS_PER_S));
	ck_assert_int_lt(clock_mono_ns() - before, 10 * NS_PER_S);
	__atomic_store_n(&w.done, true, __ATOMIC_RELEASE);
	pthread_join(t, NULL);
	outbox_close(w.o);
}
END_TEST

static void put_file(const char *text, size_t len)
{
	FILE *f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(text, 1, len, f), len);
	fclose(f);
}

START_TEST(a_broken_file_is_said_and_set_aside)
{
	char junk[8192];
	memset(junk, 'x', sizeof(junk));
	put_file(junk, sizeof(junk));
	struct err e = ERR_INIT;
	ck_assert_ptr_null(outbox_open(path, 0, &e));
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	ck_assert_msg(strstr(e.text, path) != NULL, "%s", e.text);
	ck_assert_str_ne(e.remedy, "");
	MEM_AUTO char *moved = NULL;
	struct err e2 = ERR_INIT;
	ck_assert_msg(outbox_set_aside(path, &moved, &e2) == 0, "%s", e2.text);
	ck_assert_int_eq(access(moved, F_OK), 0);
	struct outbox *o = must_open(0);
	ck_assert_uint_eq(must_append(o, "t", "s", 1), 1);
	outbox_close(o);
}
END_TEST

static void make_database(const char *sql)
{
	sqlite3 *db = NULL;
	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

START_TEST(databases_of_others_are_not_touched)
{
	make_database("CREATE TABLE customers(name TEXT)");
	struct err e = ERR_INIT;
	ck_assert_ptr_null(outbox_open(path, 0, &e));
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	ck_assert_msg(strstr(e.text, "not one of vmferry's") != NULL, "%s", e.text);
}
END_TEST

START_TEST(newer_formats_are_refused)
{
	outbox_close(must_open(0));
	make_database("PRAGMA user_version=3");
	struct err e = ERR_INIT;
	ck_assert_ptr_null(outbox_open(path, 0, &e));
	ck_assert_int_eq(e.cls, ERR_REFUSED);
}
END_TEST

START_TEST(the_first_format_is_taken_over)
{
	make_database("CREATE TABLE events(seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
		      " time_ns INTEGER NOT NULL, type TEXT NOT NULL, subject TEXT NOT NULL, data TEXT NOT NULL);"
		      "INSERT INTO events VALUES(7, 'x', 1, 't', 's', '{}');"
		      "PRAGMA application_id=0x766d6666; PRAGMA user_version=1");
	struct err e = ERR_INIT;
	struct outbox_position pos = { 0 };
	struct outbox *o = must_open(0);
	ck_assert_uint_eq(outbox_last(o), 7);
	ck_assert_uint_eq(outbox_last_state(o), 0);
	ck_assert_msg(outbox_get_position(o, "there", &pos, &e) == 0, "%s", e.text);
	ck_assert_uint_eq(pos.events, 6);
	ck_assert_int_eq(outbox_put_state(o, "point/u/1", NULL, &e), 0);
	outbox_close(o);
}
END_TEST

static bool note_state(void *ctx, const struct outbox_state *st)
{
	char *out = ctx;
	sprintf(out + strlen(out), "%d%s%s ", (int)st->seq, st->key, st->data ? "" : "-");
	return true;
}

static void expect_states(struct outbox *o, uint64_t after, const char *expected)
{
	struct err e = ERR_INIT;
	char out[300] = "";
	ck_assert_msg(outbox_read_states(o, after, 100, note_state, out, &e) >= 0, "%s", e.text);
	ck_assert_str_eq(out, expected);
}

static void must_put(struct outbox *o, const char *key, int value)
{
	struct err e = ERR_INIT;
	json_t *data = value ? json_pack("{s:i}", "value", value) : NULL;
	ck_assert_msg(outbox_put_state(o, key, data, &e) == 0, "%s", e.text);
	json_decref(data);
}

START_TEST(states_have_one_row_a_key)
{
	struct err e = ERR_INIT;
	struct outbox *o = must_open(0);
	must_put(o, "a", 1);
	must_put(o, "b", 1);
	must_put(o, "a", 2);
	must_put(o, "a", 2);
	must_put(o, "c", 1);
	must_put(o, "c", 0);
	must_put(o, "d", 0);
	expect_states(o, 0, "2b 3a ");
	/* They are known now: their ends are told, until these are acknowledged. */
	must_put(o, "b", 0);
	must_put(o, "b", 0);
	expect_states(o, 3, "5b- ");
	outbox_close(o);
	o = must_open(0);
	struct outbox_position pos = { 0 };
	ck_assert_int_eq(outbox_get_position(o, "there", &pos, &e), 0);
	ck_assert_uint_eq(pos.states, 0);
	ck_assert_int_eq(outbox_set_position(o, &(struct outbox_position){ .states = 5 }, &e), 0);
	expect_states(o, 0, "3a ");
	/* A number is never used again, and a position never goes back, but for another target. */
	must_put(o, "e", 1);
	ck_assert_uint_eq(outbox_last_state(o), 6);
	ck_assert_int_eq(outbox_set_position(o, &(struct outbox_position){ .states = 2 }, &e), 0);
	ck_assert_int_eq(outbox_get_position(o, "there", &pos, &e), 0);
	ck_assert_uint_eq(pos.states, 5);
	ck_assert_int_eq(outbox_get_position(o, "elsewhere", &pos, &e), 0);
	ck_assert_uint_eq(pos.states, 0);
	json_t *array = json_array();
	ck_assert_int_eq(outbox_put_state(o, "f", array, &e), -1);
	json_decref(array);
	ck_assert_int_eq(outbox_put_state(o, "", NULL, &e), -1);
	outbox_close(o);
}
END_TEST

START_TEST(several_states_at_once_or_none)
{
	struct err e = ERR_INIT;
	struct outbox *o = must_open(0);
	json_t *data = json_pack("{s:i}", "value", 1), *array = json_array();

	must_put(o, "a", 1);
	const struct outbox_put good[] = { { "b", data }, { "a", NULL }, { "c", data }, { "d", NULL } };
	const struct outbox_put bad[] = { { "e", data }, { "f", array } };
	ck_assert_msg(outbox_put_states(o, good, 4, &e) == 0, "%s", e.text);
	expect_states(o, 0, "2b 3c ");
	ck_assert_int_eq(outbox_put_states(o, bad, 2, &e), -1);
	ck_assert_int_eq(outbox_put_states(o, NULL, 0, &e), 0);
	expect_states(o, 0, "2b 3c ");
	ck_assert_uint_eq(outbox_last_state(o), 3);
	json_decref(data);
	json_decref(array);
	outbox_close(o);
}
END_TEST

START_TEST(what_was_trimmed_unsent_is_counted_with_its_report)
{
	struct err e = ERR_INIT;
	struct outbox *o = must_open(3);
	uint64_t up_to = 0;
	for (int i = 1; i <= 3; i++)
		must_append(o, "t", "s", i);
	ck_assert_int_eq(outbox_skip_trimmed(o, 0, 0, &up_to, &e), 0);
	ck_assert_uint_eq(up_to, 0);
	must_append(o, "t", "s", 4);
	must_append(o, "t", "s", 5);
	/* 1 and 2 are gone, and 3 goes for the report, which is number 6. */
	ck_assert_int_eq(outbox_skip_trimmed(o, 0, 10, &up_to, &e), 3);
	ck_assert_uint_eq(up_to, 3);
	json_t *all = read_all(o, up_to, 10);
	ck_assert_uint_eq(json_array_size(all), 3);
	ck_assert_int_eq(field(all, 0, "seq"), 4);
	const json_t *data = json_object_get(json_array_get(all, 2), "data");
	ck_assert_int_eq(json_integer_value(json_object_get(data, "count")), 3);
	ck_assert_int_eq(json_integer_value(json_object_get(data, "total")), 13);
	ck_assert_int_eq(json_integer_value(json_object_get(data, "first_seq")), 1);
	ck_assert_int_eq(json_integer_value(json_object_get(data, "last_seq")), 3);
	json_decref(all);
	ck_assert_int_eq(outbox_skip_trimmed(o, up_to, 13, &up_to, &e), 0);
	outbox_close(o);
}
END_TEST

START_TEST(a_folder_that_is_missing)
{
	struct err e = ERR_INIT;
	ck_assert_ptr_null(outbox_open("/nonexistent/events.db", 0, &e));
	ck_assert_int_eq(e.cls, ERR_SYS);
}
END_TEST

START_TEST(bad_data_is_refused)
{
	struct outbox *o = must_open(0);
	struct err e = ERR_INIT;
	json_t *array = json_array();
	ck_assert_int_eq(outbox_append(o, "t", NULL, array, NULL, &e), -1);
	json_decref(array);
	char *big = malloc(OUTBOX_MAX_DATA + 1);
	memset(big, 'x', OUTBOX_MAX_DATA);
	big[OUTBOX_MAX_DATA] = '\0';
	json_t *object = json_pack("{s:s}", "x", big);
	ck_assert_int_eq(outbox_append(o, "t", NULL, object, NULL, &e), -1);
	json_decref(object);
	free(big);
	ck_assert_uint_eq(must_append(o, "t", NULL, 1), 1);
	outbox_close(o);
}
END_TEST

/* setrlimit makes writes beyond a size fail, which is what a full disk looks like to SQLite. */
START_TEST(a_full_disk_loses_nothing_that_was_confirmed)
{
	struct outbox *o = must_open(0);
	must_append(o, "t", "s", 1);
	signal(SIGXFSZ, SIG_IGN);
	struct rlimit limit = { .rlim_cur = 400000, .rlim_max = RLIM_INFINITY };
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	char big[30001];
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	json_t *data = json_pack("{s:s}", "x", big);
	struct err e = ERR_INIT;
	uint64_t confirmed = 1, seq = 0;
	while (confirmed < 100 && outbox_append(o, "t", "s", data, &seq, &e) == 0)
		confirmed = seq;
	ck_assert_uint_lt(confirmed, 100);
	ck_assert_uint_gt(confirmed, 1);
	ck_assert(err_is_set(&e));
	ck_assert_uint_eq(outbox_last(o), confirmed);
	/* Room again: it goes on, nothing is missing. */
	limit.rlim_cur = RLIM_INFINITY;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	ck_assert_uint_eq(must_append(o, "t", "s", 2), confirmed + 1);
	json_t *all = read_all(o, 0, 200);
	ck_assert_uint_eq(json_array_size(all), confirmed + 1);
	json_decref(all);
	json_decref(data);
	outbox_close(o);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("outbox");
	TCase *t = tcase_create("all");
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, appended_events_are_read_in_order);
	tcase_add_test(t, only_the_newest_are_kept);
	tcase_add_test(t, survives_a_killed_process);
	tcase_add_test(t, waiting_sees_what_another_thread_appends);
	tcase_add_test(t, wake_ends_waiting);
	tcase_add_test(t, a_broken_file_is_said_and_set_aside);
	tcase_add_test(t, databases_of_others_are_not_touched);
	tcase_add_test(t, newer_formats_are_refused);
	tcase_add_test(t, the_first_format_is_taken_over);
	tcase_add_test(t, states_have_one_row_a_key);
	tcase_add_test(t, several_states_at_once_or_none);
	tcase_add_test(t, what_was_trimmed_unsent_is_counted_with_its_report);
	tcase_add_test(t, a_folder_that_is_missing);
	tcase_add_test(t, bad_data_is_refused);
	tcase_add_test(t, a_full_disk_loses_nothing_that_was_confirmed);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
