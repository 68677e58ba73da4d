/* The n-th call of each system call fails while a store is used: whatever was acknowledged before and after is there, reads
 * right and verifies, in the same process where that is promised, and always after opening it again. Writes are short
 * throughout. */
#include "tests/unit/store_model.h"

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

enum call { OPEN, PREAD, WRITE, PWRITE, FALLOCATE, FSYNC, FDATASYNC, RENAME, UNLINK, FTRUNCATE, CALL_COUNT };
static const char *const call_names[] = { "open",  "pread",     "write",  "pwrite", "fallocate",
					  "fsync", "fdatasync", "rename", "unlink", "ftruncate" };

static char base[64], dir[96];
static struct sys_calls kernel;
static const struct store_opts small_segments = { .segment_bytes = 150000 };

static struct {
	_Atomic enum call call;
	atomic_int first, last; /* of that call, counted from 1: these fail */
	atomic_int errnum;
	atomic_int seen, fired;
} plan;

static bool fails(enum call call)
{
	const int errnum = plan.errnum; /* before it is disarmed, maybe */

	if (call != plan.call || plan.first == 0)
		return false;
	const int n = atomic_fetch_add(&plan.seen, 1) + 1;
	if (n < plan.first || n > plan.last)
		return false;
	atomic_fetch_add(&plan.fired, 1);
	errno = errnum;
	return true;
}

static int faulty_open(const char *p, int flags, mode_t mode)
{
	return fails(OPEN) ? -1 : kernel.open(p, flags, mode);
}
static ssize_t faulty_pread(int fd, void *buf, size_t n, off_t at)
{
	return fails(PREAD) ? -1 : kernel.pread(fd, buf, n, at);
}

/* Every third write is short, by next to nothing or to next to nothing. */
static size_t shorter(size_t n)
{
	static atomic_uint calls;
	const unsigned k = atomic_fetch_add(&calls, 1);

	if (k % 3 || n < 2)
		return n;
	return k % 2 ? n - 1 : 1 + n / 7;
}
static ssize_t faulty_write(int fd, const void *buf, size_t n)
{
	return fails(WRITE) ? -1 : kernel.write(fd, buf, shorter(n));
}
static ssize_t faulty_pwrite(int fd, const void *buf, size_t n, off_t at)
{
	return fails(PWRITE) ? -1 : kernel.pwrite(fd, buf, shorter(n), at);
}
static int faulty_fallocate(int fd, int mode, off_t at, off_t n)
{
	return fails(FALLOCATE) ? -1 : kernel.fallocate(fd, mode, at, n);
}
static int faulty_fsync(int fd)
{
	(void)fd;
	return fails(FSYNC) ? -1 : 0;
}
static int faulty_fdatasync(int fd)
{
	(void)fd;
	return fails(FDATASYNC) ? -1 : 0;
}
static int faulty_rename(const char *from, const char *to)
{
	return fails(RENAME) ? -1 : kernel.rename(from, to);
}
static int faulty_unlink(const char *p)
{
	return fails(UNLINK) ? -1 : kernel.unlink(p);
}
static int faulty_ftruncate(int fd, off_t len)
{
	return fails(FTRUNCATE) ? -1 : kernel.ftruncate(fd, len);
}

static void arm(enum call call, int first, int last, int errnum)
{
	plan.call = call;
	plan.first = first;
	plan.last = last;
	plan.errnum = errnum;
	plan.seen = 0;
	plan.fired = 0;
}

static void set_up(void)
{
	kernel = sys;
	sys.open = faulty_open;
	sys.pread = faulty_pread;
	sys.write = faulty_write;
	sys.pwrite = faulty_pwrite;
	sys.fallocate = faulty_fallocate;
	sys.fsync = faulty_fsync;
	sys.fdatasync = faulty_fdatasync;
	sys.rename = faulty_rename;
	sys.unlink = faulty_unlink;
	sys.ftruncate = faulty_ftruncate;
	model_folder(base);
	snprintf(dir, sizeof(dir), "%s/web1", base);
}

