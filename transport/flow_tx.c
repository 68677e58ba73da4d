#include "transport/flow.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "base/thread.h"
#include "transport/flow_flight.h"
#include "transport/flow_meter.h"
#include "transport/tcp_busy.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINKS 32
/* A limit is about the link, and there every segment has its headers. In between, so that both who counts payload and who counts packets of
 * 1500 bytes find the limit held within 3 %. */
#define PACKET_OVERHEAD 0.02

struct tx_stream {
	uint32_t id;
	struct flow_flight_stream flight;
	uint64_t ack; /* to be sent, if ack_queued */
	bool ack_queued;
	struct tx_stream *next_ack;
};

struct tx_frame {
	struct tx_frame *next;
	struct tx_stream *stream; /* of a batch; NULL for a control frame */
	uint64_t number;
	struct buf payload;
};

struct frame_list {
	struct tx_frame *first;
	struct tx_frame **last;
};

struct tx_link {
	struct flow_tx *flow;
	struct link *link;
	pthread_t thread;
	bool ended; /* flow.lock: END was acknowledged; only close_notify is left */
};

struct flow_tx {
	/* fixed after the start */
	struct flow_tx_opts opts;

	pthread_mutex_t lock;
	pthread_cond_t work; /* a sender has something to do */
	pthread_cond_t room; /* the window moved */
	pthread_cond_t done; /* a sender has ended */
	/* under lock */
	struct tx_link *links[MAX_LINKS];
	size_t n_links;
	size_t running;
	bool dead;   /* error or abort */
	bool failed; /* on_error was or will be called */
	bool finishing;
	int64_t finish_deadline_ns;
	struct err error;
	struct frame_list control, urgent, bulk;
	struct tx_frame *spare;
	struct tx_stream *first_ack, **last_ack;
	struct tx_stream *streams[FLOW_MAX_STREAMS + 1];
	struct flow_flight flight;
	struct flow_bucket bucket;
	unsigned at_work;               /* batches queued or being handed to a link */
	int64_t work_ns, work_since_ns; /* for how long there were any under a rate limit; counted up to when */
	uint64_t batches;
	struct flow_meter meter;
};

/* ---- small things; all under lock ---- */

static void list_init(struct frame_list *l)
{
	l->first = NULL;
	l->last = &l->first;
}

static void list_push(struct frame_list *l, struct tx_frame *fr)
{
	fr->next = NULL;
	*l->last = fr;
	l->last = &fr->next;
}

static struct tx_frame *list_pop(struct frame_list *l)
{
	struct tx_frame *fr = l->first;

	if (fr) {
		l->first = fr->next;
		if (!l->first)
			l->last = &l->first;
	}
	return fr;
}

static struct tx_frame *frame_get(struct flow_tx *f)
{
	struct tx_frame *fr = f->spare;

	if (!fr)
		return mem_alloc(sizeof(*fr));
	f->spare = fr->next;
	return fr;
}

static void frame_put(struct flow_tx *f, struct tx_frame *fr)
{
	fr->stream = NULL;
	fr->next = f->spare;
	f->spare = fr;
}

static void recycle(struct flow_tx *f, struct buf *payload)
{
	if (f->opts.recycle && payload->data)
		f->opts.recycle(f->opts.ctx, payload);
	else
		buf_fini(payload);
	*payload = (struct buf)BUF_INIT;
}

static struct tx_stream *stream_of(struct flow_tx *f, uint32_t id)
{
	assert(id > 0 && id <= FLOW_MAX_STREAMS && f->streams[id]);
	return f->streams[id];
}

/* Bytes go out. */
static void count_wire(struct flow_tx *f, uint64_t bytes)
{
	flow_meter_add(&f->meter, bytes, clock_mono_ns());
}

/* Batches come or go that are queued or being sent. Where there is a rate limit, they are there because of it: the time in which there were
 * any adds up, as the time in which the way was full. */
static void note_work(struct flow_tx *f, int change)
{
	const int64_t now = clock_mono_ns();

	if (f->at_work > 0 && f->bucket.rate > 0)
		f->work_ns += now - f->work_since_ns;
	f->work_since_ns = now;
	f->at_work += (unsigned)change;
}

