#include "replicator/forwarder.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/cloud_event.h"
#include "replicator/inflight.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BACKOFF_MAX_NS (60 * NS_PER_S)
#define IDLE_NS (1 * NS_PER_S)
#define BUSY_NS (100 * NS_PER_MS)
#define SAVE_NS (500 * NS_PER_MS)  /* so many acknowledgements a power failure makes us ask for again */
#define TRIMMED_NS (60 * NS_PER_S) /* how often losses are said while they go on */
#define TOPIC_NS (2 * NS_PER_S)
#define END_NS (2 * NS_PER_S)
#define STATE_BIT (UINT64_C(1) << 63) /* of a tag; the rest is the sequence number */

struct forwarder {
	/* fixed after forwarder_start */
	struct outbox *outbox;
	struct forwarder_opts opts; /* its strings are ours */
	struct producer_property *properties;
	char *source; /* "vmferry/HOST" */
	char *target; /* where the states go */

	/* the thread's own */
	struct producer *producer;
	struct inflight events, states;
	unsigned window, next_window;
	bool loaded;        /* the position was read */
	bool failed;        /* this producer has to go */
	bool topic_settled; /* the states' topic is there, or will not be made by us */
	struct outbox_position saved;
	int64_t saved_ns, trimmed_said_ns, backoff_ns;
	bool stuck;  /* librdkafka's queue was full */
	int said[8]; /* librdkafka's codes of errors that were logged, until things go well again */
	unsigned n_said;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	unsigned refs;
	bool stop;
	int64_t stop_by_ns;
	bool left_outbox, ended;
	uint64_t probe_wanted, probe_done;
	int64_t probe_ns;
	bool problem_is_link; /* the problem is one of reaching brokers, and none of what they say */
	struct forwarder_status status;
};

/* ---- what is said ---- */

/* librdkafka says the same few things with every attempt; the log has each once. */
static bool said_already(struct forwarder *f, int code)
{
	for (unsigned i = 0; i < f->n_said; i++)
		if (f->said[i] == code)
			return true;
	if (f->n_said < sizeof(f->said) / sizeof(f->said[0]))
		f->said[f->n_said++] = code;
	return false;
}

static void note_problem(struct forwarder *f, const struct err *why, bool link)
{
	if (!said_already(f, why->errnum))
		log_warn("kafka_problem", "brokers=%s msg=%s remedy=%s", LOG_Q(f->opts.brokers), LOG_Q(why->text),
			 LOG_Q(why->remedy));
	THREAD_LOCKED(&f->lock);
	/* That a topic may not be written to stays the problem when the connection is lost as well. */
	if (link && err_is_set(&f->status.problem) && !f->problem_is_link)
		return;
	f->status.connected = false;
	f->status.problem = *why;
	f->problem_is_link = link;
}

static void note_success(struct forwarder *f, uint64_t sent)
{
	if (f->n_said)
		log_info("kafka_mended", "brokers=%s", LOG_Q(f->opts.brokers));
	f->n_said = 0;
	THREAD_LOCKED(&f->lock);
	f->status.connected = true;
	err_clear(&f->status.problem);
	f->status.sent += sent;
}

/* Returns how many they are by now. */
static uint64_t note_dropped(struct forwarder *f, uint64_t n)
{
	THREAD_LOCKED(&f->lock);
	f->status.dropped += n;
	return f->status.dropped;
}

static void fail(struct forwarder *f, const struct err *why)
{
	f->failed = true;
	note_problem(f, why, false);
}

static bool stopping(struct forwarder *f)
{
	THREAD_LOCKED(&f->lock);
	return f->stop;
}

/* ---- what the producer says ---- */

/* One message that no broker will take must not keep all others waiting. */
static void give_up(struct forwarder *f, bool state, uint64_t seq, const char *type, const struct err *why)
{
	struct err e = ERR_INIT;
	log_error("kafka_refused", "kind=%s seq=%" PRIu64 " msg=%s remedy=%s", state ? "state" : "event", seq,
		  LOG_Q(why->text), LOG_Q(why->remedy));
	uint64_t total = state ? 0 : note_dropped(f, 1);
	/* That an event about events was refused is not told by another one. */
	if (state || (type && strcmp(type, "events.dropped") == 0))
		return;
	json_t *data = json_pack("{s:i, s:I, s:I, s:I, s:s}", "count", 1, "total", (json_int_t)total, "first_seq",
				 (json_int_t)seq, "last_seq", (json_int_t)seq, "reason", why->text);
	if (outbox_append(f->outbox, "events.dropped", NULL, data, NULL, &e) < 0)
		log_error("event_not_kept", "type=events.dropped msg=%s", LOG_Q(e.text));
	json_decref(data);
}

