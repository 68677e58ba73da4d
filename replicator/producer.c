#include "replicator/producer.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <librdkafka/rdkafka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct producer {
	struct producer_opts opts; /* callbacks alone */
	rd_kafka_t *rk;
};

/* ---- errors ---- */

static const char *remedy_of(rd_kafka_resp_err_t code)
{
	/* clang-format off */
	static const struct {
		rd_kafka_resp_err_t code;
		const char *remedy;
	} table[] = {
		{ RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, "see that a broker runs at kafka.brokers and can be reached from this host" },
		{ RD_KAFKA_RESP_ERR__TRANSPORT, "see that a broker runs at kafka.brokers and can be reached from this host" },
		{ RD_KAFKA_RESP_ERR__RESOLVE, "a name in kafka.brokers, or one that the broker advertises, cannot be looked up here" },
		{ RD_KAFKA_RESP_ERR__TIMED_OUT, "see that the broker can be reached from this host, also at the address that it advertises" },
		{ RD_KAFKA_RESP_ERR__SSL, "check security.protocol and ssl.* in kafka.properties against the broker's listener" },
		{ RD_KAFKA_RESP_ERR__AUTHENTICATION, "check security.protocol and sasl.* in kafka.properties" },
		{ RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED, "check sasl.username and sasl.password in kafka.properties" },
		{ RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "let this user write to kafka.topic and kafka.state_topic" },
		{ RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, "give this user the right IdempotentWrite on the cluster" },
		{ RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, "create the topic, or let the broker create topics" },
		{ RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, "create the topic, or let the broker create topics" },
		{ RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, "kafka.topic or kafka.state_topic is no name for a topic" },
		{ RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, "raise max.message.bytes of the topic (1 MiB is more than enough)" },
		{ RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE, "the broker must be Apache Kafka 0.11 or later" },
	};
	/* clang-format on */
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (table[i].code == code)
			return table[i].remedy;
	return "events wait in the agent's outbox meanwhile; the broker's log may say more";
}

static int kafka_error(struct err *e, rd_kafka_resp_err_t code, const char *what, const char *detail)
{
	const char *meaning = rd_kafka_err2str(code);
	bool more = detail && *detail && strcmp(detail, meaning) != 0;
	err_set(e, ERR_PEER, "%s: %s%s%s", what, meaning, more ? ": " : "", more ? detail : "");
	e->errnum = code;
	return err_remedy(e, "%s", remedy_of(code));
}

static bool fatal_error(rd_kafka_t *rk, struct err *e)
{
	char text[512] = "";
	rd_kafka_resp_err_t code = rd_kafka_fatal_error(rk, text, sizeof(text));
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		return false;
	kafka_error(e, code, "kafka: the producer cannot go on", text);
	return true;
}

/* What another attempt cannot change: it is about the message, not about the broker. */
static enum producer_outcome outcome_of(rd_kafka_resp_err_t code)
{
	switch ((int)code) {
	case RD_KAFKA_RESP_ERR_NO_ERROR:
		return PRODUCER_DELIVERED;
	case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
	case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
	case RD_KAFKA_RESP_ERR_INVALID_RECORD:
		return PRODUCER_REFUSED;
	default:
		return PRODUCER_FAILED;
	}
}

/* ---- callbacks, all from producer_poll ---- */

static void on_report(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
	const struct producer *p = opaque;
	struct err e = ERR_INIT;
	/* A fatal error throws all messages out; that it did is not the reason. */
	if (m->err != RD_KAFKA_RESP_ERR_NO_ERROR && !fatal_error(rk, &e)) {
		char what[300];
		snprintf(what, sizeof(what), "topic %s", m->rkt ? rd_kafka_topic_name(m->rkt) : "?");
		kafka_error(&e, m->err, what, NULL);
	}
	p->opts.outcome(p->opts.ctx, (uint64_t)(uintptr_t)m->_private, outcome_of(m->err), &e);
}

static void on_error(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
	const struct producer *p = opaque;
	struct err e = ERR_INIT;
	(void)rk;
	if (code == RD_KAFKA_RESP_ERR__FATAL)
		return; /* producer_is_fatal says it */
	kafka_error(&e, (rd_kafka_resp_err_t)code, "kafka", reason);
	if (p->opts.trouble)
		p->opts.trouble(p->opts.ctx, &e);
}

static void on_log(const rd_kafka_t *rk, int level, const char *fac, const char *text)
{
	(void)rk;
	log_debug("librdkafka", "level=%d fac=%s msg=%s", level, fac, LOG_Q(text));
}

