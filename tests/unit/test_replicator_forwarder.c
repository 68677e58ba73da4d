/* The forwarder against librdkafka's mock cluster: order, headers, keys, brokers that go, come back, refuse and lie; the
 * position over restarts; a spool that was trimmed. */
#include "base/clock.h"
#include "base/mem.h"
#include "replicator/forwarder.h"

#include <check.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define API_PRODUCE 0
#define API_INIT_PRODUCER_ID 22
#define LIMIT_NS (20 * NS_PER_S)

static char dir[64], path[96];
static rd_kafka_t *mock_handle;
static rd_kafka_mock_cluster_t *cluster;
static struct outbox *box;

static void open_box(uint64_t keep)
{
	struct err e = ERR_INIT;
	box = outbox_open(path, keep, &e);
	ck_assert_msg(box != NULL, "%s", e.text);
}

static void set_up_box(void)
{
	strcpy(dir, "/tmp/test_forwarder_XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/events.db", dir);
	open_box(0);
}

static void tear_down_box(void)
{
	char command[128];
	outbox_close(box);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

static void set_up(void)
{
	char text[200];
	set_up_box();
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_conf_set_log_cb(conf, NULL);
	mock_handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
	ck_assert_ptr_nonnull(mock_handle);
	cluster = rd_kafka_mock_cluster_new(mock_handle, 1);
	ck_assert_ptr_nonnull(cluster);
	rd_kafka_mock_topic_create(cluster, "vmferry.events", 1, 1);
	rd_kafka_mock_topic_create(cluster, "vmferry.state", 1, 1);
}

static void tear_down(void)
{
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(mock_handle);
	tear_down_box();
}

/* ---- the forwarder ---- */

static const struct producer_property quick[] = { { "reconnect.backoff.ms", "50" },
						  { "reconnect.backoff.max.ms", "200" },
						  { "retry.backoff.ms", "50" } };

static struct forwarder *start_with(const char *brokers, const struct producer_property *properties, size_t n)
{
	struct err e = ERR_INIT;
	const struct forwarder_opts opts = { .host = "node1",
					     .brokers = brokers,
					     .topic = "vmferry.events",
					     .state_topic = "vmferry.state",
					     .properties = properties,
					     .n_properties = n,
					     .backoff_ns = 20 * NS_PER_MS };
	struct forwarder *f = forwarder_start(box, &opts, &e);
	ck_assert_msg(f != NULL, "%s", e.text);
	return f;
}

static struct forwarder *start(void)
{
	return start_with(rd_kafka_mock_cluster_bootstraps(cluster), quick, sizeof(quick) / sizeof(quick[0]));
}

static struct forwarder_status status(struct forwarder *f)
{
	struct forwarder_status s;
	forwarder_status(f, 0, &s);
	return s;
}

#define EVENTUALLY(condition)                                                     \
	do {                                                                      \
		const int64_t eventually_end = clock_mono_ns() + LIMIT_NS;        \
		bool came;                                                        \
		while (!(came = (condition)) && clock_mono_ns() < eventually_end) \
			usleep(2000);                                             \
		ck_assert_msg(came, "in time: %s", #condition);                   \
	} while (0)

/* Nothing waits, after n messages in all. */
static void wait_sent(struct forwarder *f, uint64_t n)
{
	EVENTUALLY(status(f).sent >= n && status(f).waiting == 0 && status(f).waiting_states == 0);
}

static void append(const char *type, const char *subject, int value)
{
	struct err e = ERR_INIT;
	json_t *data = json_pack("{s:i}", "value", value);
	ck_assert_msg(outbox_append(box, type, subject, data, NULL, &e) == 0, "%s", e.text);
	json_decref(data);
}

static void append_many(int from, int to)
{
	for (int i = from; i <= to; i++)
		append("t.t", "u", i);
}

static void put(const char *key, int value)
{
	struct err e = ERR_INIT;
	json_t *data = value >= 0 ? json_pack("{s:i}", "value", value) : NULL;
	ck_assert_msg(outbox_put_state(box, key, data, &e) == 0, "%s", e.text);
	json_decref(data);
}

/* ---- what the broker has ---- */

/* All messages of a topic's only partition: [{"key", "value" or null, "headers": {}}]. */
static json_t *consume(const char *topic)
{
	char text[300];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	ck_assert_int_eq(rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster), text,
					   sizeof(text)),
			 RD_KAFKA_CONF_OK);
	ck_assert_int_eq(rd_kafka_conf_set(conf, "enable.partition.eof", "true", text, sizeof(text)), RD_KAFKA_CONF_OK);
	ck_assert_int_eq(rd_kafka_conf_set(conf, "fetch.wait.max.ms", "10", text, sizeof(text)), RD_KAFKA_CONF_OK);
	rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof(text));
	ck_assert_msg(rk != NULL, "%s", text);
	rd_kafka_topic_t *t = rd_kafka_topic_new(rk, topic, NULL);
	ck_assert_int_eq(rd_kafka_consume_start(t, 0, RD_KAFKA_OFFSET_BEGINNING), 0);
	json_t *all = json_array();
	int64_t end = clock_mono_ns() + LIMIT_NS;
	for (bool more = true; more && clock_mono_ns() < end;) {
		rd_kafka_message_t *m = rd_kafka_consume(t, 0, 1000);
		if (!m)
			continue;
		more = m->err != RD_KAFKA_RESP_ERR__PARTITION_EOF;
		if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
			json_t *headers = json_object();
			rd_kafka_headers_t *h = NULL;
			const char *name;
			const void *value;
			size_t size;
			rd_kafka_message_headers(m, &h);
			for (size_t i = 0; h && rd_kafka_header_get_all(h, i, &name, &value, &size) == 0; i++)
				json_object_set_new(headers, name, json_stringn(value, size));
			json_array_append_new(all, json_pack("{s:o, s:o, s:o}", "key", json_stringn(m->key, m->key_len),
							     "value",
							     m->payload ? json_loadb(m->payload, m->len, 0, NULL)
									: json_null(),
							     "headers", headers));
		}
		rd_kafka_message_destroy(m);
	}
	rd_kafka_consume_stop(t, 0);
	rd_kafka_topic_destroy(t);
	rd_kafka_destroy(rk);
	return all;
}

