/*
 * migration_args.h - what an operator can ask of a migration, checked.
 *
 *	{"vm": name or UUID, "host": peer, "copy_storage": bool, "offline": bool, "max_downtime_ms": n, "deadline_ms": n, "bandwidth":
 *	 bytes per second, "on_stall": "abort"|"pause"|"postcopy", "auto_converge": bool, "compression": "auto"|"raw"|zstd level as text,
 *	 "parallel": n}
 */
#ifndef VMFERRY_MIGRATOR_MIGRATION_ARGS_H
#define VMFERRY_MIGRATOR_MIGRATION_ARGS_H

#include "base/err.h"
#include "migrator/converge.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct migration_args {
	const char *vm, *host; /* borrowed from the JSON */
	bool copy_storage;
	bool offline;
	uint64_t max_downtime_ms; /* 0: the default, 300 ms */
	uint64_t deadline_ms;     /* 0: none */
	uint64_t bandwidth;       /* bytes per second, 0: none */
	enum converge_on_stall on_stall;
	bool auto_converge;
	int level; /* RELAY_LEVEL_AUTO, CODEC_RAW or a zstd level */
	unsigned parallel; /* multifd channels of QEMU, 0: none */
};

int migration_args_parse(const json_t *json, struct migration_args *out, struct err *e);

#endif