/* ---- life ---- */

static int set(rd_kafka_conf_t *conf, const char *name, const char *value, const char *where, struct err *e)
{
	char text[512] = "";
	if (rd_kafka_conf_set(conf, name, value, text, sizeof(text)) == RD_KAFKA_CONF_OK)
		return 0;
	/* The text may quote the value, which may be a password. */
	bool secret = *value && strstr(text, value) &&
		      (strstr(name, "password") || strstr(name, "secret") || strstr(name, ".pem"));
	err_set(e, ERR_CONFIG, "%s%s: %s", where, name, secret ? "invalid value" : text);
	return err_remedy(e, "librdkafka's CONFIGURATION.md lists all properties and their values");
}

static int set_properties(rd_kafka_conf_t *conf, const struct producer_opts *opts, struct err *e)
{
	static const char *const ours[] = { "bootstrap.servers", "metadata.broker.list", "enable.idempotence",
					    "transactional.id" };
	for (size_t i = 0; i < opts->n_properties; i++) {
		const struct producer_property *p = &opts->properties[i];
		char where[64];
		snprintf(where, sizeof(where), "kafka.properties[%zu]: ", i);
		for (size_t k = 0; k < sizeof(ours) / sizeof(ours[0]); k++)
			if (strcmp(p->name, ours[k]) == 0) {
				err_set(e, ERR_CONFIG, "%s%s: is vmferry's to set", where, p->name);
				return err_remedy(e, k < 2 ? "set kafka.brokers" : "leave it out");
			}
		if (set(conf, p->name, p->value, where, e) < 0)
			return -1;
	}
	return 0;
}

static int fill(rd_kafka_conf_t *conf, const struct producer_opts *opts, const char *brokers, struct err *e)
{
	/* What the user may change; memory stays bounded by who sends (forwarder.c) in any case. */
	if (set(conf, "client.id", "vmferry", "", e) < 0 || set(conf, "acks", "all", "", e) < 0 ||
	    /* A broker that is away for a week is no reason to give up a message: it waits in the outbox anyhow. */
	    set(conf, "message.timeout.ms", "0", "", e) < 0 || set(conf, "log.connection.close", "false", "", e) < 0 ||
	    set_properties(conf, opts, e) < 0)
		return -1;
	if (set(conf, "enable.idempotence", "true", "", e) < 0)
		return -1;
	return brokers ? set(conf, "bootstrap.servers", brokers, "kafka.brokers: ", e) : 0;
}

static rd_kafka_t *make(struct producer *p, const struct producer_opts *opts, const char *brokers, struct err *e)
{
	char text[512] = "";
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_conf_set_log_cb(conf, on_log);
	rd_kafka_conf_set_opaque(conf, p);
	rd_kafka_conf_set_dr_msg_cb(conf, on_report);
	rd_kafka_conf_set_error_cb(conf, on_error);
	if (fill(conf, opts, brokers, e) < 0) {
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
	if (!rk) {
		rd_kafka_conf_destroy(conf);
		err_set(e, ERR_CONFIG, "kafka.properties: %s", text);
		err_remedy(e, "correct kafka.properties; librdkafka's CONFIGURATION.md lists all of them");
	}
	return rk;
}

int producer_check(const struct producer_opts *opts, struct err *e)
{
	struct producer p = { 0 };
	rd_kafka_t *rk = make(&p, opts, NULL, e);
	if (!rk)
		return -1;
	rd_kafka_destroy(rk);
	return 0;
}

struct producer *producer_new(const struct producer_opts *opts, struct err *e)
{
	struct producer *p = mem_alloc(sizeof(*p));
	p->opts = (struct producer_opts){ .outcome = opts->outcome, .trouble = opts->trouble, .ctx = opts->ctx };
	p->rk = make(p, opts, opts->brokers, e);
	if (p->rk)
		return p;
	free(p);
	return NULL;
}

void producer_free(struct producer *p)
{
	if (!p)
		return;
	rd_kafka_destroy(p->rk);
	free(p);
}

static int to_ms(int64_t ns)
{
	int64_t ms = (ns + NS_PER_MS - 1) / NS_PER_MS;
	return ms > 60000 ? 60000 : (int)ms;
}

/* ---- messages ---- */

static rd_kafka_headers_t *make_headers(const struct producer_message *m)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(m->n_headers);
	for (size_t i = 0; i < m->n_headers; i++)
		if (rd_kafka_header_add(headers, m->headers[i].name, -1, m->headers[i].value, -1) !=
		    RD_KAFKA_RESP_ERR_NO_ERROR)
			abort(); /* no memory */
	return headers;
}

