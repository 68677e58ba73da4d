/*
 * config.h - the agent's configuration: a libconfig file, checked key by key, as plain structs.
 *
 * Everything is validated while loading: unknown keys, wrong types and values out of range are refused with
 * "file:line: key: what is wrong (allowed: ...)". A struct config is never changed after it was loaded, but for
 * config_keep_fixed.
 */
#ifndef VMFERRY_CONFIG_CONFIG_H
#define VMFERRY_CONFIG_CONFIG_H

#include "base/err.h"
#include "base/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_DEFAULT_PATH "/etc/vmferry/vmferryd.conf"
#define CONFIG_DEFAULT_SOCKET "/run/vmferry/control.sock"
#define CONFIG_DEFAULT_PORT 7350
#define CONFIG_MAX_PEERS 512
#define CONFIG_MAX_PROPERTIES 100

/* What a peer may do here; a set of bits. */
#define ROLES(X)                                                                 \
	X(ROLE_MIGRATE_IN, 1u, "migrate-in")     /* send VMs here */             \
	X(ROLE_REPLICATE_IN, 2u, "replicate-in") /* keep replicas of VMs here */ \
	X(ROLE_OPERATE, 4u, "operate")           /* command this agent as an operator does */

enum role {
#define X(id, bit, name) id = bit,
	ROLES(X)
#undef X
};

struct config_peer {
	char *name;    /* the DNS name in its certificate */
	char *address; /* host name or IP; the name if not given */
	unsigned port;
	unsigned roles; /* bits of enum role */
};

struct config_property {
	char *name, *value; /* librdkafka's to judge */
};

struct config {
	char *name; /* this host, as in its certificate */
	struct {
		char *address; /* "*" or an IP address */
		unsigned port;
	} listen;
	struct {
		char *ca;
		char *cert;
		char *key;
	} tls;
	struct config_peer *peers;
	size_t n_peers;
	struct {
		char *uri;
		char *socket;
		char *qemu_group; /* empty: none */
	} libvirt;
	struct {
		uint64_t delta_cache; /* bytes per migration */
		unsigned channels;
		unsigned workers;     /* 0: automatic */
		uint64_t bandwidth;   /* bytes per second, 0: no limit */
		int64_t max_downtime; /* ns */
		unsigned max_jobs;
		char *image_dir; /* empty: any folder that exists */
	} migration;
	struct {
		char *brokers; /* "host:port,host:port"; empty: no Kafka */
		char *topic;
		char *state_topic;
		struct config_property *properties;
		size_t n_properties;
	} kafka;
	struct {
		char *socket;
		char *group; /* empty: root alone */
	} control;
	char *state_dir;
	char *run_dir;
	struct {
		enum log_level level;
	} log;
};

/* Every problem is reported as one line, "file:line: key: what (allowed: ...)"; may be NULL. */
typedef void (*config_report)(void *ctx, const char *line);

/* Reads and checks a file. NULL with the first problem in the error (ERR_CONFIG; ERR_SYS if it cannot be read). */
struct config *config_load(const char *path, config_report report, void *ctx, struct err *e);
/* The same from memory; `label` stands for the file name in messages. */
struct config *config_load_text(const char *text, const char *label, config_report report, void *ctx, struct err *e);
void config_free(struct config *c);

/* NULL if there is no such peer. */
const struct config_peer *config_peer_find(const struct config *c, const char *name);
/* The bit, or 0 if there is no role of that name. */
unsigned config_role_from_name(const char *name);
/* "migrate-in,operate", or "none"; returns buf (64 bytes are always enough). */
const char *config_roles_format(unsigned roles, char *buf, size_t size);

struct config_change {
	const char *key;    /* "listen.port"; static */
	bool needs_restart; /* else SIGHUP applies it */
};
/* What differs between two configurations; at most max entries. Returns how many there are. */
size_t config_reload_diff(const struct config *running, const struct config *loaded, struct config_change *out,
			  size_t max);
/* Puts the running values of all keys that need a restart into a freshly loaded configuration, so that it says what is
 * true. */
void config_keep_fixed(struct config *loaded, const struct config *running);

/* One line per key, "group.key = value", for --check-config and debug logs; to be freed. */
char *config_describe(const struct config *c);

#endif
