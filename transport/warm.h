/*
 * warm.h - memory for page versions that stays warm from one migration to the next.
 *
 * The kernel's work of handing out hundreds of MiB costs more CPU time than compressing what goes into them. So memory that was given back is
 * kept for two minutes, for the next VM of a drain, and then really returned. At most WARM_MAX mappings are kept.
 */
#ifndef VMFERRY_TRANSPORT_WARM_H
#define VMFERRY_TRANSPORT_WARM_H

#include "base/err.h"

#include <stddef.h>

#define WARM_MAX 4u
#define WARM_KEEP_NS (INT64_C(120) * 1000000000)

/* size bytes, page-aligned, taking memory as they are touched. Contents are undefined: zeros, or what an earlier user left.
 * `what` is for the error (ERR_SYS). */
void *warm_get(size_t size, const char *what, struct err *e);
/* NULL is fine. */
void warm_put(void *p, size_t size);

#endif
