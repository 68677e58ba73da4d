/*
 * guest-client - talks to the test guest's service from outside.
 *
 *   guest-client ask ADDRESS REQUEST         one line to the guest, prints its answer; fails on "error:" and after 5 min
 *   guest-client fill ADDRESS BYTES          fills the guest's memory with BYTES of the files named on standard input
 *   guest-client wait ADDRESS SECONDS        until the guest answers
 *   guest-client watch ADDRESS [LOG]         watches until SIGINT or SIGTERM, then prints what it saw
 *
 * `watch` does two things at once. One connection stays open and is asked every 10 ms: its counter must go up, the guest's
 * boot must stay the same, the connection must live on. And every 5 ms a new connection is opened and asked: the longest
 * time between two answers is the gap, free of the retransmission timer of an old connection. LOG gets every gap over
 * 50 ms, with the time.
 */
#include "watch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int parse_address(const char *text, struct sockaddr_in *addr)
{
	*addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(WATCH_PORT)};
	if (inet_pton(AF_INET, text, &addr->sin_addr) == 1)
		return 0;
	fprintf(stderr, "guest-client: '%s' is no IPv4 address\n", text);
	return -1;
}

static int connect_to(const struct sockaddr_in *addr, long timeout_s)
{
	struct timeval tv = {.tv_sec = timeout_s};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0)
		return fd;
	close(fd);
	return -1;
}

/* Reads the answer and prints it. 0, or 1 when it is an error or none. */
static int print_answer(int fd)
{
	char line[512];
	size_t have = 0;

	while (have < sizeof(line) - 1 && !memchr(line, '\n', have)) {
		ssize_t n = recv(fd, line + have, sizeof(line) - 1 - have, 0);

		if (n <= 0) {
			fprintf(stderr, "guest-client: no answer: %s\n",
				n == 0 ? "connection closed" : strerror(errno));
			return 1;
		}
		have += (size_t)n;
	}
	line[have] = 0;
	fputs(line, stdout);
	return strncmp(line, "error:", 6) == 0;
}

static int send_all(int fd, const char *data, size_t n)
{
	while (n > 0) {
		ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);

		if (sent <= 0) {
			fprintf(stderr, "guest-client: sending: %s\n", strerror(errno));
			return -1;
		}
		data += sent;
		n -= (size_t)sent;
	}
	return 0;
}

static int ask(const struct sockaddr_in *addr, const char *request)
{
	int fd = connect_to(addr, 300), rc = 1;
	char line[200];
	int n = snprintf(line, sizeof(line), "%s\n", request);

	if (fd < 0) {
		fprintf(stderr, "guest-client: connect: %s\n", strerror(errno));
		return 1;
	}
	if (n < (int)sizeof(line) && send_all(fd, line, (size_t)n) == 0)
		rc = print_answer(fd);
	close(fd);
	return rc;
}

/* The next page of the files named on standard input, each of which starts a page of its own, as in a page cache. */
static int next_page(char *page, size_t size)
{
	static FILE *file;
	char name[4096];
	size_t n;

	for (;;) {
		if (file) {
			n = fread(page, 1, size, file);
			if (n > 0) {
				memset(page + n, 0, size - n);
				return 0;
			}
			fclose(file);
		}
		if (!fgets(name, sizeof(name), stdin))
			return -1;
		name[strcspn(name, "\n")] = 0;
		file = fopen(name, "re");
	}
}

static int fill(const struct sockaddr_in *addr, const char *bytes)
{
	unsigned long long left = strtoull(bytes, NULL, 10) / 4096;
	int fd = connect_to(addr, 60), rc = 1;
	char page[4096];
	int n = snprintf(page, sizeof(page), "fill %llu\n", left * 4096);

	if (fd < 0 || send_all(fd, page, (size_t)n))
		goto out;
	for (; left > 0; left--) {
		if (next_page(page, sizeof(page))) {
			fprintf(stderr, "guest-client: the files end %llu pages short\n", left);
			goto out;
		}
		if (send_all(fd, page, sizeof(page)))
			goto out;
	}
	rc = print_answer(fd);
out:
	if (fd >= 0)
		close(fd);
	return rc;
}

static int wait_for(const struct sockaddr_in *addr, const char *seconds)
{
	time_t end = time(NULL) + atol(seconds);

	do {
		int fd = connect_to(addr, 1);
		char byte;

		if (fd >= 0 && send(fd, "ping\n", 5, MSG_NOSIGNAL) == 5 && recv(fd, &byte, 1, 0) == 1) {
			close(fd);
			return 0;
		}
		if (fd >= 0)
			close(fd);
		poll(NULL, 0, 30);
	} while (time(NULL) < end);
	fprintf(stderr, "guest-client: no answer from the guest within %s s\n", seconds);
	return 1;
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr;

	signal(SIGPIPE, SIG_IGN);
	if (argc < 3 || parse_address(argv[2], &addr))
		goto usage;
	if (strcmp(argv[1], "ask") == 0 && argc == 4)
		return ask(&addr, argv[3]);
	if (strcmp(argv[1], "fill") == 0 && argc == 4)
		return fill(&addr, argv[3]);
	if (strcmp(argv[1], "wait") == 0 && argc == 4)
		return wait_for(&addr, argv[3]);
	if (strcmp(argv[1], "watch") == 0 && argc <= 4)
		return watch(&addr, argc == 4 ? argv[3] : NULL);
usage:
	fprintf(stderr, "usage: guest-client ask|fill|wait ADDRESS REQUEST|BYTES|SECONDS\n"
			"       guest-client watch ADDRESS [LOG]\n");
	return 2;
}
