#include "migrator/relay_internal.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/thread.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Jobs never wait for room: their number is bounded by streams and batches. */
#define MAX_JOBS ((size_t)256 * 1024)

/* ---- the end ---- */

static void wake_acceptor(struct relay *r)
{
	const uint64_t one = 1;
	const ssize_t n = write(r->wake_fd, &one, sizeof(one));

	assert(n == (ssize_t)sizeof(one));
}

/* Everything local is cut, everyone is woken. relay.lock is held. */
static void die_locked(struct relay *r)
{
	r->dead = true;
	r->stop_accepting = true;
	atomic_store(&r->over, true);
	for (uint32_t i = 1; i <= FLOW_MAX_STREAMS; i++)
		if (r->streams[i])
			relay_open_kill(r->streams[i]);
	wake_acceptor(r);
	flow_tx_abort(r->tx);
	flow_rx_abort(r->rx);
	pthread_cond_broadcast(&r->changed);
}

void relay_fail(struct relay *r, const struct err *e)
{
	{
		THREAD_LOCKED(&r->lock);
		if (r->dead)
			return;
		r->error = *e;
		die_locked(r);
	}
	if (r->opts.on_error)
		r->opts.on_error(r->opts.ctx, e);
}

void relay_abort(struct relay *r)
{
	THREAD_LOCKED(&r->lock);
	if (!r->dead)
		die_locked(r);
}

/* ---- what the flows say ---- */

static void on_tx_error(void *ctx, const struct err *e)
{
	relay_fail(ctx, e);
}

static void on_recycle(void *ctx, struct buf *payload)
{
	struct relay *r = ctx;

	stock_put_buf(r->stock, payload);
}

static int on_batch(void *ctx, struct link *link, uint32_t stream, uint64_t number, const uint8_t *payload, size_t len,
		    struct err *e)
{
	return relay_write_on_batch(ctx, link, stream, number, payload, len, e);
}

static int on_ack(void *ctx, uint32_t stream, uint64_t number, struct err *e)
{
	struct relay *r = ctx;

	if (flow_tx_acked(r->tx, stream, number, e) < 0)
		return -1;
	if (atomic_load(&r->finishing)) {
		THREAD_LOCKED(&r->lock);
		pthread_cond_broadcast(&r->changed);
	}
	return 0;
}

static int on_stream(void *ctx, const struct flow_stream_msg *m, struct err *e)
{
	return relay_open_on_message(ctx, m, e);
}

/* All links have ended: then every stream has to have ended before. relay.lock is held. */
static int check_complete_locked(struct relay *r, struct err *e)
{
	for (uint32_t i = 1; i <= FLOW_MAX_STREAMS; i++) {
		struct relay_stream *s = r->streams[i];
		if (!s || s->state == STREAM_CLOSED)
			continue;
		THREAD_LOCKED(&s->lock);
		if (!s->rx_dropped && (!s->end_known || s->received != s->end_number))
			return err_set(e, ERR_PROTOCOL, "the peer ended its links in the middle of stream %u", i);
	}
	return 0;
}

static void on_end(void *ctx, const struct err *end)
{
	struct relay *r = ctx;
	struct err e = *end;

	if (!err_is_set(&e)) {
		THREAD_LOCKED(&r->lock);
		r->rx_ended = true;
		pthread_cond_broadcast(&r->changed);
		if (r->dead || check_complete_locked(r, &e) == 0)
			return;
	}
	relay_fail(r, &e);
}

/* ---- start ---- */

static struct relay *relay_new(const struct relay_opts *opts, size_t n_in)
{
	struct relay *r = mem_alloc(sizeof(*r));
	const struct flow_rx_handler h = {
		.on_batch = on_batch, .on_ack = on_ack, .on_stream = on_stream, .on_end = on_end, .ctx = r
	};

	r->opts = *opts;
	r->source = opts->source;
	for (int k = 0; k < RELAY_KIND_COUNT; k++) {
		r->path[k] = mem_strdup(opts->path[k]);
		r->opts.path[k] = r->path[k];
		r->listen_fd[k] = -1;
	}
	r->wake_fd = -1;
	pthread_mutex_init(&r->lock, NULL);
	pthread_mutex_init(&r->encode_lock, NULL);
	pthread_mutex_init(&r->adapt_lock, NULL);
	thread_cond_init(&r->changed);
	thread_cond_init(&r->encode_room);
	r->stock = stock_new();
	r->rx = flow_rx_new(&h, n_in);
	return r;
}

static int start_parts(struct relay *r, struct err *e)
{
	const struct flow_tx_opts to = {
		.rate_limit = r->opts.rate_limit, .on_error = on_tx_error, .recycle = on_recycle, .ctx = r
	};

	r->tx = flow_tx_new(&to, e);
	if (!r->tx)
		return -1;
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->wake_fd < 0)
		return err_sys(e, "eventfd");
	r->pool = pool_new(r->opts.workers, "relay-codec", MAX_JOBS, e);
	if (!r->pool)
		return -1;
	atomic_store(&r->rate_limit, r->opts.rate_limit);
	r->max_encoding = pool_threads(r->pool) + 2;
	r->adapt = adapt_new(pool_threads(r->pool), r->opts.fixed_level);
	adapt_begin_with(r->adapt, &r->opts.before);
	if (!r->source)
		return 0;
	if (relay_open_listeners(r, e) < 0 || thread_start(&r->acceptor, "relay-accept", relay_open_acceptor, r, e) < 0)
		return -1;
	r->acceptor_started = true;
	return 0;
}

