#include "transport/flow.h"
#include "transport/flow_window.h"

#include "transport_fixture.h"

#include "base/thread.h"

#include <signal.h>
#include <stdatomic.h>

/* ---- the window, in a simulated world ---- */

#define SIM_QUEUE 4096

/* A pipe: a bottleneck of `rate` bytes per second, then half a round trip there, half a round trip back. */
struct sim {
	struct flow_window w;
	double rate;
	int64_t rtt;
	int64_t now;
	uint64_t in_flight;
	int64_t free_at; /* when the bottleneck has sent everything */
	int64_t busy;    /* for how long it will have been at work when it has sent everything */
	double depth;    /* of its bucket: so much passes at 20 times the rate after a pause */
	struct {
		struct flow_mark mark;
		uint64_t bytes;
		int64_t ack_at;
	} q[SIM_QUEUE];
	size_t head, tail;
	uint64_t delivered;
};

static void sim_ack_until(struct sim *s, int64_t t)
{
	while (s->head != s->tail && s->q[s->head % SIM_QUEUE].ack_at <= t) {
		const size_t i = s->head++ % SIM_QUEUE;
		s->now = s->q[i].ack_at;
		s->in_flight -= s->q[i].bytes;
		s->delivered += s->q[i].bytes;
		flow_window_acked(&s->w, &s->q[i].mark, s->q[i].bytes,
				  s->busy - (s->free_at > s->now ? s->free_at - s->now : 0), s->now);
	}
	if (s->now < t)
		s->now = t;
}

static void sim_send(struct sim *s, uint64_t bytes, bool limited)
{
	const size_t i = s->tail++ % SIM_QUEUE;

	flow_window_sent(&s->w, s->now, s->in_flight == 0, limited, &s->q[i].mark);
	s->in_flight += bytes;
	double fast = (double)(s->now - s->free_at) / 1e9 * s->rate;
	fast = fast < 0 ? 0 : fast < s->depth ? fast : s->depth;
	fast = fast < (double)bytes ? fast : (double)bytes;
	/* Whatever passes at full speed takes its tokens with it. */
	if (s->free_at < s->now - (int64_t)(s->depth / s->rate * 1e9))
		s->free_at = s->now - (int64_t)(s->depth / s->rate * 1e9);
	s->free_at += (int64_t)((double)bytes / s->rate * 1e9);
	s->busy += (int64_t)((double)bytes / s->rate * 1e9);
	const int64_t out = s->now + (int64_t)(fast / s->rate / 20 * 1e9);
	s->q[i].bytes = bytes;
	s->q[i].ack_at = (s->free_at > out ? s->free_at : out) + s->rtt;
}

/* A sender that always has more, until t. */
static void sim_greedy(struct sim *s, int64_t t)
{
	while (s->now < t) {
		const uint64_t window = flow_window_bytes(&s->w);
		const uint64_t bytes = window / 16 < 65536 ? 65536 : window / 16;
		bool limited = false;
		while (s->in_flight > 0 && s->in_flight + bytes > flow_window_bytes(&s->w)) {
			limited = true;
			sim_ack_until(s, s->q[s->head % SIM_QUEUE].ack_at);
		}
		sim_send(s, bytes, limited);
	}
}

static const struct {
	const char *name;
	double rate; /* bytes per second */
	double rtt_ms;
	double within_s; /* to be steady */
} ways[] = {
	{ "200 Mbit/s LAN", 25e6, 0.3, 1 },     { "1 Gbit/s LAN", 125e6, 0.3, 1 },
	{ "1 Gbit/s, 20 ms", 125e6, 20, 2 },    { "200 Mbit/s, 200 ms", 25e6, 200, 4 },
	{ "100 Mbit/s, 60 ms", 12.5e6, 60, 3 },
};

