#include "base/file.h"
#include "migrator/image_facts.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char dir[64], image[96];

static void setup(void)
{
	strcpy(dir, "/tmp/image-facts-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(image, sizeof(image), "%s/disk.raw", dir);
	int fd = open(image, O_WRONLY | O_CREAT, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
	ck_assert_int_eq(pwrite(fd, "x", 1, 0), 1);
	ck_assert_int_eq(fsync(fd), 0);
	close(fd);
}

static void teardown(void)
{
	char cmd[96];
	unlink(image);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	ck_assert_int_eq(system(cmd), 0);
}

START_TEST(a_file)
{
	struct image_facts f;
	image_facts_get(image, &f);
	ck_assert(f.exists && f.folder && !f.device);
	ck_assert_uint_eq(f.size, 1 << 20);
	ck_assert(f.allocated > 0 && f.allocated < f.size);
	ck_assert_uint_gt(f.fs_free, 0);
	ck_assert_int_gt(f.mtime_ns, 0);
}
END_TEST

START_TEST(what_is_not_there)
{
	struct image_facts f;
	char path[128];

	snprintf(path, sizeof(path), "%s/none", dir);
	image_facts_get(path, &f);
	ck_assert(!f.exists && f.folder);
	ck_assert_uint_gt(f.fs_free, 0);
	image_facts_get("/nonexistent/folder/x", &f);
	ck_assert(!f.exists && !f.folder);
	image_facts_get("relative", &f);
	ck_assert(!f.exists && !f.folder);
	image_facts_get(dir, &f); /* a folder is no image */
	ck_assert(!f.exists);
	snprintf(path, sizeof(path), "%s/fifo", dir);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	image_facts_get(path, &f);
	ck_assert(!f.exists);
	image_facts_get("/dev/null", &f);
	ck_assert(!f.exists);
}
END_TEST

START_TEST(virtual_sizes)
{
	struct err e = ERR_INIT;
	uint64_t size = 0;
	char path[128];
	unsigned char head[512] = { 'Q', 'F', 'I', 0xfb, 0, 0, 0, 3 };
	head[28] = 0x40; /* 1 GiB */

	ck_assert_int_eq(image_facts_virtual_size(image, "raw", &size, &e), 0);
	ck_assert_uint_eq(size, 1 << 20);
	ck_assert_int_eq(image_facts_virtual_size(image, "qcow2", &size, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CORRUPT);

	snprintf(path, sizeof(path), "%s/a.qcow2", dir);
	FILE *f = fopen(path, "w");
	ck_assert_uint_eq(fwrite(head, sizeof(head), 1, f), 1);
	fclose(f);
	ck_assert_msg(image_facts_virtual_size(path, "qcow2", &size, &e) == 0, "%s", e.text);
	ck_assert_uint_eq(size, 1 << 30);
	ck_assert_int_eq(truncate(path, 20), 0);
	ck_assert_int_eq(image_facts_virtual_size(path, "qcow2", &size, &e), -1);
	ck_assert_int_eq(image_facts_virtual_size(path, "raw; rm", &size, &e), -1);
	snprintf(path, sizeof(path), "%s/none", dir);
	ck_assert_int_eq(image_facts_virtual_size(path, "raw", &size, &e), -1);
}
END_TEST

START_TEST(probes)
{
	struct err e = ERR_INIT;
	char *probe = NULL;
	char token[IMAGE_FACTS_TOKEN_LEN] = "";
	char other[128], link_path[128];

	ck_assert_msg(image_facts_make_probe(image, &probe, token, &e) == 0, "%s", e.text);
	ck_assert_int_eq(strncmp(probe, dir, strlen(dir)), 0);
	ck_assert_uint_eq(strlen(token), 32);
	const char *name = strrchr(probe, '/') + 1;
	ck_assert(image_facts_check_probe(image, name, token));

	/* Through a link: where the image really is counts. */
	char away[] = "/tmp/image-facts-XXXXXX";
	ck_assert_ptr_nonnull(mkdtemp(away));
	snprintf(link_path, sizeof(link_path), "%s/link.raw", away);
	ck_assert_int_eq(symlink(image, link_path), 0);
	ck_assert(image_facts_check_probe(link_path, name, token));
	unlink(link_path);

	/* Another token, another folder, another name. */
	ck_assert(!image_facts_check_probe(image, name, "0123456789abcdef0123456789abcdef"));
	ck_assert(!image_facts_check_probe(image, name, ""));
	snprintf(other, sizeof(other), "%s/disk.raw", away);
	ck_assert_int_eq(file_write_durable(other, "x", 1, 0600, &e), 0);
	ck_assert(!image_facts_check_probe(other, name, token));
	unlink(other);
	rmdir(away);
	ck_assert(!image_facts_check_probe(image, "disk.raw", token));
	ck_assert(!image_facts_check_probe(image, "../../etc/passwd", token));
	ck_assert(!image_facts_check_probe(image, ".vmferry-probe-0123456789abcde/", token));

	/* A link of a probe's name is not followed. */
	unlink(probe);
	snprintf(other, sizeof(other), "%s/real", dir);
	ck_assert_int_eq(file_write_durable(other, token, 32, 0600, &e), 0);
	ck_assert_int_eq(symlink(other, probe), 0);
	ck_assert(!image_facts_check_probe(image, name, token));
	free(probe);
}
END_TEST

START_TEST(stale_probes_go)
{
	struct err e = ERR_INIT;
	char *probe = NULL;
	char token[IMAGE_FACTS_TOKEN_LEN];
	char old[128], other[128];
	struct timespec times[2] = { { time(NULL) - 3600, 0 }, { time(NULL) - 3600, 0 } };

	snprintf(old, sizeof(old), "%s/.vmferry-probe-0123456789abcdef", dir);
	snprintf(other, sizeof(other), "%s/.vmferry-probe-notes", dir);
	ck_assert_int_eq(file_write_durable(old, "x", 1, 0600, &e), 0);
	ck_assert_int_eq(file_write_durable(other, "x", 1, 0600, &e), 0);
	ck_assert_int_eq(utimensat(AT_FDCWD, old, times, 0), 0);
	ck_assert_int_eq(utimensat(AT_FDCWD, other, times, 0), 0);
	ck_assert_int_eq(image_facts_make_probe(image, &probe, token, &e), 0);
	ck_assert_int_ne(access(old, F_OK), 0);
	ck_assert_int_eq(access(other, F_OK), 0);
	ck_assert_int_eq(access(probe, F_OK), 0);
	free(probe);
}
END_TEST

START_TEST(no_probe_where_nothing_can_be_written)
{
	struct err e = ERR_INIT;
	char *probe = NULL;
	char token[IMAGE_FACTS_TOKEN_LEN];
	ck_assert_int_eq(image_facts_make_probe("/proc/self/status", &probe, token, &e), -1);
	ck_assert_ptr_null(probe);
	ck_assert_int_eq(e.cls, ERR_SYS);
}
END_TEST

START_TEST(device_ids)
{
	ck_assert_ptr_null(image_facts_device_id("/dev/null"));
	ck_assert_ptr_null(image_facts_device_id(image));
	ck_assert_ptr_null(image_facts_device_id("/nonexistent"));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("image_facts");
	TCase *tc = tcase_create("image_facts");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, a_file);
	tcase_add_test(tc, what_is_not_there);
	tcase_add_test(tc, virtual_sizes);
	tcase_add_test(tc, probes);
	tcase_add_test(tc, stale_probes_go);
	tcase_add_test(tc, no_probe_where_nothing_can_be_written);
	tcase_add_test(tc, device_ids);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
