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

#define CONFIG_MAX_PROTECTIONS 1000
#define CONFIG_MAX_WINDOWS 16
#define CONFIG_MAX_RULES 64
#define CONFIG_MAX_COMMAND 32
#define CONFIG_MAX_SEED_FOLDERS 32
#define CONFIG_AS_OUTSIDE UINT64_MAX

/* Hours of the day, local time, in which a protection runs differently. */
struct config_window {
	unsigned from, to;  /* minutes since midnight; from > to: over midnight; never equal */
	int64_t every;      /* ns; 0: as outside */
	uint64_t bandwidth; /* bytes per second, 0: no limit; CONFIG_AS_OUTSIDE: as outside */
};

/* One entry of `protections`: what `vmferry protect` can say, and the same thing once the agent has it. The file wins:
 * at start and at reload the agent makes what is missing and changes what differs; `protect` and `unprotect` refuse a
 * VM that stands in the file. An entry that is taken out of the file leaves the protection as it is, from then on as
 * if made by command: no edit of a file ends the keeping of copies. pause, failover and fencing are states, which no
 * entry undoes. */
struct config_protection {
	char *vm;          /* name or UUID; one entry per VM */
	char *to;          /* name of a peer */
	int64_t rpo;       /* ns */
	char *mode;        /* "auto", "memory", "colo", "background" or "disk" */
	bool quiesce;      /* through the guest agent */
	int64_t max_pause; /* ns; 0: replication.max_pause */
	struct {
		unsigned last, hourly, daily; /* restore points kept */
		uint64_t size;                /* bytes; 0: no limit */
	} keep;
	int64_t every;      /* ns between checkpoints; 0: as the RPO asks */
	uint64_t bandwidth; /* bytes per second, 0: no limit; CONFIG_AS_OUTSIDE: replication.bandwidth */
	struct config_window *windows;
	size_t n_windows;
};

/* What a name at the source is called here when a VM is restored; the longest `from` wins, for disks by whole folders. */
struct config_rule {
	char *from, *to;
};

#define CONFIG_MAX_PROPERTIES 100

/* A setting of librdkafka, which judges it. */
struct config_property {
	char *name, *value;
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
		char *replica_dir;    /* a folder per VM whose replica is kept here */
		uint64_t delta_cache; /* bytes per protection */
		uint64_t staging;     /* bytes per protection: checkpoints that wait for the link */
		unsigned channels;
		uint64_t bandwidth;     /* bytes per second, 0: no limit */
		char **fencing_command; /* program and arguments, run before a promotion; NULL: none */
		size_t n_fencing_command;
		char **seed_folders; /* where a peer's `protect --seed` may name images; NULL: nowhere */
		size_t n_seed_folders;
		int64_t fencing_timeout; /* ns */
		int64_t max_pause;       /* ns that a checkpoint may pause a guest */
	} replication;
	struct config_protection *protections;
	size_t n_protections;
	struct {
		struct config_rule *networks; /* of bridges and libvirt networks */
		size_t n_networks;
		struct config_rule *disks; /* of folders, absolute paths */
		size_t n_disks;
	} restore;
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
/* By name or UUID as written in the file; NULL if the file does not have it. */
const struct config_protection *config_protection_find(const struct config *c, const char *vm);
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
