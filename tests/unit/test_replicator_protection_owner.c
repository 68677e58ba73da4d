/* Whose the VM is: fenced, handed over, taken back. */
#include "protection_source.h"

START_TEST(a_source_whose_vm_was_taken_over_is_fenced)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	if (_i == 1) /* it was away meanwhile */
		protection_stop(prot);
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	ck_assert_uint_eq(epoch, 2);
	OK(replicas_set_state(target.replicas, GUEST_UUID, "promoted", &e), e);
	if (_i == 1) {
		prot = NULL;
		json_t *all = epoch_load_protections(opts().state_dir, &e);
		const struct protection_opts o = opts();
		prot = protection_start(&o, json_array_get(all, 0), &e);
		json_decref(all);
	}
	EVENTUALLY(is_state("fenced", "paused here"));
	ck_assert(fake.paused);
	ck_assert(!fake.in_vm);
	EVENTUALLY(strstr(event_log(), "protection.fenced ")); /* after the state */
	/* It stays so. */
	ck_assert_int_eq(protection_resume(prot, &e), -1);
	HAS(e.text, "taken the VM over");
	fake.paused = false; /* started by someone */
	restart_source();
	EVENTUALLY(is_state("fenced", NULL));
	EVENTUALLY(fake.paused);
	ck_assert(fake.paused);
	/* And the replica is what it was. */
	json_t *r = NULL, *args = json_pack("{s:s}", "uuid", GUEST_UUID);
	OK(replicas_status(target.replicas, args, &r, &e), e);
	json_decref(args);
	ck_assert_str_eq(json_string_value(json_object_get(r, "state")), "promoted");
	json_decref(r);
}
END_TEST

START_TEST(a_promotion_that_came_to_nothing_lets_no_old_epoch_in)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(protection_pause(prot, &e), e);
	EVENTUALLY(is_state("paused", NULL));
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	OK(replicas_set_state(target.replicas, GUEST_UUID, "replica", &e), e);
	OK(protection_resume(prot, &e), e);
	EVENTUALLY(is_state("degraded", "epoch 2, ours is 1"));
	ck_assert(!fake.paused); /* nobody runs it elsewhere */
}
END_TEST

/* Durable before the VM is paused: whatever happens then, it is paused in the end. */
START_TEST(a_fence_that_was_cut_short_is_repeated)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(fault_arm("replica.fence=fail", &e), e);
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	OK(replicas_set_state(target.replicas, GUEST_UUID, "promoted", &e), e);
	EVENTUALLY(is_owned("fenced"));
	EVENTUALLY(fake.paused);
	EVENTUALLY(is_state("fenced", NULL));
	ck_assert(!fake.in_vm);
}
END_TEST

struct asked {
	pthread_t thread;
	uint64_t epoch;
	int rc;
	char *point;
	struct err e;
};

static void *ask_main(void *arg)
{
	struct asked *a = arg;

	a->rc = protection_hand_over(prot, a->epoch, soon(), &a->point, &a->e);
	return NULL;
}

static void ask(struct asked *a)
{
	*a = (struct asked){ .epoch = 2 };
	ck_assert_int_eq(pthread_create(&a->thread, NULL, ask_main, a), 0);
}

static void check_owned(const char *state, json_int_t epoch)
{
	json_t *r = protection_record(prot);

	ck_assert_str_eq(json_string_value(json_object_get(r, "state")), state);
	ck_assert_int_eq(json_integer_value(json_object_get(r, "epoch")), epoch);
	json_decref(r);
}

/* A hold is refused from then on. */
static bool is_being_asked(void)
{
	struct err e = ERR_INIT;

	if (protection_hold(prot, "a look", 0, &e) == 0)
		protection_release(prot);
	return strstr(e.text, "is being handed over") != NULL;
}

