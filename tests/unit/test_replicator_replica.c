/* The target's calls as a peer sees them, with peers that want what they may not. */
#include "replica_peers.h"

START_TEST(epochs_decide)
{
	struct err e = ERR_INIT;
	json_t *r = NULL;

	OK(call(peer_rpc, "replica.begin", begin_args(2), &r, &e), e);
	ck_assert_int_eq(json_is_false(json_object_get(r, "seeded")), 1);
	json_decref(r);
	ck_assert_uint_eq(epoch_of(), 2);
	ck_assert_int_eq(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "epoch 1 of VM web1 is over");
	/* Another host, with whatever epoch. */
	fixture_issue("ca", "host3", "h3", 0, 0);
	struct tls_ctx *ctx3 = fixture_ctx("h3", NULL);
	struct rpc *three = connect_as(ctx3);
	ck_assert_int_eq(call(three, "replica.begin", begin_args(9), &r, &e), -1);
	HAS(e.text, "kept for host1, not for host3");
	ck_assert_int_eq(call(three, "replica.release", json_pack("{s:s, s:i}", "uuid", GUEST_UUID, "epoch", 9), &r, &e),
			 -1);
	HAS(e.text, "kept for host1");
	ck_assert_uint_eq(epoch_of(), 2);
	rpc_unref(three);
	tls_ctx_free(ctx3);
	/* Over a restart as well. */
	target_stop();
	target_start();
	rpc_unref(peer_rpc);
	peer_rpc = connect_as(source.ctx);
	ck_assert_int_eq(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), -1);
	HAS(e.text, "is over");
}
END_TEST

START_TEST(what_is_promoted_lets_nobody_in)
{
	struct err e = ERR_INIT;
	json_t *r = NULL;
	uint64_t epoch = 0;

	OK(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), e);
	json_decref(r);
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	ck_assert_int_eq(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), -1);
	HAS(e.text, "is promoting");
	for (int i = 1; i < 5; i++) {
		ck_assert_int_eq(call(peer_rpc, "replica.begin", begin_args(i), &r, &e), -1);
		HAS(e.text, "was failed over to host2");
	}
	ck_assert_int_eq(call(peer_rpc, "replica.release", json_pack("{s:s, s:i}", "uuid", GUEST_UUID, "epoch", 3), &r,
			      &e),
			 -1);
	err_clear(&e);
	OK(replicas_set_state(target.replicas, GUEST_UUID, "replica", &e), e);
	OK(call(peer_rpc, "replica.begin", begin_args(2), &r, &e), e);
	json_decref(r);
}
END_TEST

/* What was promoted may be what a VM runs on; a record that cannot be read is not one that is not there. */
START_TEST(an_unreadable_record_lets_nobody_in)
{
	struct err e = ERR_INIT;
	json_t *r = NULL;
	uint64_t epoch = 0;

	OK(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), e);
	json_decref(r);
	target_stop();
	OK(file_write_durable(fixture_path("target/replicas/" GUEST_UUID "/replica.json", NULL), "{\"uuid\"", 7, 0600,
			      &e),
	   e);
	target_start();
	rpc_unref(peer_rpc);
	peer_rpc = connect_as(source.ctx);
	ck_assert_int_eq(call(peer_rpc, "replica.begin", begin_args(9), &r, &e), -1);
	HAS(e.text, "cannot be told");
	ck_assert_int_eq(call(peer_rpc, "replica.status", json_pack("{s:s}", "uuid", GUEST_UUID), &r, &e), -1);
	HAS(e.text, "cannot be told");
	json_t *args = json_pack("{s:s, s:i}", "uuid", GUEST_UUID, "epoch", 9);
	ck_assert_int_eq(call(peer_rpc, "replica.release", json_incref(args), &r, &e), -1);
	HAS(e.text, "cannot be told");
	ck_assert_int_eq(replicas_release(target.replicas, NULL, args, &r, &e), -1);
	HAS(e.text, "cannot be told");
	json_decref(args);
	ck_assert_int_eq(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), -1);
	HAS(e.text, "is unreadable, not replica");
	ck_assert_ptr_null(replicas_get(target.replicas, GUEST_UUID, NULL, &e));
	HAS(e.text, "cannot be told");
	ck_assert_int_eq(access(fixture_path("target/replicas/" GUEST_UUID "/store", NULL), F_OK), 0);
	/* It is shown, with the reason. */
	json_t *list = json_array();
	replicas_list(target.replicas, NULL, list);
	ck_assert_uint_eq(json_array_size(list), 1);
	HAS(json_string_value(json_object_get(json_array_get(list, 0), "reason")), "replica.json: no JSON");
	HAS(json_string_value(json_object_get(json_array_get(list, 0), "reason")),
	    "look at both hosts before that file is moved away");
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(list, 0), "state")), "failed");
	json_decref(list);
}
END_TEST

