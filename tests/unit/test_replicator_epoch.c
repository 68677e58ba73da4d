/* Records of who owns a VM: what cannot be read is not "none", and an epoch has an upper end. */
#include "base/file.h"
#include "base/mem.h"
#include "replicator/epoch.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ONE "6b0e4a2c-0000-4000-8000-000000000001"
#define TWO "6b0e4a2c-0000-4000-8000-000000000002"
#define OK(x, e) ck_assert_msg((x) == 0, "%s", (e).text)
#define HAS(text, part) ck_assert_msg(strstr(text, part) != NULL, "'%s' has no '%s'", text, part)

static char dir[64];

static void setup(void)
{
	strcpy(dir, "/tmp/test-epoch-XXXXXX");
	ck_assert(mkdtemp(dir) != NULL);
}

static void teardown(void)
{
	MEM_AUTO char *rm = mem_printf("rm -rf %s", dir);
	ck_assert_int_eq(system(rm), 0);
}

static void put(const char *name, const char *text, size_t n)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *folder = mem_printf("%s/protections", dir), *path = mem_printf("%s/%s", folder, name);

	OK(file_mkdirs(folder, 0700, &e), e);
	OK(file_write_durable(path, text, n, 0600, &e), e);
}

/* The only record, as it is read. */
static json_t *loaded(void)
{
	struct err e = ERR_INIT;
	json_t *all = epoch_load_protections(dir, &e);

	ck_assert_msg(all != NULL, "%s", e.text);
	ck_assert_uint_eq(json_array_size(all), 1);
	json_t *one = json_incref(json_array_get(all, 0));
	json_decref(all);
	return one;
}

static void check_unreadable(const char *why)
{
	struct err e = ERR_INIT;
	json_t *one = loaded();

	ck_assert_str_eq(json_string_value(json_object_get(one, "uuid")), ONE);
	ck_assert_str_eq(json_string_value(json_object_get(one, "state")), "unreadable");
	ck_assert_int_eq(epoch_check_readable(one, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, why);
	err_clear(&e);
	/* No source is let in by it, whatever it says. */
	ck_assert_int_eq(epoch_admit(one, "host2", "(unknown)", 1000, &e), -1);
	HAS(e.text, "cannot be told");
	err_clear(&e);
	/* And it does not become a whole one by somebody's change. */
	json_object_set_new(one, "state", json_string("active"));
	json_object_set_new(one, "epoch", json_integer(7));
	ck_assert_int_eq(epoch_save_protection(dir, one, &e), -1);
	HAS(e.text, "cannot be told");
	json_decref(one);
	json_decref(loaded());
}

START_TEST(what_cannot_be_read_is_there)
{
	static const struct {
		const char *text, *why;
	} bad[] = {
		{ "", "no JSON" },
		{ "{\"uuid\":", "no JSON, in line 1" },
		{ "[]", "not a whole record" },
		{ "{\"uuid\":\"" TWO "\",\"state\":\"active\",\"epoch\":1}", "not a whole record of this VM" },
		{ "{\"uuid\":\"" ONE "\",\"epoch\":1}", "not a whole record" },
		{ "{\"uuid\":\"" ONE "\",\"state\":\"active\"}", "not a whole record" },
		{ "{\"uuid\":\"" ONE "\",\"state\":\"active\",\"epoch\":0}", "not a whole record" },
		{ "{\"uuid\":\"" ONE "\",\"state\":\"active\",\"epoch\":9007199254740993}", "not a whole record" },
		{ "{\"uuid\":\"" ONE "\",\"state\":\"active\",\"epoch\":\"3\"}", "not a whole record" },
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		put(ONE ".json", bad[i].text, strlen(bad[i].text));
		check_unreadable(bad[i].why);
	}
	/* As long as a peer might make it. */
	const size_t n = (size_t)2 << 20;
	char *big = mem_alloc(n);
	memset(big, ' ', n);
	put(ONE ".json", big, n);
	check_unreadable("larger than");
	free(big);
}
END_TEST

/* As with EIO and EMFILE: there is a name, and no contents. */
START_TEST(an_error_is_not_none)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *path = mem_printf("%s/protections/" ONE ".json", dir);

	OK(file_mkdirs(path, 0700, &e), e);
	check_unreadable(path);
}
END_TEST

