/*
 * guardian-agent - plays an agent whose capture goes wrong, for 45-guardian.sh; and looks at the guest meanwhile.
 *
 *	guardian-agent capture VM PHASE ACTION	brings the VM's COLO to PHASE, says so, and does ACTION
 *	guardian-agent look VM SECONDS		the longest time in which the boot sector guest's counter stood still, until then or SIGTERM, and what QEMU says
 *	guardian-agent wait VM			a COLO that goes well until killed or told to end by SIGTERM: a checkpoint every 50 ms
 *
 * PHASE: first (in the first pass), ready (before READY: stands still), request (runs), send (stands still from here on), ram (some bytes of it),
 * device (all of it is read), received (RECEIVED sent), between (after LOADED: runs).
 * ACTION: kill, stop (signals to itself), hang (says nothing more to QEMU), late (1 s, then goes on), close (its socket, and hangs), end (the way it should).
 *
 * Bytes of the stream are not parsed: QEMU is waited for until it says nothing for a while.
 */
#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "replicator/guardian.h"

#include <errno.h>
#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Long enough for a QEMU that has to wait for a processor. */
#define QUIET_MS 120

enum { READY = 0, REQUEST = 1, REPLY = 2, SEND = 3, RECEIVED = 5, LOADED = 6 };

static virDomainPtr dom;
static char uuid[VIR_UUID_STRING_BUFLEN];
static struct guardian *guardian;
static int sock = -1;
static atomic_int freed = -1;
static volatile sig_atomic_t ending;
static int64_t grace_ns = GUARDIAN_GRACE_NS;

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "guardian-agent: %s: %s\n", what, virGetLastErrorMessage());
	exit(1);
}

static char *qmp(const char *command)
{
	char *answer = NULL;

	if (virDomainQemuMonitorCommand(dom, command, &answer, 0) != 0 || !answer)
		die(command);
	return answer;
}

static void must(const char *command)
{
	char *answer = qmp(command);

	if (strstr(answer, "\"error\":{")) {
		fprintf(stderr, "guardian-agent: %s: %s\n", command, answer);
		exit(1);
	}
	free(answer);
}

static bool says(const char *command, const char *words)
{
	char *answer = qmp(command);
	const bool yes = strstr(answer, words) != NULL;

	free(answer);
	return yes;
}

