/* vmferry vms [--all] */
#include "base/units.h"
#include "tools/vmferry/client.h"
#include "tools/vmferry/table.h"

#include <string.h>

struct vms {
	struct cli *cli;
	bool all;
};

static const struct argp_option options[] = { { "all", 'a', NULL, 0, "Of all hosts: this one and its peers", 0 },
					      { 0 } };

/* libvirt's word, where it says more than ours. */
static const char *shown_state(const json_t *vm)
{
	return strcmp(cli_str(vm, "reason", ""), "crashed") == 0 ? "crashed" : cli_str(vm, "state", "?");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct vms *v = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = v->cli;
		return 0;
	case 'a':
		v->all = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "\"%s\" is one argument too many", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.doc = "List virtual machines: those of this host, or of all.",
	.children = cli_children,
};

static void print(const json_t *vms)
{
	static const char *const headings[] = { "NAME", "STATE", "HOST", ">CPUS", ">MEMORY", ">DISKS", "UUID", NULL };
	struct table *t = table_new(headings);
	size_t i;
	const json_t *vm;
	json_array_foreach (vms, i, vm) {
		char cpus[24], memory[32], disks[24];
		snprintf(cpus, sizeof(cpus), "%lld", (long long)cli_int(vm, "vcpus", 0));
		units_format_size((uint64_t)cli_int(vm, "memory_bytes", 0), memory, sizeof(memory));
		snprintf(disks, sizeof(disks), "%zu", json_array_size(json_object_get(vm, "disks")));
		const char *cells[] = {
			cli_str(vm, "name", "?"), shown_state(vm), cli_str(vm, "host", "?"), cpus, memory, disks,
			cli_str(vm, "uuid", "?")
		};
		table_row(t, cells);
	}
	table_print(t);
	if (json_array_size(vms) == 0)
		puts("There are no virtual machines.");
}

int cmd_vms(struct cli *cli, int argc, char **argv)
{
	struct vms v = { .cli = cli };
	struct err e = ERR_INIT;
	if (argp_parse(&argp, argc, argv, 0, NULL, &v) != 0)
		return EXIT_CODE_USAGE;
	json_t *result = client_ask(cli, v.all ? "vms.all" : "vms", NULL, &e);
	if (!result)
		return cli_fail(cli, &e);
	size_t i;
	const json_t *bad, *unreachable = json_object_get(result, "unreachable");
	if (cli->json)
		cli_print_json(result);
	else
		print(json_object_get(result, "vms"));
	json_array_foreach (unreachable, i, bad) {
		char text[1300];
		if (!cli->json)
			fprintf(stderr, "vmferry: not listed: %s\n",
				cli_clean(cli_str(bad, "text", "?"), text, sizeof(text)));
	}
	int code = json_array_size(unreachable) ? EXIT_CODE_UNREACHABLE : EXIT_CODE_OK;
	json_decref(result);
	return code;
}
