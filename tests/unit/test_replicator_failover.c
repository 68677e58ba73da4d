/* A replica becomes a running VM, or nothing has changed. */
#include "failover_host.h"

static unsigned images(void)
{
	unsigned n = 0;
	MEM_AUTO char *p = in_dir("images");
	DIR *d = opendir(p);
	for (struct dirent *en; (en = readdir(d)) != NULL;)
		n += en->d_name[0] != '.' && !strstr(en->d_name, "VARS");
	closedir(d);
	return n;
}

/* The guest's disk through that image, against the point. */
static void assert_disk(uint32_t v, const char *image, const char *format)
{
	MEM_AUTO char *out = in_dir("out.raw");
	MEM_AUTO char *command = mem_printf("qemu-img convert -q -f %s -O raw %s/images/%s %s", format, dir, image, out);
	ck_assert_int_eq(system(command), 0);
	uint8_t have[STORE_BLOCK], want[STORE_BLOCK];
	struct stat st;
	int fd = open(out, O_RDONLY);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_uint_eq((uint64_t)st.st_size, vm_store_volume[v].size_bytes);
	for (uint64_t b = 0; b * STORE_BLOCK < vm_store_volume[v].size_bytes; b++) {
		ssize_t n = pread(fd, have, STORE_BLOCK, (off_t)(b * STORE_BLOCK));
		(void)vm_store_content(want, v, b);
		ck_assert_int_gt(n, 0);
		ck_assert_mem_eq(have, want, (size_t)n);
	}
	close(fd);
	unlink(out);
}

START_TEST(latest_point)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	json_t *report = NULL;
	(void)vm_store_put(store, "p3", "memory", "nvram", "vars", 4);
	ck_assert_msg(failover_run(store, &o, &report, &e) == 0, "%s", e.text);
	assert_state("promoted", 4);
	ck_assert(there("runs"));
	ck_assert(had_memory && !was_paused);
	ck_assert_uint_gt(fed, 200 * STORE_BLOCK);
	assert_disk(1, "web1-vda.qcow2", "qcow2");
	assert_disk(3, "web1-vdb.qcow2", "qcow2");
	ck_assert(there("images/web1_VARS.fd"));
	ck_assert_int_eq(json_integer_value(json_object_get(report, "epoch")), 4);
	ck_assert_str_eq(json_string_value(json_object_get(report, "started_from")), "memory");
	json_t *phases = json_object_get(report, "phases");
	static const char *const names[] = { "look_ms", "epoch_ms", "fence_ms", "disks_ms", "start_ms", "done_ms" };
	for (size_t i = 0; i < 6; i++)
		ck_assert_msg(json_is_real(json_object_get(phases, names[i])), "%s", names[i]);
	json_decref(report);
	/* Not twice. */
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	enum failover_found found;
	ck_assert_int_eq(failover_recover(&records, &ops, NULL, &found, &e), 0);
	ck_assert_int_eq(found, FAILOVER_NOTHING);
}
END_TEST

/* As the VM did with its old host, it starts with this one. */
START_TEST(starts_with_its_host)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	json_t *report = NULL;

	ck_assert_msg(failover_run(store, &o, &report, &e) == 0, "%s", e.text);
	ck_assert_uint_eq(autostarts, 0);
	json_decref(report);
	teardown();
	setup();
	vm_store_autostart = true;
	(void)vm_store_put(store, "p3", "memory", NULL, NULL, 0);
	autostart_fails = true;
	ck_assert_msg(failover_run(store, &o, &report, &e) == 0, "%s", e.text);
	ck_assert_uint_eq(autostarts, 1);
	MEM_AUTO char *text = json_dumps(json_object_get(report, "findings"), 0);
	ck_assert_msg(strstr(text, "does not start with this host yet") && strstr(text, "it is transient"), "%s", text);
	json_decref(report);
	assert_state("promoted", 4);
	/* Of an agent that died before it could. */
	teardown();
	setup();
	vm_store_autostart = true;
	(void)vm_store_put(store, "p3", "memory", NULL, NULL, 0);
	ck_assert_int_eq(fault_arm("failover.done=fail", &e), 0);
	ck_assert_msg(failover_run(store, &o, NULL, &e) == 0, "%s", e.text);
	assert_state("promoting", 4);
	autostarts = 0;
	enum failover_found found;
	ck_assert_int_eq(failover_recover(&records, &ops, NULL, &found, &e), 0);
	ck_assert_int_eq(found, FAILOVER_PROMOTED);
	ck_assert_uint_eq(autostarts, 1);
}
END_TEST

