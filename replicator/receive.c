#include "replicator/receive.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/inflow.h"
#include "replicator/records.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct receive {
	struct receive_opts opts;
	struct inflow *in;
	struct records *records; /* the inflow's thread */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	bool over, broken;
	struct err error;
	bool complete;   /* the transaction has come whole and waits for receive_commit */
	bool committing; /* receive_commit has it */
	char id[RECORDS_ID_MAX + 1];
	/* Between BEGIN and COMMIT the inflow's thread's; then, while `complete`, under lock. */
	struct store_txn *txn;
};

static void fail(struct receive *r, const struct err *e)
{
	{
		THREAD_LOCKED(&r->lock);
		if (!r->broken)
			r->error = *e;
		r->broken = r->over = true;
		pthread_cond_broadcast(&r->changed);
	}
	if (r->opts.on_error)
		r->opts.on_error(r->opts.ctx, e);
}

/* ---- from the stream ---- */

static int on_begin(void *ctx, const char *id, bool point, struct err *e)
{
	struct receive *r = ctx;

	{
		/* The one before may still be on its way to the disk. */
		THREAD_LOCKED(&r->lock);
		while (!r->over && (r->complete || r->committing))
			thread_cond_wait_until(&r->changed, &r->lock, INT64_MAX);
		if (r->over)
			return err_set(e, ERR_CANCELLED, "the session has ended");
	}
	snprintf(r->id, sizeof(r->id), "%s", id);
	r->txn = store_begin(r->opts.store, point ? STORE_TXN_POINT : STORE_TXN_PART, e);
	return r->txn ? 0 : -1;
}

static int on_volumes(void *ctx, const struct store_volume *v, size_t n, struct err *e)
{
	struct receive *r = ctx;

	return store_txn_volumes(r->txn, v, n, e);
}

static int on_block(void *ctx, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e)
{
	struct receive *r = ctx;

	return store_txn_block(r->txn, volume, block, data, e);
}

static int on_zeros(void *ctx, uint32_t volume, uint64_t first, uint64_t count, struct err *e)
{
	struct receive *r = ctx;

	return store_txn_zeros(r->txn, volume, first, count, e);
}

static int on_file(void *ctx, const char *name, const void *data, size_t len, struct err *e)
{
	struct receive *r = ctx;

	return store_txn_file(r->txn, name, data, len, e);
}

static int on_commit(void *ctx, const char *id, bool point, struct err *e)
{
	struct receive *r = ctx;

	(void)id, (void)point, (void)e;
	THREAD_LOCKED(&r->lock);
	r->complete = true;
	pthread_cond_broadcast(&r->changed);
	return 0;
}

static int on_abort(void *ctx, struct err *e)
{
	struct receive *r = ctx;

	(void)e;
	store_abort(r->txn);
	r->txn = NULL;
	return 0;
}

static int on_bytes(void *ctx, const uint8_t *p, size_t n, struct err *e)
{
	struct receive *r = ctx;

	if (fault_point(FAULT_REPLICA_RECEIVE, e) < 0)
		return -1;
	return records_feed(r->records, p, n, e);
}

static void inflow_failed(void *ctx, const struct err *e)
{
	fail(ctx, e);
}

/* ---- start and end ---- */

struct receive *receive_new(const struct receive_opts *opts, struct link **forward, size_t n_forward, struct link **backward,
			    size_t n_backward, struct err *e)
{
	struct receive *r = mem_alloc(sizeof(*r));
	const struct records_sink sink = { .begin = on_begin,
					   .volumes = on_volumes,
					   .block = on_block,
					   .zeros = on_zeros,
					   .file = on_file,
					   .commit = on_commit,
					   .abort = on_abort,
					   .ctx = r };
	const struct inflow_opts io = {
		.pool = opts->pool, .slots = opts->slots, .bytes = on_bytes, .on_error = inflow_failed, .ctx = r
	};

	r->opts = *opts;
	pthread_mutex_init(&r->lock, NULL);
	thread_cond_init(&r->changed);
	r->records = records_new(&sink);
	r->in = inflow_new(&io, forward, n_forward, backward, n_backward, e);
	if (!r->in) {
		receive_free(r);
		return NULL;
	}
	return r;
}

void receive_abort(struct receive *r)
{
	{
		THREAD_LOCKED(&r->lock);
		r->over = true;
		pthread_cond_broadcast(&r->changed);
	}
	inflow_abort(r->in);
}

void receive_free(struct receive *r)
{
	if (!r)
		return;
	if (r->in)
		receive_abort(r);
	inflow_free(r->in);
	store_abort(r->txn);
	records_free(r->records);
	pthread_cond_destroy(&r->changed);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

bool receive_broken(struct receive *r, struct err *e)
{
	THREAD_LOCKED(&r->lock);
	if (r->broken)
		*e = r->error;
	return r->broken;
}

uint64_t receive_wire_bytes(struct receive *r)
{
	return inflow_wire_bytes(r->in);
}

/* ---- commit ---- */

/* The transaction, out of the stream's hands; NULL with the error set. */
static struct store_txn *take(struct receive *r, const char *id, int64_t deadline_ns, struct err *e)
{
	THREAD_LOCKED(&r->lock);
	while (!r->over && !r->complete) {
		if (thread_cond_wait_until(&r->changed, &r->lock, deadline_ns) < 0 && !r->over && !r->complete) {
			err_set(e, ERR_PROTOCOL, "commit of %.64s, of which not all has come", id);
			return NULL;
		}
	}
	if (r->broken)
		*e = r->error;
	else if (r->over)
		err_set(e, ERR_CANCELLED, "the session has ended");
	else if (strcmp(r->id, id) != 0)
		err_set(e, ERR_PROTOCOL, "commit of %.64s, but what came is %s", id, r->id);
	if (err_is_set(e))
		return NULL;
	struct store_txn *t = r->txn;
	r->txn = NULL;
	r->complete = false;
	r->committing = true;
	return t;
}

int receive_commit(struct receive *r, const char *id, bool point, const json_t *meta, int64_t deadline_ns, uint64_t *seq,
		   struct err *e)
{
	struct store_txn *t = take(r, id, deadline_ns, e);
	int rc = -1;

	if (!t)
		return -1;
	if (!point)
		store_txn_make_part(t);
	if (fault_point(FAULT_REPLICA_COMMIT_TARGET, e) < 0)
		store_abort(t);
	else
		rc = store_commit(t, point ? meta : NULL, seq, e);
	{
		THREAD_LOCKED(&r->lock);
		r->committing = false;
		pthread_cond_broadcast(&r->changed);
	}
	if (rc < 0) {
		/* The peer takes it for what it has: without it, what follows would be built on sand. */
		fail(r, e);
		inflow_abort(r->in);
		return -1;
	}
	return fault_point(FAULT_REPLICA_COMMITTED_TARGET, e);
}