int producer_send(struct producer *p, const struct producer_message *m, struct err *e)
{
	rd_kafka_headers_t *headers = make_headers(m);
	/* librdkafka's vtypes carry no const, and copy what they are given. */
	void *value = (void *)(uintptr_t)m->value, *key = (void *)(uintptr_t)m->key;
	rd_kafka_resp_err_t rc =
		rd_kafka_producev(p->rk, RD_KAFKA_V_TOPIC(m->topic), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
				  RD_KAFKA_V_KEY(key, strlen(m->key)),
				  RD_KAFKA_V_VALUE(value, m->value ? strlen(m->value) : 0), RD_KAFKA_V_HEADERS(headers),
				  RD_KAFKA_V_OPAQUE((void *)(uintptr_t)m->tag), RD_KAFKA_V_END);
	if (rc == RD_KAFKA_RESP_ERR_NO_ERROR)
		return 0;
	rd_kafka_headers_destroy(headers);
	if (rc == RD_KAFKA_RESP_ERR__QUEUE_FULL)
		return 1;
	kafka_error(e, rc, m->topic, NULL);
	if (outcome_of(rc) == PRODUCER_REFUSED)
		e->cls = ERR_REFUSED;
	return -1;
}

void producer_poll(struct producer *p, int64_t timeout_ns)
{
	rd_kafka_poll(p->rk, to_ms(timeout_ns));
}

bool producer_is_fatal(struct producer *p, struct err *e)
{
	return fatal_error(p->rk, e);
}

/* The broker's verdict on the one topic of a request. */
static rd_kafka_resp_err_t verdict(rd_kafka_event_t *ev, char *text, size_t size)
{
	if (!ev)
		return RD_KAFKA_RESP_ERR__TIMED_OUT;
	const rd_kafka_CreateTopics_result_t *result = rd_kafka_event_CreateTopics_result(ev);
	size_t n = 0;
	const rd_kafka_topic_result_t **topics = result ? rd_kafka_CreateTopics_result_topics(result, &n) : NULL;
	const char *why = n == 1 ? rd_kafka_topic_result_error_string(topics[0]) : rd_kafka_event_error_string(ev);
	snprintf(text, size, "%s", why ? why : "");
	return n == 1 ? rd_kafka_topic_result_error(topics[0]) : rd_kafka_event_error(ev);
}

int producer_make_compacted(struct producer *p, const char *topic, int64_t timeout_ns, struct err *e)
{
	char text[512] = "";
	rd_kafka_NewTopic_t *wanted = rd_kafka_NewTopic_new(topic, -1, -1, text, sizeof(text));
	if (!wanted)
		return err_set(e, ERR_CONFIG, "topic %s: %s", topic, text);
	rd_kafka_NewTopic_set_config(wanted, "cleanup.policy", "compact");
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(p->rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
	rd_kafka_AdminOptions_set_request_timeout(options, to_ms(timeout_ns), text, sizeof(text));
	rd_kafka_queue_t *queue = rd_kafka_queue_new(p->rk);
	rd_kafka_CreateTopics(p->rk, &wanted, 1, options, queue);
	rd_kafka_event_t *ev = rd_kafka_queue_poll(queue, to_ms(timeout_ns) + 500);
	rd_kafka_resp_err_t code = verdict(ev, text, sizeof(text));
	if (ev)
		rd_kafka_event_destroy(ev);
	rd_kafka_queue_destroy(queue);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_NewTopic_destroy(wanted);
	switch ((int)code) {
	case RD_KAFKA_RESP_ERR_NO_ERROR:
	case RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS:
		return 0;
	case RD_KAFKA_RESP_ERR__TIMED_OUT:
	case RD_KAFKA_RESP_ERR__TRANSPORT:
	case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
		return 1;
	default:
		return kafka_error(e, code, topic, text);
	}
}

int producer_probe(struct producer *p, int64_t timeout_ns, struct err *e)
{
	const struct rd_kafka_metadata *seen = NULL;
	rd_kafka_resp_err_t code = rd_kafka_metadata(p->rk, 0, NULL, &seen, to_ms(timeout_ns));
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		return kafka_error(e, code, "kafka", NULL);
	rd_kafka_metadata_destroy(seen);
	return 0;
}
