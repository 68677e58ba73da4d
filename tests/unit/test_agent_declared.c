/* A protection in the file is the call that the command makes. */
#include "replicator/schedule.h"
#include "tools/vmferryd/declared.h"

#include <check.h>
#include <stdlib.h>

static void expect(const char *protection, const char *args)
{
	char text[1000];
	struct err e = ERR_INIT;
	snprintf(text, sizeof(text), "name = \"a\"; peers = ( { name = \"dr1\"; } ); protections = ( { %s } );",
		 protection);
	struct config *c = config_load_text(text, "t", NULL, NULL, &e);
	ck_assert_msg(c != NULL, "%s", e.text);
	json_t *got = declared_args(&c->protections[0]), *want = json_loads(args, 0, NULL);
	ck_assert_ptr_nonnull(want);
	char *shown = json_dumps(got, JSON_COMPACT);
	ck_assert_msg(json_equal(got, want), "%s", shown);
	/* What the configuration allows, the replicator takes. */
	ck_assert_msg(schedule_check(json_object_get(got, "schedule"), &e) == 0, "%s", e.text);
	free(shown);
	json_decref(got);
	json_decref(want);
	config_free(c);
}

START_TEST(the_least)
{
	expect("vm = \"web1\"; to = \"dr1\";", "{\"vm\":\"web1\",\"host\":\"dr1\",\"rpo_ms\":5000,\"mode\":\"auto\","
					       "\"keep\":{\"last\":10,\"hourly\":24,\"daily\":7,"
					       "\"max_bytes\":0},\"quiesce\":false}");
}
END_TEST

START_TEST(everything)
{
	expect("vm = \"web1\"; to = \"dr1\"; rpo = \"2s\"; mode = \"disk\"; keep = { last = 1; hourly = 2; daily = 3; "
	       "size = \"1KiB\"; };"
	       "quiesce = true; max_pause = \"40ms\"; bandwidth = \"unlimited\"; schedule = { every = \"2s\"; windows "
	       "= ("
	       "{ from = \"22:00\"; to = \"06:05\"; bandwidth = \"1G\"; }, { from = \"06:05\"; to = \"07:00\"; every = "
	       "\"100ms\"; } ); };",
	       "{\"vm\":\"web1\",\"host\":\"dr1\",\"rpo_ms\":2000,\"mode\":\"disk\",\"keep\":{\"last\":1,\"hourly\":2,"
	       "\"daily\":3,"
	       "\"max_bytes\":1024},\"quiesce\":true,\"max_pause_ms\":40,\"bandwidth\":0,\"schedule\":{\"every_ms\":"
	       "2000,\"windows\":["
	       "{\"from\":\"22:00\",\"to\":\"06:05\",\"bandwidth\":125000000},{\"from\":\"06:05\",\"to\":\"07:00\","
	       "\"every_ms\":100}]}}");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent_declared");
	TCase *t = tcase_create("all");
	tcase_add_test(t, the_least);
	tcase_add_test(t, everything);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
