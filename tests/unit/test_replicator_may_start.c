/* What libvirt's hook asks: the records on disk, and nobody else, say whether a VM may be started here. */
#include "base/file.h"
#include "base/mem.h"
#include "replicator/epoch.h"
#include "replicator/may_start.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#define ONE "6b0e4a2c-0000-4000-8000-000000000001"
#define TWO "6b0e4a2c-0000-4000-8000-000000000002"
#define OK(x, e) ck_assert_msg((x) == 0, "%s", (e).text)
#define HAS(text, part) ck_assert_msg(strstr(text, part) != NULL, "'%s' has no '%s'", text, part)

static char dir[64], replicas[80];

static void setup(void)
{
	strcpy(dir, "/tmp/test-may-start-XXXXXX");
	ck_assert(mkdtemp(dir) != NULL);
	snprintf(replicas, sizeof(replicas), "%s/replicas", dir);
}

static void teardown(void)
{
	MEM_AUTO char *rm = mem_printf("rm -rf %s", dir);
	ck_assert_int_eq(system(rm), 0);
}

/* boot: during which the peer has last said that it is ours, or NULL. */
static void protect(const char *state, int epoch, const char *boot)
{
	struct err e = ERR_INIT;
	json_t *record = json_pack("{s:s, s:s, s:s, s:s, s:i, s:s*}", "uuid", ONE, "vm", "web1", "host", "host2",
				   "state", state, "epoch", epoch, "owner_boot", boot);

	OK(epoch_save_protection(dir, record, &e), e);
	json_decref(record);
}

static void keep(const char *state, int epoch)
{
	struct err e = ERR_INIT;
	json_t *record = json_pack("{s:s, s:s, s:s, s:s, s:i}", "uuid", ONE, "vm", "web1", "from", "host2", "state",
				   state, "epoch", epoch);

	OK(epoch_save_replica(replicas, record, &e), e);
	json_decref(record);
}

static void check_may(const char *boot)
{
	struct err e = ERR_INIT;

	OK(may_start(dir, replicas, ONE, boot, &e), e);
}

static void check_may_not(const char *boot, const char *why, const char *remedy)
{
	struct err e = ERR_INIT;

	ck_assert_int_eq(may_start(dir, replicas, ONE, boot, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
	HAS(e.text, why);
	HAS(e.remedy, remedy);
}

START_TEST(a_vm_without_a_record_may)
{
	struct err e = ERR_INIT;

	check_may("boot-1");
	protect("fenced", 3, NULL);
	OK(may_start(dir, replicas, TWO, "boot-1", &e), e);
	/* Of a folder that is not there, too. */
	OK(may_start("/nonexistent", replicas, ONE, "boot-1", &e), e);
}
END_TEST

START_TEST(one_that_is_another_hosts_must_not)
{
	protect("fenced", 3, "boot-1");
	check_may_not("boot-1", "VM web1 was taken over by host2", "'vmferry failback web1' at host2");
	check_may_not(NULL, "was taken over by host2", "");
	protect("handed-over", 4, "boot-1");
	check_may_not("boot-1", "VM web1 was handed over to host2", "unprotect web1");
}
END_TEST

START_TEST(one_that_is_ours_may)
{
	static const char *const states[] = { "active", "paused", "handing-over" };

	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		protect(states[i], 3, "boot-1");
		check_may("boot-1");
		/* A record of an agent that did not note it. */
		protect(states[i], 3, NULL);
		check_may("boot-1");
	}
}
END_TEST

/* It may have been taken over while this host was down. */
START_TEST(one_of_an_earlier_boot_must_not_until_the_peer_is_asked)
{
	protect("active", 3, "boot-1");
	check_may_not("boot-2", "nobody has asked host2 since this host booted", "vmferry unprotect web1");
	check_may(NULL);
	protect("active", 3, "boot-2");
	check_may("boot-2");
}
END_TEST

/* A promotion here of a later epoch than the record's, which is still to be removed. */
START_TEST(one_that_came_home_may)
{
	protect("handed-over", 4, "boot-1");
	keep("promoting", 5);
	check_may("boot-2");
	keep("promoted", 5);
	check_may("boot-2");
	keep("promoted", 4);
	check_may_not("boot-1", "handed over", "");
	keep("replica", 5);
	check_may_not("boot-1", "handed over", "");
	keep("promoting", 3);
	protect("fenced", 3, "boot-1");
	check_may_not("boot-1", "taken over", "");
}
END_TEST

START_TEST(a_replica_alone_keeps_nothing_from_starting)
{
	keep("replica", 2);
	check_may("boot-1"); /* it may be migrated to its replica's host */
	keep("promoting", 3);
	check_may("boot-1");
}
END_TEST

START_TEST(one_whose_record_cannot_be_read_must_not)
{
	static const char *const bad[] = { "", "{\"uuid\":",
					   "{\"uuid\":\"" TWO
					   "\",\"vm\":\"web1\",\"host\":\"host2\",\"state\":\"active\",\"epoch\":1}" };
	MEM_AUTO char *folder = mem_printf("%s/protections", dir), *path = mem_printf("%s/" ONE ".json", folder);
	struct err e = ERR_INIT;

	OK(file_mkdirs(folder, 0700, &e), e);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		OK(file_write_durable(path, bad[i], strlen(bad[i]), 0600, &e), e);
		check_may_not("boot-1", "cannot be told", "look at both hosts");
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replicator/may_start");
	TCase *t = tcase_create("records");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, a_vm_without_a_record_may);
	tcase_add_test(t, one_that_is_another_hosts_must_not);
	tcase_add_test(t, one_that_is_ours_may);
	tcase_add_test(t, one_of_an_earlier_boot_must_not_until_the_peer_is_asked);
	tcase_add_test(t, one_that_came_home_may);
	tcase_add_test(t, a_replica_alone_keeps_nothing_from_starting);
	tcase_add_test(t, one_whose_record_cannot_be_read_must_not);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	const int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
