/* Images that a peer names: which of them are opened, and what comes of those into a store. */
#include "base/fd.h"
#include "base/file.h"
#include "base/mem.h"
#include "replicator/adoption_fill.h"
#include "replicator/seed_image.h"

#include <check.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define OK(x, e) ck_assert_msg((x) == 0, "%s", (e).text)
#define HAS(text, part) ck_assert_msg(strstr(text, part) != NULL, "'%s' has no '%s'", text, part)
#define SIZE (UINT64_C(1) << 20)

static char dir[64], given[80];
static char *folders[] = { given };

static void run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *fmt, ...)
{
	char command[1000];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	ck_assert_int_eq(system(command), 0);
}

static void setup(void)
{
	strcpy(dir, "/var/tmp/vmferry-seed-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(given, sizeof(given), "%s/given", dir);
	run("mkdir %s/given %s/given/below %s/given-not && cd %s/given && head -c 1M /dev/urandom >a.raw && cp a.raw "
	    "../given-not/b.raw && "
	    "qemu-img convert -O qcow2 a.raw a.qcow2",
	    dir, dir, dir, dir);
}

static void teardown(void)
{
	run("rm -rf %s", dir);
}

static int open_it(const char *name, struct seed_image *out, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/%s", dir, name);

	err_clear(e);
	return seed_image_open(path, folders, 1, SIZE, out, e);
}

static void assert_refused(const char *name, const char *why)
{
	struct seed_image s = { 0 };
	struct err e = ERR_INIT;

	ck_assert_msg(open_it(name, &s, &e) < 0, "%s was opened", name);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, why);
	ck_assert_ptr_null(s.path);
}

static void assert_opens(const char *name, const char *format)
{
	struct seed_image s = { 0 };
	struct err e = ERR_INIT;

	OK(open_it(name, &s, &e), e);
	ck_assert_str_eq(s.format, format);
	seed_image_close(&s);
}

START_TEST(only_in_folders_that_are_given_out)
{
	struct seed_image s = { 0 };
	struct err e = ERR_INIT;

	run("cd %s && cp given/a.raw given/below/ && ln -s ../given-not/b.raw given/out.raw && ln -s given/a.raw "
	    "in.raw && ln -s ../given-not "
	    "given/way && mkfifo given/fifo",
	    dir);
	assert_opens("given/a.raw", "raw");
	assert_opens("given/a.qcow2", "qcow2");
	assert_opens("given/below/a.raw", "raw");
	assert_opens("in.raw", "raw");
	assert_refused("given-not/b.raw", "in no folder that is given out");
	assert_refused("given/out.raw", "in no folder");
	assert_refused("given/way/b.raw", "in no folder");
	assert_refused("given/../given-not/b.raw", "not the absolute path");
	assert_refused("given", "in no folder");
	assert_refused("given/below", "neither a regular file");
	assert_refused("given/fifo", "neither a regular file");
	assert_refused("given/none.raw", "No such file");
	/* Not even whether it is there. */
	assert_refused("given-not/none.raw", "in no folder");
	ck_assert_int_eq(seed_image_open("a.raw", folders, 1, SIZE, &s, &e), -1);
	err_clear(&e);
	ck_assert_int_eq(seed_image_open("/dev/null", folders, 1, SIZE, &s, &e), -1);
	HAS(e.text, "in no folder");
	HAS(e.remedy, "replication.seed_folders");
	/* The folder itself may be reached by a link, and have a slash too many. */
	run("ln -s given %s/link", dir);
	MEM_AUTO char *link = mem_printf("%s/link/", dir), *path = mem_printf("%s/given/a.raw", dir);
	char *one[] = { link };
	err_clear(&e);
	OK(seed_image_open(path, one, 1, SIZE, &s, &e), e);
	seed_image_close(&s);
	/* None is given out. */
	ck_assert_int_eq(seed_image_open(path, NULL, 0, SIZE, &s, &e), -1);
	HAS(e.text, "in no folder");
}
END_TEST

/* A guest can have written whatever header it likes. */
START_TEST(nothing_else_is_read_through_it)
{
	run("cd %s/given && qemu-img create -q -f qcow2 -b ../given-not/b.raw -F raw backed.qcow2 1M && "
	    "qemu-img create -q -f qcow2 -o data_file=%s/given-not/b.raw,data_file_raw=on data.qcow2 1M && "
	    "qemu-img create -q -f qcow2 --object secret,id=s,data=x -o encrypt.format=aes,encrypt.key-secret=s "
	    "aes.qcow2 1M && "
	    "head -c 16 a.qcow2 >short.qcow2 && head -c 1M a.qcow2 >cut.qcow2 && cp a.qcow2 new.qcow2 && "
	    "printf '\\4' | dd of=new.qcow2 bs=1 seek=7 conv=notrunc status=none && "
	    /* qemu-img measures how fast LUKS's keys are made, and fails on a machine that is busy: crypt_method alone. */
	    "cp a.qcow2 luks.qcow2 && printf '\\2' | dd of=luks.qcow2 bs=1 seek=35 conv=notrunc status=none",
	    dir, dir);
	assert_refused("given/backed.qcow2", "has a backing file");
	assert_refused("given/data.qcow2", "has its data in another file");
	assert_refused("given/aes.qcow2", "is encrypted");
	assert_refused("given/luks.qcow2", "is encrypted");
	assert_refused("given/short.qcow2", "version that is not known");
	assert_refused("given/new.qcow2", "version that is not known");
	/* Whole is what is not there to be read. */
	run("cd %s/given && qemu-img rebase -u -b '' backed.qcow2", dir);
	assert_opens("given/backed.qcow2", "qcow2");
}
END_TEST