START_TEST(handed_over_without_loss)
{
	struct err e = ERR_INIT;
	char *point = NULL;

	protect_as(record_of(5000, "auto"));
	EVENTUALLY(is_state("protected", ""));
	write_some(50);
	OK(protection_hand_over(prot, 2, soon(), &point, &e), e);
	ck_assert(fake.paused);
	/* As long as the last point may take: no usual pause's measure. */
	ck_assert_int_gt(armed_ns, clock_mono_ns() + 200 * NS_PER_S);
	EVENTUALLY(is_state("fenced", "handed over"));
	ck_assert(fake.left && fake.paused);
	check_replica();
	json_t *r = protection_record(prot);
	ck_assert_str_eq(json_string_value(json_object_get(r, "state")), "handed-over");
	ck_assert_int_eq(json_integer_value(json_object_get(r, "epoch")), 2);
	/* With the point at which it stands still, however short a time it is since another was written down. */
	const json_t *last = json_object_get(r, "last_point");
	ck_assert_str_eq(json_string_value(json_object_get(last, "id")), point);
	ck_assert(json_is_true(json_object_get(last, "final")));
	ck_assert_int_gt(json_integer_value(json_object_get(last, "instant_ns")), 0);
	json_decref(r);
	/* Over a restart, too. */
	restart_source();
	EVENTUALLY(is_state("fenced", "handed over"));
	ck_assert(fake.paused);
	/* Asked again: for the same epoch, or the one after, and no other. */
	static const struct {
		uint64_t epoch;
		bool good;
	} asked[] = { { 4, false }, { EPOCH_MAX, false }, { 1, false }, { 0, false },
		      { 2, true },  { 3, true },          { 2, false }, { 3, true } };
	for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		char *again = NULL;
		err_clear(&e);
		ck_assert_msg((protection_hand_over_again(prot, asked[i].epoch, &again, &e) == 0) == asked[i].good,
			      "%zu: %s", i, e.text);
		if (asked[i].good)
			ck_assert_str_eq(again, point);
		else
			ck_assert_int_eq(e.cls, ERR_REFUSED);
		free(again);
	}
	check_owned("handed-over", 3);
	free(point);
}
END_TEST

/* ---- of a VM that only background snapshots can be taken of: read as it stands ---- */

static void by_background(int rpo_ms)
{
	fake.no_colo = true;
	protect_as(record_of(rpo_ms, "auto"));
	EVENTUALLY(is_state("protected", ""));
	ck_assert_int_eq(fake.mode, CAPTURE_BACKGROUND);
}

START_TEST(handed_over_without_a_capture)
{
	struct err e = ERR_INIT;
	char *point = NULL;

	by_background(60000);
	const json_int_t points = number("points");
	write_some(70);
	OK(protection_hand_over(prot, 2, soon(), &point, &e), e);
	/* A checkpoint first, so that what it did in the last minute does not travel while it stands still. */
	ck_assert_int_eq(number("points"), points + 2);
	ck_assert(fake.paused);
	ck_assert_uint_eq(fake.stills, 1);
	ck_assert_uint_eq(fake.lasts, 0);
	EVENTUALLY(is_state("fenced", "handed over"));
	check_owned("handed-over", 2);
	check_replica();
	free(point);
}
END_TEST

/* What was read does not become a point. */
static void fail_commit(void)
{
	struct err e = ERR_INIT;

	(void)fault_arm("replica.commit.target=fail", &e);
}

static void cut_it(void)
{
	THREAD_LOCKED(&source.lock);
	const struct err why = { .cls = ERR_CANCELLED, .text = "cut" };
	rpc_close(source.rpc, &why);
}

/* Whatever becomes of it while the VM stands still and is read: it runs on here, and nowhere else. */
START_TEST(a_hand_over_without_a_capture_that_fails_lets_it_run)
{
	static void (*const meanwhile[])(void) = { NULL, fail_commit, cut_it };
	struct err e = ERR_INIT;
	char *point = NULL;

	by_background(400);
	fake.in_still = meanwhile[_i];
	fake.fail_still = _i == 0;
	ck_assert_int_eq(protection_hand_over(prot, 2, soon(), &point, &e), -1);
	ck_assert(err_is_set(&e));
	ck_assert_ptr_null(point);
	fake.fail_still = false;
	fake.in_still = NULL;
	EVENTUALLY(!fake.paused);
	EVENTUALLY(is_owned("active"));
	check_owned("active", 1);
	EVENTUALLY(is_state("protected", ""));
	settle();
	check_replica();
	/* On disk, too. */
	json_t *all = epoch_load_protections(opts().state_dir, &e);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(all, 0), "state")), "active");
	json_decref(all);
	json_t *theirs = replicas_record(target.replicas, GUEST_UUID);
	ck_assert_str_eq(json_string_value(json_object_get(theirs, "state")), "replica");
	json_decref(theirs);
}
END_TEST

