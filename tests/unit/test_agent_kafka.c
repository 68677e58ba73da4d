/* The agent with Kafka: its events arrive, `check` says how it stands, and nothing that is wrong with it keeps the agent from
 * running or from stopping in time. */
#include "tests/unit/agent_fake_migrator.h"
#include "tests/unit/agent_fixture.h"

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

static rd_kafka_t *mock_handle;
static rd_kafka_mock_cluster_t *cluster;

static void set_up(void)
{
	char text[200];
	fixture_set_up();
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_conf_set_log_cb(conf, NULL);
	mock_handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
	ck_assert_ptr_nonnull(mock_handle);
	cluster = rd_kafka_mock_cluster_new(mock_handle, 1);
	rd_kafka_mock_topic_create(cluster, "vmferry.events", 1, 1);
}

static void tear_down(void)
{
	fixture_tear_down();
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(mock_handle);
}

static void write_config(const char *property)
{
	char more[400];
	snprintf(more, sizeof(more), "kafka: { brokers = \"%s\"; properties = ( %s ); };",
		 rd_kafka_mock_cluster_bootstraps(cluster), property);
	fixture_write_config(1, (const char *const[]){ NULL, NULL, NULL }, more);
}

/* The types of the topic's first n events, with spaces between, in order. */
static void consume(size_t n, char *out, size_t size)
{
	char text[300];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster), text, sizeof(text));
	rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof(text));
	ck_assert_msg(rk != NULL, "%s", text);
	rd_kafka_topic_t *t = rd_kafka_topic_new(rk, "vmferry.events", NULL);
	ck_assert_int_eq(rd_kafka_consume_start(t, 0, RD_KAFKA_OFFSET_BEGINNING), 0);
	*out = '\0';
	for (int64_t end = SOON; n > 0 && clock_mono_ns() < end;) {
		rd_kafka_message_t *m = rd_kafka_consume(t, 0, 200);
		rd_kafka_headers_t *headers = NULL;
		const void *type = NULL;
		size_t len = 0;
		if (!m)
			continue;
		if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR && rd_kafka_message_headers(m, &headers) == 0 &&
		    rd_kafka_header_get_last(headers, "ce_type", &type, &len) == 0) {
			size_t at = strlen(out);
			snprintf(out + at, size - at, "%s%.*s", at ? " " : "", (int)len, (const char *)type);
			n--;
		}
		rd_kafka_message_destroy(m);
	}
	rd_kafka_consume_stop(t, 0);
	rd_kafka_topic_destroy(t);
	rd_kafka_destroy(rk);
}

/* What `check` says about Kafka: "ok TEXT", "none" if nothing. */
static void check(char *out, size_t size)
{
	size_t i;
	const json_t *c;
	struct rpc *r = fixture_local(1);
	json_t *result = fixture_must(r, "check", json_object());
	snprintf(out, size, "none");
	json_array_foreach (json_object_get(result, "checks"), i, c) {
		if (strcmp(json_string_value(json_object_get(c, "name")), "kafka") == 0)
			snprintf(out, size, "%s %s", json_string_value(json_object_get(c, "status")),
				 json_string_value(json_object_get(c, "text")));
	}
	json_decref(result);
	rpc_unref(r);
}

START_TEST(its_events_arrive_the_last_one_too)
{
	char seen[300], said[600];
	write_config("");
	fixture_start(1);
	struct rpc *r = fixture_local(1);
	json_decref(fixture_must(r, "migrate", json_pack("{s:s, s:s}", "vm", "instant", "host", "node2")));
	rpc_unref(r);
	consume(1, seen, sizeof(seen));
	check(said, sizeof(said));
	ck_assert_msg(strncmp(said, "ok ", 3) == 0 && strstr(said, "0 events wait"), "%s", said);
	fixture_stop(1);
	consume(3, seen, sizeof(seen));
	ck_assert_str_eq(seen, "io.vmferry.agent.started io.vmferry.migration.started io.vmferry.agent.stopped");
}
END_TEST

START_TEST(without_kafka_it_is_not_mentioned)
{
	char said[600];
	fixture_write_config(1, (const char *const[]){ NULL, NULL, NULL }, NULL);
	fixture_start(1);
	check(said, sizeof(said));
	ck_assert_str_eq(said, "none");
}
END_TEST

START_TEST(a_bad_property_is_said_and_a_reload_mends_it)
{
	char seen[300], said[600];
	write_config("{ name = \"no.such\"; value = \"1\"; }");
	fixture_start(1);
	check(said, sizeof(said));
	ck_assert_msg(strncmp(said, "fail ", 5) == 0 && strstr(said, "kafka.properties[0]: no.such"), "%s", said);
	write_config("");
	agent_reload(fixture_agents[0]);
	consume(1, seen, sizeof(seen));
	ck_assert_str_eq(seen, "io.vmferry.agent.started");
	check(said, sizeof(said));
	ck_assert_msg(strncmp(said, "ok ", 3) == 0, "%s", said);
}
END_TEST

START_TEST(a_broker_that_is_away_delays_nothing)
{
	char said[600];
	rd_kafka_mock_broker_set_down(cluster, 1);
	write_config("");
	int64_t before = clock_mono_ns();
	fixture_start(1);
	struct rpc *r = fixture_local(1);
	json_decref(fixture_must(r, "migrate", json_pack("{s:s, s:s}", "vm", "instant", "host", "node2")));
	rpc_unref(r);
	ck_assert_int_lt(clock_mono_ns() - before, 5 * NS_PER_S);
	check(said, sizeof(said));
	ck_assert_msg(strncmp(said, "warn ", 5) == 0 && strstr(said, "events wait"), "%s", said);
	before = clock_mono_ns();
	fixture_stop(1);
	ck_assert_int_lt(clock_mono_ns() - before, 8 * NS_PER_S);
}
END_TEST

int main(void)
{
#ifdef __SANITIZE_THREAD__
	printf("skipped: ThreadSanitizer crashes in the C11 threads that librdkafka starts\n");
	return 77;
#endif
	Suite *s = suite_create("agent_kafka");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, its_events_arrive_the_last_one_too);
	tcase_add_test(t, without_kafka_it_is_not_mentioned);
	tcase_add_test(t, a_bad_property_is_said_and_a_reload_mends_it);
	tcase_add_test(t, a_broker_that_is_away_delays_nothing);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
