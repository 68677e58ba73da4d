/* Points of a protected VM, with all that may come in between. */
#include "protection_source.h"

START_TEST(points_come_in_time)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	for (uint64_t v = 2; v < 6; v++) {
		write_some(v);
		settle();
		check_replica();
	}
	ck_assert_int_ge(number("points"), 8);
	ck_assert_int_gt(number("wire_bytes"), 0);
	ck_assert_int_eq(number("pause_p50_ms"), 2);
	ck_assert_int_ge(number("rpo_ms"), 0);
	HAS(event_log(), "protection.seeded ");
	ck_assert_uint_eq(fake.made, 1);
	ck_assert_uint_eq(fake.cleaned, 1);
	/* Retention follows. */
	json_t *r = NULL, *args = json_pack("{s:s}", "vm", "web1");
	struct err e = ERR_INIT;
	for (int64_t until = soon();; usleep(10000)) {
		OK(replicas_points(target.replicas, args, &r, &e), e);
		if (json_array_size(json_object_get(r, "points")) <= 7 || clock_mono_ns() > until)
			break;
		json_decref(r);
	}
	json_decref(args);
	ck_assert_uint_ge(json_array_size(json_object_get(r, "points")), 5);
	ck_assert_uint_le(json_array_size(json_object_get(r, "points")), 7);
	const json_t *one = json_array_get(json_object_get(r, "points"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(one, "kind")), "memory");
	ck_assert_str_eq(json_string_value(json_object_get(one, "capture")), "colo");
	ck_assert_str_eq(json_string_value(json_object_get(one, "from")), "host1");
	json_decref(r);
}
END_TEST

START_TEST(the_peer_goes_and_comes_back)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	target_stop();
	EVENTUALLY(is_state("degraded", NULL));
	EVENTUALLY(is_state("degraded", "cannot be reached"));
	ck_assert(!fake.in_vm); /* the guest runs at its full speed meanwhile */
	write_some(7);
	usleep(100000);
	ck_assert_int_ge(number("rpo_ms"), 100); /* it is the age of the last committed point */
	target_start();
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
	HAS(event_log(), "protection.degraded protection.recovered ");
	/* Hardly more than what was written. */
	ck_assert_int_lt(number("sent_bytes"), (1024 + 256 + 100) * 4096);
}
END_TEST

START_TEST(a_capture_that_fails_is_begun_anew)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	for (unsigned k = 0; k < 3; k++) {
		const unsigned made = fake.made;
		write_some(10 + k);
		{
			THREAD_LOCKED(&fake.lock);
			fake.fail_take = true;
		}
		EVENTUALLY(fake.made > made);
		EVENTUALLY(is_state("protected", ""));
		settle();
		check_replica();
	}
}
END_TEST

START_TEST(a_vm_that_was_let_go_is_protected_again)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	for (unsigned k = 1; k < 3; k++) {
		const unsigned before = __atomic_load_n(&watches, __ATOMIC_SEQ_CST);
		protection_rescued(prot, GUARDIAN_END_FREED);
		ck_assert(strstr(event_log(), "protection.rescued"));
		EVENTUALLY(is_state("degraded", "the guardian let the VM run") ||
			   __atomic_load_n(&watches, __ATOMIC_SEQ_CST) > before);
		EVENTUALLY(__atomic_load_n(&watches, __ATOMIC_SEQ_CST) > before);
		EVENTUALLY(is_state("protected", ""));
		ck_assert_int_eq(number("rescues"), k);
		settle();
		check_replica();
	}
}
END_TEST

START_TEST(nothing_is_paused_without_a_guardian)
{
	no_guardian = true;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	ck_assert_int_eq(fake.mode, CAPTURE_DISK);
	is_state("", NULL);
	ck_assert(strstr(shown, "no guardian"));
}
END_TEST

static bool capture_is(enum capture_mode mode, const char *reason)
{
	(void)is_state("", NULL);
	return fake.mode == mode && (!reason || strstr(shown, reason));
}

