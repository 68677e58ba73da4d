#include "base/file.h"
#include "replicator/export.h"
#include "tests/unit/vm_store.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];
static struct store *store;

static char *fake_map(void *ctx, const struct promote_spec *s, json_t *findings, struct err *e)
{
	(void)ctx, (void)e;
	ck_assert_uint_eq(s->n_disks, 2);
	json_array_append_new(findings, json_pack("{s:s, s:s}", "what", "lease", "text", "a lease was left out"));
	return mem_printf("<domain><source file='%s'/></domain>", s->disks[0].path);
}
static const struct promote_ops ops = { .map = fake_map };

/* The n-th read of the store from now fails; 0: none does. The store's own threads read too. */
static atomic_uint reads_left;

static ssize_t failing_pread(int fd, void *p, size_t n, off_t at)
{
	unsigned left = reads_left;
	while (left > 0 && !atomic_compare_exchange_weak(&reads_left, &left, left - 1))
		;
	if (left == 1) {
		errno = EIO;
		return -1;
	}
	return pread(fd, p, n, at);
}

static void setup(void)
{
	strcpy(dir, "/var/tmp/vmferry-export-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	MEM_AUTO char *path = mem_printf("%s/store", dir);
	reads_left = 0;
	sys.pread = failing_pread;
	store = vm_store_new(path);
	(void)vm_store_put(store, "p2", "memory", "nvram", "vars", 4);
}
static void teardown(void)
{
	MEM_AUTO char *command = mem_printf("rm -rf %s", dir);
	store_close(store);
	sys.pread = pread;
	ck_assert_int_eq(system(command), 0);
}

static char *content(const char *name)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *path = mem_printf("%s/out/%s", dir, name);
	char *text = file_read_all(path, 10 << 20, NULL, &e);
	ck_assert_msg(text != NULL, "%s", e.text);
	return text;
}
static bool there(const char *name)
{
	MEM_AUTO char *path = mem_printf("%s/%s", dir, name);
	return access(path, F_OK) == 0;
}
static int export(json_t **report, const volatile bool *cancel, struct err *e)
{
	MEM_AUTO char *out = mem_printf("%s/out", dir);
	struct export_opts o = { .dir = out, .run_dir = dir, .ops = &ops, .cancel = cancel };
	return export_point(store, &o, report, e);
}

static void assert_disk(uint32_t v)
{
	MEM_AUTO char *raw = mem_printf("%s/raw", dir);
	MEM_AUTO char *command =
		mem_printf("qemu-img check -q %s/out/%s.qcow2 && qemu-img convert -O raw %s/out/%s.qcow2 %s", dir,
			   vm_store_volume[v].name, dir, vm_store_volume[v].name, raw);
	uint8_t have[STORE_BLOCK], want[STORE_BLOCK];
	struct stat st;
	ck_assert_int_eq(system(command), 0);
	int fd = open(raw, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_uint_eq((uint64_t)st.st_size, vm_store_volume[v].size_bytes);
	for (uint64_t b = 0; b < vm_store_volume[v].size_bytes / STORE_BLOCK; b++) {
		(void)vm_store_content(want, v, b);
		ck_assert_int_eq(pread(fd, have, STORE_BLOCK, (off_t)(b * STORE_BLOCK)), STORE_BLOCK);
		ck_assert_mem_eq(have, want, STORE_BLOCK);
	}
	close(fd);
	unlink(raw);
}

START_TEST(everything_is_there)
{
	struct err e = ERR_INIT;
	json_t *report = NULL;
	ck_assert_msg(export(&report, NULL, &e) == 0, "%s", e.text);
	assert_disk(1);
	assert_disk(3);
	MEM_AUTO char *xml = content("web1.xml");
	MEM_AUTO char *path = mem_printf("%s/out/vda.qcow2", dir);
	ck_assert_ptr_nonnull(strstr(xml, path));
	MEM_AUTO char *nvram = content("nvram");
	ck_assert_str_eq(nvram, "vars");
	MEM_AUTO char *save = content("web1.save");
	ck_assert_mem_eq(save, "LibvirtQemudSave", 16);
	ck_assert_mem_eq(save + 92 + strlen(xml) + 1, "QEVM", 4);
	MEM_AUTO char *readme = content("README.txt");
	ck_assert_ptr_nonnull(strstr(readme, "virsh restore"));
	ck_assert_ptr_nonnull(strstr(readme, "a lease was left out"));
	ck_assert_uint_eq(json_array_size(json_object_get(report, "files")), 7);
	json_decref(report);
	/* Nothing is overwritten. */
	ck_assert_int_eq(export(NULL, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
}
END_TEST

START_TEST(disks_alone)
{
	struct err e = ERR_INIT;
	(void)vm_store_put(store, "p3", "disk", NULL, NULL, 0);
	ck_assert_msg(export(NULL, NULL, &e) == 0, "%s", e.text);
	ck_assert(!there("out/web1.save"));
	MEM_AUTO char *readme = content("README.txt");
	ck_assert_ptr_null(strstr(readme, "virsh restore"));
}
END_TEST

START_TEST(nothing_is_left_of_half_an_export)
{
	struct err e = ERR_INIT;
	volatile bool cancel = true;
	ck_assert_int_eq(export(NULL, &cancel, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CANCELLED);
	ck_assert(!there("out") && !there("out.partial"));
	e = (struct err)ERR_INIT;
	ck_assert_int_eq(store_settle(store, INT64_MAX, &e), 0);
	reads_left = 3;
	ck_assert_int_eq(export(NULL, NULL, &e), -1);
	ck_assert_ptr_nonnull(strstr(e.text, strerror(EIO)));
	ck_assert(!there("out") && !there("out.partial"));
	/* What a crash left goes with the next try. */
	MEM_AUTO char *partial = mem_printf("%s/out.partial", dir);
	MEM_AUTO char *old = mem_printf("%s/old", partial);
	mkdir(partial, 0700);
	close(open(old, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	e = (struct err)ERR_INIT;
	ck_assert_msg(export(NULL, NULL, &e) == 0, "%s", e.text);
	ck_assert(!there("out/old") && !there("out.partial"));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/export");
	TCase *tc = tcase_create("export");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, everything_is_there);
	tcase_add_test(tc, disks_alone);
	tcase_add_test(tc, nothing_is_left_of_half_an_export);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
