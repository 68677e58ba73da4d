#include "replicator/inflow.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/outflow.h"
#include "transport/flow.h"
#include "transport/page_cache.h"
#include "transport/stock.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Batches that are decoded ahead of the one that is due; the others wait as they came. */
#define DECODE_AHEAD 16u
/* What may wait here in encoded form; an honest peer stays below FLOW_MAX_RAW. */
#define MAX_PENDING (FLOW_MAX_RAW + FLOW_MAX_RAW / 2)
#define SMALL_BYTES 16384u
/* An acknowledgement goes out for so many bytes at once, for fewer after a moment. */
#define ACK_BYTES (256u * 1024u)
#define ACK_DELAY_NS NS_PER_MS

enum item_state { ITEM_WAITING, ITEM_DECODING, ITEM_READY };

struct item {
	struct inflow *in;
	uint64_t number;
	enum item_state state; /* lock */
	struct buf frame;      /* the batch from `at` on; decoded refers to it */
	size_t at;
	struct decoded *decoded;
};

struct inflow {
	/* fixed */
	struct inflow_opts opts;
	struct flow_tx *tx;
	struct flow_rx *rx;
	struct stock *stock;
	pthread_t thread;
	bool started;

	/* the thread's */
	struct page_slots *slots;
	uint64_t unacked;
	int64_t ack_due_ns;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	bool over, said;
	bool freeing;   /* nobody may touch tx and rx any more, but inflow_free */
	unsigned ending; /* threads that do */
	uint64_t next;    /* to be delivered */
	size_t pending;   /* bytes in items */
	unsigned decoding; /* in the pool's hands */
	struct item *items[FLOW_MAX_BATCHES];
};

/* ---- the end ---- */

static void end(struct inflow *in, const struct err *why)
{
	bool say = false;
	{
		THREAD_LOCKED(&in->lock);
		say = why && !in->said && !in->over;
		in->said |= say;
		in->over = true;
		pthread_cond_broadcast(&in->changed);
		if (in->freeing)
			return;
		in->ending++;
	}
	if (say && in->opts.on_error)
		in->opts.on_error(in->opts.ctx, why);
	flow_tx_abort(in->tx);
	flow_rx_abort(in->rx);
	THREAD_LOCKED(&in->lock);
	in->ending--;
	pthread_cond_broadcast(&in->changed);
}

static void tx_failed(void *ctx, const struct err *e)
{
	end(ctx, e);
}

static void on_end(void *ctx, const struct err *e)
{
	struct err gone = *e;

	if (!err_is_set(&gone))
		err_set(&gone, ERR_PEER, "the peer has ended the session");
	end(ctx, &gone);
}

void inflow_abort(struct inflow *in)
{
	end(in, NULL);
}

/* ---- decoding ---- */

static struct item **place(struct inflow *in, uint64_t number)
{
	return &in->items[number % FLOW_MAX_BATCHES];
}

static void item_free(struct item *it)
{
	stock_put_buf(it->in->stock, &it->frame);
	if (it->decoded)
		stock_put_decoded(it->in->stock, it->decoded);
	free(it);
}

static int decode(struct item *it, struct err *e)
{
	struct inflow *in = it->in;
	struct codec *c = stock_codec(in->stock);

	it->decoded = stock_decoded(in->stock);
	const int rc = codec_decode(c, it->frame.data + it->at, it->frame.len - it->at, it->decoded, e);
	stock_put_codec(in->stock, c);
	if (rc < 0)
		err_wrap(e, "batch %llu", (unsigned long long)it->number);
	return rc;
}

static void decode_in_pool(void *arg)
{
	struct item *it = arg;
	struct inflow *in = it->in;
	struct err e = ERR_INIT;

	if (decode(it, &e) < 0)
		end(in, &e);
	THREAD_LOCKED(&in->lock);
	it->state = ITEM_READY;
	in->decoding--;
	pthread_cond_broadcast(&in->changed);
}

