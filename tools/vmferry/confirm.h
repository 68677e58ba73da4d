/*
 * confirm.h - asks before something that cannot be taken back.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_CONFIRM_H
#define VMFERRY_TOOLS_VMFERRY_CONFIRM_H

#include <stdbool.h>

/* Is there a person to ask: a terminal to read from and one to write to. */
bool confirm_possible(void);
/* Shows the text, which says what will happen, and waits for "yes". Without a person to ask: true, since a script that
 * calls a command by its name has said what it wants. */
bool confirm(const char *text);

#endif