/* ---- the end ---- */

static void die_locked(struct flow_tx *f)
{
	f->dead = true;
	for (size_t i = 0; i < f->n_links; i++)
		if (!f->links[i]->ended)
			link_shutdown(f->links[i]->link);
	pthread_cond_broadcast(&f->work);
	pthread_cond_broadcast(&f->room);
	pthread_cond_broadcast(&f->done);
}

static void fail(struct flow_tx *f, const struct err *e)
{
	{
		THREAD_LOCKED(&f->lock);
		if (f->dead)
			return;
		f->dead = f->failed = true;
		f->error = *e;
	}
	/* Told before the links are cut: what the peer makes of the cut comes back to us, and must not be the first error. */
	if (f->opts.on_error)
		f->opts.on_error(f->opts.ctx, e);
	THREAD_LOCKED(&f->lock);
	die_locked(f);
}

void flow_tx_abort(struct flow_tx *f)
{
	THREAD_LOCKED(&f->lock);
	if (!f->dead)
		die_locked(f);
}

static int cancelled(struct err *e)
{
	return err_set(e, ERR_CANCELLED, "the session has ended");
}

/* ---- sender threads ---- */

/* The next frame for any link, or NULL with the time until which there is none (INT64_MAX: until signalled). Under lock. */
static struct tx_frame *next_frame(struct flow_tx *f, int64_t *until)
{
	struct tx_frame *fr;

	*until = INT64_MAX;
	if ((fr = list_pop(&f->control)) != NULL)
		return fr;
	if (!f->urgent.first && !f->bulk.first)
		return NULL;
	const int64_t now = clock_mono_ns();
	const int64_t wait = flow_bucket_wait(&f->bucket, now);
	if (wait > 0) {
		*until = now + wait;
		return NULL;
	}
	fr = list_pop(&f->urgent);
	return fr ? fr : list_pop(&f->bulk);
}

static int send_acks(struct flow_tx *f, struct link *l, struct err *e)
{
	struct tx_stream *s;

	while (!f->dead && (s = f->first_ack) != NULL) {
		uint8_t head[FLOW_BATCH_HEAD];
		const struct iovec iov = { .iov_base = head, .iov_len = sizeof(head) };
		f->first_ack = s->next_ack;
		if (!f->first_ack)
			f->last_ack = &f->first_ack;
		s->ack_queued = false;
		flow_head_encode(s->id, s->ack, head);
		pthread_mutex_unlock(&f->lock);
		const int rc = link_send(l, FRAME_ACK, &iov, 1, INT64_MAX, e);
		pthread_mutex_lock(&f->lock);
		const uint32_t wire = flow_flight_wire_of(0);
		flow_bucket_take(&f->bucket, wire);
		count_wire(f, wire);
		if (rc < 0)
			return -1;
	}
	return 0;
}

static int send_control(struct flow_tx *f, struct link *l, struct tx_frame *fr, struct err *e)
{
	const struct iovec iov = { .iov_base = fr->payload.data, .iov_len = fr->payload.len };

	pthread_mutex_unlock(&f->lock);
	const int rc = link_send(l, FRAME_STREAM, &iov, 1, INT64_MAX, e);
	pthread_mutex_lock(&f->lock);
	flow_bucket_take(&f->bucket, flow_flight_wire_of(fr->payload.len));
	buf_fini(&fr->payload);
	frame_put(f, fr);
	return rc;
}

static int send_batch(struct flow_tx *f, struct link *l, struct tx_frame *fr, struct err *e)
{
	uint8_t head[FLOW_BATCH_HEAD];
	const struct iovec iov[] = { { .iov_base = head, .iov_len = sizeof(head) },
				     { .iov_base = fr->payload.data, .iov_len = fr->payload.len } };
	const bool forgotten = fr->stream->flight.forgotten;
	const uint32_t wire = flow_flight_wire_of(fr->payload.len);
	int rc = 0;

	if (!forgotten) {
		flow_flight_send(&f->flight, &fr->stream->flight, fr->number);
		f->batches++;
		flow_bucket_take(&f->bucket, (uint64_t)(wire * (1 + PACKET_OVERHEAD)));
		flow_head_encode(fr->stream->id, fr->number, head);
	}
	pthread_mutex_unlock(&f->lock);
	if (!forgotten)
		rc = fault_point(FAULT_CHANNEL_SEND, e) < 0 ? -1 : link_send(l, FRAME_BATCH, iov, 2, INT64_MAX, e);
	recycle(f, &fr->payload);
	pthread_mutex_lock(&f->lock);
	note_work(f, -1);
	if (!forgotten)
		count_wire(f, wire);
	frame_put(f, fr);
	return rc;
}

