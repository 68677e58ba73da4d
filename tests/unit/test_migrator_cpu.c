#include "migrator/cpu.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static void expect(json_t *list, const char *joined)
{
	char text[500] = "";
	size_t i;
	json_t *name;
	ck_assert_ptr_nonnull(list);
	json_array_foreach (list, i, name) {
		if (i)
			strcat(text, " ");
		strcat(text, json_string_value(name));
	}
	ck_assert_str_eq(text, joined);
	json_decref(list);
}

START_TEST(missing_features)
{
	static const struct {
		const char *message, *expected;
	} cases[] = {
		{ "compare CPUs: the CPU is incompatible with host CPU: Host CPU does not provide required features: "
		  "pcid, x2apic, hle, rtm",
		  "hle pcid rtm x2apic" },
		{ "Host CPU does not provide required features: sse4.1", "sse4.1" },
		{ "missing features: avx512f, avx512f, clwb", "avx512f clwb" },
		{ "CPU vendors: Intel does not match AMD", "" },
		{ "the CPU is incompatible with host CPU", "" },
		{ "features:", "" },
		{ "features: a b", "" },
		{ "", "" },
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		expect(cpu_missing_from_message(cases[i].message), cases[i].expected);
}
END_TEST

START_TEST(features)
{
	struct err e = ERR_INIT;
	expect(cpu_features("<cpu mode='custom'><model>Westmere</model><feature policy='require' name='vme'/>"
			    "<feature policy='disable' name='rtm'/><feature policy='force' name='aes'/>"
			    "<feature policy='optional' name='x'/><feature name='b'/></cpu>",
			    &e),
	       "aes b vme");
	expect(cpu_features("<cpu/>", &e), "");
	ck_assert_ptr_null(cpu_features("<domain/>", &e));
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	ck_assert_ptr_null(cpu_features("<cpu>", &e));

	char *model = cpu_model("<cpu><model fallback='forbid'> Penryn </model></cpu>");
	ck_assert_str_eq(model, "Penryn");
	free(model);
	ck_assert_ptr_null(cpu_model("<cpu/>"));
	ck_assert_ptr_null(cpu_model("x"));
}
END_TEST

START_TEST(difference)
{
	json_t *a = json_pack("[sss]", "a", "b", "c");
	json_t *b = json_pack("[ss]", "b", "d");
	expect(cpu_difference(a, b), "a c");
	expect(cpu_difference(b, a), "d");
	expect(cpu_difference(a, a), "");
	expect(cpu_difference(a, NULL), "a b c");
	json_decref(a);
	json_decref(b);
}
END_TEST

START_TEST(host_model)
{
	static const char caps[] =
		"<domainCapabilities><domain>qemu</domain><cpu><mode name='host-passthrough' supported='no'/>"
		"<mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model><vendor>AMD</vendor>"
		"<feature policy='require' name='acpi'/><feature policy='disable' name='vme'/></mode>"
		"<mode name='custom' supported='yes'><model "
		"usable='yes'>qemu64</model></mode></cpu></domainCapabilities>";
	struct err e = ERR_INIT;
	char *xml = cpu_host_model_from_caps(caps);
	ck_assert_ptr_nonnull(xml);
	ck_assert_int_eq(strncmp(xml, "<cpu mode=\"custom\" match=\"exact\">", 33), 0);
	expect(cpu_features(xml, &e), "acpi");
	free(xml);
	ck_assert_ptr_null(cpu_host_model_from_caps(
		"<domainCapabilities><cpu><mode name='host-model' supported='no'/></cpu></domainCapabilities>"));
	ck_assert_ptr_null(cpu_host_model_from_caps("nonsense"));
}
END_TEST

START_TEST(verdicts)
{
	for (int i = CPU_IDENTICAL; i <= CPU_UNKNOWN; i++)
		ck_assert_int_eq(cpu_verdict_from_name(cpu_verdict_name((enum cpu_verdict)i)), i);
	ck_assert_int_eq(cpu_verdict_from_name(NULL), CPU_UNKNOWN);
	ck_assert_int_eq(cpu_verdict_from_name("fine"), CPU_UNKNOWN);
}
END_TEST

START_TEST(baseline_refuses_bad_arguments)
{
	static const char *const bad[] = {
		"{}",
		"{\"hosts\":[]}",
		"{\"hosts\":[{\"name\":\"a\"}]}",
		"{\"hosts\":[{\"name\":\"a\",\"cpu_xml\":\"<domain/>\"}]}",
		("{\"hosts\":[{\"name\":\"a\",\"cpu_xml\":\"<cpu/>\",\"virt_type\":\"kvm\"},"
		 "{\"name\":\"b\",\"cpu_xml\":\"<cpu/>\",\"virt_type\":\"qemu\"}]}"),
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct err e = ERR_INIT;
		json_t *args = json_loads(bad[i], 0, NULL);
		json_t *result = NULL;
		ck_assert_ptr_nonnull(args);
		ck_assert_int_eq(cpu_baseline(NULL, args, &result, &e), -1);
		ck_assert_ptr_null(result);
		ck_assert(err_is_set(&e));
		json_decref(args);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cpu");
	TCase *tc = tcase_create("cpu");
	tcase_add_test(tc, missing_features);
	tcase_add_test(tc, features);
	tcase_add_test(tc, difference);
	tcase_add_test(tc, host_model);
	tcase_add_test(tc, verdicts);
	tcase_add_test(tc, baseline_refuses_bad_arguments);
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