/* i: what has COLO tried again after its pauses were too long: the time; another start of the VM; something else that needed the VM. */
START_TEST(colo_is_tried_again)
{
	struct err e = ERR_INIT;
	json_t *record = record_of(100, _i == 1 ? "memory" : "auto");

	json_object_set_new(record, "max_pause_ms", json_integer(10));
	colo_again_ns = _i == 0 ? 1500 * NS_PER_MS : 3600 * NS_PER_S;
	fake.pause_ns = 50 * NS_PER_MS;
	protect_as(record);
	EVENTUALLY(capture_is(CAPTURE_BACKGROUND, "COLO's pauses were over the budget; it is tried again after"));
	const unsigned made = fake.made;
	/* What the other capture's pauses are like says nothing about COLO's, when that is begun anew. */
	if (_i > 0)
		EVENTUALLY(number("interval_ms") >= 8 * 75);
	fake.pause_ns = NS_PER_MS;
	if (_i == 1) {
		fake.gone = true;
		EVENTUALLY(is_state("waiting", "shut off"));
		fake.gone = false;
	} else if (_i == 2) {
		OK(protection_hold(prot, "it is being migrated to host3", soon(), &e), e);
		protection_release(prot);
	}
	EVENTUALLY(capture_is(CAPTURE_COLO, "\"capture\":\"colo\"") && !strstr(shown, "over the budget"));
	write_some(3);
	settle();
	settle();
	ck_assert_uint_eq(fake.made, made + 1);
	ck_assert_int_lt(number("interval_ms"), 8 * 75);
	check_replica();
}
END_TEST

static unsigned times(const char *type)
{
	unsigned n = 0;

	for (const char *at = event_log(); (at = strstr(at, type)) != NULL; at++)
		n++;
	return n;
}

/* A source that asks for something at once. */
START_TEST(a_data_link_is_taken_in_late)
{
	struct err e = ERR_INIT;

	OK(fault_arm("replica.link=delay:300@2", &e), e);
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	target_stop();
	EVENTUALLY(is_state("degraded", NULL));
	const unsigned made = fake.made;
	OK(fault_arm("replica.link=delay:300@2", &e), e);
	target_start();
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(fake.made, made + 1);
	check_replica();
}
END_TEST

/* COLO's pauses are too long, and QEMU can take no background snapshots. i = 0: disks alone, and that is said. 1: with memory, or not at all: COLO. */
START_TEST(there_is_no_other_way)
{
	json_t *record = record_of(100, _i == 1 ? "memory" : "auto");

	json_object_set_new(record, "max_pause_ms", json_integer(10));
	colo_again_ns = 3600 * NS_PER_S;
	fake.pause_ns = 50 * NS_PER_MS;
	fake.no_background = true;
	protect_as(record);
	if (_i == 0) {
		EVENTUALLY(capture_is(CAPTURE_DISK, "\"capture\":\"disk\""));
		ck_assert_ptr_nonnull(strstr(shown, "COLO's pauses were over the budget"));
		EVENTUALLY(times("protection.capture ") == 1);
		return;
	}
	EVENTUALLY(capture_is(CAPTURE_COLO, "\"capture\":\"colo\"") && fake.made >= 3);
	const unsigned made = fake.made;
	EVENTUALLY(number("points") >= 12);
	ck_assert_uint_eq(fake.made, made); /* and no more tries */
	ck_assert_uint_eq(times("protection.capture "), 0);
}
END_TEST

/* The disks alone from the beginning: said once, and not again with every session. i = 0: QEMU says so when it is asked; 1: it is not asked. */
START_TEST(disks_alone_are_an_event)
{
	fake.no_colo = fake.no_background = _i == 0;
	fake.refuse_memory = _i == 1;
	protect_as(record_of(400, "auto"));
	for (unsigned k = 0; k < 3; k++) {
		EVENTUALLY(is_state("protected", "") && strstr(shown, "\"capture\":\"disk\""));
		ck_assert_uint_eq(times("protection.capture "), 1);
		target_stop();
		EVENTUALLY(is_state("degraded", NULL));
		target_start();
	}
}
END_TEST