START_TEST(window_settles_at_50_ms)
{
	struct sim s = { .rate = ways[_i].rate, .rtt = (int64_t)(ways[_i].rtt_ms * 1e6) };

	flow_window_init(&s.w);
	sim_greedy(&s, (int64_t)(ways[_i].within_s * 1e9));
	const uint64_t before = s.delivered;
	const int64_t from = s.now;
	sim_greedy(&s, from + NS_PER_S);
	const double used = (double)(s.delivered - before) / ((double)(s.now - from) / 1e9) / ways[_i].rate;
	const double ideal = ways[_i].rate * (0.050 + ways[_i].rtt_ms / 1000);
	const double window = (double)flow_window_bytes(&s.w) / ideal;
	ck_assert_msg(used > 0.97, "%s: only %.0f %% of the link are used", ways[_i].name, used * 100);
	ck_assert_msg(window > 0.85 && window < 1.2, "%s: window is %.2f of the ideal", ways[_i].name, window);
}
END_TEST

START_TEST(window_opens_at_once_on_a_fast_link)
{
	struct sim s = { .rate = 1.5e9, .rtt = NS_PER_MS / 5 };

	flow_window_init(&s.w);
	sim_greedy(&s, 20 * NS_PER_MS);
	const double used = (double)s.delivered / (1.5e9 * 0.020);
	ck_assert_msg(used > 0.75, "%.0f %% of the link in the first 20 ms", used * 100);
	ck_assert_uint_ge(flow_window_bytes(&s.w), 32u << 20);
}
END_TEST

START_TEST(window_follows_a_link_that_changes)
{
	struct sim s = { .rate = 125e6, .rtt = NS_PER_MS };

	flow_window_init(&s.w);
	sim_greedy(&s, NS_PER_S);
	s.rate = 25e6;
	sim_greedy(&s, s.now + NS_PER_S);
	const double slow = (double)flow_window_bytes(&s.w) / (25e6 * 0.051);
	ck_assert_msg(slow > 0.8 && slow < 1.25, "after the link became slow: %.2f of the ideal", slow);
	s.rate = 125e6;
	sim_greedy(&s, s.now + NS_PER_S);
	const double fast = (double)flow_window_bytes(&s.w) / (125e6 * 0.051);
	ck_assert_msg(fast > 0.8 && fast < 1.25, "after it became fast again: %.2f of the ideal", fast);
}
END_TEST

/* Threads that wait long for a CPU: it takes 90 ms until an acknowledgement is back, though it was 1 ms before. */
START_TEST(slow_threads_do_not_close_the_window)
{
	struct sim s = { .rate = 25e6, .rtt = NS_PER_MS };

	flow_window_init(&s.w);
	sim_greedy(&s, NS_PER_S);
	s.rtt = 90 * NS_PER_MS;
	sim_greedy(&s, s.now + 2 * NS_PER_S);
	const uint64_t before = s.delivered;
	const int64_t from = s.now;
	sim_greedy(&s, from + NS_PER_S);
	const double used = (double)(s.delivered - before) / ((double)(s.now - from) / 1e9) / s.rate;
	ck_assert_msg(used > 0.8, "only %.0f %% of the link are used", used * 100);
	ck_assert_uint_le(flow_window_bytes(&s.w), (uint64_t)(s.rate * 0.16));
	/* And back. */
	s.rtt = NS_PER_MS;
	sim_greedy(&s, s.now + 4 * NS_PER_S);
	const double after = (double)flow_window_bytes(&s.w) / (25e6 * 0.051);
	ck_assert_msg(after > 0.8 && after < 1.25, "afterwards: %.2f of the ideal", after);
}
END_TEST

START_TEST(little_traffic_does_not_close_the_window)
{
	struct sim s = { .rate = 125e6, .rtt = NS_PER_MS };

	flow_window_init(&s.w);
	sim_greedy(&s, NS_PER_S);
	const uint64_t before = flow_window_bytes(&s.w);
	/* Also if it takes long, but not because of the network. */
	s.rtt = _i * 80 * NS_PER_MS + NS_PER_MS;
	for (int i = 0; i < 200; i++) {
		sim_ack_until(&s, s.now + 10 * NS_PER_MS);
		sim_send(&s, 2000, false);
	}
	ck_assert_uint_ge(flow_window_bytes(&s.w), before * 9 / 10);
	ck_assert_uint_le(flow_window_bytes(&s.w), before * 13 / 10);
}
END_TEST

