/*
 * restore_fifo.h - the FIFO from which libvirt and QEMU read a saved state: who has opened it, and what has been taken.
 *
 * It is held open for reading and writing, so that neither an open blocks nor a write fails between libvirt's opens. That also means that a
 * reader that went away is not noticed by writing: `over` (the call to libvirt has returned) ends the feeding.
 */
#ifndef VMFERRY_MIGRATOR_RESTORE_FIFO_H
#define VMFERRY_MIGRATOR_RESTORE_FIFO_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct restore_fifo;

/* RUN_DIR/restore-RANDOM/state. */
struct restore_fifo *restore_fifo_new(const char *run_dir, const char *group, struct err *e);
/* Removes it. NULL is fine. */
void restore_fifo_free(struct restore_fifo *f);
const char *restore_fifo_path(const struct restore_fifo *f);
/* over(ctx): true once nobody will read any more. cancel may be NULL. */
void restore_fifo_watch(struct restore_fifo *f, bool (*over)(void *ctx), void *ctx, const volatile bool *cancel,
			int64_t deadline_ns);

/* Puts the head, and once more if the reader closed the file after it had read it. likely: it is expected to. */
int restore_fifo_head(struct restore_fifo *f, const void *p, size_t n, bool likely, struct err *e);
/* Signature of restore_write. ERR_CANCELLED, ERR_SYS with ETIMEDOUT; ERR_LIBVIRT when the reader gave up. */
int restore_fifo_write(void *fifo, const void *p, size_t n, struct err *e);
/* Waits until all was read, then gives the reader its end. */
int restore_fifo_drained(struct restore_fifo *f, struct err *e);
/* Closes our end and frees a reader that waits to open it; can be called again and again. */
void restore_fifo_end(struct restore_fifo *f);
/* The reader had given up when feeding failed. */
bool restore_fifo_ended_early(const struct restore_fifo *f);
/* Monotonic, 0: never opened. */
int64_t restore_fifo_opened_ns(const struct restore_fifo *f);
/* Of a process that died: ends and removes all below run_dir. */
void restore_fifo_clean_up(const char *run_dir);

#endif