/* And not replicated in another way than was asked for. */
START_TEST(a_mode_that_cannot_be_is_refused_at_once)
{
	const struct replicas_opts ro = { .host_name = "host1",
					  .replica_dir = fixture_path("replicas", NULL),
					  .pool = target.pool };
	struct protection_opts o = opts();
	static const char *const modes[] = { "memory", "colo", "background" };
	struct err e = ERR_INIT;
	json_t *result = NULL;

	fake.lock_manager = true;
	o.replicas = own = replicas_new(&ro, &e);
	ck_assert_msg(own != NULL, "%s", e.text);
	table = protections_new(&o, &e);
	ck_assert_msg(table != NULL, "%s", e.text);
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		json_t *args = json_pack("{s:s, s:s, s:s}", "vm", "web1", "host", "host2", "mode", modes[i]);
		ck_assert_int_eq(protect_begin(table, args, &result, &e), -1);
		ck_assert_int_eq(e.cls, ERR_REFUSED);
		HAS(e.text, "web1: memory cannot be captured");
		HAS(e.text, "a lock manager");
		ck_assert(!protections_have(table, GUEST_UUID, NULL));
		err_clear(&e);
		json_decref(args);
	}
	json_t *args = json_pack("{s:s, s:s}", "vm", "web1", "host", "host2");
	OK(protect_begin(table, args, &result, &e), e);
	json_decref(result);
	json_decref(args);
}
END_TEST

/* It has panicked, and its QEMU is kept: that is its user's. */
START_TEST(one_that_has_crashed_stays_here)
{
	struct err e = ERR_INIT;
	char *point = NULL;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	const unsigned made = fake.made;
	fake.crashed = true;
	ck_assert_int_eq(protection_hold(prot, "it is being migrated to host3", soon(), &e), -1);
	HAS(e.text, "web1 has crashed");
	err_clear(&e);
	ck_assert_int_eq(protection_hand_over(prot, 2, soon(), &point, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "web1 has crashed");
	ck_assert(fake.made == made && !fake.paused && is_owned("active"));
	err_clear(&e);
	fake.crashed = false;
	settle();
	OK(protection_hand_over(prot, 2, soon(), &point, &e), e);
	free(point);
}
END_TEST

START_TEST(memory_alone_is_refused_without_a_guardian)
{
	no_guardian = true;
	protect_as(record_of(400, "colo"));
	EVENTUALLY(is_state("failed", "no guardian"));
	ck_assert_uint_eq(taken(), 0);
}
END_TEST

START_TEST(not_now_is_said_and_waited_for)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	{
		THREAD_LOCKED(&fake.lock);
		fake.not_now = true;
	}
	EVENTUALLY(is_state("waiting", "paused by its user"));
	{
		THREAD_LOCKED(&fake.lock);
		fake.not_now = false;
	}
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(fake.made, 1);
	/* While the guest runs on, what it writes is not at the peer: that is more than waiting. */
	fake.busy = true;
	EVENTUALLY(is_state("degraded", "somebody else's block job"));
	fake.busy = false;
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(fake.made, 1);
}
END_TEST

START_TEST(a_vm_that_is_shut_off_is_waited_for)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	{
		THREAD_LOCKED(&fake.lock);
		fake.gone = true;
	}
	EVENTUALLY(is_state("waiting", "shut off"));
	/* Started again: everything in it may be different. */
	{
		THREAD_LOCKED(&fake.lock);
		fake.gone = false;
		for (uint64_t b = 0; b < 300; b++)
			machine_write(fake.m, false, b, 99);
	}
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
}
END_TEST

START_TEST(paused_resumed_and_over_restarts)
{
	struct err e = ERR_INIT;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(protection_pause(prot, &e), e);
	EVENTUALLY(is_state("paused", NULL));
	EVENTUALLY(!fake.in_vm);
	ck_assert_uint_eq(fake.paused, false);
	restart_source();
	EVENTUALLY(is_state("paused", NULL));
	const unsigned n = taken();
	usleep(50000);
	ck_assert_uint_eq(taken(), n);
	OK(protection_resume(prot, &e), e);
	EVENTUALLY(is_state("protected", ""));
	/* An agent that ends leaves the protection as it is. */
	write_some(20);
	restart_source();
	ck_assert(number("last_point") == 0); /* an object */
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
}
END_TEST

START_TEST(held_while_something_else_needs_the_vm)
{
	struct err e = ERR_INIT;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(protection_hold(prot, "it is being migrated to host3", soon(), &e), e);
	ck_assert(!fake.in_vm);
	EVENTUALLY(is_state("waiting", "being migrated"));
	const unsigned n = taken();
	usleep(30000);
	ck_assert_uint_eq(taken(), n);
	protection_release(prot);
	EVENTUALLY(is_state("protected", ""));
}
END_TEST

/* ---- targets that lie ---- */