START_TEST(the_size_must_match)
{
	run("cd %s/given && truncate -s 1048577 odd.raw && truncate -s 1M sparse.raw && : >empty.raw && qemu-img "
	    "create -q -f qcow2 large.qcow2 2M",
	    dir);
	assert_refused("given/odd.raw", "the disk of 1048576");
	assert_refused("given/empty.raw", "");
	assert_refused("given/large.qcow2", "is of 2097152 bytes, the disk of 1048576");
	assert_opens("given/sparse.raw", "raw");
}
END_TEST

/* As QEMU locks an image that a VM writes to. */
START_TEST(not_in_use)
{
	struct flock writer = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1 };
	struct seed_image s = { 0 };
	struct err e = ERR_INIT;
	MEM_AUTO char *path = mem_printf("%s/given/a.raw", dir);
	FD_AUTO int fd = open(path, O_RDWR | O_CLOEXEC);

	ck_assert_int_eq(fcntl(fd, F_OFD_SETLK, &writer), 0);
	assert_refused("given/a.raw", "is in use by a QEMU");
	writer.l_type = F_UNLCK;
	ck_assert_int_eq(fcntl(fd, F_OFD_SETLK, &writer), 0);
	OK(open_it("given/a.raw", &s, &e), e);
	/* QEMU's own word: nobody can begin to write to it. */
	MEM_AUTO char *write = mem_printf("qemu-io -f raw -c 'write 0 512' %s >/dev/null 2>&1", path);
	ck_assert_int_ne(system(write), 0);
	seed_image_close(&s);
	ck_assert_int_eq(system(write), 0);
}
END_TEST

/* ---- into a store ---- */

static unsigned told;
static bool on_progress(void *ctx, uint64_t done, uint64_t total)
{
	const bool *stop = ctx;

	ck_assert_uint_le(done, total);
	told++;
	return !*stop;
}

static struct store *store_of(void)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *path = mem_printf("%s/store", dir);
	json_t *vm = json_object();
	struct store *s = store_create(path, &(struct store_opts){ 0 }, vm, &e);

	json_decref(vm);
	ck_assert_msg(s != NULL, "%s", e.text);
	return s;
}

static void assert_same(struct store *s, const char *target, const char *name)
{
	struct err e = ERR_INIT;
	struct store_view *v = store_view_newest(s, &e);
	struct store_volume all[4];
	const size_t n = store_view_volumes(v, all, 4);
	uint8_t *have = mem_alloc(SIZE);
	MEM_AUTO char *path = mem_printf("%s/%s", dir, name);
	size_t len = 0, i = 0;
	MEM_AUTO char *want = file_read_all(path, SIZE, &len, &e);

	while (i < n && strcmp(all[i].name, target) != 0)
		i++;
	ck_assert_uint_lt(i, n);
	ck_assert_uint_eq(all[i].size_bytes, SIZE);
	ck_assert_uint_eq(len, SIZE);
	OK(store_view_read(v, (uint32_t)i, 0, SIZE / STORE_BLOCK, have, NULL, &e), e);
	ck_assert_int_eq(memcmp(have, want, SIZE), 0);
	store_view_close(v);
	free(have);
}

static int fill(struct store *s, const char *target, const char *name, bool *stop, struct err *e)
{
	struct seed_image i = { 0 };

	OK(open_it(name, &i, e), *e);
	const struct adoption_image a = {
		.target = target, .path = i.path, .format = i.format, .name = name, .progress = on_progress, .ctx = stop
	};
	const int rc = adoption_fill_image(s, &a, dir, e);
	seed_image_close(&i);
	return rc;
}

START_TEST(its_contents)
{
	struct store *s = store_of();
	struct err e = ERR_INIT;
	bool stop = false;

	OK(fill(s, "vda", "given/a.qcow2", &stop, &e), e);
	OK(fill(s, "vdb", "given/a.raw", &stop, &e), e);
	assert_same(s, "vda", "given/a.raw");
	assert_same(s, "vdb", "given/a.raw");
	ck_assert_uint_ge(told, 2);
	/* Over what is there: holes too. */
	run("cd %s/given && truncate -s 0 a.raw && truncate -s 1M a.raw && printf x | dd of=a.raw bs=1 seek=5000 "
	    "conv=notrunc status=none",
	    dir);
	OK(fill(s, "vda", "given/a.raw", &stop, &e), e);
	assert_same(s, "vda", "given/a.raw");
	stop = true;
	ck_assert_int_lt(fill(s, "vda", "given/a.qcow2", &stop, &e), 0);
	ck_assert_int_eq(e.cls, ERR_CANCELLED);
	assert_same(s, "vda", "given/a.raw");
	struct store_point *points = NULL;
	size_t n = 9;
	err_clear(&e);
	OK(store_points(s, &points, &n, &e), e);
	ck_assert_uint_eq(n, 0);
	store_points_free(points, n);
	store_close(s);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("seed_image");
	TCase *t = tcase_create("seed_image");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, only_in_folders_that_are_given_out);
	tcase_add_test(t, nothing_else_is_read_through_it);
	tcase_add_test(t, the_size_must_match);
	tcase_add_test(t, not_in_use);
	tcase_add_test(t, its_contents);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	SRunner *r = srunner_create(suite());
	srunner_run_all(r, CK_ENV);
	const int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
