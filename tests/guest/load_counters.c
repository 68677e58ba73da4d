/*
 * Statistics of a busy program: records with a counter each, one of which is incremented in a random page at a time. Few
 * bytes change, in many pages.
 */
#include "load.h"
#include "mix.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

struct record {
	uint64_t number;
	uint64_t count;
	char label[48];
};

#define RECORDS_PER_PAGE (GUEST_PAGE / sizeof(struct record))

static struct record *records;
static uint32_t *page_total; /* increments of each page, kept apart */
static uint64_t pages;
static uint64_t dice = 1;

static void label_of(char *label, uint64_t number)
{
	memset(label, 0, 48);
	snprintf(label, 48, "requests{route=\"/v1/%llx\",node=\"%llu\"}",
		 (unsigned long long)(mix_seed(number, 1) >> 48),
		 (unsigned long long)(number / RECORDS_PER_PAGE % 1000));
}

static int counters_setup(unsigned mb, char *why, size_t why_size)
{
	size_t size = (size_t)mb << 20;

	pages = size / GUEST_PAGE;
	records = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	page_total =
	    mmap(NULL, pages * sizeof(*page_total), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (records == MAP_FAILED || page_total == MAP_FAILED) {
		snprintf(why, why_size, "no memory for %u MB of counters: %s", mb, strerror(errno));
		return -1;
	}
	for (uint64_t i = 0; i < pages * RECORDS_PER_PAGE; i++) {
		records[i].number = i;
		label_of(records[i].label, i);
	}
	return 0;
}

static void counters_step(unsigned n)
{
	while (n-- > 0) {
		uint64_t r = mix_next(&dice), page = (r >> 8) % pages;

		records[page * RECORDS_PER_PAGE + r % RECORDS_PER_PAGE].count++;
		page_total[page]++;
	}
}

static uint64_t counters_verify(uint64_t *checked)
{
	uint64_t bad = 0;

	for (uint64_t page = 0; page < pages; page++) {
		const struct record *r = records + page * RECORDS_PER_PAGE;
		uint64_t sum = 0, strange = 0;
		char label[48];

		for (size_t i = 0; i < RECORDS_PER_PAGE; i++) {
			sum += r[i].count;
			strange += r[i].number != page * RECORDS_PER_PAGE + i;
		}
		/* Labels are dear to make: one a page, another one each time. */
		r += (page + dice) % RECORDS_PER_PAGE;
		label_of(label, r->number);
		bad += sum != page_total[page] || strange || memcmp(label, r->label, sizeof(label)) != 0;
	}
	*checked = pages;
	return bad;
}

const struct load load_counters = {"counters", 20000, 256, counters_setup, counters_step, counters_verify};
