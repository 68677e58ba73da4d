/*
 * Durable writes when the n-th call of each system call fails, writes short, is interrupted, or is the last thing the process
 * does: the old file stays whole or the new one is whole, no temporary file and no descriptor is left behind.
 */
#include "base/file.h"

#include "base/mem.h"
#include "base/sys.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OLD "the old content"
#define NEW "what is to replace it, somewhat longer"

static char dir[64], path[96];
static struct sys_calls kernel;

enum call { OPEN, READ, WRITE, FSYNC, RENAME, UNLINK, CLOSE, CALL_COUNT };
static const char *const call_names[] = { "open", "read", "write", "fsync", "rename", "unlink", "close" };

/* What is to happen, and what has. */
static struct {
	enum call call;
	int nth;     /* of that call; 0: never */
	int errnum;  /* 0: the process ends there */
	bool any;    /* count every call, not only `call` */
	bool always; /* from the n-th on */
	int seen;
	bool fired;
	bool fired_on_folder; /* it was an fsync of a folder */
} plan;

static bool fails(enum call call, int fd)
{
	struct stat st;

	if (!plan.any && call != plan.call)
		return false;
	plan.seen++;
	if (plan.always ? plan.seen < plan.nth : plan.seen != plan.nth)
		return false;
	if (plan.errnum == 0)
		_exit(0);
	plan.fired = true;
	plan.fired_on_folder = call == FSYNC && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
	errno = plan.errnum;
	return true;
}

static int faulty_open(const char *p, int flags, mode_t mode)
{
	return fails(OPEN, -1) ? -1 : kernel.open(p, flags, mode);
}
static ssize_t faulty_read(int fd, void *buf, size_t n)
{
	return fails(READ, fd) ? -1 : kernel.read(fd, buf, n);
}
/* Seven bytes at a time, so that there is a middle to fail in. */
static ssize_t faulty_write(int fd, const void *buf, size_t n)
{
	return fails(WRITE, fd) ? -1 : kernel.write(fd, buf, n < 7 ? n : 7);
}
static int faulty_fsync(int fd)
{
	return fails(FSYNC, fd) ? -1 : kernel.fsync(fd);
}
static int faulty_rename(const char *from, const char *to)
{
	return fails(RENAME, -1) ? -1 : kernel.rename(from, to);
}
static int faulty_unlink(const char *p)
{
	return fails(UNLINK, -1) ? -1 : kernel.unlink(p);
}
/* Like the kernel's: the descriptor is gone even if an error is returned. */
static int faulty_close(int fd)
{
	const bool failing = fails(CLOSE, fd);
	const int saved = errno;
	const int rc = kernel.close(fd);

	errno = failing ? saved : errno;
	return failing ? -1 : rc;
}

static void set_up(void)
{
	kernel = sys;
	strcpy(dir, "/tmp/test_faults_XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/state.json", dir);
}

static void tear_down(void)
{
	sys = kernel;
	MEM_AUTO char *command = mem_printf("rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

static void arm(enum call call, int nth, int errnum)
{
	memset(&plan, 0, sizeof(plan));
	plan.call = call;
	plan.nth = nth;
	plan.errnum = errnum;
	sys = kernel;
	sys.open = faulty_open;
	sys.read = faulty_read;
	sys.write = faulty_write;
	sys.fsync = faulty_fsync;
	sys.rename = faulty_rename;
	sys.unlink = faulty_unlink;
	sys.close = faulty_close;
}

static void disarm(void)
{
	sys = kernel;
}

static int count_in(const char *folder)
{
	DIR *d = opendir(folder);
	int n = 0;

	ck_assert_ptr_nonnull(d);
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;)
		n += entry->d_name[0] != '.';
	closedir(d);
	return n;
}

static void put_old(void)
{
	struct err e = ERR_INIT;

	disarm();
	ck_assert_msg(file_write_durable(path, OLD, strlen(OLD), 0600, &e) == 0, "%s", e.text);
}

static char *content(void)
{
	struct err e = ERR_INIT;
	char *data = file_read_all(path, 1000, NULL, &e);

	ck_assert_msg(data != NULL, "%s", e.text);
	return data;
}

/* One failing call; returns whether it came to that. */
static bool write_failing(enum call call, int nth, int errnum)
{
	struct err e = ERR_INIT;

	put_old();
	const int fds = count_in("/proc/self/fd");
	arm(call, nth, errnum);
	const int rc = file_write_durable(path, NEW, strlen(NEW), 0600, &e);
	disarm();
	MEM_AUTO char *now = content();
	const char *want = rc == 0 || plan.fired_on_folder ? NEW : OLD;

	ck_assert_msg(strcmp(now, want) == 0, "%s %d: rc %d, content '%s'", call_names[call], nth, rc, now);
	ck_assert_msg(count_in(dir) == 1, "%s %d: a temporary file was left", call_names[call], nth);
	ck_assert_msg(count_in("/proc/self/fd") == fds, "%s %d: a descriptor was left", call_names[call], nth);
	if (rc == 0) {
		/* Of the folder's descriptor, after everything was synced: nothing was lost by it. */
		ck_assert_msg(!plan.fired || call == CLOSE || errnum == EINTR, "%s %d: not told", call_names[call], nth);
	} else {
		ck_assert_int_eq(e.cls, ERR_SYS);
		ck_assert_int_eq(e.errnum, errnum);
		ck_assert_ptr_nonnull(strstr(e.text, dir));
		ck_assert_msg(!plan.fired_on_folder || strstr(e.text, "sync its folder"), "%s", e.text);
	}
	return plan.fired;
}

static int walk(enum call call, int errnum)
{
	int nth = 1;

	while (nth < 100 && write_failing(call, nth, errnum))
		nth++;
	return nth - 1;
}

START_TEST(the_nth_call_of_each_fails)
{
	/* The numbers say that the walk met what it is for, and that nobody dropped an fsync. */
	ck_assert_int_eq(walk(OPEN, EMFILE), 2);
	ck_assert_int_eq(walk(WRITE, ENOSPC), 6);
	ck_assert_int_eq(walk(FSYNC, EIO), 2);
	ck_assert_int_eq(walk(RENAME, EACCES), 1);
	ck_assert_int_eq(walk(CLOSE, EIO), 2);
	ck_assert_int_eq(walk(UNLINK, EIO), 0);
}
END_TEST

START_TEST(interruptions_are_no_failures)
{
	ck_assert_int_eq(walk(OPEN, EINTR), 2);
	ck_assert_int_eq(walk(WRITE, EINTR), 6);
}
END_TEST

START_TEST(a_folder_that_cannot_be_opened_changes_nothing)
{
	struct err e = ERR_INIT;

	put_old();
	arm(OPEN, 1, EIO);
	plan.always = true;
	ck_assert_int_eq(file_write_durable(path, NEW, strlen(NEW), 0600, &e), -1);
	ck_assert_int_eq(file_sync_folder_of(path, &e), -1);
	disarm();
	MEM_AUTO char *now = content();
	ck_assert_str_eq(now, OLD);
}
END_TEST

START_TEST(a_new_file_is_whole_or_absent)
{
	static const enum call calls[] = { OPEN, WRITE, FSYNC, RENAME };

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		for (int nth = 1;; nth++) {
			struct err e = ERR_INIT;
			unlink(path);
			arm(calls[i], nth, EIO);
			const int rc = file_write_durable(path, NEW, strlen(NEW), 0600, &e);
			disarm();
			if (!plan.fired)
				break;
			ck_assert_int_eq(rc, -1);
			ck_assert_int_eq(count_in(dir), plan.fired_on_folder ? 1 : 0);
		}
	}
}
END_TEST