struct look {
	uint64_t seq;
	bool ours;
};

static bool is_about_events(void *ctx, const struct outbox_event *ev)
{
	struct look *l = ctx;
	l->ours = ev->seq == l->seq && strcmp(ev->type, "events.dropped") == 0;
	return false;
}

static void on_outcome(void *ctx, uint64_t tag, enum producer_outcome outcome, const struct err *why)
{
	struct forwarder *f = ctx;
	bool state = tag & STATE_BIT;
	uint64_t seq = tag & ~STATE_BIT;
	struct inflight *s = state ? &f->states : &f->events;
	if (outcome == PRODUCER_DELIVERED) {
		inflight_done(s, seq);
		if (f->window < FORWARDER_WINDOW)
			f->window *= 2;
		f->backoff_ns = f->opts.backoff_ns;
		note_success(f, 1);
		return;
	}
	if (outcome == PRODUCER_REFUSED && f->window == 1) {
		struct look l = { .seq = seq };
		struct err ignored = ERR_INIT;
		if (!state)
			outbox_read(f->outbox, seq - 1, 1, is_about_events, &l, &ignored);
		give_up(f, state, seq, l.ours ? "events.dropped" : NULL, why);
		inflight_done(s, seq);
		f->failed = true; /* the producer's numbering has a hole now; the next one starts afresh */
		return;
	}
	if (outcome == PRODUCER_REFUSED)
		f->next_window = 1; /* alone each shows whether it is the one */
	fail(f, why);
}

static void on_trouble(void *ctx, const struct err *why)
{
	note_problem(ctx, why, true);
}

/* ---- from the outbox to the producer ---- */

/* How many more of that stream may go: half of the window each, so that neither waits for the other. */
static unsigned room(const struct forwarder *f, const struct inflight *s)
{
	unsigned total = f->events.n + f->states.n, share = f->window > 1 ? f->window / 2 : 1;
	if (f->failed || total >= f->window || s->n >= share)
		return 0;
	unsigned a = f->window - total, b = share - s->n;
	return a < b ? a : b;
}

/* False: no more for now. */
static bool send(struct forwarder *f, struct inflight *s, const struct producer_message *m, const char *type)
{
	struct err e = ERR_INIT;
	bool state = m->tag & STATE_BIT;
	int rc = producer_send(f->producer, m, &e);
	if (rc == 0) {
		inflight_push(s, m->tag & ~STATE_BIT, false);
		return true;
	}
	if (rc > 0) {
		f->stuck = true;
		if (f->events.n + f->states.n == 0) {
			err_set(&e, ERR_CONFIG, "kafka: librdkafka's queue has no room for one message");
			err_remedy(&e, "raise queue.buffering.max.* in kafka.properties");
			fail(f, &e);
		}
		return false;
	}
	if (e.cls != ERR_REFUSED) {
		fail(f, &e);
		return false;
	}
	give_up(f, state, m->tag & ~STATE_BIT, type, &e);
	inflight_push(s, m->tag & ~STATE_BIT, true);
	return true;
}

static bool send_event(void *ctx, const struct outbox_event *ev)
{
	struct forwarder *f = ctx;
	if (ev->seq != f->events.sent + 1)
		return false; /* trimmed this moment: the next round counts what is missing */
	struct cloud_event ce;
	cloud_event_of_event(&ce, ev, f->source, f->opts.host);
	const struct producer_message m = { .topic = f->opts.topic,
					    .key = ce.key,
					    .value = ce.value,
					    .headers = ce.headers,
					    .n_headers = ce.n_headers,
					    .tag = ev->seq };
	bool more = send(f, &f->events, &m, ev->type);
	cloud_event_fini(&ce);
	return more;
}

