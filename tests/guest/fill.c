#include "fill.h"

#include "mix.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#define FILLS 16

struct filled {
	uint8_t *data;
	uint64_t *hashes;
	uint64_t pages;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct filled fills[FILLS]; /* under the lock */
static unsigned n_fills;

static void *anonymous(size_t size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static int fill_locked(FILE *in, uint64_t bytes, char *why, size_t why_size)
{
	struct filled *f = &fills[n_fills];

	if (n_fills == FILLS) {
		snprintf(why, why_size, "filled %d times, enough", FILLS);
		return -1;
	}
	f->pages = bytes / GUEST_PAGE;
	f->data = anonymous(f->pages * GUEST_PAGE);
	f->hashes = anonymous(f->pages * sizeof(*f->hashes));
	if (f->data == MAP_FAILED || f->hashes == MAP_FAILED) {
		snprintf(why, why_size, "no memory for %llu bytes: %s", (unsigned long long)bytes, strerror(errno));
		return -1;
	}
	for (uint64_t i = 0; i < f->pages; i++) {
		uint8_t *page = f->data + i * GUEST_PAGE;

		if (fread(page, GUEST_PAGE, 1, in) != 1) {
			snprintf(why, why_size, "contents end at page %llu of %llu", (unsigned long long)i,
				 (unsigned long long)f->pages);
			return -1;
		}
		f->hashes[i] = mix_hash(page, GUEST_PAGE);
	}
	n_fills++;
	return 0;
}

int fill_read(FILE *in, uint64_t bytes, char *why, size_t why_size)
{
	int rc;

	pthread_mutex_lock(&lock);
	rc = fill_locked(in, bytes, why, why_size);
	pthread_mutex_unlock(&lock);
	return rc;
}

uint64_t fill_verify(uint64_t *checked)
{
	uint64_t bad = 0;

	*checked = 0;
	pthread_mutex_lock(&lock);
	for (unsigned n = 0; n < n_fills; n++) {
		for (uint64_t i = 0; i < fills[n].pages; i++)
			bad += mix_hash(fills[n].data + i * GUEST_PAGE, GUEST_PAGE) != fills[n].hashes[i];
		*checked += fills[n].pages;
	}
	pthread_mutex_unlock(&lock);
	return bad;
}
