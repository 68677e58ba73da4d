#include "watch.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PROBES     120        /* new connections under way; the guest takes 128 */
#define PROBE_NS   5000000    /* between two of them */
#define CROWD      32         /* with so many under way the next ones come half as often: all of them last for a second then */
#define PATIENCE   1000000000 /* what a probe is given at least: a slow answer is an answer */
#define ASK_NS     10000000 /* between two questions on the one that stays */
#define LOG_GAP_NS 50000000
#define PING       "ping\n"
#define PING_LEN   5

/* Time between answers; the longest of it. */
struct gap {
	int64_t last, longest, longest_at;
	uint64_t answers;
};

struct probe {
	int fd; /* -1: free */
	int asked;
	int64_t since;
};

static struct sockaddr_in guest;
static FILE *log_file;
static int64_t started;
static struct gap fresh, lasting;
static struct probe probes[PROBES];
static struct {
	int fd;
	int connected, asked;
	int64_t next;
	unsigned lost, backwards, boots;
	uint64_t first, last;
	char boot[48];
} talk = {.fd = -1};

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000L + ts.tv_nsec;
}

static void gap_answer(struct gap *g, int64_t now, const char *what)
{
	int64_t d = g->answers ? now - g->last : 0;

	if (d > g->longest) {
		g->longest = d;
		g->longest_at = g->last;
	}
	if (log_file && d > LOG_GAP_NS)
		fprintf(log_file, "%.3f %s: no answer for %.1f ms\n", (double)(g->last - started) / 1e9, what,
			(double)d / 1e6);
	g->last = now;
	g->answers++;
}

static int start_connect(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;

	if (fd < 0)
		return -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (const struct sockaddr *)&guest, sizeof(guest)) == 0 || errno == EINPROGRESS)
		return fd;
	close(fd);
	return -1;
}

/* ---- new connections ---- */

static void probe_end(struct probe *p)
{
	struct linger reset = {.l_onoff = 1};

	setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)); /* leave no TIME_WAIT behind */
	close(p->fd);
	p->fd = -1;
}

/* In a free place, or instead of the one that has waited longest. A connection attempt that was lost while the guest stood still is repeated by the
 * kernel a second later: those that come after it must not wait for that. Returns when the next is due. */
static int64_t probe_start(int64_t now)
{
	struct probe *p = NULL, *oldest = &probes[0];
	int busy = 0;

	for (int i = 0; i < PROBES; i++) {
		if (probes[i].fd < 0)
			p = &probes[i];
		else if (++busy == 1 || probes[i].since < oldest->since)
			oldest = &probes[i];
	}
	if (!p && now - oldest->since >= PATIENCE) {
		probe_end(oldest);
		p = oldest;
	}
	if (p)
		*p = (struct probe){.fd = start_connect(), .since = now};
	return now + (busy > CROWD ? 2 * PROBE_NS : PROBE_NS);
}

static void probe_event(struct probe *p, int64_t now)
{
	char reply[256];

	if (!p->asked) {
		if (send(p->fd, PING, PING_LEN, MSG_NOSIGNAL) == PING_LEN)
			p->asked = 1;
		else if (errno != EAGAIN)
			probe_end(p);
		return;
	}
	if (recv(p->fd, reply, sizeof(reply), 0) > 0)
		gap_answer(&fresh, now, "service");
	probe_end(p);
}

/* ---- the connection that stays ---- */

static void talk_end(void)
{
	close(talk.fd);
	talk.fd = -1;
	talk.connected = talk.asked = 0;
	talk.lost++;
}

