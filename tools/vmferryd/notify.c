#include "tools/vmferryd/notify.h"

#include "base/clock.h"
#include "base/fd.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void send_state(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(to.sun_path))
		return;
	size_t n = strlen(path);
	memcpy(to.sun_path, path, n);
	if (path[0] == '@') /* abstract */
		to.sun_path[0] = '\0';
	FD_AUTO int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	/* Nothing can be done about a manager that does not listen. */
	ssize_t sent = sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&to,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
	(void)sent;
}

void notify_ready(const char *status)
{
	char text[300];
	snprintf(text, sizeof(text), "READY=1\nSTATUS=%s", status);
	send_state(text);
}

void notify_reloading(void)
{
	/* Type=notify-reload wants the instant, so that an answer to an earlier reload is not taken for this one's. */
	char text[100];
	snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%" PRId64, clock_mono_ns() / 1000);
	send_state(text);
}

void notify_stopping(const char *status)
{
	char text[300];
	snprintf(text, sizeof(text), "STOPPING=1\nSTATUS=%s", status);
	send_state(text);
}

void notify_watchdog(void)
{
	send_state("WATCHDOG=1");
}

int64_t notify_watchdog_interval_ns(void)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	if (!usec || (pid && strtol(pid, NULL, 10) != (long)getpid()))
		return 0;
	long long us = strtoll(usec, NULL, 10);
	return us > 0 && us < INT64_C(1000000000000) ? us * 1000 / 2 : 0;
}
