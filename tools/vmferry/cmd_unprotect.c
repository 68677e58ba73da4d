/* vmferry unprotect VM */
#include "base/mem.h"
#include "tools/vmferry/confirm.h"
#include "tools/vmferry/vm_argument.h"

struct unprotect {
	struct vm_argument vm;
	bool forget, yes;
};

static const struct argp_option options[] = { { "forget", 'f', NULL, 0,
						"Remove the replica and all its points at the other host, too", 0 },
					      { "yes", 'y', NULL, 0, "Do not ask", 0 },
					      { 0 } };

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct unprotect *u = state->input;
	(void)arg;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &u->vm;
		return 0;
	case 'f':
		u->forget = true;
		return 0;
	case 'y':
		u->yes = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "VM",
	.doc = "End the protection of VM; the VM runs on. Its replica stays, so that a later `vmferry protect' sends "
	       "only what "
	       "differs.\v"
	       "With --forget the replica is removed. On a terminal that is asked for first.",
	.children = vm_argument_children,
};

int cmd_unprotect(struct cli *cli, int argc, char **argv)
{
	struct unprotect u = { .vm = { .cli = cli } };
	if (argp_parse(&argp, argc, argv, 0, NULL, &u) != 0)
		return EXIT_CODE_USAGE;
	if (u.forget && !u.yes) {
		MEM_AUTO char *text = mem_printf("All restore points of %s at the other host will be gone for good.",
						 u.vm.vm);
		if (!confirm(text)) {
			struct err e = ERR_INIT;
			err_set(&e, ERR_CANCELLED, "nothing was done: %s is protected as before", u.vm.vm);
			return cli_fail(cli, &e);
		}
	}
	return vm_argument_call(&u.vm, "unprotect", json_pack("{s:b}", "forget", u.forget),
				u.forget ? "%s is not protected any more, and its replica is gone."
					 : "%s is not protected any more; its replica stays as it is.");
}
