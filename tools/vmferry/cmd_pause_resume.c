/* vmferry pause VM, vmferry resume VM */
#include "tools/vmferry/vm_argument.h"

static error_t parse(int key, char *arg, struct argp_state *state)
{
	(void)arg;
	if (key != ARGP_KEY_INIT)
		return ARGP_ERR_UNKNOWN;
	state->child_inputs[0] = state->input;
	return 0;
}

static const struct argp pause_argp = {
	.parser = parse,
	.args_doc = "VM",
	.doc = "Stop replicating VM for a while; the VM runs on, and nothing is forgotten.\v"
	       "The points that the other host has stay good and get older. A paused protection stays paused over "
	       "restarts of "
	       "the agent, until `vmferry resume'; then what has changed meanwhile is found by comparing, and sent.",
	.children = vm_argument_children,
};

static const struct argp resume_argp = {
	.parser = parse,
	.args_doc = "VM",
	.doc = "Go on with replicating VM after `vmferry pause'.\v"
	       "What has changed meanwhile is found by comparing, and only that is sent. A protection that was fenced, "
	       "since its VM was failed over, resumes only if the other host says that it gave the VM up: see `vmferry status' and "
	       "`vmferry failback'.",
	.children = vm_argument_children,
};

static int run(const struct argp *argp, struct cli *cli, int argc, char **argv, const char *method, const char *done)
{
	struct vm_argument vm = { .cli = cli };

	if (argp_parse(argp, argc, argv, 0, NULL, &vm) != 0)
		return EXIT_CODE_USAGE;
	return vm_argument_call(&vm, method, NULL, done);
}

int cmd_pause(struct cli *cli, int argc, char **argv)
{
	return run(&pause_argp, cli, argc, argv, "protection.pause", "Replication of %s is paused; the VM runs on.");
}

int cmd_resume(struct cli *cli, int argc, char **argv)
{
	return run(&resume_argp, cli, argc, argv, "protection.resume", "Replication of %s goes on.");
}
