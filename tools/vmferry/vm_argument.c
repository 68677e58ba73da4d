#include "tools/vmferry/vm_argument.h"

#include "base/mem.h"
#include "config/nearest.h"
#include "tools/vmferry/client.h"

#include <stdlib.h>
#include <string.h>

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct vm_argument *a = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = a->cli;
		return 0;
	case ARGP_KEY_ARG:
		if (a->vm)
			argp_error(state, "\"%s\" is one argument too many", arg);
		a->vm = arg;
		return 0;
	case ARGP_KEY_END:
		if (!a->vm && !a->optional)
			argp_error(state, "which VM?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp vm_argument_argp = { .parser = parse, .children = cli_children };
const struct argp_child vm_argument_children[] = { { &vm_argument_argp, 0, NULL, 0 }, { 0 } };

/* The nearest name in a list of objects, unless the name itself is there. */
static const char *nearest_in(const json_t *list, const char *key, const char *vm)
{
	size_t n = json_array_size(list), i;
	const char **names = mem_alloc_array(n + 1, sizeof(*names));
	const json_t *o;
	bool there = false;
	json_array_foreach (list, i, o) {
		names[i] = cli_str(o, key, "");
		there |= strcmp(names[i], vm) == 0 || strcmp(cli_str(o, "uuid", ""), vm) == 0;
	}
	const char *near = there ? NULL : nearest_of(vm, names, n);
	free(names);
	return near;
}

int vm_argument_fail(const struct vm_argument *a, const char *call, struct err *e)
{
	struct err ignored = ERR_INIT;
	bool vms = strcmp(call, "vms") == 0;
	bool named = a->vm && (e->cls == ERR_REFUSED || e->cls == ERR_CONFIG || e->cls == ERR_LIBVIRT);
	json_t *known = named ? client_ask(a->cli, call, NULL, &ignored) : NULL;
	const char *near = !known ? NULL
				  : nearest_in(json_object_get(known, vms ? "vms" : "protections"), vms ? "name" : "vm",
					       a->vm);
	if (near && !strstr(e->text, near)) {
		char clean[200], before[sizeof(e->remedy)];
		snprintf(before, sizeof(before), "%s", e->remedy);
		e->remedy[0] = '\0';
		err_remedy(e, "did you mean \"%s\"?%s%s", cli_clean(near, clean, sizeof(clean)),
			   before[0] ? " Or: " : "", before);
	}
	json_decref(known);
	return cli_fail(a->cli, e);
}

int vm_argument_call(const struct vm_argument *a, const char *method, json_t *args, const char *done)
{
	struct err e = ERR_INIT;
	char clean[200];
	args = args ? args : json_object();
	json_object_set_new(args, "vm", json_string(a->vm));
	json_t *result = client_ask(a->cli, method, args, &e);
	if (!result)
		return vm_argument_fail(a, "status", &e);
	if (a->cli->json) {
		cli_print_json(result);
	} else {
		const char *at = strstr(done, "%s");
		printf("%.*s%s%s\n", (int)(at - done), done,
		       cli_clean(cli_str(result, "vm", a->vm), clean, sizeof(clean)), at + 2);
	}
	json_decref(result);
	return EXIT_CODE_OK;
}

int vm_argument_declined(const struct vm_argument *a, const char *state)
{
	const char *at = strstr(state, "%s");
	struct err e = ERR_INIT;

	err_set(&e, ERR_CANCELLED, "nothing was done: %.*s%s%s", (int)(at - state), state, a->vm, at + 2);
	return cli_fail(a->cli, &e);
}
