/* Results as people read them, and options as the agent gets them. */
#include "tools/vmferry/move_options.h"
#include "tools/vmferry/replication.h"
#include "tools/vmferry/report.h"

#include "tools/vmferry/exit_code.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef void (*reporter)(const json_t *in, struct buf *out);

static void expect(reporter fn, const char *json, const char *text)
{
	BUF_AUTO struct buf out = BUF_INIT;
	json_t *in = json_loads(json, JSON_DECODE_ANY, NULL);
	ck_assert_ptr_nonnull(in);
	fn(in, &out);
	ck_assert_str_eq(out.len ? (const char *)out.data : "", text);
	json_decref(in);
}

START_TEST(a_migration)
{
	expect(report_migration,
	       "{\"vm\":\"web1\",\"uuid\":\"u\",\"from\":\"node1\",\"to\":\"node2\",\"runs_on\":\"node2\",\"state\":"
	       "\"running\","
	       "\"total_ms\":6123,\"downtime_ms\":45,\"qemu_bytes\":1073741824,\"disk_bytes\":262144000,\"wire_bytes\":"
	       "327155712,"
	       "\"ratio\":4.08,\"iterations\":3,\"passthrough\":null,\"warnings\":[\"the clock lost 45 ms\"]}",
	       "web1 is now on node2 (running).\n"
	       "  moved           node1 -> node2\n"
	       "  total           6.1 s\n"
	       "  downtime        45 ms\n"
	       "  memory, by QEMU 1.0 GiB\n"
	       "  disks           250 MiB\n"
	       "  on the wire     312 MiB, 4.1 times less\n"
	       "  passes          3\n"
	       "  warning         the clock lost 45 ms\n");
}
END_TEST

START_TEST(a_migration_that_says_little)
{
	expect(report_migration, "{\"vm\":\"a\",\"runs_on\":\"b\",\"state\":\"shutoff\"}", "a is now on b (shutoff).\n");
	expect(report_migration, "{}", "the VM is now on ? (running).\n");
	expect(report_migration, "{\"vm\":\"a\\u001b\",\"runs_on\":\"b\",\"passthrough\":\"unknown flag\"}",
	       "a? is now on b (running).\n  note            not compressed by pages: unknown flag\n");
}
END_TEST

START_TEST(a_failover)
{
	setenv("TZ", "UTC", 1);
	expect(report_failover,
	       "{\"vm\":\"web1\",\"runs_on\":\"dr1\",\"state\":\"running\",\"planned\":false,\"rpo_ms\":812,\"rto_ms\":"
	       "640.4,"
	       "\"point_age_ms\":9000,\"command_ms\":650,\"epoch\":4,\"phases\":{\"look_ms\":12,\"start_ms\":400.0,"
	       "\"x\":1},"
	       "\"point\":{\"id\":\"20261126T001502.123Z-ab12\",\"instant_ns\":1795652102123000000},\"warnings\":["
	       "\"w\"],"
	       "\"findings\":[{\"severity\":\"warning\",\"text\":\"br0 is not "
	       "here\",\"remedy\":\"restore.networks\"}]}",
	       "web1 now runs on dr1 (running).\n"
	       "  failover        unplanned, from what had arrived here\n"
	       "  measured RPO    812 ms: what the guest did in it is lost\n"
	       "  point           20261126T001502.123Z-ab12, of 2026-11-26 00:15:02\n"
	       "  time to running 640 ms\n"
	       "  of which        look 12 ms, start 400 ms\n"
	       "  whole command   650 ms\n"
	       "  epoch           4\n"
	       "  warning         w\n"
	       "  warning: br0 is not here\n"
	       "      what to do: restore.networks\n");
	/* When the source ended is not known: an upper bound, and said to be one. */
	expect(report_failover,
	       "{\"vm\":\"a\",\"host\":\"b\",\"point_age_ms\":9000,\"point\":{\"id\":\"i\",\"kind\":\"disk\"}}",
	       "a now runs on b (running).\n"
	       "  failover        unplanned, from what had arrived here\n"
	       "  RPO             at most 9.0 s: what the guest did in it is lost\n"
	       "  point           i; without memory: the guest boots\n");
	expect(report_failover,
	       "{\"vm\":\"a\",\"host\":\"b\",\"planned\":true,\"state\":\"promoted\",\"paused\":true,\"rpo_ms\":3}",
	       "a now runs on b (paused).\n  failover        planned: a last checkpoint was made, nothing is lost\n");
	expect(report_failover, "{\"vm\":\"a\\u001b\"}",
	       "a? now runs on ? (running).\n  failover        unplanned, from what had arrived here\n");
}
END_TEST