/* A shaper with a deep bucket: the first bytes after a pause pass much faster than all others. */
START_TEST(bursts_are_not_believed)
{
	static const double depths[] = { 128e3, 256e3, 1e6 };
	struct sim s = { .rate = 25e6, .rtt = NS_PER_MS, .depth = depths[_i] };
	const double ideal = 25e6 * 0.051 + s.depth;
	uint64_t most = 0;

	flow_window_init(&s.w);
	for (int pause = 0; pause < 30; pause++) {
		const int64_t until = s.now + (pause % 3 == 2 ? 300 : 30) * NS_PER_MS;
		while (s.now < until) {
			sim_greedy(&s, s.now + 1);
			if (flow_window_bytes(&s.w) > most)
				most = flow_window_bytes(&s.w);
		}
		sim_ack_until(&s, s.now + 200 * NS_PER_MS);
	}
	ck_assert_msg((double)most < 2.2 * ideal, "the window was %.2f of the ideal", (double)most / ideal);
}
END_TEST

START_TEST(bucket_is_exact)
{
	static const struct {
		uint64_t rate, frame;
	} cases[] = { { 5000000, 1 << 20 }, { 25000000, 250000 }, { 1000000, 65536 }, { 125000000, 1 << 20 } };
	struct flow_bucket b = { 0 };
	int64_t now = 0;
	uint64_t sent = 0;

	flow_bucket_set(&b, cases[_i].rate, now);
	while (now < 20 * NS_PER_S) {
		const int64_t wait = flow_bucket_wait(&b, now);
		/* Threads wake late. */
		now += wait ? wait + 300000 : 0;
		if (wait == 0) {
			flow_bucket_take(&b, cases[_i].frame);
			sent += cases[_i].frame;
		}
	}
	const double rate = (double)sent / 20 / (double)cases[_i].rate;
	ck_assert_msg(rate > 0.97 && rate < 1.015, "%.3f of the limit", rate);
}
END_TEST

START_TEST(bucket_does_not_save_up)
{
	struct flow_bucket b = { 0 };
	uint64_t burst = 0;

	flow_bucket_set(&b, 10000000, 0);
	ck_assert_int_eq(flow_bucket_wait(&b, 10 * NS_PER_S), 0);
	while (flow_bucket_wait(&b, 10 * NS_PER_S) == 0) {
		flow_bucket_take(&b, 10000);
		burst += 10000;
	}
	ck_assert_uint_le(burst, 10000000 * FLOW_BUCKET_BURST_NS / NS_PER_S + 20000);
	flow_bucket_set(&b, 0, 10 * NS_PER_S);
	flow_bucket_take(&b, 1 << 30);
	ck_assert_int_eq(flow_bucket_wait(&b, 10 * NS_PER_S), 0);
}
END_TEST

/* ---- both sides, over local links ---- */

#define LINKS 3
#define MAX_SEEN 20000
#define STREAMS 6

struct world {
	struct flow_tx *tx;
	struct flow_rx *rx;
	size_t n_links;
	atomic_int tx_errors, rx_ends, recycled;
	struct err tx_error;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	struct err rx_error;
	bool rx_ended;
	uint64_t batches, bytes;
	uint8_t seen[STREAMS][MAX_SEEN];
	uint64_t due[STREAMS]; /* lowest number not seen */
	unsigned acks;
	uint64_t last_ack;
	struct flow_stream_msg messages[16];
	unsigned n_messages;
	bool ack_at_once;
};

static struct world w;

static int on_batch(void *ctx, struct link *link, uint32_t stream, uint64_t number, const uint8_t *p, size_t len,
		    struct err *e)
{
	(void)ctx, (void)link;
	uint64_t due;

	{
		THREAD_LOCKED(&w.lock);
		if (stream < 1 || stream > STREAMS || number >= MAX_SEEN || w.seen[stream - 1][number])
			return err_set(e, ERR_PROTOCOL, "unexpected batch");
		if (len > 0 && (p[0] != (uint8_t)(number + stream) || memcmp(p, p + 1, len - 1) != 0))
			return err_set(e, ERR_CORRUPT, "unexpected contents");
		w.seen[stream - 1][number] = 1;
		w.batches++;
		w.bytes += len;
		while (w.due[stream - 1] < MAX_SEEN && w.seen[stream - 1][w.due[stream - 1]])
			w.due[stream - 1]++;
		due = w.due[stream - 1];
		pthread_cond_broadcast(&w.changed);
	}
	/* Both directions in one process: the acknowledgement needs no way back. */
	return w.ack_at_once ? flow_tx_acked(w.tx, stream, due, e) : 0;
}

