/* What a protection starts from: the boot of its host, and what is at hand at the peer. */
#include "protection_source.h"

/* ---- a VM that starts with its host ---- */

static bool remembers_autostart(void)
{
	json_t *r = protection_record(prot);
	const bool yes = json_is_true(json_object_get(r, "autostart"));

	json_decref(r);
	return yes;
}

static bool point_autostarts(void)
{
	json_t *r = NULL, *args = json_pack("{s:s}", "vm", "web1");
	struct err e = ERR_INIT;

	OK(replicas_points(target.replicas, args, &r, &e), e);
	const json_t *points = json_object_get(r, "points");
	const bool yes =
		json_is_true(json_object_get(json_array_get(points, json_array_size(points) - 1), "autostart"));
	json_decref(args);
	json_decref(r);
	return yes;
}

/* A host that boots: its agent finds the VM off, unless libvirt has started it. */
static void reboot_source(void)
{
	protection_stop(prot);
	prot = NULL;
	host_boots++;
	{
		THREAD_LOCKED(&fake.lock);
		fake.gone = !host_autostart;
	}
	restart_source();
}

START_TEST(it_starts_with_its_host_when_it_is_ours)
{
	host_autostart = true;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	ck_assert(!host_autostart && remembers_autostart() && settled_on_disk());
	ck_assert_uint_eq(host_starts, 0);
	ck_assert(point_autostarts());
	/* Nobody starts it before the peer has said whose it is. */
	target_stop();
	reboot_source();
	EVENTUALLY(is_state("degraded", "cannot be reached"));
	ck_assert_uint_eq(host_starts, 0);
	ck_assert(!may_start_now());
	target_start();
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(host_starts, 1);
	ck_assert(!host_hook_refused && may_start_now());
	/* Once: who shuts it off then, means it. */
	fake.gone = true;
	EVENTUALLY(is_state("waiting", "shut off"));
	restart_source();
	EVENTUALLY(is_state("waiting", "shut off"));
	ck_assert_uint_eq(host_starts, 1);
	/* The setting that somebody makes meanwhile. */
	host_autostart = true;
	fake.gone = false;
	EVENTUALLY(is_state("protected", ""));
	EVENTUALLY(!host_autostart);
}
END_TEST

/* The record of an agent that did not keep the boot: the next one must not take a VM that was shut off for one that has not been started. */
START_TEST(an_agent_that_is_new_starts_nothing)
{
	json_t *record = record_of(400, "auto");

	json_object_set_new(record, "autostart", json_true());
	fake.gone = true;
	protect_as(record);
	EVENTUALLY(is_state("waiting", "shut off"));
	EVENTUALLY(settled_on_disk());
	ck_assert_uint_eq(host_asked, 0);
	reboot_source();
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(host_starts, 1);
}
END_TEST

/* i: so often libvirt does not start it. */
START_TEST(a_start_that_fails_is_tried_again)
{
	host_autostart = true;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	host_failing = (unsigned)_i;
	reboot_source();
	EVENTUALLY(settled_on_disk());
	ck_assert(!host_settled); /* an agent that dies before that starts it when it is back */
	ck_assert_uint_eq(host_starts, _i < 3);
	ck_assert_uint_eq(host_asked, _i < 3 ? (unsigned)_i + 1 : 3);
	EVENTUALLY(is_state(_i < 3 ? "protected" : "waiting", NULL));
	ck_assert_int_eq(strstr(event_log(), "autostart.failed ") != NULL, _i >= 3);
	restart_source();
	EVENTUALLY(is_state(_i < 3 ? "protected" : "waiting", NULL));
	ck_assert_uint_eq(host_asked, _i < 3 ? (unsigned)_i + 1 : 3);
}
END_TEST

/* A VM that was moved away, or is transient: once the peer has answered libvirt's hook lets it come back, though libvirt does not know it yet. */
START_TEST(one_that_is_not_defined_may_come_back)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	host_unknown = fake.gone = true;
	target_stop();
	reboot_source();
	EVENTUALLY(is_state("degraded", "cannot be reached"));
	ck_assert(!may_start_now());
	target_start();
	EVENTUALLY(may_start_now());
	ck_assert_uint_eq(host_starts, 0);
}
END_TEST

START_TEST(it_does_not_start_with_a_host_that_has_lost_it)
{
	struct err e = ERR_INIT;
	uint64_t epoch;

	host_autostart = true;
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	protection_stop(prot);
	prot = NULL;
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	OK(replicas_set_state(target.replicas, GUEST_UUID, "promoted", &e), e);
	reboot_source();
	ck_assert(!may_start_now());
	EVENTUALLY(is_state("fenced", ""));
	ck_assert_uint_eq(host_starts, 0);
	ck_assert(!host_autostart && !may_start_now());
}
END_TEST

static atomic_bool autostart_at_removal, cannot_remove;

static int remove_record(const char *path)
{
	if (!strstr(path, "source/protections/" GUEST_UUID ".json"))
		return unlink(path);
	autostart_at_removal = host_autostart;
	errno = EIO;
	return cannot_remove ? -1 : unlink(path);
}

