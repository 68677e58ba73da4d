/* vmferry export VM DIR */
#include "base/buf.h"
#include "base/mem.h"
#include "tools/vmferry/job.h"
#include "tools/vmferry/report.h"
#include "tools/vmferry/vm_argument.h"

#include <stdlib.h>
#include <unistd.h>

struct export
{
	struct vm_argument vm;
	const char *dir, *point;
};

static const struct argp_option options[] = {
	{ "point", 'p', "ID", 0, "This point (see `vmferry points'); default: the latest", 0 }, { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct export *x = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &x->vm;
		return 0;
	case 'p':
		x->point = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (!x->vm.vm || x->dir)
			return ARGP_ERR_UNKNOWN; /* the VM, or one too many */
		x->dir = arg;
		return 0;
	case ARGP_KEY_END:
		if (x->vm.vm && !x->dir)
			argp_error(state, "into which folder?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "VM DIR",
	.doc = "Write a point of VM into the new folder DIR of the host that keeps the replica: its disks as qcow2, "
	       "its "
	       "definition as XML and, with memory, an image for `virsh restore'.\v"
	       "Nothing of vmferry is needed to use it. The replica and the VM are not touched.",
	.children = vm_argument_children,
};

/* The agent has another working folder. */
static char *absolute(const char *dir)
{
	MEM_AUTO char *here = dir[0] == '/' ? NULL : getcwd(NULL, 0);
	return here ? mem_printf("%s/%s", here, dir) : mem_strdup(dir);
}

int cmd_export(struct cli *cli, int argc, char **argv)
{
	struct export x = { .vm = { .cli = cli } };
	struct err e = ERR_INIT;
	json_t *result = NULL;
	if (argp_parse(&argp, argc, argv, 0, NULL, &x) != 0)
		return EXIT_CODE_USAGE;
	MEM_AUTO char *dir = absolute(x.dir);
	json_t *args = json_pack("{s:s, s:s}", "vm", x.vm.vm, "dir", dir);
	if (x.point)
		json_object_set_new(args, "point", json_string(x.point));
	const struct job job = { .cli = cli,
				 .vm = x.vm.vm,
				 .to = "",
				 .cancelling = "cancelling; what was written is removed",
				 .left = "see whether anything is left in the folder" };
	if (job_run(&job, "export", args, &result, &e) < 0)
		return vm_argument_fail(&x.vm, "status", &e);
	if (!json_object_get(result, "vm"))
		json_object_set_new(result, "vm", json_string(x.vm.vm));
	if (cli->json) {
		cli_print_json(result);
	} else {
		BUF_AUTO struct buf text = BUF_INIT;
		report_export(result, &text);
		fwrite(text.data, 1, text.len, stdout);
	}
	json_decref(result);
	return EXIT_CODE_OK;
}
