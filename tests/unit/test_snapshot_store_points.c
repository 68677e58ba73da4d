/* What many points cost: a checkpoint, giving points up, their before-images. And stores of format 1; and what a process leaves that ends without closing. */
#include "store_model.h"

#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static char base[64], dir[96], copy[96];
static struct sys_calls kernel;
static atomic_ullong written;
static atomic_bool full, no_catalogue, no_vm;
static atomic_int head_writes; /* that still go through when it is full */

static ssize_t counted_write(int fd, const void *p, size_t n)
{
	written += n;
	return kernel.write(fd, p, n);
}

/* Full: nothing goes into the heads any more. */
static ssize_t counted_pwrite(int fd, const void *p, size_t n, off_t at)
{
	char link[64], path[256];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	const ssize_t len = full ? readlink(link, path, sizeof(path) - 1) : 0;
	path[len > 0 ? len : 0] = '\0';
	if (strstr(path, "/heads/") && head_writes-- <= 0) {
		errno = ENOSPC;
		return -1;
	}
	written += n;
	return kernel.pwrite(fd, p, n, at);
}

static int checked_rename(const char *from, const char *to)
{
	if ((no_catalogue && strstr(to, "catalogue.log")) || (no_vm && strstr(to, "vm.json"))) {
		errno = ENOSPC;
		return -1;
	}
	return kernel.rename(from, to);
}

static void set_up(void)
{
	model_no_sync();
	kernel = sys;
	sys.write = counted_write;
	sys.pwrite = counted_pwrite;
	sys.rename = checked_rename;
	written = 0;
	full = no_catalogue = no_vm = false;
	head_writes = 0;
	model_folder(base);
	snprintf(dir, sizeof(dir), "%s/web1", base);
	snprintf(copy, sizeof(copy), "%s/copy", base);
}

static void tear_down(void)
{
	sys = kernel;
	model_remove_folder(base);
}

static void settle(struct store *s)
{
	struct err e = ERR_INIT;
	OK(store_settle(s, clock_mono_ns() + 20 * NS_PER_S, &e), e);
}

#define DISK_BLOCKS 4096u

/* A point: `n` blocks that are new, from `at` on in steps, and a file. */
static void point(struct store *s, uint32_t at, uint32_t n, uint32_t tag)
{
	const struct store_volume v = { .kind = STORE_DISK, .name = "vda", .size_bytes = DISK_BLOCKS * STORE_BLOCK };
	struct err e = ERR_INIT;
	uint8_t data[STORE_BLOCK];
	struct store_txn *t = store_begin(s, STORE_TXN_POINT, &e);
	json_t *meta = json_pack("{s:s, s:I}", "id", "a point's own name of some length", "instant_ns",
				 (json_int_t)tag * 1000000007);

	ck_assert_msg(t != NULL, "%s", e.text);
	if (tag == 1)
		OK(store_txn_volumes(t, &v, 1, &e), e);
	for (uint32_t i = 0; i < n; i++) {
		model_fill(tag + i, data, STORE_BLOCK);
		OK(store_txn_block(t, 0, (at + i * 7) % DISK_BLOCKS, data, &e), e);
	}
	OK(store_txn_file(t, "device", &tag, sizeof(tag), &e), e);
	OK(store_commit(t, meta, NULL, &e), e);
	json_decref(meta);
}

struct keeping {
	uint64_t newest, last, every;
};

static bool keeps(void *ctx, const struct store_point *p)
{
	const struct keeping *k = ctx;
	return p->seq + k->last > k->newest || (k->every && p->seq % k->every == 0);
}

static void prune(struct store *s, uint64_t newest, uint64_t last, uint64_t every)
{
	struct err e = ERR_INIT;
	struct keeping k = { .newest = newest, .last = last, .every = every };
	OK(store_prune(s, keeps, &k, &e), e);
}

static size_t points_of(struct store *s)
{
	struct store_point *p = NULL;
	struct err e = ERR_INIT;
	size_t n = 0;

	OK(store_points(s, &p, &n, &e), e);
	store_points_free(p, n);
	return n;
}

static struct store *created(void)
{
	struct err e = ERR_INIT;
	struct store *s = store_create(dir, NULL, NULL, &e);

