/* The commands about protections against a stub of the agent: what is asked, what is shown, how they exit. */
#include "tests/unit/cli_run.h"
#include "tests/unit/stub_agent.h"

static void set_up(void)
{
	signal(SIGPIPE, SIG_IGN);
	stub_start();
	run_use_socket(stub.socket);
}

START_TEST(usage)
{
	EXPECT(2, "", "which VM?", "protect", "--to", "dr1");
	EXPECT(2, "", "to which host?", "protect", "web1");
	EXPECT(2, "", "one argument too many", "protect", "web1", "web2", "--to=dr1");
	EXPECT(2, "", "--rpo: 10ms is out of range (allowed: 100ms to 1d)", "protect", "web1", "--to=dr1", "--rpo=10ms");
	EXPECT(2, "", "--every: 10.0 s is longer than --rpo, 5.0 s, which could not be held (allowed: at most --rpo)",
	       "protect", "web1", "--to=dr1", "--every=10s", "--rpo=5s");
	EXPECT(2, "", "did you mean \"colo\"?", "protect", "web1", "--to=dr1", "--mode=cool");
	EXPECT(2, "", "did you mean \"daily\"?", "protect", "web1", "--to=dr1", "--keep=dayly=3");
	EXPECT(2, "", "last: \"0\" is out of range (allowed: 1 to 10000)", "protect", "web1", "--to=dr1",
	       "--keep=last=0");
	EXPECT(2, "", "is no rule", "protect", "web1", "--to=dr1", "--keep=10");
	EXPECT(2, "", "allowed: such as 50GiB", "protect", "web1", "--to=dr1", "--keep=size=many");
	EXPECT(2, "", "allowed: such as 22:00-06:00=1G", "protect", "web1", "--to=dr1", "--window=22-6=1G");
	EXPECT(2, "", "allowed: such as 22:00-06:00=1G", "protect", "web1", "--to=dr1", "--window=22:00-22:00=1G");
	EXPECT(2, "", "1k is out of range (allowed: from 1M, or unlimited)", "protect", "web1", "--to=dr1",
	       "--window=22:00-06:00=1k");
	EXPECT(2, "", "1k is out of range (allowed: from 1M, or unlimited)", "protect", "web1", "--to=dr1",
	       "--bandwidth=1k");
	EXPECT(2, "", "--bandwidth: rate '1' is too small (allowed: from 1M, such as 500M or 1G; or unlimited)",
	       "protect", "web1", "--to=dr1", "--bandwidth=1");
	EXPECT(2, "", "--window: rate '1' is too small (allowed: from 1M, such as 500M or 1G; or unlimited)", "protect",
	       "web1", "--to=dr1", "--window=22:00-06:00=1");
	EXPECT(2, "", "out of range", "protect", "web1", "--to=dr1", "--max-pause=1m");
	EXPECT(2, "", "no absolute path", "protect", "web1", "--to=dr1", "--seed=old.qcow2");
	EXPECT(2, "", "no absolute path", "protect", "web1", "--to=dr1", "--seed=vda=old.qcow2");
	EXPECT(2, "", "no absolute path", "protect", "web1", "--to=dr1", "--seed==/old.qcow2");
	EXPECT(2, "", "of which disk is which?", "protect", "web1", "--to=dr1", "--seed=/a", "--seed=vdb=/b");
	EXPECT(2, "", "of which disk is which?", "protect", "web1", "--to=dr1", "--seed=/a", "--seed=/b");
	EXPECT(2, "", "of which disk is which?", "protect", "web1", "--to=dr1", "--seed=vda=/a", "--seed=vda=/b");
	EXPECT(2, "", "which VM?", "unprotect");
	EXPECT(2, "", "which VM?", "points");
	EXPECT(2, "", "which VM?", "verify", "--json");
	EXPECT(2, "", "which VM?", "failover");
	EXPECT(2, "", "one argument too many", "status", "web1", "web2");
	EXPECT(2, "", "into which folder?", "export", "web1");
	EXPECT(2, "", "one argument too many", "export", "web1", "/x", "/y");
	EXPECT(2, "", "did you mean \"failover\"?", "failovr", "web1");
}
END_TEST

