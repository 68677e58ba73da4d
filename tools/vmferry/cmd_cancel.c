/* vmferry cancel VM */
#include "tools/vmferry/client.h"

struct cancel {
	struct cli *cli;
	const char *vm;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct cancel *c = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = c->cli;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num > 0)
			argp_error(state, "\"%s\" is one argument too many", arg);
		c->vm = arg;
		return 0;
	case ARGP_KEY_END:
		if (state->arg_num == 0)
			argp_error(state, "which VM?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.parser = parse,
	.args_doc = "VM",
	.doc = "Stop the migration of VM (name or UUID) away from this host. It goes on running here.\v"
	       "The command returns when the request is accepted; `vmferry jobs' says when it is over. A migration "
	       "that is already in its "
	       "switch-over ends at the target.",
	.children = cli_children,
};

int cmd_cancel(struct cli *cli, int argc, char **argv)
{
	struct cancel c = { .cli = cli };
	struct err e = ERR_INIT;
	if (argp_parse(&argp, argc, argv, 0, NULL, &c) != 0)
		return EXIT_CODE_USAGE;
	json_t *result = client_ask(cli, "cancel", json_pack("{s:s}", "vm", c.vm), &e);
	if (!result)
		return cli_fail(cli, &e);
	char vm[200];
	if (cli->json)
		cli_print_json(result);
	else
		printf("The migration of %s is being cancelled.\n",
		       cli_clean(cli_str(result, "vm", c.vm), vm, sizeof(vm)));
	json_decref(result);
	return EXIT_CODE_OK;
}
