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
	ck_assert_str_eq(c->replication.replica_dir, "/var/lib/vmferry/replicas");
	ck_assert_uint_eq(c->replication.delta_cache, 256u << 20);
	ck_assert_uint_eq(c->replication.staging, 256u << 20);
	ck_assert_uint_eq(c->replication.channels, 2);
	ck_assert_uint_eq(c->replication.bandwidth, 0);
	ck_assert_uint_eq(c->replication.n_fencing_command, 0);
	ck_assert_ptr_null(c->replication.fencing_command);
	ck_assert_uint_eq(c->replication.n_seed_folders, 0);
	ck_assert_int_eq(c->replication.fencing_timeout, 30 * INT64_C(1000000000));
	ck_assert_int_eq(c->replication.max_pause, 100 * INT64_C(1000000));
	ck_assert_uint_eq(c->n_protections, 0);
	ck_assert_uint_eq(c->restore.n_networks + c->restore.n_disks, 0);
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
	static char text[40000];
	size_t len = fread(text, 1, sizeof(text) - 1, f);
	text[len] = '\0';
	fclose(f);
	static char man[40000];
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
		"  properties = ( { name = \"linger.ms\"; value = \"5\"; }, { name = \"sasl.password\"; value = "
		"\"s3cr3t\"; } ); };\n"
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

START_TEST(replication_in_full)
{
	const int64_t ms = 1000000;
	struct config *c = must_load(
		"name = \"a\"; state_dir = \"/srv/v\"; peers = ( { name = \"dr1\"; } );\n"
		"replication = { delta_cache = \"0\"; staging = \"64MiB\"; channels = 1; bandwidth = \"1G\"; max_pause "
		"= \"40ms\";\n"
		"  fencing_command = [ \"/bin/fence\", \"off\" ]; fencing_timeout = \"5s\";\n"
		"  seed_folders = [ \"/srv/seeds\", \"/old\" ]; };\n"
		"protections = ( { vm = \"web 1\"; to = \"dr1\"; rpo = \"5s\"; mode = \"colo\"; quiesce = true;\n"
		"    keep = { last = 3; hourly = 0; size = \"50GiB\"; }; max_pause = \"20ms\"; bandwidth = \"200M\";\n"
		"    schedule = { every = \"5s\"; windows = ( { from = \"22:00\"; to = \"06:30\"; bandwidth = "
		"\"unlimited\"; },\n"
		"      { from = \"00:00\"; to = \"23:59\"; every = \"1m\"; } ); }; },\n"
		"  { vm = \"db\"; to = \"dr1\"; } );\n"
		"restore = { networks = ( { from = \"br0\"; to = \"br-dr\"; } );\n"
		"  disks = ( { from = \"/var/lib/libvirt/images\"; to = \"/srv/images\"; } ); };\n");
	ck_assert_str_eq(c->replication.replica_dir, "/srv/v/replicas");
	ck_assert_uint_eq(c->replication.n_fencing_command, 2);
	ck_assert_str_eq(c->replication.fencing_command[0], "/bin/fence");
	ck_assert_str_eq(c->replication.fencing_command[1], "off");
	ck_assert_ptr_null(c->replication.fencing_command[2]);
	ck_assert_uint_eq(c->replication.n_seed_folders, 2);
	ck_assert_str_eq(c->replication.seed_folders[1], "/old");
	ck_assert_uint_eq(c->n_protections, 2);
	const struct config_protection *p = config_protection_find(c, "web 1");
	ck_assert_ptr_eq(p, &c->protections[0]);
	ck_assert_str_eq(p->to, "dr1");
	ck_assert_int_eq(p->rpo, 5000 * ms);
	ck_assert_str_eq(p->mode, "colo");
	ck_assert(p->quiesce);
	ck_assert_int_eq(p->max_pause, 20 * ms);
	ck_assert_uint_eq(p->bandwidth, 25000000);
	ck_assert_uint_eq(p->keep.last, 3);
	ck_assert_uint_eq(p->keep.hourly, 0);
	ck_assert_uint_eq(p->keep.daily, 7);
	ck_assert_uint_eq(p->keep.size, UINT64_C(50) << 30);
	ck_assert_int_eq(p->every, 5000 * ms);
	ck_assert_uint_eq(p->n_windows, 2);
	ck_assert_uint_eq(p->windows[0].from, 22 * 60);
	ck_assert_uint_eq(p->windows[0].to, 6 * 60 + 30);
	ck_assert_int_eq(p->windows[0].every, 0);
	ck_assert_uint_eq(p->windows[0].bandwidth, 0);
	ck_assert_int_eq(p->windows[1].every, 60000 * ms);
	ck_assert_uint_eq(p->windows[1].bandwidth, CONFIG_AS_OUTSIDE);
	p = config_protection_find(c, "db");
	ck_assert_ptr_nonnull(p);
	ck_assert_int_eq(p->rpo, 5000 * ms);
	ck_assert_str_eq(p->mode, "auto");
	ck_assert(!p->quiesce);
	ck_assert_int_eq(p->max_pause, 0);
	ck_assert_int_eq(p->every, 0);
	ck_assert_uint_eq(p->bandwidth, CONFIG_AS_OUTSIDE);
	ck_assert_uint_eq(p->keep.last, 10);
	ck_assert_uint_eq(p->n_windows, 0);
	ck_assert_ptr_null(config_protection_find(c, "web1"));
	ck_assert_str_eq(c->restore.networks[0].to, "br-dr");
	ck_assert_str_eq(c->restore.disks[0].from, "/var/lib/libvirt/images");
	MEM_AUTO char *described = config_describe(c);
	ck_assert_msg(strstr(described, "replication.fencing_command = [ \"/bin/fence\", \"off\" ]\n") != NULL, "%s",
		      described);
	ck_assert_msg(strstr(described, "replication.seed_folders = [ \"/srv/seeds\", \"/old\" ]\n") != NULL, "%s",
		      described);
	ck_assert_msg(strstr(described, "protection web 1 = to \"dr1\" rpo \"5s\" mode \"colo\" quiesce true") != NULL,
		      "%s", described);
	ck_assert_msg(strstr(described, "window: from \"22:00\" to \"06:30\" bandwidth \"unlimited\"") != NULL, "%s",
		      described);
	ck_assert_msg(strstr(described, "restore network br0 = br-dr\n") != NULL, "%s", described);
	config_free(c);
}
END_TEST