/* What a source says of itself is kept in the record, and the record must stay one that can be read. */
START_TEST(what_is_kept_of_a_begin)
{
	static const char *const bad[] = {
		"{\"keep\":[]}",
		"{\"keep\":7}",
		"{\"keep\":{\"last\":-1}}",
		"{\"keep\":{\"last\":\"9\"}}",
		"{\"keep\":{\"hourly\":1000001}}",
		"{\"keep\":{\"daily\":1.5}}",
		"{\"keep\":{\"max_bytes\":-1}}",
		"{\"keep\":{\"max_bytes\":{}}}",
		"{\"rpo_ms\":-1}",
		"{\"rpo_ms\":\"x\"}",
		"{\"rpo_ms\":9007199254740993}",
		"{\"mode\":7}",
		"{\"mode\":\"no name\"}",
		"{\"mode\":\"aaaaaaaabbbbbbbbaaaaaaaabbbbbbbb\"}",
		"{\"epoch\":9007199254740993}",
	};
	struct err e = ERR_INIT;
	json_t *r = NULL;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_t *args = begin_args(1), *more = json_loads(bad[i], 0, NULL);
		json_object_update(args, more);
		json_decref(more);
		ck_assert_msg(call(peer_rpc, "replica.begin", args, &r, &e) == -1, "%s", bad[i]);
		ck_assert_int_eq(e.cls, ERR_PROTOCOL);
	}
	ck_assert(!replicas_has(target.replicas, GUEST_UUID));
	/* As much as a message may hold. */
	char *big = mem_alloc((size_t)2 << 20);
	memset(big, 'x', ((size_t)2 << 20) - 1);
	json_t *args = begin_args(1);
	json_object_set_new(args, "rpo_ms", json_integer(700));
	json_object_set_new(args, "keep", json_pack("{s:i, s:i, s:s}", "last", 3, "max_bytes", 0, "note", big));
	OK(call(peer_rpc, "replica.begin", args, &r, &e), e);
	free(big);
	json_decref(r);
	json_t *record = replicas_record(target.replicas, GUEST_UUID);
	json_t *keep = json_pack("{s:i, s:i}", "last", 3, "max_bytes", 0);
	ck_assert(json_equal(json_object_get(record, "keep"), keep));
	ck_assert_int_eq(json_integer_value(json_object_get(record, "rpo_ms")), 700);
	json_decref(keep);
	json_decref(record);
	target_stop();
	target_start();
	ck_assert_uint_eq(epoch_of(), 1);
}
END_TEST

