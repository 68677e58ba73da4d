/* File systems that were frozen at the instant of a point are thawed after a failover: once, and without waiting for a guest that does not answer. */
#include "failover_host.h"

static unsigned agent_count(const unsigned *n)
{
	THREAD_LOCKED(&agent.lock);
	return *n;
}

static bool frozen_on_disk(void)
{
	struct err e = ERR_INIT;
	json_t *r = records.load(records.ctx, &e);
	const bool frozen = failover_is_frozen(r);
	ck_assert_msg(r != NULL, "%s", e.text);
	json_decref(r);
	return frozen;
}

/* They are frozen in the memory that it goes on with. */
START_TEST(quiesced_point)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	json_t *report = NULL;

	no_agent = _i == 1;
	o.paused = _i == 2;
	(void)vm_store_put(store, "quiesced", _i == 3 ? "disk" : "memory", NULL, NULL, 0);
	ck_assert_msg(failover_run(store, &o, &report, &e) == 0, "%s", e.text);
	assert_state("promoted", 4);
	ck_assert_uint_eq(thawed, _i == 0);
	MEM_AUTO char *findings = json_dumps(json_object_get(report, "findings"), 0);
	ck_assert_msg((strstr(findings, "virsh domfsthaw web1") != NULL) == (_i == 1 || _i == 2), "%s", findings);
	json_decref(report);
	ck_assert(frozen_on_disk() == (_i == 1 || _i == 2));
}
END_TEST

static void check_thaw(bool good, bool now)
{
	struct err e = ERR_INIT;
	const unsigned before = thawed;
	enum failover_thawed how = FAILOVER_LEFT_FROZEN;

	ck_assert_int_eq(failover_thaw(&records, &ops, NULL, FAILOVER_THAW_NS, &how, &e), good ? 0 : -1);
	ck_assert_msg(good != err_is_set(&e), "%s", e.text);
	ck_assert_int_eq(how, now ? FAILOVER_THAWED : FAILOVER_NOT_FROZEN);
	ck_assert_uint_eq(thawed, before + now);
	ck_assert(frozen_on_disk() != good);
}

/* Until its agent answers, and once. */
START_TEST(one_that_stays_frozen_is_thawed_later)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();

	no_agent = true;
	(void)vm_store_put(store, "quiesced", "memory", NULL, NULL, 0);
	ck_assert_msg(failover_run(store, &o, NULL, &e) == 0, "%s", e.text);
	check_thaw(false, false);
	ck_assert(failover_say_frozen(&records) && !failover_say_frozen(&records));
	where_fails = true;
	check_thaw(false, false);
	where_fails = false;
	paused = true;
	no_agent = false;
	check_thaw(false, false);
	paused = false;
	check_thaw(true, true);
	check_thaw(true, false);
}
END_TEST

static void set_hangs(bool hangs)
{
	THREAD_LOCKED(&agent.lock);
	agent.hangs = hangs;
}

/* It is waited for within bounds, and asked again only when it has answered. */
START_TEST(an_agent_that_never_answers_is_not_waited_for)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	enum failover_thawed how;
	json_t *report = NULL;
	const int64_t start = clock_mono_ns();

	set_hangs(true);
	o.thaw_within_ns = 20 * NS_PER_MS;
	(void)vm_store_put(store, "quiesced", "memory", NULL, NULL, 0);
	ck_assert_msg(failover_run(store, &o, &report, &e) == 0, "%s", e.text);
	assert_state("promoted", 4);
	MEM_AUTO char *findings = json_dumps(json_object_get(report, "findings"), 0);
	ck_assert_msg(strstr(findings, "virsh domfsthaw web1") != NULL, "%s", findings);
	json_decref(report);
	for (int i = 0; i < 2; i++) {
		/* Nor is it waited for again: whoever asks holds the VM's turn. */
		ck_assert_int_eq(failover_thaw(&records, &ops, NULL, 60 * NS_PER_S, &how, &e), -1);
		ck_assert_ptr_nonnull(strstr(e.text, "not answered yet"));
		ck_assert(frozen_on_disk());
	}
	ck_assert_int_lt(clock_mono_ns() - start, 20 * NS_PER_S);
	ck_assert_uint_eq(agent_count(&agent.asked), 1);
	ck_assert_uint_eq(agent_count(&agent.kept), 1);
	set_hangs(false);
	while (failover_thaw(&records, &ops, NULL, FAILOVER_THAW_NS, &how, &e) < 0)
		ck_assert_int_lt(clock_mono_ns() - start, 20 * NS_PER_S);
	ck_assert_int_eq(how, FAILOVER_THAWED);
	ck_assert(!frozen_on_disk());
	ck_assert_uint_eq(agent_count(&agent.asked), 2);
	ck_assert_uint_eq(agent_count(&agent.kept), 0);
}
END_TEST

