/*
 * resolve.h - host names to addresses, within a deadline. getaddrinfo(3) knows none: it runs in a thread of its own, which is
 * left to its end when the deadline has passed. Who asks for the same name meanwhile waits for the same answer, so a resolver
 * that hangs holds one thread per name. Any thread.
 */
#ifndef VMFERRY_TRANSPORT_RESOLVE_H
#define VMFERRY_TRANSPORT_RESOLVE_H

#include "base/err.h"

#include <netdb.h>
#include <stdint.h>

struct resolve;

/* ERR_PEER with errnum EHOSTUNREACH and a remedy if there is no such name or the deadline passes. Numeric addresses never wait. */
struct resolve *resolve_name(const char *name, uint16_t port, int64_t deadline_ns, struct err *e);
/* Every address of it, with the port; for stream sockets. Valid until resolve_free. */
const struct addrinfo *resolve_addresses(const struct resolve *r);
void resolve_free(struct resolve *r); /* NULL is fine */

#endif