/* The session ends, with nothing wrong, between the last point's being asked for and its being taken. */
START_TEST(a_session_that_ends_during_the_hand_over)
{
	struct err e = ERR_INIT;
	struct asked a;

	fake.no_colo = _i == 1;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	fake.take_ms = 300;
	EVENTUALLY(fake.taking);
	ask(&a);
	EVENTUALLY(is_being_asked());
	OK(protection_pause(prot, &e), e);
	fake.take_ms = 0;
	pthread_join(a.thread, NULL);
	ck_assert_int_eq(a.rc, -1);
	ck_assert(err_is_set(&a.e));
	ck_assert_ptr_null(a.point);
	EVENTUALLY(is_state("paused", NULL));
	ck_assert(!fake.paused);
	check_owned("paused", 1);
	ck_assert_uint_eq(fake.lasts + fake.stills, 0);
}
END_TEST

START_TEST(a_hand_over_that_fails_lets_it_run)
{
	struct err e = ERR_INIT;
	char *point = NULL;

	protect_as(record_of(5000, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(fault_arm(_i ? "replica.commit.target=fail@2" : "replica.take=fail@2", &e), e);
	ck_assert_int_eq(protection_hand_over(prot, 2, soon(), &point, &e), -1);
	EVENTUALLY(is_state("protected", ""));
	EVENTUALLY(!fake.paused || fake.made > 1);
	EVENTUALLY(is_owned("active"));
	json_t *r = protection_record(prot);
	ck_assert_str_eq(json_string_value(json_object_get(r, "state")), "active");
	json_decref(r);
}
END_TEST

START_TEST(a_session_that_ends_before_the_hand_over_owes_no_last_point)
{
	struct err e = ERR_INIT;
	struct asked a;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	fake.take_ms = 400;
	EVENTUALLY(fake.taking);
	ask(&a);
	usleep(50000);
	fake.take_ms = 0;
	if (_i == 0) {
		fake.fail_take = true;
	} else if (_i == 1) {
		ck_assert_int_eq(protection_hold(prot, "a test", soon(), &e), -1);
		HAS(e.text, "handed over");
		err_clear(&e);
		OK(protection_pause(prot, &e), e);
	}
	pthread_join(a.thread, NULL);
	ck_assert_int_eq(a.rc, _i == 2 ? 0 : -1);
	ck_assert(err_is_set(&a.e) == (_i != 2));
	free(a.point);
	if (_i == 2)
		return;
	if (_i == 1) {
		EVENTUALLY(is_state("paused", NULL));
		OK(protection_resume(prot, &e), e);
	}
	EVENTUALLY(is_state("protected", ""));
	settle();
	ck_assert_uint_eq(fake.lasts, 0);
	ck_assert(!fake.paused);
	check_owned("active", 1);
}
END_TEST

START_TEST(a_vm_that_was_let_go_is_not_handed_over)
{
	struct err e = ERR_INIT;
	char *point = NULL;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	parting = (enum parting)_i;
	ck_assert_int_eq(protection_hand_over(prot, 2, soon(), &point, &e), -1);
	ck_assert(err_is_set(&e));
	ck_assert_ptr_null(point);
	EVENTUALLY(is_owned("active"));
	check_owned("active", 1);
	/* On disk, too. */
	json_t *all = epoch_load_protections(opts().state_dir, &e);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(all, 0), "state")), "active");
	json_decref(all);
	ck_assert(!fake.left);
	parting = PART_GOOD;
	EVENTUALLY(is_state("protected", ""));
	ck_assert(!fake.paused);
	settle();
	check_replica();
}
END_TEST

START_TEST(a_vm_that_is_fenced_and_started_again_is_paused)
{
	json_t *record = record_of(400, "auto");

	json_object_set_new(record, "state", json_string(_i ? "handed-over" : "fenced"));
	fake.paused = true;
	protect_as(record);
	EVENTUALLY(is_state("fenced", _i ? "handed over" : "taken this VM over"));
	for (unsigned k = 0; k < 2; k++) {
		fake.autostart = true;
		fake.paused = false;
		EVENTUALLY(fake.paused);
		EVENTUALLY(!fake.autostart);
	}
}
END_TEST

