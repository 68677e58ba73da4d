/* The operator's calls, at both hosts. */
#include "replica_peers.h"

#include <semaphore.h>

START_TEST(what_operators_do)
{
	struct err e = ERR_INIT;
	json_t *r = NULL;

	event_log_clear();
	start_replicator();
	ck_assert_int_eq(ask(replicator_status, "{\"vm\":\"web1\"}", NULL, &e), -1);
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host1\"}", NULL, &e), -1);
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":1}", NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"mode\":\"x\"}", NULL, &e), -1);
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300,\"keep\":{\"last\":3}}", &r, &e),
	   e);
	ck_assert_str_eq(json_string_value(json_object_get(r, "vm")), "web1");
	json_decref(r);
	wait_state("protected");
	/* Asked again, it is changed. */
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":500}", &r, &e), e);
	ck_assert_int_eq(json_integer_value(json_object_get(r, "rpo_target_ms")), 500);
	json_decref(r);
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host3\"}", NULL, &e), -1);
	HAS(e.text, "protected to host2 already");
	wait_state("protected");
	OK(ask(replicator_pause, "{\"vm\":\"web1\"}", NULL, &e), e);
	wait_state("paused");
	OK(ask(replicator_resume, "{\"vm\":\"web1\"}", NULL, &e), e);
	wait_state("protected");
	/* Over a restart. */
	replicator_free(repl);
	start_replicator();
	wait_state("protected");
	/* What a migration does. */
	OK(replicator_hold_vm(repl, "web1", "it is being migrated", &e), e);
	wait_state("waiting");
	replicator_release_vm(repl, "web1");
	OK(replicator_hold_vm(repl, "other", "it is being migrated", &e), e);
	replicator_release_vm(repl, "other");
	wait_state("protected");
	/* At the target. */
	json_t *list = json_array();
	replicas_list(target.replicas, NULL, list);
	ck_assert_uint_eq(json_array_size(list), 1);
	const json_t *t = json_array_get(list, 0);
	ck_assert_str_eq(json_string_value(json_object_get(t, "role")), "target");
	ck_assert_str_eq(json_string_value(json_object_get(t, "state")), "protected");
	ck_assert_int_gt(json_integer_value(json_object_get(t, "space_bytes")), 0);
	json_decref(list);
	json_t *args = json_pack("{s:s}", "vm", "web1");
	OK(replicas_verify(target.replicas, args, NULL, NULL, &r, &e), e);
	ck_assert(json_is_true(json_object_get(r, "verified")));
	json_decref(r);
	json_decref(args);
	/* And gone. */
	OK(ask(replicator_unprotect, "{\"vm\":\"web1\",\"forget\":true}", NULL, &e), e);
	ck_assert(!replicas_has(target.replicas, GUEST_UUID));
	ck_assert_int_ne(access(fixture_path("target/replicas/" GUEST_UUID, NULL), F_OK), 0);
	ck_assert_int_ne(access(fixture_path("source/protections/" GUEST_UUID ".json", NULL), F_OK), 0);
	ck_assert_int_eq(ask(replicator_unprotect, "{\"vm\":\"web1\"}", NULL, &e), -1);
	HAS(event_log(), "protection.started ");
	HAS(event_log(), "protection.stopped ");
	/* Anew. */
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), e);
	wait_state("protected");
}
END_TEST

/* How a VM is listed that libvirt calls paused for this reason. */
static const char *listed(const char *uuid, const char *reason, int64_t since_ns)
{
	static char state[20];
	json_t *vms = json_pack("[{s:s, s:s, s:s?}]", "uuid", uuid, "state", "paused", "reason", reason);

	replicator_see_through(repl, vms, since_ns);
	const json_t *vm = json_array_get(vms, 0);
	snprintf(state, sizeof(state), "%s", json_string_value(json_object_get(vm, "state")));
	ck_assert(strcmp(state, "paused") == 0 || json_is_null(json_object_get(vm, "reason")));
	json_decref(vms);
	return state;
}

START_TEST(a_pause_of_ours_is_none_to_an_operator)
{
	struct err e = ERR_INIT;

	start_replicator();
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), e);
	wait_state("protected");
	/* By its user. */
	ck_assert_str_eq(listed(GUEST_UUID, NULL, clock_mono_ns()), "paused");
	fake.arm(fake.arm_ctx, true, 0);
	ck_assert_str_eq(listed(GUEST_UUID, NULL, clock_mono_ns()), "running");
	ck_assert_str_eq(listed(GUEST_UUID, "user", clock_mono_ns()), "running");
	ck_assert_str_eq(listed(GUEST_UUID, "ioerror", clock_mono_ns()), "paused");
	ck_assert_str_eq(listed("6b0e4a2c-0000-4000-8000-000000000002", NULL, clock_mono_ns()), "paused");
	/* It runs, and libvirt has not heard of it; some time later that is no reason any more. */
	fake.arm(fake.arm_ctx, false, 0);
	ck_assert_str_eq(listed(GUEST_UUID, NULL, clock_mono_ns()), "running");
	ck_assert_str_eq(listed(GUEST_UUID, NULL, clock_mono_ns() + 2 * NS_PER_S), "paused");
	/* Held for its peer. */
	fake.arm(fake.arm_ctx, true, 0);
	fake.arm(fake.arm_ctx, false, 0);
	fake.arm(fake.arm_ctx, true, CAPTURE_HELD_NS);
	ck_assert_str_eq(listed(GUEST_UUID, NULL, clock_mono_ns()), "paused");
	fake.arm(fake.arm_ctx, false, 0);
	ck_assert_str_eq(listed(GUEST_UUID, NULL, clock_mono_ns()), "paused");
}
END_TEST