static int on_ack(void *ctx, uint32_t stream, uint64_t number, struct err *e)
{
	(void)ctx, (void)stream, (void)e;
	THREAD_LOCKED(&w.lock);
	w.acks++;
	w.last_ack = number;
	pthread_cond_broadcast(&w.changed);
	return 0;
}

static int on_stream(void *ctx, const struct flow_stream_msg *m, struct err *e)
{
	(void)ctx, (void)e;
	THREAD_LOCKED(&w.lock);
	w.messages[w.n_messages++ % 16] = *m;
	pthread_cond_broadcast(&w.changed);
	return 0;
}

static void on_end(void *ctx, const struct err *e)
{
	(void)ctx;
	THREAD_LOCKED(&w.lock);
	w.rx_ends++;
	w.rx_error = *e;
	w.rx_ended = true;
	pthread_cond_broadcast(&w.changed);
}

static void on_tx_error(void *ctx, const struct err *e)
{
	(void)ctx;
	THREAD_LOCKED(&w.lock);
	w.tx_error = *e;
	w.tx_errors++;
	pthread_cond_broadcast(&w.changed);
}

static void on_recycle(void *ctx, struct buf *payload)
{
	(void)ctx;
	w.recycled++;
	buf_fini(payload);
}

/* Waits until the condition holds, looked at under the lock. */
#define WAIT_FOR(condition)                                                                     \
	do {                                                                                    \
		pthread_mutex_lock(&w.lock);                                                    \
		const int64_t until_ = soon();                                                  \
		while (!(condition))                                                            \
			ck_assert_msg(thread_cond_wait_until(&w.changed, &w.lock, until_) == 0, \
				      "waited in vain for " #condition);                        \
		pthread_mutex_unlock(&w.lock);                                                  \
	} while (0)

static void start(size_t links, uint64_t rate_limit, uint64_t max_raw)
{
	const struct flow_rx_handler h = {
		.on_batch = on_batch, .on_ack = on_ack, .on_stream = on_stream, .on_end = on_end
	};
	const struct flow_tx_opts o = {
		.rate_limit = rate_limit, .max_raw = max_raw, .on_error = on_tx_error, .recycle = on_recycle
	};
	struct err e = ERR_INIT;

	w.n_links = links;
	w.tx = flow_tx_new(&o, &e);
	w.rx = flow_rx_new(&h, links);
	for (size_t i = 0; i < links; i++) {
		struct link *l[2];
		fixture_local_links(l);
		OK(flow_tx_add_link(w.tx, l[0], &e), e);
		OK(flow_rx_add_link(w.rx, l[1], &e), e);
	}
	flow_tx_add_stream(w.tx, 1, false);
	flow_tx_add_stream(w.tx, 2, true);
}

static void setup(void)
{
	signal(SIGPIPE, SIG_IGN);
	fixture_start();
	memset(&w, 0, sizeof(w));
	pthread_mutex_init(&w.lock, NULL);
	thread_cond_init(&w.changed);
}

static void teardown(void)
{
	/* What comes in acknowledges at the sender. */
	flow_rx_free(w.rx);
	flow_tx_free(w.tx);
	fixture_clean();
}

static int send_one(uint32_t stream, size_t raw, size_t len, struct err *e)
{
	struct buf b = BUF_INIT;
	uint64_t number;

	if (flow_tx_reserve(w.tx, stream, raw, &number, e) < 0)
		return -1;
	memset(buf_reserve(&b, len), (int)(uint8_t)(number + stream), len);
	b.len = len;
	const int rc = flow_tx_batch(w.tx, stream, number, &b, e);
	ck_assert_ptr_null(b.data);
	return rc;
}

struct sender {
	uint32_t stream;
	unsigned n;
};

static void *send_many(void *arg)
{
	const struct sender *s = arg;
	struct err e = ERR_INIT;

	for (unsigned i = 0; i < s->n; i++)
		OK(send_one(s->stream, 20000, (i * 7919) % 30000, &e), e);
	return NULL;
}

static void finish(void)
{
	struct err e = ERR_INIT;

	OK(flow_tx_finish(w.tx, soon(), &e), e);
	WAIT_FOR(w.rx_ended);
	ck_assert_msg(!err_is_set(&w.rx_error), "%s", w.rx_error.text);
	ck_assert_int_eq(w.tx_errors, 0);
	ck_assert_int_eq(w.rx_ends, 1);
}

START_TEST(every_batch_arrives_once)
{
	struct sender s[2] = { { 1, 1500 }, { 2, 700 } };
	pthread_t t[2];
	uint64_t reserved, acked;
	struct flow_stats fs;

	w.ack_at_once = true;
	start(LINKS, 0, 0);
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, send_many, &s[i]);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	WAIT_FOR(w.batches == 2200);
	finish();
	flow_tx_progress(w.tx, 1, &reserved, &acked);
	ck_assert_uint_eq(reserved, 1500);
	ck_assert_uint_eq(acked, 1500);
	flow_tx_stats(w.tx, &fs);
	ck_assert_uint_eq(fs.in_flight_bytes, 0);
	ck_assert_uint_eq(fs.in_flight_raw, 0);
	ck_assert_uint_eq(fs.batches, 2200);
	ck_assert_uint_ge(fs.wire_bytes, w.bytes);
	/* Nothing of the links' HELLO and END was forgotten, but it is little. */
	ck_assert_uint_le(fs.wire_bytes, w.bytes + 2200 * (FRAME_HEADER_SIZE + FLOW_BATCH_HEAD) + LINKS * 400);
	ck_assert_int_eq(flow_rx_wire_bytes(w.rx) == fs.wire_bytes, 1);
	/* A payload of no bytes has no memory to give back. */
	ck_assert_int_ge(w.recycled, 2100);
}
END_TEST

