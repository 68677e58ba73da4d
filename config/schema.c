#include "config/schema.h"

#include "base/mem.h"
#include "base/units.h"
#include "config/nearest.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KiB UINT64_C(1024)
#define MiB (KiB * 1024)
#define GiB (MiB * 1024)
#define MS UINT64_C(1000000)
#define SEC (1000 * MS)
#define MBIT UINT64_C(125000)

/* A session's sockets live at RUN_DIR/<32 hex digits>/libvirt.sock and must fit a sockaddr_un (108 bytes). */
#define RUN_DIR_MAX 60
#define SOCKET_MAX 107
#define PATH_LIMIT 1024

#define AT(member) offsetof(struct config, member)

const struct schema_key schema_keys[] = {
	{ NULL, "name", "name", SCHEMA_HOST, AT(name), NULL, 1, 253,
	  "a DNS name in lower case, as in this host's certificate", false, NULL },
	{ NULL, "state_dir", "state_dir", SCHEMA_PATH, AT(state_dir), "/var/lib/vmferry", 2, PATH_LIMIT,
	  "an absolute path", false, NULL },
	{ NULL, "run_dir", "run_dir", SCHEMA_PATH, AT(run_dir), "/run/vmferry", 2, RUN_DIR_MAX,
	  "an absolute path of at most 60 characters, since sockets are made below it", false, NULL },
	{ "listen", "address", "listen.address", SCHEMA_LISTEN, AT(listen.address), "*", 1, 64,
	  "\"*\" for all addresses, or an IPv4 or IPv6 address of this host", false, NULL },
	{ "listen", "port", "listen.port", SCHEMA_UINT, AT(listen.port), "7350", 1, 65535, "1 to 65535", false, NULL },
	{ "tls", "ca", "tls.ca", SCHEMA_PATH, AT(tls.ca), "/etc/vmferry/ca.pem", 2, PATH_LIMIT, "an absolute path",
	  true, NULL },
	{ "tls", "cert", "tls.cert", SCHEMA_PATH, AT(tls.cert), "/etc/vmferry/host.pem", 2, PATH_LIMIT,
	  "an absolute path", true, NULL },
	{ "tls", "key", "tls.key", SCHEMA_PATH, AT(tls.key), "/etc/vmferry/host.key", 2, PATH_LIMIT, "an absolute path",
	  true, NULL },
	{ "libvirt", "uri", "libvirt.uri", SCHEMA_URI, AT(libvirt.uri), "qemu:///system", 7, 500,
	  "a URI of libvirt's QEMU driver on this host, such as \"qemu:///system\"", false, NULL },
	{ "libvirt", "socket", "libvirt.socket", SCHEMA_PATH, AT(libvirt.socket), "/run/libvirt/libvirt-sock", 2,
	  SOCKET_MAX, "an absolute path of at most 107 characters", false, NULL },
	{ "libvirt", "qemu_group", "libvirt.qemu_group", SCHEMA_GROUP, AT(libvirt.qemu_group), "kvm", 0, 32,
	  "the name of a UNIX group, or \"\" if QEMU runs as root", false, NULL },
	{ "migration", "delta_cache", "migration.delta_cache", SCHEMA_SIZE, AT(migration.delta_cache), "512MiB", 0,
	  64 * GiB, "0 to 64GiB", true, NULL },
	{ "migration", "channels", "migration.channels", SCHEMA_UINT, AT(migration.channels), "4", 1, 16, "1 to 16",
	  true, NULL },
	{ "migration", "workers", "migration.workers", SCHEMA_UINT, AT(migration.workers), "0", 0, 64,
	  "0 (automatic) to 64", true, NULL },
	{ "migration", "bandwidth", "migration.bandwidth", SCHEMA_RATE, AT(migration.bandwidth), "unlimited", MBIT,
	  8000000 * MBIT, "\"unlimited\", or a rate of at least \"1Mbit\"", true, NULL },
	{ "migration", "max_downtime", "migration.max_downtime", SCHEMA_DURATION, AT(migration.max_downtime), "300ms",
	  10 * MS, 60 * SEC, "10ms to 60s", true, NULL },
	{ "migration", "max_jobs", "migration.max_jobs", SCHEMA_UINT, AT(migration.max_jobs), "2", 1, 64, "1 to 64",
	  true, NULL },
	{ "migration", "image_dir", "migration.image_dir", SCHEMA_PATH_OPT, AT(migration.image_dir),
	  "/var/lib/libvirt/images", 0, PATH_LIMIT, "an absolute path, or \"\" for any folder that exists", true, NULL },
	{ "replication", "replica_dir", "replication.replica_dir", SCHEMA_PATH, AT(replication.replica_dir), NULL, 2,
	  PATH_LIMIT, "an absolute path", false, NULL },
	{ "replication", "delta_cache", "replication.delta_cache", SCHEMA_SIZE, AT(replication.delta_cache), "256MiB",
	  0, 64 * GiB, "0 to 64GiB", false, NULL },
	{ "replication", "staging", "replication.staging", SCHEMA_SIZE, AT(replication.staging), "256MiB", 16 * MiB,
	  64 * GiB, "16MiB to 64GiB", false, NULL },
	{ "replication", "channels", "replication.channels", SCHEMA_UINT, AT(replication.channels), "2", 1, 16,
	  "1 to 16", false, NULL },
	{ "replication", "bandwidth", "replication.bandwidth", SCHEMA_RATE, AT(replication.bandwidth), "unlimited",
	  MBIT, 8000000 * MBIT, "\"unlimited\", or a rate of at least \"1Mbit\"", true, NULL },
	{ "replication", "fencing_timeout", "replication.fencing_timeout", SCHEMA_DURATION,
	  AT(replication.fencing_timeout), "30s", SEC, 600 * SEC, "1s to 10m", true, NULL },
	{ "replication", "max_pause", "replication.max_pause", SCHEMA_DURATION, AT(replication.max_pause), "100ms", MS,
	  10 * SEC, "1ms to 10s", true, NULL },
	{ "kafka", "brokers", "kafka.brokers", SCHEMA_BROKERS, AT(kafka.brokers), "", 0, 2000,
	  "\"host:port\", more of them after commas, or \"\" for none", true, NULL },
	{ "kafka", "topic", "kafka.topic", SCHEMA_TOPIC, AT(kafka.topic), "vmferry.events", 1, 249,
	  "1 to 249 of the characters a-z, A-Z, 0-9, \".\", \"_\" and \"-\"", true, NULL },
	{ "kafka", "state_topic", "kafka.state_topic", SCHEMA_TOPIC, AT(kafka.state_topic), "vmferry.state", 1, 249,
	  "1 to 249 of the characters a-z, A-Z, 0-9, \".\", \"_\" and \"-\"", true, NULL },
	{ "control", "socket", "control.socket", SCHEMA_PATH, AT(control.socket), NULL, 2, SOCKET_MAX,
	  "an absolute path of at most 107 characters", false, NULL },
	{ "control", "group", "control.group", SCHEMA_GROUP, AT(control.group), "", 0, 32,
	  "the name of a UNIX group, or \"\" for root alone", false, NULL },
	{ "log", "level", "log.level", SCHEMA_LOG_LEVEL, AT(log.level), "info", 0, 0,
	  "\"error\", \"warn\", \"info\" or \"debug\"", true, NULL },
};
const size_t schema_n_keys = sizeof(schema_keys) / sizeof(schema_keys[0]);

