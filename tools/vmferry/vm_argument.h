/*
 * vm_argument.h - the one argument of most commands about a protection: a VM. With the global options, and with a hint
 * when there is no VM of that name.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_VM_ARGUMENT_H
#define VMFERRY_TOOLS_VMFERRY_VM_ARGUMENT_H

#include "tools/vmferry/cli.h"

struct vm_argument {
	struct cli *cli;
	bool optional;
	const char *vm; /* NULL: not given */
};

/* A child of a subcommand's argp; in its parser: case ARGP_KEY_INIT: state->child_inputs[0] = the struct. Takes the
 * arguments that the parser does not. */
extern const struct argp vm_argument_argp;
extern const struct argp_child vm_argument_children[];

/* As cli_fail; when the agent has refused, and what `call` lists ("vms" or "status") has no such VM but one of nearly
 * that name, it is suggested. */
int vm_argument_fail(const struct vm_argument *a, const char *call, struct err *e);
/* Makes the call with {"vm": ...} and what `args` (stolen, may be NULL) has; prints the result with --json, or else the
 * sentence `done`, in which %s is the VM. For calls that are over soon. */
int vm_argument_call(const struct vm_argument *a, const char *method, json_t *args, const char *done);
/* The operator has said no; `state`, in which %s is the VM, is what it is in. Returns the exit code. */
int vm_argument_declined(const struct vm_argument *a, const char *state);

#endif
