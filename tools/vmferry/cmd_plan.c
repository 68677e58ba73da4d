/* vmferry plan VM HOST */
#include "tools/vmferry/client.h"
#include "tools/vmferry/move_options.h"
#include "tools/vmferry/report.h"

struct plan {
	struct cli *cli;
	struct move_options move;
	const char *vm, *host;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct plan *p = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &p->move;
		state->child_inputs[1] = p->cli;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num == 0)
			p->vm = arg;
		else if (state->arg_num == 1)
			p->host = arg;
		else
			argp_error(state, "\"%s\" is one argument too many", arg);
		return 0;
	case ARGP_KEY_END:
		if (state->arg_num < 2)
			argp_error(state, state->arg_num ? "to which host?" : "which VM, and to which host?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &move_options_argp, 0, NULL, 0 }, { &cli_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = {
	.parser = parse,
	.args_doc = "VM HOST",
	.doc = "Say whether VM can move to HOST with these options, what stands in the way, and how long it would "
	       "take.\v"
	       "Nothing is changed. The exit code is 0 if it can move and 3 if not.",
	.children = children,
};

static void print(const struct plan *p, const json_t *result)
{
	BUF_AUTO struct buf text = BUF_INIT;
	char vm[200], host[200];
	cli_clean(p->vm, vm, sizeof(vm));
	cli_clean(p->host, host, sizeof(host));
	bool possible = cli_bool(result, "possible");
	buf_printf(&text, "%s %s to %s.\n", vm, possible ? "can move" : "cannot move", host);
	report_findings(json_object_get(result, "findings"), &text);
	if (possible)
		report_forecast(json_object_get(result, "forecast"), &text);
	fwrite(text.data, 1, text.len, stdout);
}

int cmd_plan(struct cli *cli, int argc, char **argv)
{
	struct plan p = { .cli = cli };
	struct err e = ERR_INIT;
	int code = EXIT_CODE_USAGE;
	move_options_init(&p.move);
	if (argp_parse(&argp, argc, argv, 0, NULL, &p) != 0)
		goto out;
	json_t *args = move_options_take(&p.move), *result = NULL;
	json_object_set_new(args, "vm", json_string(p.vm));
	json_object_set_new(args, "host", json_string(p.host));
	/* Measuring the guest's dirty rate and the link takes a few seconds. */
	struct client *client = client_open(cli, &e);
	int rc = -1;
	if (client)
		rc = client_call(client, "plan", args, 4 * CLIENT_SHORT_NS, NULL, NULL, NULL, &result, &e);
	else
		json_decref(args);
	client_close(client);
	if (rc < 0) {
		code = cli_fail(cli, &e);
		goto out;
	}
	if (cli->json)
		cli_print_json(result);
	else
		print(&p, result);
	code = cli_bool(result, "possible") ? EXIT_CODE_OK : EXIT_CODE_REFUSED;
	json_decref(result);
out:
	move_options_fini(&p.move);
	return code;
}
