/* Issuing with the n-th system call failing, for every n: an error each time, and never half of a pair. */
#include "tests/unit/transport_fixture.h"

#include "base/sys.h"

#include <errno.h>

static struct sys_calls real;
static int left; /* calls until the one that fails; negative: none will */

static bool fails_now(void)
{
	if (left < 0 || left-- > 0)
		return false;
	errno = ENOSPC;
	return true;
}

static int f_open(const char *path, int flags, mode_t mode)
{
	return fails_now() ? -1 : real.open(path, flags, mode);
}

static ssize_t f_write(int fd, const void *buf, size_t n)
{
	return fails_now() ? -1 : real.write(fd, buf, n);
}

static int f_fsync(int fd)
{
	return fails_now() ? -1 : real.fsync(fd);
}

static int f_rename(const char *from, const char *to)
{
	return fails_now() ? -1 : real.rename(from, to);
}

static void setup(void)
{
	fixture_start();
	real = sys;
	left = -1;
	sys.open = f_open;
	sys.write = f_write;
	sys.fsync = f_fsync;
	sys.rename = f_rename;
}

static bool there(const char *folder, const char *file)
{
	return access(fixture_path(folder, file), F_OK) == 0;
}

static void expect_nothing(const char *folder, const char *key, const char *cert, int n)
{
	ck_assert_msg(!there(folder, key), "call %d: %s is there", n, key);
	ck_assert_msg(!there(folder, cert), "call %d: %s is there", n, cert);
}

START_TEST(init)
{
	int n = 0;

	for (;; n++) {
		char folder[16];
		struct err e = ERR_INIT;

		snprintf(folder, sizeof(folder), "ca%d", n);
		left = n;
		const int rc = pki_init(fixture_path(folder, NULL), "x", &e);
		const bool failed = left < 0;
		left = -1;
		ck_assert_msg((rc < 0) == failed, "call %d: %s", n, e.text);
		if (!failed)
			break;
		ck_assert_int_eq(e.errnum, ENOSPC);
		expect_nothing(folder, "ca.key", "ca.pem", n);
	}
	ck_assert_int_ge(n, 8); /* two files: open, write, fsync, rename, and their folder's fsync */
}
END_TEST

START_TEST(issue)
{
	int n = 0;

	fixture_ca("ca");
	for (;; n++) {
		char folder[16];
		struct err e = ERR_INIT;

		snprintf(folder, sizeof(folder), "h%d", n);
		const struct pki_issue_opts o = { .ca_dir = fixture_path("ca", NULL),
						  .host = "host1",
						  .out_dir = fixture_path(folder, NULL) };
		left = n;
		const int rc = pki_issue(&o, &e);
		const bool failed = left < 0;
		left = -1;
		ck_assert_msg((rc < 0) == failed, "call %d: %s", n, e.text);
		if (!failed)
			break;
		ck_assert_int_eq(e.cls, ERR_SYS);
		ck_assert_int_eq(e.errnum, ENOSPC);
		expect_nothing(folder, "host.key", "host.pem", n);
		/* And what is left is no obstacle. */
		const struct pki_issue_opts again = { .ca_dir = o.ca_dir, .host = "host1", .out_dir = o.out_dir };
		err_clear(&e);
		OK(pki_issue(&again, &e), e);
	}
	ck_assert_int_ge(n, 12);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pki under faults");
	TCase *t = tcase_create("pki");

	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, fixture_clean);
	tcase_add_test(t, init);
	tcase_add_test(t, issue);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