START_TEST(pauses_are_exact_where_they_can_be)
{
	static const struct {
		const char *row, *shown;
	} rows[] = {
		{ "{\"pause_p50_ms\":0,\"pause_p99_ms\":3,\"pause_p50_us\":412,\"pause_p99_us\":2900}",
		  "412 us / 3 ms" },
		{ "{\"pause_p50_ms\":4,\"pause_p99_ms\":12.5}", "4 ms / 13 ms" },
		{ "{\"pause_p50_ms\":null,\"pause_p99_us\":1}", "-" },
	};
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char text[80];
		json_t *row = json_loads(rows[i].row, 0, NULL);
		ck_assert_ptr_nonnull(row);
		ck_assert_str_eq(replication_pause(row, text, sizeof(text)), rows[i].shown);
		json_decref(row);
	}
}
END_TEST

START_TEST(a_verification)
{
	json_t *damaged = json_loads("{\"vm\":\"a\",\"verified\":false}", 0, NULL),
	       *good = json_loads("{\"problems\":[]}", 0, NULL);
	ck_assert(!report_verified(damaged));
	ck_assert(report_verified(good));
	json_decref(damaged);
	json_decref(good);
	expect(report_verify, "{\"vm\":\"a\",\"problems\":[{\"text\":\"x\"},\"y\"]}",
	       "The replica of a is damaged.\n  does not verify x\n  does not verify y\n");
}
END_TEST

START_TEST(findings)
{
	const char *json =
		"[{\"code\":\"cpu\",\"severity\":\"error\",\"text\":\"the CPU of node2 lacks avx2\",\"remedy\":\"use a "
		"baseline\"},{\"severity\":\"warning\",\"text\":\"clocks "
		"differ\"},{\"severity\":\"info\",\"code\":\"x\"}]";
	expect(report_findings, json,
	       "  no: the CPU of node2 lacks avx2\n      what to do: use a baseline\n  warning: clocks differ\n  note: "
	       "x\n");
	expect(report_findings, "[]", "");
	json_t *f = json_loads(json, 0, NULL);
	ck_assert_uint_eq(report_refusals(f), 1);
	json_decref(f);
}
END_TEST

START_TEST(forecasts)
{
	expect(report_forecast,
	       "{\"known\":true,\"total_ms\":8000,\"downtime_ms\":120,\"ram_bytes\":1073741824,\"disk_bytes\":0,"
	       "\"wire_bytes\":429496729,\"link_bytes_s\":118500000,\"dirty_bytes_s\":0,\"text\":\"About 8 s.\"}",
	       "Forecast\n  total           8.0 s\n  downtime        120 ms\n  memory          1.0 GiB\n  on the wire  "
	       "   410 MiB\n"
	       "  link            948 Mbit/s\n  guest writes    0 B/s\n  About 8 s.\n");
	expect(report_forecast, "{\"total_ms\":null,\"link_bytes_s\":null}", "Forecast\n");
	expect(report_forecast, "null", "");
}
END_TEST

/* Options come in through argp, which exits when they are wrong: so each case is a process. The JSON comes back
 * through a pipe. */
static error_t no_args(int key, char *arg, struct argp_state *state)
{
	(void)arg;
	if (key == ARGP_KEY_INIT)
		state->child_inputs[0] = state->input;
	return key == ARGP_KEY_INIT ? 0 : ARGP_ERR_UNKNOWN;
}