START_TEST(protecting)
{
	EXPECT(0, "web1 -> dr1: seeding\n", "", "protect", "web1", "--to", "dr1");
	EXPECT(0, "\"host\": \"dr1\",\n    \"vm\": \"web1\"\n  }", "", "protect", "--json", "web1", "--to", "dr1");
	EXPECT(0, "\"rpo_ms\": 1500,", "", "--json", "protect", "web1", "--to=dr1", "--rpo=1.5s");
	EXPECT(0, "\"mode\": \"disk\"", "", "--json", "protect", "web1", "--to=dr1", "--mode=disk");
	EXPECT(0, "\"last\": 3,\n      \"hourly\": 24,\n      \"daily\": 0,\n      \"max_bytes\": 1073741824", "",
	       "--json", "protect", "web1", "--to=dr1", "--keep=last=3,daily=0,size=1GiB");
	EXPECT(0, "\"quiesce\": true,\n    \"max_pause_ms\": 40,\n    \"bandwidth\": 25000000", "", "--json", "protect",
	       "web1", "--to=dr1", "--quiesce", "--max-pause=40ms", "--bandwidth=200M");
	EXPECT(0,
	       "\"every_ms\": 5000,\n      \"windows\": [\n        {\n          \"from\": \"22:00\",\n          "
	       "\"to\": "
	       "\"06:30\",\n          \"bandwidth\": 125000000",
	       "", "--json", "protect", "web1", "--to=dr1", "--every=5s", "--window=22:00-06:30=1G");
	EXPECT(0, "\"seed\": {\n      \"\": \"/old=a.qcow2\"\n    }", "", "--json", "protect", "web1", "--to=dr1",
	       "--seed=/old=a.qcow2");
	EXPECT(0, "\"seed\": {\n      \"vda\": \"/a,b\",\n      \"vdb\": \"/dev/vg/old\"\n    }", "", "--json", "protect",
	       "web1", "--to=dr1", "--seed=vda=/a,b", "--seed", "vdb=/dev/vg/old");
	EXPECT(3, "", "what to do: did you mean \"web1\"? Or: virsh list --all", "protect", "webl", "--to=dr1");
	EXPECT(3, "", "there is no protection of other here\n  what to do: virsh list --all\n", "protect", "other",
	       "--to=dr1");
}
END_TEST

START_TEST(waiting_for_the_first_copy)
{
	EXPECT(0, "seeding -> dr1: protected\n", "seeding -> dr1  first copy   42 %", "protect", "seeding", "--to=dr1",
	       "--wait");
	EXPECT(1, "", "failing is failed: no space at dr1", "protect", "failing", "--to=dr1", "--wait");
	EXPECT(5, "", "fenced is fenced: failed over to dr1", "protect", "fenced", "--to=dr1", "--wait");
}
END_TEST

START_TEST(ending_and_pausing)
{
	EXPECT(0, "Replication of web1 is paused", "", "pause", "web1");
	EXPECT(0, "Replication of web1 goes on.", "", "resume", "web1");
	EXPECT(0, "web1 is not protected any more; its replica stays", "", "unprotect", "web1");
	EXPECT(0, "and its replica is gone", "", "unprotect", "--forget", "web1");
	EXPECT(0, "\"forget\": true", "", "unprotect", "--forget", "web1", "--json");
	EXPECT(0, "\"forget\": false", "", "unprotect", "web1", "--json");
	EXPECT(3, "", "did you mean \"web1\"?", "pause", "wbe1");
	EXPECT(3, "\"class\": \"refused\"", "", "resume", "wbe1", "--json");
}
END_TEST

START_TEST(status_says_how_far_behind)
{
	EXPECT(0, "web1   -> dr1 protected 800 ms of 1.0 s ", "", "status");
	EXPECT(0, "late   -> dr1 degraded  3.2 s of 1.0 s !", "", "status");
	EXPECT(0, "none   -> dr1 seeding   none yet !", "", "status");
	EXPECT(0, "gone   <- dr1 waiting   1 min 05 s of 1.0 s !", "", "status");
	EXPECT(0, "fenced -> dr1 fenced    - ", "", "status");
	EXPECT(0, "4 ms / 13 ms 12.0 Mbit/s     34 1.2 GiB colo      31.0x     0 B\n", "", "status");
	EXPECT(0, "late is degraded: the link carries 4 MB/s, the guest writes 20 MB/s\n", "", "status");
	EXPECT(0, "fenced is fenced: failed over to dr1 at 00:14\n  what to do: vmferry failback fenced, at dr1\n", "",
	       "status");
	EXPECT(0, "web1 -> dr1: protected\n  RPO             800 ms of 1.0 s\n", "", "status", "web1");
	EXPECT(0, "  capture         colo: KVM has a dirty log\n", "", "status", "web1");
	EXPECT(0, "  in all          1.2 GiB written by the guest, 40.0 MiB sent, 31.0 times less\n", "", "status",
	       "web1");
	EXPECT(0, "\"rpo_ms\": 800", "", "status", "web1", "--json");
	EXPECT(3, "", "did you mean \"late\"?", "status", "laet");
}
END_TEST

