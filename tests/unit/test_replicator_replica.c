/* The target's calls as a peer sees them, with peers that want what they may not; and the operator's calls at both hosts. */
#include "replica_hosts.h"
#include "tests/unit/event_log.h"

#include "base/base64.h"
#include "base/file.h"
#include "replicator/epoch.h"
#include "replicator/replicator.h"

static struct replicator *repl;

/* ---- peers ---- */

static struct rpc *peer_rpc;

static struct rpc *connect_as(struct tls_ctx *ctx)
{
	const struct link_peer peer = { .name = "host2", .address = "127.0.0.1", .port = target.port };
	struct err e = ERR_INIT;
	struct link *l = link_connect(ctx, &peer, json_pack("{s:s}", "purpose", "control"), soon(), &e);

	ck_assert_msg(l != NULL, "%s", e.text);
	struct rpc *r = rpc_start(l, NULL, &e);
	ck_assert_msg(r != NULL, "%s", e.text);
	return r;
}

static json_t *begin_args(int epoch)
{
	return json_pack("{s:s, s:s, s:i, s:s, s:i, s:i, s:s}", "uuid", GUEST_UUID, "name", "web1", "epoch", epoch,
			 "mode", "auto", "channels", 1, "slots", 16, "secret",
			 "000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f");
}

static int call(struct rpc *r, const char *method, json_t *args, json_t **result, struct err *e)
{
	err_clear(e);
	return rpc_call(r, method, args, soon(), NULL, NULL, NULL, result, e);
}

static void setup(void)
{
	hosts_start();
	repl = NULL;
	peer_rpc = connect_as(source.ctx);
}

static void teardown(void)
{
	replicator_free(repl);
	rpc_unref(peer_rpc);
	hosts_end();
}

static uint64_t epoch_of(void)
{
	json_t *args = json_pack("{s:s}", "uuid", GUEST_UUID), *r = NULL;
	struct err e = ERR_INIT;

	OK(replicas_status(target.replicas, args, &r, &e), e);
	const uint64_t epoch = (uint64_t)json_integer_value(json_object_get(r, "epoch"));
	json_decref(args);
	json_decref(r);
	return epoch;
}

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

static int (*real_open)(const char *path, int flags, mode_t mode);
static atomic_uint slow_opens;

static int slow_open(const char *path, int flags, mode_t mode)
{
	if (strstr(path, "/replicas/")) {
		slow_opens++;
		usleep(20000);
	}
	return real_open(path, flags, mode);
}

static void *open_it(void *arg)
{
	struct err e = ERR_INIT;
	struct store **out = arg;

	*out = replicas_get(target.replicas, GUEST_UUID, NULL, &e);
	if (!*out)
		log_error("test", "msg=%s", LOG_Q(e.text));
	return NULL;
}

/* After a start nobody has it open, and an operator's calls, the source and the retention come together. */
START_TEST(one_opens_and_all_use_it)
{
	enum { N = 6 };
	struct err e = ERR_INIT;
	struct store *s[N] = { NULL };
	pthread_t t[N];
	json_t *r = NULL;

	OK(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), e);
	json_decref(r);
	target_stop();
	target_start();
	real_open = sys.open;
	sys.open = slow_open;
	for (int i = 0; i < N; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, open_it, &s[i]), 0);
	for (int i = 0; i < N; i++)
		pthread_join(t[i], NULL);
	sys.open = real_open;
	ck_assert_uint_gt(slow_opens, 0);
	for (int i = 0; i < N; i++) {
		ck_assert_ptr_nonnull(s[i]);
		ck_assert_ptr_eq(s[i], s[0]);
	}
	for (int i = 0; i < N; i++)
		replicas_put(target.replicas, s[i]);
	/* All are given back: it can be removed. */
	json_t *args = json_pack("{s:s}", "uuid", GUEST_UUID);
	OK(replicas_release(target.replicas, NULL, args, &r, &e), e);
	json_decref(args);
	json_decref(r);
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

/* ---- operators ---- */

static void on_event(void *ctx, const char *type, const char *uuid, json_t *data)
{
	(void)ctx, (void)uuid;
	event_log_add(type);
	json_decref(data);
}

/* The replicator's ctx is the source's. */
static void start_replicator(void)
{
	const struct replicator_opts o = { .host_name = "host1",
					   .state_dir = fixture_path("source", NULL),
					   .delta_cache = 1 << 20,
					   .channels = 1,
					   .workers = 1,
					   .retry_ns = 50 * NS_PER_MS,
					   .capture = &fake_calls,
					   .connect_peer = connect_peer,
					   .connect_data = connect_data,
					   .event = on_event,
					   .open_guest = fake_open,
					   .ctx = &source };
	struct err e = ERR_INIT;

	repl = replicator_new(&o, &e);
	ck_assert_msg(repl != NULL, "%s", e.text);
}

