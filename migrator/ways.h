/*
 * ways.h - what migrations found out about the ways to other hosts, for the next ones. Kept in memory only: it is soon found out again.
 */
#ifndef VMFERRY_MIGRATOR_WAYS_H
#define VMFERRY_MIGRATOR_WAYS_H

#include "transport/adapt.h"

struct migrator;

/* All zeros when nothing is known. Any thread. */
void ways_recall(struct migrator *m, const char *host, struct adapt_learned *out);
/* Any thread. */
void ways_remember(struct migrator *m, const char *host, const struct adapt_learned *learned);
void ways_free(struct migrator *m);

#endif