	ck_assert_msg(s != NULL, "%s", e.text);
	return s;
}

/* Bytes that a point costs which comes while so many are kept: into the journal, before-images, heads, and the catalogue. */
static uint64_t cost_of_points(uint32_t kept)
{
	struct err e = ERR_INIT;
	struct store *s = created();
	uint32_t tag = 0;

	while (tag < kept) {
		tag++;
		point(s, tag, 1, tag);
	}
	settle(s);
	const uint64_t before = written;
	for (int i = 0; i < 200; i++) {
		tag++;
		point(s, tag, 1, tag);
		settle(s);
		prune(s, tag, kept, 0);
		ck_assert_uint_eq(points_of(s), kept);
	}
	const uint64_t cost = written - before;
	store_close(s);
	OK(store_destroy(dir, &e), e);
	return cost / 200;
}

START_TEST(a_point_costs_the_same_however_many_are_kept)
{
	const uint64_t few = cost_of_points(5), many = cost_of_points(500);

	ck_assert_msg(many < few + few / 4, "%" PRIu64 " bytes with 5 points, %" PRIu64 " with 500", few, many);
}
END_TEST

START_TEST(pruning_keeps_up)
{
	struct store *s = created();

	for (uint32_t tag = 1; tag <= 200; tag++) {
		point(s, tag * 31, 4, tag);
		settle(s);
		prune(s, tag, 10, 0);
		ck_assert_uint_le(points_of(s), 10);
		ck_assert_int_le(model_files_in(dir, "undo"), 10);
		ck_assert_int_le(model_files_in(dir, "files"), 10);
	}
	store_close(s);
}
END_TEST

/* Where a few old points are kept the before-images up to them are put together: each is written again a few times at most, and there are few files. */
START_TEST(before_images_are_merged_cheaply)
{
	struct store *s = created();
	const uint32_t points = 400, blocks = 16;
	struct err e = ERR_INIT;

	for (uint32_t tag = 1; tag <= points; tag++) {
		point(s, tag * 113, blocks, tag);
		settle(s);
		if (tag % 2 == 0)
			prune(s, tag, 10, 200);
	}
	/* Three times without merging: journal, before-images, head. */
	const uint64_t least = (uint64_t)points * blocks * STORE_BLOCK * 3;
	ck_assert_msg(written < 2 * least, "%" PRIu64 " bytes written, for %" PRIu64, (uint64_t)written, least);
	prune(s, points, 1, points / 2);
	ck_assert_uint_eq(points_of(s), 2);
	ck_assert_int_le(model_files_in(dir, "undo"), 8);
	OK(store_verify(s, NULL, NULL, &e), e);
	store_close(s);
}
END_TEST

/* ---- a process that ends without closing ---- */

static void crash(void)
{
	MEM_AUTO char *command = mem_printf("rm -rf %s && cp -r %s %s", copy, dir, copy);
	ck_assert_int_eq(system(command), 0);
}

static void compare_copy(const struct model *m, const struct model_state *also)
{
	struct err e = ERR_INIT;
	struct store *s = store_open(copy, NULL, &e);

	ck_assert_msg(s != NULL, "%s", e.text);
	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i < m->n_points; i++) {
			struct store_view *v = store_view_open(s, m->points[i]->seq, &e);
			ck_assert_msg(v != NULL, "%s", e.text);
			model_compare(m->points[i], v);
			store_view_close(v);
		}
		struct store_view *v = also ? store_view_open(s, also->seq, &e) : NULL;
		if (v)
			model_compare(also, v);
		store_view_close(v);
		v = store_view_newest(s, &e);
		model_compare(&m->now, v);
		store_view_close(v);
		if (no_catalogue || no_vm)
			model_wait_applied(s);
		else
			settle(s);
	}
	OK(store_verify(s, NULL, NULL, &e), e);
	store_close(s);
}

