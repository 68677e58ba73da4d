/*
 * guestd - the service of the test guest, TCP port 7007. A client sends lines and gets a line for each:
 *
 *   ping                          counter=N ticks=N uptime_ms=N boot=ID
 *   fill BYTES                    ... and BYTES of contents follow: memory as real machines have it
 *   load idle|update|counters|random [RATE [MB]]
 *   disk RATE [DATA_MB]           writes records to /dev/vda; 0 stops
 *   verify                        mismatches=N checked=N      memory against what it must be
 *   diskcheck                     mismatches=N checked=N      disk against memory
 *   stat                          load=NAME operations=N disk_records=N disk_errors=N
 *
 * An answer that starts with "error:" says why not. counter goes up with every ping, ticks every 10 ms; neither goes back
 * nor starts again while the guest lives, wherever it is.
 */
#include "disk.h"
#include "fill.h"
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORT        7007
#define CONNECTIONS 128
#define LINE        128

static atomic_uint_least64_t counter, ticks;
static char boot_id[40] = "unknown";

static void *ticker(void *arg)
{
	for (;;) {
		struct timespec nap = {.tv_nsec = 10000000};

		nanosleep(&nap, NULL);
		atomic_fetch_add(&ticks, 1);
	}
	return arg;
}

static void answer_ping(char *out, size_t n)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	snprintf(out, n, "counter=%" PRIuLEAST64 " ticks=%" PRIuLEAST64 " uptime_ms=%lld boot=%s\n",
		 atomic_fetch_add(&counter, 1) + 1, atomic_load(&ticks),
		 (long long)ts.tv_sec * 1000 + ts.tv_nsec / 1000000, boot_id);
}

/* ---- lines that take their time ---- */

static void answer_checked(char *out, size_t n, uint64_t bad, uint64_t checked)
{
	snprintf(out, n, "mismatches=%" PRIu64 " checked=%" PRIu64 "\n", bad, checked);
}

static void answer(FILE *in, const char *line, char *out, size_t n)
{
	char why[200] = "", name[33];
	unsigned a = 0, b = 0;
	uint64_t bytes;
	int rc = 0;

	if (strcmp(line, "verify") == 0) {
		uint64_t loaded, filled, bad = load_verify(&loaded);

		bad += fill_verify(&filled);
		answer_checked(out, n, bad, loaded + filled);
		return;
	} else if (strcmp(line, "diskcheck") == 0) {
		uint64_t checked, bad = disk_check(&checked);

		answer_checked(out, n, bad, checked);
		return;
	} else if (strcmp(line, "stat") == 0) {
		snprintf(out, n, "load=%s operations=%" PRIu64 " disk_records=%" PRIu64 " disk_errors=%" PRIu64 "\n",
			 load_name(), load_operations(), disk_written(), disk_errors());
		return;
	} else if (sscanf(line, "fill %" SCNu64, &bytes) == 1) {
		rc = fill_read(in, bytes, why, sizeof(why));
	} else if (sscanf(line, "load %32s %u %u", name, &a, &b) >= 1) {
		rc = load_start(name, a, b, why, sizeof(why));
	} else if (sscanf(line, "disk %u %u", &a, &b) >= 1) {
		rc = disk_start(a, b, why, sizeof(why));
	} else {
		rc = -1;
		snprintf(why, sizeof(why), "'%s' is not understood", line);
	}
	snprintf(out, n, rc ? "error: %s\n" : "ok%s\n", why);
}

struct talk {
	int fd;
	char first[LINE]; /* line that was already read */
};

/* A connection that asked for more than a ping: it has a thread from then on. */
static void *talk(void *arg)
{
	struct talk *t = arg;
	FILE *in = fdopen(t->fd, "r"), *out = fdopen(dup(t->fd), "w");
	char line[LINE], reply[256];

	memcpy(line, t->first, sizeof(line));
	free(t);
	while (in && out) {
		line[strcspn(line, "\r\n")] = 0;
		if (strcmp(line, "ping") == 0)
			answer_ping(reply, sizeof(reply));
		else
			answer(in, line, reply, sizeof(reply));
		if (fputs(reply, out) == EOF || fflush(out) == EOF || !fgets(line, sizeof(line), in))
			break;
	}
	if (in)
		fclose(in);
	if (out)
		fclose(out);
	return NULL;
}

static int talk_start(int fd, const char *line)
{
	struct talk *t = calloc(1, sizeof(*t));
	pthread_t thread;

	if (!t)
		return -1;
	t->fd = fd;
	snprintf(t->first, sizeof(t->first), "%s", line);
	if (pthread_create(&thread, NULL, talk, t) != 0) {
		free(t);
		return -1;
	}
	pthread_detach(thread);
	return 0;
}

/* ---- pings, for all connections in one thread ---- */

/* Serves what came in. False: this connection is no longer ours to poll. */
static int serve(int fd)
{
	char line[LINE], reply[128];
	ssize_t n = recv(fd, line, sizeof(line) - 1, MSG_PEEK);
	char *end;

	if (n <= 0) {
		close(fd);
		return 0;
	}
	line[n] = 0;
	end = strchr(line, '\n');
	if (!end)
		return n < LINE - 1;
	n = recv(fd, line, (size_t)(end - line) + 1, 0);
	line[strcspn(line, "\r\n")] = 0;
	if (strcmp(line, "ping") != 0) {
		if (talk_start(fd, line))
			close(fd);
		return 0;
	}
	answer_ping(reply, sizeof(reply));
	if (send(fd, reply, strlen(reply), MSG_NOSIGNAL) < 0) {
		close(fd);
		return 0;
	}
	return 1;
}

static int listen_tcp(void)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) || listen(fd, CONNECTIONS)) {
		fprintf(stderr, "guestd: port %d: %s\n", PORT, strerror(errno));
		exit(1);
	}
	return fd;
}

static void serve_for_ever(int listener)
{
	struct pollfd fds[CONNECTIONS] = {{.fd = listener, .events = POLLIN}};
	unsigned n = 1;

	for (;;) {
		if (poll(fds, n, -1) < 0)
			continue;
		for (unsigned i = n - 1; i > 0; i--)
			if (fds[i].revents && !serve(fds[i].fd))
				fds[i] = fds[--n];
		if (fds[0].revents) {
			int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), one = 1;

			if (fd < 0)
				continue;
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
			if (n == CONNECTIONS) { /* the oldest has been waiting long enough */
				close(fds[1].fd);
				fds[1] = fds[--n];
			}
			fds[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
		}
	}
}

int main(void)
{
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
	pthread_t thread;

	signal(SIGPIPE, SIG_IGN);
	if (f && fscanf(f, "%39s", boot_id) == 1)
		fclose(f);
	if (pthread_create(&thread, NULL, ticker, NULL) != 0)
		return 1;
	int listener = listen_tcp();

	puts("guestd: serving");
	fflush(stdout);
	serve_for_ever(listener);
}