/* 0 when there is nothing left to send and the flow finishes. */
static int send_all(struct flow_tx *f, struct link *l, struct err *e)
{
	int64_t until;

	THREAD_LOCKED(&f->lock);
	for (;;) {
		if (send_acks(f, l, e) < 0)
			return -1;
		if (f->dead)
			return -1;
		struct tx_frame *fr = next_frame(f, &until);
		if (fr) {
			if ((fr->stream ? send_batch : send_control)(f, l, fr, e) < 0)
				return -1;
		} else if (f->finishing && until == INT64_MAX) {
			return 0;
		} else {
			thread_cond_wait_until(&f->work, &f->lock, until);
		}
	}
}

static void *sender(void *arg)
{
	struct tx_link *tl = arg;
	struct flow_tx *f = tl->flow;
	struct err e = ERR_INIT;
	int64_t deadline;

	int rc = send_all(f, tl->link, &e);
	if (rc == 0) {
		{
			THREAD_LOCKED(&f->lock);
			deadline = f->finish_deadline_ns;
		}
		rc = link_finish(tl->link, deadline, &e);
	}
	if (rc < 0)
		fail(f, &e);
	THREAD_LOCKED(&f->lock);
	tl->ended = rc == 0;
	f->running--;
	pthread_cond_broadcast(&f->done);
	return NULL;
}

/* ---- start ---- */

struct flow_tx *flow_tx_new(const struct flow_tx_opts *opts, struct err *e)
{
	(void)e;
	struct flow_tx *f = mem_alloc(sizeof(*f));

	f->opts = *opts;
	pthread_mutex_init(&f->lock, NULL);
	thread_cond_init(&f->work);
	thread_cond_init(&f->room);
	thread_cond_init(&f->done);
	list_init(&f->control);
	list_init(&f->urgent);
	list_init(&f->bulk);
	f->last_ack = &f->first_ack;
	flow_flight_init(&f->flight, opts->max_raw ? opts->max_raw : FLOW_MAX_RAW);
	f->flight.rate_limit = opts->rate_limit;
	flow_bucket_set(&f->bucket, opts->rate_limit, clock_mono_ns());
	flow_meter_init(&f->meter, clock_mono_ns());
	return f;
}

int flow_tx_add_link(struct flow_tx *f, struct link *l, struct err *e)
{
	struct tx_link *tl = mem_alloc(sizeof(*tl));

	tl->flow = f;
	tl->link = l;
	THREAD_LOCKED(&f->lock);
	if (f->dead || f->finishing || f->n_links == MAX_LINKS) {
		if (f->n_links == MAX_LINKS)
			err_set(e, ERR_CONFIG, "more than %d data links", MAX_LINKS);
		else
			cancelled(e);
		goto fail;
	}
	if (thread_start(&tl->thread, "flow-tx", sender, tl, e) < 0)
		goto fail;
	f->links[f->n_links++] = tl;
	f->running++;
	return 0;
fail:
	link_free(l);
	free(tl);
	return -1;
}

void flow_tx_add_stream(struct flow_tx *f, uint32_t stream, bool urgent)
{
	struct tx_stream *s = mem_alloc(sizeof(*s));

	s->id = stream;
	THREAD_LOCKED(&f->lock);
	flow_flight_stream_init(&f->flight, &s->flight, urgent);
	assert(stream > 0 && stream <= FLOW_MAX_STREAMS && !f->streams[stream]);
	f->streams[stream] = s;
}

/* ---- batches ---- */

