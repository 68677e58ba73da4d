/* vmferry failover VM */
#include "base/buf.h"
#include "base/clock.h"
#include "tools/vmferry/client.h"
#include "tools/vmferry/confirm.h"
#include "tools/vmferry/job.h"
#include "tools/vmferry/report.h"
#include "tools/vmferry/vm_argument.h"

#include <string.h>

struct failover {
	struct vm_argument vm;
	const char *point;
	bool paused, force, yes;
	bool unplanned; /* the operator knows that what came after the last point may be lost */
};

static const struct argp_option options[] = {
	{ "point", 'p', "ID", 0, "Go back to this point (see `vmferry points'); default: the latest", 0 },
	{ "paused", 'P', NULL, 0, "Leave the VM paused, to be looked at before it goes on (virsh resume)", 0 },
	{ "force", 'f', NULL, 0,
	  "Also if the host where it ran still answers, without its last checkpoint. That host pauses its VM as soon "
	  "as it "
	  "learns of it",
	  0 },
	{ "yes", 'y', NULL, 0, "Do not ask: go on from the last point if the other host does not answer", 0 },
	{ 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct failover *f = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &f->vm;
		return 0;
	case 'p':
		f->point = arg;
		return 0;
	case 'P':
		f->paused = true;
		return 0;
	case 'f':
		f->force = true;
		return 0;
	case 'y':
		f->yes = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "VM",
	.doc = "Let VM go on at this host, from the replica that is kept here.\v"
	       "If the host where it ran answers, it is a planned failover: that host makes a last checkpoint, stops "
	       "the VM, and "
	       "nothing is lost. If it does not, the VM goes on from the last point that was committed here, and what "
	       "it did "
	       "after that is lost; `vmferry status' says how long that is. With two hosts nobody but you can know "
	       "that the "
	       "other host is really gone, and not merely out of reach: on a terminal you are asked. When it comes "
	       "back, it "
	       "finds that the VM has moved and pauses its own.",
	.children = vm_argument_children,
};

/* Does the other host seem to be there? Only then can nothing be lost. */
static bool source_is_there(const json_t *p)
{
	static const char *const connected[] = { "seeding", "protected", "degraded" };
	const char *state = cli_str(p, "state", "?");
	for (size_t i = 0; i < sizeof(connected) / sizeof(connected[0]); i++)
		if (strcmp(state, connected[i]) == 0)
			return true;
	return false;
}

/* What there is to lose, from what the agent knows of the replica; p may be NULL. */
static void describe(const struct failover *f, const json_t *p, struct buf *out)
{
	char vm[200], host[200], point[200], age[32];
	cli_clean(f->vm.vm, vm, sizeof(vm));
	cli_clean(cli_str(p, "host", "the host where it ran"), host, sizeof(host));
	if (f->point) {
		buf_printf(out, "%s will go back to the point %s. What it did since then will not be part of it.\n", vm,
			   cli_clean(f->point, point, sizeof(point)));
	} else if (cli_int(p, "rpo_ms", -1) >= 0) {
		buf_printf(out, "%s will go on from the state of %s ago.\n", vm,
			   cli_duration(cli_int(p, "rpo_ms", 0), age, sizeof(age)));
		buf_printf(out, "What it did since then is lost, unless %s can still be reached.\n", host);
	} else {
		buf_printf(out, "%s will go on from the last point that is here; how old that is, is not known.\n", vm);
	}
	if (f->force)
		buf_printf(out, "%s makes no last checkpoint and is not waited for (--force).\n", host);
	buf_printf(out,
		   "If %s still runs the VM and only cannot be reached, it will run twice until they meet again: make "
		   "sure\n"
		   "that it is off.",
		   host);
}

static bool is_wanted(struct failover *f)
{
	struct err ignored = ERR_INIT;
	f->unplanned = f->yes;
	if (f->yes || f->vm.cli->json || !confirm_possible())
		return true;
	json_t *status = client_ask(f->vm.cli, "status", json_pack("{s:s}", "vm", f->vm.vm), &ignored);
	const json_t *p = json_array_get(json_object_get(status, "protections"), 0);
	bool harmless = p && source_is_there(p) && !f->force && !f->point;
	BUF_AUTO struct buf text = BUF_INIT;
	describe(f, p, &text);
	if (!harmless)
		f->unplanned = confirm((const char *)text.data);
	json_decref(status);
	return harmless || f->unplanned;
}

/* What only this command knows: how long the operator has waited, with all that it adds; how old the point was then. */
static void add_own(const struct failover *f, json_t *result, int64_t began_ns, int64_t began_wall_ns)
{
	json_int_t instant = cli_int(json_object_get(result, "point"), "instant_ns", 0);
	json_object_set_new(result, "command_ms", json_integer((clock_mono_ns() - began_ns) / NS_PER_MS));
	if (instant > 0 && instant <= began_wall_ns)
		json_object_set_new(result, "point_age_ms", json_integer((began_wall_ns - instant) / NS_PER_MS));
	if (!json_object_get(result, "runs_on") && !json_object_get(result, "host"))
		json_object_set_new(result, "host", json_string(f->vm.cli->host ? f->vm.cli->host : "this host"));
}

int cmd_failover(struct cli *cli, int argc, char **argv)
{
	struct failover f = { .vm = { .cli = cli } };
	struct err e = ERR_INIT;
	json_t *result = NULL;
	if (argp_parse(&argp, argc, argv, 0, NULL, &f) != 0)
		return EXIT_CODE_USAGE;
	if (!is_wanted(&f))
		return vm_argument_declined(&f.vm, "the replica of %s is as it was");
	json_t *args = json_pack("{s:s, s:b, s:b, s:b}", "vm", f.vm.vm, "paused", f.paused, "force", f.force, "unplanned", f.unplanned);
	if (f.point)
		json_object_set_new(args, "point", json_string(f.point));
	const struct job job = {
		.cli = cli,
		.vm = f.vm.vm,
		.to = cli->host ? cli->host : "",
		.cancelling = "cancelling, if the VM is not started yet",
		.left = "`vmferry status' says whether it is over, `vmferry vms --all' where the VM runs"
	};
	int64_t began = clock_mono_ns(), began_wall = clock_wall_ns();
	if (job_run(&job, "failover", args, &result, &e) < 0)
		return vm_argument_fail(&f.vm, "status", &e);
	add_own(&f, result, began, began_wall);
	if (cli->json) {
		cli_print_json(result);
	} else {
		BUF_AUTO struct buf text = BUF_INIT;
		report_failover(result, &text);
		fwrite(text.data, 1, text.len, stdout);
	}
	json_decref(result);
	return EXIT_CODE_OK;
}
