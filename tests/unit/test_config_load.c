/* Loading a configuration: defaults, the example, every way to be wrong with file, line and range, and suggestions. */
#include "base/mem.h"
#include "config/config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXAMPLE TESTS_DIR "/../config/vmferryd.conf.example"

/* libconfig 1.5 forgets a string when a syntax error follows it. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libconfig.so\n";
}

static struct config *must_load(const char *text)
{
	struct err e = ERR_INIT;
	struct config *c = config_load_text(text, "test.conf", NULL, NULL, &e);
	ck_assert_msg(c != NULL, "%s", e.text);
	return c;
}

static void must_refuse(const char *text, const char *expected)
{
	struct err e = ERR_INIT;
	struct config *c = config_load_text(text, "test.conf", NULL, NULL, &e);
	ck_assert_msg(c == NULL, "accepted: %s", text);
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	ck_assert_str_eq(e.text, expected);
}

START_TEST(defaults_of_an_empty_file)
{
	struct config *c = must_load("");
	char host[256] = "";
	gethostname(host, sizeof(host) - 1);
	ck_assert_str_eq(c->name, host);
	ck_assert_str_eq(c->listen.address, "*");
	ck_assert_uint_eq(c->listen.port, 7350);
	ck_assert_str_eq(c->tls.ca, "/etc/vmferry/ca.pem");
	ck_assert_str_eq(c->control.socket, CONFIG_DEFAULT_SOCKET);
	ck_assert_str_eq(c->control.group, "");
	ck_assert_uint_eq(c->migration.delta_cache, 512u << 20);
	ck_assert_uint_eq(c->migration.bandwidth, 0);
	ck_assert_int_eq(c->migration.max_downtime, 300 * INT64_C(1000000));
	ck_assert_uint_eq(c->n_peers, 0);
	ck_assert_int_eq(c->log.level, LOG_LEVEL_INFO);
	config_free(c);
}
END_TEST

START_TEST(the_example_says_the_defaults)
{
	struct err e = ERR_INIT;
	struct config *example = config_load(EXAMPLE, NULL, NULL, &e);
	ck_assert_msg(example != NULL, "%s", e.text);
	struct config *defaults = must_load("");
	struct config_change changes[64];
	size_t n = config_reload_diff(defaults, example, changes, 64);
	ck_assert_msg(n == 0, "the example differs in %s", n ? changes[0].key : "");
	MEM_AUTO char *a = config_describe(example), *b = config_describe(defaults);
	ck_assert_str_eq(a, b);
	/* Every key that exists is in the example, if only behind a comment. */
	FILE *f = fopen(EXAMPLE, "r");
	ck_assert_ptr_nonnull(f);
	static char text[20000];
	size_t len = fread(text, 1, sizeof(text) - 1, f);
	text[len] = '\0';
	fclose(f);
	static char man[20000];
	f = fopen(TESTS_DIR "/../tools/man/vmferryd.conf.5", "r");
	ck_assert_ptr_nonnull(f);
	man[fread(man, 1, sizeof(man) - 1, f)] = '\0';
	fclose(f);
	for (char *line = strtok(a, "\n"); line; line = strtok(NULL, "\n")) {
		*strchr(line, ' ') = '\0';
		const char *dot = strrchr(line, '.');
		char needle[80];
		snprintf(needle, sizeof(needle), "%s = ", dot ? dot + 1 : line);
		ck_assert_msg(strstr(text, needle) != NULL, "the example lacks %s", line);
		ck_assert_msg(strstr(man, line) != NULL, "vmferryd.conf(5) lacks %s", line);
	}
	config_free(example);
	config_free(defaults);
}
END_TEST

