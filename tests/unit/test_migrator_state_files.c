#include "base/file.h"
#include "base/mem.h"
#include "migrator/qemu_conf.h"
#include "migrator/state_files.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define UUID "6fba1c2f-6b0c-4d39-9c3b-6bd0f3c0aa11"

static char root[64];

static void setup(void)
{
	strcpy(root, "/var/tmp/vmferry-state-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
}

static void teardown(void)
{
	MEM_AUTO char *command = mem_printf("rm -rf %s", root);
	ck_assert_int_eq(system(command), 0);
}

static struct domain *vm(const char *nvram, const char *backend)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *xml = mem_printf("<domain type='kvm'><name>web1</name><uuid>" UUID "</uuid><memory>1024</memory>"
					"<os><type arch='x86_64' machine='q35'>hvm</type><nvram>%s</nvram></os>"
					"<devices><tpm model='tpm-crb'>%s</tpm></devices></domain>",
					nvram, backend);
	struct domain *d = domain_parse(xml, &e);
	ck_assert_msg(d != NULL, "%s", e.text);
	return d;
}

static struct domain *usual(void)
{
	MEM_AUTO char *nvram = mem_printf("%s/qemu/nvram/web1_VARS.fd", root);
	return vm(nvram, "<backend type='emulator' version='2.0'/>");
}

static char *at(const char *name)
{
	return mem_printf("%s/%s", root, name);
}

static void assert_holds(const char *name, const char *want)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *path = at(name);
	MEM_AUTO char *have = file_read_all(path, 100, NULL, &e);
	ck_assert_msg(have != NULL, "%s", e.text);
	ck_assert_str_eq(have, want);
}

static void assert_path(struct domain *d, enum state_file kind, const char *want)
{
	MEM_AUTO char *path = state_file_path(root, d, kind);
	MEM_AUTO char *full = want ? at(want) : NULL;
	ck_assert_pstr_eq(path, full);
	domain_free(d);
}

START_TEST(only_libvirts_own_folders)
{
	MEM_AUTO char *below = at("qemu/nvram/x/y.fd"), *above = at("qemu/nvram/.."), *folder = at("qemu/nvram/");
	assert_path(usual(), STATE_FILE_NVRAM, "qemu/nvram/web1_VARS.fd");
	assert_path(vm("/etc/shadow", ""), STATE_FILE_NVRAM, NULL);
	assert_path(vm(below, ""), STATE_FILE_NVRAM, NULL);
	assert_path(vm(above, ""), STATE_FILE_NVRAM, NULL);
	assert_path(vm(folder, ""), STATE_FILE_NVRAM, NULL);
	assert_path(usual(), STATE_FILE_TPM, "swtpm/" UUID "/tpm2/tpm2-00.permall");
	assert_path(vm("", "<backend type='emulator' version='1.2'/>"), STATE_FILE_TPM,
		    "swtpm/" UUID "/tpm1.2/tpm-00.permall");
	assert_path(vm("", "<backend type='emulator' version='2.0'><source type='dir' path='/x'/></backend>"), STATE_FILE_TPM,
		    NULL);
	assert_path(vm("", "<backend type='passthrough'/>"), STATE_FILE_TPM, NULL);
}
END_TEST

static void put(enum state_file kind, const char *path, const char *text)
{
	struct err e = ERR_INIT;
	ck_assert_msg(state_file_put(kind, path, text, strlen(text), &e) == 0, "%s", e.text);
}

