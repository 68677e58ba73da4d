/* vmferry check: the agent looks (call "check"); what can be seen without it is seen here when it cannot be reached. */
#include "base/clock.h"
#include "base/mem.h"
#include "config/config.h"
#include "tools/vmferry/client.h"
#include "transport/pki.h"
#include "transport/tls.h"

#include <string.h>
#include <unistd.h>

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
	.doc = "Look for whatever would stand in the way of a migration: libvirt, QEMU, KVM, certificates, clocks, "
	       "space, peers and their "
	       "roles. Each finding comes with its remedy.\v"
	       "The exit code is 0 if nothing is wrong (warnings may be shown), 1 if something is, 4 if the agent "
	       "cannot be reached.",
	.children = cli_children,
};

static void add(json_t *checks, const char *name, const char *status, const char *text, const char *remedy)
{
	json_array_append_new(checks, json_pack("{s:s, s:s, s:s, s:s}", "name", name, "status", status, "text", text,
						"remedy", remedy));
}

static void add_error(json_t *checks, const char *name, const struct err *e)
{
	add(checks, name, "fail", e->text, e->remedy);
}

/* Without an agent: is the configuration right, are the certificates, is there a KVM? */
static json_t *look_here(const struct err *why)
{
	json_t *checks = json_array();
	struct err e = ERR_INIT;
	add_error(checks, "agent", why);
	struct config *c = config_load(CONFIG_DEFAULT_PATH, NULL, NULL, &e);
	if (c) {
		struct err tls_error = ERR_INIT;
		const struct tls_files files = { .ca = c->tls.ca, .cert = c->tls.cert, .key = c->tls.key };
		add(checks, "configuration", "ok", CONFIG_DEFAULT_PATH " is right", "");
		struct tls_ctx *ctx = tls_ctx_new(&files, &tls_error);
		if (ctx)
			add(checks, "certificates", "ok", "the host's certificate, its key and the CA belong together",
			    "");
		else
			add_error(checks, "certificates", &tls_error);
		tls_ctx_free(ctx);
	} else {
		err_remedy(&e, "vmferryd --check-config says all that is wrong; an example is "
			       "/usr/share/doc/vmferry/examples/vmferryd.conf.example");
		add_error(checks, "configuration", &e);
	}
	config_free(c);
	if (access("/dev/kvm", R_OK | W_OK) < 0)
		add(checks, "kvm", "fail", "/dev/kvm is not there or not accessible",
		    "switch on virtualization in the firmware and load kvm_intel or kvm_amd");
	else
		add(checks, "kvm", "ok", "/dev/kvm is there", "");
	return checks;
}

static void print(const json_t *checks)
{
	size_t i;
	const json_t *c;
	json_array_foreach (checks, i, c) {
		char text[1300], remedy[700];
		printf("%-5s %-14s %s\n", cli_str(c, "status", "?"), cli_str(c, "name", "?"),
		       cli_clean(cli_str(c, "text", ""), text, sizeof(text)));
		if (*cli_str(c, "remedy", "") && strcmp(cli_str(c, "status", ""), "ok") != 0)
			printf("%20s what to do: %s\n", "", cli_clean(cli_str(c, "remedy", ""), remedy, sizeof(remedy)));
	}
}

int cmd_check(struct cli *cli, int argc, char **argv)
{
	struct err e = ERR_INIT;
	if (argp_parse(&argp, argc, argv, 0, NULL, cli) != 0)
		return EXIT_CODE_USAGE;
	int code = EXIT_CODE_OK;
	json_t *result = client_ask(cli, "check", NULL, &e);
	if (!result) {
		if (cli->host || exit_code_of(e.cls) != EXIT_CODE_UNREACHABLE)
			return cli_fail(cli, &e);
		result = json_pack("{s:o}", "checks", look_here(&e));
		code = EXIT_CODE_UNREACHABLE;
	}
	size_t i, failed = 0, warned = 0;
	const json_t *c, *checks = json_object_get(result, "checks");
	json_array_foreach (checks, i, c) {
		failed += strcmp(cli_str(c, "status", ""), "fail") == 0;
		warned += strcmp(cli_str(c, "status", ""), "warn") == 0;
	}
	if (cli->json) {
		cli_print_json(result);
	} else {
		print(checks);
		printf("\n%zu checks, %zu failed, %zu warnings\n", json_array_size(checks), failed, warned);
	}
	json_decref(result);
	return code == EXIT_CODE_OK && failed ? EXIT_CODE_FAILED : code;
}