/* Applied, and the catalogue does not know: the heads are ahead of it. */
START_TEST(what_is_applied_and_not_saved)
{
	struct err e = ERR_INIT;
	struct model m;
	struct store *s = created();

	model_init(&m, (uint64_t)_i + 1);
	for (int i = 0; i < 30; i++) {
		OK(model_txn(&m, s, model_below(&m, 3) ? STORE_TXN_POINT : STORE_TXN_PART, &e), e);
		if (i % 10 == 4)
			settle(s);
	}
	model_wait_applied(s);
	crash();
	compare_copy(&m, NULL);
	model_compare_all(&m, s);
	store_close(s);
	model_fini(&m);
}
END_TEST

START_TEST(what_was_given_up_stays_so)
{
	struct err e = ERR_INIT;
	struct store *s = created();

	for (uint32_t tag = 1; tag <= 10; tag++) {
		point(s, tag, 3, tag);
		if (tag == 5)
			settle(s);
	}
	settle(s);
	prune(s, 10, 3, 0);
	crash();
	store_close(s);
	s = store_open(copy, NULL, &e);
	ck_assert_msg(s != NULL, "%s", e.text);
	ck_assert_uint_eq(points_of(s), 3);
	OK(store_verify(s, NULL, NULL, &e), e);
	store_close(s);
}
END_TEST

/* A point that was given up before it was applied comes back in a crash: then it is what it was. */
START_TEST(a_point_given_up_early_comes_back_whole)
{
	struct err e = ERR_INIT;
	struct model m;
	struct store *s = created();

	model_init(&m, (uint64_t)_i + 20);
	OK(model_txn(&m, s, STORE_TXN_PART, &e), e);
	settle(s);
	full = true;
	OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
	const struct model_state early = m.now;
	OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
	free(m.points[0]);
	m.points[0] = m.points[1];
	m.n_points = 1;
	OK(store_prune(s, model_keep, &m, &e), e);
	full = false;
	for (int i = 0; i < 4; i++) {
		OK(model_txn(&m, s, i == 1 ? STORE_TXN_POINT : STORE_TXN_PART, &e), e);
		OK(store_prune(s, model_keep, &m, &e), e);
	}
	model_wait_applied(s);
	crash();
	compare_copy(&m, &early);
	store_close(s);
	model_fini(&m);
}
END_TEST

/* What a VM is given to write to: opening the store again leaves it alone. */
START_TEST(a_head_that_is_given_away_is_left_alone)
{
	struct err e = ERR_INIT;
	uint8_t mark[STORE_BLOCK], now[STORE_BLOCK];
	struct store *s = created();

	for (uint32_t tag = 1; tag <= 3; tag++)
		point(s, tag, 3, tag);
	model_wait_applied(s);
	struct store_view *v = store_view_open(s, 0, &e);
	ck_assert_msg(v != NULL, "%s", e.text);
	MEM_AUTO char *path = store_view_head_path(v, 0, &e);
	ck_assert_msg(path != NULL, "%s", e.text);
	store_view_close(v);
	crash();
	store_close(s);
	MEM_AUTO char *copied = mem_printf("%s%s", copy, path + strlen(dir));
	const int fd = open(copied, O_RDWR | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	memset(mark, 0xee, sizeof(mark));
	ck_assert_int_eq(kernel.pwrite(fd, mark, sizeof(mark), 3 * STORE_BLOCK), sizeof(mark));
	s = store_open(copy, NULL, &e);
	ck_assert_msg(s != NULL, "%s", e.text);
	settle(s);
	store_close(s);
	ck_assert_int_eq(pread(fd, now, sizeof(now), 3 * STORE_BLOCK), sizeof(now));
	ck_assert_mem_eq(now, mark, sizeof(mark));
	close(fd);
}
END_TEST

/* ---- format 1 ---- */

static json_t *read_json(const char *name, size_t skip)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *path = mem_printf("%s/%s", dir, name);
	size_t len = 0;
	MEM_AUTO char *text = file_read_all(path, 1 << 20, &len, &e);

	ck_assert_msg(text != NULL, "%s", e.text);
	const char *end = memchr(text, '\n', len);
	ck_assert_ptr_nonnull(end);
	json_t *j = json_loadb(text + skip, (size_t)(end - text) - skip, 0, NULL);
	ck_assert_ptr_nonnull(j);
	return j;
}