START_TEST(names_are_not_uuids)
{
	static const char *const bad[] = { "", "a/b", "..", GUEST_UUID, "6B0E4A2C-0000-4000-8000-000000000009", "web\n1" };
	const char *second = "6b0e4a2c-0000-4000-8000-000000000002";
	struct err e = ERR_INIT;
	json_t *r = NULL;
	uint64_t epoch = 0;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_t *args = begin_args(1);
		json_object_set_new(args, "name", json_string(bad[i]));
		ck_assert_msg(call(peer_rpc, "replica.begin", args, &r, &e) == -1, "%s", bad[i]);
		ck_assert_int_eq(e.cls, ERR_PROTOCOL);
	}
	OK(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), e);
	json_decref(r);
	ck_assert_ptr_nonnull((r = replicas_record(target.replicas, "web1")));
	json_decref(r);
	/* Another VM of that name. */
	json_t *args = begin_args(7);
	json_object_set_new(args, "uuid", json_string(second));
	OK(call(peer_rpc, "replica.begin", args, &r, &e), e);
	json_decref(r);
	ck_assert(replicas_has(target.replicas, "web1"));
	ck_assert_ptr_null(replicas_record(target.replicas, "web1"));
	ck_assert_ptr_null(replicas_get(target.replicas, "web1", NULL, &e));
	HAS(e.text, "replicas of 2 VMs that are named web1");
	HAS(e.remedy, "say the UUID");
	ck_assert_int_eq(replicas_promote(target.replicas, "web1", &epoch, &e), -1);
	HAS(e.text, "replicas of 2 VMs");
	args = json_pack("{s:s}", "uuid", "web1");
	ck_assert_int_eq(replicas_release(target.replicas, NULL, args, &r, &e), -1);
	HAS(e.text, "replicas of 2 VMs");
	json_decref(args);
	/* Each by its UUID. */
	r = replicas_record(target.replicas, second);
	ck_assert_int_eq(json_integer_value(json_object_get(r, "epoch")), 7);
	json_decref(r);
	ck_assert_uint_eq(epoch_of(), 1);
	ck_assert_ptr_null(replicas_record(target.replicas, "web2"));
	ck_assert(!replicas_has(target.replicas, "web2"));
}
END_TEST

/* Whatever its source says, a replica can be failed over: what it would leave no epoch for is refused. */
START_TEST(no_source_takes_the_epochs_away)
{
	struct err e = ERR_INIT;
	uint64_t epoch = 0;
	json_t *r = NULL, *args = begin_args(1);

	for (int64_t n = EPOCH_MAX - 3; n <= EPOCH_MAX + 1; n++) {
		json_object_set_new(args, "epoch", json_integer(n));
		ck_assert_int_eq(call(peer_rpc, "replica.begin", json_deep_copy(args), &r, &e), -1);
		ck_assert_int_eq(e.cls, ERR_PROTOCOL);
		ck_assert_int_eq(call(peer_rpc, "replica.release",
				      json_pack("{s:s, s:I}", "uuid", GUEST_UUID, "epoch", n), &r, &e),
				 0);
		json_decref(r);
	}
	/* Its own source may come with one that is far above: it may have been away. */
	OK(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), e);
	json_decref(r);
	json_object_set_new(args, "epoch", json_integer(EPOCH_MAX / 2));
	OK(call(peer_rpc, "replica.begin", args, &r, &e), e);
	json_decref(r);
	ck_assert_uint_eq(epoch_of(), (uint64_t)EPOCH_MAX / 2);
	ck_assert_int_eq(call(peer_rpc, "replica.release",
			      json_pack("{s:s, s:I}", "uuid", GUEST_UUID, "epoch", (json_int_t)EPOCH_MAX), &r, &e),
			 -1);
	ck_assert_int_eq(e.cls, ERR_PROTOCOL);
	err_clear(&e);
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	ck_assert_uint_eq(epoch, (uint64_t)EPOCH_MAX / 2 + 1);
	/* And until that is settled it is not said that it runs. */
	json_t *list = json_array();
	replicas_list(target.replicas, NULL, list);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(list, 0), "state")), "promoting");
	json_decref(list);
}
END_TEST

static const char *const nonsense[] = {
	"{}",
	"{\"uuid\":\"../../../../../../../etc/passwd0000\"}",
	"{\"uuid\":\"6b0e4a2c-0000-4000-8000-000000000001\",\"name\":\"x\",\"epoch\":0,\"channels\":1,\"slots\":0,"
	"\"secret\":\"000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f\"}",
	"{\"uuid\":\"6b0e4a2c-0000-4000-8000-000000000001\",\"name\":\"x\",\"epoch\":1,\"channels\":99,\"slots\":0,"
	"\"secret\":\"000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f\"}",
	"{\"uuid\":\"6b0e4a2c-0000-4000-8000-000000000001\",\"name\":\"x\",\"epoch\":1,\"channels\":1,\"slots\":0,"
	"\"secret\":\"00\"}",
	"{\"uuid\":\"6b0e4a2c-0000-4000-8000-000000000001\",\"name\":\"x\",\"epoch\":1,\"channels\":1,\"slots\":-1,"
	"\"secret\":\"000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f\"}",
};