/* i == 1: although it was taken over only then. */
START_TEST(who_unprotects_has_autostart_back)
{
	const struct protection_opts o = opts();
	json_t *record = record_of(400, "auto"), *args = json_pack("{s:s}", "vm", "web1"), *now = NULL;
	struct err e = ERR_INIT;

	host_autostart = true;
	host_answers_late = _i == 1;
	sys.unlink = remove_record;
	OK(epoch_save_protection(o.state_dir, record, &e), e);
	table = protections_new(&o, &e);
	ck_assert_msg(table != NULL, "%s", e.text);
	if (_i == 0) {
		for (int64_t until = soon(); host_autostart && clock_mono_ns() < until;)
			usleep(2000);
		ck_assert(!host_autostart);
		/* It goes on being protected. */
		cannot_remove = true;
		ck_assert_int_eq(protect_end(table, args, &e), -1);
		ck_assert(autostart_at_removal && !host_autostart);
		ck_assert(protections_have(table, GUEST_UUID, &now));
		ck_assert(json_is_true(json_object_get(now, "autostart")));
		json_decref(now);
		cannot_remove = false;
		err_clear(&e);
	}
	for (int64_t until = soon(); _i == 1 && !host_asked_late && clock_mono_ns() < until;)
		usleep(2000);
	OK(protect_end(table, args, &e), e);
	sys.unlink = unlink;
	/* Before the record goes: an agent that dies between is to know of it. */
	ck_assert(autostart_at_removal && host_autostart);
	ck_assert(!protections_have(table, GUEST_UUID, NULL));
	json_decref(args);
	json_decref(record);
}
END_TEST

/* What the record alone knows is not lost with it. i == 1: with the replica, which stays then, too. */
START_TEST(one_whose_autostart_libvirt_does_not_take_stays_protected)
{
	const struct protection_opts o = opts();
	json_t *record = record_of(400, "auto"), *args = json_pack("{s:s, s:b}", "vm", "web1", "forget", _i),
	       *now = NULL;
	struct err e = ERR_INIT;

	host_autostart = true;
	OK(epoch_save_protection(o.state_dir, record, &e), e);
	table = protections_new(&o, &e);
	ck_assert_msg(table != NULL, "%s", e.text);
	for (int64_t until = soon();
	     (host_autostart || !replicas_has(target.replicas, "web1")) && clock_mono_ns() < until;)
		usleep(2000);
	ck_assert(!host_autostart);
	host_refuses = EIO;
	ck_assert_int_eq(protect_end(table, args, &e), -1);
	HAS(e.text, "web1 is to start with its host again");
	HAS(e.remedy, "it stays protected");
	ck_assert(protections_have(table, GUEST_UUID, &now) && replicas_has(target.replicas, "web1"));
	ck_assert(json_is_true(json_object_get(now, "autostart")));
	json_decref(now);
	now = epoch_find_protection(o.state_dir, GUEST_UUID);
	ck_assert(json_is_true(json_object_get(now, "autostart")));
	json_decref(now);
	err_clear(&e);
	/* One that is not there any more starts nowhere. */
	host_refuses = _i ? 0 : ENOENT;
	OK(protect_end(table, args, &e), e);
	ck_assert(host_autostart == (_i == 1));
	ck_assert(!protections_have(table, GUEST_UUID, NULL) && replicas_has(target.replicas, "web1") == (_i == 0));
	json_decref(args);
	json_decref(record);
}
END_TEST

START_TEST(one_that_does_not_start_with_its_host)
{
	protect_as(record_of(400, "auto"));
	EVENTUALLY(is_state("protected", ""));
	ck_assert(!remembers_autostart() && !point_autostarts());
	reboot_source();
	EVENTUALLY(is_state("waiting", "shut off"));
	ck_assert_uint_eq(host_starts, 0);
}
END_TEST

/* ---- a first copy that starts from what is at hand at the peer ---- */

#define RAM_SENT (682 * STORE_BLOCK) /* of hosts_start: no seed has any of it */

/* An older copy of the disk, of which so many blocks have changed since. */
static void old_copy(uint64_t changed)
{
	at_hand.m = machine_new(1, 256);
	memcpy(at_hand.m->disk, fake.m->disk, (size_t)256 * STORE_BLOCK);
	for (uint64_t b = 0; b < changed; b++)
		machine_write(at_hand.m, true, b * 3 + 1, 77);
}

static json_t *seeded_record(void)
{
	json_t *record = record_of(400, "disk");

	json_object_set_new(record, "seed",
			    json_pack("[{s:s, s:s, s:i}]", "disk", "vda", "path", "/old", "size", 256 * 4096));
	return record;
}

static bool has_seed(void)
{
	json_t *r = protection_record(prot);
	const bool has = json_array_size(json_object_get(r, "seed")) > 0;

	json_decref(r);
	return has;
}

START_TEST(it_starts_from_an_older_copy)
{
	old_copy(12);
	protect_as(seeded_record());
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 1);
	ck_assert_uint_eq(at_hand.freed, 1);
	ck_assert(!has_seed());
	ck_assert_int_eq(number("sent_bytes"), RAM_SENT + 12 * STORE_BLOCK);
	/* Nothing of it is read again. */
	restart_source();
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 1);
	check_disk();
}
END_TEST