static int run_options(const char *option, char *out, size_t size)
{
	int fds[2];
	ck_assert_int_eq(pipe(fds), 0);
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		static const struct argp_child children[] = { { &move_options_argp, 0, NULL, 0 }, { 0 } };
		static const struct argp argp = { .parser = no_args, .children = children };
		char name[] = "test", copy[200];
		snprintf(copy, sizeof(copy), "%s", option);
		char *argv[] = { name, copy, NULL };
		struct move_options o;
		int null = open("/dev/null", O_WRONLY);
		dup2(null, STDERR_FILENO);
		argp_err_exit_status = EXIT_CODE_USAGE;
		move_options_init(&o);
		argp_parse(&argp, *option ? 2 : 1, argv, 0, NULL, &o);
		char *text = json_dumps(o.args, JSON_COMPACT | JSON_SORT_KEYS);
		ssize_t n = write(fds[1], text, strlen(text));
		_exit(n < 0);
	}
	close(fds[1]);
	ssize_t n = read(fds[0], out, size - 1);
	out[n > 0 ? n : 0] = '\0';
	close(fds[0]);
	int status = 0;
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static const struct {
	const char *option, *json; /* NULL: refused */
} cases[] = {
	{ "", "{}" },
	{ "--copy-storage", "{\"copy_storage\":true}" },
	{ "--offline", "{\"offline\":true}" },
	{ "--max-downtime=300ms", "{\"max_downtime_ms\":300}" },
	{ "--max-downtime=1.5s", "{\"max_downtime_ms\":1500}" },
	{ "--max-downtime=1ms", NULL },
	{ "--max-downtime=31m", NULL },
	{ "--max-downtime=300", NULL },
	{ "--deadline=10m", "{\"deadline_ms\":600000}" },
	{ "--deadline=0", NULL },
	{ "--bandwidth=1G", "{\"bandwidth\":125000000}" },
	{ "--bandwidth=unlimited", "{\"bandwidth\":0}" },
	{ "--bandwidth=1k", NULL },
	{ "--bandwidth=fast", NULL },
	{ "--on-stall=pause", "{\"on_stall\":\"pause\"}" },
	{ "--on-stall=postcopy", "{\"on_stall\":\"postcopy\"}" },
	{ "--on-stall=give-up", NULL },
	{ "--no-auto-converge", "{\"auto_converge\":false}" },
	{ "--compression=auto", "{\"compression\":\"auto\"}" },
	{ "--compression=-5", "{\"compression\":\"-5\"}" },
	{ "--compression=10", NULL },
	{ "--compression=", NULL },
	{ "--qemu-channels=4", "{\"parallel\":4}" },
	{ "--qemu-channels=0", NULL },
};

START_TEST(options)
{
	char out[500];
	int code = run_options(cases[_i].option, out, sizeof(out));
	if (cases[_i].json) {
		ck_assert_int_eq(code, 0);
		ck_assert_str_eq(out, cases[_i].json);
	} else {
		ck_assert_int_eq(code, EXIT_CODE_USAGE);
	}
}
END_TEST

START_TEST(exit_codes_are_stable)
{
	ck_assert_int_eq(exit_code_of(ERR_NONE), 0);
	ck_assert_int_eq(exit_code_of(ERR_SYS), 1);
	ck_assert_int_eq(exit_code_of(ERR_LIBVIRT), 1);
	ck_assert_int_eq(exit_code_of(ERR_CORRUPT), 1);
	ck_assert_int_eq(exit_code_of(ERR_PROTOCOL), 1);
	ck_assert_int_eq(exit_code_of(ERR_CONFIG), 2);
	ck_assert_int_eq(exit_code_of(ERR_REFUSED), 3);
	ck_assert_int_eq(exit_code_of(ERR_PEER), 4);
	ck_assert_int_eq(exit_code_of(ERR_CANCELLED), 5);
	ck_assert_int_eq(EXIT_CODE_NOT_CONVERGED, 6);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cli_report");
	TCase *t = tcase_create("all");
	tcase_add_test(t, a_migration);
	tcase_add_test(t, a_migration_that_says_little);
	tcase_add_test(t, a_failover);
	tcase_add_test(t, pauses_are_exact_where_they_can_be);
	tcase_add_test(t, a_verification);
	tcase_add_test(t, findings);
	tcase_add_test(t, forecasts);
	tcase_add_loop_test(t, options, 0, (int)(sizeof(cases) / sizeof(cases[0])));
	tcase_add_test(t, exit_codes_are_stable);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
