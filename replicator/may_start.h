/*
 * may_start.h - may a VM be started on this host? What the records on disk say (epoch.h), without asking anybody: for libvirt's hook, which must not
 * call libvirt, is there before the agent is, and must not wait for a network.
 *
 * No, if
 *	- its record as a source says fenced or handed-over, and it has not come home since as a promotion of a later epoch;
 *	- or is of an earlier boot of the host ("owner_boot"): nobody has asked the peer yet whether it has taken the VM over meanwhile;
 *	- or cannot be read: then whose the VM is nobody knows.
 * A VM of which there is no record here may be started, and one of which a replica is kept here: it may be migrated to its replica's host.
 *
 * The agent's own starts pass, since it makes its record durable before it starts anything.
 */
#ifndef VMFERRY_REPLICATOR_MAY_START_H
#define VMFERRY_REPLICATOR_MAY_START_H

#include "base/err.h"

/* replica_dir: where this host's replicas are. boot_id: of the host as it runs now; NULL: not known, and then not compared. ERR_REFUSED with the reason
 * and what to do. */
int may_start(const char *state_dir, const char *replica_dir, const char *uuid, const char *boot_id, struct err *e);

#endif