START_TEST(a_paused_protection_is_fenced_too)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(protection_pause(prot, &e), e);
	EVENTUALLY(is_state("paused", NULL));
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	EVENTUALLY(is_state("fenced", "paused here"));
	ck_assert(fake.paused);
	check_owned("fenced", 1);
}
END_TEST

/* The VM came home: what this host keeps is of a later epoch than its old record. */
START_TEST(an_old_fence_leaves_a_later_promotion_alone)
{
	struct err e = ERR_INIT;
	json_t *record = record_of(400, "auto");
	const struct replicas_opts ro = { .host_name = "host1",
					  .replica_dir = fixture_path("source/replicas", NULL),
					  .delta_cache = 1 << 20,
					  .min_free = 1,
					  .pool = target.pool };
	json_t *kept = json_pack("{s:s, s:s, s:s, s:i, s:s, s:s}", "uuid", GUEST_UUID, "vm", "web1", "from", "host2",
				 "epoch", _i ? 1 : 3, "role", "target", "state", "promoted");

	OK(epoch_save_replica(ro.replica_dir, kept, &e), e);
	json_decref(kept);
	own = replicas_new(&ro, &e);
	ck_assert_msg(own != NULL, "%s", e.text);
	json_object_set_new(record, "state", json_string("fenced"));
	json_object_set_new(record, "epoch", json_integer(2));
	protect_as(record);
	EVENTUALLY(is_state("fenced", NULL));
	if (_i == 1) {
		EVENTUALLY(fake.paused);
		return;
	}
	usleep(300000);
	ck_assert(!fake.paused);
}
END_TEST

/* Somebody else's wish between the look at the record and its change. */
START_TEST(no_change_of_the_record_is_lost)
{
	struct err e = ERR_INIT;
	struct asked a;

	host_autostart = true;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	json_t *old = protection_record(prot), *record = json_deep_copy(old);
	if (_i == 0) {
		OK(protection_pause(prot, &e), e);
		ck_assert_int_eq(protection_replace(prot, old, record, &e), -1);
		HAS(e.text, "has just changed");
		check_owned("paused", 1);
		EVENTUALLY(is_state("paused", NULL));
	} else if (_i == 1) {
		json_object_set_new(record, "rpo_ms", json_integer(700));
		/* What its thread has written since the record was read. */
		json_object_del(record, "last_point");
		json_object_del(record, "autostart");
		json_object_del(record, "boot_id");
		OK(protection_replace(prot, old, record, &e), e);
		ck_assert_int_eq(protection_pause(prot, &e), -1);
		restart_source();
		json_t *now = protection_record(prot);
		ck_assert_int_eq(json_integer_value(json_object_get(now, "rpo_ms")), 700);
		ck_assert_ptr_nonnull(json_object_get(now, "last_point"));
		ck_assert(json_is_true(json_object_get(now, "autostart")));
		ck_assert_ptr_nonnull(json_object_get(now, "boot_id"));
		json_decref(now);
		check_owned("active", 1);
	} else {
		/* Whichever of the two is first, there is one answer, and the record says the same. */
		fake.take_ms = 30;
		ask(&a);
		usleep((useconds_t)(_i - 2) * 13000);
		const int paused = protection_pause(prot, &e);
		pthread_join(a.thread, NULL);
		ck_assert_int_ne(paused, a.rc);
		EVENTUALLY(is_state(paused == 0 ? "paused" : "fenced", NULL));
		check_owned(paused == 0 ? "paused" : "handed-over", paused == 0 ? 1 : 2);
		ck_assert_int_eq(fake.paused, paused != 0);
		free(a.point);
	}
	json_decref(old);
	json_decref(record);
}
END_TEST

