/* vmferry drain [HOST] */
#include "base/units.h"
#include "tools/vmferry/client.h"
#include "tools/vmferry/interrupt.h"
#include "tools/vmferry/live.h"
#include "tools/vmferry/move_options.h"
#include "tools/vmferry/table.h"

#include <stdlib.h>
#include <string.h>

struct drain {
	struct cli *cli;
	struct move_options move;
	json_t *to;
	long parallel;
	bool dry_run;
	struct live *live;
};

static const struct argp_option options[] = {
	{ "to", 't', "HOST", 0, "Only to this host; may be given several times (default: all peers)", 1 },
	{ "jobs", 'j', "N", 0, "N migrations at a time (1 to 16, default 1; the agents' max_jobs holds as well)", 1 },
	{ "dry-run", 'n', NULL, 0, "Only say what would go where, and what could not", 1 },
	{ 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct drain *d = state->input;
	char *end = NULL;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &d->move;
		state->child_inputs[1] = d->cli;
		return 0;
	case 't':
		json_array_append_new(d->to, json_string(arg));
		return 0;
	case 'j':
		d->parallel = strtol(arg, &end, 10);
		if (!*arg || *end || d->parallel < 1 || d->parallel > 16)
			argp_error(state, "--jobs: \"%s\" is out of range (allowed: 1 to 16)", arg);
		return 0;
	case 'n':
		d->dry_run = true;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num > 0)
			argp_error(state, "\"%s\" is one argument too many", arg);
		d->cli->host = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &move_options_argp, 0, NULL, 0 }, { &cli_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "[HOST]",
	.doc = "Move every running VM off HOST (default: this host), each to the host where preflight allows it and "
	       "most memory is free.\v"
	       "What could not move is listed with the reasons, and the exit code is then 1. Ctrl-C cancels the "
	       "migrations under way; VMs "
	       "that have moved stay where they are.",
	.children = children,
};

static void on_note(void *ctx, const json_t *note)
{
	struct drain *d = ctx;
	live_note(d->live, note);
}

static void on_first_interrupt(void *ctx)
{
	struct drain *d = ctx;
	live_say(d->live, "cancelling what is under way; press Ctrl-C again to leave without waiting");
}

static void on_second_interrupt(void *ctx)
{
	struct drain *d = ctx;
	live_hide(d->live);
	live_say(d->live, "left while cancelling; the agent finishes without this command.");
	live_say(d->live,
		 "  what to do: `vmferry jobs' says whether it is over, `vmferry vms --all' where each VM runs");
}

/* Reasons may be strings or findings. */
static void print_stayed(const json_t *stayed)
{
	size_t i, k;
	const json_t *vm, *reason;
	char clean[1300];
	json_array_foreach (stayed, i, vm) {
		printf("%s stayed:\n", cli_clean(cli_str(vm, "vm", "?"), clean, sizeof(clean)));
		json_array_foreach (json_object_get(vm, "reasons"), k, reason) {
			const char *text = json_is_string(reason) ? json_string_value(reason)
								  : cli_str(reason, "text", "?");
			const char *host = json_is_string(reason) ? NULL : cli_str(reason, "host", NULL);
			printf("  ");
			if (host)
				printf("%s: ", cli_clean(host, clean, sizeof(clean)));
			printf("%s\n", cli_clean(text, clean, sizeof(clean)));
			if (json_is_object(reason) && *cli_str(reason, "remedy", ""))
				printf("      what to do: %s\n",
				       cli_clean(cli_str(reason, "remedy", ""), clean, sizeof(clean)));
		}
	}
}

static void print_warnings(const json_t *vm)
{
	char name[200], text[900];
	const json_t *w;
	size_t i;
	json_array_foreach (json_object_get(vm, "warnings"), i, w)
		printf("%s: warning: %s\n", cli_clean(cli_str(vm, "vm", "?"), name, sizeof(name)),
		       cli_clean(json_string_value(w) ? json_string_value(w) : "", text, sizeof(text)));
}

static void print(const struct drain *d, const json_t *result)
{
	static const char *const done[] = { "VM", "TO", ">TOTAL", ">DOWNTIME", ">ON THE WIRE", NULL };
	static const char *const planned[] = { "VM", "TO", NULL };
	struct table *t = table_new(d->dry_run ? planned : done);
	size_t i;
	const json_t *vm, *moved = json_object_get(result, "moved"), *stayed = json_object_get(result, "stayed");
	json_array_foreach (moved, i, vm) {
		char total[32] = "-", downtime[32] = "-", wire[32] = "-";
		if (cli_int(vm, "total_ms", -1) >= 0)
			cli_duration(cli_int(vm, "total_ms", 0), total, sizeof(total));
		if (cli_int(vm, "downtime_ms", -1) >= 0)
			cli_duration(cli_int(vm, "downtime_ms", 0), downtime, sizeof(downtime));
		if (cli_int(vm, "wire_bytes", -1) >= 0)
			units_format_size((uint64_t)cli_int(vm, "wire_bytes", 0), wire, sizeof(wire));
		const char *cells[] = { cli_str(vm, "vm", "?"), cli_str(vm, "to", cli_str(vm, "host", "?")), total,
					downtime, wire };
		table_row(t, cells);
	}
	size_t n = table_rows(t);
	table_print(t);
	json_array_foreach (moved, i, vm)
		print_warnings(vm);
	if (json_array_size(stayed))
		print_stayed(stayed);
	else if (n == 0)
		puts("There was nothing to move.");
	else
		puts(d->dry_run ? "Everything could move; nothing was moved." : "Everything has moved.");
}

static int run(struct drain *d)
{
	struct err e = ERR_INIT;
	int code, rc = -1;
	json_t *result = NULL;
	struct interrupt *interrupt = interrupt_new(on_first_interrupt, on_second_interrupt, d, &e);
	struct client *client = interrupt ? client_open(d->cli, &e) : NULL;
	if (client) {
		json_t *args = json_pack("{s:O, s:I, s:b, s:o}", "to", d->to, "parallel", (json_int_t)d->parallel,
					 "dry_run", d->dry_run, "options", move_options_take(&d->move));
		rc = client_call(client, "drain", args, CLIENT_LONG_NS, on_note, d, interrupt_flag(interrupt), &result,
				 &e);
		client_close(client);
	}
	live_hide(d->live);
	bool interrupted = interrupt && interrupt_pending(interrupt_flag(interrupt));
	interrupt_free(interrupt);
	if (rc < 0)
		return cli_fail(d->cli, &e);
	if (d->cli->json)
		cli_print_json(result);
	else
		print(d, result);
	code = !json_array_size(json_object_get(result, "stayed")) ? EXIT_CODE_OK
	       : interrupted                                       ? EXIT_CODE_CANCELLED
								   : EXIT_CODE_FAILED;
	json_decref(result);
	return code;
}

int cmd_drain(struct cli *cli, int argc, char **argv)
{
	struct drain d = { .cli = cli, .to = json_array(), .parallel = 1 };
	int code = EXIT_CODE_USAGE;
	move_options_init(&d.move);
	if (argp_parse(&argp, argc, argv, 0, NULL, &d) == 0) {
		d.live = live_new("", "", cli->json);
		code = run(&d);
		live_free(d.live);
	}
	json_decref(d.to);
	move_options_fini(&d.move);
	return code;
}
