/* vmferry pki init | issue | show: works without an agent. */
#include "base/clock.h"
#include "base/mem.h"
#include "tools/vmferry/cli.h"
#include "transport/pki.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_ARGS 64
#define DEFAULT_CA "vmferry-ca"

struct pki {
	struct cli *cli;
	const char *ca, *name, *out;
	long days;
	bool renew;
	const char *addresses[PKI_MAX_ADDRESSES];
	size_t n_addresses;
	const char *args[MAX_ARGS];
	size_t n_args;
};

enum { OPT_CA = 0x200, OPT_NAME, OPT_OUT, OPT_DAYS, OPT_ADDRESS, OPT_RENEW };

static const struct argp_option options[] = {
	{ "ca", OPT_CA, "DIR", 0, "Folder of the certificate authority (default: ./" DEFAULT_CA ")", 0 },
	{ "name", OPT_NAME, "TEXT", 0, "init: name of the fleet, shown in certificates (default: vmferry)", 0 },
	{ "out", OPT_OUT, "DIR", 0, "issue: where to put ca.pem, host.pem and host.key (default: ./HOST)", 0 },
	{ "days", OPT_DAYS, "N", 0, "issue: how long the certificate is good (default: 730)", 0 },
	{ "address", OPT_ADDRESS, "IP", 0,
	  "issue: an IP address to put into the certificate as well; may be given several times", 0 },
	{ "renew", OPT_RENEW, NULL, 0, "issue: replace the certificate and key that are there", 0 },
	{ 0 }
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct pki *p = state->input;
	char *end = NULL;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = p->cli;
		return 0;
	case OPT_CA:
		p->ca = arg;
		return 0;
	case OPT_NAME:
		p->name = arg;
		return 0;
	case OPT_OUT:
		p->out = arg;
		return 0;
	case OPT_DAYS:
		p->days = strtol(arg, &end, 10);
		if (!*arg || *end || p->days < 1 || p->days > PKI_MAX_DAYS)
			argp_error(state, "--days: \"%s\" is out of range (allowed: 1 to %d)", arg, PKI_MAX_DAYS);
		return 0;
	case OPT_ADDRESS:
		if (p->n_addresses == PKI_MAX_ADDRESSES)
			argp_error(state, "--address: at most %d of them", PKI_MAX_ADDRESSES);
		p->addresses[p->n_addresses++] = arg;
		return 0;
	case OPT_RENEW:
		p->renew = true;
		return 0;
	case ARGP_KEY_ARG:
		if (p->n_args == MAX_ARGS)
			argp_error(state, "more than %d arguments", MAX_ARGS);
		p->args[p->n_args++] = arg;
		return 0;
	case ARGP_KEY_END:
		if (p->n_args == 0)
			argp_error(state, "what to do: init, issue or show?");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp argp = {
	.options = options,
	.parser = parse,
	.args_doc = "init\nissue HOST...\nshow FILE...",
	.doc = "Make the fleet's certificate authority (init), certificates of hosts (issue), or look at certificates "
	       "(show).\v"
	       "The authority's folder holds the key to the whole fleet: it belongs on a machine of yours, not on the "
	       "hosts. A host gets what "
	       "`issue' puts into its folder: ca.pem, host.pem and host.key, copied to /etc/vmferry/ over a safe "
	       "channel.",
	.children = cli_children,
};

static const char *format_day(int64_t unix_s, char *buf, size_t size)
{
	time_t t = (time_t)unix_s;
	struct tm tm;
	if (!gmtime_r(&t, &tm) || strftime(buf, size, "%Y-%m-%d", &tm) == 0)
		snprintf(buf, size, "?");
	return buf;
}

static json_t *describe(const char *file, const struct pki_cert *c, int64_t now)
{
	char from[24], to[24];
	json_t *addresses = json_array();
	for (size_t i = 0; i < c->n_addresses; i++)
		json_array_append_new(addresses, json_string(c->addresses[i]));
	return json_pack("{s:s, s:s, s:s, s:s, s:o, s:b, s:s, s:s, s:I, s:s}", "file", file, "name", c->name, "subject",
			 c->subject, "issuer", c->issuer, "addresses", addresses, "ca", c->is_ca, "not_before",
			 format_day(c->not_before, from, sizeof(from)), "not_after",
			 format_day(c->not_after, to, sizeof(to)), "days_left", (json_int_t)pki_days_left(c, now),
			 "fingerprint", c->fingerprint);
}

static int init(struct pki *p)
{
	struct err e = ERR_INIT;
	const char *dir = p->ca ? p->ca : DEFAULT_CA;
	if (pki_init(dir, p->name ? p->name : "vmferry", &e) < 0)
		return cli_fail(p->cli, &e);
	if (p->cli->json) {
		json_t *out = json_pack("{s:s}", "ca", dir);
		cli_print_json(out);
		json_decref(out);
		return EXIT_CODE_OK;
	}
	printf("The fleet's certificate authority is in %s. Who has %s/%s can pass for any host: keep it safe, off the "
	       "hosts.\n"
	       "Next: vmferry pki issue HOST%s%s\n",
	       dir, dir, PKI_CA_KEY, p->ca ? " --ca " : "", p->ca ? p->ca : "");
	return EXIT_CODE_OK;
}

static int issue_one(struct pki *p, const char *host, json_t *issued)
{
	struct err e = ERR_INIT;
	struct pki_cert cert;
	const char *dir = p->out ? p->out : host;
	const struct pki_issue_opts opts = { .ca_dir = p->ca ? p->ca : DEFAULT_CA,
					     .host = host,
					     .addresses = p->addresses,
					     .n_addresses = p->n_addresses,
					     .days = (int)p->days,
					     .out_dir = dir,
					     .replace = p->renew };
	MEM_AUTO char *file = mem_printf("%s/%s", dir, PKI_HOST_CERT);
	if (pki_issue(&opts, &e) < 0 || pki_show(file, &cert, &e) < 0)
		return cli_fail(p->cli, &e);
	json_t *one = describe(file, &cert, clock_wall_ns() / NS_PER_S);
	if (!p->cli->json)
		printf("%s: certificate and key are in %s, good until %s.\n", cert.name, dir,
		       cli_str(one, "not_after", "?"));
	json_array_append_new(issued, one);
	return EXIT_CODE_OK;
}

static int issue(struct pki *p)
{
	if (p->n_args < 2) {
		fprintf(stderr, "vmferry: pki issue: for which host?\n");
		return EXIT_CODE_USAGE;
	}
	if (p->n_args > 2 && (p->out || p->n_addresses)) {
		fprintf(stderr, "vmferry: pki issue: --out and --address go with one host only\n");
		return EXIT_CODE_USAGE;
	}
	json_t *issued = json_array();
	int code = EXIT_CODE_OK;
	for (size_t i = 1; i < p->n_args && code == EXIT_CODE_OK; i++)
		code = issue_one(p, p->args[i], issued);
	if (code == EXIT_CODE_OK && p->cli->json) {
		json_t *out = json_pack("{s:O}", "issued", issued);
		cli_print_json(out);
		json_decref(out);
	} else if (code == EXIT_CODE_OK) {
		printf("Next: copy ca.pem, host.pem and host.key to /etc/vmferry/ of the host (root, host.key mode "
		       "0600), and reload "
		       "its agent.\n");
	}
	json_decref(issued);
	return code;
}

static void print_cert(const json_t *c)
{
	json_int_t left = cli_int(c, "days_left", 0);
	printf("%s\n", cli_str(c, "file", ""));
	printf("  %-12s%s\n", "for", cli_bool(c, "ca") ? cli_str(c, "subject", "?") : cli_str(c, "name", "?"));
	size_t i;
	const json_t *address;
	json_array_foreach (json_object_get(c, "addresses"), i, address)
		printf("  %-12s%s\n", i ? "" : "addresses", json_string_value(address));
	printf("  %-12s%s\n", "issued by", cli_str(c, "issuer", "?"));
	printf("  %-12s%s to %s", "good", cli_str(c, "not_before", "?"), cli_str(c, "not_after", "?"));
	if (left < 0)
		printf(", EXPIRED\n");
	else
		printf(", %lld days left\n", (long long)left);
	printf("  %-12s%s\n", "SHA-256", cli_str(c, "fingerprint", "?"));
}

static int show(struct pki *p)
{
	if (p->n_args < 2) {
		fprintf(stderr, "vmferry: pki show: which file?\n");
		return EXIT_CODE_USAGE;
	}
	json_t *certs = json_array();
	int code = EXIT_CODE_OK;
	for (size_t i = 1; i < p->n_args && code == EXIT_CODE_OK; i++) {
		struct err e = ERR_INIT;
		struct pki_cert cert;
		if (pki_show(p->args[i], &cert, &e) < 0) {
			code = cli_fail(p->cli, &e);
			break;
		}
		json_array_append_new(certs, describe(p->args[i], &cert, clock_wall_ns() / NS_PER_S));
		if (!p->cli->json)
			print_cert(json_array_get(certs, i - 1));
	}
	if (code == EXIT_CODE_OK && p->cli->json) {
		json_t *out = json_pack("{s:O}", "certificates", certs);
		cli_print_json(out);
		json_decref(out);
	}
	json_decref(certs);
	return code;
}

int cmd_pki(struct cli *cli, int argc, char **argv)
{
	struct pki p = { .cli = cli };
	if (argp_parse(&argp, argc, argv, 0, NULL, &p) != 0)
		return EXIT_CODE_USAGE;
	if (strcmp(p.args[0], "init") == 0 && p.n_args == 1)
		return init(&p);
	if (strcmp(p.args[0], "issue") == 0)
		return issue(&p);
	if (strcmp(p.args[0], "show") == 0)
		return show(&p);
	if (strcmp(p.args[0], "init") == 0)
		fprintf(stderr, "vmferry: pki init: takes no argument \"%s\"; the folder is said with --ca\n",
			p.args[1]);
	else
		fprintf(stderr, "vmferry: pki: there is no \"%s\" (allowed: init, issue, show)\n", p.args[0]);
	return EXIT_CODE_USAGE;
}
