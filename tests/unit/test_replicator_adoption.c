/* What is left of a VM that another host has taken over becomes a replica: who may, what stays, and what an interruption leaves. */
#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"
#include "replicator/adoption.h"
#include "replicator/epoch.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VM_UUID "6b0e4a2c-0000-4000-8000-000000000001"
#define OK(x, e) ck_assert_msg((x) == 0, "%s", (e).text)
#define HAS(text, part) ck_assert_msg(strstr(text, part) != NULL, "'%s' has no '%s'", text, part)

static char dir[64], replica_dir[80];
static struct pool *pool;
static struct replicas *replicas;

/* ---- a libvirt with one VM ---- */
static enum adoption_vm vm;
static unsigned filled, removed;
static bool disks_alone;

static int fake_look(void *ctx, const char *uuid, enum adoption_vm *out, struct err *e)
{
	(void)ctx, (void)uuid, (void)e;
	*out = vm;
	return 0;
}
static json_t *fake_describe(void *ctx, const char *uuid, struct err *e)
{
	(void)ctx, (void)uuid, (void)e;
	MEM_AUTO char *made = mem_printf("%s/made.qcow2", dir), *own = mem_printf("%s/own.qcow2", dir);
	return json_pack("{s:[s, s], s:s}", "images", made, own, "xml", "<domain/>");
}
static int fake_fill(void *ctx, const char *uuid, enum adoption_vm v, const char *xml, bool disks, struct store *s, const char **how,
		     struct err *e)
{
	const struct store_volume volume = { .kind = STORE_DISK, .name = "vda", .size_bytes = 1 << 20 };
	uint8_t block[STORE_BLOCK];

	(void)ctx, (void)uuid, (void)v;
	filled++;
	disks_alone = disks;
	ck_assert_str_eq(xml, "<domain/>");
	memset(block, 7, sizeof(block));
	struct store_txn *t = store_begin(s, STORE_TXN_PART, e);
	ck_assert(t && store_txn_volumes(t, &volume, 1, e) == 0 && store_txn_block(t, 0, 3, block, e) == 0);
	json_t *meta = json_object();
	const int rc = store_commit(t, meta, NULL, e);
	json_decref(meta);
	*how = disks ? "disks" : "memory";
	return rc;
}
static int fake_remove(void *ctx, const char *uuid, struct err *e)
{
	(void)ctx, (void)uuid, (void)e;
	ck_assert_int_ne(vm, ADOPTION_RUNNING);
	vm = ADOPTION_ABSENT;
	removed++;
	return 0;
}
static const struct adoption_ops ops = { fake_look, fake_describe, fake_fill, fake_remove };

/* ---- the rest ---- */
static char *in_dir(const char *name)
{
	return mem_printf("%s/%s", dir, name);
}

static bool there(const char *name)
{
	MEM_AUTO char *path = in_dir(name);
	return access(path, F_OK) == 0;
}

static void put(const char *name)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *path = in_dir(name);
	OK(file_write_durable(path, "x", 1, 0600, &e), e);
}

static void open_replicas(void)
{
	struct err e = ERR_INIT;
	const struct replicas_opts o = { .host_name = "host1", .replica_dir = replica_dir, .min_free = 1, .pool = pool };

	replicas = replicas_new(&o, &e);
	ck_assert_msg(replicas != NULL, "%s", e.text);
}

static void setup(void)
{
	struct err e = ERR_INIT;

	strcpy(dir, "/tmp/test-adoption-XXXXXX");
	ck_assert(mkdtemp(dir) != NULL);
	snprintf(replica_dir, sizeof(replica_dir), "%s/replicas", dir);
	pool = pool_new(1, "test", 0, &e);
	vm = ADOPTION_PAUSED;
	filled = removed = 0;
	put("own.qcow2");
	put("made.qcow2");
	open_replicas();
}

static void teardown(void)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *rm = mem_printf("rm -rf %s", dir);

	OK(fault_arm(NULL, &e), e);
	replicas_free(replicas);
	pool_free(pool);
	ck_assert_int_eq(system(rm), 0);
}

static void restart(void)
{
	replicas_free(replicas);
	open_replicas();
}

