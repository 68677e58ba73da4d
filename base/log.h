/*
 * log.h - `key=value` lines on stderr (journald or a file behind it). Thread-safe, one write per line.
 *
 *	log_info("migration_done", "vm=%s total_ms=%lld", name, ms);
 *	-> ts=2026-01-02T03:04:05.678Z level=info event=migration_done vm=web1 total_ms=1234
 *
 * Values with spaces or quotes go through LOG_Q: "msg=%s", LOG_Q(text).
 */
#ifndef VMFERRY_BASE_LOG_H
#define VMFERRY_BASE_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_set_level(enum log_level level);
/* -1 if there is no level of that name. */
int log_level_from_name(const char *name, enum log_level *out);

void log_write(enum log_level level, const char *event, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

struct log_quoted {
	char text[1500];
};
/* A value in double quotes, with \" \\ \n escaped; long ones are cut. */
const char *log_quote(struct log_quoted *q, const char *value);
#define LOG_Q(value) log_quote(&(struct log_quoted){ { 0 } }, (value))

#define log_error(event, ...) log_write(LOG_LEVEL_ERROR, event, __VA_ARGS__)
#define log_warn(event, ...) log_write(LOG_LEVEL_WARN, event, __VA_ARGS__)
#define log_info(event, ...) log_write(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_debug(event, ...) log_write(LOG_LEVEL_DEBUG, event, __VA_ARGS__)

#endif