int flow_tx_reserve(struct flow_tx *f, uint32_t stream, size_t raw_bytes, uint64_t *number, struct err *e)
{
	bool limited = false;

	THREAD_LOCKED(&f->lock);
	struct tx_stream *s = stream_of(f, stream);
	for (;;) {
		bool wire = false;
		if (f->dead || f->finishing || s->flight.forgotten)
			return cancelled(e);
		if (flow_flight_has_room(&f->flight, &s->flight, raw_bytes, &wire))
			break;
		limited |= wire;
		thread_cond_wait_until(&f->room, &f->lock, INT64_MAX);
	}
	*number = flow_flight_reserve(&f->flight, &s->flight, raw_bytes, limited, clock_mono_ns());
	return 0;
}

int flow_tx_batch(struct flow_tx *f, uint32_t stream, uint64_t number, struct buf *payload, struct err *e)
{
	int rc = 0;

	{
		THREAD_LOCKED(&f->lock);
		struct tx_stream *s = stream_of(f, stream);
		if (f->dead) {
			rc = cancelled(e);
		} else if (!s->flight.forgotten) {
			flow_flight_queue(&f->flight, &s->flight, number, payload->len);
			struct tx_frame *fr = frame_get(f);
			fr->stream = s;
			fr->number = number;
			fr->payload = *payload;
			*payload = (struct buf)BUF_INIT;
			list_push(s->flight.urgent ? &f->urgent : &f->bulk, fr);
			note_work(f, 1);
			pthread_cond_signal(&f->work);
			return 0;
		}
	}
	recycle(f, payload);
	return rc;
}

size_t flow_tx_batch_hint(struct flow_tx *f, uint32_t stream)
{
	THREAD_LOCKED(&f->lock);
	return flow_flight_hint(&f->flight, &stream_of(f, stream)->flight);
}

/* ---- acknowledgements and control ---- */

int flow_tx_ack(struct flow_tx *f, uint32_t stream, uint64_t number)
{
	THREAD_LOCKED(&f->lock);
	if (f->dead)
		return -1;
	struct tx_stream *s = stream_of(f, stream);
	s->ack = number;
	if (s->ack_queued)
		return 0;
	s->ack_queued = true;
	s->next_ack = NULL;
	*f->last_ack = s;
	f->last_ack = &s->next_ack;
	pthread_cond_signal(&f->work);
	return 0;
}

int flow_tx_stream(struct flow_tx *f, const struct flow_stream_msg *m)
{
	THREAD_LOCKED(&f->lock);
	if (f->dead)
		return -1;
	struct tx_frame *fr = frame_get(f);
	fr->payload.len = flow_msg_encode(m, buf_reserve(&fr->payload, FLOW_MSG_MAX));
	list_push(&f->control, fr);
	pthread_cond_signal(&f->work);
	return 0;
}

/* The link that waited longest for the network. */
static int64_t network_busy_ns(const struct flow_tx *f)
{
	int64_t most = 0;

	for (size_t i = 0; i < f->n_links; i++) {
		const int64_t busy = tcp_busy_ns(link_fd(f->links[i]->link));
		most = busy > most ? busy : most;
	}
	return most;
}

int flow_tx_acked(struct flow_tx *f, uint32_t stream, uint64_t number, struct err *e)
{
	struct flow_mark mark = { 0 };
	uint64_t wire = 0;

	THREAD_LOCKED(&f->lock);
	if (stream == 0 || stream > FLOW_MAX_STREAMS || !f->streams[stream])
		return err_set(e, ERR_PROTOCOL, "the peer acknowledges batches of stream %u, which does not exist",
			       stream);
	struct tx_stream *s = f->streams[stream];
	const int rc = flow_flight_ack(&f->flight, &s->flight, number, &wire, &mark);
	if (rc < 0)
		return err_set(e, ERR_PROTOCOL, "the peer acknowledges batch %llu of stream %u, which was not sent",
			       (unsigned long long)number - 1, stream);
	if (rc == 0)
		return 0;
	const int64_t now = clock_mono_ns();
	int64_t busy = 0;
	if (flow_window_round_ends(&f->flight.window, &mark)) {
		note_work(f, 0);
		busy = f->work_ns + network_busy_ns(f);
	}
	flow_window_acked(&f->flight.window, &mark, wire, busy, now);
	pthread_cond_broadcast(&f->room);
	return 0;
}