/* lock is held: should this item now be given to the pool? */
static bool due_locked(struct inflow *in, struct item *it)
{
	if (!it || it->state != ITEM_WAITING || it->number - in->next >= DECODE_AHEAD)
		return false;
	if (!in->opts.pool) {
		it->state = ITEM_READY; /* decoded when it is delivered */
		return false;
	}
	it->state = ITEM_DECODING;
	in->decoding++;
	return true;
}

/* ---- what comes in; from the links' threads ---- */

static void take_payload(struct item *it, struct link *link, const uint8_t *payload, size_t len)
{
	struct stock *stock = it->in->stock;

	if (len <= SMALL_BYTES) {
		it->frame = stock_buf(stock, len);
		buf_append(&it->frame, payload, len);
		return;
	}
	it->frame = stock_buf(stock, FRAME_MAX_BATCH);
	link_take_payload(link, &it->frame);
	it->at = FLOW_BATCH_HEAD;
}

static int insert(struct inflow *in, struct item *it, size_t len, bool *due, struct err *e)
{
	const unsigned long long n = it->number;

	THREAD_LOCKED(&in->lock);
	if (in->over)
		return err_set(e, ERR_CANCELLED, "the session has ended");
	if (it->number < in->next || (it->number - in->next < FLOW_MAX_BATCHES && *place(in, it->number)))
		return err_set(e, ERR_PROTOCOL, "batch %llu came twice", n);
	if (it->number - in->next >= FLOW_MAX_BATCHES)
		return err_set(e, ERR_PROTOCOL, "batch %llu is beyond the window", n);
	if (in->pending + len > MAX_PENDING)
		return err_set(e, ERR_PROTOCOL, "the peer has sent more than the window allows");
	in->pending += len;
	*place(in, it->number) = it;
	*due = due_locked(in, it);
	if (it->number == in->next)
		pthread_cond_broadcast(&in->changed);
	return 0;
}

static int on_batch(void *ctx, struct link *link, uint32_t stream, uint64_t number, const uint8_t *payload, size_t len,
		    struct err *e)
{
	struct inflow *in = ctx;
	bool due = false;

	if (stream != OUTFLOW_STREAM || len > CODEC_MAX_ENCODED)
		return err_set(e, ERR_PROTOCOL, "a batch of %zu bytes for stream %u", len, stream);
	struct item *it = mem_alloc(sizeof(*it));
	it->in = in;
	it->number = number;
	take_payload(it, link, payload, len);
	if (insert(in, it, it->frame.len - it->at, &due, e) < 0) {
		item_free(it);
		return -1;
	}
	if (due)
		pool_submit(in->opts.pool, decode_in_pool, it);
	return 0;
}

static int on_ack(void *ctx, uint32_t stream, uint64_t number, struct err *e)
{
	(void)ctx, (void)stream, (void)number;
	return err_set(e, ERR_PROTOCOL, "an acknowledgement of what was not sent");
}

static int on_stream(void *ctx, const struct flow_stream_msg *m, struct err *e)
{
	(void)ctx;
	return err_set(e, ERR_PROTOCOL, "a STREAM frame (%u) in a replication", m->op);
}

/* ---- in order ---- */

static void ack(struct inflow *in, uint64_t number)
{
	if (in->unacked == 0)
		return;
	in->unacked = 0;
	in->ack_due_ns = INT64_MAX;
	flow_tx_ack(in->tx, OUTFLOW_STREAM, number);
}

/* The next batch, out of its place; NULL at the end. */
static struct item *next_item(struct inflow *in)
{
	struct item *it, *due;

	{
		THREAD_LOCKED(&in->lock);
		for (;;) {
			if (in->over)
				return NULL;
			it = *place(in, in->next);
			if (it && it->state == ITEM_READY)
				break;
			if (thread_cond_wait_until(&in->changed, &in->lock, in->ack_due_ns) < 0)
				ack(in, in->next);
		}
		*place(in, in->next) = NULL;
		in->next++;
		in->pending -= it->frame.len - it->at;
		due = *place(in, in->next + DECODE_AHEAD - 1);
		if (!due_locked(in, due))
			due = NULL;
	}
	if (due)
		pool_submit(in->opts.pool, decode_in_pool, due);
	return it;
}

