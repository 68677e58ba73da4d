/* What SIGHUP may change, roles, and the did-you-mean helper. */
#include "config/config.h"
#include "config/nearest.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

static struct config *load(const char *text)
{
	struct err e = ERR_INIT;
	struct config *c = config_load_text(text, "t", NULL, NULL, &e);
	ck_assert_msg(c != NULL, "%s", e.text);
	return c;
}

static const struct {
	const char *text, *key;
	bool needs_restart;
} changes[] = {
	{ "name = \"other\";", "name", true },
	{ "state_dir = \"/srv\"; replication: { replica_dir = \"/var/lib/vmferry/replicas\"; };", "state_dir", true },
	{ "listen: { address = \"127.0.0.1\"; };", "listen.address", true },
	{ "listen: { port = 7; };", "listen.port", true },
	{ "tls: { ca = \"/x\"; };", "tls.ca", false },
	{ "tls: { cert = \"/x\"; };", "tls.cert", false },
	{ "tls: { key = \"/x\"; };", "tls.key", false },
	{ "libvirt: { uri = \"qemu:///session\"; };", "libvirt.uri", true },
	{ "libvirt: { socket = \"/x\"; };", "libvirt.socket", true },
	{ "libvirt: { qemu_group = \"\"; };", "libvirt.qemu_group", true },
	{ "migration: { bandwidth = \"1G\"; };", "migration.bandwidth", false },
	{ "migration: { max_downtime = \"1s\"; };", "migration.max_downtime", false },
	{ "migration: { channels = 1; };", "migration.channels", false },
	{ "migration: { delta_cache = \"0\"; };", "migration.delta_cache", false },
	{ "migration: { workers = 1; };", "migration.workers", false },
	{ "migration: { max_jobs = 1; };", "migration.max_jobs", false },
	{ "migration: { image_dir = \"\"; };", "migration.image_dir", false },
	{ "kafka: { brokers = \"k:9092\"; };", "kafka.brokers", false },
	{ "kafka: { topic = \"t\"; };", "kafka.topic", false },
	{ "kafka: { state_topic = \"t\"; };", "kafka.state_topic", false },
	{ "kafka: { properties = ( { name = \"linger.ms\"; value = \"9\"; } ); };", "kafka.properties", false },
	{ "control: { group = \"adm\"; };", "control.group", true },
	{ "control: { socket = \"/x\"; };", "control.socket", true },
	{ "log: { level = \"warn\"; };", "log.level", false },
	{ "peers = ( { name = \"b\"; } );", "peers", false },
	{ "replication: { replica_dir = \"/x\"; };", "replication.replica_dir", true },
	{ "replication: { delta_cache = \"0\"; };", "replication.delta_cache", true },
	{ "replication: { staging = \"16MiB\"; };", "replication.staging", true },
	{ "replication: { channels = 1; };", "replication.channels", true },
	{ "replication: { bandwidth = \"1G\"; };", "replication.bandwidth", false },
	{ "replication: { fencing_command = \"/x\"; };", "replication.fencing_command", false },
	{ "replication: { fencing_timeout = \"1s\"; };", "replication.fencing_timeout", false },
	{ "replication: { seed_folders = \"/x\"; };", "replication.seed_folders", false },
	{ "replication: { max_pause = \"1s\"; };", "replication.max_pause", false },
	{ "restore: { networks = ( { from = \"a\"; to = \"b\"; } ); };", "restore", false },
	{ "restore: { disks = ( { from = \"/a\"; to = \"/b\"; } ); };", "restore", false },
};

START_TEST(each_key_is_live_or_fixed)
{
	struct config *running = load("name = \"one\";"), *loaded;
	char text[300];
	bool own_name = strncmp(changes[_i].text, "name", 4) == 0;
	snprintf(text, sizeof(text), "%s%s", own_name ? "" : "name = \"one\";", changes[_i].text);
	loaded = load(text);
	struct config_change out[4];
	ck_assert_uint_eq(config_reload_diff(running, loaded, out, 4), 1);
	ck_assert_str_eq(out[0].key, changes[_i].key);
	ck_assert_int_eq(out[0].needs_restart, changes[_i].needs_restart);
	/* What needs a restart stays as it runs; what does not is taken over. */
	config_keep_fixed(loaded, running);
	ck_assert_uint_eq(config_reload_diff(running, loaded, out, 4), changes[_i].needs_restart ? 0 : 1);
	config_free(running);
	config_free(loaded);
}
END_TEST

START_TEST(peers_differ_by_content_not_order)
{
	const char *ab = "name = \"n\"; peers = ( { name = \"a\"; roles = [ \"operate\" ]; }, { name = \"b\"; } );";
	const char *ba = "name = \"n\"; peers = ( { name = \"b\"; }, { name = \"a\"; roles = [ \"operate\" ]; } );";
	const char *weaker = "name = \"n\"; peers = ( { name = \"b\"; }, { name = \"a\"; roles = [ ]; } );";
	struct config *x = load(ab), *y = load(ba), *z = load(weaker);
	ck_assert_uint_eq(config_reload_diff(x, y, NULL, 0), 0);
	ck_assert_uint_eq(config_reload_diff(x, z, NULL, 0), 1);
	config_free(x);
	config_free(y);
	config_free(z);
}
END_TEST

