/* vmferry failback VM */
#include "base/buf.h"
#include "tools/vmferry/job.h"
#include "tools/vmferry/report.h"
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
	.doc = "Bring VM, which was failed over to this host, back to the host that it came from, without loss.\v"
	       "While it runs here, what differs from what that host still has is sent there; then it makes a last "
	       "checkpoint, "
	       "stops, and goes on there. What the old copy there had and this one has not is replaced: the VM that "
	       "stands "
	       "fenced there is shown by `vmferry --host HOST status' before. Ctrl-C cancels; the VM then stays here.",
	.children = vm_argument_children,
};

int cmd_failback(struct cli *cli, int argc, char **argv)
{
	struct vm_argument vm = { .cli = cli };
	struct err e = ERR_INIT;
	json_t *result = NULL;
	if (argp_parse(&argp, argc, argv, 0, NULL, &vm) != 0)
		return EXIT_CODE_USAGE;
	const struct job job = {
		.cli = cli,
		.vm = vm.vm,
		.to = "",
		.cancelling = "cancelling; the VM stays where it runs",
		.left = "`vmferry status' says whether it is over, `vmferry vms --all' where the VM runs"
	};
	if (job_run(&job, "failback", json_pack("{s:s}", "vm", vm.vm), &result, &e) < 0)
		return vm_argument_fail(&vm, "status", &e);
	if (cli->json) {
		cli_print_json(result);
	} else {
		BUF_AUTO struct buf text = BUF_INIT;
		report_failback(result, &text);
		fwrite(text.data, 1, text.len, stdout);
	}
	json_decref(result);
	return EXIT_CODE_OK;
}
