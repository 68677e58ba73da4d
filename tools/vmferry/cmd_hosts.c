/* vmferry hosts */
#include "base/units.h"
#include "tools/vmferry/client.h"
#include "tools/vmferry/table.h"

#include <stdlib.h>

static error_t parse(int key, char *arg, struct argp_state *state)
{
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = state->input;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "\"%s\" is one argument too many", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.parser = parse,
	.doc = "List this host and its peers.\v"
	       "SPARE is the memory that further VMs can use. MAY HERE is what that host may do on this one, MAY THERE "
	       "what this one may do there. The exit code is 4 if a peer cannot "
	       "be reached.",
	.children = cli_children,
};

static const char *joined(const json_t *array, char *buf, size_t size)
{
	size_t i, len = 0;
	const json_t *item;
	snprintf(buf, size, "nothing");
	json_array_foreach (array, i, item) {
		if (!json_is_string(item) || len >= size)
			continue;
		len += (size_t)snprintf(buf + len, size - len, "%s%s", len ? "," : "", json_string_value(item));
	}
	return buf;
}

static void print_host(struct table *t, const json_t *host)
{
	char memory[32] = "-", available[32] = "-", vms[24] = "-", rtt[32] = "-", here[100], there[100];
	const json_t *facts = json_object_get(host, "facts");
	bool self = cli_bool(host, "self");
	const json_t *ram = json_object_get(facts, "memory"), *guests = json_object_get(facts, "vms");
	if (cli_int(ram, "total_bytes", -1) >= 0)
		units_format_size((uint64_t)cli_int(ram, "total_bytes", 0), memory, sizeof(memory));
	if (cli_int(ram, "spare_bytes", -1) >= 0)
		units_format_size((uint64_t)cli_int(ram, "spare_bytes", 0), available, sizeof(available));
	if (json_is_array(guests))
		snprintf(vms, sizeof(vms), "%zu", json_array_size(guests));
	if (cli_int(host, "rtt_us", -1) >= 0)
		snprintf(rtt, sizeof(rtt), "%.1f ms", (double)cli_int(host, "rtt_us", 0) / 1000.0);
	const json_t *cpu = json_object_get(facts, "cpu");
	const char *state = self ? "here" : cli_bool(host, "reachable") ? "reached" : "unreachable";
	const char *cells[] = { cli_str(host, "name", "?"),
				state,
				cli_str(facts, "qemu", "-"),
				cli_str(facts, "libvirt", "-"),
				cli_str(cpu, "model", "-"),
				memory,
				available,
				vms,
				rtt,
				self ? "-" : joined(json_object_get(host, "may_here"), here, sizeof(here)),
				self ? "-"
				: json_object_get(host, "may_there")
					? joined(json_object_get(host, "may_there"), there, sizeof(there))
					: "?" };
	table_row(t, cells);
}

int cmd_hosts(struct cli *cli, int argc, char **argv)
{
	static const char *const headings[] = { "HOST",   "STATE", "QEMU",        "LIBVIRT",  "CPU",       ">MEMORY",
						">SPARE", ">VMS",  ">ROUND TRIP", "MAY HERE", "MAY THERE", NULL };
	struct err e = ERR_INIT;
	int code = EXIT_CODE_OK;
	if (argp_parse(&argp, argc, argv, 0, NULL, cli) != 0)
		return EXIT_CODE_USAGE;
	json_t *result = client_ask(cli, "hosts", NULL, &e);
	if (!result)
		return cli_fail(cli, &e);
	struct table *t = cli->json ? NULL : table_new(headings);
	size_t i;
	const json_t *host, *hosts = json_object_get(result, "hosts");
	json_array_foreach (hosts, i, host) {
		if (!cli_bool(host, "self") && !cli_bool(host, "reachable"))
			code = EXIT_CODE_UNREACHABLE;
		if (t)
			print_host(t, host);
	}
	if (t)
		table_print(t);
	else
		cli_print_json(result);
	json_array_foreach (hosts, i, host) {
		char clean[1300];
		if (!cli->json && cli_str(host, "error", NULL))
			fprintf(stderr, "vmferry: %s\n", cli_clean(cli_str(host, "error", ""), clean, sizeof(clean)));
	}
	json_decref(result);
	return code;
}