/* What the catalogue says is lost with the power. */
static int no_rename(const char *from, const char *to)
{
	return strstr(to, "catalogue.log") ? 0 : rename(from, to);
}

static uint64_t put_points(struct store *s, unsigned n)
{
	const struct store_volume volume = { .kind = STORE_DISK, .name = "vda", .size_bytes = 1 << 20 };
	struct err e = ERR_INIT;
	uint8_t block[STORE_BLOCK];
	uint64_t seq = 0;

	for (unsigned i = 1; i <= n; i++) {
		memset(block, (int)i, sizeof(block));
		struct store_txn *t = store_begin(s, STORE_TXN_POINT, &e);
		ck_assert_msg(t != NULL, "%s", e.text);
		if (i == 1)
			OK(store_txn_volumes(t, &volume, 1, &e), e);
		OK(store_txn_block(t, 0, i, block, &e), e);
		OK(store_commit(t, NULL, &seq, &e), e);
	}
	return seq;
}

/* A byte within the second point's block. */
static void rot_second(const char *path)
{
	struct err e = ERR_INIT;
	uint8_t want[STORE_BLOCK];
	size_t n = 0;
	char *all = file_read_all(path, 1 << 20, &n, &e);

	ck_assert_msg(all != NULL, "%s", e.text);
	memset(want, 2, sizeof(want));
	char *at = memmem(all, n, want, sizeof(want));
	ck_assert_ptr_nonnull(at);
	at[100] = 3;
	OK(file_write_durable(path, all, n, 0600, &e), e);
	free(all);
}

/* Not to be found out at a failover. */
START_TEST(a_damaged_replica_is_told)
{
	int (*const real_rename)(const char *from, const char *to) = sys.rename;
	const struct replicas_opts o = { .host_name = "host2",
					 .replica_dir = fixture_path("other", NULL),
					 .min_free = 1,
					 .pool = target.pool,
					 .event = on_event };
	struct err e = ERR_INIT;
	json_t *record = json_pack("{s:s, s:s, s:s, s:i, s:s}", "uuid", GUEST_UUID, "vm", "web1", "from", "host1",
				   "epoch", 1, "state", "replica");
	json_t *vm = json_pack("{s:s}", "name", "web1");

	event_log_clear();
	OK(epoch_save_replica(o.replica_dir, record, &e), e);
	struct store *s = store_create(fixture_path("other/" GUEST_UUID "/store", NULL), &(struct store_opts){ 0 }, vm,
				       &e);
	ck_assert_msg(s != NULL, "%s", e.text);
	sys.rename = no_rename; /* so that the points are in the journal alone, as after a loss of power */
	ck_assert_uint_eq(put_points(s, 3), 3);
	store_close(s);
	sys.rename = real_rename;
	rot_second(fixture_path("other/" GUEST_UUID "/store/journal/00000001.wal", NULL));
	for (int i = 0; i < 2; i++) {
		struct replicas *r = replicas_new(&o, &e);
		ck_assert_msg(r != NULL, "%s", e.text);
		s = replicas_get(r, "web1", NULL, &e);
		ck_assert_msg(s != NULL, "%s", e.text);
		replicas_put(r, s);
		replicas_free(r);
		ck_assert_str_eq(event_log(), "replica.damaged "); /* once */
	}
	ck_assert_int_eq(access(fixture_path("other/" GUEST_UUID "/store/journal/00000001.wal.bad", NULL), F_OK), 0);
	json_decref(vm);
	json_decref(record);
}
END_TEST

typedef int (*operator_call)(struct replicator *r, const json_t *args, json_t **result, struct err *e);

static int ask(operator_call fn, const char *args, json_t **result, struct err *e)
{
	json_t *a = json_loads(args, 0, NULL);
	json_t *r = NULL;

	ck_assert_ptr_nonnull(a);
	err_clear(e);
	const int rc = fn(repl, a, &r, e);
	json_decref(a);
	if (result)
		*result = r;
	else
		json_decref(r);
	return rc;
}

static void wait_state(const char *state)
{
	struct err e = ERR_INIT;
	char now[32] = "";

	for (const int64_t until = soon(); strcmp(now, state) != 0 && clock_mono_ns() < until; usleep(2000)) {
		json_t *r;
		OK(ask(replicator_status, "{\"vm\":\"web1\"}", &r, &e), e);
		snprintf(now, sizeof(now), "%s",
			 json_string_value(
				 json_object_get(json_array_get(json_object_get(r, "protections"), 0), "state")));
		json_decref(r);
	}
	ck_assert_str_eq(now, state);
}

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