void flow_tx_forget(struct flow_tx *f, uint32_t stream)
{
	THREAD_LOCKED(&f->lock);
	struct tx_stream *s = stream_of(f, stream);
	flow_flight_forget(&f->flight, &s->flight);
	pthread_cond_broadcast(&f->room);
}

void flow_tx_progress(struct flow_tx *f, uint32_t stream, uint64_t *reserved, uint64_t *acked)
{
	THREAD_LOCKED(&f->lock);
	const struct tx_stream *s = stream_of(f, stream);
	*reserved = s->flight.reserved;
	*acked = s->flight.acked;
}

void flow_tx_set_rate_limit(struct flow_tx *f, uint64_t bytes_per_s)
{
	THREAD_LOCKED(&f->lock);
	flow_bucket_set(&f->bucket, bytes_per_s, clock_mono_ns());
	f->flight.rate_limit = bytes_per_s;
	pthread_cond_broadcast(&f->work);
}

/* ---- looking ---- */

void flow_tx_stats(struct flow_tx *f, struct flow_stats *out)
{
	THREAD_LOCKED(&f->lock);
	uint64_t wire = 0;

	for (size_t i = 0; i < f->n_links; i++) {
		uint64_t sent, received;
		link_wire_bytes(f->links[i]->link, &sent, &received);
		wire += sent;
	}
	*out = (struct flow_stats){
		.wire_bytes = wire,
		.batches = f->batches,
		.in_flight_bytes = f->flight.wire,
		.in_flight_raw = f->flight.raw,
		.rate = flow_meter_rate(&f->meter, clock_mono_ns()),
		.delivery_rate = (uint64_t)f->flight.window.rate,
		.window = flow_flight_window(&f->flight),
		.rtt_ns = flow_window_rtt(&f->flight.window),
		.network_busy_ns = network_busy_ns(f),
		.paced = f->bucket.rate > 0 && f->flight.queued > 0,
	};
}

/* ---- finish ---- */

int flow_tx_finish(struct flow_tx *f, int64_t deadline_ns, struct err *e)
{
	THREAD_LOCKED(&f->lock);
	if (!f->dead) {
		f->finishing = true;
		f->finish_deadline_ns = deadline_ns;
		pthread_cond_broadcast(&f->work);
		pthread_cond_broadcast(&f->room);
		while (f->running > 0 && !f->dead) {
			if (thread_cond_wait_until(&f->done, &f->lock, deadline_ns) < 0 && f->running > 0) {
				die_locked(f);
				return err_set(e, ERR_PEER, "what is on its way could not be delivered in time");
			}
		}
	}
	if (!f->dead)
		return 0;
	if (f->failed)
		*e = f->error;
	else
		cancelled(e);
	return -1;
}

static void drop_list(struct flow_tx *f, struct frame_list *l)
{
	struct tx_frame *fr;

	while ((fr = list_pop(l)) != NULL) {
		recycle(f, &fr->payload);
		free(fr);
	}
}

void flow_tx_free(struct flow_tx *f)
{
	if (!f)
		return;
	flow_tx_abort(f);
	/* All of them first: one that fails shuts the others' links. */
	for (size_t i = 0; i < f->n_links; i++)
		pthread_join(f->links[i]->thread, NULL);
	for (size_t i = 0; i < f->n_links; i++) {
		link_free(f->links[i]->link);
		free(f->links[i]);
	}
	drop_list(f, &f->control);
	drop_list(f, &f->urgent);
	drop_list(f, &f->bulk);
	while (f->spare) {
		struct tx_frame *fr = f->spare;
		f->spare = fr->next;
		free(fr);
	}
	for (size_t i = 0; i <= FLOW_MAX_STREAMS; i++) {
		if (f->streams[i])
			flow_flight_forget(&f->flight, &f->streams[i]->flight);
		free(f->streams[i]);
	}
	pthread_mutex_destroy(&f->lock);
	pthread_cond_destroy(&f->work);
	pthread_cond_destroy(&f->room);
	pthread_cond_destroy(&f->done);
	free(f);
}
