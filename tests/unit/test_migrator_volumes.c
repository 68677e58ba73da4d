/* Volumes of storage pools, with libvirt's test driver: its pool "default-pool" is at /default-pool. */
#include "migrator/volumes.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static virConnectPtr conn;
static struct domain *dom;

static void setup(void)
{
	struct err e = ERR_INIT;

	conn = virt_open("test:///default", &e);
	ck_assert_msg(conn != NULL, "%s", e.text);
	virStoragePoolPtr pool = virStoragePoolLookupByName(conn, "default-pool");
	virStorageVolPtr made = virStorageVolCreateXML(
		pool,
		"<volume><name>web1.img</name><capacity>1024</capacity><target><format type='raw'/></target></volume>",
		0);
	ck_assert_ptr_nonnull(made);
	virStorageVolFree(made);
	virStoragePoolFree(pool);
	dom = domain_parse(
		"<domain type='test'><name>web1</name><devices>"
		"<disk type='volume'><source pool='default-pool' volume='web1.img'/><target dev='vda'/></disk>"
		"<disk type='volume'><source pool='default-pool' volume='none'/><target dev='vdb'/></disk>"
		"<disk type='volume'><source pool='none' volume='x'/><target dev='vdc'/></disk>"
		"<disk type='file'><source file='/f'/><target dev='vdd'/></disk></devices></domain>",
		&e);
	ck_assert_msg(dom != NULL, "%s", e.text);
}

static void teardown(void)
{
	domain_free(dom);
	virConnectClose(conn);
}

START_TEST(found_where_they_are)
{
	volumes_find(conn, dom);
	ck_assert_str_eq(dom->disks[0].path, "/default-pool/web1.img");
	ck_assert_int_eq(dom->disks[0].source, DOMAIN_SOURCE_FILE);
	ck_assert_ptr_null(dom->disks[1].path);
	ck_assert_int_eq(dom->disks[1].source, DOMAIN_SOURCE_OTHER);
	ck_assert_ptr_null(dom->disks[2].path);
	ck_assert_str_eq(dom->disks[3].path, "/f");
}
END_TEST

START_TEST(placed_where_the_source_has_them)
{
	struct err e = ERR_INIT;

	ck_assert_int_eq(volumes_place(conn, &dom->disks[1], "/default-pool/none", &e), 0);
	ck_assert_str_eq(dom->disks[1].path, "/default-pool/none");
	ck_assert_int_eq(dom->disks[1].source, DOMAIN_SOURCE_FILE);
	static const char *const elsewhere[] = { "/other/none",        "/default-pool",        "/default-pool/",
						 "/default-pool/../x", "/default-pool/a/none", "/default-poolnone" };
	for (size_t i = 0; i < sizeof(elsewhere) / sizeof(elsewhere[0]); i++) {
		ck_assert_int_ne(volumes_place(conn, &dom->disks[0], elsewhere[i], &e), 0);
		ck_assert_int_eq(e.cls, ERR_REFUSED);
		err_clear(&e);
	}
	ck_assert_ptr_null(dom->disks[0].path);
	ck_assert_int_ne(volumes_place(conn, &dom->disks[2], "/default-pool/x", &e), 0);
	ck_assert_ptr_nonnull(strstr(e.text, "no storage pool 'none'"));
	err_clear(&e);
	ck_assert_int_ne(volumes_place(conn, &dom->disks[3], "/default-pool/x", &e), 0);
	ck_assert_int_eq(e.cls, ERR_PROTOCOL);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("volumes");
	TCase *tc = tcase_create("volumes");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, found_where_they_are);
	tcase_add_test(tc, placed_where_the_source_has_them);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
