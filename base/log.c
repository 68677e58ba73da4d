#include "base/log.h"

#include "base/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Below PIPE_BUF, so that lines of several processes on one pipe do not mix. */
#define LINE_MAX_BYTES 4000

static const char *const level_names[] = {
	[LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARN] = "warn",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug",
};

static atomic_int threshold = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&threshold, (int)level, memory_order_relaxed);
}

int log_level_from_name(const char *name, enum log_level *out)
{
	for (size_t i = 0; i < sizeof(level_names) / sizeof(level_names[0]); i++) {
		if (strcmp(level_names[i], name) == 0) {
			*out = (enum log_level)i;
			return 0;
		}
	}
	return -1;
}

void log_write(enum log_level level, const char *event, const char *fmt, ...)
{
	if ((int)level > atomic_load_explicit(&threshold, memory_order_relaxed))
		return;

	const int saved = errno;
	char line[LINE_MAX_BYTES + 1];
	char ts[32];
	int n = snprintf(line, sizeof(line), "ts=%s level=%s event=%s ",
			 clock_format_wall(clock_wall_ns(), ts, sizeof(ts)), level_names[level], event);
	size_t len = n < 0 ? 0 : (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;

	va_list ap;
	va_start(ap, fmt);
	n = vsnprintf(line + len, sizeof(line) - len, fmt, ap);
	va_end(ap);
	if (n > 0)
		len = (size_t)n < sizeof(line) - len ? len + (size_t)n : sizeof(line) - 1;
	while (len > 0 && line[len - 1] == ' ')
		len--;

	/* A value that was not quoted must not be able to forge a line of its own. */
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[len++] = '\n';

	/* A log that cannot be written has nowhere to say so. */
	while (write(STDERR_FILENO, line, len) < 0 && errno == EINTR)
		;
	errno = saved;
}

const char *log_quote(struct log_quoted *q, const char *value)
{
	static const char cut[] = "...";
	/* The closing quote, the mark of a cut and a NUL fit behind it. */
	const size_t room = sizeof(q->text) - sizeof(cut) - 1;
	size_t len = 0;

	q->text[len++] = '"';
	for (const char *p = value ? value : ""; *p; p++) {
		const unsigned char c = (unsigned char)*p;
		char piece[8];

		if (c == '"' || c == '\\')
			snprintf(piece, sizeof(piece), "\\%c", c);
		else if (c == '\n')
			snprintf(piece, sizeof(piece), "\\n");
		else if (c < 0x20 || c == 0x7f)
			snprintf(piece, sizeof(piece), "\\x%02x", c);
		else
			snprintf(piece, sizeof(piece), "%c", c);
		const size_t n = strlen(piece);
		if (len + n > room) {
			memcpy(q->text + len, cut, sizeof(cut) - 1);
			len += sizeof(cut) - 1;
			break;
		}
		memcpy(q->text + len, piece, n);
		len += n;
	}
	q->text[len++] = '"';
	q->text[len] = '\0';
	return q->text;
}