static void seal_json(const char *name, json_t *j)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *path = mem_printf("%s/%s", dir, name);
	char *line = json_dumps(j, JSON_COMPACT);
	MEM_AUTO char *text = mem_printf("%s\n#xxh3 %016" PRIx64 "\n", line, (uint64_t)XXH3_64bits(line, strlen(line)));

	OK(file_write_durable(path, text, strlen(text), 0600, &e), e);
	free(line);
	json_decref(j);
}

/* A line that the full disk cut short, and still no room for another: what is there can be read, and written to once there is room. */
START_TEST(a_torn_catalogue_on_a_full_disk)
{
	struct err e = ERR_INIT;
	struct store *s = created();

	point(s, 1, 3, 1);
	point(s, 4, 3, 2);
	store_close(s);
	MEM_AUTO char *log = mem_printf("%s/catalogue.log", dir);
	const int fd = open(log, O_WRONLY | O_APPEND | O_CLOEXEC);
	ck_assert_int_eq(write(fd, "0123456789abcdef {\"app", 22), 22);
	close(fd);
	no_catalogue = true;
	for (int i = 0; i < 2; i++) {
		s = store_open(dir, NULL, &e);
		ck_assert_msg(s != NULL, "%s", e.text);
		ck_assert(!err_is_set(&e));
		ck_assert_uint_eq(points_of(s), 2);
		OK(store_verify(s, NULL, NULL, &e), e);
		store_close(s);
	}
	no_catalogue = false;
	s = store_open(dir, NULL, &e);
	ck_assert_msg(s != NULL, "%s", e.text);
	point(s, 8, 3, 3);
	store_close(s);
	s = store_open(dir, NULL, &e);
	ck_assert_uint_eq(points_of(s), 3);
	store_close(s);
}
END_TEST

/* The closed store as a vmferry of then would have left it. */
static void make_format_1(bool interrupted)
{
	json_t *vm = read_json("vm.json", 0), *catalogue = read_json("catalogue.log", 17);
	MEM_AUTO char *log = mem_printf("%s/catalogue.log", dir);

	json_object_set_new(vm, "format", json_integer(1));
	json_object_set_new(catalogue, "format", json_integer(1));
	json_object_del(catalogue, "salt");
	seal_json("vm.json", vm);
	seal_json("catalogue.json", catalogue);
	ck_assert_int_eq(interrupted ? truncate(log, 100) : unlink(log), 0);
}

START_TEST(a_store_of_format_1_is_converted)
{
	struct err e = ERR_INIT;
	struct model m;
	struct store *s = created();

	model_init(&m, 3);
	for (int i = 0; i < 6; i++)
		OK(model_txn(&m, s, i == 2 ? STORE_TXN_PART : STORE_TXN_POINT, &e), e);
	store_close(s);
	make_format_1(_i == 1);
	for (int i = 0; i < 2; i++) {
		s = store_open(dir, NULL, &e);
		ck_assert_msg(s != NULL, "%s", e.text);
		model_compare_all(&m, s);
		OK(store_verify(s, NULL, NULL, &e), e);
		OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
		store_close(s);
	}
	json_t *vm = read_json("vm.json", 0);
	ck_assert_int_eq(json_integer_value(json_object_get(vm, "format")), 2);
	json_decref(vm);
	MEM_AUTO char *old = mem_printf("%s/catalogue.json", dir);
	ck_assert_int_ne(access(old, F_OK), 0);
	model_fini(&m);
}
END_TEST

