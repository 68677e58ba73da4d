#include "base/clock.h"
#include "migrator/facts.h"

#include <check.h>
#include <string.h>

START_TEST(meminfo)
{
	static const char text[] = "MemTotal:       24576000 kB\nMemFree:          100000 kB\nMemAvailable:   2000000 "
				   "kB\nHugePages_Free: 3\n";
	ck_assert_uint_eq(facts_meminfo(text, "MemTotal"), UINT64_C(24576000) << 10);
	ck_assert_uint_eq(facts_meminfo(text, "MemAvailable"), UINT64_C(2000000) << 10);
	ck_assert_uint_eq(facts_meminfo(text, "Mem"), 0);
	ck_assert_uint_eq(facts_meminfo(text, "SwapFree"), 0);
	ck_assert_uint_eq(facts_meminfo("", "MemTotal"), 0);
}
END_TEST

START_TEST(emulators)
{
	static const char caps[] =
		"<capabilities><host/>"
		"<guest><os_type>hvm</os_type><arch name='x86_64'><wordsize>64</wordsize>"
		"<emulator>/usr/bin/qemu-system-x86_64</emulator><machine maxCpus='255'>pc-i440fx-7.2</machine>"
		"<machine canonical='pc-i440fx-7.2' maxCpus='255'>pc</machine><domain type='qemu'/><domain "
		"type='kvm'/></arch></guest>"
		"<guest><os_type>xen</os_type><arch name='x86_64'/></guest></capabilities>";
	json_t *list = facts_emulators(caps);
	ck_assert_uint_eq(json_array_size(list), 1);
	json_t *x = json_array_get(list, 0);
	ck_assert_str_eq(json_string_value(json_object_get(x, "path")), "/usr/bin/qemu-system-x86_64");
	ck_assert_uint_eq(json_array_size(json_object_get(x, "types")), 2);
	json_t *machines = json_object_get(x, "machines");
	ck_assert_uint_eq(json_array_size(machines), 2);
	ck_assert_ptr_null(json_object_get(json_array_get(machines, 0), "canonical"));
	ck_assert_str_eq(json_string_value(json_object_get(json_array_get(machines, 1), "canonical")), "pc-i440fx-7.2");
	json_decref(list);
	list = facts_emulators("broken");
	ck_assert_uint_eq(json_array_size(list), 0);
	json_decref(list);
}
END_TEST

START_TEST(spare_memory)
{
	json_t *none = json_array();
	json_t *before = facts_memory(none);
	json_int_t available = json_integer_value(json_object_get(before, "available_bytes"));
	ck_assert_int_gt(available, 0);
	ck_assert_int_gt(json_integer_value(json_object_get(before, "total_bytes")), available);
	ck_assert_int_eq(json_integer_value(json_object_get(before, "spare_bytes")), available);

	json_t *vms = json_pack("[{s:I,s:I},{s:I,s:I},{s:I,s:I,s:b}]", "memory_bytes", (json_int_t)3000, "rss_bytes",
				(json_int_t)1000, "memory_bytes", (json_int_t)500, "rss_bytes", (json_int_t)900,
				"memory_bytes", (json_int_t)70000, "rss_bytes", (json_int_t)0, "hugepages", 1);
	json_t *some = facts_memory(vms);
	ck_assert_int_eq(json_integer_value(json_object_get(some, "promised_bytes")), 2000);

	json_t *huge = json_pack("[{s:I,s:I}]", "memory_bytes", (json_int_t)1 << 60, "rss_bytes", (json_int_t)0);
	json_t *full = facts_memory(huge);
	ck_assert_int_eq(json_integer_value(json_object_get(full, "spare_bytes")), 0);
	json_decref(none);
	json_decref(before);
	json_decref(vms);
	json_decref(some);
	json_decref(huge);
	json_decref(full);
}
END_TEST

START_TEST(gathered_from_the_test_driver)
{
	struct err e = ERR_INIT;
	json_t *facts = NULL;
	VIRT_CONN_AUTO virConnectPtr conn = virt_open("test:///default", &e);
	ck_assert_ptr_nonnull(conn);
	ck_assert_msg(facts_gather(conn, "host1", &facts, &e) == 0, "%s", e.text);
	ck_assert_str_eq(json_string_value(json_object_get(facts, "name")), "host1");
	ck_assert_int_gt(json_integer_value(json_object_get(facts, "libvirt_version")), 8000000);
	int64_t skew = clock_wall_ns() - json_integer_value(json_object_get(facts, "time_ns"));
	ck_assert(skew >= 0 && skew < 10 * NS_PER_S);
	static const char *const members[] = { "kernel",  "arch",       "kvm",  "cpus",         "cpu",
					       "memory",  "emulators",  "vms",  "pools",        "networks",
					       "bridges", "interfaces", "qemu", "agent_version" };
	for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
		ck_assert_msg(json_object_get(facts, members[i]) != NULL, "%s", members[i]);
	json_t *net = json_array_get(json_object_get(facts, "networks"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(net, "name")), "default");
	ck_assert(json_is_true(json_object_get(net, "active")));
	json_t *pool = json_array_get(json_object_get(facts, "pools"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(pool, "path")), "/default-pool");
	json_decref(facts);
}
END_TEST

START_TEST(own_addresses)
{
	json_t *list = facts_addresses();
	bool loopback = false;
	size_t i;
	json_t *a;
	json_array_foreach (list, i, a)
		loopback = loopback || strcmp(json_string_value(a), "127.0.0.1") == 0;
	if (json_array_size(list) > 0)
		ck_assert(loopback);
	json_decref(list);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("facts");
	TCase *tc = tcase_create("facts");
	tcase_add_test(tc, meminfo);
	tcase_add_test(tc, emulators);
	tcase_add_test(tc, spare_memory);
	tcase_add_test(tc, gathered_from_the_test_driver);
	tcase_add_test(tc, own_addresses);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
