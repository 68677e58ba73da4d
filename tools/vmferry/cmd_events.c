/* vmferry events [-f] [--since SEQ] [-n COUNT] */
#include "base/buf.h"
#include "base/clock.h"
#include "tools/vmferry/client.h"
#include "tools/vmferry/interrupt.h"

#include <stdlib.h>

#define DEFAULT_LINES 20
#define WAIT_MS 10000

struct events {
	struct cli *cli;
	bool follow;
	json_int_t since; /* -1: not said */
	json_int_t last;
};

static const struct argp_option options[] = {
	{ "follow", 'f', NULL, 0, "Go on with what happens from now on, until Ctrl-C", 0 },
	{ "since", 's', "NUMBER", 0, "Events after the one with this number", 0 },
	{ "lines", 'n', "COUNT", 0, "The last COUNT events (default 20; with --since: all)", 0 },
	{ 0 }
};

static json_int_t number(struct argp_state *state, const char *option, const char *arg)
{
	char *end = NULL;
	long long n = strtoll(arg, &end, 10);
	if (!*arg || *end || n < 0)
		argp_error(state, "--%s: \"%s\" is not a number from 0", option, arg);
	return (json_int_t)n;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct events *v = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = v->cli;
		return 0;
	case 'f':
		v->follow = true;
		return 0;
	case 's':
		v->since = number(state, "since", arg);
		return 0;
	case 'n':
		v->last = number(state, "lines", arg);
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "\"%s\" is one argument too many", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.doc = "Show what has happened on this host: migrations begun, done, failed, cancelled.\v"
	       "With --json: one event per line.",
	.children = cli_children,
};

static void add_value(struct buf *out, const char *key, const json_t *value)
{
	char clean[400];
	if (json_is_string(value) && !*json_string_value(value))
		return;
	if (json_is_string(value))
		buf_printf(out, "  %s=%s", key, cli_clean(json_string_value(value), clean, sizeof(clean)));
	else if (json_is_integer(value))
		buf_printf(out, "  %s=%lld", key, (long long)json_integer_value(value));
	else if (json_is_real(value))
		buf_printf(out, "  %s=%.2f", key, json_real_value(value));
	else if (json_is_boolean(value))
		buf_printf(out, "  %s=%s", key, json_is_true(value) ? "yes" : "no");
}

static void print(const struct events *v, const json_t *event)
{
	if (v->cli->json) {
		json_dumpf(event, stdout, JSON_COMPACT);
		putchar('\n');
		return;
	}
	BUF_AUTO struct buf line = BUF_INIT;
	char a[64], b[100];
	const char *key;
	json_t *value;
	buf_printf(&line, "%6lld  %s  %s", (long long)cli_int(event, "seq", 0),
		   cli_clean(cli_str(event, "time", "?"), a, sizeof(a)),
		   cli_clean(cli_str(event, "type", "?"), b, sizeof(b)));
	json_object_foreach (json_object_get(event, "data"), key, value)
		add_value(&line, key, value);
	puts((const char *)line.data);
}

static void nothing(void *ctx)
{
	(void)ctx;
}

/* Batch after batch, each from where the last one ended. */
static int read_all(struct events *v, struct client *client, const volatile bool *cancel, struct err *e)
{
	json_t *first = json_object();
	if (v->since >= 0)
		json_object_set_new(first, "since", json_integer(v->since));
	if (v->last >= 0 || v->since < 0)
		json_object_set_new(first, "last", json_integer(v->last >= 0 ? v->last : DEFAULT_LINES));
	json_t *args = first;
	for (;;) {
		json_t *result = NULL;
		if (client_call(client, "events", args, CLIENT_SHORT_NS + WAIT_MS * NS_PER_MS, NULL, NULL, cancel,
				&result, e) < 0)
			return -1;
		size_t i;
		const json_t *event, *events = json_object_get(result, "events");
		json_array_foreach (events, i, event)
			print(v, event);
		fflush(stdout);
		size_t n = json_array_size(events);
		json_int_t last = cli_int(result, "last", 0);
		json_decref(result);
		if (interrupt_pending(cancel) || ferror(stdout) || (n == 0 && !v->follow))
			return 0;
		args = json_pack("{s:I, s:I}", "since", last, "wait_ms", (json_int_t)(v->follow ? WAIT_MS : 0));
	}
}

int cmd_events(struct cli *cli, int argc, char **argv)
{
	struct events v = { .cli = cli, .since = -1, .last = -1 };
	struct err e = ERR_INIT;
	if (argp_parse(&argp, argc, argv, 0, NULL, &v) != 0)
		return EXIT_CODE_USAGE;
	struct interrupt *interrupt = interrupt_new(nothing, nothing, NULL, &e);
	struct client *client = interrupt ? client_open(cli, &e) : NULL;
	int rc = client ? read_all(&v, client, interrupt_flag(interrupt), &e) : -1;
	client_close(client);
	/* Ctrl-C is how following ends. */
	bool ended = v.follow && interrupt && interrupt_pending(interrupt_flag(interrupt));
	interrupt_free(interrupt);
	return rc == 0 || ended ? EXIT_CODE_OK : cli_fail(cli, &e);
}