/* Up to max bytes, until there are none for quiet_ms. Returns how many. */
static size_t read_until_quiet(size_t max, int quiet_ms)
{
	static char bytes[65536];
	size_t n = 0;

	while (n < max) {
		struct pollfd p = { .fd = sock, .events = POLLIN };
		if (poll(&p, 1, quiet_ms) == 0)
			break;
		const size_t want = max - n < sizeof bytes ? max - n : sizeof bytes;
		const ssize_t got = read(sock, bytes, want);
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	return n;
}

static int put_message(uint32_t m)
{
	const uint8_t bytes[4] = { 0, 0, 0, (uint8_t)m };
	struct err e = ERR_INIT;

	return fd_write_full(sock, bytes, sizeof bytes, &e);
}

static int expect_message(uint32_t m)
{
	uint8_t bytes[4];
	struct err e = ERR_INIT;

	if (fd_read_full(sock, bytes, sizeof bytes, &e) != 0)
		return -1;
	if (bytes[0] || bytes[1] || bytes[2] || bytes[3] != m) {
		fprintf(stderr, "guardian-agent: QEMU said %u %u %u %u, not %u\n", bytes[0], bytes[1], bytes[2],
			bytes[3], m);
		return -1;
	}
	return 0;
}

static void on_freed(void *ctx, const char *vm, enum guardian_end how)
{
	(void)ctx;
	if (strcmp(vm, uuid) == 0)
		atomic_store(&freed, (int)how);
}

static void open_vm(const char *name)
{
	virConnectPtr conn = virConnectOpen("qemu:///system");

	if (!conn || !(dom = virDomainLookupByName(conn, name)) || virDomainGetUUIDString(dom, uuid) != 0)
		die(name);
}

/* Long, for a machine that is busy; the grace of a real agent begins where it goes wrong. */
static void arm(void)
{
	guardian_arm(guardian, uuid, clock_mono_ns() + 10 * NS_PER_S);
}

static void start_migration(void)
{
	int pair[2];

	must("{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":[{\"capability\":\"x-colo\","
	     "\"state\":true}]}}");
	must("{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"x-checkpoint-delay\":4000000000,\"max-"
	     "bandwidth\":1099511627776,"
	     "\"downtime-limit\":2000}}");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
		die("socketpair");
	sock = pair[0];
	char *answer = NULL;
	if (virDomainQemuMonitorCommandWithFiles(dom, "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"vmferry\"}}",
						 1, &pair[1], NULL, NULL, &answer, 0) != 0)
		die("getfd");
	free(answer);
	close(pair[1]);
	struct err e = ERR_INIT;
	if (!getenv("NO_HOLD") && guardian_hold(guardian, uuid, sock, false, &e) != 0) {
		fprintf(stderr, "guardian-agent: %s\n", e.text);
		exit(1);
	}
	must("{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:vmferry\"}}");
}

static _Noreturn void act(const char *phase, const char *action)
{
	printf("at %s: pid %d, guardian %d\n", phase, (int)getpid(), (int)guardian_pid(guardian));
	fflush(stdout);
	if (strcmp(action, "kill") == 0)
		raise(SIGKILL);
	if (strcmp(action, "stop") == 0)
		raise(SIGSTOP);
	if (strcmp(action, "close") == 0)
		fd_close(&sock);
	/* hang, close, or continued after a stop: the guardian's word is waited for. */
	const int64_t until = clock_mono_ns() + 20 * NS_PER_S;
	while (atomic_load(&freed) < 0 && clock_mono_ns() < until)
		poll(NULL, 0, 10);
	printf("freed %d\n", atomic_load(&freed));
	fflush(stdout);
	_exit(0);
}

static void reached(const char *phase, const char *wanted, const char *action)
{
	if (wanted && strcmp(phase, wanted) == 0 && strcmp(phase, "between") != 0)
		guardian_arm(guardian, uuid, clock_mono_ns() + grace_ns);
	if (wanted && strcmp(phase, wanted) == 0 && strcmp(action, "late") == 0) {
		printf("at %s: pid %d, guardian %d\n", phase, (int)getpid(), (int)guardian_pid(guardian));
		fflush(stdout);
		poll(NULL, 0, 1000);
	} else if (wanted && strcmp(phase, wanted) == 0 && strcmp(action, "end") != 0) {
		act(phase, action);
	}
}

static atomic_bool draining;

/* QEMU writes the last of its first pass under its big lock: whoever asks it something meanwhile must have someone else read. */
static void *drain(void *arg)
{
	(void)arg;
	while (atomic_load(&draining))
		read_until_quiet(SIZE_MAX, 5);
	return NULL;
}

static int first_pass(const char *phase, const char *action)
{
	read_until_quiet(phase && strcmp(phase, "first") == 0 ? 100000 : 1, 1000);
	arm(); /* from here on it may be stopped for its last pages */
	reached("first", phase, action);
	const int64_t until = clock_mono_ns() + 20 * NS_PER_S;
	pthread_t reader;
	atomic_store(&draining, true);
	if (pthread_create(&reader, NULL, drain, NULL) != 0)
		return -1;
	while (!says("{\"execute\":\"query-migrate\"}", "\"status\":\"colo\"") && clock_mono_ns() < until) {
		poll(NULL, 0, 5);
		arm();
	}
	atomic_store(&draining, false);
	pthread_join(reader, NULL);
	if (clock_mono_ns() >= until) {
		char *migration = qmp("{\"execute\":\"query-migrate\"}"),
		     *status = qmp("{\"execute\":\"query-status\"}");
		printf("no COLO after 20 s: %s %s\n", migration, status);
		free(migration);
		free(status);
		return -1;
	}
	read_until_quiet(SIZE_MAX, QUIET_MS);
	reached("ready", phase, action);
	if (put_message(READY) != 0)
		return -1;
	poll(NULL, 0, 20);
	guardian_disarm(guardian, uuid);
	return 0;
}

static int checkpoint(const char *phase, const char *action)
{
	arm();
	must("{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"x-checkpoint-delay\":4000000000}}");
	if (expect_message(REQUEST) != 0)
		return -1;
	reached("request", phase, action);
	if (put_message(REPLY) != 0 || expect_message(SEND) != 0)
		return -1;
	reached("send", phase, action);
	read_until_quiet(1000, 10);
	reached("ram", phase, action);
	read_until_quiet(SIZE_MAX, QUIET_MS);
	reached("device", phase, action);
	if (put_message(RECEIVED) != 0)
		return -1;
	reached("received", phase, action);
	if (put_message(LOADED) != 0)
		return -1;
	poll(NULL, 0, 20);
	guardian_disarm(guardian, uuid);
	reached("between", phase, action);
	return 0;
}

static void stop_colo(void)
{
	const int64_t until = clock_mono_ns() + 5 * NS_PER_S;

	must("{\"execute\":\"x-colo-lost-heartbeat\"}");
	while (says("{\"execute\":\"query-migrate\"}", "\"status\":\"colo\"") && clock_mono_ns() < until)
		poll(NULL, 0, 5);
	must("{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":[{\"capability\":\"x-colo\","
	     "\"state\":false}]}}");
	guardian_unwatch(guardian, uuid);
	guardian_stop(guardian);
	printf("ended\n");
}

static int capture(const char *phase, const char *action, bool forever)
{
	struct err e = ERR_INIT;
	MEM_AUTO char *program = mem_strdup(getenv("GUARDIAN"));
	const struct guardian_opts opts = { .program = program,
					    .uri = "qemu:///system",
					    .lock_path = "/run/vmferry/guardian.lock",
					    .silence_ns = 2 * NS_PER_S,
					    .freed = on_freed };

	guardian = guardian_start(&opts, &e);
	const int64_t asked = clock_mono_ns();
	if (!guardian || guardian_watch(guardian, uuid, &e) != 0) {
		fprintf(stderr, "guardian-agent: %s\n", e.text);
		return 1;
	}
	printf("watched after %.1f ms\n", (double)(clock_mono_ns() - asked) / 1e6);
	if (forever)
		grace_ns = 5 * NS_PER_S; /* all shall go well, on a busy machine too */
	start_migration();
	int rc = first_pass(phase, action);
	unsigned n = 0;
	/* Heeded between checkpoints: in one of them it would cut short what polls. */
	sigset_t term;
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	while (rc == 0 && (forever ? !ending : n < 2)) {
		pthread_sigmask(SIG_BLOCK, &term, NULL);
		rc = checkpoint(n > 0 ? phase : NULL, action);
		n++;
		pthread_sigmask(SIG_UNBLOCK, &term, NULL);
		if (forever) {
			printf("checkpoint %u guardian %d\n", n, (int)guardian_pid(guardian));
			fflush(stdout);
			poll(NULL, 0, 50);
		}
	}
	if (rc == 0) {
		stop_colo();
		return 0;
	}
	/* QEMU has gone on without us. */
	printf("broken off\n");
	act("broken", "hang");
}

static int look(double seconds)
{
	const int64_t until = clock_mono_ns() + (int64_t)(seconds * 1e9);
	int64_t since = clock_mono_ns(), longest = 0;
	MEM_AUTO char *before = mem_strdup("");
	unsigned seen = 0;

	while (clock_mono_ns() < until && !ending) {
		char *now = NULL;
		if (virDomainQemuMonitorCommand(dom, "xp /1xw 0x100000", &now, VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP) != 0)
			die("xp");
		const int64_t t = clock_mono_ns();
		if (strcmp(now, before) != 0) {
			if (seen++ && t - since > longest)
				longest = t - since;
			since = t;
			free(before);
			before = now;
		} else {
			free(now);
		}
		poll(NULL, 0, 2);
	}
	const bool stands = clock_mono_ns() - since > 200 * NS_PER_MS;
	if (clock_mono_ns() - since > longest)
		longest = clock_mono_ns() - since;
	static const char ask[] = "{\"execute\":\"query-migrate-capabilities\"}";
	const bool colo = says(ask, "\"state\":true,\"capability\":\"x-colo\"") ||
			  says(ask, "\"capability\":\"x-colo\",\"state\":true");
	char *status = qmp("{\"execute\":\"query-status\"}");
	char *migration = qmp("{\"execute\":\"query-migrate\"}");
	printf("longest_ms=%lld changes=%u runs=%d x_colo=%d status=%.60s migration=%.90s\n",
	       (long long)(longest / NS_PER_MS), seen, !stands, colo, status, migration);
	free(status);
	free(migration);
	return 0;
}

static void on_term(int signal)
{
	(void)signal;
	ending = 1;
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, on_term);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 3)
		return 2;
	open_vm(argv[2]);
	if (strcmp(argv[1], "look") == 0 && argc == 4)
		return look(atof(argv[3]));
	if (strcmp(argv[1], "capture") == 0 && argc == 5)
		return capture(argv[3], argv[4], false);
	if (strcmp(argv[1], "wait") == 0 && argc == 3)
		return capture(NULL, "end", true);
	return 2;
}