/* Full but for what was kept back: as long as that is there. */
static ssize_t full_write(int fd, const void *buf, size_t n)
{
	char link[64], path[500] = "";

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (readlink(link, path, sizeof(path) - 1) > 0 && strstr(path, "/replica.json") &&
	    access(fixture_path("target/replicas/reserve", NULL), F_OK) == 0) {
		errno = ENOSPC;
		return -1;
	}
	return write(fd, buf, n);
}

START_TEST(a_full_disk_has_room_for_a_failover)
{
	struct err e = ERR_INIT;
	struct stat st;
	uint64_t epoch = 0;

	OK(call(peer_rpc, "replica.begin", begin_args(1), NULL, &e), e);
	ck_assert_int_eq(stat(fixture_path("target/replicas/reserve", NULL), &st), 0);
	ck_assert_int_ge(st.st_blocks * 512, 4 << 20);
	replicas_make_room(target.replicas, false); /* there is some */
	ck_assert_int_eq(access(fixture_path("target/replicas/reserve", NULL), F_OK), 0);
	sys.write = full_write;
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	sys.write = write;
	ck_assert_uint_eq(epoch, 2);
	ck_assert_int_ne(access(fixture_path("target/replicas/reserve", NULL), F_OK), 0);
	target_stop();
	target_start();
	ck_assert_uint_eq(epoch_of(), 2);
	ck_assert_int_eq(access(fixture_path("target/replicas/reserve", NULL), F_OK), 0);
}
END_TEST

/* Refused before anything is changed, and by whoever is to read it. */
START_TEST(what_a_copy_may_start_from)
{
	struct err e = ERR_INIT;

	start_replicator();
	at_hand.m = machine_new(1, 256);
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"seed\":{\"vdb\":\"/old\"}}",
			     NULL, &e),
			 -1);
	HAS(e.text, "no disk vdb that is replicated");
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"seed\":{\"sda\":\"/old\"}}",
			     NULL, &e),
			 -1);
	HAS(e.text, "no disk sda that is replicated");
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"seed\":{\"vda\":7}}", NULL, &e),
			 -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	at_hand.refuse_check = true;
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"seed\":{\"vda\":\"/old\"}}",
			     NULL, &e),
			 -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, "start from an image at host2: ");
	ck_assert_int_eq(ask(replicator_status, "{\"vm\":\"web1\"}", NULL, &e), -1);
	ck_assert(!replicas_has(target.replicas, GUEST_UUID));
	/* The only disk that is copied is meant without a name. */
	at_hand.refuse_check = false;
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300,\"seed\":{\"\":\"/old\"}}", NULL,
	       &e),
	   e);
	wait_state("protected");
	ck_assert_uint_eq(at_hand.fills, 1);
	/* What has points needs none. */
	ck_assert_int_eq(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"seed\":{\"\":\"/old\"}}", NULL,
			     &e),
			 -1);
	HAS(e.text, "points of VM web1 already");
	wait_state("protected");
	ck_assert_uint_eq(at_hand.fills, 1);
}
END_TEST

/* Whoever wants something else of the replica does not wait for the end of the reading. */
START_TEST(a_seed_is_ended_for_others)
{
	struct err e = ERR_INIT;
	json_t *list = json_array();

	start_replicator();
	at_hand.m = machine_new(1, 256);
	at_hand.hold = true;
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300,\"seed\":{\"\":\"/old\"}}", NULL,
	       &e),
	   e);
	for (int64_t until = soon(); at_hand.fills == 0 && clock_mono_ns() < until; usleep(2000))
		;
	replicas_list(target.replicas, "web1", list);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(list, 0), "state")), "seeding");
	HAS(json_string_value(json_object_get(json_array_get(list, 0), "reason")),
	    "an image is read that is here already");
	json_decref(list);
	/* Another one instead. */
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300,\"seed\":{\"\":\"/other\"}}",
	       NULL, &e),
	   e);
	for (int64_t until = soon(); at_hand.fills < 2 && clock_mono_ns() < until; usleep(2000))
		;
	ck_assert_uint_eq(at_hand.fills, 2);
	/* None at all. */
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), e);
	wait_state("protected");
	OK(ask(replicator_unprotect, "{\"vm\":\"web1\",\"forget\":true}", NULL, &e), e);
	/* And the end of all. */
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300,\"seed\":{\"\":\"/old\"}}", NULL,
	       &e),
	   e);
	for (int64_t until = soon(); at_hand.fills < 3 && clock_mono_ns() < until; usleep(2000))
		;
	OK(ask(replicator_unprotect, "{\"vm\":\"web1\",\"forget\":true}", NULL, &e), e);
	ck_assert(!replicas_has(target.replicas, GUEST_UUID));
}
END_TEST

