/*
 * rpc.h - JSON calls over a link, with progress notes, cancellation and keepalive. The same between agents (TLS) and
 * between the command and its agent (UNIX socket).
 *
 *	{"id":7,"call":"migrate","args":{...}}    ->
 *	                                          <-  {"id":7,"note":{...}}     any number
 *	{"id":7,"cancel":true}                    ->                            optional
 *	                                          <-  {"id":7,"ok":{...}}
 *	                                          or  {"id":7,"error":{"class","text","remedy"}}
 *
 * Each connection has one thread that owns the link. Either side may call. A peer from which nothing has come for 5 s
 * (a PING goes out every second) is dead: every pending call fails with ERR_PEER and on_close runs.
 */
#ifndef VMFERRY_TRANSPORT_RPC_H
#define VMFERRY_TRANSPORT_RPC_H

#include "base/err.h"
#include "transport/link.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define RPC_PING_INTERVAL_NS (INT64_C(1) * 1000000000)
#define RPC_DEAD_AFTER_NS (INT64_C(5) * 1000000000)
#define RPC_MAX_CALLS 64 /* served at once for one peer; more are refused */

struct rpc;      /* a connection; reference-counted */
struct rpc_call; /* an incoming call being served */

/* Serves one call, in a thread of its own. `args` is borrowed. Success: 0 with *result a new reference (or NULL for
 * {}). Failure: -1 with the error, which travels to the caller with class, text and remedy. */
typedef int (*rpc_handler)(void *ctx, struct rpc_call *call, const json_t *args, json_t **result, struct err *e);

struct rpc_method {
	const char *name;
	rpc_handler fn;
	unsigned roles; /* bits the caller needs, all of them; 0: any peer. 1 migrate-in, 2 replicate-in, 4 operate */
};

struct rpc_service {
	const struct rpc_method *methods; /* ends with name == NULL */
	void *ctx;
	/* The roles of this connection's peer; called per call, so that a reload takes effect. */
	unsigned (*roles_of)(void *ctx, const char *peer_name);
	/* The connection is gone; e says why (class NONE for a clean end). Once, from the connection's thread. May
	 * be NULL. */
	void (*on_close)(void *ctx, struct rpc *rpc, const struct err *e);
};

/* Takes the link over, also on failure, and starts the thread. `service` may be NULL (calls are refused) and
 * outlives the connection. on_close may run before rpc_start has returned. */
struct rpc *rpc_start(struct link *l, const struct rpc_service *service, struct err *e);
struct rpc_opts {
	int64_t ping_interval_ns; /* 0: the defaults above */
	int64_t dead_after_ns;
	unsigned max_calls;
};
struct rpc *rpc_start_opts(struct link *l, const struct rpc_service *service, const struct rpc_opts *opts,
			   struct err *e);
struct rpc *rpc_ref(struct rpc *r);
/* Drops a reference; NULL is fine. The last one closes the connection cleanly and waits until its thread and all its
 * handlers (which see rpc_cancelled) have returned: then nothing of `service` is used any more. Dropped by the
 * connection's own thread (on_close) or one of its handlers it does not wait: the last of them to return clears up. */
void rpc_unref(struct rpc *r);
/* Ends the connection from any thread, without waiting: pending calls fail with `why`. With why == NULL what is
 * queued goes out first, then END. */
void rpc_close(struct rpc *r, const struct err *why);
bool rpc_alive(struct rpc *r);
const char *rpc_peer_name(const struct rpc *r);
const char *rpc_peer_addr(const struct rpc *r);

/* Calls and waits. Steals `args` (NULL: {}). Notes go to on_note (may be NULL) from the connection's thread, which
 * therefore cannot itself call; on_note is not running any more when this returns. When *cancel becomes true (may be
 * NULL; checked every 50 ms) a cancel is sent and the answer still awaited. At the deadline: ERR_PEER, errnum
 * ETIMEDOUT, and a cancel is sent. What the other side's handler reported has its class, text (behind the peer's
 * name) and remedy. *result: new reference, an object; result may be NULL. */
int rpc_call(struct rpc *r, const char *method, json_t *args, int64_t deadline_ns,
	     void (*on_note)(void *ctx, const json_t *note), void *note_ctx, const volatile bool *cancel,
	     json_t **result, struct err *e);

/* Inside a handler. */
/* Steals. Never waits: dropped silently if the caller is gone, and if it does not read (1 MiB is queued); the next
 * note that goes out then has "dropped": how many. */
void rpc_note(struct rpc_call *c, json_t *note);
bool rpc_cancelled(const struct rpc_call *c);   /* cancel came, or the connection closed */
struct rpc *rpc_connection(struct rpc_call *c); /* borrowed */
const char *rpc_caller(const struct rpc_call *c);

#endif
