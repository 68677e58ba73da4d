/* The FIFO as libvirt reads it: once (up to 11.1), or metadata first and then everything. */
#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/thread.h"
#include "migrator/restore_fifo.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD 700u
#define STREAM ((size_t)5 << 20)

static char dir[64];
static uint8_t head[HEAD], *stream;

struct reader {
	pthread_t thread;
	const char *path;
	unsigned opens;     /* how often it opens the file */
	size_t take;        /* of the stream, then it goes */
	useconds_t between; /* opens */
	size_t got;
	bool right;
	atomic_bool over;
};

static bool read_head(int fd)
{
	uint8_t have[HEAD];
	return fd_read_full(fd, have, sizeof(have), &(struct err)ERR_INIT) == 0 && memcmp(have, head, HEAD) == 0;
}

static void *reader_main(void *arg)
{
	struct reader *r = arg;
	int fd = -1;

	r->right = true;
	for (unsigned i = 0; i < r->opens; i++) {
		fd_close(&fd);
		if (i > 0)
			usleep(r->between);
		fd = open(r->path, O_RDONLY | O_CLOEXEC);
		r->right = r->right && fd >= 0 && read_head(fd);
	}
	MEM_AUTO uint8_t *have = mem_alloc(STREAM);
	while (r->got < r->take) {
		ssize_t n = read(fd, have, r->take - r->got);
		if (n <= 0)
			break;
		r->right = r->right && memcmp(have, stream + r->got, (size_t)n) == 0;
		r->got += (size_t)n;
	}
	if (r->take == STREAM) /* as QEMU does: reads until the end */
		r->right = r->right && read(fd, have, 1) == 0;
	fd_close(&fd);
	r->over = true;
	return NULL;
}

static bool over(void *ctx)
{
	return ((struct reader *)ctx)->over;
}

static void setup(void)
{
	strcpy(dir, "/tmp/restore-fifo-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	for (size_t i = 0; i < HEAD; i++)
		head[i] = (uint8_t)(i * 7);
	stream = mem_alloc(STREAM);
	for (size_t i = 0; i < STREAM; i++)
		stream[i] = (uint8_t)(i * 2654435761u >> 13);
}

static void teardown(void)
{
	free(stream);
	ck_assert_int_eq(rmdir(dir), 0); /* nothing is left in it */
}

static int feed(struct restore_fifo *f, bool likely, struct err *e)
{
	if (restore_fifo_head(f, head, HEAD, likely, e) < 0)
		return -1;
	for (size_t at = 0; at < STREAM; at += 65536)
		if (restore_fifo_write(f, stream + at, 65536, e) < 0)
			return -1;
	return restore_fifo_drained(f, e);
}

static void whole(unsigned opens, useconds_t between, bool likely)
{
	struct err e = ERR_INIT;
	struct restore_fifo *f = restore_fifo_new(dir, NULL, &e);
	ck_assert_msg(f != NULL, "%s", e.text);
	struct reader r = { .path = restore_fifo_path(f), .opens = opens, .take = STREAM, .between = between };
	restore_fifo_watch(f, over, &r, NULL, clock_mono_ns() + 20 * NS_PER_S);
	ck_assert_int_eq(thread_start(&r.thread, "reader", reader_main, &r, &e), 0);
	ck_assert_msg(feed(f, likely, &e) == 0, "%s", e.text);
	pthread_join(r.thread, NULL);
	ck_assert(r.right);
	ck_assert_uint_eq(r.got, STREAM);
	ck_assert_int_gt(restore_fifo_opened_ns(f), 0);
	restore_fifo_free(f);
}

START_TEST(opened_once)
{
	whole(1, 0, false);
}
END_TEST

START_TEST(opened_twice)
{
	whole(2, 0, true);
	whole(2, 100000, true);
}
END_TEST

START_TEST(reader_gives_up)
{
	struct err e = ERR_INIT;
	struct restore_fifo *f = restore_fifo_new(dir, NULL, &e);
	struct reader r = { .path = restore_fifo_path(f), .opens = 1, .take = 100000 };
	restore_fifo_watch(f, over, &r, NULL, clock_mono_ns() + 20 * NS_PER_S);
	ck_assert_int_eq(thread_start(&r.thread, "reader", reader_main, &r, &e), 0);
	ck_assert_int_eq(feed(f, false, &e), -1);
	ck_assert_int_eq(e.cls, ERR_LIBVIRT);
	ck_assert(restore_fifo_ended_early(f));
	pthread_join(r.thread, NULL);
	restore_fifo_free(f);
}
END_TEST

START_TEST(nobody_comes)
{
	struct err e = ERR_INIT;
	struct restore_fifo *f = restore_fifo_new(dir, NULL, &e);
	restore_fifo_watch(f, NULL, NULL, NULL, clock_mono_ns() + 100 * NS_PER_MS);
	ck_assert_int_eq(restore_fifo_head(f, head, HEAD, false, &e), -1);
	ck_assert_int_eq(e.errnum, ETIMEDOUT);
	volatile bool cancel = true;
	restore_fifo_watch(f, NULL, NULL, &cancel, INT64_MAX);
	ck_assert_int_eq(restore_fifo_drained(f, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CANCELLED);
	restore_fifo_free(f);
}
END_TEST

static void *open_and_read(void *arg)
{
	char c;
	int fd = open(arg, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, &c, 1);
	close(fd);
	return n == 0 ? arg : NULL;
}

/* Who waits to open it after we have given up is freed, and sees an end. */
START_TEST(late_opener)
{
	struct err e = ERR_INIT;
	struct restore_fifo *f = restore_fifo_new(dir, NULL, &e);
	pthread_t t;
	void *result = NULL;
	restore_fifo_end(f);
	MEM_AUTO char *path = mem_strdup(restore_fifo_path(f));
	ck_assert_int_eq(thread_start(&t, "late", open_and_read, path, &e), 0);
	for (int i = 0; i < 200; i++) {
		restore_fifo_end(f);
		if (pthread_tryjoin_np(t, &result) == 0)
			break;
		usleep(5000);
	}
	ck_assert_ptr_eq(result, path);
	restore_fifo_free(f);
}
END_TEST

START_TEST(left_behind)
{
	MEM_AUTO char *folder = mem_printf("%s/restore-0123", dir);
	MEM_AUTO char *path = mem_printf("%s/state", folder);
	ck_assert_int_eq(mkdir(folder, 0700), 0);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	restore_fifo_clean_up(dir);
	ck_assert_int_ne(access(folder, F_OK), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("migrator/restore_fifo");
	TCase *tc = tcase_create("fifo");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, opened_once);
	tcase_add_test(tc, opened_twice);
	tcase_add_test(tc, reader_gives_up);
	tcase_add_test(tc, nobody_comes);
	tcase_add_test(tc, late_opener);
	tcase_add_test(tc, left_behind);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