static int deliver(struct inflow *in, struct item *it, struct buf *out, struct err *e)
{
	if (!it->decoded && decode(it, e) < 0)
		return -1;
	if (decoded_emit(it->decoded, in->slots, out, e) < 0)
		return err_wrap(e, "batch %llu", (unsigned long long)it->number);
	if (in->unacked == 0)
		in->ack_due_ns = clock_mono_ns() + ACK_DELAY_NS;
	in->unacked += out->len + 1;
	return in->opts.bytes(in->opts.ctx, out->data, out->len, e);
}

static void *run(void *arg)
{
	struct inflow *in = arg;
	struct err e = ERR_INIT;
	struct buf out = stock_buf(in->stock, CODEC_MAX_ENCODED);
	struct item *it;

	while ((it = next_item(in)) != NULL) {
		const uint64_t number = it->number;
		const int rc = deliver(in, it, &out, &e);
		item_free(it);
		if (rc < 0) {
			end(in, &e);
			break;
		}
		if (in->unacked >= ACK_BYTES)
			ack(in, number + 1);
	}
	stock_put_buf(in->stock, &out);
	return NULL;
}

/* ---- start and end ---- */

static int start(struct inflow *in, struct link **forward, size_t n_forward, struct link **backward, size_t n_backward,
		 struct err *e)
{
	int rc = 0;

	if (in->opts.slots && !(in->slots = page_slots_new(in->opts.slots, e)))
		rc = -1;
	if (rc == 0 && (rc = thread_start(&in->thread, "replica-in", run, in, e)) == 0)
		in->started = true;
	for (size_t i = 0; i < n_backward; i++) {
		if (rc == 0)
			rc = flow_tx_add_link(in->tx, backward[i], e);
		else
			link_free(backward[i]);
		backward[i] = NULL;
	}
	for (size_t i = 0; i < n_forward; i++) {
		if (rc == 0)
			rc = flow_rx_add_link(in->rx, forward[i], e);
		else
			link_free(forward[i]);
		forward[i] = NULL;
	}
	return rc;
}

struct inflow *inflow_new(const struct inflow_opts *opts, struct link **forward, size_t n_forward, struct link **backward,
			  size_t n_backward, struct err *e)
{
	struct inflow *in = mem_alloc(sizeof(*in));
	const struct flow_tx_opts to = { .on_error = tx_failed, .ctx = in };
	const struct flow_rx_handler h = {
		.on_batch = on_batch, .on_ack = on_ack, .on_stream = on_stream, .on_end = on_end, .ctx = in
	};

	in->opts = *opts;
	in->ack_due_ns = INT64_MAX;
	pthread_mutex_init(&in->lock, NULL);
	thread_cond_init(&in->changed);
	in->stock = stock_new();
	in->tx = flow_tx_new(&to, e);
	flow_tx_add_stream(in->tx, OUTFLOW_STREAM, false);
	in->rx = flow_rx_new(&h, n_forward);
	if (start(in, forward, n_forward, backward, n_backward, e) < 0) {
		inflow_free(in);
		return NULL;
	}
	return in;
}

void inflow_free(struct inflow *in)
{
	if (!in)
		return;
	inflow_abort(in);
	if (in->started)
		pthread_join(in->thread, NULL);
	pthread_mutex_lock(&in->lock);
	in->freeing = true;
	while (in->decoding || in->ending)
		pthread_cond_wait(&in->changed, &in->lock);
	pthread_mutex_unlock(&in->lock);
	flow_rx_free(in->rx);
	for (size_t i = 0; i < FLOW_MAX_BATCHES; i++)
		if (in->items[i])
			item_free(in->items[i]);
	flow_tx_free(in->tx);
	page_slots_free(in->slots);
	stock_free(in->stock);
	pthread_cond_destroy(&in->changed);
	pthread_mutex_destroy(&in->lock);
	free(in);
}

uint64_t inflow_wire_bytes(struct inflow *in)
{
	return flow_rx_wire_bytes(in->rx);
}