static bool send_state(void *ctx, const struct outbox_state *st)
{
	struct forwarder *f = ctx;
	struct cloud_event ce;
	cloud_event_of_state(&ce, st, f->source);
	const struct producer_message m = { .topic = f->opts.state_topic,
					    .key = ce.key,
					    .value = ce.value,
					    .headers = ce.headers,
					    .n_headers = ce.n_headers,
					    .tag = st->seq | STATE_BIT };
	bool more = send(f, &f->states, &m, NULL);
	cloud_event_fini(&ce);
	return more;
}

static int skip_trimmed(struct forwarder *f, struct err *e)
{
	uint64_t up_to = 0;
	int64_t n = outbox_skip_trimmed(f->outbox, f->events.sent, note_dropped(f, 0), &up_to, e);
	if (n <= 0)
		return (int)n;
	log_error(
		"events_dropped", "count=%" PRId64 " first_seq=%" PRIu64 " last_seq=%" PRIu64 " msg=%s", n,
		f->events.sent + 1, up_to,
		LOG_Q("Kafka was away or slow for so long that the outbox is full: the oldest events are lost to it"));
	note_dropped(f, (uint64_t)n);
	f->trimmed_said_ns = clock_mono_ns();
	inflight_skip(&f->events, up_to);
	return 0;
}

/* A broker that makes topics by itself makes them without compaction. False: not now. */
static bool have_state_topic(struct forwarder *f)
{
	struct err e = ERR_INIT;
	if (f->topic_settled || stopping(f))
		return f->topic_settled;
	int rc = producer_make_compacted(f->producer, f->opts.state_topic, TOPIC_NS, &e);
	/* A broker that is there and says nothing to this has to be taken as it is. */
	if (rc > 0 && producer_probe(f->producer, TOPIC_NS, &e) == 0)
		rc = err_set(&e, ERR_PEER, "topic %s: the broker does not answer the request to make it",
			     f->opts.state_topic);
	if (rc < 0)
		log_info("kafka_topic", "msg=%s remedy=%s", LOG_Q(e.text),
			 LOG_Q("make the topic, with cleanup.policy=compact, if it is not there"));
	f->topic_settled = rc <= 0;
	return f->topic_settled;
}

static int fill_states(struct forwarder *f, struct err *e)
{
	unsigned n = room(f, &f->states);
	uint64_t last = outbox_last_state(f->outbox);
	if (n == 0 || last <= f->states.sent || !have_state_topic(f))
		return 0;
	int given = outbox_read_states(f->outbox, f->states.sent, n, send_state, f, e);
	if (given < 0)
		return -1;
	/* The newest may have gone without a trace: nobody waits for it. */
	if ((unsigned)given < n && !f->stuck && !f->failed)
		inflight_skip(&f->states, last);
	return 0;
}

static int fill(struct forwarder *f, struct err *e)
{
	f->stuck = false;
	unsigned n = room(f, &f->events);
	bool more = outbox_last(f->outbox) > f->events.sent;
	bool look = n > 0 || clock_mono_ns() - f->trimmed_said_ns >= TRIMMED_NS;
	if (more && look && skip_trimmed(f, e) < 0)
		return -1;
	if (more && n > 0 && outbox_read(f->outbox, f->events.sent, n, send_event, f, e) < 0)
		return -1;
	return fill_states(f, e);
}

/* Not for every acknowledgement: a position on disk costs a sync. */
static int save_position(struct forwarder *f, bool now, struct err *e)
{
	const struct outbox_position pos = { .events = f->events.acked, .states = f->states.acked };
	if (pos.events == f->saved.events && pos.states == f->saved.states)
		return 0;
	bool drained = f->events.n + f->states.n == 0;
	if (!now && !drained && clock_mono_ns() - f->saved_ns < SAVE_NS)
		return 0;
	if (outbox_set_position(f->outbox, &pos, e) < 0)
		return -1;
	f->saved = pos;
	f->saved_ns = clock_mono_ns();
	return 0;
}

static void publish(struct forwarder *f)
{
	struct err ignored = ERR_INIT;
	uint64_t last = outbox_last(f->outbox), states = 0;
	outbox_count_states(f->outbox, f->states.acked, &states, &ignored);
	THREAD_LOCKED(&f->lock);
	f->status.waiting = last > f->events.acked ? last - f->events.acked : 0;
	f->status.waiting_states = states;
}

/* ---- the thread ---- */