/* Before every call in turn the process ends, as by SIGKILL. */
START_TEST(a_process_that_dies_leaves_the_old_or_the_new)
{
	bool finished = false;
	int deaths = 0;

	for (int nth = 1; nth < 100 && !finished; nth++) {
		struct err e = ERR_INIT;
		int status = 0;
		put_old();
		const pid_t pid = fork();
		ck_assert_int_ge(pid, 0);
		if (pid == 0) {
			arm(OPEN, nth, 0);
			plan.any = true;
			_exit(file_write_durable(path, NEW, strlen(NEW), 0600, &e) == 0 ? 42 : 1);
		}
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert(WIFEXITED(status));
		ck_assert_int_ne(WEXITSTATUS(status), 1);
		finished = WEXITSTATUS(status) == 42;
		deaths += !finished;
		MEM_AUTO char *now = content();
		ck_assert_msg(strcmp(now, NEW) == 0 || (!finished && strcmp(now, OLD) == 0), "call %d: '%s'", nth, now);
	}
	ck_assert(finished);
	ck_assert_int_ge(deaths, 12);
}
END_TEST

START_TEST(reading_fails_cleanly)
{
	put_old();
	for (int call = OPEN; call <= READ; call++) {
		for (int nth = 1;; nth++) {
			struct err e = ERR_INIT;
			size_t len = 77;
			const int fds = count_in("/proc/self/fd");
			arm((enum call)call, nth, EIO);
			MEM_AUTO char *data = file_read_all(path, 1000, &len, &e);
			disarm();
			ck_assert_int_eq(count_in("/proc/self/fd"), fds);
			if (!plan.fired) {
				ck_assert_int_gt(nth, 1);
				ck_assert_str_eq(data, OLD);
				break;
			}
			ck_assert_ptr_null(data);
			ck_assert_uint_eq(len, 77);
			ck_assert_int_eq(e.errnum, EIO);
			ck_assert_ptr_nonnull(strstr(e.text, path));
		}
	}
}
END_TEST

START_TEST(removal_that_is_not_durable_is_told)
{
	struct err e = ERR_INIT;

	put_old();
	arm(UNLINK, 1, EACCES);
	ck_assert_int_eq(file_remove_durable(path, &e), -1);
	disarm();
	ck_assert_int_eq(access(path, F_OK), 0);
	arm(FSYNC, 1, EIO);
	ck_assert_int_eq(file_remove_durable(path, &e), -1);
	disarm();
	ck_assert_int_eq(e.errnum, EIO);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("file_faults");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, the_nth_call_of_each_fails);
	tcase_add_test(t, interruptions_are_no_failures);
	tcase_add_test(t, a_folder_that_cannot_be_opened_changes_nothing);
	tcase_add_test(t, a_new_file_is_whole_or_absent);
	tcase_add_test(t, a_process_that_dies_leaves_the_old_or_the_new);
	tcase_add_test(t, reading_fails_cleanly);
	tcase_add_test(t, removal_that_is_not_durable_is_told);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
