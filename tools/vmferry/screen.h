/*
 * screen.h - standard output as a person sees it: is it a terminal, how wide, with colours, and a whole screen redrawn in
 * place without flicker.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_SCREEN_H
#define VMFERRY_TOOLS_VMFERRY_SCREEN_H

#include <stdbool.h>

/* Escape sequences mean something to what is behind stdout. */
bool screen_is_terminal(void);
/* The same, and nobody asked for none (NO_COLOR). */
bool screen_has_colour(void);
/* Characters beyond ASCII can be shown. */
bool screen_has_utf8(void);
unsigned screen_width(void);

/* Shows `text` (lines) in place of what was there, in one write; what does not fit is cut. Only on a terminal. */
void screen_draw(const char *text);
/* Leaves the last picture, with the cursor below it. Nothing if nothing was drawn; any thread. */
void screen_leave(void);

#endif