START_TEST(acks_and_messages)
{
	const struct flow_stream_msg m = { .op = FLOW_END, .stream = 1, .number = 7, .text = "so long" };

	start(1, 0, 0);
	for (uint64_t i = 1; i <= 1000; i++)
		ck_assert_int_eq(flow_tx_ack(w.tx, 1, i), 0);
	ck_assert_int_eq(flow_tx_stream(w.tx, &m), 0);
	WAIT_FOR(w.last_ack == 1000 && w.n_messages == 1);
	ck_assert_mem_eq(&w.messages[0], &m, sizeof(m));
	/* Many acknowledgements, few frames: that it is less than one each shows that they replace each other. */
	ck_assert_uint_lt(w.acks, 1000);
	finish();
}
END_TEST

struct blocked {
	uint32_t stream;
	size_t raw;
	atomic_int sent;
	atomic_bool failed;
	struct err e;
};

static void *send_until_it_fails(void *arg)
{
	struct blocked *b = arg;

	for (;;) {
		if (send_one(b->stream, b->raw, 1000, &b->e) < 0) {
			b->failed = true;
			return NULL;
		}
		b->sent++;
	}
}

/* The sender has stopped by itself when its count does not move although everything it sent has arrived. */
static void wait_for_stop(const struct blocked *b)
{
	const int64_t until = soon();
	int before;

	do {
		before = b->sent;
		WAIT_FOR(w.batches >= (uint64_t)before);
		const struct timespec ts = { .tv_nsec = 20 * 1000 * 1000 };
		nanosleep(&ts, NULL);
		ck_assert_int_lt(clock_mono_ns(), until);
	} while (before != b->sent || before == 0);
}

/* Nothing is acknowledged: the bound on raw bytes, on batches of a stream, and on wire bytes, each for itself. */
START_TEST(window_holds_back)
{
	static const struct {
		uint32_t stream;
		size_t raw;
		uint64_t max_raw;
		int expected;
	} cases[] = {
		{ 1, 100000, 1000000, 5 }, { 2, 10, 0, FLOW_MAX_BATCHES }, /* an urgent one does not wait for the wire */
	};
	struct blocked b = { .stream = cases[_i].stream, .raw = cases[_i].raw };
	struct err e = ERR_INIT;
	pthread_t t;

	start(2, 0, cases[_i].max_raw);
	pthread_create(&t, NULL, send_until_it_fails, &b);
	WAIT_FOR(w.batches >= (uint64_t)cases[_i].expected);
	wait_for_stop(&b);
	ck_assert_int_eq(b.sent, cases[_i].expected);
	/* One acknowledged, one more. */
	OK(flow_tx_acked(w.tx, b.stream, 1, &e), e);
	WAIT_FOR(w.batches == (uint64_t)cases[_i].expected + 1);
	wait_for_stop(&b);
	ck_assert_int_eq(b.sent, cases[_i].expected + 1);
	flow_tx_abort(w.tx);
	pthread_join(t, NULL);
	ck_assert(b.failed);
	ck_assert_int_eq(b.e.cls, ERR_CANCELLED);
	ck_assert_int_eq(w.tx_errors, 0);
}
END_TEST

