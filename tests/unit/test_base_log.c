/* Log lines: their form, their levels, and that no value can forge one. */
#include "base/log.h"

#include "base/err.h"
#include "base/thread.h"

#include <check.h>
#include <errno.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static FILE *captured;

/* Standard error becomes a file for the rest of this (forked) test. */
static void set_up(void)
{
	captured = tmpfile();
	ck_assert_ptr_nonnull(captured);
	fflush(stderr);
	ck_assert_int_ge(dup2(fileno(captured), STDERR_FILENO), 0);
}

/* The whole log so far. */
static char *logged(void)
{
	static char text[1 << 20];
	const ssize_t n = pread(fileno(captured), text, sizeof(text) - 1, 0);

	ck_assert_int_ge(n, 0);
	text[n] = '\0';
	return text;
}

static bool matches(const char *text, const char *pattern)
{
	regex_t re;

	ck_assert_int_eq(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
	const int rc = regexec(&re, text, 0, NULL, 0);
	regfree(&re);
	return rc == 0;
}

START_TEST(a_line_has_time_level_event_and_values)
{
	log_info("migration_done", "vm=%s total_ms=%d", "web1", 1234);
	ck_assert_msg(matches(logged(),
			      "^ts=[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\\.[0-9]{3}Z level=info event=migration_done "
			      "vm=web1 total_ms=1234\n$"),
		      "%s", logged());
}
END_TEST

START_TEST(levels_below_the_threshold_are_silent)
{
	enum log_level level = LOG_LEVEL_INFO;

	log_debug("hidden", "a=1");
	ck_assert_str_eq(logged(), "");
	ck_assert_int_eq(log_level_from_name("debug", &level), 0);
	log_set_level(level);
	log_debug("shown", "a=1");
	ck_assert_ptr_nonnull(strstr(logged(), "level=debug event=shown a=1\n"));
	ck_assert_int_eq(log_level_from_name("error", &level), 0);
	log_set_level(level);
	log_warn("hidden", "a=1");
	ck_assert_ptr_null(strstr(logged(), "hidden"));
	level = LOG_LEVEL_WARN;
	ck_assert_int_eq(log_level_from_name("loud", &level), -1);
	ck_assert_int_eq(level, LOG_LEVEL_WARN);
}
END_TEST

START_TEST(values_are_quoted)
{
	struct log_quoted q;

	ck_assert_str_eq(log_quote(&q, "a \"b\" \\ c\nd\te"), "\"a \\\"b\\\" \\\\ c\\nd\\x09e\"");
	ck_assert_str_eq(log_quote(&q, ""), "\"\"");
	ck_assert_str_eq(log_quote(&q, NULL), "\"\"");
	log_info("x", "msg=%s", LOG_Q("two words"));
	ck_assert_ptr_nonnull(strstr(logged(), " msg=\"two words\"\n"));
}
END_TEST

START_TEST(long_values_are_cut_within_their_quotes)
{
	struct log_quoted q;
	char big[4000];

	/* Every offset of the cut against an escape of two characters. */
	for (size_t plain = 0; plain < 4; plain++) {
		memset(big, '"', sizeof(big) - 1);
		memset(big, 'x', plain);
		big[sizeof(big) - 1] = '\0';
		log_quote(&q, big);
		const size_t len = strlen(q.text);
		ck_assert_uint_lt(len, sizeof(q.text));
		ck_assert_str_eq(q.text + len - 4, "...\"");
		ck_assert_uint_eq((len - 5 - plain) % 2, 0);
	}
}
END_TEST

START_TEST(a_value_cannot_forge_a_line)
{
	log_info("x", "peer=%s", "evil\nts=0 level=error event=forged");
	const char *text = logged();
	ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1);
}
END_TEST

START_TEST(long_lines_are_cut)
{
	static char big[20000];

	memset(big, 'x', sizeof(big) - 1);
	log_info("x", "v=%s", big);
	const char *text = logged();
	ck_assert_uint_le(strlen(text), 4096);
	ck_assert_int_eq(text[strlen(text) - 1], '\n');
}
END_TEST

START_TEST(errno_is_kept)
{
	errno = ENOSPC;
	log_info("x", "a=%d", 1);
	ck_assert_int_eq(errno, ENOSPC);
}
END_TEST

#define THREADS 4
#define LINES 200

static void *write_lines(void *arg)
{
	for (int i = 0; i < LINES; i++)
		log_info("line", "who=%s value=0123456789012345678901234567890123456789 end", (const char *)arg);
	return NULL;
}

START_TEST(lines_of_threads_do_not_mix)
{
	static char names[THREADS][2] = { "a", "b", "c", "d" };
	pthread_t t[THREADS];
	struct err e = ERR_INIT;
	int lines = 0;

	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(thread_start(&t[i], "writer", write_lines, names[i], &e), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	for (char *line = strtok(logged(), "\n"); line; line = strtok(NULL, "\n")) {
		ck_assert_msg(matches(line, "^ts=[^ ]+ level=info event=line who=[a-d] value=[0-9]{40} end$"), "%s",
			      line);
		lines++;
	}
	ck_assert_int_eq(lines, THREADS * LINES);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("log");
	TCase *t = tcase_create("all");
	tcase_add_checked_fixture(t, set_up, NULL);
	tcase_add_test(t, a_line_has_time_level_event_and_values);
	tcase_add_test(t, levels_below_the_threshold_are_silent);
	tcase_add_test(t, values_are_quoted);
	tcase_add_test(t, long_values_are_cut_within_their_quotes);
	tcase_add_test(t, a_value_cannot_forge_a_line);
	tcase_add_test(t, long_lines_are_cut);
	tcase_add_test(t, errno_is_kept);
	tcase_add_test(t, lines_of_threads_do_not_mix);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
