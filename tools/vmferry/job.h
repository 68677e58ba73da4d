/*
 * job.h - a call that takes a while: one live line of its notes, Ctrl-C cancels it, a second Ctrl-C leaves.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_JOB_H
#define VMFERRY_TOOLS_VMFERRY_JOB_H

#include "tools/vmferry/cli.h"

struct job {
	struct cli *cli;
	const char *vm, *to;    /* said in the line; to may be "" */
	const char *cancelling; /* said at the first Ctrl-C */
	const char *left;       /* said when a second one ends the command; where to look */
};

/* Makes the call (args is stolen). *result is set on success. The line is gone when this returns. */
int job_run(const struct job *j, const char *method, json_t *args, json_t **result, struct err *e);

#endif
