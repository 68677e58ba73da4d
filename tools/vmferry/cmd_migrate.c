/* vmferry migrate VM HOST */
#include "base/mem.h"
#include "tools/vmferry/client.h"
#include "tools/vmferry/interrupt.h"
#include "tools/vmferry/live.h"
#include "tools/vmferry/move_options.h"
#include "tools/vmferry/report.h"

#include <string.h>

struct migrate {
	struct cli *cli;
	struct move_options move;
	const char *vm, *host;

	/* while it runs */
	struct live *live;
	json_t *findings; /* of preflight, from a note; the note thread's until the call has returned */
	bool under_way;   /* same: bytes of the guest have travelled */
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct migrate *m = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &m->move;
		state->child_inputs[1] = m->cli;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num == 0)
			m->vm = arg;
		else if (state->arg_num == 1)
			m->host = arg;
		else
			argp_error(state, "\"%s\" is one argument too many", arg);
		return 0;
	case ARGP_KEY_END:
		if (state->arg_num < 2)
			argp_error(state, state->arg_num ? "to which host?" : "which VM, and to which host?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_child children[] = { { &move_options_argp, 0, NULL, 0 }, { &cli_argp, 0, NULL, 0 }, { 0 } };
static const struct argp argp = {
	.parser = parse,
	.args_doc = "VM HOST",
	.doc = "Move VM (name or UUID) from this host to HOST, while it runs.\v"
	       "Before the first byte travels everything that `vmferry plan' looks at is checked. Ctrl-C cancels and "
	       "waits until it is "
	       "certain where the VM runs; a second Ctrl-C leaves at once. If the command dies, the migration is "
	       "cancelled.",
	.children = children,
};

static void on_note(void *ctx, const json_t *note)
{
	struct migrate *m = ctx;
	json_t *findings = json_object_get(note, "findings");
	if (json_is_array(findings)) {
		json_decref(m->findings);
		m->findings = json_incref(findings);
	}
	const char *phase = cli_str(note, "phase", "");
	if (strcmp(phase, "disks") == 0 || strcmp(phase, "memory") == 0)
		m->under_way = true;
	live_note(m->live, note);
}

static void on_first_interrupt(void *ctx)
{
	struct migrate *m = ctx;
	live_say(m->live, "cancelling; press Ctrl-C again to leave without waiting");
}

static void on_second_interrupt(void *ctx)
{
	struct migrate *m = ctx;
	struct progress p;
	live_hide(m->live);
	live_progress(m->live, &p);
	if (progress_at_source(&p))
		live_say(m->live,
			 "left while cancelling. When last heard of, %s ran on %s; the agent finishes without this "
			 "command.",
			 m->vm, m->cli->host ? m->cli->host : "this host");
	else
		live_say(m->live, "left during the switch-over: %s runs on exactly one of %s and %s.", m->vm,
			 m->cli->host ? m->cli->host : "this host", m->host);
	live_say(m->live,
		 "  what to do: `vmferry jobs' says whether it is over, `vmferry vms --all' where the VM runs");
}

/* Those that the error does not say already in so many words. */
static void print_findings(const struct migrate *m, const struct err *e)
{
	BUF_AUTO struct buf text = BUF_INIT;
	json_t *rest = json_array();
	char clean[700];
	size_t i;
	json_t *f;
	json_array_foreach (m->findings, i, f) {
		const char *said = cli_str(f, "text", "");
		if (!e || !*said || !strstr(e->text, said))
			json_array_append(rest, f);
		else if (*cli_str(f, "remedy", "") && !e->remedy[0])
			buf_printf(&text, "  what to do: %s\n",
				   cli_clean(cli_str(f, "remedy", ""), clean, sizeof(clean)));
	}
	report_findings(rest, &text);
	json_decref(rest);
	if (text.len)
		fwrite(text.data, 1, text.len, stderr);
}

static int finish(struct migrate *m, int rc, const json_t *result, const struct err *e)
{
	live_hide(m->live);
	if (rc == 0) {
		if (m->cli->json) {
			cli_print_json(result);
			return EXIT_CODE_OK;
		}
		/* What preflight warned of is still true afterwards. */
		print_findings(m, NULL);
		BUF_AUTO struct buf text = BUF_INIT;
		report_migration(result, &text);
		fwrite(text.data, 1, text.len, stdout);
		return EXIT_CODE_OK;
	}
	json_t *extra = m->findings ? json_pack("{s:O}", "findings", m->findings) : NULL;
	int code = cli_fail_with(m->cli, e, extra);
	json_decref(extra);
	if (!m->cli->json)
		print_findings(m, e);
	/* Preflight and roles refuse before anything travels; after that only the convergence policy does. */
	return e->cls == ERR_REFUSED && m->under_way ? EXIT_CODE_NOT_CONVERGED : code;
}

int cmd_migrate(struct cli *cli, int argc, char **argv)
{
	struct migrate m = { .cli = cli };
	struct err e = ERR_INIT;
	int code = EXIT_CODE_USAGE;
	move_options_init(&m.move);
	if (argp_parse(&argp, argc, argv, 0, NULL, &m) != 0)
		goto out;
	m.live = live_new(m.vm, m.host, cli->json);
	struct interrupt *interrupt = interrupt_new(on_first_interrupt, on_second_interrupt, &m, &e);
	struct client *client = interrupt ? client_open(cli, &e) : NULL;
	if (client) {
		json_t *args = move_options_take(&m.move), *result = NULL;
		json_object_set_new(args, "vm", json_string(m.vm));
		json_object_set_new(args, "host", json_string(m.host));
		int rc = client_call(client, "migrate", args, CLIENT_LONG_NS, on_note, &m, interrupt_flag(interrupt),
				     &result, &e);
		client_close(client);
		code = finish(&m, rc, result, &e);
		json_decref(result);
	} else {
		live_hide(m.live);
		code = cli_fail(cli, &e);
	}
	interrupt_free(interrupt);
	live_free(m.live);
	json_decref(m.findings);
out:
	move_options_fini(&m.move);
	return code;
}
