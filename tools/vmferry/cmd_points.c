/* vmferry points VM */
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/units.h"
#include "tools/vmferry/client.h"
#include "tools/vmferry/screen.h"
#include "tools/vmferry/table.h"
#include "tools/vmferry/timeline.h"
#include "tools/vmferry/vm_argument.h"

#include <stdlib.h>
#include <string.h>

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
	.doc = "List the restore points of VM, oldest first, and show them on an axis of time.\v"
	       "A point with memory goes on from that instant; one of disks alone boots from them. SIZE is what the "
	       "point "
	       "brought with it, FREES what its removal would free. `vmferry failover VM --point ID' goes back to one.",
	.children = vm_argument_children,
};

static int64_t age_ms(const json_t *point, int64_t now_ns)
{
	int64_t instant = cli_int(point, "instant_ns", cli_int(point, "committed_ns", 0));
	int64_t age = (now_ns - instant) / NS_PER_MS;
	return instant <= 0 || age < 0 ? 0 : age;
}

static bool has_memory(const json_t *point)
{
	return strcmp(cli_str(point, "kind", "memory"), "memory") == 0;
}

static void print_timeline(const json_t *points, int64_t now_ns)
{
	BUF_AUTO struct buf out = BUF_INIT;
	size_t n = json_array_size(points), i;
	bool utf8 = screen_has_utf8(), disks = false;
	MEM_AUTO struct timeline_point *at = mem_alloc_array(n + 1, sizeof(*at));
	const json_t *point;
	json_array_foreach (points, i, point) {
		at[i] = (struct timeline_point){ .age_ms = age_ms(point, now_ns), .memory = has_memory(point) };
		disks |= !at[i].memory;
	}
	timeline_draw(at, n, screen_width() - 1, utf8, &out);
	if (!out.len)
		return;
	fwrite(out.data, 1, out.len, stdout);
	if (disks)
		printf("%s with memory   %s disks alone\n", utf8 ? "●" : "*", utf8 ? "○" : "o");
	putchar('\n');
}

static const char *size_of(const json_t *point, const char *key, char *buf, size_t size)
{
	json_int_t bytes = cli_int(point, key, -1);
	return bytes < 0 ? "-" : units_format_size((uint64_t)bytes, buf, size);
}

static void print_table(const json_t *points, int64_t now_ns)
{
	static const char *const headings[] = { "POINT", ">AGE", "KIND", "CAPTURE", ">SIZE", ">FREES", "VERIFIED", NULL };
	struct table *t = table_new(headings);
	size_t i;
	const json_t *point;
	json_array_foreach (points, i, point) {
		char age[32], size[32], frees[32];
		const json_t *verified = json_object_get(point, "verified");
		cli_duration(age_ms(point, now_ns), age, sizeof(age));
		const char *cells[] = { cli_str(point, "id", "?"),
					age,
					cli_str(point, "kind", "?"),
					cli_str(point, "capture", NULL),
					size_of(point, "bytes", size, sizeof(size)),
					size_of(point, "undo_bytes", frees, sizeof(frees)),
					json_is_true(verified)    ? "yes"
					: json_is_false(verified) ? "NO"
								  : NULL };
		table_row(t, cells);
		table_mark_cell(t, 6, json_is_false(verified) ? TABLE_BAD : TABLE_PLAIN);
	}
	table_print(t);
}

static void print_usage(const json_t *result)
{
	static const struct {
		const char *key, *what;
	} parts[] = { { "head_bytes", "newest contents" },
		      { "undo_bytes", "older points" },
		      { "journal_bytes", "journal" } };
	const json_t *usage = json_object_get(result, "usage");
	const char *before = "Space: ";
	char text[32];
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		if (cli_int(usage, parts[i].key, -1) < 0)
			continue;
		printf("%s%s %s", before, parts[i].what, size_of(usage, parts[i].key, text, sizeof(text)));
		before = ", ";
	}
	if (strcmp(before, ", ") == 0)
		puts(".");
}

int cmd_points(struct cli *cli, int argc, char **argv)
{
	struct vm_argument vm = { .cli = cli };
	struct err e = ERR_INIT;
	if (argp_parse(&argp, argc, argv, 0, NULL, &vm) != 0)
		return EXIT_CODE_USAGE;
	json_t *result = client_ask(cli, "points", json_pack("{s:s}", "vm", vm.vm), &e);
	if (!result)
		return vm_argument_fail(&vm, "status", &e);
	const json_t *points = json_object_get(result, "points");
	int64_t now = clock_wall_ns();
	if (cli->json) {
		cli_print_json(result);
	} else if (json_array_size(points) == 0) {
		puts("There is no restore point yet.");
	} else {
		print_timeline(points, now);
		print_table(points, now);
		print_usage(result);
	}
	json_decref(result);
	return EXIT_CODE_OK;
}