START_TEST(restore_points)
{
	EXPECT(0, "old   1 d 01 h disk   -       1.0 MiB       - NO\n", "", "points", "web1");
	EXPECT(0, " s memory colo    4.0 KiB 8.0 KiB -\n", "", "points", "web1");
	EXPECT(0, "Space: newest contents 1.0 GiB, older points 8.0 KiB, journal 64.0 KiB.\n", "", "points", "web1");
	EXPECT(0, "1 h", "", "points", "web1");
	EXPECT(0, "There is no restore point yet.", "", "points", "none");
	EXPECT(0, "\"id\": \"old\"", "", "points", "web1", "--json");
}
END_TEST

START_TEST(verifying)
{
	EXPECT(0, "every checksum holds", "web1  verifying   30 %", "verify", "web1");
	EXPECT(1, "is damaged.\n  does not verify journal segment 3, byte 4096\n", "", "verify", "bad");
	EXPECT(1, "\"problems\"", "", "verify", "bad", "--json");
	EXPECT(3, "", "there is no protection of other", "verify", "other");
}
END_TEST

START_TEST(failing_over)
{
	EXPECT(0, "web1 now runs on dr1 (running).\n  failover        planned", "restoring", "failover", "web1");
	EXPECT(0, "  measured RPO    812 ms: what the guest did in it is lost\n", "", "failover", "gone");
	EXPECT(0, "  time to running 640 ms\n  whole command   ", "", "failover", "gone");
	EXPECT(0, "20261126T001502.123Z-ab12, of 2026-11-", "", "failover", "gone");
	EXPECT(0, "\"paused\": true,\n    \"force\": true,\n    \"unplanned\": false,\n    \"point\": \"old\"", "", "failover", "gone", "--paused",
	       "--force", "--point=old", "--json");
	EXPECT(0, "\"rto_ms\": 640", "", "failover", "gone", "--json");
	EXPECT(3, "", "did you mean \"gone\"?", "failover", "gnoe");
}
END_TEST

START_TEST(failing_back_and_exporting)
{
	EXPECT(0, "web1 is back on node1 (running).\n  total           5.2 s\n  stood still     40 ms\n", "comparing",
	       "failback", "web1");
	EXPECT(0, "on the wire     1.0 MiB, 10.0 times less", "", "failback", "web1");
	EXPECT(0, "web1 is in /srv/x.\n  files           vda.qcow2\n                  domain.xml\n", "", "export",
	       "web1", "/srv/x");
	EXPECT(0, "\"point\": \"old\"", "", "export", "web1", "/srv/x", "--point", "old", "--json");
	char here[300], asked[340];
	ck_assert_ptr_nonnull(getcwd(here, sizeof(here)));
	snprintf(asked, sizeof(asked), "\"dir\": \"%s/x\"", here);
	EXPECT(0, asked, "", "export", "web1", "x", "--json");
}
END_TEST

START_TEST(ctrl_c_cancels)
{
	static const char *const commands[] = { "verify", "failover", "failback" };
	for (size_t i = 0; i < 3; i++) {
		struct run r;
		RUN(r, commands[i], "slow");
		wait_for_text(&r, "30 %");
		ck_assert_int_eq(kill(r.pid, SIGINT), 0);
		ck_assert_int_eq(finish(&r), 5);
		ck_assert_msg(strstr(text(&r.err_text), "press Ctrl-C again") != NULL, "%s", text(&r.err_text));
		done(&r);
	}
}
END_TEST

START_TEST(no_agent)
{
	stub_end();
	EXPECT(4, "", "cannot reach the agent", "status");
	EXPECT(4, "", "cannot reach the agent", "status", "--watch");
	EXPECT(4, "\"class\": \"peer\"", "", "failover", "web1", "--json");
}
END_TEST

/* ---- watching ---- */

static unsigned count(const char *in, const char *fragment)
{
	unsigned n = 0;
	for (const char *at = strstr(in, fragment); at; at = strstr(at + 1, fragment))
		n++;
	return n;
}

START_TEST(watching_in_lines)
{
	struct run r;
	RUN(r, "status", "--watch", "late");
	int64_t end = SOON;
	while (count(text(&r.out_text), "rpo 3.2 s of 1.0 s !") < 2 && clock_mono_ns() < end)
		take(&r);
	/* It outlives the agent, and goes on with the next one. */
	stub_end();
	while (!strstr(text(&r.out_text), "cannot reach the agent") && clock_mono_ns() < end)
		take(&r);
	ck_assert_msg(strstr(text(&r.out_text), "cannot reach the agent") != NULL, "%s", text(&r.out_text));
	ck_assert_int_eq(kill(r.pid, SIGINT), 0);
	ck_assert_int_eq(finish(&r), 0);
	ck_assert_uint_ge(count(text(&r.out_text),
				"late -> dr1  degraded  rpo 3.2 s of 1.0 s !  pause 4 ms / 13 ms  12.0 Mbit/s  "
				"5.0 MiB behind  the link carries"),
			  2);
	done(&r);
}
END_TEST