static const char *header(const json_t *all, size_t i, const char *name)
{
	return json_string_value(json_object_get(json_object_get(json_array_get(all, i), "headers"), name));
}

static json_int_t value(const json_t *all, size_t i)
{
	return json_integer_value(json_object_get(json_object_get(json_array_get(all, i), "value"), "value"));
}

static const char *key(const json_t *all, size_t i)
{
	return json_string_value(json_object_get(json_array_get(all, i), "key"));
}

/* Values from..to, each at least once, the first time in order; again only after a failure. */
static void assert_values(const char *topic, int from, int to, bool once)
{
	json_t *all = consume(topic);
	int next = from;
	for (size_t i = 0; i < json_array_size(all); i++) {
		ck_assert_msg(value(all, i) <= next, "%d is missing before %d", next, (int)value(all, i));
		ck_assert_msg(!once || value(all, i) == next, "%d came twice", (int)value(all, i));
		if (value(all, i) == next)
			next++;
	}
	ck_assert_int_eq(next, to + 1);
	json_decref(all);
}

/* ---- tests ---- */

START_TEST(events_arrive_in_order_as_cloud_events)
{
	append("migration.started", "1b4e28ba-2fa1-11d2-883f-0016d3cca427", 1);
	append("agent.started", NULL, 2);
	struct forwarder *f = start();
	append_many(3, 400); /* more than the window */
	wait_sent(f, 400);
	forwarder_stop(f, 0);
	assert_values("vmferry.events", 1, 400, true);
	json_t *all = consume("vmferry.events");
	ck_assert_str_eq(key(all, 0), "1b4e28ba-2fa1-11d2-883f-0016d3cca427");
	ck_assert_str_eq(header(all, 0, "ce_specversion"), "1.0");
	ck_assert_str_eq(header(all, 0, "ce_source"), "vmferry/node1");
	ck_assert_str_eq(header(all, 0, "ce_type"), "io.vmferry.migration.started");
	ck_assert_str_eq(header(all, 0, "ce_subject"), "1b4e28ba-2fa1-11d2-883f-0016d3cca427");
	ck_assert_str_eq(header(all, 0, "ce_sequence"), "00000000000000000001");
	ck_assert_str_eq(header(all, 0, "content-type"), "application/json");
	ck_assert_uint_eq(strlen(header(all, 0, "ce_id")), 36);
	ck_assert_uint_eq(strlen(header(all, 0, "ce_time")), strlen("2026-01-02T03:04:05.678Z"));
	ck_assert_int_eq(header(all, 0, "ce_time")[10], 'T');
	ck_assert_str_eq(key(all, 1), "node1");
	ck_assert_ptr_null(header(all, 1, "ce_subject"));
	ck_assert_str_ne(header(all, 0, "ce_id"), header(all, 1, "ce_id"));
	json_decref(all);
}
END_TEST