START_TEST(a_fencing_command_is_a_path_or_an_array)
{
	struct config *c = must_load("replication = { fencing_command = \"/bin/fence\"; };");
	ck_assert_uint_eq(c->replication.n_fencing_command, 1);
	config_free(c);
	c = must_load("replication = { fencing_command = \"\"; };");
	ck_assert_uint_eq(c->replication.n_fencing_command, 0);
	config_free(c);
	c = must_load("replication = { fencing_command = [ ]; };");
	ck_assert_uint_eq(c->replication.n_fencing_command, 0);
	config_free(c);
}
END_TEST

#define FENCING "(allowed: an absolute path, or an array [ \"/path\", \"argument\", ... ]; \"\" or [ ] for none)"
#define SEEDS "(allowed: an absolute path, or an array [ \"/path\", \"/path\", ... ]; \"\" or [ ] for none)"
#define DR1 "name = \"a\"; peers = ( { name = \"dr1\"; } );"
#define PROTECT(more) DR1 "\nprotections = ( { vm = \"web1\"; to = \"dr1\"; " more " } );"
#define WINDOW(text) PROTECT("schedule = { windows = (\n" text " ); };")

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
	{ "replication = 5;", "test.conf:1: replication: is an integer, must be a group { ... }" },
	{ "replication = { replica_dri = \"/x\"; };",
	  "test.conf:1: replication.replica_dri: unknown key; did you mean \"replica_dir\"?" },
	{ "replication = { fencing_comand = \"/x\"; };",
	  "test.conf:1: replication.fencing_comand: unknown key; did you mean \"fencing_command\"?" },
	{ "replication = { replica_dir = \"xy\"; };",
	  "test.conf:1: replication.replica_dir: \"xy\" is not an absolute path (allowed: an absolute path)" },
	{ "replication = { delta_cache = \"65GiB\"; };",
	  "test.conf:1: replication.delta_cache: 65GiB is out of range (allowed: 0 to 64GiB)" },
	{ "replication = { staging = \"1MiB\"; };",
	  "test.conf:1: replication.staging: 1MiB is out of range (allowed: 16MiB to 64GiB)" },
	{ "replication = { channels = 0; };",
	  "test.conf:1: replication.channels: 0 is out of range (allowed: 1 to 16)" },
	{ "replication = { bandwidth = \"1kbit\"; };",
	  "test.conf:1: replication.bandwidth: 1kbit is out of range (allowed: "
	  "\"unlimited\", or a rate of at least \"1Mbit\")" },
	{ "replication = { fencing_timeout = \"11m\"; };",
	  "test.conf:1: replication.fencing_timeout: 11m is out of range (allowed: 1s to 10m)" },
	{ "replication = { max_pause = \"11s\"; };",
	  "test.conf:1: replication.max_pause: 11s is out of range (allowed: 1ms to 10s)" },
	{ "replication = { fencing_command = \"fence\"; };",
	  "test.conf:1: replication.fencing_command: \"fence\" is not an absolute path " FENCING },
	{ "replication = { fencing_command = [\n \"fence\" ]; };",
	  "test.conf:2: replication.fencing_command: \"fence\" is not an absolute path " FENCING },
	{ "replication = { fencing_command = 3; };",
	  "test.conf:1: replication.fencing_command: is an integer " FENCING },
	{ "replication = { fencing_command = ( \"/x\", 3 ); };",
	  "test.conf:1: replication.fencing_command: is an integer " FENCING },
	{ "replication = { seed_folders = [ \"/srv\",\n \"seeds\" ]; };",
	  "test.conf:2: replication.seed_folders: \"seeds\" is not an absolute path " SEEDS },
	{ "replication = { seed_folders = true; };", "test.conf:1: replication.seed_folders: is true or false " SEEDS },
	{ "protection = ( );", "test.conf:1: protection: unknown key; did you mean \"protections\"?" },
	{ "protections = 5;", "test.conf:1: protections: is an integer, must be a list ( { ... }, { ... } )" },
	{ "protections = ( 5 );", "test.conf:1: protections[0]: is an integer, must be a group { ... }" },
	{ DR1 "protections = ( { to = \"dr1\"; } );",
	  "test.conf:1: protections[0]: has no vm (allowed: the name or UUID of a VM of this host)" },
	{ "protections = ( { vm = \"web1\"; } );",
	  "test.conf:1: protections[0]: has no to (allowed: the name of a host in peers)" },
	{ "protections = ( { vm = \"a/b\"; } );",
	  "test.conf:1: protections[0].vm: has a control character or a \"/\" in it "
	  "(allowed: the name or UUID of a VM of this host)" },
	{ DR1 "protections = ( { vm = \"web1\";\n to = \"dr2\"; } );",
	  "test.conf:2: protections[0].to: \"dr2\" is not in peers; did you mean \"dr1\"? (allowed: the name of a host "
	  "in "
	  "peers)" },
	{ DR1 "protections = ( { vm = \"web1\"; to = \"elsewhere\"; } );",
	  "test.conf:1: protections[0].to: \"elsewhere\" is not in peers (allowed: the name of a host in peers)" },
	{ DR1 "protections = ( { vm = \"web1\"; to = \"a\"; } );",
	  "test.conf:1: protections[0].to: \"a\" is this host itself (allowed: the name of a host in peers)" },
	{ DR1 "protections = ( { vm = \"web1\"; to = \"dr1\"; },\n { vm = \"web1\"; to = \"dr1\"; } );",
	  "test.conf:2: protections[1].vm: \"web1\" is there twice (allowed: one entry per VM)" },
	{ PROTECT("rpo = \"50ms\";"), "test.conf:2: protections[0].rpo: 50ms is out of range (allowed: 100ms to 1d)" },
	{ PROTECT("schedule = { every = \"6s\"; };"),
	  "test.conf:2: protections[0].schedule.every: 6.0 s is longer than the rpo of 5.0 s, "
	  "which cannot be held then (allowed: at most the rpo)" },
	{ PROTECT("rpo = \"1s\"; schedule = { every = \"2s\"; };"),
	  "test.conf:2: protections[0].schedule.every: 2.0 s is longer than the rpo of 1.0 s, "
	  "which cannot be held then (allowed: at most the rpo)" },
	{ PROTECT("rpo = 1;"),
	  "test.conf:2: protections[0].rpo: is an integer, must be a string in quotes (allowed: 100ms to 1d)" },
	{ PROTECT("rop = \"1s\";"), "test.conf:2: protections[0].rop: unknown key; did you mean \"rpo\"?" },
	{ PROTECT("mode = \"cool\";"), "test.conf:2: protections[0].mode: there is no \"cool\"; did you mean \"colo\"? "
				       "(allowed: \"auto\", \"memory\", \"colo\", \"background\" or \"disk\")" },
	{ PROTECT("mode = \"x\";"),
	  "test.conf:2: protections[0].mode: there is no \"x\" (allowed: \"auto\", \"memory\", \"colo\", "
	  "\"background\" or \"disk\")" },
	{ PROTECT("quiesce = 1;"), "test.conf:2: protections[0].quiesce: is an integer (allowed: true or false)" },
	{ PROTECT("max_pause = \"0\";"),
	  "test.conf:2: protections[0].max_pause: 0 is out of range (allowed: 1ms to 10s)" },
	{ PROTECT("bandwidth = \"1kbit\";"), "test.conf:2: protections[0].bandwidth: 1kbit is out of range (allowed: "
					     "\"unlimited\", or a rate of at least \"1Mbit\")" },
	{ PROTECT("bandwidth = \"1\";"), "test.conf:2: protections[0].bandwidth: rate '1' is too small (allowed: "
					 "\"unlimited\", or a rate of at least \"1Mbit\")" },
	{ PROTECT("keep = 10;"), "test.conf:2: protections[0].keep: is an integer, must be a group { ... }" },
	{ PROTECT("keep = { last = 0; };"),
	  "test.conf:2: protections[0].keep.last: 0 is out of range (allowed: 1 to 10000)" },
	{ PROTECT("keep = { hourly = 10001; };"),
	  "test.conf:2: protections[0].keep.hourly: 10001 is out of range (allowed: 0 to 10000)" },
	{ PROTECT("keep = { daily = -1; };"),
	  "test.conf:2: protections[0].keep.daily: -1 is out of range (allowed: 0 to 10000)" },
	{ PROTECT("keep = { size = \"2000TiB\"; };"),
	  "test.conf:2: protections[0].keep.size: 2000TiB is out of range (allowed: 0 (no limit) to 1PiB)" },
	{ PROTECT("keep = { weekly = 3; };"), "test.conf:2: protections[0].keep.weekly: unknown key" },
	{ PROTECT("schedule = { evry = \"5s\"; };"),
	  "test.conf:2: protections[0].schedule.evry: unknown key; did you mean \"every\"?" },
	{ PROTECT("schedule = { window = ( ); };"),
	  "test.conf:2: protections[0].schedule.window: unknown key; did you mean \"windows\"?" },
	{ PROTECT("schedule = { every = \"25h\"; };"),
	  "test.conf:2: protections[0].schedule.every: 25h is out of range (allowed: 100ms to 1d)" },
	{ WINDOW("5"), "test.conf:3: protections[0].schedule.windows[0]: is an integer, must be a group { ... }" },
	{ WINDOW("{ from = \"24:00\"; to = \"06:00\"; every = \"1s\"; }"),
	  "test.conf:3: protections[0].schedule.windows[0].from: \"24:00\" is not a time of the day (allowed: "
	  "\"00:00\" to "
	  "\"23:59\")" },
	{ WINDOW("{ from = \"6:00\"; to = \"07:00\"; every = \"1s\"; }"),
	  "test.conf:3: protections[0].schedule.windows[0].from: \"6:00\" is not a time of the day (allowed: \"00:00\" "
	  "to "
	  "\"23:59\")" },
	{ WINDOW("{ to = \"07:00\"; every = \"1s\"; }"),
	  "test.conf:3: protections[0].schedule.windows[0]: has no \"from\" (allowed: \"00:00\" to \"23:59\")" },
	{ WINDOW("{ from = \"07:00\"; every = \"1s\"; }"),
	  "test.conf:3: protections[0].schedule.windows[0]: has no \"to\" (allowed: \"00:00\" to \"23:59\")" },
	{ WINDOW("{ from = \"07:00\"; to = \"07:00\"; every = \"1s\"; }"),
	  "test.conf:3: protections[0].schedule.windows[0]: from and to are the same time (allowed: two different "
	  "ones; to "
	  "may be the next day's)" },
	{ WINDOW("{ from = \"07:00\"; to = \"08:00\"; }"), "test.conf:3: protections[0].schedule.windows[0]: says "
							   "neither every nor bandwidth, so that it changes nothing "
							   "(allowed: one or both)" },
	{ "restore = ( );", "test.conf:1: restore: is a list ( ... ), must be a group { ... }" },
	{ "restore = { disk = ( ); };", "test.conf:1: restore.disk: unknown key; did you mean \"disks\"?" },
	{ "restore = { networks = ( { from = \"br0\"; } ); };",
	  "test.conf:1: restore.networks[0]: has no to (allowed: the name of a bridge or network here)" },
	{ "restore = { disks = ( { from = \"images\"; to = \"/x\"; } ); };",
	  "test.conf:1: restore.disks[0].from: \"images\" is not an absolute path (allowed: the absolute path of a "
	  "folder at "
	  "the source)" },
	{ "restore = { disks = ( { from = \"/a\"; to = \"/b\"; },\n { from = \"/a\"; to = \"/c\"; } ); };",
	  "test.conf:2: restore.disks[1].from: \"/a\" is there twice (allowed: one rule for each)" },
	{ "restore = { disks = 5; };",
	  "test.conf:1: restore.disks: is an integer, must be a list ( { ... }, { ... } )" },
	{ "kafka: { brokers = \"host\"; };", "test.conf:1: kafka.brokers: \"host\" has no port (allowed: "
					     "\"host:port\", more of them after commas, or \"\" for none)" },
	{ "kafka: { brokers = \"a:1,,b:2\"; };", "test.conf:1: kafka.brokers: a broker is missing between commas "
						 "(allowed: \"host:port\", more of them after commas, or "
						 "\"\" for none)" },
	{ "kafka: { brokers = \"a b:1\"; };", "test.conf:1: kafka.brokers: \"a b\" is neither an IP address nor a host "
					      "name (allowed: \"host:port\", more of them "
					      "after commas, or \"\" for none)" },
	{ "kafka: { topic = \"a/b\"; };", "test.conf:1: kafka.topic: \"a/b\" is not the name of a topic (allowed: 1 to "
					  "249 of the characters a-z, A-Z, 0-9, \".\", "
					  "\"_\" and \"-\")" },
	{ "kafka: { propertys = ( ); };", "test.conf:1: kafka.propertys: unknown key; did you mean \"properties\"?" },
	{ "kafka: { properties = { acks = \"all\"; }; };",
	  "test.conf:1: kafka.properties: is a group { ... }, must be a list ( { ... }, { ... } )" },
	{ "kafka: { properties = ( \"a\" ); };",
	  "test.conf:1: kafka.properties[0]: is a string in quotes, must be a group { ... }" },
	{ "kafka: { properties = ( { name = \"a\"; value = 1; } ); };",
	  "test.conf:1: kafka.properties[0].value: is an integer, must be a string in quotes (allowed: at most "
	  "65535 characters)" },
	{ "kafka: { properties = ( { value = \"1\"; } ); };",
	  "test.conf:1: kafka.properties[0]: has no name (allowed: the name of a property of librdkafka)" },
	{ "kafka: { properties = ( { name = \"a\"; value = \"\"; },\n { name = \"b\"; } ); };",
	  "test.conf:2: kafka.properties[1]: has no value (allowed: at most 65535 characters)" },
	{ "kafka: { properties = ( { name = \"\"; value = \"1\"; } ); };",
	  "test.conf:1: kafka.properties[0].name: is empty (allowed: the name of a property of librdkafka)" },
	{ "kafak: { };", "test.conf:1: kafak: unknown key; did you mean \"kafka\"?" },
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
	tcase_add_test(t, replication_in_full);
	tcase_add_test(t, a_fencing_command_is_a_path_or_an_array);
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
