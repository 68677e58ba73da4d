#include "migrator/guests.h"
#include "migrator/where.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

START_TEST(nearest)
{
	static const char *const names[] = { "web1", "web2", "db1", "mail", "webserver-long", "Gateway" };
	static const struct {
		const char *wanted;
		const char *first; /* NULL: nothing near */
	} cases[] = {
		{ "wbe1", "web1" }, { "web", "web1" },    { "WEB2", "web2" },
		{ "db", "db1" },    { "mial", "mail" },   { "gatway", "Gateway" },
		{ "x", NULL },      { "zzzzzzzz", NULL }, { "webserver", "webserver-long" },
		{ "", NULL },       { "ab", NULL },
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *out[3];
		size_t n = guests_nearest(cases[i].wanted, names, 6, out, 3);
		if (!cases[i].first) {
			ck_assert_msg(n == 0, "%s gives %s", cases[i].wanted, n ? out[0] : "");
			continue;
		}
		ck_assert_msg(n > 0, "%s gives nothing", cases[i].wanted);
		ck_assert_str_eq(out[0], cases[i].first);
	}
}
END_TEST

START_TEST(nearest_is_bounded)
{
	const char *names[40];
	char store[40][8];
	const char *out[3];
	for (int i = 0; i < 40; i++) {
		snprintf(store[i], sizeof(store[i]), "vm%02d", 39 - i);
		names[i] = store[i];
	}
	ck_assert_uint_eq(guests_nearest("vm07", names, 40, out, 3), 3);
	ck_assert_str_eq(out[0], "vm07");
	ck_assert_uint_eq(guests_nearest("vm07", names, 40, out, 1), 1);
	ck_assert_str_eq(out[0], "vm07");
	ck_assert_uint_eq(guests_nearest("vm07", names, 40, out, 0), 0);
	char longer[500];
	memset(longer, 'v', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	ck_assert_uint_eq(guests_nearest(longer, names, 40, out, 3), 0);
}
END_TEST

/* libvirt's test driver: one running domain called "test", all in this process. */
static virConnectPtr connect_test(void)
{
	struct err e = ERR_INIT;
	virConnectPtr conn = virt_open("test:///default", &e);
	ck_assert_msg(conn != NULL, "%s", e.text);
	return conn;
}

START_TEST(find)
{
	struct err e = ERR_INIT;
	VIRT_CONN_AUTO virConnectPtr conn = connect_test();
	VIRT_DOM_AUTO virDomainPtr dom = guests_find(conn, "test", &e);
	ck_assert_msg(dom != NULL, "%s", e.text);
	char uuid[VIR_UUID_STRING_BUFLEN];
	ck_assert_int_eq(virDomainGetUUIDString(dom, uuid), 0);
	VIRT_DOM_AUTO virDomainPtr same = guests_find(conn, uuid, &e);
	ck_assert_msg(same != NULL, "%s", e.text);
	ck_assert_str_eq(virDomainGetName(same), "test");

	ck_assert_ptr_null(guests_find(conn, "tset", &e));
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	ck_assert_ptr_nonnull(strstr(e.text, "no VM 'tset'"));
	ck_assert_ptr_nonnull(strstr(e.remedy, "did you mean: test?"));

	err_clear(&e);
	ck_assert_ptr_null(guests_find(conn, "something-else", &e));
	ck_assert_ptr_null(strstr(e.remedy, "did you mean"));
	err_clear(&e);
	ck_assert_ptr_null(guests_find(conn, "", &e));
	ck_assert_int_eq(e.cls, ERR_CONFIG);
}
END_TEST

START_TEST(states)
{
	struct err e = ERR_INIT;
	enum where where;
	bool persistent;
	char uuid[VIR_UUID_STRING_BUFLEN];
	VIRT_CONN_AUTO virConnectPtr conn = connect_test();
	VIRT_DOM_AUTO virDomainPtr dom = guests_find(conn, "test", &e);

	ck_assert_int_eq(virDomainGetUUIDString(dom, uuid), 0);
	ck_assert_int_eq(where_is(conn, uuid, &where, &persistent, &e), 0);
	ck_assert_int_eq(where, WHERE_RUNNING);
	ck_assert(persistent);
	ck_assert_ptr_null(guests_paused_reason(dom));
	ck_assert_int_eq(virDomainSuspend(dom), 0);
	ck_assert_int_eq(where_is(conn, uuid, &where, NULL, &e), 0);
	ck_assert_int_eq(where, WHERE_PAUSED);
	ck_assert_str_eq(guests_paused_reason(dom), "user");
	ck_assert_int_eq(virDomainDestroy(dom), 0);
	ck_assert_int_eq(where_is(conn, uuid, &where, NULL, &e), 0);
	ck_assert_int_eq(where, WHERE_SHUTOFF);
	ck_assert_int_eq(virDomainUndefine(dom), 0);
	ck_assert_int_eq(where_is(conn, uuid, &where, &persistent, &e), 0);
	ck_assert_int_eq(where, WHERE_ABSENT);
	ck_assert(!persistent);
	ck_assert_ptr_null(guests_paused_reason(dom));

	ck_assert_int_eq(where_is(conn, "not-a-uuid", &where, NULL, &e), -1);
	ck_assert_int_eq(e.cls, ERR_LIBVIRT);
}
END_TEST

START_TEST(list)
{
	struct err e = ERR_INIT;
	json_t *vms = NULL;
	VIRT_CONN_AUTO virConnectPtr conn = connect_test();
	VIRT_DOM_AUTO virDomainPtr extra =
		virDomainDefineXML(conn, "<domain type='test'><name>aaa</name><memory "
					 "unit='MiB'>64</memory><vcpu>2</vcpu><os><type>hvm</type></os>"
					 "<devices><disk type='file' device='disk'><source file='/img/a'/><target "
					 "dev='vda'/></disk></devices></domain>");
	ck_assert_ptr_nonnull(extra);
	ck_assert_int_eq(guests_list(conn, "host1", &vms, &e), 0);
	ck_assert_uint_eq(json_array_size(vms), 2);
	json_t *vm = json_array_get(vms, 0);
	ck_assert_str_eq(json_string_value(json_object_get(vm, "name")), "aaa");
	ck_assert_str_eq(json_string_value(json_object_get(vm, "state")), "shutoff");
	ck_assert_str_eq(json_string_value(json_object_get(vm, "host")), "host1");
	ck_assert_int_eq(json_integer_value(json_object_get(vm, "memory_bytes")), 64 << 20);
	ck_assert_int_eq(json_integer_value(json_object_get(vm, "vcpus")), 2);
	ck_assert(json_is_true(json_object_get(vm, "persistent")));
	ck_assert_uint_eq(json_array_size(json_object_get(vm, "disks")), 1);
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(vms, 1), "state")), "running");
	json_decref(vms);
	virDomainUndefine(extra);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("guests");
	TCase *tc = tcase_create("guests");
	tcase_add_test(tc, nearest);
	tcase_add_test(tc, nearest_is_bounded);
	tcase_add_test(tc, find);
	tcase_add_test(tc, states);
	tcase_add_test(tc, list);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
