/*
 * live.h - shows progress: on a terminal one line, redrawn in place and gone at the end; otherwise a plain line when
 * the phase changes and every few seconds. On stderr, so that stdout is the result's. Any thread.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_LIVE_H
#define VMFERRY_TOOLS_VMFERRY_LIVE_H

#include "tools/vmferry/progress.h"

struct live;

/* quiet: nothing is shown, notes are only remembered (--json). */
struct live *live_new(const char *vm, const char *to, bool quiet);
void live_note(struct live *l, const json_t *note);
/* Prints a line of its own between redraws. */
void live_say(struct live *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What is known now. */
void live_progress(struct live *l, struct progress *out);
/* Takes the line away; nothing is drawn from here on. */
void live_hide(struct live *l);
void live_free(struct live *l);

#endif