START_TEST(a_full_file)
{
	struct config *c = must_load(
		"name = \"a.example.net\";\n"
		"run_dir = \"/run/x\";\n"
		"listen: { address = \"192.0.2.1\"; port = 99; };\n"
		"peers = ( { name = \"b\"; address = \"192.0.2.2\"; port = 7351;\n"
		"  roles = [ \"migrate-in\", \"operate\" ]; }, { name = \"c\"; roles = [ ]; } );\n"
		"migration: { bandwidth = \"1G\"; max_downtime = \"1.5s\"; delta_cache = \"64MiB\"; };\n"
		"kafka: { brokers = \"k1.example.net:9092,[2001:db8::1]:9093,192.0.2.3:1\"; topic = \"dc1.events\";\n"
		"  properties = ( { name = \"linger.ms\"; value = \"5\"; }, { name = \"sasl.password\"; value = \"s3cr3t\"; } ); };\n"
		"log: { level = \"debug\"; };\n");
	ck_assert_str_eq(c->name, "a.example.net");
	ck_assert_str_eq(c->control.socket, "/run/x/control.sock");
	ck_assert_uint_eq(c->listen.port, 99);
	ck_assert_uint_eq(c->migration.bandwidth, 125000000);
	ck_assert_int_eq(c->migration.max_downtime, 1500 * INT64_C(1000000));
	ck_assert_str_eq(c->kafka.brokers, "k1.example.net:9092,[2001:db8::1]:9093,192.0.2.3:1");
	ck_assert_str_eq(c->kafka.topic, "dc1.events");
	ck_assert_str_eq(c->kafka.state_topic, "vmferry.state");
	ck_assert_uint_eq(c->kafka.n_properties, 2);
	ck_assert_str_eq(c->kafka.properties[1].name, "sasl.password");
	ck_assert_str_eq(c->kafka.properties[1].value, "s3cr3t");
	MEM_AUTO char *said = config_describe(c);
	ck_assert_ptr_nonnull(strstr(said, "kafka.properties: sasl.password"));
	ck_assert_ptr_null(strstr(said, "s3cr3t"));
	ck_assert_uint_eq(c->n_peers, 2);
	const struct config_peer *b = config_peer_find(c, "b");
	ck_assert_ptr_nonnull(b);
	ck_assert_uint_eq(b->roles, ROLE_MIGRATE_IN | ROLE_OPERATE);
	ck_assert_uint_eq(b->port, 7351);
	const struct config_peer *p = config_peer_find(c, "c");
	ck_assert_ptr_nonnull(p);
	ck_assert_uint_eq(p->roles, 0);
	ck_assert_str_eq(p->address, "c");
	ck_assert_uint_eq(p->port, 7350);
	ck_assert_ptr_null(config_peer_find(c, "d"));
	config_free(c);
}
END_TEST

