/*
 * stage.h - a checkpoint on its way from QEMU to whoever ships it: pages, held in memory until all of it is there.
 *
 * Memory is kept from checkpoint to checkpoint, so that while a guest is paused pages are copied and not faulted in.
 * What goes beyond the soft limit is either held in memory up to a hard limit, which is an error to pass, or spilled to
 * an unlinked file. One thread.
 */
#ifndef VMFERRY_SNAPSHOT_STAGE_H
#define VMFERRY_SNAPSHOT_STAGE_H

#include "base/err.h"
#include "snapshot/capture.h"

#include <stdint.h>

struct stage;

/* soft_bytes of memory are kept for the next time. Without a folder: ERR_REFUSED with ENOBUFS once hard_bytes are held.
 * With one: what is beyond soft_bytes goes to a file in it, until hard_bytes. */
struct stage *stage_new(uint64_t soft_bytes, uint64_t hard_bytes, const char *folder);
void stage_free(struct stage *s);
/* Makes sure that so much memory is there, touched. Best effort. */
void stage_warm(struct stage *s, uint64_t bytes);
int stage_page(struct stage *s, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e);
int stage_zero(struct stage *s, uint32_t volume, uint64_t block, struct err *e);
/* Pages and zeros so far, in bytes of the guest. */
uint64_t stage_bytes(const struct stage *s);
/* Tells everything to the sink (page and zero alone), pages in the order in which they came. */
int stage_give(struct stage *s, const struct capture_sink *sink, struct err *e);
/* Empty again. */
void stage_reset(struct stage *s);

#endif
