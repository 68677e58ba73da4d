#include "tools/vmferryd/kafka.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

#include <stdlib.h>

#define GRACE_NS (2 * NS_PER_S)
#define PROBE_NS (3 * NS_PER_S)

struct kafka {
	struct outbox *outbox; /* fixed */

	pthread_mutex_t lock;
	/* under lock */
	bool wanted;
	struct forwarder *forwarder;
	struct err why; /* why there is none although wanted */
};

/* The options of a configuration; *properties to be freed. Points into c. */
static struct forwarder_opts options(const struct config *c, struct producer_property **properties)
{
	size_t n = c->kafka.n_properties;
	struct producer_property *p = mem_alloc_array(n, sizeof(*p));
	for (size_t i = 0; i < n; i++)
		p[i] = (struct producer_property){ .name = c->kafka.properties[i].name,
						   .value = c->kafka.properties[i].value };
	*properties = p;
	return (struct forwarder_opts){ .host = c->name,
					.brokers = c->kafka.brokers,
					.topic = c->kafka.topic,
					.state_topic = c->kafka.state_topic,
					.properties = p,
					.n_properties = n };
}

int kafka_check_config(const struct config *c, struct err *e)
{
	if (!*c->kafka.brokers)
		return 0;
	MEM_AUTO struct producer_property *properties = NULL;
	const struct forwarder_opts opts = options(c, &properties);
	return forwarder_check(&opts, e);
}

static void start_locked(struct kafka *k, const struct config *c)
{
	MEM_AUTO struct producer_property *properties = NULL;
	const struct forwarder_opts opts = options(c, &properties);
	err_clear(&k->why);
	k->wanted = *c->kafka.brokers != '\0';
	if (!k->wanted)
		return;
	k->forwarder = forwarder_start(k->outbox, &opts, &k->why);
	if (k->forwarder)
		log_info("kafka_started", "brokers=%s topic=%s", LOG_Q(opts.brokers), opts.topic);
	else
		log_error("kafka_off", "msg=%s remedy=%s", LOG_Q(k->why.text), LOG_Q(k->why.remedy));
}

struct kafka *kafka_start(struct outbox *o, const struct config *c)
{
	struct kafka *k = mem_alloc(sizeof(*k));
	k->outbox = o;
	pthread_mutex_init(&k->lock, NULL);
	THREAD_LOCKED(&k->lock);
	start_locked(k, c);
	return k;
}

void kafka_reload(struct kafka *k, const struct config *c)
{
	THREAD_LOCKED(&k->lock);
	/* Certificates that librdkafka was given may be new behind the same names: it reads them when it starts. */
	forwarder_stop(k->forwarder, GRACE_NS);
	k->forwarder = NULL;
	start_locked(k, c);
}

void kafka_stop(struct kafka *k)
{
	if (!k)
		return;
	forwarder_stop(k->forwarder, GRACE_NS);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

bool kafka_status(struct kafka *k, struct forwarder_status *s, struct err *e)
{
	THREAD_LOCKED(&k->lock);
	*s = (struct forwarder_status){ 0 };
	if (k->forwarder)
		forwarder_status(k->forwarder, PROBE_NS, s);
	else if (k->wanted)
		*e = k->why;
	return k->wanted;
}
