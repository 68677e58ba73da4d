/*
 * relay.h - carries local UNIX-socket connections (libvirt's RPC, NBD, QEMU's migration stream) between the two agents of a
 * migration. The source listens on sockets in the session's folder; for each connection that comes in the target connects to its own.
 *
 * Connections of a kind reach the target in the order in which they were accepted (multifd depends on it). Bytes come out as they went in, always.
 */
#ifndef VMFERRY_MIGRATOR_RELAY_H
#define VMFERRY_MIGRATOR_RELAY_H

#include "base/err.h"
#include "transport/adapt.h"
#include "transport/codec.h"
#include "transport/flow.h"

#include <stdbool.h>
#include <stdint.h>

enum relay_kind {
	RELAY_LIBVIRT = 1,   /* small messages, flushed at once */
	RELAY_NBD = 2,       /* disk copy: bytes, compressed in chunks */
	RELAY_MIGRATION = 3, /* QEMU stream: pages understood */
	RELAY_KIND_COUNT = 4,
};

struct relay_opts {
	bool source;                        /* listens (source) or connects (target) */
	const char *path[RELAY_KIND_COUNT]; /* socket per kind; NULL: this kind is refused */
	uint32_t slots;                     /* page versions kept, agreed by both ends; 0: none */
	unsigned workers;                   /* codec threads, 0 = automatic */
	uint64_t rate_limit;                /* wire bytes per second, 0 = none; source */
	int fixed_level;                    /* CODEC_AUTO, CODEC_RAW or a zstd level, for benches */
	struct adapt_learned before;        /* what an earlier session to that host learned, or zeros */
	/* The QEMU stream's RAM has ended: the guest is stopped, device state is under way. May be NULL. */
	void (*on_ram_end)(void *ctx);
	/* First error, once. The session must be torn down: relay_abort, then relay_free. May come from any thread. */
	void (*on_error)(void *ctx, const struct err *e);
	void *ctx;
};

#define RELAY_LEVEL_AUTO ADAPT_AUTO

struct relay_stats {
	uint64_t stream_bytes[RELAY_KIND_COUNT]; /* bytes that QEMU and libvirt produced, both directions */
	uint64_t wire_bytes;                     /* on the wire, both directions, frames and TLS included */
	uint64_t rate;                           /* wire bytes per second now, source to target */
	int level;                               /* the codec's level now */
	struct adapt_learned learned; /* for the next session; zeros if it was too short, or held back by a limit */
	struct codec_stats codec;
	const char *passthrough; /* why the migration stream is no longer parsed, or NULL */
};

struct relay;

/* The data links: `out` carry our batches, `in` the peer's; the relay owns them from here, also on failure. */
struct relay *relay_start(const struct relay_opts *opts, struct link **out, size_t n_out, struct link **in, size_t n_in,
			  struct err *e);
void relay_get_stats(struct relay *r, struct relay_stats *out);
/* Did the target fail to connect to its own socket, so that a connection here was closed? The last such case: for an error message
 * better than what libvirt makes of it. Source. */
bool relay_open_failure(struct relay *r, enum relay_kind *kind, struct err *e);
void relay_set_rate_limit(struct relay *r, uint64_t bytes_per_s);
/* After the migration is over: waits until every local connection has ended and everything was delivered, END on every link. */
int relay_finish(struct relay *r, int64_t deadline_ns, struct err *e);
/* From any thread: closes all local sockets at once (QEMU and libvirt see the connection end) and the links. */
void relay_abort(struct relay *r);
/* Also closes listeners and removes their socket files. */
void relay_free(struct relay *r);

#endif