static bool same_group(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

const struct schema_key *schema_find(const char *group, const char *name)
{
	for (size_t i = 0; i < schema_n_keys; i++)
		if (same_group(schema_keys[i].group, group) && strcmp(schema_keys[i].name, name) == 0)
			return &schema_keys[i];
	return NULL;
}

bool schema_has_group(const char *group)
{
	for (size_t i = 0; i < schema_n_keys; i++)
		if (schema_keys[i].group && strcmp(schema_keys[i].group, group) == 0)
			return true;
	return false;
}

static bool kind_is_text(enum schema_kind kind)
{
	return kind <= SCHEMA_CHOICE;
}

static char **text_at(const struct schema_key *k, void *base)
{
	return (char **)(void *)((char *)base + k->offset);
}

static const char *text_of(const struct schema_key *k, const void *base)
{
	return *(char *const *)(const void *)((const char *)base + k->offset);
}

static uint64_t number_of(const struct schema_key *k, const void *base)
{
	const void *p = (const char *)base + k->offset;
	switch (k->kind) {
	case SCHEMA_UINT:
		return *(const unsigned *)p;
	case SCHEMA_SIZE:
	case SCHEMA_RATE:
		return *(const uint64_t *)p;
	case SCHEMA_DURATION:
		return (uint64_t)(*(const int64_t *)p);
	case SCHEMA_LOG_LEVEL:
		return (uint64_t)(*(const enum log_level *)p);
	case SCHEMA_BOOL:
		return *(const bool *)p;
	case SCHEMA_TIME:
		return *(const unsigned *)p;
	case SCHEMA_HOST:
	case SCHEMA_LISTEN:
	case SCHEMA_PATH:
	case SCHEMA_PATH_OPT:
	case SCHEMA_URI:
	case SCHEMA_BROKERS:
	case SCHEMA_TOPIC:
	case SCHEMA_GROUP:
	case SCHEMA_NAME:
	case SCHEMA_TEXT:
	case SCHEMA_CHOICE:
		break;
	}
	abort();
}

static void store_number(const struct schema_key *k, void *base, uint64_t value)
{
	void *p = (char *)base + k->offset;
	switch (k->kind) {
	case SCHEMA_UINT:
		*(unsigned *)p = (unsigned)value;
		return;
	case SCHEMA_SIZE:
	case SCHEMA_RATE:
		*(uint64_t *)p = value;
		return;
	case SCHEMA_DURATION:
		*(int64_t *)p = (int64_t)value;
		return;
	case SCHEMA_LOG_LEVEL:
		*(enum log_level *)p = (enum log_level)value;
		return;
	case SCHEMA_BOOL:
		*(bool *)p = value != 0;
		return;
	case SCHEMA_TIME:
		*(unsigned *)p = (unsigned)value;
		return;
	case SCHEMA_HOST:
	case SCHEMA_LISTEN:
	case SCHEMA_PATH:
	case SCHEMA_PATH_OPT:
	case SCHEMA_URI:
	case SCHEMA_BROKERS:
	case SCHEMA_TOPIC:
	case SCHEMA_GROUP:
	case SCHEMA_NAME:
	case SCHEMA_TEXT:
	case SCHEMA_CHOICE:
		break;
	}
	abort();
}

static void store_text(const struct schema_key *k, void *base, const char *text)
{
	char **p = text_at(k, base);
	char *copy = mem_strdup(text);
	free(*p);
	*p = copy;
}

int schema_check_host(const char *text, struct err *e)
{
	size_t len = strlen(text);
	if (len == 0)
		return err_set(e, ERR_CONFIG, "is empty");
	if (len > 253)
		return err_set(e, ERR_CONFIG, "is longer than 253 characters");
	size_t label = 0;
	for (size_t i = 0; i <= len; i++) {
		char ch = text[i];
		if (ch == '.' || ch == '\0') {
			if (label == 0 || label > 63 || text[i - 1] == '-')
				return err_set(e, ERR_CONFIG, "\"%s\" is not a host name", text);
			label = 0;
			continue;
		}
		bool ok = (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') || (ch == '-' && label > 0);
		if (!ok)
			return err_set(e, ERR_CONFIG, "\"%s\" is not a host name in lower case", text);
		label++;
	}
	return 0;
}

static bool is_ip(const char *text)
{
	struct in6_addr a6;
	struct in_addr a4;
	return inet_pton(AF_INET, text, &a4) == 1 || inet_pton(AF_INET6, text, &a6) == 1;
}

int schema_check_address(const char *text, struct err *e)
{
	if (is_ip(text))
		return 0;
	struct err inner = ERR_INIT;
	MEM_AUTO char *lower = mem_strdup(text);
	for (char *p = lower; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	/* "192.0.2.300" is a mistyped address, not a name: no top-level domain is a number. */
	const char *dot = strrchr(lower, '.');
	bool numeric = dot && dot[1 + strspn(dot + 1, "0123456789")] == '\0';
	if (numeric || schema_check_host(lower, &inner) < 0)
		return err_set(e, ERR_CONFIG, "\"%s\" is neither an IP address nor a host name", text);
	return 0;
}

static int check_path(const char *text, struct err *e)
{
	if (text[0] != '/')
		return err_set(e, ERR_CONFIG, "\"%s\" is not an absolute path", text);
	for (const char *p = text; *p; p++) {
		if (iscntrl((unsigned char)*p))
			return err_set(e, ERR_CONFIG, "has a control character in it");
		if (p[0] == '/' && p[1] == '.' && p[2] == '.' && (p[3] == '/' || p[3] == '\0'))
			return err_set(e, ERR_CONFIG, "\"%s\" goes through \"..\"", text);
	}
	return 0;
}

static int check_group(const char *text, struct err *e)
{
	for (const char *p = text; *p; p++) {
		bool ok = isalnum((unsigned char)*p) || *p == '_' || (p > text && (*p == '-' || *p == '.' || *p == '$'));
		if (!ok)
			return err_set(e, ERR_CONFIG, "\"%s\" is not the name of a UNIX group", text);
	}
	return 0;
}

/* One of the list, [p, end): host:port, or [IPv6]:port. */
static int check_broker(const char *p, size_t len, struct err *e)
{
	char text[300];
	if (len == 0 || len >= sizeof(text))
		return err_set(e, ERR_CONFIG,
			       len ? "a broker's name is too long" : "a broker is missing between commas");
	memcpy(text, p, len);
	text[len] = '\0';
	char *colon = strrchr(text, ':'), *host = text, *end = NULL;
	long port = colon ? strtol(colon + 1, &end, 10) : 0;
	if (!colon || !isdigit((unsigned char)colon[1]) || *end || port < 1 || port > 65535)
		return err_set(e, ERR_CONFIG, "\"%s\" has no port", text);
	*colon = '\0';
	if (*host == '[' && colon > text + 1 && colon[-1] == ']') {
		colon[-1] = '\0';
		host++;
	}
	return schema_check_address(host, e);
}

static int check_brokers(const char *text, struct err *e)
{
	for (const char *p = text; *text; p++) {
		size_t len = strcspn(p, ",");
		if (check_broker(p, len, e) < 0)
			return -1;
		p += len;
		if (!*p)
			break;
	}
	return 0;
}

static int check_topic(const char *text, struct err *e)
{
	for (const char *p = text; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
			return err_set(e, ERR_CONFIG, "\"%s\" is not the name of a topic", text);
	if (strcmp(text, ".") == 0 || strcmp(text, "..") == 0)
		return err_set(e, ERR_CONFIG, "\"%s\" is not the name of a topic", text);
	return 0;
}

static int check_name(const char *text, struct err *e)
{
	for (const char *p = text; *p; p++)
		if (iscntrl((unsigned char)*p) || *p == '/')
			return err_set(e, ERR_CONFIG, "has a control character or a \"/\" in it");
	return 0;
}

static int check_choice(const char *const *choices, const char *text, struct err *e)
{
	size_t n = 0;
	for (; choices[n]; n++)
		if (strcmp(choices[n], text) == 0)
			return 0;
	const char *near = nearest_of(text, choices, n);
	if (near)
		return err_set(e, ERR_CONFIG, "there is no \"%s\"; did you mean \"%s\"?", text, near);
	return err_set(e, ERR_CONFIG, "there is no \"%s\"", text);
}

/* "22:00" as minutes since midnight. */
static int parse_time(const char *text, uint64_t *minutes, struct err *e)
{
	bool shaped = strlen(text) == 5 && isdigit((unsigned char)text[0]) && isdigit((unsigned char)text[1]) &&
		      text[2] == ':' && isdigit((unsigned char)text[3]) && isdigit((unsigned char)text[4]);
	uint64_t h = shaped ? (uint64_t)(text[0] - '0') * 10 + (uint64_t)(text[1] - '0') : 0;
	uint64_t m = shaped ? (uint64_t)(text[3] - '0') * 10 + (uint64_t)(text[4] - '0') : 0;
	if (!shaped || h > 23 || m > 59)
		return err_set(e, ERR_CONFIG, "\"%s\" is not a time of the day", text);
	*minutes = h * 60 + m;
	return 0;
}

static int check_text(const struct schema_key *k, const char *text, struct err *e)
{
	size_t len = strlen(text);
	if (len < k->min)
		return len == 0 ? err_set(e, ERR_CONFIG, "is empty")
				: err_set(e, ERR_CONFIG, "\"%s\" is too short", text);
	if (len > k->max)
		return err_set(e, ERR_CONFIG, "is %zu characters long", len);
	switch (k->kind) {
	case SCHEMA_HOST:
		return schema_check_host(text, e);
	case SCHEMA_LISTEN:
		return strcmp(text, "*") == 0 || is_ip(text)
			       ? 0
			       : err_set(e, ERR_CONFIG, "\"%s\" is not an IP address", text);
	case SCHEMA_PATH:
		return check_path(text, e);
	case SCHEMA_PATH_OPT:
		return *text ? check_path(text, e) : 0;
	case SCHEMA_URI:
		return strncmp(text, "qemu:///", 8) == 0 || strncmp(text, "qemu+unix:///", 13) == 0
			       ? 0
			       : err_set(e, ERR_CONFIG, "\"%s\" is not a local URI of the QEMU driver", text);
	case SCHEMA_BROKERS:
		return check_brokers(text, e);
	case SCHEMA_TOPIC:
		return check_topic(text, e);
	case SCHEMA_GROUP:
		return check_group(text, e);
	case SCHEMA_NAME:
		return check_name(text, e);
	case SCHEMA_TEXT:
		return 0;
	case SCHEMA_CHOICE:
		return check_choice(k->choices, text, e);
	case SCHEMA_UINT:
	case SCHEMA_SIZE:
	case SCHEMA_RATE:
	case SCHEMA_DURATION:
	case SCHEMA_LOG_LEVEL:
	case SCHEMA_BOOL:
	case SCHEMA_TIME:
		break;
	}
	abort();
}

static int store_in_range(const struct schema_key *k, void *base, uint64_t value, const char *text, struct err *e)
{
	bool no_limit = k->kind == SCHEMA_RATE && value == 0;
	if (!no_limit && (value < k->min || value > k->max))
		return err_set(e, ERR_CONFIG, "%s is out of range", text);
	store_number(k, base, value);
	return 0;
}

int schema_set_text(const struct schema_key *k, void *base, const char *text, struct err *e)
{
	if (kind_is_text(k->kind)) {
		if (check_text(k, text, e) < 0)
			return -1;
		store_text(k, base, text);
		return 0;
	}
	uint64_t value = 0;
	int64_t ns = 0;
	enum log_level level = LOG_LEVEL_INFO;
	switch (k->kind) {
	case SCHEMA_SIZE:
		if (units_parse_size(text, &value, e) < 0)
			return -1;
		break;
	case SCHEMA_RATE:
		if (units_parse_rate(text, &value, e) < 0)
			return -1;
		break;
	case SCHEMA_DURATION:
		if (units_parse_duration(text, &ns, e) < 0)
			return -1;
		if (ns < 0)
			return err_set(e, ERR_CONFIG, "%s is negative", text);
		value = (uint64_t)ns;
		break;
	case SCHEMA_LOG_LEVEL:
		if (log_level_from_name(text, &level) < 0)
			return err_set(e, ERR_CONFIG, "there is no level \"%s\"", text);
		store_number(k, base, (uint64_t)level);
		return 0;
	case SCHEMA_TIME:
		if (parse_time(text, &value, e) < 0)
			return -1;
		store_number(k, base, value);
		return 0;
	case SCHEMA_BOOL: /* only presets come as text */
		store_number(k, base, strcmp(text, "true") == 0);
		return 0;
	case SCHEMA_UINT: /* the same */
		return schema_set_number(k, base, strtoll(text, NULL, 10), e);
	case SCHEMA_HOST:
	case SCHEMA_LISTEN:
	case SCHEMA_PATH:
	case SCHEMA_PATH_OPT:
	case SCHEMA_URI:
	case SCHEMA_BROKERS:
	case SCHEMA_TOPIC:
	case SCHEMA_GROUP:
	case SCHEMA_NAME:
	case SCHEMA_TEXT:
	case SCHEMA_CHOICE:
		abort();
	}
	return store_in_range(k, base, value, text, e);
}

int schema_set_number(const struct schema_key *k, void *base, long long value, struct err *e)
{
	if (k->kind == SCHEMA_BOOL) {
		store_number(k, base, value != 0);
		return 0;
	}
	char text[24];
	snprintf(text, sizeof(text), "%lld", value);
	if (value < 0)
		return err_set(e, ERR_CONFIG, "%s is out of range", text);
	return store_in_range(k, base, (uint64_t)value, text, e);
}

bool schema_equal(const struct schema_key *k, const void *a, const void *b)
{
	if (kind_is_text(k->kind))
		return strcmp(text_of(k, a), text_of(k, b)) == 0;
	return number_of(k, a) == number_of(k, b);
}

void schema_copy(const struct schema_key *k, void *to, const void *from)
{
	if (kind_is_text(k->kind))
		store_text(k, to, text_of(k, from));
	else
		store_number(k, to, number_of(k, from));
}

/* The largest unit that gives a whole number, so that what is printed means exactly what was read. */
static char *format_exact(uint64_t value, const uint64_t *unit, const char *const *name, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (value >= unit[i] && value % unit[i] == 0)
			return mem_printf("\"%" PRIu64 "%s\"", value / unit[i], name[i]);
	return mem_printf("\"%" PRIu64 "%s\"", value, name[n - 1]);
}

char *schema_format(const struct schema_key *k, const void *base)
{
	if (kind_is_text(k->kind))
		return mem_printf("\"%s\"", text_of(k, base));
	uint64_t value = number_of(k, base);
	static const char *const level_names[] = { "error", "warn", "info", "debug" };
	switch (k->kind) {
	case SCHEMA_UINT:
		return mem_printf("%" PRIu64, value);
	case SCHEMA_SIZE:
		return format_exact(value, (const uint64_t[]){ GiB, MiB, KiB, 1 },
				    (const char *const[]){ "GiB", "MiB", "KiB", "B" }, 4);
	case SCHEMA_RATE:
		if (value == 0)
			return mem_strdup("\"unlimited\"");
		return format_exact(value, (const uint64_t[]){ 1000 * MBIT, MBIT, 125, 1 },
				    (const char *const[]){ "Gbit", "Mbit", "kbit", "B/s" }, 4);
	case SCHEMA_DURATION:
		return format_exact(value, (const uint64_t[]){ 60 * SEC, SEC, MS, 1 },
				    (const char *const[]){ "m", "s", "ms", "ns" }, 4);
	case SCHEMA_LOG_LEVEL:
		return mem_printf("\"%s\"", level_names[value < 4 ? value : 0]);
	case SCHEMA_BOOL:
		return mem_strdup(value ? "true" : "false");
	case SCHEMA_TIME:
		return mem_printf("\"%02" PRIu64 ":%02" PRIu64 "\"", value / 60, value % 60);
	case SCHEMA_HOST:
	case SCHEMA_LISTEN:
	case SCHEMA_PATH:
	case SCHEMA_PATH_OPT:
	case SCHEMA_URI:
	case SCHEMA_BROKERS:
	case SCHEMA_TOPIC:
	case SCHEMA_GROUP:
	case SCHEMA_NAME:
	case SCHEMA_TEXT:
	case SCHEMA_CHOICE:
		break;
	}
	abort();
}

void schema_drop(const struct schema_key *k, void *base)
{
	if (!kind_is_text(k->kind))
		return;
	char **p = text_at(k, base);
	free(*p);
	*p = NULL;
}