START_TEST(travel)
{
	struct err e = ERR_INIT;
	struct state_files_done done;
	DOMAIN_AUTO struct domain *d = usual();
	MEM_AUTO char *nvram = state_file_path(root, d, STATE_FILE_NVRAM),
		      *tpm = state_file_path(root, d, STATE_FILE_TPM);

	json_t *files = state_files_read(root, d, &e);
	ck_assert_uint_eq(json_array_size(files), 0);
	json_decref(files);

	put(STATE_FILE_NVRAM, nvram, "variables");
	put(STATE_FILE_TPM, tpm, "keys");
	files = state_files_read(root, d, &e);
	ck_assert_uint_eq(json_array_size(files), 2);

	/* To a host that has others. */
	ck_assert_int_eq(unlink(tpm), 0);
	put(STATE_FILE_NVRAM, nvram, "of old");
	ck_assert_msg(state_files_write(root, d, files, &done, &e) == 0, "%s", e.text);
	ck_assert(done.written[STATE_FILE_NVRAM] && done.replaced[STATE_FILE_NVRAM]);
	ck_assert(done.written[STATE_FILE_TPM] && !done.replaced[STATE_FILE_TPM]);
	assert_holds("qemu/nvram/web1_VARS.fd", "variables");
	assert_holds("qemu/nvram/web1_VARS.fd.replaced", "of old");
	assert_holds("swtpm/" UUID "/tpm2/tpm2-00.permall", "keys");
	state_files_undo(root, d, &done);
	assert_holds("qemu/nvram/web1_VARS.fd", "of old");
	ck_assert_int_ne(access(tpm, F_OK), 0);

	/* To one that shares a folder: what is there is not written, and not removed at the other end. */
	put(STATE_FILE_NVRAM, nvram, "variables");
	ck_assert_msg(state_files_write(root, d, files, &done, &e) == 0, "%s", e.text);
	ck_assert(!done.written[STATE_FILE_NVRAM] && done.written[STATE_FILE_TPM]);
	state_files_remove(root, d, done.written);
	assert_holds("qemu/nvram/web1_VARS.fd", "variables");
	ck_assert_int_ne(access(tpm, F_OK), 0);
	json_decref(files);
}
END_TEST

#define NVRAM_ABC "{\"kind\":\"nvram\",\"size\":3,\"data\":\"YWJj\"}"

START_TEST(refused)
{
	struct err e = ERR_INIT;
	struct state_files_done done;
	DOMAIN_AUTO struct domain *d = usual();
	MEM_AUTO char *nvram = state_file_path(root, d, STATE_FILE_NVRAM);
	static const char *const bad[] = {
		"[" NVRAM_ABC ",{\"kind\":\"shadow\",\"size\":3,\"data\":\"YWJj\"}]",
		"[" NVRAM_ABC ",{\"kind\":\"tpm\",\"size\":3,\"data\":\"YWJjYWJj\"}]",
		"[" NVRAM_ABC ",{\"kind\":\"tpm\",\"size\":-1,\"data\":\"\"}]",
		"[" NVRAM_ABC ",{\"size\":3,\"data\":\"YWJj\"}]",
		"[" NVRAM_ABC "," NVRAM_ABC "]",
		"[" NVRAM_ABC ",0]",
	};
	put(STATE_FILE_NVRAM, nvram, "of old");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_t *files = json_loads(bad[i], 0, NULL);
		ck_assert_ptr_nonnull(files);
		e = (struct err)ERR_INIT;
		ck_assert_msg(state_files_write(root, d, files, &done, &e) == -1, "%s", bad[i]);
		ck_assert_int_eq(e.cls, ERR_PROTOCOL);
		assert_holds("qemu/nvram/web1_VARS.fd", "of old");
		json_decref(files);
	}
	/* A VM that has none. */
	DOMAIN_AUTO struct domain *none = vm("", "");
	json_t *files = json_loads("[" NVRAM_ABC "]", 0, NULL);
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(state_files_write(root, none, files, &done, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	json_decref(files);
	/* Too much to take along. */
	MEM_AUTO char *big = mem_alloc(STATE_FILES_MAX + 1);
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(state_file_put(STATE_FILE_NVRAM, nvram, big, STATE_FILES_MAX + 1, &e), 0);
	ck_assert_ptr_null(state_files_read(root, d, &e));
	ck_assert_int_eq(e.cls, ERR_REFUSED);
}
END_TEST

START_TEST(configuration_of_libvirt)
{
	struct err e = ERR_INIT;
	static const char text[] =
		"#swtpm_user = \"no\"\n swtpm_user=\"tss\"\nswtpm_user_x = \"no\"\nlock_manager = \"a\"\n"
		"lock_manager = \"lockd\" # the last\nnumber = 3\n";
	MEM_AUTO char *path = at("qemu.conf");
	ck_assert_int_eq(file_write_durable(path, text, strlen(text), 0600, &e), 0);
	MEM_AUTO char *user = qemu_conf_string(path, "swtpm_user"), *manager = qemu_conf_string(path, "lock_manager");
	ck_assert_str_eq(user, "tss");
	ck_assert_str_eq(manager, "lockd");
	ck_assert_ptr_null(qemu_conf_string(path, "number"));
	ck_assert_ptr_null(qemu_conf_string("/nowhere", "swtpm_user"));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("migrator/state_files");
	TCase *tc = tcase_create("state files");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, only_libvirts_own_folders);
	tcase_add_test(tc, travel);
	tcase_add_test(tc, refused);
	tcase_add_test(tc, configuration_of_libvirt);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