START_TEST(protect_is_refused_where_it_must_be)
{
	struct err e = ERR_INIT;
	uint64_t epoch;

	start_replicator();
	fake.gone = true;
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\"}", NULL, &e), -1);
	HAS(e.text, "shut off");
	fake.gone = false;
	fake.shareable = true;
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\"}", NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "disk vda of web1 is shared with other VMs");
	err_clear(&e);
	fake.shareable = false;
	/* Beside the RPO that goes without saying; and beside one that was said before. */
	ck_assert_int_eq(ask(replicator_protect,
			     "{\"vm\":\"web1\",\"host\":\"host2\",\"schedule\":{\"every_ms\":6000}}", NULL, &e),
			 -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	HAS(e.text, "web1: with a checkpoint every 6.0 s an RPO of 5.0 s cannot be held");
	err_clear(&e);
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), e);
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"schedule\":{\"every_ms\":400}}",
			     NULL, &e),
			 -1);
	HAS(e.text, "an RPO of 300 ms cannot be held");
	err_clear(&e);
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"schedule\":{\"every_ms\":200}}", NULL, &e), e);
	wait_state("protected");
	OK(ask(replicator_unprotect, "{\"vm\":\"web1\"}", NULL, &e), e);
	/* The replica stayed, and was taken over. */
	ck_assert(replicas_has(target.replicas, GUEST_UUID));
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\"}", NULL, &e), -1);
	HAS(e.text, "runs VM web1 itself");
	err_clear(&e);
	/* Given back: it goes on with the epoch that is in force. */
	OK(replicas_set_state(target.replicas, GUEST_UUID, "replica", &e), e);
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), e);
	wait_state("protected");
	ck_assert_uint_eq(epoch_of(), 2);
	/* Unreachable. */
	OK(ask(replicator_unprotect, "{\"vm\":\"web1\"}", NULL, &e), e);
	target_stop();
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\"}", NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_PEER);
}
END_TEST

/* What the host that keeps the replica asks: its point and instant if it is handed over, a reason if not. */
static int ask_handover(struct rpc *from, json_int_t epoch, bool again, char point[80], json_int_t *instant_ns,
			struct err *e)
{
	json_t *args = json_pack("{s:s, s:I, s:b}", "uuid", GUEST_UUID, "epoch", epoch, "again", (int)again),
	       *said = NULL;

	err_clear(e);
	const int rc = replicator_source_handover(repl, from, args, &said, e);
	json_decref(args);
	if (rc < 0)
		return -1;
	snprintf(point, 80, "%s", json_string_value(json_object_get(said, "point")));
	*instant_ns = json_integer_value(json_object_get(said, "instant_ns"));
	json_decref(said);
	return 0;
}

static sem_t hanging, answers;

/* QEMU of "stuck" answers when it is let. */
static struct guest *open_or_hang(void *ctx, const char *vm, struct err *e)
{
	if (strcmp(vm, "stuck") != 0)
		return fake_open(ctx, vm, e);
	sem_post(&hanging);
	while (sem_wait(&answers) != 0)
		;
	err_set(e, ERR_LIBVIRT, "no answer");
	return NULL;
}

static void *protect_stuck(void *arg)
{
	json_t *args = json_pack("{s:s, s:s}", "vm", "stuck", "host", "host2"), *r = NULL;

	*(int *)arg = replicator_protect(repl, args, &r, &(struct err)ERR_INIT);
	json_decref(args);
	json_decref(r);
	return NULL;
}

START_TEST(a_vm_that_hangs_keeps_no_other_waiting)
{
	struct err e = ERR_INIT;
	pthread_t t;
	int rc = 0;

	ck_assert_int_eq(sem_init(&hanging, 0, 0), 0);
	ck_assert_int_eq(sem_init(&answers, 0, 0), 0);
	start_replicator_with(open_or_hang);
	OK(thread_start(&t, "stuck", protect_stuck, &rc, &e), e);
	while (sem_wait(&hanging) != 0)
		;
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), e);
	wait_state("protected");
	OK(ask(replicator_unprotect, "{\"vm\":\"web1\"}", NULL, &e), e);
	sem_post(&answers);
	pthread_join(t, NULL);
	ck_assert_int_eq(rc, -1);
}
END_TEST