/* As after a failover to this host at epoch 2, with an image over a link to the store's head, or over the head itself. */
static void promoted_before(const char *base)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *made = in_dir("made.qcow2"), *replica = epoch_replica_dir(replica_dir, VM_UUID), *store = mem_printf("%s/store", replica);
	json_t *disk = json_pack("{s:s, s:s, s:s, s:s*}", "target", "vda", "path", made, "format", "qcow2", "base", base);
	json_t *record = json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:{s:[o], s:[s]}}", "uuid", VM_UUID, "vm", "web1", "role", "target", "from",
				   "host9", "epoch", 2, "state", "promoted", "promotion", "disks", disk, "made", made);
	json_t *o = json_object();

	OK(epoch_save_replica(replica_dir, record, &e), e);
	struct store *s = store_create(store, &(struct store_opts){ 0 }, o, &e);
	ck_assert_msg(s != NULL, "%s", e.text);
	store_close(s);
	json_decref(o);
	json_decref(record);
	restart();
}

static json_t *protection(const char *state, int epoch)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:i, s:i}", "uuid", VM_UUID, "vm", "web1", "host", "host2", "state", state, "epoch", epoch, "rpo_ms",
			 2500);
}

/* Steals the record. */
static int adopt(json_t *record, uint64_t epoch, json_t **report, struct err *e)
{
	const struct adoption_opts o = { .replicas = replicas,
					 .state_dir = dir,
					 .uuid = VM_UUID,
					 .vm = "web1",
					 .from = "host2",
					 .epoch = epoch,
					 .protection = record,
					 .ops = &ops };

	err_clear(e);
	const int rc = adoption_run(&o, report, e);
	json_decref(record);
	return rc;
}

static void check_replica(uint64_t epoch)
{
	struct err e = ERR_INIT;
	json_t *record = NULL;
	struct store *s = replicas_get(replicas, VM_UUID, &record, &e);
	uint8_t block[STORE_BLOCK];

	ck_assert_msg(s != NULL, "%s", e.text);
	ck_assert_str_eq(json_string_value(json_object_get(record, "state")), "replica");
	ck_assert_str_eq(json_string_value(json_object_get(record, "from")), "host2");
	ck_assert_uint_eq((uint64_t)json_integer_value(json_object_get(record, "epoch")), epoch);
	ck_assert_int_eq(json_integer_value(json_object_get(record, "rpo_ms")), 2500);
	ck_assert(json_is_null(json_object_get(record, "promotion")));
	struct store_view *v = store_view_newest(s, &e);
	ck_assert_msg(v != NULL, "%s", e.text);
	OK(store_view_read(v, 0, 3, 1, block, NULL, &e), e);
	ck_assert_uint_eq(block[17], 7);
	store_view_close(v);
	replicas_put(replicas, s);
	json_decref(record);
	/* Its source is let in. */
	record = replicas_record(replicas, VM_UUID);
	OK(epoch_admit(record, "host1", "host2", epoch, &e), e);
	json_decref(record);
}

/* Nothing looks as if a replica were just out of touch with its source: the VM is protected by nobody. */
static void says_what_is_left(void)
{
	json_t *list = json_array();

	replicas_list(replicas, VM_UUID, list);
	const json_t *o = json_array_get(list, 0);
	ck_assert_str_eq(json_string_value(json_object_get(o, "state")), "waiting");
	ck_assert_str_eq(
		json_string_value(json_object_get(o, "reason")),
		"it went to host2, and this is what was left of it here: no point has come since, and it gets older");
	ck_assert_str_eq(
		json_string_value(json_object_get(o, "remedy")),
		"'vmferry protect web1 --to host1' at host2 goes on with it; if it is of no use, 'vmferry unprotect "
		"web1 --forget' here removes it");
	json_decref(list);
}

START_TEST(a_fenced_vm_becomes_a_replica)
{
	struct err e = ERR_INIT;
	json_t *report = NULL;

	OK(adopt(protection("fenced", 1), 2, &report, &e), e);
	ck_assert_str_eq(json_string_value(json_object_get(report, "adopted")), "memory");
	ck_assert_uint_eq(json_array_size(json_object_get(report, "images")), 2);
	ck_assert_int_eq(access(json_string_value(json_object_get(report, "definition")), F_OK), 0);
	ck_assert_uint_eq(removed, 1);
	json_decref(report);
	check_replica(2);
	says_what_is_left();
	restart();
	check_replica(2);
	says_what_is_left();
	/* Asked again: nothing more to be done. */
	OK(adopt(protection("fenced", 1), 2, &report, &e), e);
	ck_assert_str_eq(json_string_value(json_object_get(report, "adopted")), "before");
	ck_assert_uint_eq(filled, 1);
	json_decref(report);
	ck_assert(there("own.qcow2") && there("made.qcow2"));
}
END_TEST

