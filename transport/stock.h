/*
 * stock.h - memory and codec state that a session of batches uses again and again: batches, codecs, decoded batches, buffers as large as a
 * frame. What was used last is given first. Any thread.
 */
#ifndef VMFERRY_TRANSPORT_STOCK_H
#define VMFERRY_TRANSPORT_STOCK_H

#include "base/buf.h"
#include "transport/codec.h"

#include <stddef.h>

struct stock;
struct stock *stock_new(void);
void stock_free(struct stock *s);
struct batch *stock_batch(struct stock *s);
void stock_put_batch(struct stock *s, struct batch *b);
struct codec *stock_codec(struct stock *s);
void stock_put_codec(struct stock *s, struct codec *c);
struct decoded *stock_decoded(struct stock *s);
void stock_put_decoded(struct stock *s, struct decoded *d);
/* An empty buffer for up to n bytes, FRAME_MAX_BATCH at most. */
struct buf stock_buf(struct stock *s, size_t n);
void stock_put_buf(struct stock *s, struct buf *b); /* b is left empty */
/* The contents of a large buffer in one that fits, if it wastes much. */
void stock_fit_buf(struct stock *s, struct buf *b);

#endif
