#include "base/mem.h"
#include "migrator/virt.h"

#include <check.h>
#include <string.h>

START_TEST(opens_and_shares)
{
	struct err e = ERR_INIT;
	struct virt *v = virt_new("test:///default", &e);
	ck_assert_msg(v != NULL, "%s", e.text);
	ck_assert_str_eq(virt_uri(v), "test:///default");
	VIRT_CONN_AUTO virConnectPtr a = virt_get(v, &e);
	VIRT_CONN_AUTO virConnectPtr b = virt_get(v, &e);
	ck_assert_ptr_nonnull(a);
	ck_assert_ptr_eq(a, b);
	virt_free(v);
	/* Our references outlive it. */
	ck_assert_int_eq(virConnectIsAlive(a), 1);
	virt_free(NULL);
}
END_TEST

START_TEST(daemon_down)
{
	struct err e = ERR_INIT;
	struct virt *v = virt_new("qemu+unix:///system?socket=/nonexistent/libvirt-sock&mode=direct", &e);
	ck_assert_ptr_nonnull(v);
	ck_assert_ptr_null(virt_get(v, &e));
	ck_assert_int_eq(e.cls, ERR_LIBVIRT);
	ck_assert_ptr_nonnull(strstr(e.text, "connect to libvirt at qemu+unix:///system?socket=/nonexistent"));
	ck_assert_ptr_nonnull(strstr(e.text, "No such file"));
	ck_assert_ptr_nonnull(strstr(e.remedy, "libvirtd"));
	/* Not remembered: the next call tries again. */
	err_clear(&e);
	ck_assert_ptr_null(virt_get(v, &e));
	ck_assert(err_is_set(&e));
	virt_free(v);
}
END_TEST

START_TEST(errors_are_copied)
{
	struct err e = ERR_INIT;
	VIRT_CONN_AUTO virConnectPtr conn = virt_open("test:///default", &e);
	ck_assert_ptr_nonnull(conn);
	ck_assert_ptr_null(virDomainLookupByName(conn, "nowhere"));
	ck_assert_int_eq(virt_err(&e, "look up %s", "nowhere"), -1);
	ck_assert(virt_err_is(&e, VIR_ERR_NO_DOMAIN));
	ck_assert(!virt_err_is(&e, VIR_ERR_OK));
	ck_assert_int_eq(strncmp(e.text, "look up nowhere: ", 17), 0);
	ck_assert_ptr_null(strchr(e.text, '\n'));
	ck_assert_ptr_nonnull(strstr(e.remedy, "vmferry vms"));

	struct err other = ERR_INIT;
	err_set(&other, ERR_SYS, "x");
	ck_assert(!virt_err_is(&other, 0));
}
END_TEST

START_TEST(without_an_error)
{
	struct err e = ERR_INIT;
	ck_assert_int_eq(virt_init(&e), 0);
	virResetLastError();
	ck_assert_int_eq(virt_err(&e, "do something"), -1);
	ck_assert_int_eq(e.cls, ERR_LIBVIRT);
	ck_assert_str_eq(e.text, "do something: libvirt gave no reason");
}
END_TEST

START_TEST(versions)
{
	char buf[32];
	ck_assert_str_eq(virt_format_version(7002022, buf, sizeof(buf)), "7.2.22");
	ck_assert_str_eq(virt_format_version(10000002, buf, sizeof(buf)), "10.0.2");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("virt");
	TCase *tc = tcase_create("virt");
	tcase_add_test(tc, opens_and_shares);
	tcase_add_test(tc, daemon_down);
	tcase_add_test(tc, errors_are_copied);
	tcase_add_test(tc, without_an_error);
	tcase_add_test(tc, versions);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