START_TEST(states_are_their_latest_and_end)
{
	put("protection/u", 1);
	put("protection/u", 2);
	put("point/u/1", 1);
	put("point/u/2", 1);
	put("point/u/2", -1); /* nobody was told of it: no message */
	put("point/u/3", -1); /* was never there */
	struct forwarder *f = start();
	wait_sent(f, 2);
	put("protection/u", 2); /* no change: no message */
	put("point/u/1", -1);
	wait_sent(f, 3);
	put("point/u/4", 3);
	wait_sent(f, 4);
	put("point/u/4", 4); /* the last moment */
	forwarder_stop(f, 10 * NS_PER_S);
	json_t *all = consume("vmferry.state");
	ck_assert_uint_eq(json_array_size(all), 5);
	ck_assert_str_eq(key(all, 0), "protection/u");
	ck_assert_int_eq(value(all, 0), 2);
	ck_assert_str_eq(header(all, 0, "ce_type"), "io.vmferry.state.protection");
	ck_assert_str_eq(header(all, 0, "ce_subject"), "protection/u");
	ck_assert_str_eq(key(all, 1), "point/u/1");
	ck_assert_str_eq(key(all, 2), "point/u/1");
	ck_assert(json_is_null(json_object_get(json_array_get(all, 2), "value")));
	ck_assert_ptr_null(header(all, 2, "content-type"));
	ck_assert_str_eq(key(all, 3), "point/u/4");
	ck_assert_int_eq(value(all, 4), 4);
	json_decref(all);
	/* Ends that were told are forgotten; another topic is told all that is there. */
	struct err e = ERR_INIT;
	struct outbox_position pos;
	uint64_t n = 0;
	ck_assert_int_eq(outbox_count_states(box, 0, &n, &e), 0);
	ck_assert_uint_eq(n, 2);
	ck_assert_int_eq(outbox_get_position(box, "elsewhere", &pos, &e), 0);
	ck_assert_uint_eq(pos.states, 0);
}
END_TEST

START_TEST(the_position_lasts_over_restarts)
{
	append_many(1, 20);
	struct forwarder *f = start();
	wait_sent(f, 20);
	forwarder_stop(f, 0);
	outbox_close(box);
	open_box(0);
	append_many(21, 40);
	f = start();
	wait_sent(f, 20);
	ck_assert_uint_eq(status(f).sent, 20);
	/* What comes as the last is still sent. */
	append_many(41, 41);
	forwarder_stop(f, 10 * NS_PER_S);
	assert_values("vmferry.events", 1, 41, true);
}
END_TEST

START_TEST(a_broker_goes_and_comes_back)
{
	struct forwarder *f = start();
	append_many(1, 10);
	wait_sent(f, 10);
	rd_kafka_mock_broker_set_down(cluster, 1);
	int64_t before = clock_mono_ns();
	append_many(11, 400);
	int64_t took = clock_mono_ns() - before;
	ck_assert_msg(took < 15 * NS_PER_S, "appending took %lld ms", (long long)(took / NS_PER_MS));
	EVENTUALLY(status(f).problem.cls != ERR_NONE);
	ck_assert(!status(f).connected);
	ck_assert_str_ne(status(f).problem.remedy, "");
	struct forwarder_status asked;
	before = clock_mono_ns();
	forwarder_status(f, 200 * NS_PER_MS, &asked);
	ck_assert_int_lt(clock_mono_ns() - before, 5 * NS_PER_S);
	ck_assert(!asked.connected);
	ck_assert_uint_eq(asked.waiting, 390);
	rd_kafka_mock_broker_set_up(cluster, 1);
	wait_sent(f, 400);
	forwarder_status(f, 5 * NS_PER_S, &asked);
	ck_assert(asked.connected);
	ck_assert(!err_is_set(&asked.problem));
	ck_assert_uint_eq(asked.dropped, 0);
	forwarder_stop(f, 0);
	assert_values("vmferry.events", 1, 400, true); /* idempotence: not even twice */
}
END_TEST

