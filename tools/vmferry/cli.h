/*
 * cli.h - what every subcommand shares: the options that stand before or after it, and how results and errors are said.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_CLI_H
#define VMFERRY_TOOLS_VMFERRY_CLI_H

#include "base/err.h"
#include "tools/vmferry/exit_code.h"

#include <argp.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct cli {
	const char *socket; /* --socket; NULL: $VMFERRY_SOCKET, the configuration's, the default */
	const char *host;   /* --host; NULL: the agent on this host */
	bool json;          /* --json */
};

struct cli_command {
	const char *name;
	const char *summary;
	/* argv[0] is "vmferry NAME", for messages. Returns an exit code. */
	int (*run)(struct cli *cli, int argc, char **argv);
};

/* Ends with name == NULL. */
extern const struct cli_command cli_commands[];

/* The global options, as an argp child whose input is the struct cli. */
extern const struct argp cli_argp;
/* Children of a subcommand's argp: only the global options. In its parser: case ARGP_KEY_INIT: state->child_inputs[0]
 * = cli. */
extern const struct argp_child cli_children[];

/* Says the error ("vmferry: ..." and the remedy on stderr; with --json {"error":{...}} on stdout) and returns its
 * exit code. */
int cli_fail(const struct cli *cli, const struct err *e);
/* The same with more keys beside "error"; extra is borrowed, may be NULL. */
int cli_fail_with(const struct cli *cli, const struct err *e, const json_t *extra);
/* One JSON document on stdout. */
void cli_print_json(const json_t *value);

/* Text that came over the network, made safe for a terminal: control characters become '?'. Returns buf. */
const char *cli_clean(const char *text, char *buf, size_t size);

/* Members of JSON objects from the agent; missing or of another type: the default. */
const char *cli_str(const json_t *o, const char *key, const char *otherwise);
json_int_t cli_int(const json_t *o, const char *key, json_int_t otherwise);
double cli_real(const json_t *o, const char *key, double otherwise);
bool cli_bool(const json_t *o, const char *key);
/* Milliseconds for people; more than a year is shown as one. Returns buf. */
const char *cli_duration(int64_t ms, char *buf, size_t size);

/* Subcommands, one file each. */
int cmd_pki(struct cli *cli, int argc, char **argv);
int cmd_check(struct cli *cli, int argc, char **argv);
int cmd_hosts(struct cli *cli, int argc, char **argv);
int cmd_vms(struct cli *cli, int argc, char **argv);
int cmd_plan(struct cli *cli, int argc, char **argv);
int cmd_migrate(struct cli *cli, int argc, char **argv);
int cmd_cancel(struct cli *cli, int argc, char **argv);
int cmd_jobs(struct cli *cli, int argc, char **argv);
int cmd_drain(struct cli *cli, int argc, char **argv);
int cmd_cpu_baseline(struct cli *cli, int argc, char **argv);
int cmd_protect(struct cli *cli, int argc, char **argv);
int cmd_unprotect(struct cli *cli, int argc, char **argv);
int cmd_pause(struct cli *cli, int argc, char **argv);
int cmd_resume(struct cli *cli, int argc, char **argv);
int cmd_status(struct cli *cli, int argc, char **argv);
int cmd_points(struct cli *cli, int argc, char **argv);
int cmd_verify(struct cli *cli, int argc, char **argv);
int cmd_failover(struct cli *cli, int argc, char **argv);
int cmd_failback(struct cli *cli, int argc, char **argv);
int cmd_export(struct cli *cli, int argc, char **argv);
int cmd_events(struct cli *cli, int argc, char **argv);

#endif