START_TEST(watching_for_programs)
{
	struct run r;
	RUN(r, "status", "-w", "--json");
	int64_t end = SOON;
	while (count(text(&r.out_text), "\n") < 2 && clock_mono_ns() < end)
		take(&r);
	ck_assert_int_eq(kill(r.pid, SIGTERM), 0);
	ck_assert_int_eq(finish(&r), 0);
	json_t *first = json_loads(text(&r.out_text), JSON_DISABLE_EOF_CHECK, NULL);
	ck_assert_uint_eq(json_array_size(json_object_get(first, "protections")), 5);
	ck_assert(json_is_string(json_object_get(first, "time")));
	json_decref(first);
	done(&r);
}
END_TEST

START_TEST(watching_on_a_terminal)
{
	struct run r;
	run_on_terminal(&r, 100, (const char *const[]){ "status", "--watch", NULL });
	int64_t end = SOON;
	while (count(text(&r.err_text), "\033[H") < 3 && clock_mono_ns() < end)
		take(&r);
	ck_assert_int_eq(kill(r.pid, SIGINT), 0);
	ck_assert_int_eq(finish(&r), 0);
	const char *shown = text(&r.err_text);
	/* Cleared once; then written over. */
	ck_assert_uint_eq(count(shown, "\033[2J"), 1);
	ck_assert_uint_ge(count(shown, "\033[H"), 3);
	ck_assert_uint_eq(count(shown, "\033[?2026h"), count(shown, "\033[?2026l"));
	ck_assert_msg(strstr(shown, "RPO in the last minute") != NULL, "%s", shown);
	ck_assert_msg(strstr(shown, "\033[31m3.2 s of 1.0 s !") != NULL, "%s", shown);
	ck_assert_msg(strstr(shown, "late is degraded: the link") != NULL, "%s", shown);
	/* The cursor is back. */
	const char *hide = strstr(shown, "\033[?25l"), *show = strstr(shown, "\033[?25h");
	ck_assert(hide && show && hide < show);
	done(&r);
}
END_TEST

/* ---- asking ---- */

static int answer(const char *const args[], const char *reply, const char *expected)
{
	struct run r;
	run_on_terminal(&r, 80, args);
	wait_for_text(&r, "Type yes: ");
	ck_assert_msg(strstr(text(&r.err_text), expected) != NULL, "%s", text(&r.err_text));
	ck_assert_int_eq(write(r.err, reply, strlen(reply)), (ssize_t)strlen(reply));
	int code = finish(&r);
	done(&r);
	return code;
}
#define ANSWER(reply, expected, ...) answer((const char *const[]){ __VA_ARGS__, NULL }, reply, expected)

START_TEST(what_cannot_be_taken_back_is_asked)
{
	ck_assert_int_eq(ANSWER("no\n", "from the state of 1 min 05 s ago", "failover", "gone"), 5);
	ck_assert_int_eq(ANSWER("yes\n", "it will run twice", "failover", "gone"), 0);
	ck_assert_int_eq(ANSWER("\n", "back to the point old", "failover", "web1", "--point=old"), 5);
	ck_assert_int_eq(ANSWER("\004", "no last checkpoint", "failover", "web1", "--force"), 5);
	ck_assert_int_eq(ANSWER("n\n", "will be gone for good", "unprotect", "web1", "--forget"), 5);
	struct run r;
	run_on_terminal(&r, 80, (const char *const[]){ "failover", "gone", "--yes", NULL });
	ck_assert_int_eq(finish(&r), 0);
	ck_assert_ptr_null(strstr(text(&r.err_text), "Type yes"));
	done(&r);
	/* The source answers and nothing is forced: nothing can be lost. */
	run_on_terminal(&r, 80, (const char *const[]){ "failover", "web1", NULL });
	ck_assert_int_eq(finish(&r), 0);
	ck_assert_ptr_null(strstr(text(&r.err_text), "Type yes"));
	done(&r);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cli_protect");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up, stub_stop);
	tcase_add_test(t, usage);
	tcase_add_test(t, protecting);
	tcase_add_test(t, waiting_for_the_first_copy);
	tcase_add_test(t, ending_and_pausing);
	tcase_add_test(t, status_says_how_far_behind);
	tcase_add_test(t, restore_points);
	tcase_add_test(t, verifying);
	tcase_add_test(t, failing_over);
	tcase_add_test(t, failing_back_and_exporting);
	tcase_add_test(t, ctrl_c_cancels);
	tcase_add_test(t, no_agent);
	tcase_add_test(t, watching_in_lines);
	tcase_add_test(t, watching_for_programs);
	tcase_add_test(t, watching_on_a_terminal);
	tcase_add_test(t, what_cannot_be_taken_back_is_asked);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