#define PEER "name = \"one\"; peers = ( { name = \"b\"; } );"

START_TEST(properties_differ_by_order_too)
{
#define ACKS "{ name = \"acks\"; value = \"all\"; }"
#define LINGER(ms) "{ name = \"linger.ms\"; value = \"" ms "\"; }"
#define PROPERTIES(list) "name = \"n\"; kafka: { properties = ( " list " ); };"
	struct config *x = load(PROPERTIES(ACKS ", " LINGER("5")));
	static const char *const other[] = {
		PROPERTIES(LINGER("5") ", " ACKS),
		PROPERTIES(ACKS ", " LINGER("6")),
		PROPERTIES(ACKS),
	};
	ck_assert_uint_eq(config_reload_diff(x, x, NULL, 0), 0);
	for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++) {
		struct config *y = load(other[i]);
		ck_assert_uint_eq(config_reload_diff(x, y, NULL, 0), 1);
		config_free(y);
	}
	config_free(x);
}
END_TEST

START_TEST(protections_differ_by_content_not_order)
{
	static const char *const same[] = {
		PEER
		"protections = ( { vm = \"x\"; to = \"b\"; }, { vm = \"y\"; to = \"b\"; keep = { last = 3; }; } );",
		PEER "protections = ( { vm = \"y\"; to = \"b\"; keep = { last = 3; }; }, { vm = \"x\"; to = \"b\"; rpo "
		     "= \"5s\"; } );",
	};
	static const char *const other[] = {
		PEER
		"protections = ( { vm = \"x\"; to = \"b\"; }, { vm = \"y\"; to = \"b\"; keep = { last = 4; }; } );",
		PEER "protections = ( { vm = \"x\"; to = \"b\"; rpo = \"1s\"; }, { vm = \"y\"; to = \"b\"; keep = { "
		     "last = 3; }; } );",
		PEER "protections = ( { vm = \"x\"; to = \"b\"; schedule = { windows = ( { from = \"01:00\"; to = "
		     "\"02:00\"; "
		     "every = \"9s\"; } ); }; }, { vm = \"y\"; to = \"b\"; keep = { last = 3; }; } );",
		PEER "protections = ( { vm = \"x\"; to = \"b\"; } );",
		PEER
		"protections = ( { vm = \"x\"; to = \"b\"; }, { vm = \"z\"; to = \"b\"; keep = { last = 3; }; } );",
	};
	struct config_change out[4];
	struct config *a = load(same[0]), *b = load(same[1]);
	ck_assert_uint_eq(config_reload_diff(a, b, out, 4), 0);
	config_free(b);
	for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++) {
		b = load(other[i]);
		ck_assert_uint_eq(config_reload_diff(a, b, out, 4), 1);
		ck_assert_str_eq(out[0].key, "protections");
		ck_assert(!out[0].needs_restart);
		config_free(b);
	}
	config_free(a);
}
END_TEST

START_TEST(roles_have_names)
{
	char buf[64];
	ck_assert_uint_eq(config_role_from_name("migrate-in"), ROLE_MIGRATE_IN);
	ck_assert_uint_eq(config_role_from_name("operate"), ROLE_OPERATE);
	ck_assert_uint_eq(config_role_from_name("root"), 0);
	ck_assert_str_eq(config_roles_format(0, buf, sizeof(buf)), "none");
	ck_assert_str_eq(config_roles_format(7, buf, sizeof(buf)), "migrate-in,replicate-in,operate");
	ck_assert_str_eq(config_roles_format(ROLE_OPERATE, buf, sizeof(buf)), "operate");
}
END_TEST

START_TEST(nearest_names)
{
	static const char *const names[] = { "listen", "libvirt", "log", "migration" };
	ck_assert_uint_eq(nearest_distance("abc", "abc"), 0);
	ck_assert_uint_eq(nearest_distance("abc", "acb"), 1);
	ck_assert_uint_eq(nearest_distance("", "abc"), 3);
	ck_assert_uint_eq(nearest_distance("delta-cache", "delta_cache"), 0);
	ck_assert_uint_eq(nearest_distance("kitten", "sitting"), 3);
	ck_assert_str_eq(nearest_of("listne", names, 4), "listen");
	ck_assert_str_eq(nearest_of("lgo", names, 4), "log");
	ck_assert_ptr_null(nearest_of("xyz", names, 4));
	ck_assert_ptr_null(nearest_of("anything", names, 0));
	char longer[200];
	memset(longer, 'a', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	ck_assert_ptr_null(nearest_of(longer, names, 4));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("config_reload");
	TCase *t = tcase_create("all");
	tcase_add_loop_test(t, each_key_is_live_or_fixed, 0, (int)(sizeof(changes) / sizeof(changes[0])));
	tcase_add_test(t, peers_differ_by_content_not_order);
	tcase_add_test(t, properties_differ_by_order_too);
	tcase_add_test(t, protections_differ_by_content_not_order);
	tcase_add_test(t, roles_have_names);
	tcase_add_test(t, nearest_names);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