/* ---- seeds, as the target's calls ---- */

static struct {
	atomic_bool refused;  /* no thread for a seed */
	atomic_bool starting; /* it is being asked for */
	atomic_uint waiting;  /* others that wait for that seed */
} seed_thread;

int __real_thread_start_detached(const char *name, void *(*fn)(void *), void *arg, struct err *e);
int __wrap_thread_start_detached(const char *name, void *(*fn)(void *), void *arg, struct err *e);

int __wrap_thread_start_detached(const char *name, void *(*fn)(void *), void *arg, struct err *e)
{
	if (!seed_thread.refused || strcmp(name, "replica-seed") != 0)
		return __real_thread_start_detached(name, fn, arg, e);
	seed_thread.starting = true;
	for (const int64_t until = soon(); !seed_thread.waiting && clock_mono_ns() < until;)
		usleep(2000);
	return err_set(e, ERR_SYS, "no thread for it");
}

static bool seed_go(void *ctx, const char *disk, uint64_t done, uint64_t total)
{
	(void)ctx, (void)disk, (void)done, (void)total;
	if (seed_thread.starting)
		seed_thread.waiting++;
	return true;
}

static int seed_as(const char *peer, struct err *e)
{
	struct replica_seeder by = { .fill = at_hand_fill, .free = at_hand_free };
	json_t *args = json_pack("{s:s, s:s, s:i, s:[{s:s, s:s, s:i}]}", "uuid", GUEST_UUID, "name", "web1", "epoch", 1,
				 "disks", "disk", "vda", "path", "/old", "size", 256 * STORE_BLOCK);
	json_t *r = NULL;

	err_clear(e);
	const int rc = replicas_seed(target.replicas, peer, args, &by, seed_go, NULL, &r, e);
	json_decref(args);
	json_decref(r);
	return rc;
}

struct seeder {
	int rc;
	struct err e;
};

static void *seed_as_host1(void *arg)
{
	struct seeder *s = arg;

	s->rc = seed_as("host1", &s->e);
	return NULL;
}

/* Who asks for the same meanwhile is told, too; and nobody else has it, although there is no record yet. */
START_TEST(a_seed_without_a_thread)
{
	struct seeder first = { 0 };
	struct err e = ERR_INIT;
	pthread_t t;

	at_hand.m = machine_new(1, 256);
	seed_thread.refused = true;
	pthread_create(&t, NULL, seed_as_host1, &first);
	for (const int64_t until = soon(); !seed_thread.starting && clock_mono_ns() < until;)
		usleep(2000);
	ck_assert_int_eq(seed_as("host3", &e), -1);
	HAS(e.text, "for host1 is being begun");
	ck_assert_int_eq(seed_as("host1", &e), -1);
	HAS(e.text, "no thread for it");
	pthread_join(t, NULL);
	ck_assert_int_eq(first.rc, -1);
	HAS(first.e.text, "no thread for it");
	ck_assert_uint_ge(seed_thread.waiting, 1);
	ck_assert_uint_eq(at_hand.freed, 3);
	seed_thread.refused = false;
	OK(seed_as("host1", &e), e);
	ck_assert_uint_eq(at_hand.fills, 1);
}
END_TEST