START_TEST(handed_over_to_its_peer)
{
	struct err e = ERR_INIT;
	char point[80], again[80];
	json_int_t instant = 0, then = 0;

	start_replicator();
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), e);
	wait_state("protected");
	struct rpc *host2 = connect_peer(&source, "host2", &e);
	ck_assert_msg(host2 != NULL, "%s", e.text);
	/* Who only wants to know whether it was, does not have it handed over. */
	ck_assert_int_eq(ask_handover(host2, 2, true, point, &instant, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "web1 was not handed over");
	ck_assert_int_eq(ask_handover(host2, 3, false, point, &instant, &e), -1);
	HAS(e.text, "epoch 3 does not follow ours, 1");
	ck_assert(!fake.paused);
	OK(ask_handover(host2, 2, false, point, &instant, &e), e);
	ck_assert(fake.paused);
	ck_assert_int_gt(instant, 0);
	/* And it was, with the same point, over a restart too. */
	for (int i = 0; i < 2; i++) {
		OK(ask_handover(host2, 2 + i, true, again, &then, &e), e);
		ck_assert_str_eq(again, point);
		ck_assert_int_eq(then, instant);
		replicator_free(repl);
		start_replicator();
	}
	ck_assert_int_eq(ask_handover(host2, 5, true, again, &then, &e), -1);
	ck_assert(fake.paused);
	rpc_unref(host2);
}
END_TEST

static void *unprotect_main(void *rc)
{
	struct err e = ERR_INIT;

	*(int *)rc = ask(replicator_unprotect, "{\"vm\":\"web1\"}", NULL, &e);
	return NULL;
}

/* Who ends a protection while a migration has its VM waits for that, and no longer. */
START_TEST(ended_while_it_is_held)
{
	struct err e = ERR_INIT;
	pthread_t thread;
	int rc = 1;

	start_replicator();
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), e);
	wait_state("protected");
	OK(replicator_hold_vm(repl, "web1", "it is being migrated", &e), e);
	ck_assert_int_eq(pthread_create(&thread, NULL, unprotect_main, &rc), 0);
	for (const int64_t until = soon(); replicator_protects(repl, "web1", NULL); usleep(2000))
		ck_assert_int_lt(clock_mono_ns(), until);
	replicator_release_vm(repl, "web1");
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_int_eq(rc, 0);
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), e);
	wait_state("protected");
}
END_TEST

/* It ran at the peer, and went on here: what is left there becomes its replica when it is protected, and no point of it is written over unasked. */
START_TEST(what_is_left_at_the_peer_is_adopted)
{
	struct err e = ERR_INIT;
	json_t *r = NULL;
	json_t *promoted = json_pack("{s:s, s:s, s:s, s:i, s:s}", "uuid", GUEST_UUID, "vm", "web1", "from", "host2",
				     "epoch", 3, "state", "promoted");
	json_t *state = json_pack("{s:s}", "state", "promoted");
	uint64_t epoch;

	OK(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), e);
	json_decref(r);
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	OK(replicas_change(target.replicas, GUEST_UUID, "promoting", state, &e), e);
	ck_assert_uint_eq(epoch, 2);
	start_replicator();
	/* Of an epoch before theirs, we are not who took it over. */
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), -1);
	HAS(e.text, "runs VM web1 itself");
	replicator_free(repl);
	repl = NULL;
	err_clear(&e);
	OK(epoch_save_replica(fixture_path("source/replicas", NULL), promoted, &e), e);
	start_replicator();
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), e);
	wait_state("protected");
	json_t *theirs = replicas_record(target.replicas, GUEST_UUID);
	ck_assert_str_eq(json_string_value(json_object_get(theirs, "state")), "replica");
	ck_assert_str_eq(json_string_value(json_object_get(theirs, "from")), "host1");
	ck_assert_str_eq(json_string_value(json_object_get(theirs, "store")), "store-3");
	ck_assert_str_eq(json_string_value(json_object_get(json_object_get(theirs, "old"), "store")), "store");
	ck_assert_int_eq(json_integer_value(json_object_get(theirs, "epoch")), 3);
	json_decref(theirs);
	json_decref(promoted);
	json_decref(state);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/operator");
	TCase *t = tcase_create("operator");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, what_operators_do);
	tcase_add_test(t, a_vm_that_hangs_keeps_no_other_waiting);
	tcase_add_test(t, a_pause_of_ours_is_none_to_an_operator);
	tcase_add_test(t, protect_is_refused_where_it_must_be);
	tcase_add_test(t, handed_over_to_its_peer);
	tcase_add_test(t, ended_while_it_is_held);
	tcase_add_test(t, what_is_left_at_the_peer_is_adopted);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