static void talk_answer(int64_t now)
{
	char reply[256], boot[48];
	uint64_t counter;
	ssize_t n = recv(talk.fd, reply, sizeof(reply) - 1, 0);

	if (n <= 0) {
		if (n == 0 || errno != EAGAIN)
			talk_end();
		return;
	}
	reply[n] = 0;
	talk.asked = 0;
	talk.next = now + ASK_NS;
	if (sscanf(reply, "counter=%" SCNu64 " ticks=%*u uptime_ms=%*u boot=%47s", &counter, boot) != 2)
		return;
	gap_answer(&lasting, now, "connection");
	if (lasting.answers == 1)
		talk.first = counter;
	else if (counter <= talk.last)
		talk.backwards++;
	talk.last = counter;
	if (strcmp(boot, talk.boot) != 0) {
		talk.boots++;
		memcpy(talk.boot, boot, sizeof(boot));
	}
}

static void talk_step(int64_t now, short revents)
{
	if (talk.fd < 0) {
		if (now >= talk.next) {
			talk.fd = start_connect();
			talk.next = now + ASK_NS;
		}
		return;
	}
	if (!talk.connected && (revents & (POLLERR | POLLHUP)))
		talk_end();
	else if (!talk.connected && (revents & POLLOUT))
		talk.connected = 1;
	else if (talk.asked && revents)
		talk_answer(now);
	if (talk.connected && !talk.asked && now >= talk.next) {
		if (send(talk.fd, PING, PING_LEN, MSG_NOSIGNAL) == PING_LEN)
			talk.asked = 1;
		else
			talk_end();
	}
}

/* ---- */

static void report(int64_t now)
{
	/* An absence that lasts at the end counts too. */
	if (fresh.answers && now - fresh.last > fresh.longest) {
		fresh.longest = now - fresh.last;
		fresh.longest_at = fresh.last;
	}
	if (lasting.answers && now - lasting.last > lasting.longest)
		lasting.longest = now - lasting.last;
	printf("seconds=%.1f\nanswers=%" PRIu64 "\ngap_ms=%.1f\ngap_at=%.3f\n", (double)(now - started) / 1e9,
	       fresh.answers, (double)fresh.longest / 1e6,
	       fresh.longest ? (double)(fresh.longest_at - started) / 1e9 : 0.0);
	printf("connection_gap_ms=%.1f\nconnection_lost=%u\ncounter_first=%" PRIu64 "\ncounter_last=%" PRIu64
	       "\nbackwards=%u\nboots=%u\n",
	       (double)lasting.longest / 1e6, talk.lost, talk.first, talk.last, talk.backwards, talk.boots);
}

static int signal_fd(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

int watch(const struct sockaddr_in *addr, const char *log)
{
	struct sched_param first = {.sched_priority = 1};
	struct pollfd fds[PROBES + 2];
	int64_t next_probe;
	int stop = signal_fd();

	guest = *addr;
	if (log && !(log_file = fopen(log, "we"))) {
		fprintf(stderr, "guest-client: %s: %s\n", log, strerror(errno));
		return 1;
	}
	/* Where that is allowed, waiting for a CPU is not mistaken for waiting for the guest. */
	sched_setscheduler(0, SCHED_FIFO, &first);
	for (int i = 0; i < PROBES; i++)
		probes[i].fd = -1;
	started = next_probe = now_ns();
	for (;;) {
		int64_t now = now_ns();
		struct timespec nap = {0};

		if (now >= next_probe)
			next_probe = probe_start(now);
		for (int i = 0; i < PROBES; i++)
			fds[i] = (struct pollfd){.fd = probes[i].fd, .events = probes[i].asked ? POLLIN : POLLOUT};
		fds[PROBES] = (struct pollfd){.fd = talk.fd, .events = talk.connected ? POLLIN : POLLOUT};
		fds[PROBES + 1] = (struct pollfd){.fd = stop, .events = POLLIN};
		nap.tv_nsec = next_probe - now;
		ppoll(fds, PROBES + 2, &nap, NULL);
		now = now_ns();
		for (int i = 0; i < PROBES; i++)
			if (fds[i].fd >= 0 && fds[i].revents)
				probe_event(&probes[i], now);
		talk_step(now, fds[PROBES].revents);
		if (fds[PROBES + 1].revents)
			break;
	}
	report(now_ns());
	if (log_file)
		fclose(log_file);
	return 0;
}
