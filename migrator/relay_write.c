/*
 * A connection's writer: batches come in any order from the links' threads, are decoded in the pool, and leave in order for the local
 * socket. Acknowledged is what the socket took.
 */
#include "migrator/relay_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* An acknowledgement goes out for so many bytes at once, for fewer after a moment. */
#define ACK_BYTES (64u * 1024u)
#define ACK_DELAY_NS NS_PER_MS

static struct item **place(struct relay_stream *s, uint64_t number)
{
	return &s->items[number % FLOW_MAX_BATCHES];
}

static void item_free(struct item *it)
{
	struct relay *r = it->stream->relay;

	atomic_fetch_sub(&r->pending, it->frame.len - it->at);
	stock_put_buf(r->stock, &it->frame);
	if (it->decoded)
		stock_put_decoded(r->stock, it->decoded);
	free(it);
}

/* ---- decoding ---- */

static void decode(void *arg)
{
	struct item *it = arg;
	struct relay_stream *s = it->stream;
	struct relay *r = s->relay;
	struct err e = ERR_INIT;
	int rc = 0;

	if (!atomic_load(&r->over)) {
		struct codec *c = stock_codec(r->stock);
		it->decoded = stock_decoded(r->stock);
		rc = fault_point(FAULT_RELAY_DECODE, &e) < 0
			     ? -1
			     : codec_decode(c, it->frame.data + it->at, it->frame.len - it->at, it->decoded, &e);
		stock_put_codec(r->stock, c);
	}
	if (rc < 0) {
		err_wrap(&e, "batch %llu of stream %u", (unsigned long long)it->number, s->id);
		relay_fail(r, &e);
	}
	THREAD_LOCKED(&s->lock);
	it->state = ITEM_READY;
	if (it->number == s->next)
		pthread_cond_signal(&s->changed);
}

static void start_decode(struct item *it, size_t len)
{
	if (len <= RELAY_INLINE_BYTES)
		decode(it);
	else
		pool_submit(it->stream->relay->pool, decode, it);
}

/* ---- what comes in; from the links' threads ---- */

/* May this batch come? stream.lock is held. */
static int check_number_locked(struct relay_stream *s, uint64_t number, struct err *e)
{
	const unsigned long long n = number;

	if (number < s->next || *place(s, number))
		return err_set(e, ERR_PROTOCOL, "batch %llu of stream %u came twice", n, s->id);
	if (s->end_known && number >= s->end_number)
		return err_set(e, ERR_PROTOCOL, "batch %llu of stream %u comes after the end", n, s->id);
	return 0;
}

/* Into its place. stream.lock is held. */
static void insert_locked(struct relay_stream *s, struct item *it)
{
	it->state = it->number - s->next < RELAY_DECODE_AHEAD ? ITEM_DECODING : ITEM_WAITING;
	*place(s, it->number) = it;
	s->received++;
	if (it->number >= s->came)
		s->came = it->number + 1;
}

/* Large ones change hands, for small ones a copy costs less than the memory that would wait with them. */
static void take_payload(struct item *it, struct link *link, const uint8_t *payload, size_t len)
{
	struct stock *stock = it->stream->relay->stock;

	if (len <= RELAY_INLINE_BYTES) {
		it->frame = stock_buf(stock, len);
		buf_append(&it->frame, payload, len);
		return;
	}
	it->frame = stock_buf(stock, FRAME_MAX_BATCH);
	link_take_payload(link, &it->frame);
	it->at = FLOW_BATCH_HEAD;
}

static int take_batch(struct relay_stream *s, struct link *link, uint64_t number, const uint8_t *payload, size_t len,
		      struct err *e)
{
	struct relay *r = s->relay;
	bool due;

