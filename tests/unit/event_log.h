/*
 * event_log.h - the types of events that a part under test has told, in order, each with a space behind it; told by any thread.
 */
#ifndef VMFERRY_TESTS_EVENT_LOG_H
#define VMFERRY_TESTS_EVENT_LOG_H

#include "base/thread.h"

#include <stdio.h>
#include <string.h>

static pthread_mutex_t event_log_lock = PTHREAD_MUTEX_INITIALIZER;
static char event_log_text[4000]; /* under the lock */

static inline void event_log_clear(void)
{
	THREAD_LOCKED(&event_log_lock);
	event_log_text[0] = '\0';
}

static inline void event_log_add(const char *type)
{
	THREAD_LOCKED(&event_log_lock);
	const size_t n = strlen(event_log_text);
	snprintf(event_log_text + n, sizeof(event_log_text) - n, "%s ", type);
}

/* As it is now; good until the next call, for one thread. */
static inline const char *event_log(void)
{
	static char copy[sizeof(event_log_text)];
	THREAD_LOCKED(&event_log_lock);
	memcpy(copy, event_log_text, sizeof(copy));
	return copy;
}

#endif
