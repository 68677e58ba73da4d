#include "replicator/outflow.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "base/thread.h"
#include "base/xxh3.h"
#include "transport/adapt.h"
#include "transport/flow.h"
#include "transport/page_cache.h"
#include "transport/stock.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define INLINE_BYTES 16384u /* less is encoded where it arises: a change of threads costs more */
#define TICK_NS (20 * NS_PER_MS)
#define PAGE_RAW (CODEC_PAGE_SIZE + 8u)
#define ZERO_RAW 9u

struct outflow {
	/* fixed */
	struct outflow_opts opts;
	struct flow_tx *tx;
	struct flow_rx *rx;
	struct stock *stock;
	unsigned max_encoding;

	/* the writer's */
	struct batch *batch;
	struct page_cache *cache;
	size_t hint;
	size_t hashed; /* of the batch, already in `hash` */
	bool pages;    /* there are any in the batch */
	XXH3_state_t *hash;

	pthread_mutex_t lock;
	pthread_cond_t room;
	/* under lock */
	unsigned encoding; /* batches in the pool */
	bool freeing;      /* nobody may touch tx and rx any more, but outflow_free */
	unsigned ending;   /* threads that do */
	bool failed;
	struct err error; /* the first */

	pthread_mutex_t adapt_lock;
	/* under adapt_lock */
	struct adapt *adapt;
	int floor;
	uint64_t rate_limit;
	int64_t tick_ns, tick_busy_ns;
	struct codec_stats codec;

	atomic_bool over;
	atomic_uint_least64_t raw_bytes;
};

/* ---- errors ---- */

/* The first error ends it all. From any thread. */
static void fail(struct outflow *o, const struct err *e)
{
	bool say;
	{
		THREAD_LOCKED(&o->lock);
		say = !o->failed;
		if (say)
			o->error = *e;
		o->failed = true;
		atomic_store(&o->over, true);
		if (o->freeing)
			return;
		o->ending++;
	}
	if (say && o->opts.on_error)
		o->opts.on_error(o->opts.ctx, e);
	flow_tx_abort(o->tx);
	flow_rx_abort(o->rx);
	THREAD_LOCKED(&o->lock);
	o->ending--;
	pthread_cond_broadcast(&o->room);
}

bool outflow_broken(struct outflow *o, struct err *e)
{
	THREAD_LOCKED(&o->lock);
	if (o->failed)
		*e = o->error;
	return o->failed;
}

/* What a call of flow_tx said, in the words of the first error. */
static int why(struct outflow *o, struct err *e)
{
	const struct err said = *e;

	if (!outflow_broken(o, e))
		*e = said;
	return -1;
}

static void tx_failed(void *ctx, const struct err *e)
{
	fail(ctx, e);
}

/* ---- what comes back ---- */

static int on_batch(void *ctx, struct link *link, uint32_t stream, uint64_t number, const uint8_t *payload, size_t len,
		    struct err *e)
{
	(void)ctx, (void)link, (void)stream, (void)number, (void)payload, (void)len;
	return err_set(e, ERR_PROTOCOL, "a batch came from the side that keeps the replica");
}

static int on_ack(void *ctx, uint32_t stream, uint64_t number, struct err *e)
{
	struct outflow *o = ctx;

	return flow_tx_acked(o->tx, stream, number, e);
}

static int on_stream(void *ctx, const struct flow_stream_msg *m, struct err *e)
{
	(void)ctx;
	return err_set(e, ERR_PROTOCOL, "a STREAM frame (%u) in a replication", m->op);
}

static void on_end(void *ctx, const struct err *e)
{
	struct err gone = *e;

	if (!err_is_set(&gone))
		err_set(&gone, ERR_PEER, "the peer has ended the session");
	fail(ctx, &gone);
}

static void recycle(void *ctx, struct buf *payload)
{
	struct outflow *o = ctx;

	stock_put_buf(o->stock, payload);
}

/* ---- start and end ---- */

