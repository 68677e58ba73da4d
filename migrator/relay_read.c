/*
 * A connection's reader. It receives straight into a batch, has the QEMU stream's pages recognised there, and gives full
 * batches to the encoders. When the socket is empty it decides whether to wait for more: latency against the cost of small batches.
 */
#include "migrator/relay_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "snapshot/qemu_stream.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* The longest unit qemu_stream leaves over, and a bit. */
#define UNIT_MAX 4500u
/* How long the first byte of a batch waits for company: while QEMU iterates over RAM, and otherwise if an earlier batch is
 * still being encoded. */
#define LINGER_RAM_NS (3 * NS_PER_MS / 2)
#define LINGER_BUSY_NS NS_PER_MS
/* A page record of which only a part came within this time is no page record: the stream is not what it seems. */
#define PARTIAL_NS (2 * NS_PER_S)
#define TICK_NS (20 * NS_PER_MS)
#define PAGE_BLOCK_SHIFT 40

struct reader {
	struct relay_stream *s;
	struct relay *r;
	int fd;
	struct batch *b;
	size_t have;      /* bytes received behind what is in the batch: not understood yet */
	int64_t since_ns; /* when the first byte of b came */
	size_t hint;
	struct qemu_stream *q; /* NULL: bytes */
	struct page_cache *cache;
	bool passthrough, ram_over;
	bool refused; /* the batch took no more */
};

/* ---- QEMU stream -> batch ---- */

static bool takes(struct reader *rd, size_t n)
{
	rd->refused = batch_room(rd->b) < n;
	return !rd->refused;
}

static int sink_literal(void *ctx, const uint8_t *p, size_t n)
{
	struct reader *rd = ctx;

	if (!takes(rd, n))
		return -1;
	batch_literal(rd->b, p, n);
	return 0;
}

static int sink_page(void *ctx, uint32_t block, uint64_t addr, bool cont, const uint8_t *data)
{
	struct reader *rd = ctx;

	if (!takes(rd, cont ? CODEC_PAGE_SIZE + 8 : CODEC_PAGE_SIZE))
		return -1;
	batch_page(rd->b, (uint64_t)block << PAGE_BLOCK_SHIFT | addr / CODEC_PAGE_SIZE, addr, cont, data, rd->cache);
	return 0;
}

static int sink_zero(void *ctx, uint32_t block, uint64_t addr)
{
	struct reader *rd = ctx;

	if (!takes(rd, 9))
		return -1;
	batch_zero(rd->b, (uint64_t)block << PAGE_BLOCK_SHIFT | addr / CODEC_PAGE_SIZE, addr, rd->cache);
	return 0;
}

static void sink_ram_end(void *ctx)
{
	struct reader *rd = ctx;

	rd->ram_over = true;
	if (rd->r->opts.on_ram_end)
		rd->r->opts.on_ram_end(rd->r->opts.ctx);
}

static void say_passthrough(struct reader *rd, const char *why)
{
	rd->passthrough = true;
	if (rd->s->owns_pages) {
		THREAD_LOCKED(&rd->r->lock);
		if (!rd->r->passthrough[0])
			snprintf(rd->r->passthrough, sizeof(rd->r->passthrough), "%s", why);
	}
	log_info("relay_passthrough", "stream=%u reason=%s", rd->s->id, LOG_Q(why));
}

/* ---- batch -> flow ---- */

struct encode_job {
	struct relay_stream *stream;
	struct batch *batch;
	uint64_t number;
};