	{
		THREAD_LOCKED(&s->lock);
		if (s->rx_dropped || s->killed)
			return 0;
		if (number >= s->next && number - s->next >= FLOW_MAX_BATCHES)
			return err_set(e, ERR_PROTOCOL, "batch %llu of stream %u is beyond the window",
				       (unsigned long long)number, s->id);
		if (check_number_locked(s, number, e) < 0)
			return -1;
	}
	if (atomic_fetch_add(&r->pending, len) + len > RELAY_MAX_PENDING) {
		atomic_fetch_sub(&r->pending, len);
		return err_set(e, ERR_PROTOCOL, "the peer has sent more than the window allows");
	}
	struct item *it = mem_alloc(sizeof(*it));
	it->stream = s;
	it->number = number;
	take_payload(it, link, payload, len);
	{
		/* The same number on another link at the same time is the peer's lie, too. */
		THREAD_LOCKED(&s->lock);
		if (check_number_locked(s, number, e) < 0) {
			item_free(it);
			return -1;
		}
		insert_locked(s, it);
		due = it->state == ITEM_DECODING;
	}
	if (due)
		start_decode(it, len);
	return 0;
}

int relay_write_on_batch(struct relay *r, struct link *link, uint32_t stream, uint64_t number, const uint8_t *payload,
			 size_t len, struct err *e)
{
	struct relay_stream *s = NULL;

	if (len > CODEC_MAX_ENCODED)
		return err_set(e, ERR_PROTOCOL, "a batch of %zu bytes is over the limit", len);
	{
		THREAD_LOCKED(&r->lock);
		if (stream <= FLOW_MAX_STREAMS)
			s = r->streams[stream];
		if (!s || s->state == STREAM_WAITING)
			return err_set(e, ERR_PROTOCOL, "a batch came for stream %u, which is not open", stream);
	}
	return take_batch(s, link, number, payload, len, e);
}

int relay_write_on_end(struct relay_stream *s, uint64_t number, bool reset, struct err *e)
{
	if (reset)
		flow_tx_forget(s->relay->tx, s->id);
	THREAD_LOCKED(&s->lock);
	if (s->end_known && number != s->end_number)
		return err_set(e, ERR_PROTOCOL, "stream %u ends twice, at different batches", s->id);
	if (number < s->came || number - s->next > FLOW_MAX_BATCHES)
		return err_set(e, ERR_PROTOCOL, "stream %u ends at an impossible batch", s->id);
	s->end_known = true;
	s->end_number = number;
	if (reset) {
		s->peer_reset = true;
		atomic_store(&s->stop_reading, true);
		if (s->fd >= 0)
			shutdown(s->fd, SHUT_RD);
	}
	pthread_cond_broadcast(&s->changed);
	return 0;
}

/* ---- the writer ---- */

struct writer {
	struct relay_stream *s;
	struct relay *r;
	struct page_slots *slots;
	int fd;
	uint64_t unacked; /* bytes delivered and not acknowledged yet */
	int64_t ack_due_ns;
};

static void ack(struct writer *w, uint64_t number)
{
	if (w->unacked == 0)
		return;
	w->unacked = 0;
	w->ack_due_ns = INT64_MAX;
	flow_tx_ack(w->r->tx, w->s->id, number);
}

static int write_all(int fd, const uint8_t *p, size_t n, struct err *e)
{
	if (fault_point(FAULT_RELAY_WRITE, e) < 0)
		return -1;
	while (n > 0) {
		const ssize_t done = send(fd, p, n, MSG_NOSIGNAL);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return err_sys(e, "write");
		p += done;
		n -= (size_t)done;
	}
	return 0;
}

/* Nobody reads here any more. The reader finds out why when it comes to the end; if it has been there, we say so. */
static void writing_failed(struct relay_stream *s, const struct err *e)
{
	bool say;

	{
		THREAD_LOCKED(&s->lock);
		s->write_failed = true;
		say = s->tx_ended;
		/* If the local end is gone the reader sees that; after any other error it has to be. */
		if (e->errnum != EPIPE && e->errnum != ECONNRESET)
			shutdown(s->fd, SHUT_RDWR);
	}
	if (say)
		relay_open_reset(s, e->text);
}

