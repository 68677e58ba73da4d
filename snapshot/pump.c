#include "snapshot/pump.h"

#include "base/mem.h"
#include "base/queue.h"

#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096, PAGES = 64, ENTRIES = 256 };

struct entry {
	uint64_t block, n; /* n 0: a page */
	uint32_t volume;
};

struct load {
	int (*fn)(void *ctx, struct err *e); /* alone, or NULL */
	void *ctx;
	size_t n, n_pages;
	struct entry entries[ENTRIES];
	uint8_t pages[PAGES][PAGE];
};

struct pump {
	struct queue *queue;
	struct load *filling; /* the reader's */
};

struct pump *pump_new(uint64_t max_bytes)
{
	struct pump *p = mem_alloc(sizeof(*p));
	p->queue = queue_new(0, max_bytes < 2 * sizeof(struct load) ? 2 * sizeof(struct load) : (size_t)max_bytes, free);
	return p;
}

void pump_free(struct pump *p)
{
	if (!p)
		return;
	queue_free(p->queue);
	free(p->filling);
	free(p);
}

static int cancelled(struct err *e)
{
	return err_set(e, ERR_CANCELLED, "the first pass was ended");
}

static int flush(struct pump *p, struct err *e)
{
	if (!p->filling)
		return 0;
	if (queue_push(p->queue, p->filling, sizeof(struct load)))
		return cancelled(e);
	p->filling = NULL;
	return 0;
}

/* A load with room for one more entry. */
static struct load *room(struct pump *p, struct err *e)
{
	if (p->filling && (p->filling->n == ENTRIES || p->filling->n_pages == PAGES) && flush(p, e))
		return NULL;
	if (!p->filling) {
		p->filling = malloc(sizeof(*p->filling)); /* not zeroed: nearly all of it is pages */
		if (!p->filling) {
			err_sys(e, "memory for the first pass");
			return NULL;
		}
		p->filling->fn = NULL;
		p->filling->n = p->filling->n_pages = 0;
	}
	return p->filling;
}

int pump_page(struct pump *p, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e)
{
	struct load *l = room(p, e);
	if (!l)
		return -1;
	l->entries[l->n++] = (struct entry){ block, 0, volume };
	memcpy(l->pages[l->n_pages++], data, PAGE);
	return 0;
}

int pump_zero(struct pump *p, uint32_t volume, uint64_t block, struct err *e)
{
	struct load *l = p->filling;
	struct entry *last = l && l->n ? &l->entries[l->n - 1] : NULL;
	if (last && last->n && last->volume == volume && last->block + last->n == block) {
		last->n++;
		return 0;
	}
	l = room(p, e);
	if (!l)
		return -1;
	l->entries[l->n++] = (struct entry){ block, 1, volume };
	return 0;
}

int pump_call(struct pump *p, int (*fn)(void *ctx, struct err *e), void *ctx, struct err *e)
{
	if (flush(p, e))
		return -1;
	struct load *l = room(p, e);
	if (!l)
		return -1;
	l->fn = fn;
	l->ctx = ctx;
	return flush(p, e);
}

void pump_close(struct pump *p)
{
	struct err ignored = ERR_INIT;
	(void)flush(p, &ignored);
	queue_close(p->queue);
}

static int give_load(const struct load *l, const struct capture_sink *sink, struct err *e)
{
	size_t page = 0;
	if (l->fn && l->fn(l->ctx, e))
		return -1;
	for (size_t i = 0; i < l->n; i++) {
		const struct entry *x = &l->entries[i];
		int rc = x->n ? sink->zero(sink->ctx, x->volume, x->block, x->n, e)
			      : sink->page(sink->ctx, x->volume, x->block, l->pages[page++], e);
		if (rc)
			return -1;
	}
	return 0;
}

int pump_give(struct pump *p, const struct capture_sink *sink, struct err *e)
{
	struct load *l;
	while ((l = queue_pop(p->queue))) {
		int rc = give_load(l, sink, e);
		free(l);
		if (rc)
			return -1;
	}
	return 0;
}

void pump_lift(struct pump *p)
{
	queue_set_max_weight(p->queue, 0);
}

void pump_abort(struct pump *p)
{
	queue_abort(p->queue);
}