START_TEST(one_batch_always_goes)
{
	struct err e = ERR_INIT;

	start(1, 0, 1000);
	OK(send_one(1, 100000, 100, &e), e);
	WAIT_FOR(w.batches == 1);
}
END_TEST

/* The reader at the other end takes nothing of stream 1 before something of stream 3 has come, and so on: nobody is held up. */
START_TEST(a_stream_is_not_held_up_by_others)
{
	static const uint64_t max_raw[] = { 1000000, 0 }; /* the bound on raw bytes; the window */
	struct blocked b = { .stream = 1, .raw = 100000 };
	struct flow_stats fs;
	struct err e = ERR_INIT;
	pthread_t t;

	start(2, 0, max_raw[_i]);
	for (uint32_t id = 3; id <= STREAMS; id++)
		flow_tx_add_stream(w.tx, id, false);
	pthread_create(&t, NULL, send_until_it_fails, &b);
	wait_for_stop(&b);
	for (uint32_t id = 3; id <= STREAMS; id++) {
		OK(send_one(id, 100000, 100000, &e), e);
		WAIT_FOR(w.seen[id - 1][0]);
	}
	flow_tx_stats(w.tx, &fs);
	ck_assert_uint_le(fs.in_flight_raw, max_raw[_i] ? max_raw[_i] : FLOW_MAX_RAW);
	flow_tx_abort(w.tx);
	pthread_join(t, NULL);
}
END_TEST

START_TEST(forget_frees_and_wakes)
{
	struct blocked b = { .stream = 1, .raw = 100000 };
	struct flow_stats fs;
	struct err e = ERR_INIT;
	pthread_t t;

	start(2, 0, 1000000);
	pthread_create(&t, NULL, send_until_it_fails, &b);
	wait_for_stop(&b);
	flow_tx_forget(w.tx, 1);
	pthread_join(t, NULL);
	ck_assert_int_eq(b.e.cls, ERR_CANCELLED);
	flow_tx_stats(w.tx, &fs);
	ck_assert_uint_eq(fs.in_flight_raw, 0);
	ck_assert_uint_eq(fs.in_flight_bytes, 0);
	/* The other one goes on; late acknowledgements of the first harm nobody. */
	OK(send_one(2, 1000, 1000, &e), e);
	OK(flow_tx_acked(w.tx, 1, 5, &e), e);
	flow_tx_forget(w.tx, 1);
	WAIT_FOR(w.seen[1][0]);
	finish();
}
END_TEST

START_TEST(lies_about_acknowledgements)
{
	struct err e = ERR_INIT;
	uint64_t number;

	start(1, 0, 0);
	OK(send_one(1, 1000, 1000, &e), e);
	WAIT_FOR(w.batches == 1);
	OK(flow_tx_reserve(w.tx, 1, 1000, &number, &e), e);
	/* Reserved is not sent. */
	ck_assert_int_eq(flow_tx_acked(w.tx, 1, 2, &e), -1);
	ck_assert_int_eq(e.cls, ERR_PROTOCOL);
	HAS(e.text, "which was not sent");
	ck_assert_int_eq(flow_tx_acked(w.tx, 1, UINT64_MAX, &e), -1);
	ck_assert_int_eq(flow_tx_acked(w.tx, 3, 1, &e), -1);
	HAS(e.text, "does not exist");
	ck_assert_int_eq(flow_tx_acked(w.tx, 0, 1, &e), -1);
	ck_assert_int_eq(flow_tx_acked(w.tx, UINT32_MAX, 1, &e), -1);
}
END_TEST