static void serve_probe(struct forwarder *f)
{
	uint64_t wanted;
	int64_t within;
	{
		THREAD_LOCKED(&f->lock);
		wanted = f->probe_wanted;
		within = f->probe_ns;
		if (wanted == f->probe_done)
			return;
	}
	struct err e = ERR_INIT;
	int rc = f->producer ? producer_probe(f->producer, within, &e) : 0;
	if (rc < 0)
		note_problem(f, &e, true);
	publish(f);
	THREAD_LOCKED(&f->lock);
	if (rc == 0 && f->producer && (!err_is_set(&f->status.problem) || f->problem_is_link)) {
		f->status.connected = true;
		err_clear(&f->status.problem);
	}
	f->probe_done = wanted;
	pthread_cond_broadcast(&f->changed);
}

static int begin(struct forwarder *f, struct err *e)
{
	if (!f->loaded) {
		if (outbox_get_position(f->outbox, f->target, &f->saved, e) < 0)
			return -1;
		f->events.acked = f->saved.events;
		f->states.acked = f->saved.states;
		f->loaded = true;
	}
	inflight_rewind(&f->events);
	inflight_rewind(&f->states);
	f->failed = false;
	f->window = f->next_window;
	f->next_window = FORWARDER_WINDOW;
	const struct producer_opts opts = { .brokers = f->opts.brokers,
					    .properties = f->opts.properties,
					    .n_properties = f->opts.n_properties,
					    .outcome = on_outcome,
					    .trouble = on_trouble,
					    .ctx = f };
	f->producer = producer_new(&opts, e);
	return f->producer ? 0 : -1;
}

static void wait_for_work(struct forwarder *f)
{
	bool idle = f->events.n + f->states.n == 0;
	if (idle && !f->stuck)
		outbox_wait_either(f->outbox, f->events.sent, f->states.sent, clock_mono_ns() + IDLE_NS);
	producer_poll(f->producer, idle && !f->stuck ? 0 : BUSY_NS);
}

static bool may_go_on(struct forwarder *f)
{
	THREAD_LOCKED(&f->lock);
	if (!f->stop)
		return true;
	/* Where nobody answers there is nothing to wait for. */
	bool drained = f->status.waiting + f->status.waiting_states == 0;
	return !drained && !err_is_set(&f->status.problem) && clock_mono_ns() < f->stop_by_ns;
}

/* One producer's life: until it fails, the outbox does, or we are to stop. */
static void serve(struct forwarder *f)
{
	struct err e = ERR_INIT;
	if (begin(f, &e) < 0) {
		fail(f, &e);
		return;
	}
	while (!f->failed) {
		if (fill(f, &e) < 0 || save_position(f, false, &e) < 0 || producer_is_fatal(f->producer, &e))
			fail(f, &e);
		publish(f);
		serve_probe(f);
		if (!may_go_on(f))
			break;
		if (!f->failed)
			wait_for_work(f);
	}
	struct err late = ERR_INIT;
	if (save_position(f, true, &late) < 0)
		fail(f, &late);
}

static void back_off(struct forwarder *f)
{
	int64_t end = clock_mono_ns() + f->backoff_ns;
	f->backoff_ns = f->backoff_ns * 2 < BACKOFF_MAX_NS ? f->backoff_ns * 2 : BACKOFF_MAX_NS;
	while (!stopping(f) && clock_mono_ns() < end) {
		publish(f);
		serve_probe(f);
		THREAD_LOCKED(&f->lock);
		if (!f->stop && f->probe_wanted == f->probe_done)
			thread_cond_wait_until(&f->changed, &f->lock, end);
	}
}

