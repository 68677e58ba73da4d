#include "base/clock.h"
#include "snapshot/capture.h"
#include "snapshot_fake_guest.h"

#include <check.h>
#include <errno.h>
#include <signal.h>

/* What a capture tells. */
struct told {
	uint8_t ram[FAKE_PAGES][4096];
	unsigned volumes, pages, zeros, files;
	size_t device_len;
	int arms, arms_off;
	bool armed;
	bool wait_for_vm; /* the first page holds the sink until the VM has stood still and gone on */
	int refuse_page;  /* 0: none; else the n-th page is refused */
};

static int on_volumes(void *ctx, const struct capture_volume *v, size_t n, struct err *e)
{
	struct told *t = ctx;
	(void)e;
	ck_assert_uint_eq(n, 1);
	ck_assert(v[0].ram);
	ck_assert_str_eq(v[0].name, "pc.ram");
	ck_assert_uint_eq(v[0].size_bytes, FAKE_PAGES * 4096);
	t->volumes++;
	return 0;
}

static int on_page(void *ctx, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e)
{
	struct told *t = ctx;
	ck_assert_uint_eq(volume, 0);
	ck_assert_uint_lt(block, FAKE_PAGES);
	ck_assert_uint_eq(data[0], block);
	memcpy(t->ram[block], data, 4096);
	t->pages++;
	int64_t deadline = clock_mono_ns() + 5 * NS_PER_S;
	while (t->wait_for_vm && !__atomic_load_n(&t->arms_off, __ATOMIC_SEQ_CST) && clock_mono_ns() < deadline)
		usleep(1000);
	if (t->refuse_page && --t->refuse_page == 0)
		return err_set(e, ERR_PEER, "the sink is full");
	return 0;
}

static int on_zero(void *ctx, uint32_t volume, uint64_t block, uint64_t n, struct err *e)
{
	struct told *t = ctx;
	(void)e;
	ck_assert_uint_eq(volume, 0);
	ck_assert_uint_le(block + n, FAKE_PAGES);
	t->zeros += (unsigned)n;
	return 0;
}

static int on_file(void *ctx, const char *name, const void *data, size_t len, struct err *e)
{
	struct told *t = ctx;
	(void)e;
	if (!strcmp(name, "device")) {
		ck_assert_uint_eq(len, FAKE_DEVICE_LEN);
		ck_assert_mem_eq(data, fake_device, len);
	} else if (!strcmp(name, "header")) {
		ck_assert_uint_eq(len, 15);
		ck_assert_mem_eq(data, "QEVM\0\0\0\3\7\0\0\0\2pc", 15);
	}
	t->files++;
	return 0;
}

static void on_arm(void *ctx, bool on, int64_t expect_ns)
{
	struct told *t = ctx;
	ck_assert_int_ge(expect_ns, 0);
	ck_assert(t->armed != on);
	t->armed = on;
	t->arms += on;
	__atomic_add_fetch(&t->arms_off, !on, __ATOMIC_SEQ_CST);
}

static struct fake fake;
static struct told told;
static struct err e;
static const struct capture_sink sink = { on_volumes, on_page, on_zero, on_file, &told };

static struct capture *begin(enum capture_mode mode)
{
	const struct capture_opts o = { .mode = mode, .arm = on_arm, .ctx = &told, .folder = "/tmp" };
	struct capture *c = capture_new(&fake.guest, &o, &e);
	ck_assert_msg(c != NULL, "%s", e.text);
	return c;
}

static void set_up(void)
{
	signal(SIGPIPE, SIG_IGN);
	fake_init(&fake);
	memset(&told, 0, sizeof(told));
	err_clear(&e);
}

/* However it ended: the VM runs, nobody is on guard, nothing of us is left. */
static void tear_down(struct capture *c)
{
	capture_free(c);
	ck_assert(fake.running);
	ck_assert(!fake.x_colo && !fake.background);
	ck_assert(!told.armed);
	ck_assert_uint_eq(fake.cancels, 0);
	ck_assert(fake.fn == NULL);
	fake_fini(&fake);
}