START_TEST(nonsense_is_refused)
{
	struct err e = ERR_INIT;
	json_t *r = NULL;

	for (size_t i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		ck_assert_int_eq(call(peer_rpc, "replica.begin", json_loads(nonsense[i], 0, NULL), &r, &e), -1);
		ck_assert_int_eq(e.cls, ERR_PROTOCOL);
	}
	ck_assert(!replicas_has(target.replicas, GUEST_UUID));
	ck_assert_int_eq(call(peer_rpc, "replica.commit", json_pack("{s:s}", "session", "none"), &r, &e), -1);
	ck_assert_int_eq(call(peer_rpc, "replica.hashes",
			      json_pack("{s:s, s:[[i,i]]}", "session", "none", "ranges", 0, 1), &r, &e),
			 -1);
	ck_assert_int_eq(call(peer_rpc, "replica.hashes",
			      json_pack("{s:s, s:[[i,I]]}", "session", "none", "ranges", 0, (json_int_t)1 << 40), &r, &e),
			 -1);
	ck_assert_int_eq(e.cls, ERR_PROTOCOL);
	ck_assert_int_eq(call(peer_rpc, "replica.end", json_pack("{s:s}", "session", "none"), &r, &e), -1);
}
END_TEST

START_TEST(a_session_is_its_owners)
{
	struct err e = ERR_INIT;
	json_t *r = NULL;

	OK(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), e);
	const char *session = json_string_value(json_object_get(r, "session"));
	/* The same host over another connection: as another agent. */
	struct rpc *two = connect_as(source.ctx);
	json_t *ignored = NULL;
	ck_assert_int_eq(call(two, "replica.end", json_pack("{s:s}", "session", session), &ignored, &e), -1);
	/* Another host that has heard of it. */
	fixture_issue("ca", "host3", "h3", 0, 0);
	struct tls_ctx *ctx3 = fixture_ctx("h3", NULL);
	struct source three = { .ctx = ctx3 };
	json_t *stolen = json_pack("{s:s, s:s, s:s, s:i}", "purpose", "replica", "session", session, "direction",
				   "forward", "index", 0);
	ck_assert_ptr_null(connect_data(&three, "host2", stolen, &e));
	HAS(e.text, "no such session of host3");
	tls_ctx_free(ctx3);
	err_clear(&e);
	/* A link that is not asked for. */
	json_t *hello = json_pack("{s:s, s:s, s:s, s:i}", "purpose", "replica", "session", session, "direction",
				  "forward", "index", 7);
	struct link *l = connect_data(&source, "host2", hello, &e);
	ck_assert_ptr_null(l);
	HAS(e.text, "not expected");
	err_clear(&e);
	hello = json_pack("{s:s, s:s, s:s, s:i}", "purpose", "replica", "session", "0123", "direction", "forward",
			  "index", 0);
	ck_assert_ptr_null(connect_data(&source, "host2", hello, &e));
	HAS(e.text, "no such session");
	/* A new one ends it: nothing of the old one is taken, over either connection. */
	json_t *again = NULL;
	OK(call(two, "replica.begin", begin_args(1), &again, &e), e);
	for (int i = 0; i < 2; i++) {
		struct rpc *by = i ? two : peer_rpc;
		ck_assert_int_eq(call(by, "replica.end", json_pack("{s:s}", "session", session), &ignored, &e), -1);
		HAS(e.text, "no such session");
		ck_assert_int_eq(call(by, "replica.hashes",
				      json_pack("{s:s, s:[[i,i]]}", "session", session, "ranges", 0, 1), &ignored, &e),
				 -1);
		HAS(e.text, "no such session");
		json_t *args = json_pack("{s:s, s:s, s:s, s:i, s:{s:s}}", "session", session, "id", "p1", "kind",
					 "point", "epoch", 1, "meta", "id", "p1");
		ck_assert_int_eq(call(by, "replica.commit", args, &ignored, &e), -1);
		HAS(e.text, "no such session");
	}
	hello = json_pack("{s:s, s:s, s:s, s:i}", "purpose", "replica", "session", session, "direction", "forward",
			  "index", 0);
	err_clear(&e);
	ck_assert_ptr_null(connect_data(&source, "host2", hello, &e));
	HAS(e.text, "no such session");
	json_decref(again);
	json_decref(r);
	rpc_unref(two);
	/* And the end of its connection too: the next begins at once. */
	OK(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), e);
	json_decref(r);
}
END_TEST

