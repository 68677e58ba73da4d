/*
 * load.h - what the guest does with its memory while it is moved: one load at a time, at a steady rate, checkable.
 */
#ifndef GUEST_LOAD_H
#define GUEST_LOAD_H

#include <stddef.h>
#include <stdint.h>

struct load {
	const char *name;
	unsigned rate; /* operations per second, unless told otherwise */
	unsigned mb;   /* size of what it works on, unless told otherwise */
	/* Makes what it works on. 0, or -1 with the reason in `why`. */
	int (*setup)(unsigned mb, char *why, size_t why_size);
	/* Does n operations. */
	void (*step)(unsigned n);
	/* Compares all with what it must be: number of pages or records that differ; *checked is how many there are. */
	uint64_t (*verify)(uint64_t *checked);
};

extern const struct load load_counters, load_random, load_redis;

/* Starts the load of that name; rate or mb 0 means its own. What the load before it left in memory stays as it is, and
 * stays under verification. */
int load_start(const char *name, unsigned rate, unsigned mb, char *why, size_t why_size);
/* Stops working on the memory. */
void load_stop(void);
/* All loads that have been started. */
uint64_t load_verify(uint64_t *checked);
/* Name of the load at work ("idle"), operations done so far. */
const char *load_name(void);
uint64_t load_operations(void);

#endif