static void unref(struct forwarder *f)
{
	pthread_mutex_lock(&f->lock);
	unsigned left = --f->refs;
	pthread_mutex_unlock(&f->lock);
	if (left > 0)
		return;
	for (size_t i = 0; i < f->opts.n_properties; i++) {
		free((void *)(uintptr_t)f->properties[i].name);
		free((void *)(uintptr_t)f->properties[i].value);
	}
	free(f->properties);
	free((void *)(uintptr_t)f->opts.host);
	free((void *)(uintptr_t)f->opts.brokers);
	free((void *)(uintptr_t)f->opts.topic);
	free((void *)(uintptr_t)f->opts.state_topic);
	free(f->source);
	free(f->target);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

static void *run(void *arg)
{
	struct forwarder *f = arg;
	while (!stopping(f)) {
		serve(f);
		if (stopping(f))
			break;
		producer_free(f->producer);
		f->producer = NULL;
		{
			THREAD_LOCKED(&f->lock);
			f->status.restarts++;
		}
		back_off(f);
	}
	{
		THREAD_LOCKED(&f->lock);
		f->left_outbox = true;
		f->probe_done = UINT64_MAX;
		pthread_cond_broadcast(&f->changed);
	}
	producer_free(f->producer);
	{
		THREAD_LOCKED(&f->lock);
		f->ended = true;
		pthread_cond_broadcast(&f->changed);
	}
	unref(f);
	return NULL;
}

/* ---- for others ---- */

static struct producer_opts producer_opts_of(const struct forwarder_opts *opts)
{
	return (struct producer_opts){ .brokers = opts->brokers,
				       .properties = opts->properties,
				       .n_properties = opts->n_properties };
}

int forwarder_check(const struct forwarder_opts *opts, struct err *e)
{
	const struct producer_opts p = producer_opts_of(opts);
	return producer_check(&p, e);
}

struct forwarder *forwarder_start(struct outbox *o, const struct forwarder_opts *opts, struct err *e)
{
	if (forwarder_check(opts, e) < 0)
		return NULL;
	struct forwarder *f = mem_alloc(sizeof(*f));
	f->outbox = o;
	f->properties = mem_alloc_array(opts->n_properties, sizeof(*f->properties));
	for (size_t i = 0; i < opts->n_properties; i++)
		f->properties[i] = (struct producer_property){ .name = mem_strdup(opts->properties[i].name),
							       .value = mem_strdup(opts->properties[i].value) };
	f->opts = (struct forwarder_opts){ .host = mem_strdup(opts->host),
					   .brokers = mem_strdup(opts->brokers),
					   .topic = mem_strdup(opts->topic),
					   .state_topic = mem_strdup(opts->state_topic),
					   .properties = f->properties,
					   .n_properties = opts->n_properties,
					   .backoff_ns = opts->backoff_ns ? opts->backoff_ns : NS_PER_S };
	f->source = mem_printf("vmferry/%s", opts->host);
	f->target = mem_printf("%s@%s", opts->state_topic, opts->brokers);
	f->backoff_ns = f->opts.backoff_ns;
	f->next_window = FORWARDER_WINDOW;
	f->trimmed_said_ns = clock_mono_ns() - TRIMMED_NS;
	f->refs = 2;
	pthread_mutex_init(&f->lock, NULL);
	thread_cond_init(&f->changed);
	if (thread_start_detached("kafka", run, f, e) == 0)
		return f;
	f->refs = 1;
	unref(f);
	return NULL;
}

void forwarder_stop(struct forwarder *f, int64_t grace_ns)
{
	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	f->stop = true;
	f->stop_by_ns = clock_mono_ns() + grace_ns;
	pthread_cond_broadcast(&f->changed);
	while (!f->left_outbox) {
		pthread_mutex_unlock(&f->lock);
		outbox_wake(f->outbox); /* again and again: it may have been about to wait */
		pthread_mutex_lock(&f->lock);
		if (!f->left_outbox)
			thread_cond_wait_until(&f->changed, &f->lock, clock_mono_ns() + BUSY_NS);
	}
	int64_t end = clock_mono_ns() + END_NS;
	while (!f->ended && thread_cond_wait_until(&f->changed, &f->lock, end) == 0)
		;
	pthread_mutex_unlock(&f->lock);
	unref(f);
}

void forwarder_status(struct forwarder *f, int64_t probe_ns, struct forwarder_status *out)
{
	pthread_mutex_lock(&f->lock);
	if (probe_ns > 0) {
		uint64_t ticket = ++f->probe_wanted;
		int64_t end = clock_mono_ns() + probe_ns + NS_PER_S;
		f->probe_ns = probe_ns;
		pthread_cond_broadcast(&f->changed);
		pthread_mutex_unlock(&f->lock);
		outbox_wake(f->outbox);
		pthread_mutex_lock(&f->lock);
		while (f->probe_done < ticket && thread_cond_wait_until(&f->changed, &f->lock, end) == 0)
			;
	}
	*out = f->status;
	pthread_mutex_unlock(&f->lock);
}
