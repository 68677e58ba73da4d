/*
 * guests.h - the VMs of this host: listing, finding one by what an operator typed, and where one is in its life.
 */
#ifndef VMFERRY_MIGRATOR_GUESTS_H
#define VMFERRY_MIGRATOR_GUESTS_H

#include "base/err.h"
#include "migrator/virt.h"

#include <jansson.h>
#include <stddef.h>

#define GUESTS_UUID_LEN 37 /* with NUL */

enum guests_state {
	GUESTS_ABSENT,
	GUESTS_SHUTOFF,
	GUESTS_RUNNING,  /* also when its vCPUs sleep (pmsuspended) or idle */
	GUESTS_PAUSED,   /* by a person, an I/O error, or for the last moment of a migration away */
	GUESTS_INCOMING, /* a migration to this host has not finished: the VM does not run here */
	GUESTS_CRASHED,
};

/* "absent", "shutoff", "running", "paused", "incoming", "crashed". */
const char *guests_state_name(enum guests_state state);

/* Finds by name or UUID. Not found: ERR_CONFIG with the nearest names in the remedy. New reference. */
virDomainPtr guests_find(virConnectPtr conn, const char *name_or_uuid, struct err *e);
/* The state, and libvirt's reason for it as a word ("user", "migration", "ioerror" ...; may be NULL). A domain that vanished is ABSENT. */
int guests_state(virDomainPtr dom, enum guests_state *state, const char **reason, struct err *e);
/* By UUID; a domain that is not there is ABSENT, not an error. */
int guests_where(virConnectPtr conn, const char *uuid, enum guests_state *state, const char **reason, struct err *e);

/* [{"name","uuid","state","reason","vcpus","memory_bytes","persistent","autostart","host","disks":[...]}] by name, of every VM, running or not.
 * `host` is this host's name. VMs that vanish meanwhile are left out. */
int guests_list(virConnectPtr conn, const char *host, json_t **list, struct err *e);

/* Up to max of `names` that are close to `wanted`, nearest first: edits (insert, remove, replace, swap neighbours) at most a third of the
 * length, or one begins with the other, letter case aside. Returns how many. */
size_t guests_nearest(const char *wanted, const char *const *names, size_t n, const char **out, size_t max);

#endif
