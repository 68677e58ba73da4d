#include "tools/vmferry/live.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define REDRAW_NS (100 * NS_PER_MS)
#define PLAIN_NS (5 * NS_PER_S)

struct live {
	/* fixed */
	bool quiet;
	bool terminal;

	pthread_mutex_t lock;
	/* under lock */
	struct progress progress;
	int64_t shown_ns; /* when something was last written */
	bool drawn;       /* the line is on the terminal */
	bool hidden;
};

struct live *live_new(const char *vm, const char *to, bool quiet)
{
	struct live *l = mem_alloc(sizeof(*l));
	const char *term = getenv("TERM");
	l->quiet = quiet;
	l->terminal = isatty(STDERR_FILENO) && term && *term && strcmp(term, "dumb") != 0;
	pthread_mutex_init(&l->lock, NULL);
	progress_init(&l->progress, vm, to);
	return l;
}

void live_free(struct live *l)
{
	if (!l)
		return;
	pthread_mutex_destroy(&l->lock);
	free(l);
}

static unsigned terminal_width(void)
{
	struct winsize size = { 0 };
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 20)
		return 80;
	return size.ws_col;
}

static void erase(struct live *l)
{
	if (l->drawn)
		fputs("\r\033[K", stderr);
	l->drawn = false;
}

static void draw(struct live *l)
{
	char line[600];
	/* One column less: a full line would wrap on some terminals. */
	progress_line(&l->progress, l->terminal ? terminal_width() - 1 : 200, line, sizeof(line));
	if (l->terminal)
		fprintf(stderr, "\r%s\033[K", line);
	else
		fprintf(stderr, "%s\n", line);
	fflush(stderr);
	l->drawn = l->terminal;
	l->shown_ns = clock_mono_ns();
}

void live_note(struct live *l, const json_t *note)
{
	THREAD_LOCKED(&l->lock);
	bool changed = progress_note(&l->progress, note);
	if (l->quiet || l->hidden)
		return;
	int64_t since = clock_mono_ns() - l->shown_ns;
	if (changed || since >= (l->terminal ? REDRAW_NS : PLAIN_NS))
		draw(l);
}

void live_say(struct live *l, const char *fmt, ...)
{
	THREAD_LOCKED(&l->lock);
	erase(l);
	va_list ap;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	if (l->terminal && !l->quiet && !l->hidden)
		draw(l);
}

void live_progress(struct live *l, struct progress *out)
{
	THREAD_LOCKED(&l->lock);
	*out = l->progress;
}

void live_hide(struct live *l)
{
	THREAD_LOCKED(&l->lock);
	erase(l);
	fflush(stderr);
	l->hidden = true;
}
