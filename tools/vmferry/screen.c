#include "tools/vmferry/screen.h"

#include "base/buf.h"

#include <langinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static bool drawn; /* the cursor is hidden */

bool screen_is_terminal(void)
{
	const char *term = getenv("TERM");
	return isatty(STDOUT_FILENO) && term && *term && strcmp(term, "dumb") != 0;
}

bool screen_has_colour(void)
{
	const char *none = getenv("NO_COLOR");
	return screen_is_terminal() && !(none && *none);
}

bool screen_has_utf8(void)
{
	return strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

static struct winsize size(void)
{
	struct winsize s = { 0 };
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &s) < 0 || s.ws_col < 20 || s.ws_row < 4)
		s = (struct winsize){ .ws_col = 80, .ws_row = 24 };
	return s;
}

unsigned screen_width(void)
{
	return size().ws_col;
}

void screen_draw(const char *text)
{
	BUF_AUTO struct buf out = BUF_INIT;
	unsigned rows = size().ws_row - 1u;
	/* A synchronized update where the terminal knows it; no wrapping: lines are cut at the edge. */
	buf_printf(&out, "%s\033[?2026h\033[?7l\033[H", drawn ? "" : "\033[?25l\033[2J");
	for (unsigned row = 0; *text && row < rows; row++) {
		size_t len = strcspn(text, "\n");
		buf_printf(&out, "%.*s\033[K\r\n", (int)len, text);
		text += len + (text[len] == '\n');
	}
	buf_printf(&out, "\033[J\033[?7h\033[?2026l");
	__atomic_store_n(&drawn, true, __ATOMIC_RELAXED);
	fwrite(out.data, 1, out.len, stdout);
	fflush(stdout);
}

void screen_leave(void)
{
	static const char show[] = "\033[?7h\033[?25h";
	if (__atomic_exchange_n(&drawn, false, __ATOMIC_RELAXED) && write(STDOUT_FILENO, show, sizeof(show) - 1) < 0)
		return; /* the terminal is gone */
}