/* And its agent has not answered. */
static void run_frozen(void)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();

	no_agent = true;
	(void)vm_store_put(store, "quiesced", "memory", NULL, NULL, 0);
	ck_assert_msg(failover_run(store, &o, NULL, &e) == 0, "%s", e.text);
}

/* What was frozen in its memory is gone with that. */
START_TEST(one_that_has_ended_is_not_frozen)
{
	MEM_AUTO char *runs = in_dir("runs");

	run_frozen();
	ck_assert_int_eq(unlink(runs), 0);
	put_file("off", "");
	check_thaw(true, false);
}
END_TEST

static bool left_on_disk(void)
{
	struct err e = ERR_INIT;
	json_t *r = records.load(records.ctx, &e);
	const bool left = failover_left_frozen(r);

	json_decref(r);
	return left;
}

/* What the log says while that is done; to be freed. */
static char *logged_thaw(enum failover_thawed *how)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *path = in_dir("log");
	const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), was = dup(STDERR_FILENO);

	log_set_level(LOG_LEVEL_WARN);
	ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
	const int rc = failover_thaw(&records, &ops, NULL, FAILOVER_THAW_NS, how, &e);
	ck_assert_int_ge(dup2(was, STDERR_FILENO), 0);
	close(fd);
	close(was);
	ck_assert_msg(rc == 0, "%s", e.text);
	return file_read_all(path, 1 << 20, NULL, &e);
}

/* By hand, to where nobody thaws it: said, and kept. */
START_TEST(one_that_was_moved_away_frozen)
{
	enum failover_thawed how;
	MEM_AUTO char *runs = in_dir("runs");

	run_frozen();
	ck_assert(!left_on_disk());
	ck_assert_int_eq(unlink(runs), 0);
	MEM_AUTO char *said = logged_thaw(&how);
	ck_assert_int_eq(how, FAILOVER_LEFT_FROZEN);
	ck_assert_msg(strstr(said, "event=failover_frozen") && strstr(said, "thaw it there: virsh domfsthaw"), "%s",
		      said);
	ck_assert(left_on_disk() && !frozen_on_disk());
	/* Once. */
	MEM_AUTO char *again = logged_thaw(&how);
	ck_assert_int_eq(how, FAILOVER_NOT_FROZEN);
	ck_assert_str_eq(again, "");
}
END_TEST

/* The agent dies between the start and the thaw; i == 0: before it has written down that it runs. */
START_TEST(one_whose_agent_died_is_thawed_by_the_next)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	enum failover_found found;

	(void)vm_store_put(store, "quiesced", "memory", NULL, NULL, 0);
	run_and_die(_i ? "failover.thaw=kill" : "failover.done=kill", &o);
	ck_assert(there("runs"));
	/* Nothing is to be thawed before it is known that it runs. */
	if (_i == 0) {
		assert_state("promoting", 4);
		ck_assert_int_eq(failover_recover(&records, &ops, NULL, &found, &e), 0);
		ck_assert_int_eq(found, FAILOVER_PROMOTED);
	}
	assert_state("promoted", 4);
	ck_assert(frozen_on_disk());
	check_thaw(true, true);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/failover-thaw");
	TCase *tc = tcase_create("thaw");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, quiesced_point, 0, 4);
	tcase_add_test(tc, one_that_stays_frozen_is_thawed_later);
	tcase_add_test(tc, an_agent_that_never_answers_is_not_waited_for);
	tcase_add_test(tc, one_that_has_ended_is_not_frozen);
	tcase_add_test(tc, one_that_was_moved_away_frozen);
	tcase_add_loop_test(tc, one_whose_agent_died_is_thawed_by_the_next, 0, 2);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