START_TEST(an_acknowledgement_of_what_was_there_before_is_none)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	target.lie_from = 1;
	EVENTUALLY(is_state("degraded", "acknowledges"));
	const json_int_t n = number("points");
	write_some(5);
	EVENTUALLY(target.commits >= 3);
	/* No point counts, and the age shown is that of the last one that does. */
	ck_assert_int_eq(number("points"), n);
	target.lie_from = 0;
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
}
END_TEST

/* What it had acknowledged is not there any more: nothing is shown that does not exist, and all of it travels again. */
START_TEST(a_target_that_has_lost_its_points)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	settle();
	fake.not_now = true; /* nothing is taken, so that what is shown is what the peer says */
	target_stop();
	EVENTUALLY(is_state("degraded", NULL));
	MEM_AUTO char *rm = mem_printf("rm -rf %s", fixture_path("target/replicas/" GUEST_UUID, NULL));
	ck_assert_int_eq(system(rm), 0);
	target_start();
	EVENTUALLY(is_state("", NULL) || !strstr(shown, "\"last_point\":{"));
	ck_assert_msg(strstr(shown, "\"rpo_ms\":null"), "%s", shown);
	EVENTUALLY(strstr(event_log(), "points.lost "));
	fake.not_now = false;
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
}
END_TEST

/* Not to be waited for: somebody must look at it, and is told why and what to do. */
START_TEST(an_unreadable_record_is_said)
{
	struct err e = ERR_INIT;
	const struct protection_opts o = opts();
	MEM_AUTO char *folder = mem_strdup(fixture_path("source/protections", NULL));
	MEM_AUTO char *path = mem_strdup(fixture_path("source/protections/" GUEST_UUID ".json", NULL));
	static const char *const contents[] = { "{\"uuid\":", "{\"uuid\":\"" GUEST_UUID
							      "\",\"state\":\"active\",\"epoch\":1,\"vm\":\"web1\"}" };

	mkdir(folder, 0700);
	for (size_t i = 0; i < 2; i++) {
		event_log_clear();
		OK(file_write_durable(path, contents[i], strlen(contents[i]), 0600, &e), e);
		json_t *all = epoch_load_protections(o.state_dir, &e);
		ck_assert_uint_eq(json_array_size(all), 1);
		prot = protection_start(&o, json_array_get(all, 0), &e);
		ck_assert_msg(prot != NULL, "%s", e.text);
		json_decref(all);
		EVENTUALLY(is_state("failed", i ? "not a whole record of this VM" : "no JSON"));
		EVENTUALLY(is_state("failed", "the agent reads it anew when it starts"));
		HAS(event_log(), "protection.failed ");
		protection_stop(prot);
		prot = NULL;
	}
	ck_assert_uint_eq(fake.made, 0);
}
END_TEST

/* Those that are kept, not all that were ever made. */
static bool fewer_points(json_int_t *most)
{
	const json_int_t n = number("points_kept");

	*most = n > *most ? n : *most;
	return n > 0 && n < *most;
}

/* An operator at the source sees what its replica takes, and what it may. */
START_TEST(what_the_replica_takes)
{
	json_t *record = record_of(400, "auto");

	json_object_set_new(json_object_get(record, "keep"), "max_bytes", json_integer(1 << 30));
	protect_as(record);
	EVENTUALLY(is_state("protected", ""));
	EVENTUALLY(number("space_bytes") > 1024 * 4096 / 2);
	ck_assert_int_eq(number("space_limit_bytes"), 1 << 30);
	const json_int_t before = number("space_bytes");
	for (uint64_t i = 0; i < 8; i++)
		write_some(100 + i);
	EVENTUALLY(number("space_bytes") != before);
	json_int_t most = 0;
	EVENTUALLY(fewer_points(&most));
}
END_TEST

START_TEST(disks_alone_where_memory_cannot_be)
{
	fake.refuse_memory = true;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	json_t *s = protection_status(prot);
	ck_assert_str_eq(json_string_value(json_object_get(s, "capture")), "disk");
	HAS(json_string_value(json_object_get(s, "capture_reason")), "lock manager");
	json_decref(s);
}
END_TEST

