/* The one line of progress: what a note changes, what fits a width, what never reaches a terminal. */
#include "tools/vmferry/cli.h"
#include "tools/vmferry/progress.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static bool note(struct progress *p, const char *json)
{
	json_t *n = json_loads(json, 0, NULL);
	ck_assert_ptr_nonnull(n);
	bool changed = progress_note(p, n);
	json_decref(n);
	return changed;
}

static struct progress in_memory(void)
{
	struct progress p;
	progress_init(&p, "web1", "node2");
	note(&p, "{\"phase\":\"memory\",\"percent\":42.4,\"rate\":118500000,\"dirty_rate\":12582912,\"ratio\":3.14,"
		 "\"eta_ms\":12000,\"iteration\":3,\"remaining_bytes\":1000}");
	return p;
}

START_TEST(all_of_it)
{
	char line[300];
	struct progress p = in_memory();
	ck_assert_str_eq(progress_line(&p, 200, line, sizeof(line)), "web1 -> node2  memory   42 %  948 Mbit/s  dirty "
								     "12.0 MiB/s  3.1x smaller  pass 3  12.0 s left");
}
END_TEST

START_TEST(before_the_first_note)
{
	char line[300];
	struct progress p;
	progress_init(&p, "web1", "node2");
	ck_assert_str_eq(progress_line(&p, 200, line, sizeof(line)), "web1 -> node2  starting");
	ck_assert(progress_at_source(&p));
}
END_TEST

START_TEST(the_dirty_rate_is_not_known_in_the_first_pass)
{
	char line[300];
	struct progress p;
	progress_init(&p, "web1", "node2");
	note(&p, "{\"phase\":\"memory\",\"percent\":1,\"dirty_rate\":0,\"iteration\":1}");
	ck_assert_ptr_null(strstr(progress_line(&p, 200, line, sizeof(line)), "dirty"));
	note(&p, "{\"dirty_rate\":0,\"iteration\":2}");
	ck_assert_ptr_nonnull(strstr(progress_line(&p, 200, line, sizeof(line)), "dirty 0 B/s"));
}
END_TEST

static const struct {
	unsigned width;
	const char *line;
} widths[] = {
	{ 0, "" },
	{ 5, " 42 %" },
	{ 6, "memory" },
	{ 13, "memory   42 %" },
	{ 26, "memory   42 %  12.0 s left" },
	{ 38, "memory   42 %  948 Mbit/s  12.0 s left" },
	{ 53, "web1 -> node2  memory   42 %  948 Mbit/s  12.0 s left" },
	{ 79, "web1 -> node2  memory   42 %  948 Mbit/s  dirty 12.0 MiB/s  pass 3  12.0 s left" },
};

START_TEST(narrow_terminals)
{
	char line[300];
	struct progress p = in_memory();
	ck_assert_str_eq(progress_line(&p, widths[_i].width, line, sizeof(line)), widths[_i].line);
}
END_TEST

START_TEST(never_longer_than_asked)
{
	char line[300], small[24];
	struct progress p = in_memory();
	memset(p.text, 'x', sizeof(p.text) - 1);
	for (unsigned w = 0; w < 320; w++) {
		ck_assert_uint_le(strlen(progress_line(&p, w, line, sizeof(line))), w);
		ck_assert_uint_lt(strlen(progress_line(&p, w, small, sizeof(small))), sizeof(small));
	}
}
END_TEST

START_TEST(a_new_phase_forgets_the_old_figures)
{
	char line[300];
	struct progress p = in_memory();
	ck_assert(!note(&p, "{\"percent\":50}"));
	ck_assert_str_eq(progress_line(&p, 13, line, sizeof(line)), "memory   50 %");
	ck_assert(note(&p, "{\"phase\":\"switchover\"}"));
	ck_assert_str_eq(progress_line(&p, 200, line, sizeof(line)), "web1 -> node2  switching over");
	ck_assert(!note(&p, "{\"phase\":\"switchover\"}"));
}
END_TEST

START_TEST(a_text_holds_for_one_note)
{
	char line[300];
	struct progress p;
	progress_init(&p, "", "");
	note(&p, "{\"phase\":\"memory\",\"text\":\"not converging\"}");
	ck_assert_str_eq(progress_line(&p, 200, line, sizeof(line)), "memory  not converging");
	note(&p, "{\"phase\":\"memory\"}");
	ck_assert_str_eq(progress_line(&p, 200, line, sizeof(line)), "memory");
}
END_TEST

START_TEST(odd_notes_do_no_harm)
{
	char line[300];
	struct progress p;
	progress_init(&p, "a", "b");
	note(&p, "{}");
	note(&p, "{\"phase\":7,\"percent\":\"x\",\"rate\":null,\"eta_ms\":-5,\"ratio\":0}");
	note(&p, "{\"phase\":\"memory\",\"percent\":250,\"rate\":1.5e9,\"eta_ms\":9e18,\"iteration\":1}");
	progress_line(&p, 200, line, sizeof(line));
	ck_assert_msg(strstr(line, "100 %") != NULL, "%s", line);
	note(&p, "{\"phase\":\"\\u001b[2J\\u0007\\n\\u009b31m\",\"text\":\"\\u001b]0;x\"}");
	for (const char *c = progress_line(&p, 200, line, sizeof(line)); *c; c++)
		ck_assert_msg((unsigned char)*c >= 32 && *c != 127, "byte %d", (unsigned char)*c);
	ck_assert_ptr_null(strstr(line, "\xc2\x9b"));
}
END_TEST

static const struct {
	const char *phase;
	bool at_source;
} owners[] = {
	{ "preflight", true },   { "begin", true },      { "disks", true },      { "memory", true },
	{ "switchover", false }, { "undecided", false }, { "post-copy", false }, { "done", false },
};

START_TEST(who_owns_the_guest)
{
	struct progress p;
	progress_init(&p, "a", "b");
	json_t *n = json_pack("{s:s}", "phase", owners[_i].phase);
	progress_note(&p, n);
	json_decref(n);
	ck_assert_int_eq(progress_at_source(&p), owners[_i].at_source);
}
END_TEST

START_TEST(clean_text)
{
	char buf[40];
	ck_assert_str_eq(cli_clean("a\tb\x1b[0m\x7f", buf, sizeof(buf)), "a?b?[0m?");
	ck_assert_str_eq(cli_clean("Zo\xc3\xab", buf, sizeof(buf)), "Zo\xc3\xab");
	ck_assert_str_eq(cli_clean("\xc2\x9b", buf, sizeof(buf)), "?");
	ck_assert_str_eq(cli_clean("0123456789", buf, 5), "0123");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("cli_progress");
	TCase *t = tcase_create("all");
	tcase_add_test(t, all_of_it);
	tcase_add_test(t, before_the_first_note);
	tcase_add_test(t, the_dirty_rate_is_not_known_in_the_first_pass);
	tcase_add_loop_test(t, narrow_terminals, 0, (int)(sizeof(widths) / sizeof(widths[0])));
	tcase_add_test(t, never_longer_than_asked);
	tcase_add_test(t, a_new_phase_forgets_the_old_figures);
	tcase_add_test(t, a_text_holds_for_one_note);
	tcase_add_test(t, odd_notes_do_no_harm);
	tcase_add_loop_test(t, who_owns_the_guest, 0, (int)(sizeof(owners) / sizeof(owners[0])));
	tcase_add_test(t, clean_text);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
