/*
 * protections.h - the VMs that this host protects: a table of protection.h's by name and UUID, whose threads it starts and ends.
 *
 * Any thread may borrow one for a call. What puts one in, ends one or takes one out is a change (protect.h); of each VM there is one at a time.
 */
#ifndef VMFERRY_REPLICATOR_PROTECTIONS_H
#define VMFERRY_REPLICATOR_PROTECTIONS_H

#include "base/err.h"
#include "replicator/protection.h"

#include <jansson.h>
#include <stdbool.h>

struct protections;
/* opts: of all protections; copied, what it points to borrowed. Starts what is on disk. */
struct protections *protections_new(const struct protection_opts *opts, struct err *e);
/* Ends all; their VMs run on, their records stay. NULL is fine. */
void protections_free(struct protections *t);
const struct protection_opts *protections_opts(const struct protections *t);

/* vm: name or UUID. NULL if there is none, or it is about to end. It does not end until it is given back. */
struct protection *protections_borrow(struct protections *t, const char *vm);
void protections_give_back(struct protections *t, struct protection *p);
/* ERR_REFUSED: there is none. -1. */
int protections_none(const struct protections *t, const char *vm, struct err *e);
/* By name or UUID; also of one that is being changed. */
bool protections_uuid(struct protections *t, const char *vm, char uuid[GUEST_UUID_LEN]);
/* *record (may be NULL): a copy, new reference. */
bool protections_have(struct protections *t, const char *vm, json_t **record);
/* Appends the status of one VM, or (NULL) of all. */
void protections_list(struct protections *t, const char *vm, json_t *out);
/* protection_hold, 0 if there is none; it does not end before it is released. */
int protections_hold(struct protections *t, const char *vm, const char *why, struct err *e);
void protections_release(struct protections *t, const char *vm);

/* ---- changes ---- */

/* It may wait for the VM's QEMU and for the other host: other VMs do not. The caller's, from begin to end. */
struct protections_change {
	const char *uuid;
	struct protections_change *next;
};

void protections_begin_change(struct protections *t, const char *uuid, struct protections_change *c);
void protections_end_change(struct protections *t, struct protections_change *c);
/* What the record says, of a VM of which none runs. */
int protections_start(struct protections *t, const json_t *record, struct err *e);
/* Waits for those who have borrowed it. It keeps its place: protections_start or protections_remove follows. None is fine. Its last record, new reference;
 * NULL if there was none. */
json_t *protections_stop(struct protections *t, const char *uuid);
void protections_remove(struct protections *t, const char *uuid);

#endif
