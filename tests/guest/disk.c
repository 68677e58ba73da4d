#include "disk.h"

#include "mix.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RECORDS   4096
#define DATA_AT   ((off_t)RECORDS * GUEST_PAGE)
#define DATA_STEP (1 << 20)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Under the lock. */
static int fd = -1;
static unsigned rate_now;
static uint64_t version[RECORDS]; /* what the disk must hold; 0: never written */
static uint64_t *data_hashes;
static unsigned data_steps;
static uint64_t written, errors, dice = 4;
static uint8_t *buffer; /* DATA_STEP bytes, aligned */

/* Sector contents: a header that tells what it is, then what follows from it. */
struct sector {
	char magic[8];
	uint64_t number, version;
	uint64_t body[(GUEST_PAGE - 24) / 8];
};

static void sector_make(struct sector *s, uint64_t number, uint64_t v)
{
	memcpy(s->magic, "guestrec", 8);
	s->number = number;
	s->version = v;
	mix_fill(s->body, sizeof(s->body), mix_seed(number, v));
}

static void write_one(void)
{
	uint64_t number = mix_next(&dice) % RECORDS;

	sector_make((struct sector *)(void *)buffer, number, version[number] + 1);
	if (pwrite(fd, buffer, GUEST_PAGE, (off_t)number * GUEST_PAGE) == GUEST_PAGE) {
		version[number]++;
		written++;
	} else {
		errors++;
	}
}

static void *writer(void *arg)
{
	for (;;) {
		struct timespec nap = {.tv_nsec = 100000000};

		pthread_mutex_lock(&lock);
		if (rate_now) {
			write_one();
			nap.tv_nsec = 1000000000 / (long)rate_now - 1;
		}
		pthread_mutex_unlock(&lock);
		nanosleep(&nap, NULL);
	}
	return arg;
}

static int disk_open(char *why, size_t why_size)
{
	pthread_t thread;

	if (fd >= 0)
		return 0;
	fd = open("/dev/vda", O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
	if (fd < 0 || posix_memalign((void **)&buffer, GUEST_PAGE, DATA_STEP) != 0 ||
	    pthread_create(&thread, NULL, writer, NULL) != 0) {
		snprintf(why, why_size, "/dev/vda: %s", strerror(errno));
		return -1;
	}
	return 0;
}

static int data_hash(unsigned step, uint64_t *hash)
{
	if (pread(fd, buffer, DATA_STEP, DATA_AT + (off_t)step * DATA_STEP) != DATA_STEP)
		return -1;
	*hash = mix_hash(buffer, DATA_STEP);
	return 0;
}

static int data_remember(unsigned mb, char *why, size_t why_size)
{
	if (data_hashes || mb == 0)
		return 0;
	data_hashes = calloc(mb, sizeof(*data_hashes));
	for (unsigned i = 0; data_hashes && i < mb; i++)
		if (data_hash(i, &data_hashes[i])) {
			snprintf(why, why_size, "/dev/vda: cannot read MiB %u of the data: %s", i, strerror(errno));
			return -1;
		}
	data_steps = mb;
	return 0;
}

int disk_start(unsigned rate, unsigned data_mb, char *why, size_t why_size)
{
	int rc;

	pthread_mutex_lock(&lock);
	rc = disk_open(why, why_size);
	if (rc == 0)
		rc = data_remember(data_mb, why, why_size);
	if (rc == 0)
		rate_now = rate;
	pthread_mutex_unlock(&lock);
	return rc;
}

void disk_stop(void)
{
	pthread_mutex_lock(&lock);
	rate_now = 0;
	pthread_mutex_unlock(&lock);
}

uint64_t disk_check(uint64_t *checked)
{
	uint64_t bad = 0, n = 0;
	struct sector *want = malloc(sizeof(*want));

	pthread_mutex_lock(&lock);
	for (uint64_t i = 0; fd >= 0 && want && i < RECORDS; i++) {
		if (version[i] == 0)
			continue;
		sector_make(want, i, version[i]);
		bad += pread(fd, buffer, GUEST_PAGE, (off_t)i * GUEST_PAGE) != GUEST_PAGE ||
		       memcmp(buffer, want, GUEST_PAGE) != 0;
		n++;
	}
	for (unsigned i = 0; i < data_steps; i++, n++) {
		uint64_t hash;

		bad += data_hash(i, &hash) || hash != data_hashes[i];
	}
	pthread_mutex_unlock(&lock);
	free(want);
	*checked = n;
	return bad;
}

uint64_t disk_written(void)
{
	uint64_t n;

	pthread_mutex_lock(&lock);
	n = written;
	pthread_mutex_unlock(&lock);
	return n;
}

uint64_t disk_errors(void)
{
	uint64_t n;

	pthread_mutex_lock(&lock);
	n = errors;
	pthread_mutex_unlock(&lock);
	return n;
}