static void ok(int rc)
{
	ck_assert_msg(rc == 0, "%s", e.text);
}

START_TEST(colo_gives_what_was_written)
{
	set_up();
	struct capture *c = begin(CAPTURE_AUTO);
	struct capture_point p;
	ck_assert_int_eq(capture_chosen(c), CAPTURE_COLO);
	ok(capture_start(c, &sink, &e));
	ck_assert(fake.running);
	ck_assert_uint_eq(told.pages, FAKE_PAGES / 2 + 1);
	ck_assert_uint_eq(told.zeros, FAKE_PAGES / 2);
	ck_assert_uint_eq(told.files, 0);
	for (unsigned i = 1; i <= 3; i++) {
		told.pages = told.zeros = told.files = 0;
		fake.pages = i * 7;
		ok(capture_take(c, &sink, &p, &e));
		ck_assert_uint_eq(told.pages, i * 7);
		ck_assert_uint_eq(told.files, 3);
		ck_assert_uint_eq(told.ram[3][4095], i);
		ck_assert_uint_eq(told.ram[30][4095], 0);
		ck_assert(p.has_memory && p.pause_ns > 0 && p.instant_ns > 0 && p.instant_mono_ns <= clock_mono_ns());
		ck_assert_uint_eq(p.dirty_bytes, i * 7 * 4096);
	}
	ck_assert_int_eq(told.arms, 4);
	ok(capture_stop(c, &e));
	ck_assert_uint_eq(fake.heartbeats, 1);
	tear_down(c);
}
END_TEST

START_TEST(a_sink_that_blocks_does_not_hold_the_vm)
{
	set_up();
	struct capture *c = begin(CAPTURE_COLO);
	told.wait_for_vm = true;
	int64_t start = clock_mono_ns();
	ok(capture_start(c, &sink, &e));
	ck_assert_int_lt(clock_mono_ns() - start, 4 * NS_PER_S);
	ck_assert_uint_eq(told.pages, FAKE_PAGES / 2 + 1);
	tear_down(c);
}
END_TEST

START_TEST(empty_checkpoint)
{
	set_up();
	struct capture *c = begin(CAPTURE_COLO);
	struct capture_point p;
	ok(capture_start(c, &sink, &e));
	told.pages = 0;
	fake.pages = 0;
	ok(capture_take(c, &sink, &p, &e));
	ck_assert_uint_eq(told.pages, 0);
	ck_assert_uint_eq(p.dirty_bytes, 0);
	tear_down(c);
}
END_TEST

/* A stream that tears, or lies, in the first pass or in a checkpoint. */
static void faulty(enum fake_where where, enum fake_what what)
{
	set_up();
	struct capture *c = begin(CAPTURE_COLO);
	struct capture_point p = { 0 };
	bool first = where <= FAKE_IN_FIRST_DEVICE;
	if (!first)
		ok(capture_start(c, &sink, &e));
	fake.where = where;
	fake.what = what;
	told.pages = told.files = 0;
	int rc = first ? capture_start(c, &sink, &e) : capture_take(c, &sink, &p, &e);
	ck_assert_int_eq(rc, -1);
	ck_assert(err_is_set(&e));
	ck_assert_int_eq(p.instant_ns, 0);
	ck_assert_uint_eq(told.files, 0);
	/* Nothing of a checkpoint that tore was told. */
	if (!first)
		ck_assert_uint_eq(told.pages, 0);
	ck_assert(fake.running);
	ck_assert(!told.armed);
	err_clear(&e);
	ck_assert_int_eq(capture_take(c, &sink, &p, &e), -1);
	tear_down(c);
}

START_TEST(torn)
{
	faulty((enum fake_where)_i, FAKE_CLOSE);
}
END_TEST

