/*
 * schema.h - every key of the configuration but the lists (`peers`, `protections`, `restore`, `kafka.properties`), as
 * one table: where it lives, what it may be, what it is when not given, and whether SIGHUP can change it. config_*.c
 * walk it; nothing else knows the keys. Elements of lists have tables of the same kind beside the code that loads them;
 * `base` below is the struct that a table is of, for schema_keys a struct config.
 */
#ifndef VMFERRY_CONFIG_SCHEMA_H
#define VMFERRY_CONFIG_SCHEMA_H

#include "config/config.h"

enum schema_kind {
	SCHEMA_HOST,      /* DNS name, lower case */
	SCHEMA_LISTEN,    /* "*" or an IP address */
	SCHEMA_PATH,      /* absolute path */
	SCHEMA_PATH_OPT,  /* absolute path or "" */
	SCHEMA_URI,       /* of a QEMU driver of libvirt */
	SCHEMA_BROKERS,   /* host:port,host:port or "" */
	SCHEMA_TOPIC,     /* name of a Kafka topic */
	SCHEMA_GROUP,     /* name of a UNIX group or "" */
	SCHEMA_NAME,      /* of a VM or a network, as libvirt has it */
	SCHEMA_TEXT,      /* any, for others to judge */
	SCHEMA_CHOICE,    /* one of `choices` */
	SCHEMA_UINT,      /* unsigned; an integer in the file */
	SCHEMA_BOOL,      /* bool; true or false in the file, all others are strings */
	SCHEMA_SIZE,      /* uint64_t bytes */
	SCHEMA_RATE,      /* uint64_t bytes per second, 0 without limit */
	SCHEMA_DURATION,  /* int64_t ns */
	SCHEMA_LOG_LEVEL, /* enum log_level */
	SCHEMA_TIME,      /* unsigned: minutes since midnight, "22:00" in the file */
};

struct schema_key {
	const char *group; /* NULL: top level */
	const char *name;
	const char *full; /* "group.name" */
	enum schema_kind kind;
	size_t offset;              /* in the struct that the table is of */
	const char *preset;         /* value when not given, as in the file; NULL: computed by config_load */
	uint64_t min, max;          /* numbers: in the unit of the struct; texts: length */
	const char *allowed;        /* said to people */
	bool live;                  /* SIGHUP applies it */
	const char *const *choices; /* SCHEMA_CHOICE: what it may be; ends with NULL */
};

extern const struct schema_key schema_keys[];
extern const size_t schema_n_keys;

/* NULL if there is none. */
const struct schema_key *schema_find(const char *group, const char *name);
/* True if some key lives in that group. */
bool schema_has_group(const char *group);

/* Parse, check and store. The error's text is the reason alone, without key or range. */
int schema_set_text(const struct schema_key *k, void *base, const char *text, struct err *e);
int schema_set_number(const struct schema_key *k, void *base, long long value, struct err *e);
/* Checks a name as it stands in certificates: labels of a-z, 0-9 and '-', joined by dots, at most 253 bytes. */
int schema_check_host(const char *text, struct err *e);
/* Checks an address to connect to: an IP address or a host name. */
int schema_check_address(const char *text, struct err *e);

bool schema_equal(const struct schema_key *k, const void *a, const void *b);
void schema_copy(const struct schema_key *k, void *to, const void *from);
/* As one would write it in the file; to be freed. */
char *schema_format(const struct schema_key *k, const void *base);
/* Frees the value if it lives on the heap. */
void schema_drop(const struct schema_key *k, void *base);

#endif