START_TEST(older_point_paused)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	o.seq = latest - 1;
	o.paused = true;
	ck_assert_msg(failover_run(store, &o, NULL, &e) == 0, "%s", e.text);
	ck_assert(was_paused);
	assert_disk(1, "web1-vda.raw", "raw");
	assert_disk(3, "web1-vdb.raw", "raw");
}
END_TEST

START_TEST(disks_alone)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	(void)vm_store_put(store, "p3", "disk", NULL, NULL, 0);
	ck_assert_msg(failover_run(store, &o, NULL, &e) == 0, "%s", e.text);
	ck_assert(there("runs") && !had_memory);
}
END_TEST

START_TEST(taken_names_are_left_alone)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	put_file("images/web1-vda.qcow2", "precious");
	ck_assert_msg(failover_run(store, &o, NULL, &e) == 0, "%s", e.text);
	MEM_AUTO char *p = in_dir("images/web1-vda.qcow2");
	MEM_AUTO char *text = file_read_all(p, 100, NULL, &e);
	ck_assert_str_eq(text, "precious");
	assert_disk(1, "web1-vda.4.qcow2", "qcow2");
}
END_TEST

START_TEST(refused_before_anything_changes)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	map_refuses = true;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	assert_state("replica", 3);
	map_refuses = false;
	/* What libvirt would say in the end, when the source has given the VM up. */
	lacks = true;
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	assert_state("replica", 3);
	lacks = false;
	put_file("runs", "running");
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	assert_state("replica", 3);
	ck_assert_uint_eq(images(), 0);
}
END_TEST

START_TEST(fencing)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	MEM_AUTO char *out = in_dir("fenced");
	MEM_AUTO char *script = mem_printf("echo $VMFERRY_VM $VMFERRY_UUID $VMFERRY_FROM $VMFERRY_TO >%s", out);
	const char *const good[] = { "sh", "-c", script, NULL };
	const char *const bad[] = { "false", NULL };
	const char *const slow[] = { "sleep", "20", NULL };
	o.fence = bad;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	ck_assert_ptr_nonnull(strstr(e.text, "fencing"));
	assert_state("replica", 4);
	ck_assert(!there("runs"));
	o.fence = slow;
	o.fence_within_ns = 100000000;
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	assert_state("replica", 5);
	ck_assert(!there("runs"));
	o.fence = good;
	o.fence_within_ns = INT64_C(5000000000);
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), 0);
	MEM_AUTO char *text = file_read_all(out, 1000, NULL, &e);
	ck_assert_str_eq(text, "web1 11111111-2222-3333-4444-555555555555 src1 dr1\n");
}
END_TEST

static uint64_t handed_epoch;
static enum err_class hand_fails;
static unsigned handed;
static int hand_over(void *ctx, uint64_t epoch, struct err *e)
{
	(void)ctx;
	handed_epoch = epoch;
	handed++;
	if (hand_fails)
		return err_set(e, hand_fails, "the source is gone");
	latest = vm_store_put(store, "last", "memory", NULL, NULL, 0); /* the last checkpoint has come */
	return 0;
}
static int change_fails_at_undo(void *ctx, const char *expect, const json_t *changes, struct err *e)
{
	const char *state = json_string_value(json_object_get(changes, "state"));

	if (state && strcmp(state, "replica") == 0)
		return err_set(e, ERR_SYS, "no space");
	return failover_record_files(replica_dir).change(ctx, expect, changes, e);
}

static bool asks_still(void)
{
	struct err e = ERR_INIT;
	enum failover_found found;

	ck_assert_msg(failover_recover(&records, &ops, NULL, &found, &e) == 0, "%s", e.text);
	ck_assert(found == FAILOVER_HANDING || found == FAILOVER_NOTHING);
	return found == FAILOVER_HANDING;
}

static struct failover_opts by_its_source(void)
{
	struct failover_opts o = plain();

	o.hand_over = hand_over;
	hand_fails = 0;
	handed = 0;
	return o;
}

