/*
 * signals.h - signals as a descriptor, read by the main thread alone.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_SIGNALS_H
#define VMFERRY_TOOLS_VMFERRYD_SIGNALS_H

#include "base/err.h"

#include <stdint.h>

enum signals_event { SIGNALS_NONE, SIGNALS_STOP, SIGNALS_RELOAD };

/* Blocks SIGTERM, SIGINT and SIGHUP for the process, ignores SIGPIPE; before any other thread starts. A descriptor,
 * or -1. */
int signals_open(struct err *e);
/* What comes next; SIGNALS_NONE at the monotonic deadline. */
enum signals_event signals_wait(int fd, int64_t deadline_ns);

#endif
