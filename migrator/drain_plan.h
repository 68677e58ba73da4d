/*
 * drain_plan.h - which VM of a host that is drained goes where. Pure: preflight is a function of the caller's.
 *
 * The largest VM is placed first, on the host with the most memory to spare among those that preflight allows; what
 * is placed is taken off that host's memory at once, so that VMs still under way count.
 */
#ifndef VMFERRY_MIGRATOR_DRAIN_PLAN_H
#define VMFERRY_MIGRATOR_DRAIN_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DRAIN_PLAN_NOWHERE SIZE_MAX

struct drain_plan_host {
	const char *name;
	bool usable;          /* answered, and takes VMs */
	uint64_t spare_bytes; /* changed by placing */
	unsigned max_jobs;    /* that it receives at a time, 0: no limit */
	unsigned moving;      /* that are on their way there now (drain.c) */
};

struct drain_plan_vm {
	const char *name;
	uint64_t memory_bytes;
	bool *tried; /* one per host: placed there before, or refused by preflight; grows by placing */
	size_t host; /* out: index, or DRAIN_PLAN_NOWHERE */
};

struct drain_plan {
	struct drain_plan_host *hosts;
	size_t n_hosts;
	struct drain_plan_vm *vms;
	size_t n_vms;
	/* May the VM go there? Asked at most once per pair. May be NULL: always. */
	bool (*possible)(void *ctx, size_t vm, size_t host);
	/* A host that was left out for lack of memory, for the reasons. May be NULL. */
	void (*too_small)(void *ctx, size_t vm, size_t host);
	void *ctx;
};

/* Sorts nothing in place: order[] (n_vms entries) becomes the order in which to place, largest first, names as
 * tie-break. */
void drain_plan_order(const struct drain_plan *p, size_t *order);
/* Places one VM on the best host that it has not tried; sets vm->host and takes the memory. False: nowhere. */
bool drain_plan_place(struct drain_plan *p, size_t vm);
/* A VM did not go where it was placed: its memory there is free again. */
void drain_plan_release(struct drain_plan *p, size_t vm);

#endif