static void note_encoded(struct relay *r, const struct codec_params *params, const struct codec_stats *one,
			 int64_t cpu_ns, int64_t wall_ns)
{
	struct adapt_sample sample = adapt_sample_of(params, one);
	struct flow_stats fs;

	sample.cpu_ns = cpu_ns;
	sample.wall_ns = wall_ns;
	THREAD_LOCKED(&r->adapt_lock);
	r->codec.raw_bytes += one->raw_bytes;
	r->codec.encoded_bytes += one->encoded_bytes;
	r->codec.zero_pages += one->zero_pages;
	r->codec.same_pages += one->same_pages;
	r->codec.delta_pages += one->delta_pages;
	r->codec.plain_pages += one->plain_pages;
	r->codec.literal_bytes += one->literal_bytes;
	r->codec.delta_in_bytes += one->delta_in_bytes;
	r->codec.delta_out_bytes += one->delta_out_bytes;
	r->codec.plain_in_bytes += one->plain_in_bytes;
	r->codec.plain_out_bytes += one->plain_out_bytes;
	adapt_encoded(r->adapt, &sample);
	const int64_t now = clock_mono_ns();
	if (now - r->tick_ns < TICK_NS)
		return;
	flow_tx_stats(r->tx, &fs);
	const double busy = (double)(fs.network_busy_ns - r->tick_busy_ns) / (double)(now - r->tick_ns);
	const int64_t waited = atomic_load(&r->supply_wait_ns);
	const double wait = (double)(waited - r->tick_wait_ns) / (double)(now - r->tick_ns);
	r->tick_ns = now;
	r->tick_busy_ns = fs.network_busy_ns;
	r->tick_wait_ns = waited;
	adapt_tick(r->adapt, &(struct adapt_now){ .now_ns = now,
						  .wire_bytes = fs.wire_bytes,
						  .rate_limit = atomic_load(&r->rate_limit),
						  .link_busy = fs.paced || busy > 1 ? 1 : busy,
						  .supply_wait = wait > 1 ? 1 : wait });
}

static struct buf encode(struct relay *r, const struct batch *b)
{
	struct codec_params params;
	struct codec_stats one = { 0 };
	struct codec *c = stock_codec(r->stock);
	const size_t most = batch_raw_bytes(b) + (CODEC_MAX_ENCODED - CODEC_MAX_RAW);
	struct buf out = stock_buf(r->stock, most);

	{
		THREAD_LOCKED(&r->adapt_lock);
		adapt_params(r->adapt, &params);
	}
	const int64_t wall = clock_mono_ns(), cpu = clock_thread_cpu_ns();
	codec_encode(c, b, &params, &out, &one);
	note_encoded(r, &params, &one, clock_thread_cpu_ns() - cpu, clock_mono_ns() - wall);
	stock_put_codec(r->stock, c);
	stock_fit_buf(r->stock, &out);
	return out;
}

static void encode_and_send(const struct encode_job *job)
{
	struct relay *r = job->stream->relay;
	struct err e = ERR_INIT;

	if (atomic_load(&r->over)) {
		/* dropped */
	} else if (fault_point(FAULT_RELAY_ENCODE, &e) < 0) {
		relay_fail(r, &e);
	} else {
		struct buf out = encode(r, job->batch);
		/* Fails only when the session is over, which has been said by whoever ended it. */
		flow_tx_batch(r->tx, job->stream->id, job->number, &out, &e);
	}
	stock_put_batch(r->stock, job->batch);
	atomic_fetch_sub(&job->stream->encoding, 1);
}

static void encode_in_pool(void *arg)
{
	struct encode_job *job = arg;
	struct relay *r = job->stream->relay;

	encode_and_send(job);
	free(job);
	THREAD_LOCKED(&r->encode_lock);
	r->encoding--;
	pthread_cond_signal(&r->encode_room);
}

static void submit(struct reader *rd, const struct encode_job *job, size_t raw)
{
	struct relay *r = rd->r;

	atomic_fetch_add(&rd->s->encoding, 1);
	if (raw <= RELAY_INLINE_BYTES) {
		encode_and_send(job);
		return;
	}
	{
		THREAD_LOCKED(&r->encode_lock);
		while (r->encoding >= r->max_encoding)
			thread_cond_wait_until(&r->encode_room, &r->encode_lock, INT64_MAX);
		r->encoding++;
	}
	struct encode_job *own = mem_alloc(sizeof(*own));
	*own = *job;
	pool_submit(r->pool, encode_in_pool, own);
}

