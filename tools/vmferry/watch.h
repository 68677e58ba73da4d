/*
 * watch.h - `status --watch`: the protections once a second until Ctrl-C, with the last minute of each one's RPO. On a
 * terminal a screen redrawn in place; otherwise a line per protection and second; with --json one document a line.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_WATCH_H
#define VMFERRY_TOOLS_VMFERRY_WATCH_H

#include "tools/vmferry/cli.h"
#include "tools/vmferry/table.h"

/* vm NULL: all. Goes on while the agent is away, and says so. Returns an exit code. `make_table` makes the table of the
 * status for so many columns. */
int watch_run(struct cli *cli, const char *vm, struct table *(*make_table)(const json_t *protections, unsigned width));

#endif
