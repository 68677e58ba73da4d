#include "tools/vmferryd/signals.h"

#include "base/clock.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

int signals_open(struct err *e)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return err_sys(e, "cannot block signals");
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? err_sys(e, "signalfd") : fd;
}

enum signals_event signals_wait(int fd, int64_t deadline_ns)
{
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		if (poll(&p, 1, clock_poll_ms(deadline_ns)) > 0) {
			struct signalfd_siginfo info;
			if (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
				return info.ssi_signo == SIGHUP ? SIGNALS_RELOAD : SIGNALS_STOP;
		}
		if (clock_mono_ns() >= deadline_ns)
			return SIGNALS_NONE;
	}
}