static void tear_down(void)
{
	arm(OPEN, 0, 0, 0);
	model_remove_folder(base);
}

/* A transaction whose commit failed without the store knowing what is on disk: it may be there afterwards, whole. */
struct doubt {
	bool is;
	struct model_state state;
};

static bool is_poisoned(struct store *s)
{
	struct err e = ERR_INIT;
	struct store_txn *t = store_begin(s, STORE_TXN_PART, &e);

	store_abort(t);
	return t == NULL;
}

/* Commits, prunes, views; what fails, fails. */
static void use(struct model *m, struct store *s, struct doubt *doubt)
{
	for (int step = 0; step < 6; step++) {
		struct err e = ERR_INIT;
		const enum store_txn_kind kind = step % 3 == 1 ? STORE_TXN_PART : STORE_TXN_POINT;
		if (model_txn(m, s, kind, &e) < 0) {
			ck_assert_msg(e.text[0], "no reason given");
			doubt->is = true;
			doubt->state = m->next;
			doubt->state.seq = m->now.seq + 1;
			if (is_poisoned(s))
				return;
			doubt->is = false;
			continue;
		}
		if (step == 3) {
			/* Points that were to be given up may have been, or not. */
			struct model before = *m;
			struct store_point *p = NULL;
			size_t n = 0, kept = 0;
			for (size_t i = 0; i < m->n_points; i++)
				if (i % 2 == 1 || i + 1 == m->n_points)
					before.points[kept++] = m->points[i];
			before.n_points = kept;
			store_prune(s, model_keep, &before, &e);
			OK(store_points(s, &p, &n, &e), e);
			kept = 0;
			for (size_t i = 0; i < m->n_points; i++) {
				bool there = false;
				for (size_t k = 0; k < n; k++)
					there |= p[k].seq == m->points[i]->seq;
				if (there)
					m->points[kept++] = m->points[i];
				else
					free(m->points[i]);
			}
			m->n_points = kept;
			store_points_free(p, n);
		}
		struct err ignored = ERR_INIT;
		store_settle(s, clock_mono_ns() + 20 * NS_PER_MS, &ignored);
	}
}

static void check_reopened(struct model *m, const struct doubt *doubt, const char *what, int nth)
{
	struct err e = ERR_INIT;
	struct store_point *p = NULL;
	size_t n = 0;
	struct store *s = store_open(dir, &small_segments, &e);

	ck_assert_msg(s != NULL, "%s %d: %s", what, nth, e.text);
	OK(store_settle(s, clock_mono_ns() + 10 * NS_PER_S, &e), e);
	OK(store_points(s, &p, &n, &e), e);
	/* What was given up while the catalogue could not be written comes back: every point of the model is there, others read
	 * right or were seen. */
	size_t found = 0;
	for (size_t i = 0; i < n; i++) {
		const struct model_state *want = NULL;
		for (size_t k = 0; k < m->n_points; k++)
			if (m->points[k]->seq == p[i].seq)
				want = m->points[k];
		found += want != NULL;
		if (!want && doubt->is && p[i].seq == doubt->state.seq)
			want = &doubt->state;
		struct store_view *v = store_view_open(s, p[i].seq, &e);
		ck_assert_msg(v != NULL, "%s %d: %s", what, nth, e.text);
		if (want)
			model_compare(want, v);
		store_view_close(v);
	}
	ck_assert_msg(found == m->n_points, "%s %d: %zu of %zu acknowledged points are there", what, nth, found,
		      m->n_points);
	store_points_free(p, n);
	struct store_view *newest = store_view_newest(s, &e);
	model_compare(store_view_seq(newest) == m->now.seq ? &m->now : &doubt->state, newest);
	ck_assert(store_view_seq(newest) == m->now.seq || (doubt->is && store_view_seq(newest) == doubt->state.seq));
	store_view_close(newest);
	ck_assert_msg(store_verify(s, NULL, NULL, &e) == 0, "%s %d: %s", what, nth, e.text);
	store_close(s);
}