/* Faults at every step, in a life that goes on and in one that begins anew. */
START_TEST(interrupted_anywhere_it_is_repeated)
{
	static const char *const points[] = { "failback.adopt=fail", "failback.adopted=fail", "failback.forget=fail" };
	struct err e = ERR_INIT;
	json_t *report = NULL;

	promoted_before("base");
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		OK(fault_arm(points[i], &e), e);
		ck_assert_int_eq(adopt(protection("fenced", 3), 4, &report, &e), -1);
		HAS(e.text, "fault injected");
		err_clear(&e);
		OK(fault_arm(NULL, &e), e);
		json_t *record = replicas_record(replicas, VM_UUID);
		ck_assert_str_eq(json_string_value(json_object_get(record, "state")), i == 0 ? "promoted" : "replica");
		json_decref(record);
		ck_assert_int_eq(vm == ADOPTION_ABSENT, i == 2);
		restart();
	}
	OK(adopt(protection("fenced", 3), 4, &report, &e), e);
	json_decref(report);
	check_replica(4);
	ck_assert_uint_eq(filled, 2);
	ck_assert(!there("replicas/" VM_UUID "/store"));
	ck_assert(there("replicas/" VM_UUID "/store-4"));
	ck_assert(there("made.qcow2")); /* may hold what never got to the peer */
}
END_TEST

START_TEST(handed_over_its_own_images_go)
{
	struct err e = ERR_INIT;
	json_t *report = NULL;

	promoted_before(NULL);
	OK(adopt(protection("handed-over", 4), 4, &report, &e), e);
	ck_assert(disks_alone);
	ck_assert_uint_eq(json_array_size(json_object_get(report, "images")), 1);
	json_decref(report);
	check_replica(4);
	ck_assert(!there("made.qcow2") && there("own.qcow2"));
	ck_assert(!there("replicas/" VM_UUID "/store"));
}
END_TEST

START_TEST(a_store_under_images_that_stay_stays)
{
	struct err e = ERR_INIT;
	json_t *report = NULL;

	promoted_before(NULL);
	OK(adopt(protection("fenced", 3), 4, &report, &e), e);
	json_decref(report);
	check_replica(4);
	ck_assert(there("made.qcow2") && there("replicas/" VM_UUID "/store"));
}
END_TEST

START_TEST(who_may_not)
{
	struct err e = ERR_INIT;
	json_t *report = NULL;

	vm = ADOPTION_RUNNING;
	ck_assert_int_eq(adopt(protection("fenced", 1), 2, &report, &e), -1);
	HAS(e.text, "runs here as well");
	vm = ADOPTION_PAUSED;
	ck_assert_int_eq(adopt(protection("active", 1), 2, &report, &e), -1);
	HAS(e.text, "not fenced");
	ck_assert_int_eq(adopt(protection("fenced", 2), 2, &report, &e), -1);
	HAS(e.text, "is over");
	ck_assert_int_eq(adopt(NULL, 2, &report, &e), -1);
	HAS(e.text, "nothing says that it was failed over");
	json_t *elsewhere = protection("fenced", 1);
	json_object_set_new(elsewhere, "host", json_string("host3"));
	ck_assert_int_eq(adopt(elsewhere, 2, &report, &e), -1);
	HAS(e.text, "to host3, not to host2");
	promoted_before("base");
	ck_assert_int_eq(adopt(protection("fenced", 1), 2, &report, &e), -1);
	HAS(e.text, "is over");
	ck_assert_ptr_null(report);
	ck_assert_uint_eq(filled + removed, 0);
	err_clear(&e);
	/* Unprotected meanwhile: nothing to take, and nothing in the way. */
	vm = ADOPTION_ABSENT;
	json_t *changes = json_pack("{s:s}", "state", "promoting");
	OK(replicas_change(replicas, VM_UUID, "promoted", changes, &e), e);
	json_decref(changes);
	ck_assert_int_eq(adopt(NULL, 5, &report, &e), -1);
	HAS(e.text, "a failover of VM web1 is under way");
}
END_TEST

/* A replica of ours for `from`, alive, in epoch 3. */
static void live_replica(const char *from, const char *state)
{
	struct err e = ERR_INIT;
	json_t *record = json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:i}", "uuid", VM_UUID, "vm", "web1", "role", "target", "from", from, "epoch", 3,
				   "state", state, "rpo_ms", 2500);
	MEM_AUTO char *replica = epoch_replica_dir(replica_dir, VM_UUID), *store = mem_printf("%s/store", replica);
	json_t *o = json_object();

	OK(epoch_save_replica(replica_dir, record, &e), e);
	struct store *s = there("replicas/" VM_UUID "/store") ? NULL : store_create(store, &(struct store_opts){ 0 }, o, &e);
	ck_assert_msg(!err_is_set(&e), "%s", e.text);
	store_close(s);
	json_decref(o);
	json_decref(record);
	restart();
}

