/* The store of a replica, as the host that keeps it uses it: who opens it, what is damaged, a full disk, what a VM runs on. */
#include "replica_peers.h"

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

static void expect_reason(const json_t *promotion, const char *part)
{
	struct err e = ERR_INIT;
	json_t *changes = json_pack("{s:s, s:O}", "state", "promoted", "promotion", promotion), *list = json_array();

	OK(replicas_change(target.replicas, GUEST_UUID, "promoted", changes, &e), e);
	replicas_list(target.replicas, NULL, list);
	const char *reason = json_string_value(json_object_get(json_array_get(list, 0), "reason"));
	ck_assert_ptr_nonnull(reason);
	HAS(reason, part);
	json_decref(list);
	json_decref(changes);
}

/* What its guest may suffer from is said for as long as it does. */
START_TEST(frozen_file_systems_are_said)
{
	struct err e = ERR_INIT;
	uint64_t epoch;
	json_t *state = json_pack("{s:s}", "state", "promoted"), *frozen = json_pack("{s:b}", "frozen", 1),
	       *left = json_pack("{s:b, s:b}", "frozen", 0, "left_frozen", 1), *thawed = json_pack("{s:b}", "frozen", 0);

	OK(call(peer_rpc, "replica.begin", begin_args(1), NULL, &e), e);
	OK(replicas_promote(target.replicas, GUEST_UUID, &epoch, &e), e);
	OK(replicas_change(target.replicas, GUEST_UUID, "promoting", state, &e), e);
	expect_reason(frozen, "'virsh domfsthaw' does it by hand");
	expect_reason(left, "'virsh domfsthaw' where it runs");
	expect_reason(thawed, "this host has taken it over from host1");
	json_decref(state);
	json_decref(frozen);
	json_decref(left);
	json_decref(thawed);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/replica store");
	TCase *t = tcase_create("store");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, one_opens_and_all_use_it);
	tcase_add_test(t, a_damaged_replica_is_told);
	tcase_add_test(t, a_full_disk_has_room_for_a_failover);
	tcase_add_test(t, what_a_running_vm_needs_stays);
	tcase_add_test(t, frozen_file_systems_are_said);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
