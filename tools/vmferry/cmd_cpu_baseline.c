/* vmferry cpu-baseline HOST... */
#include "tools/vmferry/client.h"

struct baseline {
	struct cli *cli;
	json_t *hosts;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct baseline *b = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = b->cli;
		return 0;
	case ARGP_KEY_ARG:
		json_array_append_new(b->hosts, json_string(arg));
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.parser = parse,
	.args_doc = "[HOST...]",
	.doc = "Find the CPU model and features on which VMs can move among the hosts: this one and those named, by "
	       "default all "
	       "peers.\v"
	       "The XML goes into the <domain> of each VM, in place of its <cpu> element; it takes effect when the VM "
	       "is next started.",
	.children = cli_children,
};

static void print(const json_t *result)
{
	size_t i, k;
	const json_t *host, *feature;
	char clean[200];
	printf("%s\n", cli_str(result, "xml", ""));
	json_array_foreach (json_object_get(result, "hosts"), i, host) {
		const json_t *loses = json_object_get(host, "loses");
		printf("%s loses", cli_clean(cli_str(host, "name", "?"), clean, sizeof(clean)));
		json_array_foreach (loses, k, feature) {
			const char *name = json_is_string(feature) ? json_string_value(feature) : "?";
			printf("%s %s", k ? "," : "", cli_clean(name, clean, sizeof(clean)));
		}
		/* null: that host's features are not known one by one */
		puts(json_is_null(loses) ? ": not known" : json_array_size(loses) ? "" : " nothing");
	}
}

int cmd_cpu_baseline(struct cli *cli, int argc, char **argv)
{
	struct baseline b = { .cli = cli, .hosts = json_array() };
	struct err e = ERR_INIT;
	if (argp_parse(&argp, argc, argv, 0, NULL, &b) != 0) {
		json_decref(b.hosts);
		return EXIT_CODE_USAGE;
	}
	json_t *result = client_ask(cli, "cpu.baseline", json_pack("{s:o}", "hosts", b.hosts), &e);
	if (!result)
		return cli_fail(cli, &e);
	if (cli->json)
		cli_print_json(result);
	else
		print(result);
	json_decref(result);
	return EXIT_CODE_OK;
}
