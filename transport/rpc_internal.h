/*
 * rpc_internal.h - shared by rpc.c (the connection and its thread), rpc_call.c (calls we make) and rpc_serve.c (calls
 * we serve).
 */
#ifndef VMFERRY_TRANSPORT_RPC_INTERNAL_H
#define VMFERRY_TRANSPORT_RPC_INTERNAL_H

#include "transport/rpc.h"

#include <pthread.h>
#include <stdatomic.h>

struct rpc_out {
	struct rpc_out *next;
	size_t len;
	char *text;
};

/* A call that we made; on the caller's stack. All under rpc.lock. */
struct rpc_pending {
	struct rpc_pending *next;
	uint64_t id;
	void (*on_note)(void *ctx, const json_t *note);
	void *note_ctx;
	bool in_note; /* on_note is running: the caller may not leave */
	bool done;
	json_t *result; /* or the error */
	struct err err;
};

struct rpc_call {
	struct rpc_call *next; /* under rpc.lock */
	/* fixed */
	struct rpc *rpc;
	uint64_t id;
	const struct rpc_method *method;
	json_t *args;
	/* any thread */
	atomic_bool cancelled;
	atomic_uint dropped; /* notes, since the last that went out */
};

struct rpc {
	/* fixed after the start */
	struct rpc_opts opts;
	const struct rpc_service *service;
	char peer[256];
	char own[256];
	char addr[64];
	char label[340]; /* "host2 (10.77.0.12:7350)", or "vmferryd" for a local connection: in front of errors */
	int wake_fd;
	pthread_t thread;

	atomic_uint refs; /* the users' */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	struct link *link; /* used by the connection's thread alone, but for link_shutdown; NULL once it is gone */
	bool closing;      /* someone asked for a clean end */
	bool dead;
	bool thread_done;
	bool orphan;    /* the last reference is gone and nobody waits: the last thread to leave frees */
	struct err why; /* the first error */
	struct rpc_out *out_head, *out_tail;
	size_t out_bytes;
	struct rpc_pending *pending;
	struct rpc_call *calls;
	unsigned n_calls;
	uint64_t next_id;

	/* connection's thread only */
	uint64_t seen_bytes;
	int64_t last_heard_ns, next_ping_ns;
	bool pong_due;
};

/* Which connection this thread works for, as its own thread or a handler; and whether as its own. */
extern _Thread_local struct rpc *rpc_of_thread;
extern _Thread_local bool rpc_is_connection_thread;

/* Takes a member out of a message: a new reference and the only one, so that it may go to another thread (jansson's
 * count is not made for two). NULL if it is not there. */
json_t *rpc_take_member(json_t *msg, const char *key);

/* Queues a message. Steals j. With `droppable` it is not queued when much is waiting already: returns 1. 0 queued;
 * -1 with the error set. */
int rpc_post(struct rpc *r, json_t *j, bool droppable, struct err *e);
void rpc_free_if_last(struct rpc *r, bool last);

/* rpc_call.c: an answer or note came in. */
int rpc_call_answered(struct rpc *r, uint64_t id, json_t *msg, struct err *e);
/* With the lock held: everything pending fails. */
void rpc_call_fail_all(struct rpc *r, const struct err *why);

/* rpc_serve.c: a call or a cancel came in. */
int rpc_serve_call(struct rpc *r, uint64_t id, json_t *msg, struct err *e);
void rpc_serve_cancel(struct rpc *r, uint64_t id);

#endif