/* A transaction is half in the heads, and there is no room for the rest: all that is whole is verified, and damage is found. */
START_TEST(verified_while_it_waits_for_space)
{
	struct err e = ERR_INIT;
	struct store *s = created();

	point(s, 0, 200, 1);
	point(s, 3, 200, 2);
	settle(s);
	head_writes = 3; /* then it is full */
	full = true;
	point(s, 5, 200, 3);
	ck_assert_int_eq(store_settle(s, clock_mono_ns() + 20 * NS_PER_S, &e), -1);
	ck_assert_int_eq(e.errnum, ENOSPC);
	ck_assert_int_le(head_writes, 0);
	OK(store_verify(s, NULL, NULL, &e), e);
	/* Of a block that it does not touch; and of its own, once they are there. */
	MEM_AUTO char *head = mem_printf("%s/heads/00000001.raw", dir);
	const int fd = open(head, O_RDWR | O_CLOEXEC);
	char was = 0;
	ck_assert_int_eq(pread(fd, &was, 1, (3 + 7) * STORE_BLOCK), 1);
	const char other = (char)(was + 1);
	ck_assert_int_eq(pwrite(fd, &other, 1, (3 + 7) * STORE_BLOCK), 1);
	ck_assert_int_eq(store_verify(s, NULL, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	ck_assert_int_eq(pwrite(fd, &was, 1, (3 + 7) * STORE_BLOCK), 1);
	full = false;
	settle(s);
	OK(store_verify(s, NULL, NULL, &e), e);
	ck_assert_int_eq(pwrite(fd, &other, 1, (5 + 7) * STORE_BLOCK), 1);
	ck_assert_int_eq(store_verify(s, NULL, NULL, &e), -1);
	close(fd);
	store_close(s);
}
END_TEST

static int format_in(const char *folder)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *path = mem_printf("%s/vm.json", folder);
	MEM_AUTO char *text = file_read_all(path, 1 << 20, NULL, &e);

	ck_assert_msg(text != NULL, "%s", e.text);
	return strstr(text, "\"format\":1") ? 1 : strstr(text, "\"format\":2") ? 2 : 0;
}

/* There is no room for what would convert it: it is opened, read, verified and written to all the same, and loses nothing in a crash. */
START_TEST(a_store_of_format_1_on_a_full_disk)
{
	struct err e = ERR_INIT;
	struct model m;
	struct store *s = created();

	model_init(&m, 5);
	for (int i = 0; i < 6; i++)
		OK(model_txn(&m, s, i == 2 ? STORE_TXN_PART : STORE_TXN_POINT, &e), e);
	store_close(s);
	make_format_1(false);
	no_catalogue = _i == 0;
	no_vm = _i == 1;
	for (int i = 0; i < 2; i++) {
		s = store_open(dir, NULL, &e);
		ck_assert_msg(s != NULL, "%s", e.text);
		ck_assert(!err_is_set(&e));
		model_compare_all(&m, s);
		OK(store_verify(s, NULL, NULL, &e), e);
		OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
		model_wait_applied(s);
		crash();
		store_close(s);
		ck_assert_int_eq(format_in(dir), 1);
		compare_copy(&m, NULL);
		ck_assert_int_eq(format_in(copy), 1);
	}
	s = store_open(dir, NULL, &e);
	ck_assert_msg(s != NULL, "%s", e.text);
	OK(model_txn(&m, s, STORE_TXN_POINT, &e), e);
	ck_assert_int_eq(store_settle(s, clock_mono_ns() + 100 * NS_PER_MS, &e), -1);
	ck_assert_int_eq(e.errnum, ENOSPC);
	/* Now there is: the next checkpoint does it. */
	no_catalogue = no_vm = false;
	settle(s);
	ck_assert_int_eq(format_in(dir), 2);
	crash();
	compare_copy(&m, NULL);
	store_close(s);
	MEM_AUTO char *old = mem_printf("%s/catalogue.json", dir);
	ck_assert_int_ne(access(old, F_OK), 0);
	model_fini(&m);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("store points");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, a_point_costs_the_same_however_many_are_kept);
	tcase_add_test(t, pruning_keeps_up);
	tcase_add_test(t, before_images_are_merged_cheaply);
	tcase_add_loop_test(t, what_is_applied_and_not_saved, 0, 4);
	tcase_add_test(t, a_torn_catalogue_on_a_full_disk);
	tcase_add_test(t, verified_while_it_waits_for_space);
	tcase_add_test(t, what_was_given_up_stays_so);
	tcase_add_test(t, a_head_that_is_given_away_is_left_alone);
	tcase_add_loop_test(t, a_point_given_up_early_comes_back_whole, 0, 8);
	tcase_add_loop_test(t, a_store_of_format_1_is_converted, 0, 2);
	tcase_add_loop_test(t, a_store_of_format_1_on_a_full_disk, 0, 2);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