/* The agent died with the VM paused and the last point on its way. */
START_TEST(a_hand_over_that_an_agent_left_is_taken_back)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;
	json_t *record = record_of(400, "auto");

	if (_i == 1) {
		protect_as(json_incref(record));
		EVENTUALLY(is_state("protected", ""));
		protection_stop(prot);
		OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	}
	json_object_set_new(record, "state", json_string("handing-over"));
	fake.paused = true;
	protect_as(record);
	if (_i == 1) {
		EVENTUALLY(is_state("fenced", NULL));
		ck_assert(fake.paused);
		return;
	}
	EVENTUALLY(is_state("protected", ""));
	ck_assert(!fake.paused);
	check_owned("active", 1);
}
END_TEST

START_TEST(a_failover_that_came_to_nothing_can_be_taken_back)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;
	char *point = NULL;

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	if (_i == 0)
		OK(protection_hand_over(prot, 2, soon(), &point, &e), e);
	free(point);
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	EVENTUALLY(is_state("fenced", NULL));
	EVENTUALLY(fake.paused);
	ck_assert_int_eq(protection_resume(prot, &e), -1);
	HAS(e.text, "taken the VM over");
	ck_assert(fake.paused);
	err_clear(&e);
	OK(replicas_set_state(target.replicas, GUEST_UUID, "replica", &e), e);
	const unsigned cleaned = fake.cleaned;
	OK(protection_resume(prot, &e), e);
	EVENTUALLY(is_state("protected", ""));
	ck_assert(!fake.paused);
	ck_assert_uint_eq(fake.cleaned, cleaned + 1);
	check_owned("active", 2);
	settle();
	check_replica();
}
END_TEST

/* The peer is at it, and may start the VM at any moment. */
START_TEST(no_taking_back_while_it_is_taken_over)
{
	struct err e = ERR_INIT;
	char *point = NULL;
	json_t *asked = json_pack("{s:{s:i, s:b}}", "handover", "epoch", 2, "paused", 0),
	       *over = json_pack("{s:n}", "handover");

	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	OK(replicas_change(target.replicas, GUEST_UUID, "replica", asked, &e), e);
	OK(protection_hand_over(prot, 2, soon(), &point, &e), e);
	free(point);
	EVENTUALLY(is_state("fenced", "handed over"));
	ck_assert_int_eq(protection_resume(prot, &e), -1);
	HAS(e.text, "host2 is taking web1 over at this moment");
	ck_assert(fake.paused);
	check_owned("handed-over", 2);
	err_clear(&e);
	OK(replicas_change(target.replicas, GUEST_UUID, "replica", over, &e), e);
	OK(protection_resume(prot, &e), e);
	EVENTUALLY(is_state("protected", ""));
	ck_assert(!fake.paused);
	json_decref(asked);
	json_decref(over);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/protection_owner");
	TCase *t = tcase_create("protection_owner");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60); /* every wait has its own limit */
	tcase_add_loop_test(t, a_source_whose_vm_was_taken_over_is_fenced, 0, 2);
	tcase_add_test(t, a_promotion_that_came_to_nothing_lets_no_old_epoch_in);
	tcase_add_test(t, a_fence_that_was_cut_short_is_repeated);
	tcase_add_test(t, handed_over_without_loss);
	tcase_add_test(t, handed_over_without_a_capture);
	tcase_add_loop_test(t, a_hand_over_without_a_capture_that_fails_lets_it_run, 0, 3);
	tcase_add_loop_test(t, a_session_that_ends_during_the_hand_over, 0, 2);
	tcase_add_loop_test(t, a_hand_over_that_fails_lets_it_run, 0, 2);
	tcase_add_loop_test(t, a_session_that_ends_before_the_hand_over_owes_no_last_point, 0, 3);
	tcase_add_loop_test(t, a_vm_that_was_let_go_is_not_handed_over, PART_RESCUED, PART_RUNS + 1);
	tcase_add_loop_test(t, a_vm_that_is_fenced_and_started_again_is_paused, 0, 2);
	tcase_add_test(t, a_paused_protection_is_fenced_too);
	tcase_add_loop_test(t, an_old_fence_leaves_a_later_promotion_alone, 0, 2);
	tcase_add_loop_test(t, no_change_of_the_record_is_lost, 0, 12);
	tcase_add_loop_test(t, a_hand_over_that_an_agent_left_is_taken_back, 0, 2);
	tcase_add_loop_test(t, a_failover_that_came_to_nothing_can_be_taken_back, 0, 2);
	tcase_add_test(t, no_taking_back_while_it_is_taken_over);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