/* Payload bytes per second as received, over most of a second, against the limit. */
static double measure_rate(uint64_t limit)
{
	struct err e = ERR_INIT;
	uint64_t from_bytes = 0;
	int64_t from = 0;
	const int64_t begin = clock_mono_ns();

	while (clock_mono_ns() < begin + 900 * NS_PER_MS) {
		const size_t raw = flow_tx_batch_hint(w.tx, 1);
		OK(send_one(1, raw, raw, &e), e);
		THREAD_LOCKED(&w.lock);
		if (from == 0 && clock_mono_ns() > begin + 100 * NS_PER_MS) {
			from = clock_mono_ns();
			from_bytes = w.bytes;
		}
	}
	THREAD_LOCKED(&w.lock);
	return (double)(w.bytes - from_bytes) / ((double)(clock_mono_ns() - from) / 1e9) / (double)limit;
}

START_TEST(rate_limit_holds)
{
	static const uint64_t limits[] = { 5000000, 20000000 };
	double rate;

	w.ack_at_once = true;
	start(2, limits[_i], 0);
	/* A busy machine may not give us the time to send; nothing excuses more than the limit. */
	for (int attempt = 0; attempt < 5; attempt++) {
		rate = measure_rate(limits[_i]);
		ck_assert_msg(rate < 1.05, "%.3f of the limit", rate);
		if (rate > 0.95)
			return;
	}
	ck_abort_msg("%.3f of the limit at best", rate);
}
END_TEST

START_TEST(rate_limit_changes)
{
	struct err e = ERR_INIT;

	w.ack_at_once = true;
	start(2, 100000, 0);
	/* At this rate the second batch would take ten seconds. */
	OK(send_one(1, 1 << 20, 1 << 20, &e), e);
	OK(send_one(2, 1000, 1000, &e), e);
	flow_tx_set_rate_limit(w.tx, 0);
	const int64_t begin = clock_mono_ns();
	WAIT_FOR(w.batches == 2);
	ck_assert_int_lt(clock_mono_ns() - begin, 5 * NS_PER_S);
	finish();
}
END_TEST

START_TEST(hint_follows_the_rate)
{
	start(1, 1000000, 0);
	ck_assert_uint_eq(flow_tx_batch_hint(w.tx, 1), 64 * 1024);
	flow_tx_set_rate_limit(w.tx, 10000000);
	ck_assert_uint_eq(flow_tx_batch_hint(w.tx, 1), 100000);
	/* Without a limit, and nothing known yet: a quarter of the smallest window. */
	flow_tx_set_rate_limit(w.tx, 0);
	ck_assert_uint_eq(flow_tx_batch_hint(w.tx, 1), FLOW_WINDOW_FLOOR / 4);
}
END_TEST

START_TEST(a_broken_link_ends_everything_once)
{
	struct blocked b = { .stream = 1, .raw = 100 };
	struct err e = ERR_INIT;
	pthread_t t;

	w.ack_at_once = true;
	start(LINKS, 0, 0);
	pthread_create(&t, NULL, send_until_it_fails, &b);
	WAIT_FOR(w.batches > 10);
	flow_rx_abort(w.rx);
	pthread_join(t, NULL);
	WAIT_FOR(w.tx_errors > 0);
	ck_assert_int_eq(w.tx_errors, 1);
	ck_assert_int_eq(w.rx_ends, 0);
	ck_assert_int_eq(w.tx_error.cls, ERR_PEER);
	ck_assert_int_eq(flow_tx_finish(w.tx, soon(), &e), -1);
	ck_assert_str_eq(e.text, w.tx_error.text);
	ck_assert_int_eq(flow_tx_ack(w.tx, 1, 1), -1);
}
END_TEST

START_TEST(handler_says_no)
{
	struct err e = ERR_INIT;

	start(2, 0, 0);
	flow_tx_add_stream(w.tx, STREAMS + 1, false);
	OK(send_one(STREAMS + 1, 100, 100, &e), e);
	WAIT_FOR(w.rx_ended);
	ck_assert_int_eq(w.rx_ends, 1);
	ck_assert_int_eq(w.rx_error.cls, ERR_PROTOCOL);
	HAS(w.rx_error.text, "local: unexpected batch");
}
END_TEST

