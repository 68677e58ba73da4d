/* Where the records are is found without the configuration. */
#include "base/file.h"
#include "base/mem.h"
#include "replicator/folders.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define OK(x, e) ck_assert_msg((x) == 0, "%s", (e).text)

static char dir[64], path[96];

static void setup(void)
{
	strcpy(dir, "/tmp/test-folders-XXXXXX");
	ck_assert(mkdtemp(dir) != NULL);
	snprintf(path, sizeof(path), "%s/deep/folders.json", dir);
}

static void teardown(void)
{
	MEM_AUTO char *rm = mem_printf("rm -rf %s", dir);
	ck_assert_int_eq(system(rm), 0);
}

static ino_t inode(void)
{
	struct stat st;
	ck_assert_int_eq(stat(path, &st), 0);
	return st.st_ino;
}

START_TEST(what_was_noted_is_there)
{
	static const char *const pairs[][2] = { { "/var/lib/vmferry", "/var/lib/vmferry/replicas" },
						{ "/srv/a \"b\"", "/mnt/big" } };
	struct err e = ERR_INIT;
	struct folders f = { 0 };

	ck_assert_int_eq(folders_noted(path, &f, &e), -1);
	ck_assert_int_eq(e.errnum, ENOENT);
	for (size_t i = 0; i < 2; i++) {
		OK(folders_note(path, pairs[i][0], pairs[i][1], &e), e);
		OK(folders_noted(path, &f, &e), e);
		ck_assert_str_eq(f.state_dir, pairs[i][0]);
		ck_assert_str_eq(f.replica_dir, pairs[i][1]);
		folders_fini(&f);
		ck_assert_ptr_null(f.state_dir);
		/* Said once: it is not written again. */
		const ino_t was = inode();
		OK(folders_note(path, pairs[i][0], pairs[i][1], &e), e);
		ck_assert_uint_eq(inode(), was);
	}
	OK(folders_note(path, pairs[1][0], "/other", &e), e);
	OK(folders_noted(path, &f, &e), e);
	ck_assert_str_eq(f.replica_dir, "/other");
	folders_fini(&f);
}
END_TEST

/* Nothing is made of it, and the next note replaces it. */
START_TEST(what_makes_no_sense_is_refused)
{
	static const char *const texts[] = { "",
					     "{",
					     "[]",
					     "{\"state_dir\":\"/a\"}",
					     "{\"state_dir\":1,\"replica_dir\":\"/b\"}",
					     "{\"state_dir\":\"a\",\"replica_dir\":\"/b\"}" };
	struct folders f = { 0 };

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct err e = ERR_INIT;
		OK(folders_note(path, "/a", "/b", &e), e);
		OK(file_write_durable(path, texts[i], strlen(texts[i]), 0600, &e), e);
		ck_assert_int_eq(folders_noted(path, &f, &e), -1);
		ck_assert_int_eq(e.cls, ERR_CORRUPT);
		ck_assert_ptr_null(f.state_dir);
	}
	struct err e = ERR_INIT;
	OK(folders_note(path, "/a", "/b", &e), e);
	OK(folders_noted(path, &f, &e), e);
	folders_fini(&f);
	/* No folder for it, and none that can be made. */
	ck_assert_int_eq(folders_note("/proc/none/folders.json", "/a", "/b", &e), -1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("folders");
	TCase *t = tcase_create("all");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, what_was_noted_is_there);
	tcase_add_test(t, what_makes_no_sense_is_refused);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
