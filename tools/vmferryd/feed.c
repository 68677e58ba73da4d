/* The call "events": {"since": number, "last": count, "wait_ms": n} -> {"events":[...], "last": number of the newest
 * given}.
 * 
 * Asked again with that number as "since" it goes on where it stopped, so that nothing is lost however slow the
 * reader is. With wait_ms it waits that long for an event if there is none yet. */
#include "base/clock.h"
#include "tools/vmferryd/agent.h"
#include "tools/vmferryd/calls.h"

#include <stdlib.h>
#include <string.h>

#define BATCH 200u
#define BATCH_BYTES (1u << 20) /* a message is at most 4 MiB */
#define LOOK_NS (250 * NS_PER_MS)
#define WAIT_MAX_MS 30000

struct feed {
	json_t *events;
	size_t bytes;
	uint64_t seen;
};

static bool take(void *ctx, const struct outbox_event *ev)
{
	struct feed *f = ctx;
	json_t *event = outbox_event_json(ev);
	f->bytes += json_dumpb(event, NULL, 0, JSON_COMPACT);
	f->seen = ev->seq;
	json_array_append_new(f->events, event);
	return f->bytes < BATCH_BYTES;
}

static uint64_t number(const json_t *args, const char *key, uint64_t otherwise)
{
	const json_t *v = json_object_get(args, key);
	json_int_t n = json_integer_value(v);
	return json_is_integer(v) && n >= 0 ? (uint64_t)n : otherwise;
}

static void wait_for_one(struct agent *a, struct rpc_call *call, uint64_t after, uint64_t wait_ms)
{
	int64_t end = clock_mono_ns() + (int64_t)(wait_ms < WAIT_MAX_MS ? wait_ms : WAIT_MAX_MS) * NS_PER_MS;
	while (!rpc_cancelled(call) && !agent_stopping(a)) {
		int64_t now = clock_mono_ns();
		if (now >= end || outbox_wait(a->outbox, after, now + LOOK_NS < end ? now + LOOK_NS : end))
			return;
	}
}

int feed_events(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	uint64_t newest = outbox_last(a->outbox), last = number(args, "last", UINT64_MAX);
	struct feed f = { .seen = number(args, "since", 0) };
	if (last < newest && newest - last > f.seen)
		f.seen = newest - last;
	if (newest <= f.seen)
		wait_for_one(a, call, f.seen, number(args, "wait_ms", 0));
	f.events = json_array();
	if (outbox_read(a->outbox, f.seen, BATCH, take, &f, e) < 0) {
		json_decref(f.events);
		return -1;
	}
	*result = json_pack("{s:o, s:I}", "events", f.events, "last", (json_int_t)f.seen);
	return 0;
}