static const struct {
	const char *text, *expected;
} refusals[] = {
	{ "lisen: { port = 1; };", "test.conf:1: lisen: unknown key; did you mean \"listen\"?" },
	{ "\nlisten: { prot = 1; };", "test.conf:2: listen.prot: unknown key; did you mean \"port\"?" },
	{ "listen: { zzzzzzzz = 1; };", "test.conf:1: listen.zzzzzzzz: unknown key" },
	{ "peer = ();", "test.conf:1: peer: unknown key; did you mean \"peers\"?" },
	{ "listen: { port = 0; };", "test.conf:1: listen.port: 0 is out of range (allowed: 1 to 65535)" },
	{ "listen: { port = 65536; };", "test.conf:1: listen.port: 65536 is out of range (allowed: 1 to 65535)" },
	{ "listen: { port = -7; };", "test.conf:1: listen.port: -7 is out of range (allowed: 1 to 65535)" },
	{ "listen: { port = 4294974646; };", "test.conf:1: this integer is too large for any setting" },
	{ "listen: {\n port = 0x100000001; };", "test.conf:2: this integer is too large for any setting" },
	{ "listen: { port = 99999999999999999999L; };", "test.conf:1: this integer is too large for any setting" },
	{ "listen: { port = 4294974646L; };",
	  "test.conf:1: listen.port: 4294974646 is out of range (allowed: 1 to 65535)" },
	{ "# a comment\n/* and\n another */ // and\n@include \"x\"\n",
	  "test.conf:4: \"@\" directives are not supported: everything goes into this one file" },
	{ "listen: { port = \"7350\"; };",
	  "test.conf:1: listen.port: is a string in quotes, must be an integer (allowed: 1 to 65535)" },
	{ "listen: { port = 1.5; };",
	  "test.conf:1: listen.port: is a floating-point number, must be an integer (allowed: 1 to 65535)" },
	{ "listen = 5;", "test.conf:1: listen: is an integer, must be a group { ... }" },
	{ "listen: { address = \"example.net\"; };", "test.conf:1: listen.address: \"example.net\" is not an IP "
						     "address (allowed: \"*\" for all addresses, or an IPv4 or "
						     "IPv6 address of this host)" },
	{ "tls: { ca = \"ca.pem\"; };",
	  "test.conf:1: tls.ca: \"ca.pem\" is not an absolute path (allowed: an absolute path)" },
	{ "tls: { ca = \"/etc/../ca.pem\"; };",
	  "test.conf:1: tls.ca: \"/etc/../ca.pem\" goes through \"..\" (allowed: an absolute path)" },
	{ "tls: { ca = 3; };",
	  "test.conf:1: tls.ca: is an integer, must be a string in quotes (allowed: an absolute path)" },
	{ "name = \"Node1\";",
	  "test.conf:1: name: \"Node1\" is not a host name in lower case (allowed: a DNS name in lower case, "
	  "as in this host's certificate)" },
	{ "name = \"a..b\";",
	  "test.conf:1: name: \"a..b\" is not a host name (allowed: a DNS name in lower case, as in this "
	  "host's certificate)" },
	{ "run_dir = \"/run/0123456789012345678901234567890123456789012345678901234567\";",
	  "test.conf:1: run_dir: is 63 characters long (allowed: an absolute path of at most 60 characters, since "
	  "sockets are "
	  "made below it)" },
	{ "libvirt: { uri = \"qemu+ssh://other/system\"; };",
	  "test.conf:1: libvirt.uri: \"qemu+ssh://other/system\" is not a local URI of the QEMU driver (allowed: a URI "
	  "of libvirt's "
	  "QEMU driver on this host, such as \"qemu:///system\")" },
	{ "libvirt: { qemu_group = \"a b\"; };",
	  "test.conf:1: libvirt.qemu_group: \"a b\" is not the name of a UNIX group (allowed: "
	  "the name of a UNIX group, or \"\" if QEMU runs as root)" },
	{ "migration: { channels = 17; };", "test.conf:1: migration.channels: 17 is out of range (allowed: 1 to 16)" },
	{ "migration: { delta_cache = \"65GiB\"; };",
	  "test.conf:1: migration.delta_cache: 65GiB is out of range (allowed: 0 to 64GiB)" },
	{ "migration: { max_downtime = \"61s\"; };",
	  "test.conf:1: migration.max_downtime: 61s is out of range (allowed: 10ms to 60s)" },
	{ "migration: { bandwidth = \"1kbit\"; };",
	  "test.conf:1: migration.bandwidth: 1kbit is out of range (allowed: \"unlimited\", "
	  "or a rate of at least \"1Mbit\")" },
	{ "log: { level = \"loud\"; };",
	  "test.conf:1: log.level: there is no level \"loud\" (allowed: \"error\", \"warn\", "
	  "\"info\" or \"debug\")" },
	{ "peers = 5;", "test.conf:1: peers: is an integer, must be a list ( { ... }, { ... } )" },
	{ "peers = ( 5 );", "test.conf:1: peers[0]: is an integer, must be a group { name = ...; }" },
	{ "peers = ( { address = \"192.0.2.1\"; } );",
	  "test.conf:1: peers[0]: has no name (allowed: the DNS name in the peer's certificate)" },
	{ "peers = ( { name = \"b\"; role = [ ]; } );",
	  "test.conf:1: peers[0].role: unknown key; did you mean \"roles\"?" },
	{ "peers = ( { name = \"b\"; roles = [ \"migrate\" ]; } );",
	  "test.conf:1: peers[0].roles: \"migrate\" is not a role (allowed: \"migrate-in\", \"replicate-in\", "
	  "\"operate\")" },
	{ "peers = ( { name = \"b\"; roles = \"operate\"; } );",
	  "test.conf:1: peers[0].roles: is a string in quotes, must be an array [ ... ] (allowed: any of "
	  "\"migrate-in\", "
	  "\"replicate-in\", \"operate\")" },
	{ "peers = ( { name = \"b\"; port = 0; } );",
	  "test.conf:1: peers[0].port: 0 is out of range (allowed: 1 to 65535)" },
	{ "peers = ( { name = \"b\"; address = \"b c\"; } );",
	  "test.conf:1: peers[0].address: \"b c\" is neither an IP address nor a host name (allowed: an IP address or "
	  "a host "
	  "name)" },
	{ "peers = ( { name = \"b\"; address = \"192.0.2.300\"; } );",
	  "test.conf:1: peers[0].address: \"192.0.2.300\" is neither an IP address nor a host name (allowed: an IP "
	  "address or a "
	  "host name)" },
	{ "peers = ( { name = \"b\"; },\n { name = \"b\"; } );",
	  "test.conf:2: peers[1].name: \"b\" is there twice (allowed: one entry per peer)" },
	{ "name = \"b\"; peers = ( { name = \"b\"; } );",
	  "test.conf:1: peers[0].name: \"b\" is this host itself (allowed: other hosts)" },
	{ "kafka: { brokers = \"host\"; };",
	  "test.conf:1: kafka.brokers: \"host\" has no port (allowed: \"host:port\", more of them after commas, or \"\" for none)" },
	{ "kafka: { brokers = \"a:1,,b:2\"; };",
	  "test.conf:1: kafka.brokers: a broker is missing between commas (allowed: \"host:port\", more of them after commas, or "
	  "\"\" for none)" },
	{ "kafka: { brokers = \"a b:1\"; };",
	  "test.conf:1: kafka.brokers: \"a b\" is neither an IP address nor a host name (allowed: \"host:port\", more of them "
	  "after commas, or \"\" for none)" },
	{ "kafka: { topic = \"a/b\"; };",
	  "test.conf:1: kafka.topic: \"a/b\" is not the name of a topic (allowed: 1 to 249 of the characters a-z, A-Z, 0-9, \".\", "
	  "\"_\" and \"-\")" },
	{ "kafka: { propertys = ( ); };", "test.conf:1: kafka.propertys: unknown key; did you mean \"properties\"?" },
	{ "kafka: { properties = { acks = \"all\"; }; };",
	  "test.conf:1: kafka.properties: is a group { ... }, must be a list ( { ... }, { ... } )" },
	{ "kafka: { properties = ( \"a\" ); };",
	  "test.conf:1: kafka.properties[0]: is a string in quotes, must be a group { name = ...; value = ...; }" },
	{ "kafka: { properties = ( { name = \"a\"; value = 1; } ); };",
	  "test.conf:1: kafka.properties[0].value: is an integer, must be a string in quotes" },
	{ "kafka: { properties = ( { value = \"1\"; } ); };",
	  "test.conf:1: kafka.properties[0]: lacks its name (allowed: name and value, both strings)" },
	{ "kafka: { properties = ( { name = \"a\"; valu = \"1\"; } ); };",
	  "test.conf:1: kafka.properties[0].valu: unknown key; did you mean \"value\"?" },
	{ "listen: {\n", "test.conf:2: syntax error" },
	{ "log: { level = \"info\"; level = \"debug\"; };", "test.conf:1: duplicate setting name" },
};

