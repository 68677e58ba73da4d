/* Another Kafka client against what the forwarder sends: kcat reads back the mock cluster's topics, headers and all. */
#include "base/child.h"
#include "base/clock.h"
#include "base/mem.h"
#include "replicator/forwarder.h"

#include <check.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VM "1b4e28ba-2fa1-11d2-883f-0016d3cca427"

static char dir[64], path[96];
static rd_kafka_t *mock_handle;
static rd_kafka_mock_cluster_t *cluster;
static struct outbox *box;

static void set_up(void)
{
	char text[200];
	struct err e = ERR_INIT;
	strcpy(dir, "/tmp/test_kcat_XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/events.db", dir);
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_conf_set_log_cb(conf, NULL);
	mock_handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
	ck_assert_ptr_nonnull(mock_handle);
	cluster = rd_kafka_mock_cluster_new(mock_handle, 1);
	rd_kafka_mock_topic_create(cluster, "vmferry.events", 1, 1);
	rd_kafka_mock_topic_create(cluster, "vmferry.state", 1, 1);
	box = outbox_open(path, 0, &e);
	ck_assert_msg(box != NULL, "%s", e.text);
}

static void tear_down(void)
{
	char command[128];
	outbox_close(box);
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(mock_handle);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

/* Sends what the outbox has, until n messages are acknowledged. */
static void forward(uint64_t n)
{
	struct err e = ERR_INIT;
	struct forwarder_status s = { 0 };
	const struct forwarder_opts opts = { .host = "node1",
					     .brokers = rd_kafka_mock_cluster_bootstraps(cluster),
					     .topic = "vmferry.events",
					     .state_topic = "vmferry.state" };
	struct forwarder *f = forwarder_start(box, &opts, &e);
	ck_assert_msg(f != NULL, "%s", e.text);
	for (int64_t end = clock_mono_ns() + 20 * NS_PER_S; s.sent < n && clock_mono_ns() < end; usleep(5000))
		forwarder_status(f, 0, &s);
	forwarder_stop(f, 0);
	ck_assert_uint_eq(s.sent, n);
}

/* What kcat prints of a topic: KEY|HEADERS|LENGTH|VALUE, a line for each message. */
static char *kcat(const char *topic)
{
	struct err e = ERR_INIT;
	char *out = NULL;
	const char *const argv[] = { "kcat", "-b",        rd_kafka_mock_cluster_bootstraps(cluster),
				     "-C",   "-q",        "-e",
				     "-o",   "beginning", "-t",
				     topic,  "-f",        "%k|%h|%S|%s\n",
				     NULL };
	ck_assert_msg(child_run(argv, clock_mono_ns() + 20 * NS_PER_S, NULL, &out, &e) == 0, "%s", e.text);
	return out;
}

START_TEST(kcat_reads_events)
{
	struct err e = ERR_INIT;
	json_t *data = json_pack("{s:s}", "vm", "web1");
	ck_assert_int_eq(outbox_append(box, "migration.started", VM, data, NULL, &e), 0);
	ck_assert_int_eq(outbox_append(box, "agent.stopped", NULL, NULL, NULL, &e), 0);
	json_decref(data);
	forward(2);
	MEM_AUTO char *out = kcat("vmferry.events");
	char id[40] = "", when[40] = "", rest[300] = "";
	ck_assert_msg(sscanf(out,
			     VM "|ce_specversion=1.0,ce_id=%36[0-9a-f-],ce_source=vmferry/"
				"node1,ce_type=io.vmferry.migration.started,"
				"ce_time=%24[0-9TZ:.-],%299[^\n]",
			     id, when, rest) == 3,
		      "%s", out);
	ck_assert_uint_eq(strlen(id), 36);
	ck_assert_uint_eq(strlen(when), 24);
	ck_assert_str_eq(rest, "ce_sequence=00000000000000000001,ce_subject=" VM
			       ",content-type=application/json|13|{\"vm\":\"web1\"}");
	const char *second = strchr(out, '\n') + 1;
	ck_assert_msg(strncmp(second, "node1|", 6) == 0, "%s", second);
	ck_assert_msg(strstr(second, "ce_type=io.vmferry.agent.stopped,") && strstr(second, "|2|{}\n"), "%s", second);
}
END_TEST

START_TEST(kcat_reads_states_and_their_end)
{
	struct err e = ERR_INIT;
	json_t *data = json_pack("{s:s}", "kind", "memory");
	ck_assert_int_eq(outbox_put_state(box, "point/" VM "/7", data, &e), 0);
	json_decref(data);
	forward(1);
	ck_assert_int_eq(outbox_put_state(box, "point/" VM "/7", NULL, &e), 0);
	forward(1);
	MEM_AUTO char *out = kcat("vmferry.state");
	char *second = strchr(out, '\n');
	ck_assert_ptr_nonnull(second);
	*second++ = '\0';
	ck_assert_msg(strncmp(out, "point/" VM "/7|", strlen("point/" VM "/7|")) == 0, "%s", out);
	ck_assert_msg(strstr(out, "ce_type=io.vmferry.state.point,") && strstr(out, "|17|{\"kind\":\"memory\"}"), "%s",
		      out);
	ck_assert_msg(strncmp(second, "point/" VM "/7|", strlen("point/" VM "/7|")) == 0, "%s", second);
	ck_assert_msg(strstr(second, "|-1|\n") != NULL, "%s", second);
}
END_TEST

int main(void)
{
#ifdef __SANITIZE_THREAD__
	printf("skipped: ThreadSanitizer crashes in the C11 threads that librdkafka starts\n");
	return 77;
#endif
	if (system("command -v kcat >/dev/null") != 0) {
		printf("skipped: no kcat on this machine\n");
		return 77;
	}
	Suite *s = suite_create("kcat");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_add_test(t, kcat_reads_events);
	tcase_add_test(t, kcat_reads_states_and_their_end);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
