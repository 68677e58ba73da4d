/* vmferry unprotect VM */
#include "base/buf.h"
#include "base/mem.h"
#include "tools/vmferry/client.h"
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
	       "Where VM was taken over by the other host, its old self here is given up as well: its QEMU and its definition, never "
	       "its images. What goes is shown, and asked for, before.\n\n"
	       "With --forget the replica is removed. On a terminal that is asked for first.",
	.children = vm_argument_children,
};

/* ---- a VM that its peer has taken over: its old self here is given up as well ---- */

static void add_images(struct buf *out, const json_t *g)
{
	char clean[300];
	const json_t *image;
	size_t i;

	json_array_foreach (json_object_get(g, "images"), i, image)
		buf_printf(out, "  image stays     %s\n", cli_clean(json_string_value(image), clean, sizeof(clean)));
	if (cli_str(g, "definition", NULL))
		buf_printf(out, "  definition      %s\n", cli_clean(cli_str(g, "definition", ""), clean, sizeof(clean)));
}

/* What would go; NULL: it was not taken over, or that cannot be asked. */
static json_t *ask_what_goes(const struct unprotect *u)
{
	struct err ignored = ERR_INIT;
	json_t *seen = client_ask(u->vm.cli, "unprotect.look", json_pack("{s:s}", "vm", u->vm.vm), &ignored);
	json_t *goes = json_incref(json_object_get(seen, "gives_up"));

	json_decref(seen);
	return goes;
}

static int give_up(const struct unprotect *u, const json_t *goes)
{
	BUF_AUTO struct buf text = BUF_INIT;
	struct err e = ERR_INIT;
	char vm[200], host[200];

	cli_clean(u->vm.vm, vm, sizeof(vm));
	buf_printf(&text, "%s runs at %s now. Its old self here (%s) will be gone: QEMU with its memory, and the definition.\n", vm,
		   cli_clean(cli_str(goes, "host", "?"), host, sizeof(host)), cli_str(goes, "state", "?"));
	add_images(&text, goes);
	MEM_AUTO char *question = mem_printf("%.*s", (int)text.len, (const char *)text.data);
	if (!u->yes && !confirm(question))
		return vm_argument_declined(&u->vm, "the old %s is as it was");
	json_t *result = client_ask(u->vm.cli, "unprotect", json_pack("{s:s}", "vm", u->vm.vm), &e);
	if (!result)
		return vm_argument_fail(&u->vm, "status", &e);
	if (u->vm.cli->json) {
		cli_print_json(result);
	} else {
		BUF_AUTO struct buf done = BUF_INIT;
		buf_printf(&done, "The old %s here is given up; it runs at %s.\n", vm, host);
		add_images(&done, json_object_get(result, "gives_up"));
		fwrite(done.data, 1, done.len, stdout);
	}
	json_decref(result);
	return EXIT_CODE_OK;
}

int cmd_unprotect(struct cli *cli, int argc, char **argv)
{
	struct unprotect u = { .vm = { .cli = cli } };
	if (argp_parse(&argp, argc, argv, 0, NULL, &u) != 0)
		return EXIT_CODE_USAGE;
	json_t *goes = u.forget ? NULL : ask_what_goes(&u);
	if (goes) {
		const int rc = give_up(&u, goes);
		json_decref(goes);
		return rc;
	}
	if (u.forget && !u.yes) {
		MEM_AUTO char *text = mem_printf("All restore points of %s at the other host will be gone for good.",
						 u.vm.vm);
		if (!confirm(text))
			return vm_argument_declined(&u.vm, "%s is protected as before");
	}
	return vm_argument_call(&u.vm, "unprotect", json_pack("{s:b}", "forget", u.forget),
				u.forget ? "%s is not protected any more, and its replica is gone."
					 : "%s is not protected any more; its replica stays as it is.");
}