struct relay *relay_start(const struct relay_opts *opts, struct link **out, size_t n_out, struct link **in, size_t n_in,
			  struct err *e)
{
	struct relay *r = relay_new(opts, n_in);
	size_t o = 0, i = 0;

	if (start_parts(r, e) < 0)
		goto fail;
	while (o < n_out)
		if (flow_tx_add_link(r->tx, out[o++], e) < 0)
			goto fail;
	while (i < n_in)
		if (flow_rx_add_link(r->rx, in[i++], e) < 0)
			goto fail;
	return r;
fail:
	while (o < n_out)
		link_free(out[o++]);
	while (i < n_in)
		link_free(in[i++]);
	relay_free(r);
	return NULL;
}

/* ---- looking ---- */

void relay_get_stats(struct relay *r, struct relay_stats *out)
{
	struct relay_stats s = { 0 };
	struct flow_stats fs;

	for (int k = 0; k < RELAY_KIND_COUNT; k++)
		s.stream_bytes[k] = atomic_load(&r->bytes[k]);
	flow_tx_stats(r->tx, &fs);
	s.wire_bytes = fs.wire_bytes + flow_rx_wire_bytes(r->rx);
	s.rate = fs.rate;
	{
		THREAD_LOCKED(&r->adapt_lock);
		s.level = adapt_level(r->adapt);
		adapt_learned(r->adapt, &s.learned);
		s.codec = r->codec;
	}
	THREAD_LOCKED(&r->lock);
	s.passthrough = r->passthrough[0] ? r->passthrough : NULL;
	*out = s;
}

bool relay_open_failure(struct relay *r, enum relay_kind *kind, struct err *e)
{
	THREAD_LOCKED(&r->lock);
	if (!r->open_failed)
		return false;
	*kind = r->open_failed_kind;
	*e = r->open_error;
	return true;
}

void relay_set_rate_limit(struct relay *r, uint64_t bytes_per_s)
{
	atomic_store(&r->rate_limit, bytes_per_s);
	flow_tx_set_rate_limit(r->tx, bytes_per_s);
}

/* ---- finish ---- */

/* -1 with the error set. relay.lock is held. */
static int dead_locked(struct relay *r, struct err *e)
{
	if (err_is_set(&r->error))
		*e = r->error;
	else
		err_set(e, ERR_CANCELLED, "the session was aborted");
	return -1;
}

static unsigned open_streams_locked(struct relay *r)
{
	unsigned n = 0;

	for (uint32_t i = 1; i <= FLOW_MAX_STREAMS; i++)
		if (r->streams[i] && !relay_open_done_locked(r->streams[i]))
			n++;
	return n;
}

static int await_streams(struct relay *r, int64_t deadline_ns, struct err *e)
{
	unsigned n;

	THREAD_LOCKED(&r->lock);
	r->stop_accepting = true;
	wake_acceptor(r);
	while (!r->dead && (n = open_streams_locked(r)) > 0) {
		if (thread_cond_wait_until(&r->changed, &r->lock, deadline_ns) < 0)
			return err_set(e, ERR_PEER, "%u connection%s of the session did not end in time", n,
				       n == 1 ? "" : "s");
	}
	return r->dead ? dead_locked(r, e) : 0;
}

static int await_peer(struct relay *r, int64_t deadline_ns, struct err *e)
{
	THREAD_LOCKED(&r->lock);
	while (!r->dead && !r->rx_ended) {
		if (thread_cond_wait_until(&r->changed, &r->lock, deadline_ns) < 0)
			return err_set(e, ERR_PEER, "the peer did not end its side of the session in time");
	}
	return r->dead ? dead_locked(r, e) : 0;
}

int relay_finish(struct relay *r, int64_t deadline_ns, struct err *e)
{
	atomic_store(&r->finishing, true);
	if (await_streams(r, deadline_ns, e) < 0 || flow_tx_finish(r->tx, deadline_ns, e) < 0)
		return -1;
	return await_peer(r, deadline_ns, e);
}

void relay_free(struct relay *r)
{
	if (!r)
		return;
	if (r->tx && r->wake_fd >= 0)
		relay_abort(r);
	if (r->acceptor_started)
		pthread_join(r->acceptor, NULL);
	/* Receivers start streams and jobs, streams start jobs, jobs use the sender. */
	flow_rx_free(r->rx);
	for (uint32_t i = 1; i <= FLOW_MAX_STREAMS; i++) {
		struct relay_stream *s = r->streams[i];
		if (s && s->reader_started)
			pthread_join(s->reader, NULL);
		if (s && s->writer_started)
			pthread_join(s->writer, NULL);
		if (s)
			s->reader_started = s->writer_started = false;
	}
	pool_free(r->pool);
	flow_tx_free(r->tx);
	for (uint32_t i = 1; i <= FLOW_MAX_STREAMS; i++)
		relay_open_free(r->streams[i]);
	for (int k = 1; k < RELAY_KIND_COUNT; k++) {
		if (r->listening[k])
			unlink(r->path[k]);
		fd_close(&r->listen_fd[k]);
		free(r->path[k]);
	}
	fd_close(&r->wake_fd);
	adapt_free(r->adapt);
	stock_free(r->stock);
	pthread_mutex_destroy(&r->lock);
	pthread_mutex_destroy(&r->encode_lock);
	pthread_mutex_destroy(&r->adapt_lock);
	pthread_cond_destroy(&r->changed);
	pthread_cond_destroy(&r->encode_room);
	free(r);
}
