/*
 * peers.h - connections that this agent opens to its peers: one control connection each, opened when first needed and
 * again when it has died, and as many data links as the migrator asks for.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_PEERS_H
#define VMFERRY_TOOLS_VMFERRYD_PEERS_H

#include "base/err.h"
#include "tools/vmferryd/settings.h"
#include "transport/link.h"
#include "transport/rpc.h"

struct peers;

struct peers *peers_new(struct settings *settings);
/* Ends all connections. NULL is fine. */
void peers_free(struct peers *p);

/* Does the configuration have it? ERR_REFUSED, as of peers_connect. Nothing is connected. */
int peers_check(struct peers *p, const char *host, struct err *e);
/* New reference to the control connection; ERR_REFUSED if the configuration has no such peer (with the nearest name). */
struct rpc *peers_connect(struct peers *p, const char *host, struct err *e);
/* A data link; steals hello. */
struct link *peers_connect_data(struct peers *p, const char *host, json_t *hello, struct err *e);
/* After a reload: lets go of connections to peers that are gone or have moved, and, as TLS files may have changed,
 * has all others opened anew when next needed. Whoever holds a reference keeps it. */
void peers_forget(struct peers *p);

#endif
