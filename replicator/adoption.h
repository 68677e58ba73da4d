/*
 * adoption.h - the way home begins here: a VM that was taken over by another host, and stands still on this one, becomes this host's replica of
 * what runs there. In steps that can be interrupted anywhere and repeated:
 *
 *	look      our record says fenced or handed-over, and the VM does not run here; its definition is kept as a file
 *	adopt     a store of its own is filled with what is here: memory, devices and disks of a paused VM; disks alone of one that is off, or was
 *	          handed over: its QEMU is only good to be ended, and is, before its images are read
 *	record    replica.json says replica, from FROM, at its epoch: durable, all at once
 *	remove    the old VM: its QEMU and its definition (kept as a file), never an image that was there before vmferry
 *	old       an earlier replica of ours, on which that VM ran
 *
 * Our record as its source stays until the caller removes it, last of all: as long as it is there, an agent that starts keeps the VM paused.
 * Images that a failover made here are removed if the VM was handed over (its last state is at the peer, whole); after an unplanned failover they
 * may hold what never got there, and stay.
 */
#ifndef VMFERRY_REPLICATOR_ADOPTION_H
#define VMFERRY_REPLICATOR_ADOPTION_H

#include "base/err.h"
#include "replicator/replica.h"

#include <jansson.h>
#include <stdint.h>

enum adoption_vm {
	ADOPTION_ABSENT, /* libvirt does not know it */
	ADOPTION_OFF,
	ADOPTION_PAUSED,
	ADOPTION_RUNNING, /* or about to */
};

struct adoption_ops {
	int (*look)(void *ctx, const char *uuid, enum adoption_vm *out, struct err *e);
	/* Its disks' images and its definition: {"images":[paths],"xml"}. New reference. */
	json_t *(*describe)(void *ctx, const char *uuid, struct err *e);
	/* Writes what is here into an empty store; *how: "memory" or "disks". disks: its memory is of no use. */
	int (*fill)(void *ctx, const char *uuid, enum adoption_vm vm, const char *xml, bool disks, struct store *s, const char **how,
		    struct err *e);
	/* Ends QEMU and takes away the definition. Images stay. ERR_REFUSED if it runs. */
	int (*remove)(void *ctx, const char *uuid, struct err *e);
};

struct adoption_opts {
	struct replicas *replicas;
	const char *state_dir; /* where the definition is kept: given-up-UUID.xml */
	const char *uuid, *vm;
	const char *from; /* who has it */
	uint64_t epoch;   /* theirs */
	const json_t *protection; /* our record as its source, or NULL */
	const struct adoption_ops *ops;
	void *ctx;
};

/* ERR_REFUSED unless our own records say that the VM went to `from`: only with `protection` are a VM that is here, or a replica that is another's,
 * touched.
 * *report, new reference: {"adopted":"memory"|"disks"|"before"|"nothing", "images":[those that stay], "definition":path}. */
int adoption_run(const struct adoption_opts *o, json_t **report, struct err *e);

#endif
