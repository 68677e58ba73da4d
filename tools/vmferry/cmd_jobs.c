/* vmferry jobs */
#include "base/units.h"
#include "tools/vmferry/client.h"
#include "tools/vmferry/table.h"

#include <string.h>

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
	.doc = "List the migrations under way, to and from this host.",
	.children = cli_children,
};

/* The agent gives the last note of a job either beside its other keys or below "progress". */
static const json_t *progress_of(const json_t *job)
{
	const json_t *p = json_object_get(job, "progress");
	return json_is_object(p) ? p : job;
}

static void print(const json_t *jobs)
{
	static const char *const headings[] = { "VM",    "DIRECTION", "PEER",  "PHASE", ">DONE",
						">RATE", ">LEFT",     ">TIME", NULL };
	if (json_array_size(jobs) == 0) {
		puts("No migration is under way.");
		return;
	}
	struct table *t = table_new(headings);
	size_t i;
	const json_t *job;
	json_array_foreach (jobs, i, job) {
		const json_t *p = progress_of(job);
		char percent[16] = "-", rate[32] = "-", left[32] = "-", took[32] = "-";
		if (cli_real(p, "percent", -1) >= 0)
			snprintf(percent, sizeof(percent), "%.0f %%", cli_real(p, "percent", 0));
		if (cli_int(p, "rate", -1) >= 0)
			units_format_rate((uint64_t)cli_int(p, "rate", 0), rate, sizeof(rate));
		if (cli_int(p, "eta_ms", -1) >= 0)
			cli_duration(cli_int(p, "eta_ms", 0), left, sizeof(left));
		if (cli_int(job, "elapsed_ms", -1) >= 0)
			cli_duration(cli_int(job, "elapsed_ms", 0), took, sizeof(took));
		const char *cells[] = { cli_str(job, "vm", "?"),
					strcmp(cli_str(job, "direction", "out"), "in") == 0 ? "in" : "out",
					cli_str(job, "peer", "?"),
					cli_str(p, "phase", cli_str(job, "phase", "-")),
					percent,
					rate,
					left,
					took };
		table_row(t, cells);
	}
	table_print(t);
}

int cmd_jobs(struct cli *cli, int argc, char **argv)
{
	struct err e = ERR_INIT;
	if (argp_parse(&argp, argc, argv, 0, NULL, cli) != 0)
		return EXIT_CODE_USAGE;
	json_t *result = client_ask(cli, "jobs", NULL, &e);
	if (!result)
		return cli_fail(cli, &e);
	if (cli->json)
		cli_print_json(result);
	else
		print(json_object_get(result, "jobs"));
	json_decref(result);
	return EXIT_CODE_OK;
}
