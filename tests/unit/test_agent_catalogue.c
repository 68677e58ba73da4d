/* The latest state of protections and points, as the agent keeps it for others. */
#include "base/mem.h"
#include "tools/vmferryd/catalogue.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char dir[64], path[96];
static struct outbox *outbox;

static void setup(void)
{
	struct err e = ERR_INIT;

	strcpy(dir, "/tmp/test-catalogue-XXXXXX");
	ck_assert(mkdtemp(dir) != NULL);
	snprintf(path, sizeof(path), "%s/events.db", dir);
	outbox = outbox_open(path, 0, &e);
	ck_assert_msg(outbox != NULL, "%s", e.text);
}

static void teardown(void)
{
	outbox_close(outbox);
	MEM_AUTO char *rm = mem_printf("rm -rf %s", dir);
	ck_assert_int_eq(system(rm), 0);
}

static bool collect(void *ctx, const struct outbox_state *st)
{
	char *text = ctx;
	const size_t len = strlen(text);

	snprintf(text + len, 1000 - len, "%s%s ", st->key, st->data ? "" : " gone");
	return true;
}

static void expect(const char *want)
{
	struct err e = ERR_INIT;
	char text[1000] = "";

	ck_assert_int_ge(outbox_read_states(outbox, 0, 100, collect, text, &e), 0);
	ck_assert_str_eq(text, want);
}

START_TEST(points_come_and_go)
{
	json_t *data = json_pack("{s:i}", "value", 1);
	const struct replica_news came[] = { { "p1", data }, { "p2", data }, { "p3", data } },
				  went[] = { { "p1", NULL }, { "p4", data } };

	catalogue_points(outbox, "u", came, 3);
	expect("point/u/p1 point/u/p2 point/u/p3 ");
	catalogue_points(outbox, "u", went, 2);
	expect("point/u/p2 point/u/p3 point/u/p1 gone point/u/p4 ");
	catalogue_points(outbox, "u", NULL, 0);
	ck_assert_uint_eq(outbox_last_state(outbox), 5);
	json_decref(data);
}
END_TEST

/* It takes no other with it: not those before it, not those behind. */
START_TEST(a_point_that_cannot_be_kept)
{
	json_t *data = json_pack("{s:i}", "value", 1), *array = json_array();
	char name[OUTBOX_MAX_KEY + 1];

	memset(name, 'x', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	const struct replica_news all[] = {
		{ "p1", data }, { name, data }, { "p2", data }, { "p3", array }, { "p4", data }
	};

	catalogue_points(outbox, "u", all, 5);
	expect("point/u/p1 point/u/p2 point/u/p4 ");
	json_decref(data);
	json_decref(array);
}
END_TEST

START_TEST(events_of_a_protection_are_its_state)
{
	json_t *data = json_pack("{s:s}", "vm", "web1");

	catalogue_event(outbox, "host1", "protection.started", "u", data);
	catalogue_event(outbox, "host1", "failover.done", "u", data);
	catalogue_event(outbox, "host1", "protection.started", NULL, data);
	expect("protection/u ");
	catalogue_event(outbox, "host1", "protection.stopped", "u", data);
	expect("protection/u gone ");
	json_decref(data);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("agent catalogue");
	TCase *t = tcase_create("all");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, points_come_and_go);
	tcase_add_test(t, a_point_that_cannot_be_kept);
	tcase_add_test(t, events_of_a_protection_are_its_state);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