START_TEST(frames_that_do_not_belong)
{
	static const struct {
		uint16_t type;
		const char *payload;
		size_t len;
		const char *says;
	} lies[] = {
		{ FRAME_MSG, "{}", 2, "MSG frame came on a data link" },
		{ FRAME_PING, "", 0, "PING frame came on a data link" },
		{ FRAME_ACK, "\0\0\0\1", 4, "4 bytes of payload" },
		{ FRAME_ACK, "\0\0\0\0\0\0\0\0\0\0\0\1", 12, "stream 0" },
		{ FRAME_BATCH, "\0\0\0\1\0\0\0\0\0\0\0", 11, "11 bytes of payload" },
		{ FRAME_STREAM, "\4\0\0\0", 4, "4 bytes of payload" },
		{ FRAME_STREAM, "\6\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0", 20, "unknown operation" },
		{ FRAME_STREAM, "\4\0\0\1\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0", 20, "unknown operation" },
		{ FRAME_STREAM, "\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20, "stream 0" },
	};
	const struct flow_rx_handler h = {
		.on_batch = on_batch, .on_ack = on_ack, .on_stream = on_stream, .on_end = on_end
	};
	union {
		const char *in;
		void *out;
	} p;
	struct link *l[2];
	struct err e = ERR_INIT;

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		p.in = lies[i].payload;
		const struct iovec iov = { .iov_base = p.out, .iov_len = lies[i].len };
		w.rx_ended = false;
		w.rx = flow_rx_new(&h, 1);
		fixture_local_links(l);
		OK(flow_rx_add_link(w.rx, l[1], &e), e);
		OK(link_send(l[0], lies[i].type, &iov, 1, soon(), &e), e);
		WAIT_FOR(w.rx_ended);
		ck_assert_int_eq(w.rx_error.cls, ERR_PROTOCOL);
		HAS(w.rx_error.text, lies[i].says);
		flow_rx_free(w.rx);
		link_free(l[0]);
	}
	w.rx = NULL;
}
END_TEST

START_TEST(finish_has_a_deadline)
{
	struct err e = ERR_INIT;
	struct link *l[2];

	w.tx = flow_tx_new(&(struct flow_tx_opts){ .on_error = on_tx_error }, &e);
	fixture_local_links(l);
	OK(flow_tx_add_link(w.tx, l[0], &e), e);
	const int64_t begin = clock_mono_ns();
	/* Nobody answers END at the other end. */
	ck_assert_int_eq(flow_tx_finish(w.tx, in_ms(100), &e), -1);
	ck_assert_int_lt(clock_mono_ns() - begin, 10 * NS_PER_S);
	link_free(l[1]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("transport flow");
	TCase *pure = tcase_create("window");
	TCase *t = tcase_create("flow");

	tcase_add_loop_test(pure, window_settles_at_50_ms, 0, (int)(sizeof(ways) / sizeof(ways[0])));
	tcase_add_test(pure, window_opens_at_once_on_a_fast_link);
	tcase_add_test(pure, window_follows_a_link_that_changes);
	tcase_add_test(pure, slow_threads_do_not_close_the_window);
	tcase_add_loop_test(pure, little_traffic_does_not_close_the_window, 0, 2);
	tcase_add_loop_test(pure, bursts_are_not_believed, 0, 3);
	tcase_add_loop_test(pure, bucket_is_exact, 0, 4);
	tcase_add_test(pure, bucket_does_not_save_up);
	suite_add_tcase(s, pure);
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, every_batch_arrives_once);
	tcase_add_test(t, acks_and_messages);
	tcase_add_loop_test(t, window_holds_back, 0, 2);
	tcase_add_test(t, one_batch_always_goes);
	tcase_add_loop_test(t, a_stream_is_not_held_up_by_others, 0, 2);
	tcase_add_test(t, forget_frees_and_wakes);
	tcase_add_test(t, lies_about_acknowledgements);
	tcase_add_loop_test(t, rate_limit_holds, 0, 2);
	tcase_add_test(t, rate_limit_changes);
	tcase_add_test(t, hint_follows_the_rate);
	tcase_add_test(t, a_broken_link_ends_everything_once);
	tcase_add_test(t, handler_says_no);
	tcase_add_test(t, frames_that_do_not_belong);
	tcase_add_test(t, finish_has_a_deadline);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