static void deliver(struct writer *w, struct item *it)
{
	struct relay *r = w->r;
	struct relay_stream *s = w->s;
	struct err e = ERR_INIT;
	struct buf out = BUF_INIT;
	size_t len;

	if (!it->decoded || s->write_failed) { /* the session is over; or nobody reads */
		w->unacked++;
		goto out;
	}
	const uint8_t *bytes = decoded_verbatim(it->decoded, &len);
	if (!bytes) {
		out = stock_buf(r->stock, CODEC_MAX_ENCODED);
		if (decoded_emit(it->decoded, w->slots, &out, &e) < 0) {
			err_wrap(&e, "batch %llu of stream %u", (unsigned long long)it->number, s->id);
			relay_fail(r, &e);
			goto out;
		}
		bytes = out.data;
		len = out.len;
	}
	atomic_fetch_add_explicit(&r->bytes[s->kind], len, memory_order_relaxed);
	if (w->unacked == 0)
		w->ack_due_ns = clock_mono_ns() + ACK_DELAY_NS;
	w->unacked += len ? len : 1;
	if (write_all(w->fd, bytes, len, &e) < 0)
		writing_failed(s, &e);
out:
	stock_put_buf(r->stock, &out);
	item_free(it);
}

/* The next batch, out of its place; NULL at the end. Sends acknowledgements that are due meanwhile. */
static struct item *next_item(struct writer *w)
{
	struct relay_stream *s = w->s;
	struct item *due = NULL, *it;

	{
		THREAD_LOCKED(&s->lock);
		for (;;) {
			if (s->killed || s->rx_dropped || (s->end_known && s->next == s->end_number))
				return NULL;
			it = *place(s, s->next);
			if (it && it->state == ITEM_READY)
				break;
			if (thread_cond_wait_until(&s->changed, &s->lock, w->ack_due_ns) < 0)
				ack(w, s->next);
		}
		*place(s, s->next) = NULL;
		s->next++;
		due = *place(s, s->next + RELAY_DECODE_AHEAD - 1);
		if (due && due->state == ITEM_WAITING)
			due->state = ITEM_DECODING;
		else
			due = NULL;
	}
	if (due)
		pool_submit(w->r->pool, decode, due);
	return it;
}

static void write_run(struct relay_stream *s)
{
	struct writer w = { .s = s, .r = s->relay, .ack_due_ns = INT64_MAX };
	struct err e = ERR_INIT;
	struct item *it;

	{
		THREAD_LOCKED(&s->lock);
		w.fd = s->fd;
	}
	if (!w.r->source && s->owns_pages && w.r->opts.slots > 0 && !(w.slots = page_slots_new(w.r->opts.slots, &e))) {
		relay_fail(w.r, &e);
		return;
	}
	while ((it = next_item(&w)) != NULL) {
		const uint64_t number = it->number;
		deliver(&w, it);
		if (w.unacked >= ACK_BYTES)
			ack(&w, number + 1);
	}
	bool all;
	{
		THREAD_LOCKED(&s->lock);
		ack(&w, s->next);
		all = s->end_known && s->next == s->end_number && !s->killed;
		if (all)
			shutdown(w.fd, s->peer_reset ? SHUT_RDWR : SHUT_WR);
	}
	page_slots_free(w.slots);
}

void *relay_write_thread(void *stream)
{
	struct relay_stream *s = stream;

	write_run(s);
	relay_open_thread_ended(s);
	return NULL;
}

void relay_write_drop_items(struct relay_stream *s)
{
	for (unsigned i = 0; i < FLOW_MAX_BATCHES; i++) {
		struct item *it;
		{
			THREAD_LOCKED(&s->lock);
			it = s->items[i];
			/* One that is being decoded is still in the pool's hands; it goes with the stream. */
			if (!it || it->state == ITEM_DECODING)
				continue;
			s->items[i] = NULL;
		}
		item_free(it);
	}
}
