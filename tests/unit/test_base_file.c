/* Small files. What happens when system calls fail is in tests/fault/test_base_file_faults.c. */
#include "base/file.h"

#include "base/mem.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64], path[96];

static void set_up(void)
{
	strcpy(dir, "/tmp/test_file_XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/state.json", dir);
}

static void tear_down(void)
{
	MEM_AUTO char *command = mem_printf("rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

static void content_is(const char *text)
{
	struct err e = ERR_INIT;
	size_t len = 0;
	MEM_AUTO char *data = file_read_all(path, 1 << 20, &len, &e);

	ck_assert_msg(data != NULL, "%s", e.text);
	ck_assert_uint_eq(len, strlen(text));
	ck_assert_str_eq(data, text);
}

START_TEST(written_and_replaced)
{
	struct err e = ERR_INIT;
	struct stat st;

	umask(077);
	ck_assert_msg(file_write_durable(path, "one", 3, 0640, &e) == 0, "%s", e.text);
	content_is("one");
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0640);
	ck_assert_int_eq(file_write_durable(path, "two words", 9, 0600, &e), 0);
	content_is("two words");
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	ck_assert_int_eq(file_write_durable(path, "", 0, 0600, &e), 0);
	content_is("");
}
END_TEST

START_TEST(a_link_is_replaced_not_followed)
{
	struct err e = ERR_INIT;
	struct stat st;
	MEM_AUTO char *victim = mem_printf("%s/victim", dir);

	ck_assert_int_eq(file_write_durable(victim, "mine", 4, 0600, &e), 0);
	ck_assert_int_eq(symlink(victim, path), 0);
	ck_assert_int_eq(file_write_durable(path, "new", 3, 0600, &e), 0);
	ck_assert_int_eq(lstat(path, &st), 0);
	ck_assert(S_ISREG(st.st_mode));
	strcpy(path, victim);
	content_is("mine");
}
END_TEST

START_TEST(missing_folders_are_told)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *deep = mem_printf("%s/no/such", dir);

	ck_assert_int_eq(file_write_durable(deep, "x", 1, 0600, &e), -1);
	ck_assert_int_eq(e.errnum, ENOENT);
	ck_assert_ptr_nonnull(strstr(e.text, "/no"));
	ck_assert_ptr_null(file_read_all(deep, 10, NULL, &e));
	ck_assert_int_eq(e.errnum, ENOENT);
	ck_assert_int_eq(file_sync_folder_of(deep, &e), -1);
	ck_assert_int_eq(file_sync_folder_of(path, &e), 0);
}
END_TEST

START_TEST(reading_is_bounded)
{
	struct err e = ERR_INIT;
	static char big[100000];

	memset(big, 'b', sizeof(big));
	ck_assert_int_eq(file_write_durable(path, big, sizeof(big), 0600, &e), 0);
	size_t len = 0;
	MEM_AUTO char *all = file_read_all(path, sizeof(big), &len, &e);
	ck_assert_msg(all != NULL, "%s", e.text);
	ck_assert_uint_eq(len, sizeof(big));
	ck_assert_int_eq(all[len], '\0');
	ck_assert_int_eq(memcmp(all, big, len), 0);
	ck_assert_ptr_null(file_read_all(path, sizeof(big) - 1, &len, &e));
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_ptr_null(file_read_all("/dev/zero", 1000, &len, &e));
	ck_assert_ptr_null(file_read_all(dir, 1000, &len, &e));
	ck_assert_int_eq(e.errnum, EISDIR);
	/* A file whose size the kernel calls 0. */
	MEM_AUTO char *proc = file_read_all("/proc/self/status", 1 << 20, &len, &e);
	ck_assert_ptr_nonnull(proc);
	ck_assert_uint_gt(len, 0);
}
END_TEST

START_TEST(removal)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *below = mem_printf("%s/x", path);

	ck_assert_int_eq(file_remove_durable(path, &e), 0);
	ck_assert_int_eq(file_write_durable(path, "x", 1, 0600, &e), 0);
	ck_assert_int_eq(file_remove_durable(below, &e), 0);
	ck_assert_int_eq(file_remove_durable(path, &e), 0);
	ck_assert_int_eq(access(path, F_OK), -1);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_eq(file_remove_durable(path, &e), -1);
	ck_assert_ptr_nonnull(strstr(e.text, path));
}
END_TEST

START_TEST(folders_with_their_parents)
{
	struct err e = ERR_INIT;
	struct stat st;
	MEM_AUTO char *a = mem_printf("%s/a", dir);
	MEM_AUTO char *deep = mem_printf("%s/a/b//c/", dir);
	MEM_AUTO char *deeper = mem_printf("%s/a/b/c/d", dir);

	umask(077);
	ck_assert_msg(file_mkdirs(deep, 0751, &e) == 0, "%s", e.text);
	ck_assert_int_eq(stat(deep, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0751);
	ck_assert_int_eq(stat(a, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0751);
	/* What is there keeps its mode. */
	ck_assert_int_eq(file_mkdirs(deeper, 0700, &e), 0);
	ck_assert_int_eq(stat(deep, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0751);
	ck_assert_int_eq(file_mkdirs(deeper, 0700, &e), 0);
	ck_assert_int_eq(file_mkdirs("/", 0700, &e), 0);
}
END_TEST

START_TEST(folders_where_a_file_is)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *below = mem_printf("%s/x", path);

	ck_assert_int_eq(file_write_durable(path, "x", 1, 0600, &e), 0);
	ck_assert_int_eq(file_mkdirs(path, 0700, &e), -1);
	ck_assert_int_eq(e.errnum, ENOTDIR);
	ck_assert_int_eq(file_mkdirs(below, 0700, &e), -1);
	ck_assert_int_eq(e.errnum, ENOTDIR);
	ck_assert_int_eq(file_mkdirs("/proc/vmferry/x", 0700, &e), -1);
}
END_TEST

START_TEST(names_without_a_folder)
{
	struct err e = ERR_INIT;

	ck_assert_int_eq(chdir(dir), 0);
	ck_assert_msg(file_write_durable("state.json", "here", 4, 0600, &e) == 0, "%s", e.text);
	content_is("here");
	ck_assert_int_eq(file_mkdirs("rel/ative", 0700, &e), 0);
	ck_assert_int_eq(file_remove_durable("state.json", &e), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("file");
	TCase *t = tcase_create("all");
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, written_and_replaced);
	tcase_add_test(t, a_link_is_replaced_not_followed);
	tcase_add_test(t, missing_folders_are_told);
	tcase_add_test(t, reading_is_bounded);
	tcase_add_test(t, removal);
	tcase_add_test(t, folders_with_their_parents);
	tcase_add_test(t, folders_where_a_file_is);
	tcase_add_test(t, names_without_a_folder);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
