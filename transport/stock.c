#include "transport/stock.h"

#include "base/mem.h"
#include "base/thread.h"
#include "transport/frame.h"

#include <assert.h>
#include <stdlib.h>

/* Last in, first out: what was used last is still in the cache, and what is not needed stays untouched. */
struct shelf {
	void **item;
	size_t n, cap;
};

struct stock {
	pthread_mutex_t lock;
	/* under lock */
	struct shelf batches, codecs, decoded, bufs;
};

/* A buffer of less is made and freed each time. */
#define SMALL_BUF ((size_t)64 * 1024)
/* What a link wants for its largest frame, so that it can go on with a buffer of ours. */
#define BIG_BUF ((FRAME_MAX_BATCH + 0xffff) / 0x10000 * 0x10000)
/* More than these are not kept. */
#define KEEP_BUFS 40u
#define KEEP_DECODED 40u

static void shelf_put(struct shelf *s, void *item)
{
	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 16;
		s->item = mem_realloc_array(s->item, s->cap, sizeof(*s->item));
	}
	s->item[s->n++] = item;
}

static void *take(struct stock *s, struct shelf *from)
{
	THREAD_LOCKED(&s->lock);
	return from->n ? from->item[--from->n] : NULL;
}

static void put(struct stock *s, struct shelf *to, void *item)
{
	THREAD_LOCKED(&s->lock);
	shelf_put(to, item);
}

struct stock *stock_new(void)
{
	struct stock *s = mem_alloc(sizeof(*s));

	pthread_mutex_init(&s->lock, NULL);
	return s;
}

void stock_free(struct stock *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->batches.n; i++)
		batch_free(s->batches.item[i]);
	for (size_t i = 0; i < s->codecs.n; i++)
		codec_free(s->codecs.item[i]);
	for (size_t i = 0; i < s->decoded.n; i++)
		decoded_free(s->decoded.item[i]);
	for (size_t i = 0; i < s->bufs.n; i++)
		free(s->bufs.item[i]);
	free(s->batches.item);
	free(s->codecs.item);
	free(s->decoded.item);
	free(s->bufs.item);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

struct batch *stock_batch(struct stock *s)
{
	struct batch *b = take(s, &s->batches);

	return b ? b : batch_new();
}

void stock_put_batch(struct stock *s, struct batch *b)
{
	batch_reset(b);
	put(s, &s->batches, b);
}

struct codec *stock_codec(struct stock *s)
{
	struct codec *c = take(s, &s->codecs);

	return c ? c : codec_new();
}

void stock_put_codec(struct stock *s, struct codec *c)
{
	put(s, &s->codecs, c);
}

struct decoded *stock_decoded(struct stock *s)
{
	struct decoded *d = take(s, &s->decoded);

	return d ? d : decoded_new();
}

void stock_put_decoded(struct stock *s, struct decoded *d)
{
	{
		THREAD_LOCKED(&s->lock);
		if (s->decoded.n < KEEP_DECODED) {
			shelf_put(&s->decoded, d);
			return;
		}
	}
	decoded_free(d);
}

struct buf stock_buf(struct stock *s, size_t n)
{
	struct buf b = BUF_INIT;

	assert(n <= BIG_BUF);
	if (n > SMALL_BUF) {
		b.data = take(s, &s->bufs);
		n = BIG_BUF;
	}
	if (!b.data)
		b.data = mem_realloc_array(NULL, n ? n : 1, 1);
	b.cap = n;
	return b;
}

void stock_put_buf(struct stock *s, struct buf *b)
{
	if (b->cap == BIG_BUF) {
		THREAD_LOCKED(&s->lock);
		if (s->bufs.n < KEEP_BUFS) {
			shelf_put(&s->bufs, b->data);
			b->data = NULL;
		}
	}
	free(b->data);
	*b = (struct buf)BUF_INIT;
}

void stock_fit_buf(struct stock *s, struct buf *b)
{
	if (b->cap != BIG_BUF || b->len > SMALL_BUF)
		return;
	struct buf small = stock_buf(s, b->len);
	buf_append(&small, b->data, b->len);
	stock_put_buf(s, b);
	*b = small;
}
