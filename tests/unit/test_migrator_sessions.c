/* The journal of sessions: what is saved is found again, and nothing else. */
#include "base/err.h"
#include "migrator/sessions.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

static void setup(void)
{
	strcpy(folder, "/tmp/vmferry-sessions-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void teardown(void)
{
	char command[128];
	snprintf(command, sizeof command, "rm -rf '%s'", folder);
	ck_assert_int_eq(system(command), 0);
}

static json_t *record(char id[SESSION_ID_LEN])
{
	struct err e = ERR_INIT;
	ck_assert_int_eq(session_new_id(id, &e), 0);
	return json_pack("{s:s, s:s}", "session", id, "uuid", "u");
}

START_TEST(ids_are_checked)
{
	struct err e = ERR_INIT;
	char a[SESSION_ID_LEN], b[SESSION_ID_LEN];

	ck_assert_int_eq(session_new_id(a, &e), 0);
	ck_assert_int_eq(session_new_id(b, &e), 0);
	ck_assert_str_ne(a, b);
	ck_assert_int_eq(session_check_id(a, &e), 0);
	ck_assert_int_eq(session_check_id(NULL, &e), -1);
	ck_assert_int_eq(session_check_id("", &e), -1);
	ck_assert_int_eq(session_check_id("../../../../etc/passwd0123456789", &e), -1);
	a[5] = 'G';
	ck_assert_int_eq(session_check_id(a, &e), -1);
}
END_TEST

START_TEST(saved_is_found_until_removed)
{
	struct err e = ERR_INIT;
	char id[SESSION_ID_LEN];
	json_t *r = record(id), *all;

	all = sessions_load(folder, &e);
	ck_assert_uint_eq(json_array_size(all), 0);
	json_decref(all);
	ck_assert_msg(sessions_save(folder, r, &e) == 0, "%s", e.text);
	all = sessions_load(folder, &e);
	ck_assert_uint_eq(json_array_size(all), 1);
	ck_assert(json_equal(json_array_get(all, 0), r));
	json_decref(all);
	ck_assert_int_eq(sessions_remove(folder, id, &e), 0);
	ck_assert_int_eq(sessions_remove(folder, id, &e), 0);
	all = sessions_load(folder, &e);
	ck_assert_uint_eq(json_array_size(all), 0);
	json_decref(all);
	json_decref(r);
}
END_TEST

START_TEST(a_torn_record_does_not_hide_the_others)
{
	struct err e = ERR_INIT;
	char id[SESSION_ID_LEN], path[160];
	json_t *r = record(id), *all;

	ck_assert_int_eq(sessions_save(folder, r, &e), 0);
	snprintf(path, sizeof path, "%s/sessions/00000000000000000000000000000000.json", folder);
	FILE *f = fopen(path, "w");
	fputs("{\"session\": \"0000", f);
	fclose(f);
	all = sessions_load(folder, &e);
	ck_assert_uint_eq(json_array_size(all), 1);
	json_decref(all);
	json_decref(r);
}
END_TEST

START_TEST(a_record_without_a_session_is_refused)
{
	struct err e = ERR_INIT;
	json_t *r = json_pack("{s:s}", "session", "../x");

	ck_assert_int_eq(sessions_save(folder, r, &e), -1);
	ck_assert_int_eq(e.cls, ERR_PROTOCOL);
	json_decref(r);
}
END_TEST

START_TEST(folder_comes_and_goes_with_its_sockets)
{
	struct err e = ERR_INIT;
	char id[SESSION_ID_LEN], dir[108], path[160];
	struct stat st;

	ck_assert_int_eq(session_new_id(id, &e), 0);
	ck_assert_msg(session_make_dir(folder, id, NULL, dir, sizeof dir, &e) == 0, "%s", e.text);
	ck_assert_int_eq(stat(dir, &st), 0);
	ck_assert_int_eq(st.st_mode & 07007, 0);
	snprintf(path, sizeof path, "%s/mig.sock", dir);
	fclose(fopen(path, "w"));
	session_remove_dir(dir);
	ck_assert_int_eq(stat(dir, &st), -1);
	session_remove_dir(dir);
}
END_TEST

START_TEST(an_unknown_group_leaves_nothing)
{
	struct err e = ERR_INIT;
	char id[SESSION_ID_LEN], dir[108];
	struct stat st;

	ck_assert_int_eq(session_new_id(id, &e), 0);
	ck_assert_int_eq(session_make_dir(folder, id, "no-such-group-here", dir, sizeof dir, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(e.remedy, "qemu_group"));
	ck_assert_int_eq(stat(dir, &st), -1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("sessions");
	TCase *t = tcase_create("sessions");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, ids_are_checked);
	tcase_add_test(t, saved_is_found_until_removed);
	tcase_add_test(t, a_torn_record_does_not_hide_the_others);
	tcase_add_test(t, a_record_without_a_session_is_refused);
	tcase_add_test(t, folder_comes_and_goes_with_its_sockets);
	tcase_add_test(t, an_unknown_group_leaves_nothing);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
