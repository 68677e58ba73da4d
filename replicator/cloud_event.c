#include "replicator/cloud_event.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add(struct cloud_event *ce, const char *name, const char *value)
{
	assert(ce->n_headers < PRODUCER_MAX_HEADERS);
	ce->headers[ce->n_headers++] = (struct producer_header){ .name = name, .value = value };
}

/* All but the type. subject: "" for none. */
static void fill(struct cloud_event *ce, uint64_t seq, const char *id, int64_t time_ns, const char *source,
		 const char *subject, const json_t *data)
{
	snprintf(ce->sequence, sizeof(ce->sequence), "%020" PRIu64, seq);
	clock_format_wall(time_ns, ce->when, sizeof(ce->when));
	add(ce, "ce_specversion", "1.0");
	add(ce, "ce_id", id);
	add(ce, "ce_source", source);
	add(ce, "ce_type", ce->type);
	add(ce, "ce_time", ce->when);
	add(ce, "ce_sequence", ce->sequence);
	if (*subject)
		add(ce, "ce_subject", subject);
	if (!data)
		return;
	add(ce, "content-type", "application/json");
	ce->value = json_dumps(data, JSON_COMPACT);
	if (!ce->value)
		ce->value = mem_strdup("{}");
}

void cloud_event_of_event(struct cloud_event *ce, const struct outbox_event *ev, const char *source, const char *host)
{
	*ce = (struct cloud_event){ .key = *ev->subject ? ev->subject : host };
	snprintf(ce->type, sizeof(ce->type), "io.vmferry.%s", ev->type);
	fill(ce, ev->seq, ev->id, ev->time_ns, source, ev->subject, ev->data);
}

void cloud_event_of_state(struct cloud_event *ce, const struct outbox_state *st, const char *source)
{
	*ce = (struct cloud_event){ .key = st->key };
	snprintf(ce->type, sizeof(ce->type), "io.vmferry.state.%.*s", (int)strcspn(st->key, "/"), st->key);
	fill(ce, st->seq, st->id, st->time_ns, source, st->key, st->data);
}

void cloud_event_fini(struct cloud_event *ce)
{
	free(ce->value);
	ce->value = NULL;
}
