/*
 * outgoing.h - the source's side of a session: migrate.begin at the target, data links, relay, gate, journal, migrate.end.
 */
#ifndef VMFERRY_MIGRATOR_OUTGOING_H
#define VMFERRY_MIGRATOR_OUTGOING_H

#include "migrator/gate.h"
#include "migrator/migrator_internal.h"
#include "migrator/relay.h"
#include "migrator/virt.h"
#include "migrator/where.h"

struct outgoing_spec {
	const char *uuid, *name, *host;
	enum where was;      /* at the start: RUNNING, PAUSED, SHUTOFF */
	bool autostart;      /* it starts with its host: so it will at the target, once it is there */
	const json_t *disks; /* images for the target to create: [{"path","format","virtual_size"}]; borrowed */
	uint64_t rate_limit; /* bytes per second, 0 = none */
	int level;           /* RELAY_LEVEL_AUTO, CODEC_RAW or zstd's */
};

struct outgoing;

/* After failure nothing is left here or there. On success the sockets are there and migrations can connect. */
struct outgoing *outgoing_begin(struct migrator *m, const struct outgoing_spec *spec, struct err *e);

const char *outgoing_session(const struct outgoing *o);
/* "unix:///run/vmferry/SESSION/mig.sock" and nbd.sock: what libvirt is told. */
const char *outgoing_migration_uri(const struct outgoing *o);
const char *outgoing_disks_uri(const struct outgoing *o);
const char *outgoing_nbd_path(const struct outgoing *o);
struct rpc *outgoing_rpc(struct outgoing *o); /* borrowed */

/* The target's libvirtd, through the relay. Without keepalive: only the agents decide that a peer is dead. */
virConnectPtr outgoing_libvirt(struct outgoing *o, struct err *e);
struct gate *outgoing_gate(struct outgoing *o);
void outgoing_stats(struct outgoing *o, struct relay_stats *out);
/* The end of RAM was seen in QEMU's stream: the guest is stopped and device state is on its way. Monotonic, 0 before. */
int64_t outgoing_ram_end_ns(struct outgoing *o);

/* Has the way to the target failed (control link dead, a data link or the relay broken)? Fills e with the first error. Any thread. */
bool outgoing_broken(struct outgoing *o, struct err *e);
/* Closes what the relay carries: QEMU and libvirt see their connections end. Any thread. */
void outgoing_cut(struct outgoing *o);

/* Ends the session at both ends and frees it. `done`: the VM has moved; what is still on its way is delivered first. *answer (may be NULL;
 * a new reference) is the target's, {"state", "downtime_ms"...}, or NULL if it could not be told: it tidies up by itself when its control
 * link ends. `resume`: the guest was paused to finish the migration; the target lets it run. The journal's
 * record goes when `done`; else the caller removes it once it is known that the VM stayed. */
void outgoing_end(struct outgoing *o, bool done, bool resume, json_t **answer);

/* Tells the target that the migration is over for it, and hears where the VM is there: certain, for nothing can come of the session any
 * more. Takes as long as libvirtd takes to settle, 20 s at most. outgoing_end is still due. */
int outgoing_settle_target(struct outgoing *o, enum where *out, struct err *e);

/* Asks the host where the VM is there; connects anew if need be. */
int outgoing_ask_where(struct migrator *m, const char *host, const char *uuid, enum where *out, struct err *e);

#endif