/* For the next batch. Where bytes are not worth being compressed, they are not worth the time to remember them either. */
static void prepare(struct reader *rd)
{
	struct relay *r = rd->r;

	rd->hint = flow_tx_batch_hint(r->tx, rd->s->id);
	if (!rd->cache)
		return;
	THREAD_LOCKED(&r->adapt_lock);
	page_cache_keep_first(rd->cache, adapt_level(r->adapt) != CODEC_RAW);
}

/* Gives the batch away; what is behind it moves to a new one. -1: the session or the stream is over. */
static int flush(struct reader *rd)
{
	const size_t raw = batch_raw_bytes(rd->b);
	struct encode_job job = { .stream = rd->s, .batch = rd->b };
	struct err e = ERR_INIT;

	if (raw == 0)
		return 0;
	if (flow_tx_reserve(rd->r->tx, rd->s->id, raw, &job.number, &e) < 0)
		return -1;
	{
		THREAD_LOCKED(&rd->s->lock);
		rd->s->tx_number = job.number + 1;
	}
	rd->b = stock_batch(rd->r->stock);
	if (rd->have)
		memcpy(batch_tail(rd->b), batch_tail(job.batch), rd->have);
	rd->since_ns = clock_mono_ns();
	submit(rd, &job, raw);
	prepare(rd);
	return 0;
}

/* ---- socket -> batch ---- */

/* Everything received so far, as bytes. */
static void take_bytes(struct reader *rd)
{
	batch_literal(rd->b, batch_tail(rd->b), rd->have);
	rd->have = 0;
}

static void understand(struct reader *rd)
{
	const char *why;

	rd->refused = false;
	if (!rd->q) {
		if (takes(rd, rd->have))
			take_bytes(rd);
		return;
	}
	rd->have -= qemu_stream_feed(rd->q, batch_tail(rd->b), rd->have);
	if (!rd->passthrough && qemu_stream_passthrough(rd->q, &why))
		say_passthrough(rd, why);
}

static int process(struct reader *rd)
{
	do {
		understand(rd);
		if ((rd->refused || batch_raw_bytes(rd->b) + rd->have >= rd->hint) && flush(rd) < 0)
			return -1;
	} while (rd->refused);
	return 0;
}

/* Polls until there is something to read or the deadline; false at the deadline. */
static bool readable_before(struct reader *rd, int64_t deadline_ns)
{
	struct pollfd p = { .fd = rd->fd, .events = POLLIN };
	struct timespec ts = { 0 };

	if (deadline_ns != INT64_MAX) {
		const int64_t left = deadline_ns - clock_mono_ns();
		if (left > 0)
			ts = (struct timespec){ .tv_sec = left / NS_PER_S, .tv_nsec = left % NS_PER_S };
	}
	const int64_t start = clock_mono_ns();
	const bool readable = ppoll(&p, 1, deadline_ns == INT64_MAX ? NULL : &ts, NULL) != 0;
	if (rd->s->owns_pages)
		atomic_fetch_add(&rd->r->supply_wait_ns, clock_mono_ns() - start);
	return readable;
}

static int64_t linger(const struct reader *rd)
{
	if (rd->q && !rd->passthrough)
		return LINGER_RAM_NS;
	/* Device state, RPC, post-copy pages: somebody waits for them. Only if they would queue up behind an earlier batch
	 * they may as well travel together. */
	if (rd->ram_over || rd->s->kind == RELAY_LIBVIRT || atomic_load(&rd->s->encoding) == 0)
		return 0;
	return LINGER_BUSY_NS;
}