static int add_links(struct outflow *o, struct link **forward, size_t n_forward, struct link **backward,
		     size_t n_backward, struct err *e)
{
	int rc = 0;

	/* Those after one that failed have to go as well. */
	for (size_t i = 0; i < n_backward; i++) {
		if (rc == 0)
			rc = flow_rx_add_link(o->rx, backward[i], e);
		else
			link_free(backward[i]);
		backward[i] = NULL;
	}
	for (size_t i = 0; i < n_forward; i++) {
		if (rc == 0)
			rc = flow_tx_add_link(o->tx, forward[i], e);
		else
			link_free(forward[i]);
		forward[i] = NULL;
	}
	return rc;
}

struct outflow *outflow_new(const struct outflow_opts *opts, struct link **forward, size_t n_forward,
			    struct link **backward, size_t n_backward, struct err *e)
{
	struct outflow *o = mem_alloc(sizeof(*o));
	const struct flow_tx_opts to = {
		.rate_limit = opts->rate_limit, .on_error = tx_failed, .recycle = recycle, .ctx = o
	};
	const struct flow_rx_handler h = {
		.on_batch = on_batch, .on_ack = on_ack, .on_stream = on_stream, .on_end = on_end, .ctx = o
	};
	const unsigned workers = opts->pool ? pool_threads(opts->pool) : 1;

	o->opts = *opts;
	o->rate_limit = opts->rate_limit;
	o->floor = CODEC_RAW;
	o->max_encoding = workers + 1;
	pthread_mutex_init(&o->lock, NULL);
	pthread_mutex_init(&o->adapt_lock, NULL);
	thread_cond_init(&o->room);
	o->stock = stock_new();
	o->batch = stock_batch(o->stock);
	o->hash = XXH3_createState();
	assert(o->hash);
	XXH3_64bits_reset(o->hash);
	o->adapt = adapt_new(workers, opts->level);
	o->rx = flow_rx_new(&h, n_backward);
	o->tx = flow_tx_new(&to, e);
	flow_tx_add_stream(o->tx, OUTFLOW_STREAM, false);
	o->hint = flow_tx_batch_hint(o->tx, OUTFLOW_STREAM);
	const int linked = add_links(o, forward, n_forward, backward, n_backward, e);
	if (linked == 0 && opts->slots)
		o->cache = page_cache_new(opts->slots, e);
	if (linked < 0 || (opts->slots && !o->cache)) {
		outflow_free(o);
		return NULL;
	}
	return o;
}

void outflow_abort(struct outflow *o)
{
	atomic_store(&o->over, true);
	flow_tx_abort(o->tx);
	flow_rx_abort(o->rx);
}