/* A source need not say what it aims at. */
START_TEST(listed_without_an_aim)
{
	struct err e = ERR_INIT;
	json_t *r = NULL, *list = json_array();

	OK(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), e);
	json_decref(r);
	replicas_list(target.replicas, NULL, list);
	ck_assert_uint_eq(json_array_size(list), 1);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(list, 0), "vm")), "web1");
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(list, 0), "host")), "host1");
	ck_assert_int_eq(json_integer_value(json_object_get(json_array_get(list, 0), "epoch")), 1);
	json_decref(list);
}
END_TEST

static void shows(const json_t *ours, const char *reason, const char *remedy)
{
	json_t *list = json_array();

	if (ours)
		json_array_append_new(list, json_deep_copy(ours));
	replicas_list(target.replicas, NULL, list);
	const json_t *o = json_array_get(list, ours ? 1 : 0);
	ck_assert_str_eq(json_string_value(json_object_get(o, "reason")), reason);
	if (remedy)
		ck_assert_str_eq(json_string_value(json_object_get(o, "remedy")), remedy);
	else
		ck_assert_ptr_null(json_object_get(o, "remedy"));
	json_decref(list);
}

/* Whoever reads the line of a replica that is none any more sees where the VM is, and what that line is. */
START_TEST(what_a_replica_is_by_now)
{
	struct err e = ERR_INIT;
	json_t *r = NULL, *left = json_pack("{s:b}", "left", 1);
	uint64_t epoch;

	OK(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), e);
	json_decref(r);
	shows(NULL, "the source is not connected: no points come from host1", "'vmferry status web1' at host1 says why");
	/* What was left of a VM that went away is a replica like any other once it is written to again. */
	OK(replicas_change(target.replicas, GUEST_UUID, "replica", left, &e), e);
	OK(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), e);
	json_decref(r);
	shows(NULL, "the source is not connected: no points come from host1", "'vmferry status web1' at host1 says why");
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	shows(NULL, "a failover to this host is under way, or what came of it is being found out", NULL);
	json_t *done = json_pack("{s:s, s:I}", "state", "promoted", "promoted_ns", (json_int_t)1795813157408 * 1000000);
	OK(replicas_change(target.replicas, GUEST_UUID, "promoting", done, &e), e);
	shows(NULL, "this host has taken it over from host1, at 2026-11-27T20:59:17.408Z, and does not protect it yet",
	      "'vmferry protect web1 --to host1' keeps a replica there; 'vmferry failback web1' moves it there");
	json_t *ours = json_pack("{s:s, s:s, s:s, s:s}", "role", "source", "uuid", GUEST_UUID, "host", "host3", "state",
				 "protected");
	shows(ours, "this host has taken it over from host1, at 2026-11-27T20:59:17.408Z, and protects it to host3",
	      NULL);
	json_object_set_new(ours, "state", json_string("fenced"));
	shows(ours, "this host has taken it over from host1, at 2026-11-27T20:59:17.408Z, and since then host3 has",
	      NULL);
	json_decref(ours);
	json_decref(done);
	json_decref(left);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/replica");
	TCase *t = tcase_create("calls");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, epochs_decide);
	tcase_add_test(t, what_is_promoted_lets_nobody_in);
	tcase_add_test(t, an_unreadable_record_lets_nobody_in);
	tcase_add_test(t, what_is_kept_of_a_begin);
	tcase_add_test(t, names_are_not_uuids);
	tcase_add_test(t, no_source_takes_the_epochs_away);
	tcase_add_test(t, nonsense_is_refused);
	tcase_add_test(t, a_session_is_its_owners);
	tcase_add_test(t, listed_without_an_aim);
	tcase_add_test(t, what_a_replica_is_by_now);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