START_TEST(garbage)
{
	faulty((enum fake_where)_i, FAKE_GARBAGE);
}
END_TEST

static void *abort_later(void *arg)
{
	usleep(200 * 1000);
	capture_abort(arg);
	return NULL;
}

START_TEST(abort_while_blocked)
{
	set_up();
	struct capture *c = begin(CAPTURE_COLO);
	struct capture_point p;
	pthread_t t;
	enum fake_where where = (enum fake_where)_i;
	bool first = where <= FAKE_IN_FIRST_DEVICE;
	if (!first)
		ok(capture_start(c, &sink, &e));
	fake.where = where;
	fake.what = FAKE_HANG;
	told.pages = 0;
	ok(thread_start(&t, "abort", abort_later, c, &e));
	int64_t start = clock_mono_ns();
	ck_assert_int_eq(first ? capture_start(c, &sink, &e) : capture_take(c, &sink, &p, &e), -1);
	ck_assert_int_lt(clock_mono_ns() - start, 5 * NS_PER_S);
	ck_assert_int_eq(e.cls, ERR_CANCELLED);
	if (!first)
		ck_assert_uint_eq(told.pages, 0);
	pthread_join(t, NULL);
	ck_assert(fake.running);
	tear_down(c);
}
END_TEST

START_TEST(completes_without_colo)
{
	set_up();
	struct capture_point p;
	fake.complete_early = true;
	struct capture *c = begin(CAPTURE_AUTO);
	ck_assert_int_eq(capture_chosen(c), CAPTURE_COLO);
	ok(capture_start(c, &sink, &e));
	ck_assert(fake.running);
	ck_assert_int_eq(capture_chosen(c), CAPTURE_BACKGROUND);
	ck_assert(strstr(capture_reason(c), "in place of going into COLO") != NULL);
	told.pages = told.zeros = 0;
	ok(capture_take(c, &sink, &p, &e));
	ck_assert_uint_eq(told.pages, FAKE_PAGES / 2);
	tear_down(c);

	set_up();
	fake.complete_early = true;
	c = begin(CAPTURE_COLO);
	ck_assert_int_eq(capture_start(c, &sink, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert(fake.running);
	tear_down(c);
}
END_TEST

START_TEST(background_gives_what_changed)
{
	set_up();
	struct capture_point p;
	fake.major = _i ? 10 : 7;
	struct capture *c = begin(CAPTURE_BACKGROUND);
	ok(capture_start(c, &sink, &e));
	ck_assert_uint_eq(told.pages, FAKE_PAGES / 2);
	ck_assert_uint_eq(told.zeros, FAKE_PAGES / 2);
	told.pages = told.zeros = 0;
	ok(capture_take(c, &sink, &p, &e));
	ck_assert_uint_eq(told.pages, FAKE_PAGES / 2);
	ck_assert_uint_eq(told.zeros, 0);
	ck_assert_uint_eq(told.files, 3);
	ck_assert_uint_eq(told.ram[3][4095], 2);
	fake.version--; /* the same contents again */
	told.pages = 0;
	ok(capture_take(c, &sink, &p, &e));
	ck_assert_uint_eq(told.pages, 0);
	ck_assert(fake.running);
	tear_down(c);
}
END_TEST

START_TEST(background_torn)
{
	set_up();
	struct capture_point p;
	struct capture *c = begin(CAPTURE_BACKGROUND);
	ok(capture_start(c, &sink, &e));
	fake.where = (enum fake_where)_i;
	fake.what = FAKE_CLOSE;
	told.pages = 0;
	ck_assert_int_eq(capture_take(c, &sink, &p, &e), -1);
	ck_assert_uint_eq(told.pages, 0);
	tear_down(c);
}
END_TEST

/* QEMU never takes back the protection of a memory whose background snapshot was broken off: the guest would stand still for good. */
START_TEST(background_is_read_to_its_end)
{
	static const struct {
		enum fake_what what;
		enum fake_where where;
	} cases[] = {
		{ FAKE_GARBAGE, FAKE_IN_HEAD },   { FAKE_GARBAGE, FAKE_IN_FIRST_RAM }, { FAKE_SLOW, FAKE_IN_HEAD },
		{ FAKE_SLOW, FAKE_IN_FIRST_RAM }, { FAKE_SLOW, FAKE_IN_FIRST_DEVICE },
	};
	set_up();
	struct capture_point p;
	pthread_t t;
	struct capture *c = begin(CAPTURE_BACKGROUND);
	ok(capture_start(c, &sink, &e));
	fake.where = cases[_i].where;
	fake.what = cases[_i].what;
	if (fake.what == FAKE_SLOW)
		ok(thread_start(&t, "abort", abort_later, c, &e));
	ck_assert_int_eq(capture_take(c, &sink, &p, &e), -1);
	if (fake.what == FAKE_SLOW) {
		pthread_join(t, NULL);
		ck_assert_int_eq(e.cls, ERR_CANCELLED);
	}
	ck_assert_str_eq(fake.status, "completed");
	ck_assert(fake.running && !fake.background);
	ck_assert_uint_eq(fake.cancels, 0);
	tear_down(c);
}
END_TEST

/* Said by QEMU when it is asked for the first time. Without disks there is no other way. */
START_TEST(background_is_not_possible)
{
	static const enum capture_mode modes[] = { CAPTURE_AUTO, CAPTURE_AUTO, CAPTURE_BACKGROUND };
	set_up();
	const struct capture_opts o = { .mode = modes[_i],
					.memory = _i == 1,
					.no_colo = true,
					.arm = on_arm,
					.ctx = &told,
					.folder = "/tmp" };
	fake.no_userfaultfd = true;
	struct capture *c = capture_new(&fake.guest, &o, &e);
	ck_assert_msg(c != NULL, "%s", e.text);
	ck_assert_int_eq(capture_chosen(c), CAPTURE_BACKGROUND);
	ck_assert_ptr_null(strstr(capture_reason(c), "COLO"));
	ck_assert_int_eq(capture_start(c, &sink, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_int_eq(e.errnum, ENOTSUP);
	ck_assert_ptr_nonnull(strstr(e.text, "not supported by host kernel"));
	ck_assert_ptr_nonnull(strstr(e.remedy, "vm.unprivileged_userfaultfd=1"));
	tear_down(c);
}
END_TEST

/* Who asks for memory gets no disks alone; "auto" may, and says so. */
START_TEST(memory_or_nothing)
{
	set_up();
	struct capture_opts o = { .mode = CAPTURE_AUTO, .arm = on_arm, .ctx = &told, .folder = "/tmp" };
	struct guest_info info = { 0 };

	fake.lock_manager = true;
	struct capture *c = capture_new(&fake.guest, &o, &e);
	ck_assert_msg(c != NULL, "%s", e.text);
	ck_assert_int_eq(capture_chosen(c), CAPTURE_DISK);
	ck_assert_ptr_nonnull(strstr(capture_reason(c), "disks alone: a lock manager"));
	capture_free(c);
	o.memory = true;
	ck_assert_ptr_null(capture_new(&fake.guest, &o, &e));
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_ptr_nonnull(strstr(e.text, "memory cannot be captured: a lock manager"));
	err_clear(&e);
	/* Before there is a capture. */
	ok(fake.guest.ops->info(fake.guest.ctx, &info, &e));
	ck_assert_int_eq(capture_possible(&info, CAPTURE_AUTO, true, &e), -1);
	err_clear(&e);
	ck_assert_int_eq(capture_possible(&info, CAPTURE_BACKGROUND, false, &e), -1);
	err_clear(&e);
	ck_assert_int_eq(capture_possible(&info, CAPTURE_COLO, false, &e), -1);
	ck_assert_ptr_nonnull(strstr(e.remedy, "--mode auto"));
	err_clear(&e);
	ok(capture_possible(&info, CAPTURE_AUTO, false, &e));
	/* Disks alone of a VM that has none. */
	ck_assert_int_eq(capture_possible(&info, CAPTURE_DISK, false, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	err_clear(&e);
	info.disks = mem_alloc(sizeof(*info.disks));
	info.n_disks = 1;
	ok(capture_possible(&info, CAPTURE_DISK, false, &e));
	/* Background snapshots are memory, too. */
	info.lock_manager = info.kvm = false;
	ok(capture_possible(&info, CAPTURE_AUTO, true, &e));
	ok(capture_possible(&info, CAPTURE_BACKGROUND, false, &e));
	ck_assert_int_eq(capture_possible(&info, CAPTURE_COLO, false, &e), -1);
	err_clear(&e);
	guest_info_fini(&info);
	fake.lock_manager = false;
	c = capture_new(&fake.guest, &o, &e);
	ck_assert_int_eq(capture_chosen(c), CAPTURE_COLO);
	tear_down(c);
}
END_TEST

static unsigned checkpoints(void)
{
	THREAD_LOCKED(&fake.lock);
	return fake.checkpoints;
}

static void wait_for_checkpoints(unsigned n)
{
	int64_t deadline = clock_mono_ns() + 5 * NS_PER_S;
	while (checkpoints() < n && clock_mono_ns() < deadline)
		usleep(1000);
	ck_assert_uint_eq(checkpoints(), n);
}

/* _i == 1: it has panicked, and QEMU is kept as it is (on_crash). */
START_TEST(user_pause_is_respected)
{
	const char *why = _i ? "the VM has crashed" : "the VM is paused";
	set_up();
	fake.crashed = _i == 1;
	struct capture *c = begin(CAPTURE_COLO);
	struct capture_point p;
	ok(capture_start(c, &sink, &e));
	ok(capture_take(c, &sink, &p, &e));
	ck_assert_uint_eq(fake.asked, 1); /* QEMU's main loop has answered: no reset is under way */
	usleep(2100 * 1000);              /* longer than an own pause may take to be over */
	fake_run(&fake, false);
	for (int i = 0; i < 2; i++) {
		err_clear(&e);
		ck_assert_int_eq(capture_take(c, &sink, &p, &e), -1);
		ck_assert_int_eq(e.cls, ERR_REFUSED);
		ck_assert_int_eq(e.errnum, EAGAIN);
		ck_assert_ptr_nonnull(strstr(e.text, why));
		ck_assert(!fake.running);
		ck_assert_uint_eq(checkpoints(), 1);
	}
	fake_run(&fake, true);
	err_clear(&e);
	ok(capture_take(c, &sink, &p, &e));
	wait_for_checkpoints(2);
	tear_down(c);

	set_up();
	fake.crashed = _i == 1;
	c = begin(CAPTURE_COLO);
	ok(capture_start(c, &sink, &e));
	fake_run(&fake, false);
	ok(capture_stop(c, &e));
	ck_assert_uint_eq(fake.heartbeats, 1);
	ck_assert(!fake.running);
	fake_run(&fake, true);
	tear_down(c);

	set_up();
	fake.crashed = _i == 1;
	fake_run(&fake, false);
	c = begin(CAPTURE_COLO);
	ck_assert_int_eq(capture_start(c, &sink, &e), -1);
	ck_assert_int_eq(e.errnum, EAGAIN);
	ck_assert_ptr_nonnull(strstr(e.text, why));
	fake_run(&fake, true);
	tear_down(c);
}
END_TEST

START_TEST(file_systems_are_frozen_at_the_instant_alone)
{
	set_up();
	const struct capture_opts o = { .mode = _i ? CAPTURE_BACKGROUND : CAPTURE_COLO,
					.arm = on_arm,
					.ctx = &told,
					.folder = "/tmp",
					.quiesce = true };
	struct capture_point p;
	fake.agent = true;
	struct capture *c = capture_new(&fake.guest, &o, &e);
	ok(capture_start(c, &sink, &e));
	ck_assert(!fake.stopped_frozen);
	ok(capture_take(c, &sink, &p, &e));
	ck_assert(p.quiesced && fake.stopped_frozen && !fake.frozen);
	if (_i == 0) { /* a VM that is to stand still could not thaw */
		ok(capture_take_last(c, &sink, &p, &e));
		ck_assert(!p.quiesced);
		ok(capture_let_go(c, &e));
	}
	fake.where = _i ? FAKE_IN_HEAD : FAKE_IN_DEVICE;
	fake.what = FAKE_CLOSE;
	ck_assert_int_eq(capture_take(c, &sink, &p, &e), -1);
	ck_assert_uint_eq(fake.freezes, 2);
	ck_assert(!fake.frozen);
	tear_down(c);
}
END_TEST

START_TEST(sink_refuses)
{
	set_up();
	struct capture *c = begin(CAPTURE_COLO);
	struct capture_point p;
	ok(capture_start(c, &sink, &e));
	told.refuse_page = 3;
	ck_assert_int_eq(capture_take(c, &sink, &p, &e), -1);
	ck_assert_int_eq(e.cls, ERR_PEER);
	ck_assert_uint_eq(told.files, 0);
	tear_down(c);

	set_up();
	c = begin(CAPTURE_COLO);
	told.refuse_page = 3;
	ck_assert_int_eq(capture_start(c, &sink, &e), -1);
	ck_assert_int_eq(e.cls, ERR_PEER);
	tear_down(c);
}
END_TEST

static void refused(enum capture_mode mode, const char *word)
{
	const struct capture_opts o = { .mode = mode };
	err_clear(&e);
	ck_assert(capture_new(&fake.guest, &o, &e) == NULL);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_msg(strstr(e.text, word) != NULL, "%s", e.text);
}

START_TEST(choice)
{
	set_up();
	fake.kvm = false;
	refused(CAPTURE_COLO, "emulated");
	struct capture *c = begin(CAPTURE_AUTO);
	ck_assert_int_eq(capture_chosen(c), CAPTURE_BACKGROUND);
	ck_assert(strstr(capture_reason(c), "emulated") != NULL);
	capture_free(c);
	fake.kvm = true;
	fake.major = 10;
	fake.minor = 0;
	fake.micro = 2;
	refused(CAPTURE_COLO, "10.0.2");
	fake.micro = 7;
	c = begin(CAPTURE_COLO);
	capture_free(c);
	fake.minor = 1;
	refused(CAPTURE_COLO, "10.1");
	enum capture_mode m;
	ck_assert_int_eq(capture_mode_from_name("background", &m), 0);
	ck_assert_int_eq(m, CAPTURE_BACKGROUND);
	ck_assert_int_eq(capture_mode_from_name("colour", &m), -1);
	fake_fini(&fake);
}
END_TEST

/* Whatever the capture would still like to put back: with QEMU gone there is nothing to wait for. */
START_TEST(vm_ends)
{
	set_up();
	struct capture *c = begin(CAPTURE_COLO);
	struct capture_point p;
	ok(capture_start(c, &sink, &e));
	ok(capture_take(c, &sink, &p, &e));
	fake.gone = true;
	err_clear(&e);
	const int64_t began = clock_mono_ns();
	ck_assert_int_eq(capture_take(c, &sink, &p, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_int_eq(e.errnum, ENOENT);
	capture_free(c);
	ck_assert_int_lt(clock_mono_ns() - began, 5 * NS_PER_S); /* QEMU that lives is given ten for leaving COLO */
	fake_fini(&fake);
}
END_TEST

/* virsh save, on a QEMU 7.2 that forgets COLO over it. */
START_TEST(another_migration_begins)
{
	set_up();
	struct capture *c = begin(CAPTURE_COLO);
	struct capture_point p;
	ok(capture_start(c, &sink, &e));
	ok(capture_take(c, &sink, &p, &e));
	fake_status(&fake, "setup");
	err_clear(&e);
	const int64_t began = clock_mono_ns();
	ck_assert_int_eq(capture_take(c, &sink, &p, &e), -1);
	ck_assert_msg(strstr(e.text, "not vmferry's") != NULL, "%s", e.text);
	ck_assert_int_lt(clock_mono_ns() - began, 5 * NS_PER_S);
	ck_assert(fake.running);
	tear_down(c);
}
END_TEST

/* The event that it is in COLO was lost with libvirtd; what has ended COLO since is still found out. */
START_TEST(in_colo_although_no_event_said_so)
{
	set_up();
	fake.lose_event = true;
	struct capture *c = begin(CAPTURE_COLO);
	struct capture_point p;
	ok(capture_start(c, &sink, &e));
	for (unsigned i = 0; i < 2; i++)
		ok(capture_take(c, &sink, &p, &e));
	fake_status(&fake, "setup");
	ck_assert_int_eq(capture_take(c, &sink, &p, &e), -1);
	ck_assert_msg(strstr(e.text, "not vmferry's") != NULL, "%s", e.text);
	ck_assert(fake.running);
	tear_down(c);
}
END_TEST

START_TEST(migration_state_that_is_stuck)
{
	set_up();
	snprintf(fake.status, sizeof(fake.status), "setup");
	struct capture *c = begin(CAPTURE_AUTO);
	ck_assert_int_eq(capture_chosen(c), CAPTURE_DISK);
	ck_assert_msg(strstr(capture_reason(c), "started anew") != NULL, "%s", capture_reason(c));
	capture_free(c);
	fake_fini(&fake);
}
END_TEST

START_TEST(clean_up_frees_a_vm_that_stands_still)
{
	set_up();
	struct capture *c = begin(CAPTURE_COLO);
	ok(capture_start(c, &sink, &e));
	/* As if we were another process: the VM is in COLO. */
	ok(capture_clean_up(&fake.guest, &e));
	ck_assert(fake.running);
	ck_assert(!fake.x_colo);
	ck_assert_str_eq(fake.status, "completed");
	tear_down(c);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("snapshot/capture");
	TCase *tc = tcase_create("all");
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, colo_gives_what_was_written);
	tcase_add_test(tc, a_sink_that_blocks_does_not_hold_the_vm);
	tcase_add_test(tc, empty_checkpoint);
	tcase_add_loop_test(tc, torn, FAKE_IN_HEAD, FAKE_BEFORE_RESUME);
	tcase_add_loop_test(tc, garbage, FAKE_IN_HEAD, FAKE_BEFORE_RESUME);
	tcase_add_loop_test(tc, abort_while_blocked, FAKE_IN_HEAD, FAKE_BEFORE_RESUME);
	tcase_add_test(tc, completes_without_colo);
	tcase_add_loop_test(tc, background_gives_what_changed, 0, 2);
	tcase_add_loop_test(tc, background_torn, FAKE_IN_HEAD, FAKE_BEFORE_REQUEST);
	tcase_add_loop_test(tc, background_is_read_to_its_end, 0, 5);
	tcase_add_loop_test(tc, background_is_not_possible, 0, 3);
	tcase_add_test(tc, memory_or_nothing);
	tcase_add_loop_test(tc, user_pause_is_respected, 0, 2);
	tcase_add_loop_test(tc, file_systems_are_frozen_at_the_instant_alone, 0, 2);
	tcase_add_test(tc, sink_refuses);
	tcase_add_test(tc, choice);
	tcase_add_test(tc, vm_ends);
	tcase_add_test(tc, another_migration_begins);
	tcase_add_test(tc, in_colo_although_no_event_said_so);
	tcase_add_test(tc, migration_state_that_is_stuck);
	tcase_add_test(tc, clean_up_frees_a_vm_that_stands_still);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