START_TEST(planned)
{
	struct err e = ERR_INIT;
	struct failover_opts o = by_its_source();
	json_t *report = NULL;

	/* Perhaps it has: whoever starts next asks again. */
	hand_fails = ERR_PEER;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	assert_state("replica", 3);
	ck_assert(asks_still());
	ck_assert_ptr_nonnull(strstr(e.remedy, "if src1 has given the VM up, this agent goes on with it"));
	/* It has not. */
	e = (struct err)ERR_INIT;
	hand_fails = ERR_REFUSED;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	assert_state("replica", 3);
	ck_assert(!asks_still());
	ck_assert_ptr_null(strstr(e.remedy, "goes on"));
	e = (struct err)ERR_INIT;
	hand_fails = 0;
	ck_assert_msg(failover_run(store, &o, &report, &e) == 0, "%s", e.text);
	ck_assert_uint_eq(handed_epoch, 4);
	ck_assert_uint_eq((uint64_t)json_integer_value(json_object_get(json_object_get(report, "point"), "seq")),
			  latest);
	json_decref(report);
	ck_assert(!asks_still());
	/* What follows a later hand-over in the record is of that one. */
	json_t *r = records.load(records.ctx, &e);
	ck_assert(!json_is_object(json_object_get(r, "handover")));
	json_decref(r);
}
END_TEST

/* The source has given the VM up, and the agent that asked for it dies (or fails) before it has written so: the next one knows that it has to go on, with
 * the same epoch, and does. */
START_TEST(dies_between_hand_over_and_epoch)
{
	struct err e = ERR_INIT;
	struct failover_opts o = by_its_source();

	o.paused = true;
	if (_i == 0) {
		run_and_die("failover.handed=kill", &o);
	} else {
		ck_assert_int_eq(fault_arm("failover.handed=fail", &e), 0);
		ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
		ck_assert_ptr_nonnull(strstr(e.remedy, "if src1 has given the VM up, this agent goes on with it"));
		e = (struct err)ERR_INIT;
	}
	assert_state("replica", 3);
	ck_assert(!there("runs"));
	ck_assert(asks_still());
	json_t *r = records.load(records.ctx, &e);
	const json_t *asked = json_object_get(r, "handover");
	ck_assert_int_eq(json_integer_value(json_object_get(asked, "epoch")), 4);
	ck_assert(json_is_true(json_object_get(asked, "paused")));
	json_decref(r);
	handed_epoch = 0;
	ck_assert_msg(failover_run(store, &o, NULL, &e) == 0, "%s", e.text);
	ck_assert_uint_eq(handed_epoch, 4);
	assert_state("promoted", 4);
	ck_assert(there("runs") && !asks_still());
}
END_TEST

/* What people are told is what is the case. */
START_TEST(remedies_are_true)
{
	struct err e = ERR_INIT;
	struct failover_opts o = _i == 1 ? by_its_source() : plain();

	start_fails = 1;
	if (_i == 2) {
		/* What was begun cannot be taken back. */
		records.change = change_fails_at_undo;
		ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
		assert_state("promoting", 4);
		ck_assert_ptr_nonnull(strstr(e.remedy, "could not be written down"));
		return;
	}
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	assert_state("replica", 4);
	ck_assert_ptr_nonnull(strstr(e.remedy, "nothing runs here"));
	if (_i == 0)
		ck_assert_ptr_nonnull(strstr(e.remedy, "if src1 is back, 'vmferry protect web1 --to dr1' there"));
	else
		ck_assert_ptr_nonnull(strstr(e.remedy, "paused at src1, which has given it up"));
}
END_TEST

static atomic_bool heads_full, keeps_full;
static atomic_int room_made;

static ssize_t full_pwrite(int fd, const void *p, size_t n, off_t at)
{
	char link[64], path[256] = "";

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (heads_full && readlink(link, path, sizeof(path) - 1) > 0 && strstr(path, "/heads/")) {
		errno = ENOSPC;
		return -1;
	}
	return pwrite(fd, p, n, at);
}
static void make_room(void *ctx)
{
	(void)ctx;
	room_made++;
	heads_full = keeps_full;
}
static void put_disk_block(const char *id)
{
	struct err e = ERR_INIT;
	const uint8_t data[STORE_BLOCK] = "the latest";
	struct store_txn *t = store_begin(store, STORE_TXN_POINT, &e);
	json_t *meta = json_pack("{s:s, s:s}", "id", id, "kind", "memory");

	ck_assert_msg(t != NULL, "%s", e.text);
	ck_assert_msg(store_txn_block(t, 1, 0, data, &e) == 0, "%s", e.text);
	ck_assert_msg(store_commit(t, meta, NULL, &e) == 0, "%s", e.text);
	json_decref(meta);
}

