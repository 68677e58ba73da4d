/* vmferry verify VM */
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
	.doc = "Read all of the replica of VM and check every checksum, while replication goes on.\v"
	       "Exit code 1 if something does not verify; it is said what and where. Ctrl-C stops it.",
	.children = vm_argument_children,
};

int cmd_verify(struct cli *cli, int argc, char **argv)
{
	struct vm_argument vm = { .cli = cli };
	struct err e = ERR_INIT;
	json_t *result = NULL;
	if (argp_parse(&argp, argc, argv, 0, NULL, &vm) != 0)
		return EXIT_CODE_USAGE;
	const struct job job = {
		.cli = cli, .vm = vm.vm, .to = "", .cancelling = "stopping", .left = "nothing; reading changes nothing"
	};
	if (job_run(&job, "verify", json_pack("{s:s}", "vm", vm.vm), &result, &e) < 0)
		return vm_argument_fail(&vm, "status", &e);
	if (!json_object_get(result, "vm"))
		json_object_set_new(result, "vm", json_string(vm.vm));
	bool good = report_verified(result);
	if (cli->json) {
		cli_print_json(result);
	} else {
		BUF_AUTO struct buf text = BUF_INIT;
		report_verify(result, &text);
		fwrite(text.data, 1, text.len, stdout);
	}
	json_decref(result);
	return good ? EXIT_CODE_OK : EXIT_CODE_FAILED;
}
