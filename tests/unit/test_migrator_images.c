/* Images made for a migration: only where this host gives out room, never over something that is there. */
#include "base/err.h"
#include "migrator/images.h"
#include "migrator/virt.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64], given[80], other[80];
static virConnectPtr conn;

static void setup(void)
{
	struct err e = ERR_INIT;

	strcpy(folder, "/tmp/vmferry-images-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	snprintf(given, sizeof given, "%s/given", folder);
	snprintf(other, sizeof other, "%s/other", folder);
	ck_assert_int_eq(mkdir(given, 0755), 0);
	ck_assert_int_eq(mkdir(other, 0755), 0);
	conn = virt_open("test:///default", &e);
	ck_assert_msg(conn != NULL, "%s", e.text);
}

static void teardown(void)
{
	char command[128];

	virConnectClose(conn);
	snprintf(command, sizeof command, "rm -rf '%s'", folder);
	ck_assert_int_eq(system(command), 0);
}

static json_t *one(const char *dir, const char *name, const char *format, json_int_t size)
{
	return json_pack("[{s:o, s:s, s:I}]", "path", json_sprintf("%s/%s", dir, name), "format", format, "virtual_size", size);
}

static int check(json_t *disks, struct err *e)
{
	int rc = images_check(conn, given, disks, e);
	json_decref(disks);
	return rc;
}

START_TEST(made_with_format_and_size)
{
	struct err e = ERR_INIT;
	json_t *disks = one(given, "a.qcow2", "qcow2", 1 << 30), *made = json_array();
	char path[160], magic[4];
	struct stat st;

	ck_assert_msg(images_check(conn, given, disks, &e) == 0, "%s", e.text);
	ck_assert_msg(images_create(disks, made, &e) == 0, "%s", e.text);
	ck_assert_uint_eq(json_array_size(made), 1);
	snprintf(path, sizeof path, "%s/a.qcow2", given);
	FILE *f = fopen(path, "r");
	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fread(magic, 1, 4, f), 4);
	fclose(f);
	ck_assert_mem_eq(magic, "QFI\xfb", 4);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_mode & 0077, 0);
	images_remove(made);
	ck_assert_int_eq(access(path, F_OK), -1);
	images_remove(made);
	json_decref(disks);
	json_decref(made);
}
END_TEST

START_TEST(raw_is_as_large_as_said)
{
	struct err e = ERR_INIT;
	json_t *disks = one(given, "a.img", "raw", 12345 * 512), *made = json_array();
	char path[160];
	struct stat st;

	ck_assert_msg(images_create(disks, made, &e) == 0, "%s", e.text);
	snprintf(path, sizeof path, "%s/a.img", given);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_size, 12345 * 512);
	json_decref(disks);
	json_decref(made);
}
END_TEST

START_TEST(an_existing_file_is_never_touched)
{
	struct err e = ERR_INIT;
	json_t *disks = one(given, "a.img", "raw", 1 << 20), *made = json_array();
	char path[160], text[8] = "";

	snprintf(path, sizeof path, "%s/a.img", given);
	FILE *f = fopen(path, "w");
	fputs("mine", f);
	fclose(f);
	ck_assert_int_eq(images_check(conn, given, disks, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	/* Even when it comes between the check and the making. */
	ck_assert_int_eq(images_create(disks, made, &e), -1);
	ck_assert_uint_eq(json_array_size(made), 0);
	f = fopen(path, "r");
	ck_assert_ptr_nonnull(fgets(text, sizeof text, f));
	fclose(f);
	ck_assert_str_eq(text, "mine");
	json_decref(disks);
	json_decref(made);
}
END_TEST

START_TEST(folders_not_given_out_are_refused)
{
	struct err e = ERR_INIT;
	char link[160];

	ck_assert_int_eq(check(one(other, "a.img", "raw", 512), &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_ptr_nonnull(strstr(e.remedy, "image_dir"));
	/* Neither by going up nor through a link. */
	ck_assert_int_eq(check(one(given, "../other/a.img", "raw", 512), &e), -1);
	snprintf(link, sizeof link, "%s/link", given);
	ck_assert_int_eq(symlink(other, link), 0);
	ck_assert_int_eq(check(one(link, "a.img", "raw", 512), &e), -1);
	ck_assert_int_eq(check(one("/etc", "cron.d-evil", "raw", 512), &e), -1);
}
END_TEST

START_TEST(nonsense_is_refused)
{
	struct err e = ERR_INIT;

	ck_assert_int_eq(check(one(given, "a.img", "vmdk", 512), &e), -1);
	ck_assert_int_eq(check(one(given, "a.img", "raw", 0), &e), -1);
	ck_assert_int_eq(check(one(given, "a.img", "raw", -512), &e), -1);
	ck_assert_int_eq(check(one("relative", "a.img", "raw", 512), &e), -1);
	ck_assert_int_eq(check(one(given, "", "raw", 512), &e), -1);
	ck_assert_int_eq(check(one("/nonexistent-folder", "a.img", "raw", 512), &e), -1);
	ck_assert_int_eq(check(json_pack("[{s:s}]", "path", "/x"), &e), -1);
	ck_assert_int_eq(check(json_pack("[i]", 7), &e), -1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("images");
	TCase *t = tcase_create("images");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, made_with_format_and_size);
	tcase_add_test(t, raw_is_as_large_as_said);
	tcase_add_test(t, an_existing_file_is_never_touched);
	tcase_add_test(t, folders_not_given_out_are_refused);
	tcase_add_test(t, nonsense_is_refused);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
