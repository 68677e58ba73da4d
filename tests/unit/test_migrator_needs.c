/* What a definition asks of a host that it does not have. libvirt's test driver has a network "default", and no secrets or filters. */
#include "migrator/needs.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *devices, *what, *text; /* what: NULL, nothing is missed */
} cases[] = {
	{ "<interface type='network'><source network='default'/></interface>", NULL, NULL },
	{ "<interface type='network'><source network='lan'/></interface>", "network-missing", "'lan'" },
	{ "<interface type='bridge'><source network='lan' bridge='lo'/></interface>", "network-missing", "'lan'" },
	{ "<interface type='bridge'><source bridge='nobr'/></interface>", "bridge-missing", "'nobr'" },
	{ "<interface type='bridge'><source bridge='nobr'/><virtualport type='openvswitch'/></interface>",
	  "bridge-missing", "'nobr'" },
	{ "<interface type='bridge'><source bridge='lo'/><virtualport type='openvswitch'/></interface>", NULL, NULL },
	{ "<interface type='direct'><source dev='noeth' mode='bridge'/></interface>", "interface-missing", "'noeth'" },
	{ "<interface type='direct'><source dev='lo' mode='bridge'/></interface>", NULL, NULL },
	{ "<interface type='user'/>", NULL, NULL },
	/* cannot be asked here */
	{ "<interface type='user'><filterref filter='f'/></interface>", NULL, NULL },
	{ "<disk type='network'><source protocol='rbd' name='p/i'/><auth username='a'><secret type='ceph' "
	  "usage='c'/></auth>"
	  "<target dev='vda'/></disk>",
	  NULL, NULL },
};

START_TEST(missed)
{
	struct err e = ERR_INIT;
	virConnectPtr conn = virt_open("test:///default", &e);
	struct preflight_findings f;
	char xml[1000];

	ck_assert_msg(conn != NULL, "%s", e.text);
	snprintf(xml, sizeof(xml), "<domain type='kvm'><name>a</name><devices>%s</devices></domain>", cases[_i].devices);
	DOMAIN_AUTO struct domain *d = domain_parse(xml, &e);
	ck_assert_msg(d != NULL, "%s", e.text);
	json_t *facts = needs_facts(conn, d);
	preflight_findings_init(&f);
	needs_judge(d, facts, "host2", PREFLIGHT_ERROR, &f);
	ck_assert_uint_eq(f.errors, cases[_i].what != NULL);
	if (f.errors) {
		const json_t *found = preflight_find(&f, cases[_i].what);
		ck_assert_ptr_nonnull(found);
		ck_assert_ptr_nonnull(strstr(json_string_value(json_object_get(found, "text")), cases[_i].text));
	}
	preflight_findings_fini(&f);
	json_decref(facts);
	virConnectClose(conn);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("needs");
	TCase *tc = tcase_create("needs");
	tcase_add_loop_test(tc, missed, 0, sizeof(cases) / sizeof(cases[0]));
	suite_add_tcase(s, tc);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
