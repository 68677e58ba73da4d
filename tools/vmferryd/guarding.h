/*
 * guarding.h - the guardian (replicator/guardian.h) for the protections of this agent: started when the first capture begins.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_GUARDING_H
#define VMFERRY_TOOLS_VMFERRYD_GUARDING_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct guarding;
struct guarding *guarding_new(const char *libvirt_uri, const char *run_dir);
/* No capture may be under way. NULL is fine. */
void guarding_free(struct guarding *g);

/* What replicator.h asks for. A VM's memory is not captured without a guardian. */
int guarding_watch(struct guarding *g, const char *uuid, bool suspends, struct err *e);
int guarding_stream(struct guarding *g, const char *uuid, int fd, struct err *e);
void guarding_arm(struct guarding *g, const char *uuid, bool on, int64_t expect_ns);
void guarding_unwatch(struct guarding *g, const char *uuid);

#endif
