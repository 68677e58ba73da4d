/*
 * vmferry-guardian URI SILENCE_MS [LOCK_FILE] - started by vmferryd (replicator/guardian.c), which is at the other end of descriptor 0.
 *
 * It outlives the agent for as long as a VM needs it, and then ends: status 0 when every VM that was watched at the agent's end runs, 1 when one
 * may not.
 */
#include "base/clock.h"
#include "base/log.h"
#include "tools/vmferry-guardian/rescue.h"
#include "tools/vmferry-guardian/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#define MAX_SILENCE_MS 600000L

static int usage(void)
{
	fprintf(stderr, "vmferry-guardian is started by vmferryd, see vmferryd(8)\n");
	return 2;
}

static bool is_pair_end(int fd)
{
	int type = 0, domain = 0;
	socklen_t len = sizeof type;

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET &&
	       getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX;
}

int main(int argc, char **argv)
{
	struct guard_ops ops;
	struct err e = ERR_INIT;
	char *end;

	if (argc < 3 || argc > 4 || !is_pair_end(0))
		return usage();
	errno = 0;
	const long silence_ms = strtol(argv[2], &end, 10);
	if (errno || *end || silence_ms < 1 || silence_ms > MAX_SILENCE_MS)
		return usage();
	/* The agent's terminal may go, and its log too, before the work is done. */
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	int lock_fd = -1;
	if (argc == 4) {
		lock_fd = open(argv[3], O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (lock_fd < 0)
			log_warn("guardian_lock", "path=%s errno=%d", argv[3], errno);
	}
	if (rescue_init(argv[1], &ops, &e) != 0) {
		log_error("guardian", "msg=%s", LOG_Q(e.text));
		return 1;
	}
	if (sandbox_enter(&e) != 0)
		log_warn("guardian_sandbox", "msg=%s", LOG_Q(e.text));
	return guard_run(0, lock_fd, silence_ms * NS_PER_MS, &ops) == 0 ? 0 : 1;
}