START_TEST(stops_in_time_while_the_broker_is_away)
{
	rd_kafka_mock_broker_set_down(cluster, 1);
	struct forwarder *f = start();
	append_many(1, 5);
	EVENTUALLY(status(f).problem.cls != ERR_NONE);
	int64_t before = clock_mono_ns();
	forwarder_stop(f, 30 * NS_PER_S);
	ck_assert_int_lt(clock_mono_ns() - before, 5 * NS_PER_S);
	rd_kafka_mock_broker_set_up(cluster, 1);
	f = start();
	wait_sent(f, 5);
	forwarder_stop(f, 0);
	assert_values("vmferry.events", 1, 5, true);
}
END_TEST

START_TEST(passing_errors_of_the_broker)
{
	rd_kafka_mock_push_request_errors(cluster, API_PRODUCE, 4, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
					  RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, RD_KAFKA_RESP_ERR__TRANSPORT,
					  RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT);
	append_many(1, 300);
	struct forwarder *f = start();
	wait_sent(f, 300);
	ck_assert_uint_eq(status(f).dropped, 0);
	forwarder_stop(f, 0);
	assert_values("vmferry.events", 1, 300, true);
}
END_TEST

START_TEST(a_topic_that_may_not_be_written_to)
{
	rd_kafka_resp_err_t errors[3];
	for (size_t i = 0; i < 3; i++)
		errors[i] = RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
	rd_kafka_mock_push_request_errors_array(cluster, API_PRODUCE, 3, errors);
	append_many(1, 50);
	struct forwarder *f = start();
	wait_sent(f, 50);
	ck_assert_uint_ge(status(f).restarts, 1);
	ck_assert_uint_eq(status(f).dropped, 0);
	ck_assert(status(f).connected);
	forwarder_stop(f, 0);
	assert_values("vmferry.events", 1, 50, false);
}
END_TEST

