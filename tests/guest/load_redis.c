/*
 * A database: a real redis-server with values of 1 KiB, of which random ones are SET anew. Where the initramfs has no
 * redis-server the load cannot be started, and says so.
 */
#include "load.h"
#include "mix.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define VALUE         1024
#define BATCH         100
#define BYTES_PER_KEY 1408 /* what redis takes for a value of 1 KiB with its key */
#define SOCKET        "/run/redis.sock"

extern char **environ;

static FILE *to_redis, *from_redis;
static uint32_t *version; /* of each key */
static uint64_t keys;
static uint64_t dice = 3;

static void send_set(uint64_t key)
{
	char name[32], value[VALUE];
	int n = snprintf(name, sizeof(name), "customer:%08llu", (unsigned long long)key);

	mix_record(value, VALUE, key, version[key]);
	fprintf(to_redis, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n", n, name, VALUE);
	fwrite(value, 1, VALUE, to_redis);
	fputs("\r\n", to_redis);
}

/* Number of answers that are not OK. */
static unsigned read_oks(unsigned n)
{
	unsigned bad = 0;
	char line[128];

	fflush(to_redis);
	while (n-- > 0)
		bad += !fgets(line, sizeof(line), from_redis) || strcmp(line, "+OK\r\n") != 0;
	return bad;
}

static int redis_connect(char *why, size_t why_size)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX, .sun_path = SOCKET};

	for (int i = 0; i < 200; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd >= 0 && connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0) {
			to_redis = fdopen(fd, "w");
			from_redis = fdopen(dup(fd), "r");
			return to_redis && from_redis ? 0 : -1;
		}
		close(fd);
		usleep(50000);
	}
	snprintf(why, why_size, "redis-server does not answer at " SOCKET);
	return -1;
}

static int redis_setup(unsigned mb, char *why, size_t why_size)
{
	char *argv[] = {(char *)"redis-server",
			(char *)"--unixsocket",
			(char *)SOCKET,
			(char *)"--save",
			(char *)"",
			(char *)"--appendonly",
			(char *)"no",
			(char *)"--daemonize",
			(char *)"no",
			(char *)"--protected-mode",
			(char *)"no",
			(char *)"--ignore-warnings",
			(char *)"ARM64-COW-BUG",
			NULL};
	unsigned sent = 0, bad = 0;
	pid_t pid;
	int rc = posix_spawnp(&pid, "redis-server", NULL, NULL, argv, environ);

	if (rc != 0) {
		snprintf(why, why_size, "no redis-server in this guest: %s", strerror(rc));
		return -1;
	}
	if (redis_connect(why, why_size))
		return -1;
	keys = ((uint64_t)mb << 20) / BYTES_PER_KEY;
	version = mmap(NULL, keys * sizeof(*version), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (version == MAP_FAILED) {
		snprintf(why, why_size, "no memory: %s", strerror(errno));
		return -1;
	}
	for (uint64_t key = 0; key < keys; key++) {
		send_set(key);
		if (++sent == BATCH) {
			bad += read_oks(sent);
			sent = 0;
		}
	}
	bad += read_oks(sent);
	if (bad) {
		snprintf(why, why_size, "redis refused %u of %llu records", bad, (unsigned long long)keys);
		return -1;
	}
	return 0;
}

static void redis_step(unsigned n)
{
	while (n > 0) {
		unsigned batch = n < BATCH ? n : BATCH;

		for (unsigned i = 0; i < batch; i++) {
			uint64_t key = mix_next(&dice) % keys;

			version[key]++;
			send_set(key);
		}
		read_oks(batch);
		n -= batch;
	}
}

/* Reads one value that was asked for: does it hold what it must? */
static int value_holds(uint64_t key)
{
	char line[64], want[VALUE], got[VALUE + 2];

	mix_record(want, VALUE, key, version[key]);
	return fgets(line, sizeof(line), from_redis) && atoi(line + 1) == VALUE &&
	       fread(got, 1, sizeof(got), from_redis) == sizeof(got) && memcmp(got, want, VALUE) == 0;
}

static uint64_t redis_verify(uint64_t *checked)
{
	uint64_t bad = 0;

	for (uint64_t key = 0; key < keys; key += BATCH) {
		uint64_t end = key + BATCH < keys ? key + BATCH : keys;

		for (uint64_t i = key; i < end; i++)
			fprintf(to_redis, "*2\r\n$3\r\nGET\r\n$17\r\ncustomer:%08llu\r\n", (unsigned long long)i);
		fflush(to_redis);
		for (uint64_t i = key; i < end; i++)
			bad += !value_holds(i);
	}
	*checked = keys;
	return bad;
}

const struct load load_redis = {"update", 1000, 300, redis_setup, redis_step, redis_verify};
