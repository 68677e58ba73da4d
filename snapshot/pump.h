/*
 * pump.h - what of a first pass has been read from QEMU and not been given on: a bounded queue between the thread that
 * reads and the one that gives. While the VM runs a full queue holds QEMU back; once it stands still nothing may, and
 * the bound is lifted.
 */
#ifndef VMFERRY_SNAPSHOT_PUMP_H
#define VMFERRY_SNAPSHOT_PUMP_H

#include "base/err.h"
#include "snapshot/capture.h"

#include <stdint.h>

struct pump;

struct pump *pump_new(uint64_t max_bytes);
void pump_free(struct pump *p);

/* The reader. Block while the queue is full; -1 with ERR_CANCELLED after pump_abort. */
int pump_page(struct pump *p, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e);
int pump_zero(struct pump *p, uint32_t volume, uint64_t block, struct err *e);
/* Has fn called by the giver, in its turn. */
int pump_call(struct pump *p, int (*fn)(void *ctx, struct err *e), void *ctx, struct err *e);
/* Nothing more comes, well or not. */
void pump_close(struct pump *p);

/* The giver: tells the sink until the reader has closed. */
int pump_give(struct pump *p, const struct capture_sink *sink, struct err *e);

/* Any thread. */
void pump_lift(struct pump *p);
void pump_abort(struct pump *p);

#endif
