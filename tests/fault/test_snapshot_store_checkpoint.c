/* What a checkpoint of the store syncs, and what comes of it where one of the files cannot be opened. */
#include "tests/unit/store_model.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <unistd.h>

static char base[64], dir[96];
static struct sys_calls kernel;
static atomic_int open_error; /* of files/N, for reading */
static atomic_int files_synced, heads_synced, catalogue_at;

static int checked_open(const char *p, int flags, mode_t mode)
{
	if (open_error && strstr(p, "/files/0") && (flags & O_ACCMODE) == O_RDONLY) {
		errno = open_error;
		return -1;
	}
	return kernel.open(p, flags, mode);
}

static int counted_sync(int fd)
{
	char link[64], path[256];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	const ssize_t len = readlink(link, path, sizeof(path) - 1);
	path[len > 0 ? len : 0] = '\0';
	files_synced += strstr(path, "/files/0") != NULL;
	heads_synced += strstr(path, "/heads/0") && strstr(path, ".raw");
	if (strstr(path, "/catalogue.log"))
		catalogue_at = heads_synced;
	return 0;
}

static void set_up(void)
{
	kernel = sys;
	sys.open = checked_open;
	sys.fsync = sys.fdatasync = counted_sync;
	open_error = files_synced = heads_synced = catalogue_at = 0;
	model_folder(base);
	snprintf(dir, sizeof(dir), "%s/web1", base);
}

static void tear_down(void)
{
	sys = kernel;
	model_remove_folder(base);
}

/* Points and a file of which the catalogue does not know. */
static struct store *unsaved(struct model *m)
{
	struct err e = ERR_INIT;
	struct store *s = store_create(dir, NULL, NULL, &e);

	ck_assert_msg(s != NULL, "%s", e.text);
	model_init(m, 11);
	while (m->now.file == 0 || m->n_points < 2)
		OK(model_txn(m, s, STORE_TXN_POINT, &e), e);
	model_wait_applied(s);
	files_synced = heads_synced = catalogue_at = 0;
	return s;
}

static int settle(struct store *s, struct err *e)
{
	return store_settle(s, clock_mono_ns() + 20 * NS_PER_S, e);
}

static void check_reopened(const struct model *m)
{
	struct err e = ERR_INIT;
	struct store *s = store_open(dir, NULL, &e);

	ck_assert_msg(s != NULL, "%s", e.text);
	model_compare_all(m, s);
	OK(store_verify(s, NULL, NULL, &e), e);
	store_close(s);
}

/* The next checkpoint syncs what this one did not. */
START_TEST(a_file_that_cannot_be_opened_just_now)
{
	static const int errors[] = { EMFILE, ENFILE, ENOMEM, EAGAIN };
	struct model m;
	struct err e = ERR_INIT;
	struct store *s = unsaved(&m);

	open_error = errors[_i];
	ck_assert_int_eq(settle(s, &e), -1);
	ck_assert_ptr_nonnull(strstr(e.text, strerror(errors[_i])));
	ck_assert_int_eq(files_synced, 0);
	ck_assert_int_gt(heads_synced, 0);
	const int heads = heads_synced;
	OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
	open_error = 0;
	OK(settle(s, &e), e);
	ck_assert_int_gt(files_synced, 0);
	ck_assert_int_ge(heads_synced, 2 * heads);
	ck_assert_int_ge(catalogue_at, 2 * heads);
	model_compare_all(&m, s);
	store_close(s);
	check_reopened(&m);
	model_fini(&m);
}
END_TEST

START_TEST(a_file_that_cannot_be_opened_ends_it)
{
	struct model m;
	struct err e = ERR_INIT;
	struct store *s = unsaved(&m);

	open_error = EIO;
	ck_assert_int_eq(settle(s, &e), -1);
	open_error = 0;
	ck_assert_ptr_null(store_begin(s, STORE_TXN_POINT, &e));
	ck_assert_ptr_nonnull(strstr(e.text, strerror(EIO)));
	ck_assert_int_eq(catalogue_at, 0);
	model_compare_all(&m, s);
	store_close(s);
	check_reopened(&m);
	model_fini(&m);
}
END_TEST

/* Given up with the point that listed it, before it was synced. */
START_TEST(a_file_that_is_gone_is_not_missed)
{
	struct model m;
	struct err e = ERR_INIT;
	struct store *s = unsaved(&m);

	open_error = ENOENT;
	OK(settle(s, &e), e);
	ck_assert_int_eq(files_synced, 0);
	open_error = 0;
	OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
	store_close(s);
	check_reopened(&m);
	model_fini(&m);
}
END_TEST

/* Volumes that come and go: many more heads than a transaction may list. */
START_TEST(every_head_is_synced)
{
	enum { LISTS = 3 };
	struct err e = ERR_INIT;
	struct store_volume list[STORE_MAX_VOLUMES] = { 0 };
	uint8_t data[STORE_BLOCK];
	struct store *s = store_create(dir, NULL, NULL, &e);

	ck_assert_msg(s != NULL, "%s", e.text);
	memset(data, 0x5a, sizeof(data));
	catalogue_at = 0;
	for (uint32_t k = 0; k < LISTS; k++) {
		struct store_txn *t = store_begin(s, STORE_TXN_POINT, &e);
		ck_assert_msg(t != NULL, "%s", e.text);
		for (uint32_t i = 0; i < STORE_MAX_VOLUMES; i++) {
			list[i] = (struct store_volume){ .kind = STORE_DISK, .size_bytes = STORE_BLOCK };
			snprintf(list[i].name, sizeof(list[i].name), "disk%u-%u", k, i);
		}
		OK(store_txn_volumes(t, list, STORE_MAX_VOLUMES, &e), e);
		for (uint32_t i = 0; i < STORE_MAX_VOLUMES; i++)
			OK(store_txn_block(t, i, 0, data, &e), e);
		OK(store_commit(t, NULL, NULL, &e), e);
	}
	model_wait_applied(s);
	ck_assert_int_eq(heads_synced, 0);
	OK(settle(s, &e), e);
	ck_assert_int_eq(heads_synced, LISTS * STORE_MAX_VOLUMES);
	ck_assert_int_eq(catalogue_at, LISTS * STORE_MAX_VOLUMES);
	OK(store_verify(s, NULL, NULL, &e), e);
	store_close(s);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store checkpoint");
	TCase *t = tcase_create("all");
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_loop_test(t, a_file_that_cannot_be_opened_just_now, 0, 4);
	tcase_add_test(t, a_file_that_cannot_be_opened_ends_it);
	tcase_add_test(t, a_file_that_is_gone_is_not_missed);
	tcase_add_test(t, every_head_is_synced);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