static struct store *created(void)
{
	struct err e = ERR_INIT;
	struct store *s = store_create(dir, &small_segments, NULL, &e);

	ck_assert_msg(s != NULL, "%s", e.text);
	return s;
}

/* One run with calls first..last failing; returns whether it came to that. */
static bool run(enum call call, int first, int last, int errnum, bool lasting)
{
	struct model m;
	struct err e = ERR_INIT;
	struct doubt doubt = { 0 };

	arm(call, 0, 0, 0);
	struct store *s = created();
	model_init(&m, 42);
	OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
	arm(call, first, last, errnum);
	use(&m, s, &doubt);
	if (!lasting)
		store_close(s);
	const bool fired = plan.fired > 0;
	arm(call, 0, 0, 0);
	if (lasting) {
		/* There is space again: the store goes on without being opened again. */
		ck_assert_msg(!is_poisoned(s), "%s %d: takes nothing more", call_names[call], first);
		OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
		OK(store_settle(s, clock_mono_ns() + 10 * NS_PER_S, &e), e);
		model_compare_all(&m, s);
		doubt.is = false;
		store_close(s);
	}
	check_reopened(&m, &doubt, call_names[call], first);
	model_fini(&m);
	OK(store_destroy(dir, &e), e);
	return fired;
}

/* Every call in turn. */
static int walk(enum call call, int errnum, int width, bool lasting)
{
	int nth = 1;

	while (run(call, nth, nth + width - 1, errnum, lasting))
		nth++;
	return nth - 1;
}

START_TEST(the_nth_call_fails)
{
	const enum call call = (enum call)_i;
	const int least[CALL_COUNT] = { 30, 20, 1, 60, 0, 20, 20, 6, 10, 0 };
	const int n = walk(call, EIO, 1, false);

	ck_assert_msg(n >= least[call], "%s: only %d calls were met", call_names[call], n);
}
END_TEST

START_TEST(a_full_disk_is_survived)
{
	static const enum call calls[] = { PWRITE, WRITE, FALLOCATE };
	static const int least[] = { 60, 0, 0 };
	/* For a moment, and for longer. */
	const int n = walk(calls[_i / 2], ENOSPC, _i % 2 ? 6 : 1, true);

	ck_assert_msg(n >= least[_i / 2], "%s: only %d calls were met", call_names[calls[_i / 2]], n);
}
END_TEST

/* For a moment, and for longer: nothing is in doubt, and it goes on. */
START_TEST(what_cannot_be_opened_just_now_is_tried_again)
{
	static const int errors[] = { EMFILE, ENOMEM };
	const int n = walk(OPEN, errors[_i / 2], _i % 2 ? 6 : 1, true);

	ck_assert_msg(n >= 30, "only %d calls were met", n);
}
END_TEST

START_TEST(a_sync_that_failed_ends_it)
{
	struct model m;
	struct err e = ERR_INIT;
	struct store *s = created();
	struct doubt doubt = { 0 };

	model_init(&m, 7);
	OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
	OK(store_settle(s, clock_mono_ns() + 10 * NS_PER_S, &e), e);
	arm(FDATASYNC, 1, 1, EIO);
	ck_assert_int_eq(model_txn(&m, s, STORE_TXN_POINT, &e), -1);
	doubt.is = true;
	doubt.state = m.next;
	doubt.state.seq = m.now.seq + 1;
	err_clear(&e);
	ck_assert_ptr_null(store_begin(s, STORE_TXN_POINT, &e));
	ck_assert_ptr_nonnull(strstr(e.text, "sync"));
	model_compare_all(&m, s);
	store_close(s);
	check_reopened(&m, &doubt, "fdatasync", 1);
	model_fini(&m);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store_faults");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_loop_test(t, the_nth_call_fails, 0, CALL_COUNT);
	tcase_add_loop_test(t, a_full_disk_is_survived, 0, 6);
	tcase_add_loop_test(t, what_cannot_be_opened_just_now_is_tried_again, 0, 4);
	tcase_add_test(t, a_sync_that_failed_ends_it);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
