/* vmferry status [VM] [--watch] */
#include "base/buf.h"
#include "base/mem.h"
#include "base/units.h"
#include "tools/vmferry/client.h"
#include "tools/vmferry/replication.h"
#include "tools/vmferry/screen.h"
#include "tools/vmferry/table.h"
#include "tools/vmferry/vm_argument.h"
#include "tools/vmferry/watch.h"

#include <stdlib.h>
#include <string.h>

#define WIDE 110 /* columns that all figures need */

struct status {
	struct vm_argument vm;
	bool watch;
};

static const struct argp_option options[] = {
	{ "watch", 'w', NULL, 0, "Go on, once a second, until Ctrl-C; with --json one document a line", 0 }, { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct status *s = state->input;
	(void)arg;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &s->vm;
		return 0;
	case 'w':
		s->watch = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "[VM]",
	.doc = "Show what is protected from this host and what replicas are kept on it; of one VM, all that is known.\v"
	       "RPO is what would be lost now: the time since the instant of the last point that the other host has "
	       "committed, against the target. It is marked with ! (and red) where it is over the target. PAUSE is how "
	       "long "
	       "checkpoints stop the guest, p50 and p99.",
	.children = vm_argument_children,
};

static const char *size_of(const json_t *p, const char *key, char *buf, size_t size)
{
	json_int_t bytes = cli_int(p, key, -1);
	if (bytes < 0)
		return "-";
	return units_format_size((uint64_t)bytes, buf, size);
}

static void add_row(struct table *t, const json_t *p, bool wide)
{
	char peer[120], rpo[80], pause[80], rate[32] = "-", ratio[32] = "-", lag[32], points[24] = "-", space[32];
	enum table_mark late = replication_rpo(p, rpo, sizeof(rpo));
	if (cli_int(p, "throughput", -1) >= 0)
		units_format_rate((uint64_t)cli_int(p, "throughput", 0), rate, sizeof(rate));
	if (cli_real(p, "ratio", -1) > 0)
		snprintf(ratio, sizeof(ratio), "%.1fx", cli_real(p, "ratio", 0));
	const json_int_t kept = cli_int(p, "points_kept", cli_int(p, "points", -1));
	if (kept >= 0)
		snprintf(points, sizeof(points), "%lld", (long long)kept);
	const char *const name = cli_str(p, "vm", "?"), *const state = cli_str(p, "state", "?");
	replication_peer(p, peer, sizeof(peer));
	replication_pause(p, pause, sizeof(pause));
	const char *behind = size_of(p, "lag_bytes", lag, sizeof(lag)),
		   *room = size_of(p, "space_bytes", space, sizeof(space));
	const char *all[] = { name,  peer,  state, rpo, pause, rate, points, room, cli_str(p, "capture", "-"),
			      ratio, behind };
	const char *few[] = { name, peer, state, rpo, pause, rate, points };
	table_row(t, wide ? all : few);
	table_mark_cell(t, 2, replication_state(p));
	table_mark_cell(t, 3, late);
}

static struct table *make_table(const json_t *protections, unsigned width)
{
	static const char *const all[] = { "VM",      "PEER",   "STATE",   "RPO",      ">PAUSE", ">RATE",
					   ">POINTS", ">SPACE", "CAPTURE", ">SMALLER", ">LAG",   NULL };
	static const char *const few[] = { "VM", "PEER", "STATE", "RPO", ">PAUSE", ">RATE", ">POINTS", NULL };
	bool wide = width >= WIDE;
	struct table *t = table_new(wide ? all : few);
	size_t i;
	const json_t *p;
	json_array_foreach (protections, i, p)
		add_row(t, p, wide);
	return t;
}

static void print(const struct status *s, const json_t *protections)
{
	BUF_AUTO struct buf text = BUF_INIT;
	size_t i;
	const json_t *p;
	if (json_array_size(protections) == 0)
		puts("No VM is protected, and no replica is kept here.");
	else if (!s->vm.vm)
		table_print(make_table(protections, screen_is_terminal() ? screen_width() : WIDE));
	json_array_foreach (protections, i, p) {
		if (s->vm.vm)
			replication_details(p, &text);
		else
			replication_notes(p, &text);
	}
	if (text.len)
		fwrite(text.data, 1, text.len, stdout);
}

int cmd_status(struct cli *cli, int argc, char **argv)
{
	struct status s = { .vm = { .cli = cli, .optional = true } };
	struct err e = ERR_INIT;
	if (argp_parse(&argp, argc, argv, 0, NULL, &s) != 0)
		return EXIT_CODE_USAGE;
	if (s.watch)
		return watch_run(cli, s.vm.vm, make_table);
	json_t *result = client_ask(cli, "status", s.vm.vm ? json_pack("{s:s}", "vm", s.vm.vm) : NULL, &e);
	if (!result)
		return vm_argument_fail(&s.vm, "status", &e);
	if (cli->json)
		cli_print_json(result);
	else
		print(&s, json_object_get(result, "protections"));
	json_decref(result);
	return EXIT_CODE_OK;
}