/* Whoever may not write to a replica ends nothing of it. */
START_TEST(a_seed_is_no_business_of_others)
{
	struct seeder first = { 0 };
	struct err e = ERR_INIT;
	pthread_t t;

	at_hand.m = machine_new(1, 256);
	at_hand.hold = true;
	fixture_issue("ca", "host3", "h3", 0, 0);
	struct tls_ctx *ctx3 = fixture_ctx("h3", NULL);
	struct rpc *three = connect_as(ctx3);
	if (_i == 1)
		OK(call(peer_rpc, "replica.begin", begin_args(1), NULL, &e), e);
	pthread_create(&t, NULL, seed_as_host1, &first);
	for (const int64_t until = soon(); !at_hand.fills && clock_mono_ns() < until;)
		usleep(2000);
	ck_assert_int_eq(call(three, "replica.begin", begin_args(1), NULL, &e), -1);
	HAS(e.text, "for host1");
	ck_assert_int_eq(seed_as("host3", &e), -1);
	HAS(e.text, "for host1");
	ck_assert_int_eq(call(three, "replica.release", json_pack("{s:s, s:i}", "uuid", GUEST_UUID, "epoch", 1), NULL,
			      &e),
			 -1);
	HAS(e.text, "for host1");
	at_hand.hold = false;
	pthread_join(t, NULL);
	OK(first.rc, first.e);
	ck_assert_uint_eq(at_hand.fills, 1);
	rpc_unref(three);
	tls_ctx_free(ctx3);
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
	OK(ask(replicator_protect, "{\"vm\":\"web1\",\"host\":\"host2\",\"rpo_ms\":300}", NULL, &e), e);
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

/* Images of a VM that was failed over lie over what the replica has, but for links of their own. */
START_TEST(what_a_running_vm_needs_stays)
{
	struct err e = ERR_INIT;
	json_t *r = NULL;
	uint64_t epoch;
	MEM_AUTO char *image = mem_strdup(fixture_path("web1.qcow2", NULL)),
		      *base = mem_strdup(fixture_path("web1.base", NULL));
	json_t *args = json_pack("{s:s}", "uuid", GUEST_UUID);

	OK(call(peer_rpc, "replica.begin", begin_args(1), &r, &e), e);
	json_decref(r);
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	json_t *changes = json_pack("{s:s, s:{s:[{s:s, s:s, s:s, s:s}]}}", "state", "promoted", "promotion", "disks",
				    "target", "vda", "path", image, "format", "qcow2", "base", base);
	OK(replicas_change(target.replicas, GUEST_UUID, "promoting", changes, &e), e);
	json_decref(changes);
	OK(file_write_durable(image, "x", 1, 0600, &e), e);
	ck_assert_int_eq(replicas_release(target.replicas, NULL, args, &r, &e), -1);
	HAS(e.text, "a disk of VM web1, has most of its contents");
	ck_assert(replicas_has(target.replicas, GUEST_UUID));
	ck_assert_int_eq(access(fixture_path("target/replicas/" GUEST_UUID "/store", NULL), F_OK), 0);
	err_clear(&e);
	/* With a link beside it, it needs nothing here. */
	OK(file_write_durable(base, "x", 1, 0600, &e), e);
	OK(replicas_release(target.replicas, NULL, args, &r, &e), e);
	json_decref(r);
	json_decref(args);
	ck_assert(!replicas_has(target.replicas, GUEST_UUID));
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

START_TEST(base64_there_and_back)
{
	uint8_t data[64], back[64];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 37 + 11);
	for (size_t n = 0; n <= sizeof(data); n++) {
		char *text = base64_encode(data, n);
		ck_assert_int_eq(base64_decode(text, back, n), 0);
		ck_assert_int_eq(memcmp(data, back, n), 0);
		ck_assert_int_eq(base64_decode(text, back, n + 3), -1);
		if (n) {
			text[0] = '*';
			ck_assert_int_eq(base64_decode(text, back, n), -1);
		}
		free(text);
	}
	char *known = base64_encode((const uint8_t *)"foobar", 5);
	ck_assert_str_eq(known, "Zm9vYmE=");
	free(known);
	ck_assert_int_eq(base64_decode("Zm9vYmF=", back, 5), -1); /* bits that belong to nothing */
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
	tcase_add_test(t, one_opens_and_all_use_it);
	tcase_add_test(t, no_source_takes_the_epochs_away);
	tcase_add_test(t, nonsense_is_refused);
	tcase_add_test(t, a_damaged_replica_is_told);
	tcase_add_test(t, a_session_is_its_owners);
	tcase_add_test(t, what_operators_do);
	tcase_add_test(t, a_full_disk_has_room_for_a_failover);
	tcase_add_test(t, what_a_copy_may_start_from);
	tcase_add_test(t, a_seed_is_ended_for_others);
	tcase_add_test(t, a_seed_without_a_thread);
	tcase_add_loop_test(t, a_seed_is_no_business_of_others, 0, 2);
	tcase_add_test(t, protect_is_refused_where_it_must_be);
	tcase_add_test(t, handed_over_to_its_peer);
	tcase_add_test(t, ended_while_it_is_held);
	tcase_add_test(t, what_is_left_at_the_peer_is_adopted);
	tcase_add_test(t, what_a_running_vm_needs_stays);
	tcase_add_test(t, listed_without_an_aim);
	suite_add_tcase(s, t);
	t = tcase_create("base64");
	tcase_add_test(t, base64_there_and_back);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
