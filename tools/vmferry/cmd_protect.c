/* vmferry protect VM --to HOST */
#include "base/buf.h"
#include "base/clock.h"
#include "tools/vmferry/client.h"
#include "tools/vmferry/interrupt.h"
#include "tools/vmferry/live.h"
#include "tools/vmferry/protect_options.h"
#include "tools/vmferry/replication.h"
#include "tools/vmferry/vm_argument.h"

#include <string.h>
#include <unistd.h>

#define ACCEPTED_WITHIN_NS (120 * NS_PER_S) /* the agents look at the VM and at each other */
#define POLL_US 250000

struct protect {
	struct vm_argument vm;
	json_t *args;
	bool wait;
};

static const struct argp_option options[] = {
	{ "wait", 'w', NULL, 0, "Wait until the first copy is complete and points are committed", 1 }, { 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct protect *p = state->input;
	(void)arg;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &p->vm;
		state->child_inputs[1] = p->args;
		return 0;
	case 'w':
		p->wait = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &vm_argument_argp, 0, NULL, 0 },
					      { &protect_options_argp, 0, NULL, 0 },
					      { 0 } };
static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "VM --to HOST",
	.doc = "Keep a replica of VM at HOST, so that it can go on there, running, when this host is lost.\v"
	       "The first copy is made while the VM runs; from then on checkpoints follow in the background. `vmferry "
	       "status' "
	       "says how far behind the replica is. A protection that exists is changed to what is said here; one that "
	       "stands "
	       "in vmferryd.conf is changed there. It lives until `vmferry unprotect', over restarts of agents and "
	       "hosts.",
	.children = children,
};

static void on_first_interrupt(void *ctx)
{
	live_hide(ctx);
	live_say(ctx, "left; the copy goes on without this command (vmferry status)");
}

static void nothing(void *ctx)
{
	(void)ctx;
}

/* The status of one protection as a note of progress. */
static json_t *as_note(const json_t *p)
{
	const char *state = cli_str(p, "state", "?");
	json_t *note = json_pack("{s:s, s:s}", "phase", strcmp(state, "seeding") == 0 ? "seed" : state, "text",
				 cli_str(p, "reason", ""));
	static const struct {
		const char *from, *to;
	} keys[] = { { "throughput", "rate" },
		     { "lag_bytes", "remaining_bytes" },
		     { "percent", "percent" },
		     { "ratio", "ratio" } };
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (json_is_number(json_object_get(p, keys[i].from)))
			json_object_set(note, keys[i].to, json_object_get(p, keys[i].from));
	return note;
}

static bool is_over(const json_t *p, struct err *e)
{
	const char *state = cli_str(p, "state", "?");
	static const char *const ends[] = { "failed", "fenced", "paused", "promoting", "promoted" };
	if (json_is_object(json_object_get(p, "last_point")) &&
	    (strcmp(state, "protected") == 0 || strcmp(state, "degraded") == 0))
		return true;
	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		if (strcmp(state, ends[i]) == 0) {
			err_set(e, ERR_CANCELLED, "%s is %s: %s", cli_str(p, "vm", "?"), state,
				cli_str(p, "reason", "no reason said"));
			e->cls = strcmp(state, "failed") == 0 ? ERR_PROTOCOL : ERR_CANCELLED;
			return true;
		}
	}
	return false;
}

/* Replaces *status by the one that ends it. */
static int wait_until_protected(const struct protect *p, json_t **status, struct err *e)
{
	struct live *live = live_new(p->vm.vm, cli_str(p->args, "host", ""), p->vm.cli->json);
	struct interrupt *interrupt = interrupt_new(on_first_interrupt, nothing, live, e);
	struct client *client = interrupt ? client_open(p->vm.cli, e) : NULL;
	int rc = client ? 0 : -1;
	while (rc == 0) {
		json_t *result = NULL, *args = json_pack("{s:s}", "vm", p->vm.vm);
		rc = client_call(client, "status", args, CLIENT_SHORT_NS, NULL, NULL, NULL, &result, e);
		const json_t *now = json_array_get(json_object_get(result, "protections"), 0);
		if (rc == 0 && !now)
			rc = err_set(e, ERR_CANCELLED, "the protection of %s was ended meanwhile", p->vm.vm);
		if (now) {
			json_t *note = as_note(now);
			live_note(live, note);
			json_decref(note);
			json_decref(*status);
			*status = json_incref((json_t *)(uintptr_t)now);
		}
		bool over = rc < 0 || is_over(now, e);
		json_decref(result);
		if (over || interrupt_pending(interrupt_flag(interrupt))) {
			rc = err_is_set(e) ? -1
			     : over        ? 0
					   : err_set(e, ERR_CANCELLED, "not waited for the first copy of %s", p->vm.vm);
			break;
		}
		usleep(POLL_US);
	}
	client_close(client);
	live_hide(live);
	interrupt_free(interrupt);
	live_free(live);
	return rc;
}

static json_t *ask(const struct protect *p, struct err *e)
{
	json_t *result = NULL;
	struct client *client = client_open(p->vm.cli, e);
	if (client)
		client_call(client, "protect", json_incref(p->args), ACCEPTED_WITHIN_NS, NULL, NULL, NULL, &result, e);
	client_close(client);
	return result;
}

/* What would be different after a failover: to be read now, not then. */
static void say_findings(const struct protect *p, const json_t *status)
{
	const json_t *finding;
	size_t i;
	json_array_foreach(json_object_get(status, "findings"), i, finding)
	{
		if (!p->vm.cli->json)
			printf("at %s: %s\n", cli_str(p->args, "host", "?"), cli_str(finding, "text", "?"));
	}
}

static int run(struct protect *p)
{
	struct err e = ERR_INIT;
	json_object_set_new(p->args, "vm", json_string(p->vm.vm));
	json_t *status = ask(p, &e);
	if (!status)
		return vm_argument_fail(&p->vm, "vms", &e);
	say_findings(p, status);
	int rc = p->wait ? wait_until_protected(p, &status, &e) : 0;
	if (rc < 0) {
		json_decref(status);
		return cli_fail(p->vm.cli, &e);
	}
	if (p->vm.cli->json) {
		cli_print_json(status);
	} else {
		BUF_AUTO struct buf text = BUF_INIT;
		replication_details(status, &text);
		fwrite(text.data, 1, text.len, stdout);
	}
	json_decref(status);
	return EXIT_CODE_OK;
}

int cmd_protect(struct cli *cli, int argc, char **argv)
{
	struct protect p = { .vm = { .cli = cli }, .args = json_object() };
	int code = EXIT_CODE_USAGE;
	if (argp_parse(&argp, argc, argv, 0, NULL, &p) == 0)
		code = run(&p);
	json_decref(p.args);
	return code;
}