/* A cut takes nothing from the reading, and the same is not begun twice. */
START_TEST(a_seed_outlives_the_connection)
{
	old_copy(12);
	at_hand.hold = true;
	protect_as(seeded_record());
	EVENTUALLY(is_state("seeding", "host2 reads the image that the first copy starts from: vda, 25 %"));
	target_cut(ERR_PEER, "cut");
	EVENTUALLY(is_state("seeding", "cut"));
	EVENTUALLY(is_state("seeding", "host2 reads the image"));
	ck_assert_uint_eq(at_hand.fills, 1);
	ck_assert(has_seed());
	/* And its source's agent, too. */
	restart_source();
	EVENTUALLY(is_state("seeding", "host2 reads the image"));
	at_hand.hold = false;
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 1);
	ck_assert_int_eq(number("sent_bytes"), RAM_SENT + 12 * STORE_BLOCK);
	check_disk();
}
END_TEST

/* The agent that reads ends: the next reads again. */
START_TEST(a_seed_is_read_again_by_the_next_agent)
{
	old_copy(12);
	at_hand.hold = true;
	protect_as(seeded_record());
	EVENTUALLY(at_hand.fills == 1);
	target_stop();
	ck_assert_uint_eq(at_hand.freed, 1);
	at_hand.hold = false;
	target_start();
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 2);
	ck_assert_int_eq(number("sent_bytes"), RAM_SENT + 12 * STORE_BLOCK);
	check_disk();
}
END_TEST

/* What the peer will not read does not keep a VM from being protected; it is said. */
START_TEST(without_the_seed_if_it_cannot_be)
{
	old_copy(12);
	at_hand.refuse = true;
	protect_as(seeded_record());
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 1);
	HAS(event_log(), "seed.failed ");
	ck_assert(!has_seed());
	ck_assert_int_gt(number("sent_bytes"), RAM_SENT + 150 * STORE_BLOCK);
	check_disk();
}
END_TEST

/* Nor is it given up for a peer that lets nothing begin. */
START_TEST(a_seed_waits_for_room_at_the_peer)
{
	target_stop();
	target.min_free = UINT64_MAX;
	target_start();
	old_copy(12);
	protect_as(seeded_record());
	EVENTUALLY(is_state("failed", "disk of host2 is full"));
	ck_assert(has_seed());
	target_stop();
	target.min_free = 0;
	target_start();
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 1);
	ck_assert(!has_seed());
	ck_assert_ptr_null(strstr(event_log(), "seed.failed "));
	ck_assert_int_eq(number("sent_bytes"), RAM_SENT + 12 * STORE_BLOCK);
	check_disk();
}
END_TEST

START_TEST(a_seed_that_fails_is_tried_again)
{
	struct err e = ERR_INIT;

	old_copy(12);
	OK(fault_arm("replica.seeded=fail", &e), e);
	protect_as(seeded_record());
	EVENTUALLY(is_state("protected", ""));
	ck_assert_uint_eq(at_hand.fills, 2);
	ck_assert_int_eq(number("sent_bytes"), RAM_SENT + 12 * STORE_BLOCK);
	check_disk();
}
END_TEST

/* A wrong image costs what it brought; nothing is taken from it unseen. */
START_TEST(a_wrong_seed_only_costs)
{
	at_hand.m = machine_new(1, 256);
	for (uint64_t b = 0; b < 256; b++)
		machine_write(at_hand.m, true, b, 9);
	protect_as(seeded_record());
	EVENTUALLY(is_state("protected", ""));
	ck_assert_int_gt(number("sent_bytes"), RAM_SENT + 150 * STORE_BLOCK);
	check_disk();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/protection_start");
	TCase *t = tcase_create("protection_start");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60); /* every wait has its own limit */
	tcase_add_test(t, it_starts_with_its_host_when_it_is_ours);
	tcase_add_test(t, an_agent_that_is_new_starts_nothing);
	tcase_add_loop_test(t, a_start_that_fails_is_tried_again, 0, 5);
	tcase_add_test(t, one_that_is_not_defined_may_come_back);
	tcase_add_test(t, it_does_not_start_with_a_host_that_has_lost_it);
	tcase_add_loop_test(t, who_unprotects_has_autostart_back, 0, 2);
	tcase_add_loop_test(t, one_whose_autostart_libvirt_does_not_take_stays_protected, 0, 2);
	tcase_add_test(t, one_that_does_not_start_with_its_host);
	tcase_add_test(t, it_starts_from_an_older_copy);
	tcase_add_test(t, a_seed_outlives_the_connection);
	tcase_add_test(t, a_seed_is_read_again_by_the_next_agent);
	tcase_add_test(t, without_the_seed_if_it_cannot_be);
	tcase_add_test(t, a_seed_waits_for_room_at_the_peer);
	tcase_add_test(t, a_seed_that_fails_is_tried_again);
	tcase_add_test(t, a_wrong_seed_only_costs);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