/* A peer that may replicate to this host says that it has the VM: that alone takes nothing away from anybody. */
START_TEST(another_hosts_replica_is_not_touched)
{
	struct err e = ERR_INIT;
	json_t *report = NULL;

	vm = ADOPTION_ABSENT;
	live_replica("host1", "replica");
	ck_assert_int_eq(adopt(NULL, 1000000000, &report, &e), -1);
	HAS(e.text, "kept for host1, not for host2");
	/* Not even with a record of ours: it is alive, and not what the VM ran on. */
	ck_assert_int_eq(adopt(protection("fenced", 2), 1000000000, &report, &e), -1);
	HAS(e.text, "kept for host1, not for host2");
	/* Its own source begins a session, and does not adopt. */
	live_replica("host2", "replica");
	ck_assert_int_eq(adopt(NULL, 1000000000, &report, &e), -1);
	HAS(e.text, "host2 writes to a replica");
	/* One that was promoted here came from host1, and only our record as a source says that it went to host2. */
	live_replica("host1", "promoted");
	ck_assert_int_eq(adopt(NULL, 1000000000, &report, &e), -1);
	HAS(e.text, "kept for host1, not for host2");
	json_t *record = replicas_record(replicas, VM_UUID);
	ck_assert_int_eq(json_integer_value(json_object_get(record, "epoch")), 3);
	ck_assert_str_eq(json_string_value(json_object_get(record, "from")), "host1");
	json_decref(record);
	ck_assert(there("replicas/" VM_UUID "/store"));
	ck_assert_uint_eq(filled + removed, 0);
	/* That record is there. */
	vm = ADOPTION_PAUSED;
	OK(adopt(protection("fenced", 4), 5, &report, &e), e);
	json_decref(report);
	check_replica(5);
	/* Its end was not heard of at the other side, which asks once more. */
	OK(adopt(NULL, 5, &report, &e), e);
	ck_assert_str_eq(json_string_value(json_object_get(report, "adopted")), "before");
	json_decref(report);
}
END_TEST

START_TEST(a_vm_that_was_never_protected_is_not_read)
{
	struct err e = ERR_INIT;
	json_t *report = NULL;

	vm = ADOPTION_OFF;
	ck_assert_int_eq(adopt(NULL, 2, &report, &e), -1);
	HAS(e.text, "is off here, and nothing says");
	ck_assert_str_eq(e.remedy, "if it is of no use any more: 'virsh undefine web1'");
	ck_assert_uint_eq(filled + removed, 0);
	ck_assert(!replicas_has(replicas, VM_UUID));
}
END_TEST

START_TEST(what_cannot_be_read_is_not_adopted)
{
	struct err e = ERR_INIT;
	json_t *report = NULL;
	MEM_AUTO char *folder = mem_printf("%s/protections", dir), *path = mem_printf("%s/" VM_UUID ".json", folder);

	OK(file_mkdirs(folder, 0700, &e), e);
	OK(file_write_durable(path, "{", 1, 0600, &e), e);
	json_t *all = epoch_load_protections(dir, &e);
	ck_assert_uint_eq(json_array_size(all), 1);
	ck_assert_int_eq(adopt(json_incref(json_array_get(all, 0)), 2, &report, &e), -1);
	HAS(e.text, "whose VM " VM_UUID " is cannot be told");
	json_decref(all);
	live_replica("host2", "promoted");
	MEM_AUTO char *replica = epoch_replica_dir(replica_dir, VM_UUID), *file = mem_printf("%s/replica.json", replica);
	OK(file_write_durable(file, "{", 1, 0600, &e), e);
	restart();
	ck_assert_int_eq(adopt(protection("fenced", 3), 4, &report, &e), -1);
	HAS(e.text, "whose VM " VM_UUID " is cannot be told");
	ck_assert_int_eq(adopt(protection("fenced", 3), (UINT64_C(1) << 53) + 1, &report, &e), -1);
	HAS(e.text, "leaves none for a failover");
	ck_assert(there("replicas/" VM_UUID "/store"));
	ck_assert_uint_eq(filled + removed, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/adoption");
	TCase *t = tcase_create("adoption");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, a_fenced_vm_becomes_a_replica);
	tcase_add_test(t, interrupted_anywhere_it_is_repeated);
	tcase_add_test(t, handed_over_its_own_images_go);
	tcase_add_test(t, a_store_under_images_that_stay_stays);
	tcase_add_test(t, who_may_not);
	tcase_add_test(t, another_hosts_replica_is_not_touched);
	tcase_add_test(t, a_vm_that_was_never_protected_is_not_read);
	tcase_add_test(t, what_cannot_be_read_is_not_adopted);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	const int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
