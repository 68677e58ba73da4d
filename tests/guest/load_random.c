/* The worst case: whole pages are rewritten with bytes that cannot be compressed, like buffers of encrypted traffic. */
#include "load.h"
#include "mix.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static uint8_t *region;
static uint32_t *version; /* of each page */
static uint64_t pages;
static uint64_t dice = 2;

static int random_setup(unsigned mb, char *why, size_t why_size)
{
	size_t size = (size_t)mb << 20;

	pages = size / GUEST_PAGE;
	region = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	version = mmap(NULL, pages * sizeof(*version), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (region == MAP_FAILED || version == MAP_FAILED) {
		snprintf(why, why_size, "no memory for %u MB of random pages: %s", mb, strerror(errno));
		return -1;
	}
	for (uint64_t i = 0; i < pages; i++)
		mix_fill(region + i * GUEST_PAGE, GUEST_PAGE, mix_seed(i, 0));
	return 0;
}

static void random_step(unsigned n)
{
	while (n-- > 0) {
		uint64_t i = mix_next(&dice) % pages;

		mix_fill(region + i * GUEST_PAGE, GUEST_PAGE, mix_seed(i, ++version[i]));
	}
}

static uint64_t random_verify(uint64_t *checked)
{
	uint64_t bad = 0;

	for (uint64_t i = 0; i < pages; i++)
		bad += !mix_holds(region + i * GUEST_PAGE, GUEST_PAGE, mix_seed(i, version[i]));
	*checked = pages;
	return bad;
}

const struct load load_random = {"random", 5000, 128, random_setup, random_step, random_verify};
