#include "tools/vmferry/interrupt.h"

#include "base/fd.h"
#include "base/mem.h"
#include "base/thread.h"
#include "tools/vmferry/exit_code.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct interrupt {
	/* fixed */
	void (*first)(void *ctx);
	void (*second)(void *ctx);
	void *ctx;
	int signals; /* signalfd */
	int stop;    /* eventfd */
	sigset_t before;
	pthread_t thread;

	volatile bool cancel;
};

static void *watch(void *arg)
{
	struct interrupt *i = arg;
	struct pollfd fds[2] = { { .fd = i->signals, .events = POLLIN }, { .fd = i->stop, .events = POLLIN } };
	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (fds[1].revents)
			return NULL;
		struct signalfd_siginfo info;
		if (!fds[0].revents || read(i->signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
			continue;
		if (__atomic_load_n(&i->cancel, __ATOMIC_RELAXED)) {
			i->second(i->ctx);
			_exit(EXIT_CODE_CANCELLED);
		}
		__atomic_store_n(&i->cancel, true, __ATOMIC_RELAXED);
		i->first(i->ctx);
	}
}

struct interrupt *interrupt_new(void (*first)(void *ctx), void (*second)(void *ctx), void *ctx, struct err *e)
{
	struct interrupt *i = mem_alloc(sizeof(*i));
	*i = (struct interrupt){ .first = first, .second = second, .ctx = ctx, .signals = -1, .stop = -1 };
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, &i->before);
	i->signals = signalfd(-1, &set, SFD_CLOEXEC);
	i->stop = eventfd(0, EFD_CLOEXEC);
	if (i->signals < 0 || i->stop < 0) {
		err_sys(e, "cannot watch for Ctrl-C");
		goto fail;
	}
	if (thread_start(&i->thread, "interrupt", watch, i, e) < 0)
		goto fail;
	return i;
fail:
	fd_close(&i->signals);
	fd_close(&i->stop);
	pthread_sigmask(SIG_SETMASK, &i->before, NULL);
	free(i);
	return NULL;
}

const volatile bool *interrupt_flag(const struct interrupt *i)
{
	return &i->cancel;
}

void interrupt_free(struct interrupt *i)
{
	if (!i)
		return;
	uint64_t one = 1;
	while (write(i->stop, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(i->thread, NULL);
	fd_close(&i->signals);
	fd_close(&i->stop);
	pthread_sigmask(SIG_SETMASK, &i->before, NULL);
	free(i);
}
