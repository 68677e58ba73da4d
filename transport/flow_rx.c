#include "transport/flow.h"

#include "base/fault.h"
#include "base/mem.h"
#include "base/thread.h"

#include <stdlib.h>

struct rx_link {
	struct flow_rx *flow;
	struct link *link;
	pthread_t thread;
	bool ended; /* flow.lock: END has come; only close_notify is left */
};

struct flow_rx {
	/* fixed after the start */
	struct flow_rx_handler h;
	size_t expected;

	pthread_mutex_t lock;
	/* under lock */
	struct rx_link **links; /* room for `expected` */
	size_t n_links;
	size_t ended;
	bool dead; /* error or abort */
};

static void die_locked(struct flow_rx *f)
{
	f->dead = true;
	for (size_t i = 0; i < f->n_links; i++)
		if (!f->links[i]->ended)
			link_shutdown(f->links[i]->link);
}

static void fail(struct flow_rx *f, const struct err *e)
{
	{
		THREAD_LOCKED(&f->lock);
		if (f->dead)
			return;
		f->dead = true;
	}
	/* Told before the other links are cut, so that this is the first error. */
	f->h.on_end(f->h.ctx, e);
	THREAD_LOCKED(&f->lock);
	die_locked(f);
}

static void end(struct rx_link *rl)
{
	struct flow_rx *f = rl->flow;
	const struct err none = ERR_INIT;

	{
		THREAD_LOCKED(&f->lock);
		rl->ended = true;
		f->ended++;
		if (f->dead || f->ended < f->expected)
			return;
	}
	f->h.on_end(f->h.ctx, &none);
}

static int take_batch(struct flow_rx *f, struct link *l, const struct link_frame *fr, struct err *e)
{
	uint32_t stream;
	uint64_t number;

	if (fault_point(FAULT_CHANNEL_RECV, e) < 0 || flow_head_decode(fr->payload, fr->len, &stream, &number, e) < 0)
		return -1;
	return f->h.on_batch(f->h.ctx, l, stream, number, fr->payload + FLOW_BATCH_HEAD, fr->len - FLOW_BATCH_HEAD, e);
}

static int take_ack(struct flow_rx *f, const struct link_frame *fr, struct err *e)
{
	uint32_t stream;
	uint64_t number;

	if (flow_head_decode(fr->payload, fr->len, &stream, &number, e) < 0)
		return -1;
	return f->h.on_ack(f->h.ctx, stream, number, e);
}

static int take(struct flow_rx *f, struct link *l, const struct link_frame *fr, struct err *e)
{
	struct flow_stream_msg m;
	char name[16];

	switch ((enum frame_type)fr->type) {
	case FRAME_BATCH:
		return take_batch(f, l, fr, e);
	case FRAME_ACK:
		return take_ack(f, fr, e);
	case FRAME_STREAM:
		if (flow_msg_decode(fr->payload, fr->len, &m, e) < 0)
			return -1;
		return f->h.on_stream(f->h.ctx, &m, e);
	case FRAME_HELLO:
	case FRAME_MSG:
	case FRAME_PING:
	case FRAME_PONG:
	case FRAME_END:
	case FRAME_END_ACK:
		break;
	}
	return err_set(e, ERR_PROTOCOL, "a %s frame came on a data link", frame_type_name(fr->type, name, sizeof(name)));
}

static void *receiver(void *arg)
{
	struct rx_link *rl = arg;
	struct link_frame fr;
	struct err e = ERR_INIT;
	int rc;

	while ((rc = link_recv(rl->link, &fr, INT64_MAX, &e)) == 1) {
		if (take(rl->flow, rl->link, &fr, &e) < 0) {
			err_wrap(&e, "%s", link_peer_name(rl->link));
			rc = -1;
			break;
		}
	}
	if (rc < 0)
		fail(rl->flow, &e);
	else
		end(rl);
	return NULL;
}

struct flow_rx *flow_rx_new(const struct flow_rx_handler *h, size_t n_links)
{
	struct flow_rx *f = mem_alloc(sizeof(*f));

	f->h = *h;
	f->expected = n_links;
	f->links = mem_alloc_array(n_links, sizeof(*f->links));
	pthread_mutex_init(&f->lock, NULL);
	return f;
}

int flow_rx_add_link(struct flow_rx *f, struct link *l, struct err *e)
{
	struct rx_link *rl = mem_alloc(sizeof(*rl));
	int rc = 0;

	rl->flow = f;
	rl->link = l;
	THREAD_LOCKED(&f->lock);
	if (f->dead || f->n_links == f->expected)
		rc = err_set(e, ERR_CANCELLED, "the session has ended");
	else
		rc = thread_start(&rl->thread, "flow-rx", receiver, rl, e);
	if (rc < 0) {
		link_free(l);
		free(rl);
		return -1;
	}
	f->links[f->n_links++] = rl;
	return 0;
}

void flow_rx_abort(struct flow_rx *f)
{
	THREAD_LOCKED(&f->lock);
	if (!f->dead)
		die_locked(f);
}

uint64_t flow_rx_wire_bytes(struct flow_rx *f)
{
	uint64_t sum = 0;

	THREAD_LOCKED(&f->lock);
	for (size_t i = 0; i < f->n_links; i++) {
		uint64_t sent, received;
		link_wire_bytes(f->links[i]->link, &sent, &received);
		sum += received;
	}
	return sum;
}

void flow_rx_free(struct flow_rx *f)
{
	if (!f)
		return;
	flow_rx_abort(f);
	/* All of them first: one that fails shuts the others' links. */
	for (size_t i = 0; i < f->n_links; i++)
		pthread_join(f->links[i]->thread, NULL);
	for (size_t i = 0; i < f->n_links; i++) {
		link_free(f->links[i]->link);
		free(f->links[i]);
	}
	free(f->links);
	pthread_mutex_destroy(&f->lock);
	free(f);
}