/* The socket is empty. */
static int idle(struct reader *rd)
{
	if (batch_raw_bytes(rd->b) > 0) {
		if (readable_before(rd, rd->since_ns + linger(rd)))
			return 0;
		return flush(rd);
	}
	if (rd->have == 0) {
		readable_before(rd, INT64_MAX);
		return 0;
	}
	if (!readable_before(rd, clock_mono_ns() + PARTIAL_NS)) {
		qemu_stream_free(rd->q);
		rd->q = NULL;
		say_passthrough(rd, "a record that does not end");
		take_bytes(rd);
	}
	return 0;
}

/* Reads until the end: 0 for an orderly one, 1 if the local end is gone or broken (why), -1 if nobody wants more. */
static int read_all(struct reader *rd, char *why, size_t size)
{
	struct err e = ERR_INIT;

	while (!atomic_load(&rd->s->stop_reading)) {
		const size_t got = batch_raw_bytes(rd->b) + rd->have;
		const ssize_t n = recv(rd->fd, batch_tail(rd->b) + rd->have, rd->hint + UNIT_MAX - got, MSG_DONTWAIT);
		if (n > 0) {
			if (fault_point(FAULT_RELAY_READ, &e) < 0) {
				snprintf(why, size, "%.199s", e.text);
				return 1;
			}
			if (got == 0)
				rd->since_ns = clock_mono_ns();
			rd->have += (size_t)n;
			atomic_fetch_add_explicit(&rd->r->bytes[rd->s->kind], (uint64_t)n, memory_order_relaxed);
			if (process(rd) < 0)
				return -1;
		} else if (n == 0) {
			break;
		} else if (errno == EAGAIN) {
			if (idle(rd) < 0)
				return -1;
		} else if (errno != EINTR) {
			char text[100];
			snprintf(why, size, "read: %s", strerror_r(errno, text, sizeof(text)));
			return 1;
		}
	}
	return atomic_load(&rd->s->stop_reading) ? -1 : 0;
}

/* What is left goes out, then END, or RESET if the local end is gone altogether. */
static void end(struct reader *rd, int rc, char *why, size_t size)
{
	struct relay_stream *s = rd->s;
	struct flow_stream_msg m = { .op = FLOW_END, .stream = s->id };

	if (rc >= 0) {
		if (!takes(rd, rd->have))
			rc = flush(rd);
		if (rc >= 0) {
			take_bytes(rd);
			if (flush(rd) < 0)
				rc = -1;
		}
	}
	{
		THREAD_LOCKED(&s->lock);
		if (rc == 0 && s->write_failed) {
			snprintf(why, size, "the local connection was closed");
			rc = 1;
		}
		m.number = s->tx_number;
		if (rc <= 0)
			s->tx_ended = true;
	}
	if (rc == 0)
		flow_tx_stream(rd->r->tx, &m);
	else if (rc == 1)
		relay_open_reset(s, why);
}

void relay_read_run(struct relay_stream *s)
{
	const struct qemu_stream_sink sink = {
		.literal = sink_literal, .page = sink_page, .zero = sink_zero, .ram_end = sink_ram_end
	};
	struct reader rd = { .s = s, .r = s->relay };
	struct qemu_stream_sink own = sink;
	struct err e = ERR_INIT;
	char why[200] = "";
	int rc = 0;

	{
		THREAD_LOCKED(&s->lock);
		rd.fd = s->fd;
	}
	if (rd.r->source && s->kind == RELAY_MIGRATION) {
		own.ctx = &rd;
		rd.q = qemu_stream_new(&own);
		if (s->owns_pages && rd.r->opts.slots > 0 && !(rd.cache = page_cache_new(rd.r->opts.slots, &e))) {
			relay_fail(rd.r, &e);
			rc = -1;
		}
	}
	rd.b = stock_batch(rd.r->stock);
	prepare(&rd);
	if (rc == 0)
		rc = read_all(&rd, why, sizeof(why));
	end(&rd, rc, why, sizeof(why));
	stock_put_batch(rd.r->stock, rd.b);
	qemu_stream_free(rd.q);
	page_cache_free(rd.cache);
}