void outflow_free(struct outflow *o)
{
	if (!o)
		return;
	outflow_abort(o);
	pthread_mutex_lock(&o->lock);
	o->freeing = true;
	while (o->encoding || o->ending)
		pthread_cond_wait(&o->room, &o->lock);
	pthread_mutex_unlock(&o->lock);
	/* Acknowledgements that still come go to the sender. */
	flow_rx_free(o->rx);
	flow_tx_free(o->tx);
	stock_put_batch(o->stock, o->batch);
	stock_free(o->stock);
	page_cache_free(o->cache);
	adapt_free(o->adapt);
	XXH3_freeState(o->hash);
	pthread_cond_destroy(&o->room);
	pthread_mutex_destroy(&o->adapt_lock);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

/* ---- encoding ---- */

struct job {
	struct outflow *o;
	struct batch *batch;
	bool pages;
	uint64_t number;
};

static void add_codec_stats(struct codec_stats *to, const struct codec_stats *one)
{
	to->raw_bytes += one->raw_bytes;
	to->encoded_bytes += one->encoded_bytes;
	to->zero_pages += one->zero_pages;
	to->same_pages += one->same_pages;
	to->delta_pages += one->delta_pages;
	to->plain_pages += one->plain_pages;
	to->literal_bytes += one->literal_bytes;
	to->delta_in_bytes += one->delta_in_bytes;
	to->delta_out_bytes += one->delta_out_bytes;
	to->plain_in_bytes += one->plain_in_bytes;
	to->plain_out_bytes += one->plain_out_bytes;
}

static void note_encoded(struct outflow *o, bool pages, const struct codec_params *params,
			 const struct codec_stats *one, int64_t cpu_ns, int64_t wall_ns)
{
	struct adapt_sample sample = adapt_sample_of(params, one);
	struct flow_stats fs;
	const int64_t now = clock_mono_ns();

	sample.cpu_ns = cpu_ns;
	sample.wall_ns = wall_ns;
	THREAD_LOCKED(&o->adapt_lock);
	add_codec_stats(&o->codec, one);
	if (pages) /* what they cost is what is learned */
		adapt_encoded(o->adapt, &sample);
	if (now - o->tick_ns < TICK_NS)
		return;
	flow_tx_stats(o->tx, &fs);
	const double busy = (double)(fs.network_busy_ns - o->tick_busy_ns) / (double)(now - o->tick_ns);
	o->tick_ns = now;
	o->tick_busy_ns = fs.network_busy_ns;
	adapt_tick(o->adapt, &(struct adapt_now){ .now_ns = now,
						  .wire_bytes = fs.wire_bytes,
						  .rate_limit = o->rate_limit,
						  .link_busy = fs.paced || busy > 1 ? 1 : busy });
}

static void choose(struct outflow *o, bool pages, struct codec_params *params)
{
	THREAD_LOCKED(&o->adapt_lock);
	adapt_params(o->adapt, params);
	/* Devices' state and definitions: a hundredth is left of them, however wide the link is. */
	if (!pages && params->plain_level == CODEC_RAW && o->opts.level != CODEC_RAW)
		params->plain_level = 1;
	if (params->plain_level < o->floor)
		params->plain_level = o->floor;
	if (params->delta_level < o->floor)
		params->delta_level = o->floor;
}

static struct buf encode(struct outflow *o, const struct batch *b, bool pages)
{
	struct codec_params params;
	struct codec_stats one = { 0 };
	struct codec *c = stock_codec(o->stock);
	struct buf out = stock_buf(o->stock, batch_raw_bytes(b) + (CODEC_MAX_ENCODED - CODEC_MAX_RAW));

	choose(o, pages, &params);
	const int64_t wall = clock_mono_ns(), cpu = clock_thread_cpu_ns();
	codec_encode(c, b, &params, &out, &one);
	note_encoded(o, pages, &params, &one, clock_thread_cpu_ns() - cpu, clock_mono_ns() - wall);
	stock_put_codec(o->stock, c);
	stock_fit_buf(o->stock, &out);
	return out;
}

static void encode_and_send(const struct job *job)
{
	struct outflow *o = job->o;
	struct err e = ERR_INIT;

	if (atomic_load(&o->over)) {
		/* dropped */
	} else if (fault_point(FAULT_REPLICA_SHIP, &e) < 0) {
		fail(o, &e);
	} else {
		struct buf out = encode(o, job->batch, job->pages);
		/* Fails only when the session is over, which whoever ended it has said. */
		flow_tx_batch(o->tx, OUTFLOW_STREAM, job->number, &out, &e);
	}
	stock_put_batch(o->stock, job->batch);
}

static void encode_in_pool(void *arg)
{
	struct job *job = arg;
	struct outflow *o = job->o;

	encode_and_send(job);
	free(job);
	THREAD_LOCKED(&o->lock);
	o->encoding--;
	pthread_cond_broadcast(&o->room);
}

static void submit(struct outflow *o, const struct job *job, size_t raw)
{
	if (raw <= INLINE_BYTES || !o->opts.pool) {
		encode_and_send(job);
		return;
	}
	{
		THREAD_LOCKED(&o->lock);
		while (o->encoding >= o->max_encoding)
			thread_cond_wait_until(&o->room, &o->lock, INT64_MAX);
		o->encoding++;
	}
	struct job *own = mem_alloc(sizeof(*own));
	*own = *job;
	pool_submit(o->opts.pool, encode_in_pool, own);
}

/* ---- writing ---- */

static void hash_batch(struct outflow *o)
{
	const size_t raw = batch_raw_bytes(o->batch);

	XXH3_64bits_update(o->hash, batch_tail(o->batch) - raw + o->hashed, raw - o->hashed);
	o->hashed = raw;
}

void outflow_hash_start(struct outflow *o)
{
	XXH3_64bits_reset(o->hash);
	o->hashed = batch_raw_bytes(o->batch);
}

uint64_t outflow_hash(struct outflow *o)
{
	hash_batch(o);
	return XXH3_64bits_digest(o->hash);
}

int outflow_flush(struct outflow *o, struct err *e)
{
	const size_t raw = batch_raw_bytes(o->batch);
	struct job job = { .o = o, .batch = o->batch, .pages = o->pages };

	if (raw == 0)
		return 0;
	hash_batch(o);
	if (flow_tx_reserve(o->tx, OUTFLOW_STREAM, raw, &job.number, e) < 0)
		return why(o, e);
	o->batch = stock_batch(o->stock);
	o->hashed = 0;
	o->pages = false;
	submit(o, &job, raw);
	o->hint = flow_tx_batch_hint(o->tx, OUTFLOW_STREAM);
	return 0;
}

/* Room for n more bytes in the batch, which goes out if it is full enough. */
static int make_room(struct outflow *o, size_t n, struct err *e)
{
	if (batch_room(o->batch) >= n && batch_raw_bytes(o->batch) < o->hint)
		return 0;
	return outflow_flush(o, e);
}

static void count(struct outflow *o, size_t n)
{
	atomic_fetch_add_explicit(&o->raw_bytes, n, memory_order_relaxed);
}

int outflow_literal(struct outflow *o, const void *p, size_t n, struct err *e)
{
	const uint8_t *at = p;

	if (n > INLINE_BYTES && o->pages && outflow_flush(o, e) < 0)
		return -1;
	while (n > 0) {
		if (make_room(o, 1, e) < 0)
			return -1;
		const size_t room = batch_room(o->batch), part = n < room ? n : room;
		batch_literal(o->batch, at, part);
		count(o, part);
		at += part;
		n -= part;
	}
	return 0;
}

int outflow_page(struct outflow *o, uint64_t page_no, uint64_t addr, const uint8_t *data, struct err *e)
{
	if (make_room(o, PAGE_RAW, e) < 0)
		return -1;
	o->pages = true;
	batch_page(o->batch, page_no, addr, true, data, o->cache);
	count(o, PAGE_RAW);
	return 0;
}

int outflow_zero(struct outflow *o, uint64_t page_no, uint64_t addr, struct err *e)
{
	if (make_room(o, ZERO_RAW, e) < 0)
		return -1;
	o->pages = true;
	batch_zero(o->batch, page_no, addr, o->cache);
	count(o, ZERO_RAW);
	return 0;
}

/* ---- looking and turning ---- */

void outflow_set_rate_limit(struct outflow *o, uint64_t bytes_per_s)
{
	flow_tx_set_rate_limit(o->tx, bytes_per_s);
	THREAD_LOCKED(&o->adapt_lock);
	o->rate_limit = bytes_per_s;
}

void outflow_set_floor(struct outflow *o, int level)
{
	THREAD_LOCKED(&o->adapt_lock);
	o->floor = level;
}

void outflow_stats(struct outflow *o, struct outflow_stats *out)
{
	struct flow_stats fs;

	flow_tx_stats(o->tx, &fs);
	THREAD_LOCKED(&o->adapt_lock);
	*out = (struct outflow_stats){ .raw_bytes = atomic_load(&o->raw_bytes),
				       .wire_bytes = fs.wire_bytes,
				       .rate = fs.rate,
				       .rtt_ns = fs.rtt_ns,
				       .level = adapt_level(o->adapt),
				       .codec = o->codec };
}
