/*
 * libvirt_rpc.h - finds the message headers in a stream of libvirt's RPC (src/rpc/virnetprotocol.x; procedure numbers from
 * src/remote/remote_protocol.x, stable since they were given out).
 */
#ifndef VMFERRY_MIGRATOR_LIBVIRT_RPC_H
#define VMFERRY_MIGRATOR_LIBVIRT_RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LIBVIRT_RPC_HEADER_SIZE 28u
#define LIBVIRT_RPC_MAX_MESSAGE (33554432u + 4096u) /* VIR_NET_MESSAGE_MAX and its frame */

struct libvirt_rpc_header {
	uint32_t length, program, version, procedure, type, serial, status;
};

/* Where one direction of a connection is. Starts as zeros. */
struct libvirt_rpc {
	uint8_t header[LIBVIRT_RPC_HEADER_SIZE];
	size_t have;  /* bytes of the header */
	uint32_t skip; /* bytes of the body still to come */
	bool broken;  /* not this protocol */
};

/* Takes bytes from the front; *used says how many (at least one). 1: a header is complete, in *h; 0: none yet; -1: this is not libvirt's RPC. */
int libvirt_rpc_feed(struct libvirt_rpc *r, const uint8_t *p, size_t n, size_t *used, struct libvirt_rpc_header *h);

/* A call of, or reply to, domain_migrate_finish3_params or one of its predecessors: the target starts the VM. */
bool libvirt_rpc_is_finish(const struct libvirt_rpc_header *h);
bool libvirt_rpc_is_finish_reply(const struct libvirt_rpc_header *h);
/* May pass from a peer that is migrating a VM to this host. */
bool libvirt_rpc_is_for_migration(const struct libvirt_rpc_header *h);

#endif
