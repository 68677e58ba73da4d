/*
 * gate.h - stands in the path of libvirt's RPC during a migration, at both ends, and reads the message headers that pass.
 *
 * At the source it closes the one hole through which a VM could run twice. virDomainMigrate3 asks the target to start the VM (Finish);
 * when the connection breaks before the answer, libvirt takes that for "no" and resumes the VM at the source, though the target may
 * just have started it. The gate knows that a Finish is unanswered and then keeps libvirt's client waiting, while the migration asks the
 * target's agent what really happened; gate_release lets libvirt go on.
 *
 * At the target it lets only those calls through that a migration makes: a peer that may migrate VMs to this host is not thereby
 * the master of its libvirtd.
 *
 * Message header: libvirt src/rpc/virnetprotocol.x, version 1: big-endian u32 length (with itself), program, version, procedure, type
 * (0 call, 1 reply), serial, status.
 */
#ifndef VMFERRY_MIGRATOR_GATE_H
#define VMFERRY_MIGRATOR_GATE_H

#include "base/err.h"

#include <stdbool.h>

struct gate_opts {
	const char *listen_path;   /* made by the gate, removed by gate_free */
	const char *upstream_path; /* connected to, once per connection that comes in */
	bool hold;                 /* source: keep the client waiting when an answer to Finish is lost */
	bool filter;               /* target: refuse calls that no migration makes, by closing the connection */
	const char *name;          /* for logs: the VM */
};

enum gate_finish {
	GATE_FINISH_NOT_SENT,
	GATE_FINISH_UNANSWERED, /* the target may have started the VM, or may not */
	GATE_FINISH_ANSWERED,
};

struct gate;

struct gate *gate_start(const struct gate_opts *opts, struct err *e);
enum gate_finish gate_finish_state(struct gate *g);
/* True when the way to the target is gone and the client is being kept. */
bool gate_holding(struct gate *g);
/* Lets libvirt's client see that the connection is gone. */
void gate_release(struct gate *g);
/* Releases, ends the thread. NULL is fine. */
void gate_free(struct gate *g);

#endif