START_TEST(refused_with_line_and_range)
{
	must_refuse(refusals[_i].text, refusals[_i].expected);
}
END_TEST

static void collect(void *ctx, const char *line)
{
	char *all = ctx;
	strcat(strcat(all, line), "\n");
}

START_TEST(every_problem_is_reported)
{
	char all[4000] = "";
	struct err e = ERR_INIT;
	ck_assert_ptr_null(
		config_load_text("listen: { port = 0; };\nnmae = 1;\nlog: { level = 1; };\n", "t", collect, all, &e));
	ck_assert_str_eq(all,
			 "t:1: listen.port: 0 is out of range (allowed: 1 to 65535)\n"
			 "t:2: nmae: unknown key; did you mean \"name\"?\n"
			 "t:3: log.level: is an integer, must be a string in quotes (allowed: \"error\", \"warn\", "
			 "\"info\" or \"debug\")\n");
	ck_assert_str_eq(e.text, "t:1: listen.port: 0 is out of range (allowed: 1 to 65535)");
	struct err e2 = ERR_INIT;
	ck_assert_ptr_null(config_load_text("a1 = 1;\nb2 = 2;\n", "t", NULL, NULL, &e2));
	ck_assert_str_eq(e2.text, "2 problems, the first: t:1: a1: unknown key");
}
END_TEST

START_TEST(files_that_cannot_be_read)
{
	struct err e = ERR_INIT;
	ck_assert_ptr_null(config_load("/nonexistent/vmferryd.conf", NULL, NULL, &e));
	ck_assert_int_eq(e.cls, ERR_SYS);
	ck_assert_str_eq(e.text,
			 "cannot read the configuration: open /nonexistent/vmferryd.conf: No such file or directory");
	struct err e2 = ERR_INIT;
	ck_assert_ptr_null(config_load("/", NULL, NULL, &e2));
	ck_assert_int_eq(e2.cls, ERR_SYS);
}
END_TEST

START_TEST(text_in_comments_and_strings_is_left_alone)
{
	struct config *c = must_load("# @include \"x\" 99999999999\n/* 99999999999\n@include */ // 99999999999\n"
				     "tls: { ca = \"/a@99999999999\\\"/b\"; };\n");
	ck_assert_str_eq(c->tls.ca, "/a@99999999999\"/b");
	config_free(c);
}
END_TEST

START_TEST(hexadecimal_and_long_integers)
{
	struct config *c = must_load("listen: { port = 0x1F90; };\nmigration: { channels = 3L; };");
	ck_assert_uint_eq(c->listen.port, 8080);
	ck_assert_uint_eq(c->migration.channels, 3);
	config_free(c);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("config_load");
	TCase *t = tcase_create("all");
	tcase_add_test(t, defaults_of_an_empty_file);
	tcase_add_test(t, the_example_says_the_defaults);
	tcase_add_test(t, a_full_file);
	tcase_add_loop_test(t, refused_with_line_and_range, 0, (int)(sizeof(refusals) / sizeof(refusals[0])));
	tcase_add_test(t, every_problem_is_reported);
	tcase_add_test(t, files_that_cannot_be_read);
	tcase_add_test(t, text_in_comments_and_strings_is_left_alone);
	tcase_add_test(t, hexadecimal_and_long_integers);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
