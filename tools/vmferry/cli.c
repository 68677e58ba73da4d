#include "tools/vmferry/cli.h"

#include "base/clock.h"
#include "base/units.h"

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

const struct cli_command cli_commands[] = {
	{ "pki", "make the fleet's certificate authority and host certificates", cmd_pki },
	{ "check", "look for what would stand in the way, each with its remedy", cmd_check },
	{ "hosts", "this host and its peers: versions, CPU, memory, roles", cmd_hosts },
	{ "vms", "the virtual machines of a host, or of all", cmd_vms },
	{ "plan", "can a VM move to a host, and how long will it take", cmd_plan },
	{ "migrate", "move a VM to another host", cmd_migrate },
	{ "cancel", "stop a migration; the VM stays where it runs", cmd_cancel },
	{ "jobs", "migrations under way", cmd_jobs },
	{ "drain", "move every VM off a host", cmd_drain },
	{ "cpu-baseline", "the CPU model on which VMs can move among hosts", cmd_cpu_baseline },
	{ "protect", "keep a replica of a VM at another host", cmd_protect },
	{ "status", "protections: state, RPO, pause, space (--watch)", cmd_status },
	{ "pause", "stop replicating for a while", cmd_pause },
	{ "resume", "go on with replicating", cmd_resume },
	{ "unprotect", "end a protection", cmd_unprotect },
	{ "points", "the restore points of a VM", cmd_points },
	{ "verify", "check every checksum of a replica", cmd_verify },
	{ "failover", "let a VM go on here, from its replica", cmd_failover },
	{ "failback", "bring a VM back to where it came from", cmd_failback },
	{ "export", "write a point as plain images", cmd_export },
	{ "events", "what has happened, or happens (-f)", cmd_events },
	{ NULL, NULL, NULL },
};

enum { OPT_SOCKET = 0x100, OPT_HOST, OPT_JSON };

static const struct argp_option global_options[] = {
	{ "socket", OPT_SOCKET, "PATH", 0, "Control socket of the agent (default: $VMFERRY_SOCKET, or as configured)",
	  -2 },
	{ "host", OPT_HOST, "HOST", 0,
	  "Let the agent of HOST do it; that agent must grant this host the role \"operate\"", -2 },
	{ "json", OPT_JSON, NULL, 0, "Print JSON for programs", -2 },
	{ 0 }
};

static error_t parse_global(int key, char *arg, struct argp_state *state)
{
	struct cli *cli = state->input;
	switch (key) {
	case OPT_SOCKET:
		cli->socket = arg;
		return 0;
	case OPT_HOST:
		cli->host = arg;
		return 0;
	case OPT_JSON:
		cli->json = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp cli_argp = { .options = global_options, .parser = parse_global };
const struct argp_child cli_children[] = { { &cli_argp, 0, NULL, 0 }, { 0 } };

const char *cli_clean(const char *text, char *buf, size_t size)
{
	size_t n = 0;
	for (; *text && n + 1 < size; text++) {
		unsigned char c = (unsigned char)*text;
		/* UTF-8 passes, C0 and DEL do not; C1 controls hide in UTF-8 as C2 80..9F. */
		bool c1 = c == 0xc2 && (unsigned char)text[1] >= 0x80 && (unsigned char)text[1] < 0xa0;
		if (c1)
			text++;
		buf[n++] = c1 || iscntrl(c) ? '?' : (char)c;
	}
	buf[n] = '\0';
	return buf;
}

void cli_print_json(const json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
	fputc('\n', stdout);
	fflush(stdout);
}

int cli_fail_with(const struct cli *cli, const struct err *e, const json_t *extra)
{
	char clean[1300];
	if (cli->json) {
		json_t *out = extra ? json_copy((json_t *)(uintptr_t)extra) : json_object();
		json_object_set_new(out, "error",
				    json_pack("{s:s, s:s, s:s}", "class", err_class_name(e->cls), "text", e->text,
					      "remedy", e->remedy));
		cli_print_json(out);
		json_decref(out);
		return (int)exit_code_of(e->cls);
	}
	fflush(stdout);
	fprintf(stderr, "vmferry: %s\n", cli_clean(e->text, clean, sizeof(clean)));
	if (e->remedy[0])
		fprintf(stderr, "  what to do: %s\n", cli_clean(e->remedy, clean, sizeof(clean)));
	return (int)exit_code_of(e->cls);
}

int cli_fail(const struct cli *cli, const struct err *e)
{
	return cli_fail_with(cli, e, NULL);
}

const char *cli_str(const json_t *o, const char *key, const char *otherwise)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : otherwise;
}

json_int_t cli_int(const json_t *o, const char *key, json_int_t otherwise)
{
	const json_t *v = json_object_get(o, key);
	if (json_is_integer(v))
		return json_integer_value(v);
	return json_is_real(v) ? (json_int_t)json_real_value(v) : otherwise;
}

double cli_real(const json_t *o, const char *key, double otherwise)
{
	const json_t *v = json_object_get(o, key);
	return json_is_number(v) ? json_number_value(v) : otherwise;
}

bool cli_bool(const json_t *o, const char *key)
{
	return json_is_true(json_object_get(o, key));
}

const char *cli_duration(int64_t ms, char *buf, size_t size)
{
	const int64_t year = INT64_C(365) * 24 * 3600 * 1000;
	return units_format_duration((ms < year ? ms : year) * NS_PER_MS, buf, size);
}