START_TEST(a_topic_that_is_missing_and_made_later)
{
	const struct producer_property p[] = { { "topic.metadata.propagation.max.ms", "300" },
					       { "topic.metadata.refresh.fast.interval.ms", "50" } };
	rd_kafka_mock_topic_set_error(cluster, "vmferry.events", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
	append_many(1, 5);
	put("protection/u", 1);
	struct forwarder *f = start_with(rd_kafka_mock_cluster_bootstraps(cluster), p, 2);
	EVENTUALLY(status(f).restarts > 0);
	struct err problem = status(f).problem;
	ck_assert_msg(strstr(problem.remedy, "create the topic") != NULL, "%s: %s", problem.text, problem.remedy);
	rd_kafka_mock_topic_set_error(cluster, "vmferry.events", RD_KAFKA_RESP_ERR_NO_ERROR);
	wait_sent(f, 6);
	forwarder_stop(f, 0);
	assert_values("vmferry.events", 1, 5, true);
}
END_TEST

START_TEST(fatal_errors_are_survived_by_a_new_producer)
{
	rd_kafka_mock_push_request_errors(cluster, API_INIT_PRODUCER_ID, 2,
					  RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
					  RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED);
	append_many(1, 10);
	struct forwarder *f = start();
	wait_sent(f, 10);
	ck_assert_uint_eq(status(f).restarts, 2);
	forwarder_stop(f, 0);
	assert_values("vmferry.events", 1, 10, true);
}
END_TEST

START_TEST(fatal_errors_say_what_to_do)
{
	rd_kafka_resp_err_t errors[1000];
	for (size_t i = 0; i < 1000; i++)
		errors[i] = RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
	rd_kafka_mock_push_request_errors_array(cluster, API_INIT_PRODUCER_ID, 1000, errors);
	append_many(1, 10);
	struct forwarder *f = start();
	EVENTUALLY(status(f).restarts > 0);
	struct err problem = status(f).problem;
	ck_assert_msg(strstr(problem.text, "uthorization") != NULL, "%s", problem.text);
	ck_assert_msg(strstr(problem.remedy, "IdempotentWrite") != NULL, "%s", problem.remedy);
	ck_assert_uint_eq(status(f).waiting, 10);
	/* That it can be reached does not make it well. */
	struct forwarder_status asked;
	forwarder_status(f, 2 * NS_PER_S, &asked);
	ck_assert(!asked.connected);
	forwarder_stop(f, 0);
}
END_TEST

/* The batch is refused, then each alone in turn: the one that is refused alone is given up. */
START_TEST(one_message_that_is_too_large_does_not_stop_the_others)
{
	rd_kafka_mock_push_request_errors(cluster, API_PRODUCE, 2, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
					  RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
	append_many(1, 30);
	struct forwarder *f = start();
	wait_sent(f, 30); /* 29, and the event that says so */
	ck_assert_uint_eq(status(f).dropped, 1);
	forwarder_stop(f, 0);
	json_t *all = consume("vmferry.events");
	ck_assert_uint_eq(json_array_size(all), 30);
	ck_assert_int_eq(value(all, 0), 2);
	ck_assert_int_eq(value(all, 28), 30);
	ck_assert_str_eq(header(all, 29, "ce_type"), "io.vmferry.events.dropped");
	json_decref(all);
}
END_TEST

START_TEST(the_producers_own_limit_on_size)
{
	struct err e = ERR_INIT;
	const struct producer_property small[] = { { "message.max.bytes", "1000" } };
	char big[3000];
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	json_t *data = json_pack("{s:s}", "x", big);
	append_many(1, 1);
	ck_assert_int_eq(outbox_append(box, "t.t", "u", data, NULL, &e), 0);
	json_decref(data);
	append_many(2, 2);
	struct forwarder *f = start_with(rd_kafka_mock_cluster_bootstraps(cluster), small, 1);
	wait_sent(f, 3);
	ck_assert_uint_eq(status(f).dropped, 1);
	forwarder_stop(f, 0);
	json_t *all = consume("vmferry.events");
	ck_assert_uint_eq(json_array_size(all), 3);
	ck_assert_int_eq(value(all, 1), 2);
	const json_t *said = json_object_get(json_array_get(all, 2), "value");
	ck_assert_int_eq(json_integer_value(json_object_get(said, "first_seq")), 2);
	ck_assert_str_ne(json_string_value(json_object_get(said, "reason")), "");
	json_decref(all);
}
END_TEST

START_TEST(events_trimmed_while_the_broker_is_away_are_counted)
{
	outbox_close(box);
	open_box(150);
	struct forwarder *f = start();
	append_many(1, 10);
	wait_sent(f, 10);
	rd_kafka_mock_broker_set_down(cluster, 1);
	append_many(11, 400);
	EVENTUALLY(status(f).problem.cls != ERR_NONE);
	rd_kafka_mock_broker_set_up(cluster, 1);
	EVENTUALLY(status(f).waiting == 0);
	uint64_t dropped = status(f).dropped;
	forwarder_stop(f, 0);
	ck_assert_uint_gt(dropped, 0);
	/* Told and lost are all there were, and the loss is told with the right numbers. */
	json_t *all = consume("vmferry.events");
	uint64_t total = 0, last = 0, missing = 0;
	for (size_t i = 0; i < json_array_size(all); i++) {
		const json_t *v = json_object_get(json_array_get(all, i), "value");
		uint64_t seq = strtoull(header(all, i, "ce_sequence"), NULL, 10);
		ck_assert_uint_gt(seq, last);
		missing += seq - last - 1;
		last = seq;
		if (strcmp(header(all, i, "ce_type"), "io.vmferry.events.dropped") == 0) {
			ck_assert_int_eq(json_integer_value(json_object_get(v, "count")),
					 json_integer_value(json_object_get(v, "last_seq")) -
						 json_integer_value(json_object_get(v, "first_seq")) + 1);
			total = (uint64_t)json_integer_value(json_object_get(v, "total"));
		}
	}
	ck_assert_uint_eq(last, outbox_last(box));
	ck_assert_uint_eq(missing, dropped);
	ck_assert_uint_eq(total, dropped);
	json_decref(all);
}
END_TEST

START_TEST(trimmed_while_no_forwarder_ran)
{
	outbox_close(box);
	open_box(50);
	append_many(1, 200); /* before Kafka was ever configured: not missed */
	struct forwarder *f = start();
	wait_sent(f, 50);
	ck_assert_uint_eq(status(f).dropped, 0);
	forwarder_stop(f, 0);
	append_many(201, 300);
	f = start();
	EVENTUALLY(status(f).sent >= 50 && status(f).waiting == 0);
	ck_assert_uint_eq(status(f).dropped, 51); /* the report of it takes a place too */
	forwarder_stop(f, 0);
	json_t *all = consume("vmferry.events");
	ck_assert_uint_eq(json_array_size(all), 100);
	ck_assert_int_eq(value(all, 49), 200);
	ck_assert_int_eq(value(all, 50), 252);
	json_decref(all);
}
END_TEST

static const struct {
	const char *name, *value, *expected;
} bad[] = {
	{ "no.such.property", "1", "kafka.properties[0]: no.such.property" },
	{ "linger.ms", "soon", "kafka.properties[0]: linger.ms" },
	{ "acks", "1", "acks" },
	{ "enable.idempotence", "false", "is vmferry's to set" },
	{ "bootstrap.servers", "a:1", "is vmferry's to set" },
	{ "compression.codec", "rar", "compression.codec" },
	{ "ssl.ca.location", "/nonexistent/ca.pem", "ssl.ca.location" },
};

START_TEST(bad_properties_are_said_at_once)
{
	struct err e = ERR_INIT;
	const struct producer_property p[] = { { bad[_i].name, bad[_i].value }, { "security.protocol", "ssl" } };
	const struct forwarder_opts opts = { .host = "node1",
					     .brokers = "127.0.0.1:1",
					     .topic = "t",
					     .state_topic = "s",
					     .properties = p,
					     .n_properties = 2 };
	ck_assert_int_eq(forwarder_check(&opts, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	ck_assert_msg(strstr(e.text, bad[_i].expected) != NULL, "%s", e.text);
	ck_assert_str_ne(e.remedy, "");
	struct err e2 = ERR_INIT;
	ck_assert_ptr_null(forwarder_start(box, &opts, &e2));
	ck_assert_str_eq(e2.text, e.text);
}
END_TEST

START_TEST(passwords_are_not_said)
{
	struct err e = ERR_INIT;
	const struct producer_property p[] = { { "sasl.password.wrong", "s3cr3t" } };
	const struct forwarder_opts opts = {
		.host = "h", .brokers = "b", .topic = "t", .state_topic = "s", .properties = p, .n_properties = 1
	};
	ck_assert_int_eq(forwarder_check(&opts, &e), -1);
	ck_assert_msg(strstr(e.text, "s3cr3t") == NULL, "%s", e.text);
}
END_TEST

int main(void)
{
#ifdef __SANITIZE_THREAD__
	printf("skipped: ThreadSanitizer crashes in the C11 threads that librdkafka starts\n");
	return 77;
#endif
	signal(SIGPIPE, SIG_IGN);
	Suite *s = suite_create("forwarder");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, events_arrive_in_order_as_cloud_events);
	tcase_add_test(t, states_are_their_latest_and_end);
	tcase_add_test(t, the_position_lasts_over_restarts);
	tcase_add_test(t, a_broker_goes_and_comes_back);
	tcase_add_test(t, stops_in_time_while_the_broker_is_away);
	tcase_add_test(t, passing_errors_of_the_broker);
	tcase_add_test(t, a_topic_that_may_not_be_written_to);
	tcase_add_test(t, a_topic_that_is_missing_and_made_later);
	tcase_add_test(t, fatal_errors_are_survived_by_a_new_producer);
	tcase_add_test(t, fatal_errors_say_what_to_do);
	tcase_add_test(t, one_message_that_is_too_large_does_not_stop_the_others);
	tcase_add_test(t, the_producers_own_limit_on_size);
	tcase_add_test(t, events_trimmed_while_the_broker_is_away_are_counted);
	tcase_add_test(t, trimmed_while_no_forwarder_ran);
	suite_add_tcase(s, t);
	t = tcase_create("properties"); /* no broker is asked */
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up_box, tear_down_box);
	tcase_add_loop_test(t, bad_properties_are_said_at_once, 0, sizeof(bad) / sizeof(bad[0]));
	tcase_add_test(t, passwords_are_not_said);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
