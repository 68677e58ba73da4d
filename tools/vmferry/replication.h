/*
 * replication.h - how one protection of the agent's `status` reads. Pure: JSON in, text out.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_REPLICATION_H
#define VMFERRY_TOOLS_VMFERRY_REPLICATION_H

#include "base/buf.h"
#include "tools/vmferry/table.h"

#include <jansson.h>
#include <stdbool.h>

/* "0.8 s of 1.0 s": now minus the instant of the last point committed at the peer, against what was asked for. Over the
 * target it ends in " !" and is TABLE_BAD, as is "none yet". A protection that keeps no copy up to date any more (fenced,
 * promoted) has "-". Returns the mark. */
enum table_mark replication_rpo(const json_t *p, char *buf, size_t size);
/* Is there a copy that is to follow its VM: neither fenced nor promoted. */
bool replication_keeps_up(const json_t *p);
/* What the state means for whoever watches: good, on its way or held up, needs a person. */
enum table_mark replication_state(const json_t *p);
/* Is it this host's VM (else a replica of another host's)? */
bool replication_is_source(const json_t *p);
/* "-> dr1" or "<- node1". Returns buf. */
const char *replication_peer(const json_t *p, char *buf, size_t size);
/* "4 ms / 12 ms", p50 and p99 of what a checkpoint pauses the guest; "-" if not known. Returns buf. */
const char *replication_pause(const json_t *p, char *buf, size_t size);

/* Why it is not as it should be, a line each; nothing if all is well. */
void replication_notes(const json_t *p, struct buf *out);
/* All in one line, without its end. */
void replication_line(const json_t *p, struct buf *out);
/* Everything that is known, a line per figure. */
void replication_details(const json_t *p, struct buf *out);

#endif