/* The latest point is committed, and there was no room for it in the images. What is kept back is used for that, and it is gone on with; or nothing is. */
START_TEST(a_full_disk_at_a_failover)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	json_t *report = NULL;
	const int64_t start = clock_mono_ns();

	ck_assert_msg(store_settle(store, INT64_MAX, &e) == 0, "%s", e.text);
	o.make_room = make_room;
	sys.pwrite = full_pwrite;
	room_made = 0;
	heads_full = true;
	keeps_full = _i == 1;
	put_disk_block("p3");
	const int rc = failover_run(store, &o, &report, &e);
	ck_assert_int_eq(room_made, 1);
	ck_assert_int_lt(clock_mono_ns() - start, 20 * NS_PER_S);
	if (_i == 0) {
		ck_assert_msg(rc == 0, "%s", e.text);
		ck_assert_str_eq(json_string_value(json_object_get(json_object_get(report, "point"), "id")), "p3");
		assert_state("promoted", 4);
	} else {
		ck_assert_int_eq(rc, -1);
		ck_assert_int_eq(e.errnum, ENOSPC);
		ck_assert_ptr_nonnull(strstr(e.remedy, "make room"));
		assert_state("replica", 3);
		heads_full = false;
	}
	json_decref(report);
}
END_TEST

START_TEST(start_fails_then_works)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	start_fails = 1;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	assert_state("replica", 4);
	ck_assert_uint_eq(images(), 0);
	start_fails = 0;
	e = (struct err)ERR_INIT;
	ck_assert_msg(failover_run(store, &o, NULL, &e) == 0, "%s", e.text);
	assert_state("promoted", 5);
}
END_TEST

START_TEST(libvirt_does_not_come_back)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	enum failover_found found;
	start_fails = 2;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	assert_state("promoting", 4); /* nothing is removed under a VM that may run */
	ck_assert_uint_eq(images(), 4);
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_int_eq(failover_recover(&records, &ops, NULL, &found, &e), 0);
	ck_assert_int_eq(found, FAILOVER_PROMOTED);
	ck_assert_uint_eq(settled, 1);
	assert_state("promoted", 4);
}
END_TEST

/* An error of libvirt's, and the VM runs all the same; or nobody can say. */
START_TEST(failed_and_runs)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	enum failover_found found;
	start_fails = 3;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	assert_state("promoting", 4);
	ck_assert_uint_eq(images(), 4);
	ck_assert_int_eq(failover_recover(&records, &ops, NULL, &found, &e), 0);
	ck_assert_int_eq(found, FAILOVER_PROMOTED);
	assert_state("promoted", 4);
}
END_TEST

static int start_and_lose_sight(void *ctx, const struct promote_spec *s, struct err *e)
{
	(void)fake_start(ctx, s, e);
	where_fails = true;
	return err_set(e, ERR_LIBVIRT, "the connection is gone");
}
START_TEST(failed_and_nobody_can_say)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	struct promote_ops lost = ops;
	enum failover_found found;
	lost.start = start_and_lose_sight;
	o.ops = &lost;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	assert_state("promoting", 4);
	ck_assert_uint_eq(images(), 4);
	ck_assert_int_eq(failover_recover(&records, &ops, NULL, &found, &e), -1);
	assert_state("promoting", 4);
	ck_assert_uint_eq(images(), 4);
}
END_TEST

/* Whether it is a start that failed late or a record that was never written: what a guest wrote is not removed. */
START_TEST(images_of_a_guest_that_ran_stay)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	enum failover_found found;
	if (_i == 0) {
		start_fails = 4;
		ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
		assert_state("promoting", 4);
	} else {
		MEM_AUTO char *runs = in_dir("runs");
		ck_assert_int_eq(fault_arm("failover.done=fail", &e), 0);
		ck_assert_int_eq(failover_run(store, &o, NULL, &e), 0);
		assert_state("promoting", 4);
		guest_writes();
		ck_assert_int_eq(unlink(runs), 0);
		if (_i == 1) /* defined; or gone altogether, as a transient one is */
			put_file("off", "");
	}
	ck_assert_uint_eq(images(), 4);
	ck_assert_msg(failover_recover(&records, &ops, NULL, &found, &e) == 0, "%s", e.text);
	ck_assert_int_eq(found, FAILOVER_OFF);
	assert_state("promoted", 4);
	ck_assert_uint_eq(images(), 4);
	ck_assert_uint_eq(cleared + settled, 0);
	/* Nor by the next failover. */
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_uint_eq(images(), 4);
}
END_TEST

/* Defined here from an earlier life: no reason to refuse, and one that did not come to run is undone. */
START_TEST(off_and_untouched_is_undone)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	put_file("off", "");
	start_fails = 1;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	assert_state("replica", 4);
	ck_assert_uint_eq(images(), 0);
	start_fails = 0;
	e = (struct err)ERR_INIT;
	ck_assert_msg(failover_run(store, &o, NULL, &e) == 0, "%s", e.text);
	assert_state("promoted", 5);
}
END_TEST

