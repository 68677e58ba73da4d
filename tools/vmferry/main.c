/* vmferry - the operator's command. Finds the subcommand; each parses its own options (cmd_*.c). */
#include "base/mem.h"
#include "config/nearest.h"
#include "tools/vmferry/cli.h"

#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

const char *argp_program_version = "vmferry " VMFERRY_VERSION;

struct start {
	struct cli cli;
	int command; /* index in argv, 0: none */
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct start *start = state->input;
	(void)arg;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &start->cli;
		return 0;
	case ARGP_KEY_ARG:
		/* The rest is the subcommand's. */
		start->command = state->next - 1;
		state->next = state->argc;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static char *describe_commands(void)
{
	char *doc = mem_strdup("Move running virtual machines between KVM hosts, and keep replicas of them.\v");
	for (const struct cli_command *c = cli_commands; c->name; c++) {
		char *longer = mem_printf("%s  %-14s%s\n", doc, c->name, c->summary);
		free(doc);
		doc = longer;
	}
	char *whole = mem_printf("%s\n`vmferry COMMAND --help' says more about each; vmferry(1) has it all.", doc);
	free(doc);
	return whole;
}

static const struct cli_command *find(const char *name)
{
	const char *names[32];
	size_t n = 0;
	for (const struct cli_command *c = cli_commands; c->name; c++) {
		if (strcmp(c->name, name) == 0)
			return c;
		names[n++] = c->name;
	}
	const char *near = nearest_of(name, names, n);
	if (near)
		fprintf(stderr, "vmferry: there is no command \"%s\"; did you mean \"%s\"?\n", name, near);
	else
		fprintf(stderr, "vmferry: there is no command \"%s\"; `vmferry --help' lists them\n", name);
	return NULL;
}

int main(int argc, char **argv)
{
	struct start start = { 0 };
	MEM_AUTO char *doc = describe_commands();
	const struct argp argp = { .parser = parse, .args_doc = "COMMAND [ARG...]", .doc = doc, .children = cli_children };
	static char help[] = "--help", name_alone[] = "vmferry"; /* wherever it lies */
	argp_err_exit_status = EXIT_CODE_USAGE;
	setlocale(LC_CTYPE, ""); /* widths of characters in tables; numbers stay as they are */
	signal(SIGPIPE, SIG_IGN);
	/* ARGP_IN_ORDER: options behind the subcommand belong to it. */
	if (argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &start) != 0)
		return EXIT_CODE_USAGE;
	if (!start.command) {
		argp_help(&argp, stderr, ARGP_HELP_STD_USAGE, name_alone);
		return EXIT_CODE_USAGE;
	}
	if (strcmp(argv[start.command], "help") == 0) { /* help COMMAND: COMMAND --help */
		if (start.command + 1 >= argc) {
			argp_help(&argp, stdout, ARGP_HELP_STD_HELP, name_alone);
			return EXIT_CODE_OK;
		}
		argv[start.command] = argv[start.command + 1];
		argv[start.command + 1] = help;
		argc = start.command + 2;
	}
	const struct cli_command *command = find(argv[start.command]);
	if (!command)
		return EXIT_CODE_USAGE;
	MEM_AUTO char *name = mem_printf("vmferry %s", command->name);
	argv[start.command] = name;
	int code = command->run(&start.cli, argc - start.command, argv + start.command);
	/* A full disk or a closed pipe behind stdout is a failure, not a success with half a table. */
	if (fflush(stdout) != 0 && code == EXIT_CODE_OK) {
		perror("vmferry: standard output");
		code = EXIT_CODE_FAILED;
	}
	return code;
}
