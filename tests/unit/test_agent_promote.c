/* Where files of a VM go on this host, whatever the definition from the other one says. Nothing is asked of libvirt. */
#include "base/mem.h"
#include "tools/vmferryd/promote_host.h"
#include "tools/vmferryd/takeover.h"

#include "vm_store.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UUID "11111111-2222-3333-4444-555555555555"
#define FIRMWARE(nvram)                                                                                        \
	"<domain type='kvm'><name>web1</name><uuid>" UUID "</uuid><os><type>hvm</type>" nvram "</os><devices>" \
	"<disk type='file' device='disk'><source file='/etc/vms/web1.img'/><target "                           \
	"dev='vda'/></disk></devices></domain>"

static struct promote_host *host(void)
{
	const struct promote_host_opts o = { .libvirt_uri = "test:///default",
					     .run_dir = "/run",
					     .image_dir = "/images" };
	struct err e = ERR_INIT;
	struct promote_host *p = promote_host_new(&o, &e);
	ck_assert_msg(p != NULL, "%s", e.text);
	return p;
}

START_TEST(variables)
{
	struct err e = ERR_INIT;
	struct promote_host *p = host();
	struct promote_spec s = { .uuid = UUID, .name = "web1", .xml = FIRMWARE("<nvram>/etc/cron.d/x</nvram>") };
	MEM_AUTO char *path = promote_host_ops.file_path(p, &s, "nvram", &e);
	ck_assert_msg(path != NULL, "%s", e.text);
	ck_assert_str_eq(path, "/var/lib/libvirt/qemu/nvram/" UUID "_VARS.fd");
	/* And QEMU is told the same. */
	MEM_AUTO char *xml = promote_host_ops.map(p, &s, NULL, &e);
	ck_assert_ptr_null(xml); /* its disk is not among the replica's */
	const struct promote_disk disk = { .target = "vda",
					   .path = (char[]){ "/images/web1-vda.qcow2" },
					   .format = "qcow2" };
	s.disks = &disk;
	s.n_disks = 1;
	err_clear(&e);
	json_t *findings = json_array();
	MEM_AUTO char *mapped = promote_host_ops.map(p, &s, findings, &e);
	ck_assert_msg(mapped != NULL, "%s", e.text);
	ck_assert_ptr_nonnull(strstr(mapped, path));
	ck_assert_ptr_null(strstr(mapped, "/etc"));
	ck_assert_uint_eq(json_array_size(findings), 1);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(findings, 0), "what")), "disk-folder");
	json_decref(findings);
	/* A rehearsal's own; no firmware, no file; and no path by what is no UUID. */
	s.nvram = "/run/drill_VARS.fd";
	MEM_AUTO char *own = promote_host_ops.file_path(p, &s, "nvram", &e);
	ck_assert_str_eq(own, s.nvram);
	s.nvram = NULL;
	s.xml = FIRMWARE("");
	ck_assert_ptr_null(promote_host_ops.file_path(p, &s, "nvram", &e));
	ck_assert(!err_is_set(&e));
	s.uuid = "../../../etc/x";
	ck_assert_ptr_null(promote_host_ops.file_path(p, &s, "nvram", &e));
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	promote_host_free(p);
}
END_TEST

START_TEST(images)
{
	struct err e = ERR_INIT;
	struct promote_host *p = host();
	MEM_AUTO char *folder = promote_host_ops.disk_dir(p, FIRMWARE(""), "vda", &e);
	ck_assert_msg(folder != NULL, "%s", e.text);
	ck_assert_str_eq(folder, "/images");
	promote_host_free(p);
}
END_TEST

static int check_last(struct store *s, const char *point, int64_t instant_ns, struct err *e)
{
	json_t *said = json_pack("{s:s}", "point", point);

	if (instant_ns)
		json_object_set_new(said, "instant_ns", json_integer(instant_ns));
	err_clear(e);
	const int rc = takeover_check_last(s, said, "host1", e);
	json_decref(said);
	return rc;
}

/* What a source says it has handed over is here, or the failover stops. */
START_TEST(last_point)
{
	char dir[] = "/var/tmp/vmferry-promote-XXXXXX";
	ck_assert_ptr_nonnull(mkdtemp(dir));
	MEM_AUTO char *path = mem_printf("%s/store", dir);
	struct err e = ERR_INIT;
	struct store *s = vm_store_empty(path);

	ck_assert_int_eq(check_last(s, "p1", 0, &e), -1);
	ck_assert_int_eq(check_last(s, "p1", 1000, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	(void)vm_store_put(s, "p1", "memory", NULL, NULL, 0);
	(void)vm_store_put(s, "p2", "memory", NULL, NULL, 0);
	ck_assert_msg(check_last(s, "p2", 1000, &e) == 0, "%s", e.text);
	/* Points that were acknowledged are gone, or there are some that never were. */
	ck_assert_int_eq(check_last(s, "p3", 2000, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	ck_assert_ptr_nonnull(strstr(e.text, "in point 'p3' of 1970-01-01T00:00:00"));
	ck_assert_ptr_nonnull(strstr(e.text, "was committed here; the newest here is 'p2' of"));
	ck_assert_ptr_nonnull(strstr(e.remedy, "this replica has lost points: 'vmferry resume' at host1"));
	ck_assert_int_eq(check_last(s, "p1", 1000, &e), -1);
	/* An agent of before may name one that it noted earlier. */
	ck_assert_msg(check_last(s, "p1", 0, &e) == 0, "%s", e.text);
	ck_assert_int_eq(check_last(s, "p3", 0, &e), -1);
	ck_assert_int_eq(e.cls, ERR_PEER);
	ck_assert_ptr_nonnull(strstr(e.text, "'p3', which is not here; the newest is 'p2'"));
	ck_assert_int_eq(check_last(s, "", 0, &e), -1);
	store_close(s);
	ck_assert_int_eq(store_destroy(path, &e), 0);
	ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

/* A VM that was moved on to a third host is not started from its replica besides. */
START_TEST(elsewhere)
{
	static const struct {
		const char *state;
		int rc;
	} cases[] = { { "running", -1 },          { "paused", -1 }, { "incoming", -1 }, { "left", -1 },
		      { "of a newer agent", -1 }, { "shutoff", 0 }, { "absent", 0 } };
	struct err e = ERR_INIT;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_t *there = json_pack("{s:s}", "state", cases[i].state);
		err_clear(&e);
		ck_assert_int_eq(takeover_check_elsewhere(there, "web1", "host3", &e), cases[i].rc);
		json_decref(there);
		if (cases[i].rc == 0)
			continue;
		ck_assert_int_eq(e.cls, ERR_REFUSED);
		ck_assert_ptr_nonnull(strstr(e.text, "web1 is on host3"));
	}
	err_clear(&e);
	ck_assert_int_eq(takeover_check_elsewhere(NULL, "web1", "host3", &e), 0); /* it has not answered */
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent/promote");
	TCase *tc = tcase_create("promote");
	tcase_add_test(tc, variables);
	tcase_add_test(tc, images);
	tcase_add_test(tc, last_point);
	tcase_add_test(tc, elsewhere);
	suite_add_tcase(s, tc);
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