/* The disk was full, and is not any more. */
static unsigned done_failures;
static int change_fails_at_first(void *ctx, const char *expect, const json_t *changes, struct err *e)
{
	const char *state = json_string_value(json_object_get(changes, "state"));
	if (state && strcmp(state, "promoted") == 0 && done_failures++ < 2)
		return err_set(e, ERR_SYS, "no space");
	return failover_record_files(replica_dir).change(ctx, expect, changes, e);
}
START_TEST(record_is_tried_again)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	done_failures = 0;
	records.change = change_fails_at_first;
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), 0);
	ck_assert_uint_eq(done_failures, 3);
	assert_state("promoted", 4);
}
END_TEST

static const struct {
	const char *point;
	bool runs; /* a crash there leaves the VM running here */
} points[] = {
	{ "failover.epoch", false }, { "failover.fence", false }, { "failover.disks", false },
	{ "failover.start", false }, { "failover.done", true },
};

/* The agent dies at each step: at most one owner, nothing lost, the next try works. */
START_TEST(crash)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	enum failover_found found;
	MEM_AUTO char *spec = mem_printf("%s=kill", points[_i].point);
	run_and_die(spec, &o);
	assert_state("promoting", 4);
	if (!points[_i].runs)
		put_file("incoming", ""); /* its QEMU may still wait */
	ck_assert_msg(failover_recover(&records, &ops, NULL, &found, &e) == 0, "%s", e.text);
	ck_assert(there("runs") == points[_i].runs);
	ck_assert(!there("incoming"));
	if (points[_i].runs) {
		ck_assert_int_eq(found, FAILOVER_PROMOTED);
		assert_state("promoted", 4);
		assert_disk(1, "web1-vda.qcow2", "qcow2");
		return;
	}
	ck_assert_int_eq(found, FAILOVER_UNDONE);
	assert_state("replica", 4);
	ck_assert_uint_eq(images(), 0);
	ck_assert_msg(failover_run(store, &o, NULL, &e) == 0, "%s", e.text);
	assert_state("promoted", 5);
	ck_assert(there("runs"));
}
END_TEST

/* The same with an error instead of a death. */
START_TEST(fault)
{
	struct err e = ERR_INIT;
	struct failover_opts o = plain();
	MEM_AUTO char *spec = mem_printf("%s=fail", points[_i].point);
	ck_assert_int_eq(fault_arm(spec, &e), 0);
	if (points[_i].runs) { /* a record that cannot be written does not undo a VM that runs */
		enum failover_found found;
		ck_assert_int_eq(failover_run(store, &o, NULL, &e), 0);
		assert_state("promoting", 4);
		ck_assert_int_eq(failover_recover(&records, &ops, NULL, &found, &e), 0);
		assert_state("promoted", 4);
		return;
	}
	ck_assert_int_eq(failover_run(store, &o, NULL, &e), -1);
	assert_state("replica", 4);
	ck_assert_uint_eq(images(), 0);
	ck_assert(!there("runs"));
	e = (struct err)ERR_INIT;
	ck_assert_msg(failover_run(store, &o, NULL, &e) == 0, "%s", e.text);
	assert_state("promoted", 5);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/failover");
	TCase *tc = tcase_create("failover");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, latest_point);
	tcase_add_test(tc, starts_with_its_host);
	tcase_add_test(tc, older_point_paused);
	tcase_add_test(tc, disks_alone);
	tcase_add_test(tc, taken_names_are_left_alone);
	tcase_add_test(tc, refused_before_anything_changes);
	tcase_add_test(tc, fencing);
	tcase_add_test(tc, planned);
	tcase_add_loop_test(tc, dies_between_hand_over_and_epoch, 0, 2);
	tcase_add_loop_test(tc, a_full_disk_at_a_failover, 0, 2);
	tcase_add_loop_test(tc, remedies_are_true, 0, 3);
	tcase_add_test(tc, start_fails_then_works);
	tcase_add_test(tc, libvirt_does_not_come_back);
	tcase_add_test(tc, failed_and_runs);
	tcase_add_test(tc, failed_and_nobody_can_say);
	tcase_add_loop_test(tc, images_of_a_guest_that_ran_stay, 0, 3);
	tcase_add_test(tc, off_and_untouched_is_undone);
	tcase_add_test(tc, record_is_tried_again);
	tcase_add_loop_test(tc, crash, 0, 5);
	tcase_add_loop_test(tc, fault, 0, 5);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