START_TEST(a_folder_without_a_record_is_none)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *path = mem_printf("%s/" ONE, dir);

	OK(file_mkdirs(path, 0700, &e), e);
	json_t *all = epoch_load_replicas(dir, &e);
	ck_assert_msg(all != NULL, "%s", e.text);
	ck_assert_uint_eq(json_array_size(all), 0);
	json_decref(all);
}
END_TEST

START_TEST(what_is_saved_is_read)
{
	struct err e = ERR_INIT;
	json_t *record = json_pack("{s:s, s:s, s:s, s:s, s:I}", "uuid", ONE, "vm", "web1", "host", "host2", "state", "active", "epoch",
				   (json_int_t)EPOCH_MAX);

	OK(epoch_save_protection(dir, record, &e), e);
	json_t *back = loaded();
	ck_assert(json_equal(back, record));
	OK(epoch_check_readable(back, &e), e);
	OK(epoch_check_readable(NULL, &e), e);
	json_decref(back);
	/* What would not be read is not written. */
	json_object_set_new(record, "epoch", json_integer(EPOCH_MAX + 1));
	ck_assert_int_eq(epoch_save_protection(dir, record, &e), -1);
	err_clear(&e);
	json_object_set_new(record, "epoch", json_integer(1));
	char *big = mem_alloc((size_t)1 << 21);
	memset(big, 'x', ((size_t)1 << 21) - 1);
	json_object_set_new(record, "note", json_string(big));
	free(big);
	ck_assert_int_eq(epoch_save_protection(dir, record, &e), -1);
	HAS(e.text, "too long");
	json_decref(record);
	back = loaded();
	ck_assert_int_eq(json_integer_value(json_object_get(back, "epoch")), EPOCH_MAX);
	json_decref(back);
}
END_TEST

START_TEST(epochs_have_an_end)
{
	struct err e = ERR_INIT;

	ck_assert(epoch_ok(1) && epoch_ok(EPOCH_MAX));
	ck_assert(!epoch_ok(0) && !epoch_ok(-1) && !epoch_ok(EPOCH_MAX + 1) && !epoch_ok(INT64_MAX));
	OK(epoch_admit(NULL, "host2", "host1", 1, &e), e);
	static const uint64_t bad[] = { 0, (UINT64_C(1) << 53) + 1, INT64_MAX, UINT64_MAX };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ck_assert_int_eq(epoch_admit(NULL, "host2", "host1", bad[i], &e), -1);
		ck_assert_int_eq(e.cls, ERR_PROTOCOL);
		err_clear(&e);
	}
	/* A peer that says such a thing is not believed: the VM is left alone. */
	json_t *theirs = json_pack("{s:s, s:I}", "state", "promoted", "epoch", (json_int_t)INT64_MAX);
	ck_assert_int_eq(epoch_judge(3, "host2", theirs, &e), EPOCH_REFUSED);
	json_object_set_new(theirs, "epoch", json_integer(-1));
	ck_assert_int_eq(epoch_judge(3, "host2", theirs, &e), EPOCH_REFUSED);
	json_object_set_new(theirs, "epoch", json_integer(4));
	ck_assert_int_eq(epoch_judge(3, "host2", theirs, &e), EPOCH_LOST);
	json_decref(theirs);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/epoch");
	TCase *t = tcase_create("records");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, what_cannot_be_read_is_there);
	tcase_add_test(t, an_error_is_not_none);
	tcase_add_test(t, a_folder_without_a_record_is_none);
	tcase_add_test(t, what_is_saved_is_read);
	tcase_add_test(t, epochs_have_an_end);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	const int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
