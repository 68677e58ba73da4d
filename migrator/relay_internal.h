/*
 * relay_internal.h - what the files of the relay share.
 *
 *	relay.c        the session: start, errors, end, statistics
 *	relay_open.c   connections coming to be: listeners, opening in order, the target's connect
 *	relay_read.c   a connection's reader: local socket -> batches -> encoded -> flow_tx
 *	relay_write.c  a connection's writer: flow_rx -> decoded -> in order -> local socket
 *
 * Locks, in the order in which they may be taken: relay.lock, relay_stream.lock, then those inside of stock and flow, which call
 * nobody while they hold theirs.
 */
#ifndef VMFERRY_MIGRATOR_RELAY_INTERNAL_H
#define VMFERRY_MIGRATOR_RELAY_INTERNAL_H

#include "base/pool.h"
#include "migrator/relay.h"
#include "transport/adapt.h"
#include "transport/page_cache.h"
#include "transport/stock.h"

#include <pthread.h>
#include <stdatomic.h>

/* Batches of a stream that are decoded ahead of the one that is due. The others wait as they came. */
#define RELAY_DECODE_AHEAD 32u
/* What a peer may have waiting here in encoded form. An honest one stays below FLOW_MAX_RAW of raw bytes. */
#define RELAY_MAX_PENDING (FLOW_MAX_RAW + FLOW_MAX_RAW / 2)
/* Up to this the work is done where it arises: a change of threads costs more. */
#define RELAY_INLINE_BYTES 16384u

/* ---- streams ---- */
enum stream_state {
	STREAM_WAITING, /* source: accepted, not announced yet */
	STREAM_OPENING, /* source: announced; target: connecting */
	STREAM_OPEN,
	STREAM_CLOSED, /* no threads any more, or never any */
};

enum item_state { ITEM_WAITING, ITEM_DECODING, ITEM_READY };

/* A batch that came, until it is delivered. */
struct item {
	struct relay_stream *stream;
	uint64_t number;
	enum item_state state; /* stream.lock */
	struct buf frame;      /* what came, with the batch from `at` on; decoded refers to it */
	size_t at;
	struct decoded *decoded;
};

struct relay_stream {
	/* fixed after start */
	struct relay *relay;
	uint32_t id;
	enum relay_kind kind;
	bool owns_pages; /* the first migration stream: it alone uses the page versions, if there are any */

	/* relay.lock */
	enum stream_state state;
	unsigned threads; /* that have not ended */
	pthread_t reader, writer;
	bool reader_started, writer_started;

	atomic_int encoding;      /* batches read and not yet handed to flow_tx */
	atomic_bool stop_reading; /* the peer wants nothing more, or the session is over */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* for the writer */
	/* under lock */
	int fd;            /* -1 before it is connected and after it was closed */
	bool killed;       /* the session is over */
	bool tx_ended;     /* END or RESET was sent */
	bool rx_dropped;   /* we sent RESET: whatever still comes is dropped */
	bool write_failed; /* nobody reads at our end any more */
	bool end_known;
	bool peer_reset;    /* end_known by RESET */
	uint64_t tx_number; /* that END said */
	uint64_t next;      /* to be delivered */
	uint64_t received;  /* batches that came, to see whether any is missing at the end */
	uint64_t came;      /* the highest of their numbers, and one */
	uint64_t end_number;
	struct item *items[FLOW_MAX_BATCHES];
};

struct relay {
	/* fixed after start */
	char *path[RELAY_KIND_COUNT];
	struct relay_opts opts;
	struct flow_tx *tx;
	struct flow_rx *rx;
	struct pool *pool;
	struct stock *stock;
	unsigned max_encoding;
	int wake_fd; /* eventfd: the acceptor looks up */
	bool source;
	bool acceptor_started; /* by relay_start, for who joins */

	/* acceptor's thread */
	int listen_fd[RELAY_KIND_COUNT];
	bool listening[RELAY_KIND_COUNT]; /* the socket file is ours */
	pthread_t acceptor;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	struct relay_stream *streams[FLOW_MAX_STREAMS + 1];
	uint32_t n_streams; /* source: ids given out */
	uint32_t live;      /* not STREAM_CLOSED */
	bool pages_taken;   /* a stream owns the page versions */
	bool stop_accepting;
	bool rx_ended;
	bool dead;
	bool open_failed;
	struct err error; /* the first, if it is one */
	enum relay_kind open_failed_kind;
	struct err open_error;
	char passthrough[160];

	pthread_mutex_t encode_lock;
	pthread_cond_t encode_room;
	unsigned encoding; /* under encode_lock: batches between reader and flow_tx */

	pthread_mutex_t adapt_lock;
	struct adapt *adapt; /* under adapt_lock, as the two below */
	int64_t tick_ns, tick_busy_ns, tick_wait_ns;
	struct codec_stats codec;

	atomic_uint_least64_t rate_limit;    /* bytes per second, 0: none */
	atomic_int_least64_t supply_wait_ns; /* for QEMU's stream of pages, since the beginning */
	atomic_uint_least64_t pending;       /* bytes in items */
	atomic_uint_least64_t bytes[RELAY_KIND_COUNT];
	atomic_bool over;      /* dead, for those who hold no lock */
	atomic_bool finishing; /* somebody waits for acknowledgements */
};

/* ---- relay.c ---- */
/* Ends the session with that error; the first one wins. */
void relay_fail(struct relay *r, const struct err *e);

/* ---- relay_open.c ---- */
int relay_open_listeners(struct relay *r, struct err *e);
void *relay_open_acceptor(void *relay);
int relay_open_on_message(struct relay *r, const struct flow_stream_msg *m, struct err *e);
/* A thread of the stream ends; the last one closes the socket. */
void relay_open_thread_ended(struct relay_stream *s);
/* Closes the local connection at once, from any thread. */
void relay_open_kill(struct relay_stream *s);
void relay_open_free(struct relay_stream *s);
/* Is there nothing more to be done for it? relay.lock is held. */
bool relay_open_done_locked(struct relay_stream *s);
/* Tells the other end that the local socket is gone, unless that was said before. What comes from now on is dropped. */
void relay_open_reset(struct relay_stream *s, const char *why);

/* ---- relay_read.c ---- */
/* Runs until the local end has nothing more to say. */
void relay_read_run(struct relay_stream *s);

/* ---- relay_write.c ---- */
void *relay_write_thread(void *stream);
int relay_write_on_batch(struct relay *r, struct link *link, uint32_t stream, uint64_t number, const uint8_t *payload,
			 size_t len, struct err *e);
/* END or RESET said how many batches there are. */
int relay_write_on_end(struct relay_stream *s, uint64_t number, bool reset, struct err *e);
void relay_write_drop_items(struct relay_stream *s);

#endif
