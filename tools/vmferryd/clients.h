/*
 * clients.h - control connections that came in: operators over the local socket, peers over TLS. Each is served by
 * rpc.c with the calls of calls.h; here they are counted, named and ended.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_CLIENTS_H
#define VMFERRY_TOOLS_VMFERRYD_CLIENTS_H

#include "base/err.h"
#include "transport/link.h"
#include "transport/rpc.h"

#include <stdbool.h>
#include <stddef.h>

#define CLIENTS_MAX 512

struct agent;
struct clients;

/* The ctx of the calls' handlers. */
struct clients_endpoint {
	struct agent *agent;
	bool local; /* came over the local socket; never decided by a name that a peer gave */
};

struct clients *clients_new(struct agent *agent, struct err *e);
/* Takes over a link whose HELLO was read and not yet answered: welcomes and serves it, or refuses it with a reason
 * that was also logged. `who` says who it is, for logs: "uid=0 pid=12". */
void clients_serve(struct clients *c, struct link *l, bool local, const char *who);
/* "local uid=1000 pid=12" or "peer=node2 addr=192.0.2.2:1234". Returns buf. */
const char *clients_who(struct clients *c, const struct rpc *rpc, char *buf, size_t size);
/* After a reload: ends connections of peers that are no longer in the configuration. */
void clients_drop_unknown(struct clients *c);
/* Ends all connections and waits until they are gone; nothing is accepted from here on. */
void clients_stop(struct clients *c);
void clients_free(struct clients *c); /* after clients_stop; NULL is fine */

#endif
