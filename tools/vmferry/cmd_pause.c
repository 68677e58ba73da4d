/* vmferry pause VM */
#include "tools/vmferry/vm_argument.h"

static error_t parse(int key, char *arg, struct argp_state *state)
{
	(void)arg;
	if (key != ARGP_KEY_INIT)
		return ARGP_ERR_UNKNOWN;
	state->child_inputs[0] = state->input;
	return 0;
}

static const struct argp argp = {
	.parser = parse,
	.args_doc = "VM",
	.doc = "Stop replicating VM for a while; the VM runs on, and nothing is forgotten.\v"
	       "The points that the other host has stay good and get older. A paused protection stays paused over "
	       "restarts of "
	       "the agent, until `vmferry resume'; then what has changed meanwhile is found by comparing, and sent.",
	.children = vm_argument_children,
};

int cmd_pause(struct cli *cli, int argc, char **argv)
{
	struct vm_argument vm = { .cli = cli };
	if (argp_parse(&argp, argc, argv, 0, NULL, &vm) != 0)
		return EXIT_CODE_USAGE;
	return vm_argument_call(&vm, "protection.pause", NULL, "Replication of %s is paused; the VM runs on.");
}