/* It was degraded before, for its peer was away. i = 1: that was an event a moment ago. */
START_TEST(a_full_disk_at_the_target)
{
	say_again_ns = _i == 0 ? 20 * NS_PER_MS : 3600 * NS_PER_S;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	target_stop();
	EVENTUALLY(is_state("degraded", "") && !is_state("degraded", "is full"));
	target.min_free = UINT64_MAX;
	target_start();
	EVENTUALLY(is_state("degraded", "disk of host2 is full"));
	if (_i == 0) {
		EVENTUALLY(times("protection.degraded") >= 2);
	} else {
		usleep(200 * 1000); /* it has been tried a few times */
		ck_assert_uint_eq(times("protection.degraded"), 1);
	}
	target_stop();
	target.min_free = 0;
	target_start();
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
}
END_TEST

START_TEST(commits_that_take_too_long_are_said)
{
	fake.take_ms = 0;
	protect_as(record_of(100, "auto"));
	EVENTUALLY(is_state("protected", ""));
	fake.take_ms = 150;
	EVENTUALLY(is_state("degraded", "target of"));
	ck_assert_int_ge(number("worst_rpo_ms"), 100);
}
END_TEST

/* Whatever breaks at whatever step, it heals by itself. */
static const char *const breaks[] = { "replica.begin.source=fail@2",
				      "replica.begin.target=fail@2",
				      "replica.begun.target=fail@2",
				      "replica.hashes=fail@1",
				      "replica.take=fail@3",
				      "replica.commit.source=fail@3",
				      "replica.commit.target=fail@3",
				      "replica.committed.target=fail@3",
				      "replica.committed.source=fail@3",
				      "replica.receive=fail@5",
				      "replica.ship=fail@4",
				      "channel.send=fail@7",
				      "channel.recv=fail@7",
				      "channel.connect=fail@4",
				      "channel.accept=fail@4",
				      "replica.link=fail@4",
				      "replica.prune=fail@1" };

START_TEST(it_heals)
{
	struct err e = ERR_INIT;

	OK(fault_arm(breaks[_i], &e), e);
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	write_some(3);
	settle();
	if (strstr(breaks[_i], "begin") || strstr(breaks[_i], "begun") || strstr(breaks[_i], "hashes") ||
	    strstr(breaks[_i], "connect") || strstr(breaks[_i], "link")) {
		target_stop(); /* so that there is a second session */
		EVENTUALLY(is_state("degraded", NULL));
		target_start();
	}
	EVENTUALLY(is_state("protected", ""));
	write_some(4);
	settle();
	check_replica();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/protection");
	TCase *t = tcase_create("protection");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60); /* every wait has its own limit */
	tcase_add_test(t, points_come_in_time);
	tcase_add_test(t, the_peer_goes_and_comes_back);
	tcase_add_test(t, a_capture_that_fails_is_begun_anew);
	tcase_add_test(t, a_vm_that_was_let_go_is_protected_again);
	tcase_add_test(t, nothing_is_paused_without_a_guardian);
	tcase_add_loop_test(t, colo_is_tried_again, 0, 3);
	tcase_add_loop_test(t, there_is_no_other_way, 0, 2);
	tcase_add_test(t, a_data_link_is_taken_in_late);
	tcase_add_loop_test(t, disks_alone_are_an_event, 0, 2);
	tcase_add_test(t, a_mode_that_cannot_be_is_refused_at_once);
	tcase_add_test(t, one_that_has_crashed_stays_here);
	tcase_add_test(t, memory_alone_is_refused_without_a_guardian);
	tcase_add_test(t, not_now_is_said_and_waited_for);
	tcase_add_test(t, a_vm_that_is_shut_off_is_waited_for);
	tcase_add_test(t, paused_resumed_and_over_restarts);
	tcase_add_test(t, held_while_something_else_needs_the_vm);
	tcase_add_test(t, an_acknowledgement_of_what_was_there_before_is_none);
	tcase_add_test(t, a_target_that_has_lost_its_points);
	tcase_add_test(t, an_unreadable_record_is_said);
	tcase_add_test(t, what_the_replica_takes);
	tcase_add_test(t, disks_alone_where_memory_cannot_be);
	tcase_add_loop_test(t, a_full_disk_at_the_target, 0, 2);
	tcase_add_test(t, commits_that_take_too_long_are_said);
	tcase_add_loop_test(t, it_heals, 0, sizeof(breaks) / sizeof(breaks[0]));
	suite_add_tcase(s, t);
	return fixture_run(s);
}
