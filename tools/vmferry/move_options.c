#include "tools/vmferry/move_options.h"

#include "base/clock.h"
#include "base/units.h"

#include <stdlib.h>
#include <string.h>

enum {
	OPT_COPY_STORAGE = 0x200,
	OPT_OFFLINE,
	OPT_MAX_DOWNTIME,
	OPT_DEADLINE,
	OPT_BANDWIDTH,
	OPT_ON_STALL,
	OPT_NO_AUTO_CONVERGE,
	OPT_COMPRESSION,
	OPT_CHANNELS,
};

static const struct argp_option options[] = {
	{ "copy-storage", OPT_COPY_STORAGE, NULL, 0,
	  "Copy the disks too; images that are missing there are made. Without it, disks must be shared", 0 },
	{ "offline", OPT_OFFLINE, NULL, 0,
	  "Move a VM that is shut off: its definition and, with --copy-storage, its disks", 0 },
	{ "max-downtime", OPT_MAX_DOWNTIME, "TIME", 0,
	  "How long the guest may stand still at the switch-over (10ms to 30m; default as the agent is configured: "
	  "300ms)",
	  0 },
	{ "deadline", OPT_DEADLINE, "TIME", 0, "When it has taken this long (1s to 30d), do what --on-stall says", 0 },
	{ "bandwidth", OPT_BANDWIDTH, "RATE", 0,
	  "At most so many bits per second on the wire, from 1M: 500M, 1G; or \"unlimited\"", 0 },
	{ "on-stall", OPT_ON_STALL, "ACTION", 0,
	  "When the guest writes faster than the link carries: \"abort\" (default; it goes on where it is), \"pause\" "
	  "(it stands "
	  "still until all is copied) or \"postcopy\" (it goes on at the target, missing pages follow)",
	  0 },
	{ "no-auto-converge", OPT_NO_AUTO_CONVERGE, NULL, 0, "Never slow the guest's CPUs to let it converge", 0 },
	{ "compression", OPT_COMPRESSION, "LEVEL", 0, "\"auto\" (default), \"raw\", or a zstd level from -5 to 9", 0 },
	{ "qemu-channels", OPT_CHANNELS, "N", 0, "Let QEMU send on N parallel connections (multifd); rarely of use", 0 },
	{ 0 }
};

static void set(struct move_options *o, const char *key, json_t *value)
{
	json_object_set_new(o->args, key, value);
}

struct duration_option {
	const char *name, *key;
	int64_t min_ms, max_ms;
	const char *allowed;
};

static const struct duration_option max_downtime = { "max-downtime", "max_downtime_ms", 10, INT64_C(30) * 60 * 1000,
						     "10ms to 30m" };
static const struct duration_option deadline = { "deadline", "deadline_ms", 1000, INT64_C(30) * 24 * 3600 * 1000,
						 "1s to 30d" };

static void set_duration(struct argp_state *state, const struct duration_option *o, const char *arg)
{
	struct err e = ERR_INIT;
	int64_t ns = 0;
	if (units_parse_duration(arg, &ns, &e) < 0)
		argp_error(state, "--%s: %s (allowed: %s, such as 300ms, 5s, 10m)", o->name, e.text, o->allowed);
	else if (ns < o->min_ms * NS_PER_MS || ns > o->max_ms * NS_PER_MS)
		argp_error(state, "--%s: %s is out of range (allowed: %s)", o->name, arg, o->allowed);
	else
		set(state->input, o->key, json_integer(ns / NS_PER_MS));
}

static void set_bandwidth(struct argp_state *state, const char *arg)
{
	struct err e = ERR_INIT;
	uint64_t rate = 0;
	if (units_parse_rate(arg, &rate, &e) < 0)
		argp_error(state, "--bandwidth: %s (allowed: from 1M, such as 500M or 1G; or unlimited)", e.text);
	else if (rate != 0 && rate < 125000)
		argp_error(state, "--bandwidth: %s is out of range (allowed: from 1M, or unlimited)", arg);
	else
		set(state->input, "bandwidth", json_integer((json_int_t)rate));
}

static void set_compression(struct argp_state *state, const char *arg)
{
	char *end = NULL;
	long level = strtol(arg, &end, 10);
	bool number = *arg && !*end && level >= -5 && level <= 9;
	if (!number && strcmp(arg, "auto") != 0 && strcmp(arg, "raw") != 0)
		argp_error(state, "--compression: \"%s\" is none (allowed: auto, raw, -5 to 9)", arg);
	set(state->input, "compression", json_string(arg));
}

static void set_channels(struct argp_state *state, const char *arg)
{
	char *end = NULL;
	long n = strtol(arg, &end, 10);
	if (!*arg || *end || n < 1 || n > 16)
		argp_error(state, "--qemu-channels: \"%s\" is out of range (allowed: 1 to 16)", arg);
	set(state->input, "parallel", json_integer(n));
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct move_options *o = state->input;
	switch (key) {
	case OPT_COPY_STORAGE:
		set(o, "copy_storage", json_true());
		return 0;
	case OPT_OFFLINE:
		set(o, "offline", json_true());
		return 0;
	case OPT_MAX_DOWNTIME:
		set_duration(state, &max_downtime, arg);
		return 0;
	case OPT_DEADLINE:
		set_duration(state, &deadline, arg);
		return 0;
	case OPT_BANDWIDTH:
		set_bandwidth(state, arg);
		return 0;
	case OPT_ON_STALL:
		if (strcmp(arg, "abort") != 0 && strcmp(arg, "pause") != 0 && strcmp(arg, "postcopy") != 0)
			argp_error(state, "--on-stall: there is no action \"%s\" (allowed: abort, pause, postcopy)",
				   arg);
		set(o, "on_stall", json_string(arg));
		return 0;
	case OPT_NO_AUTO_CONVERGE:
		set(o, "auto_converge", json_false());
		return 0;
	case OPT_COMPRESSION:
		set_compression(state, arg);
		return 0;
	case OPT_CHANNELS:
		set_channels(state, arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp move_options_argp = { .options = options, .parser = parse };

void move_options_init(struct move_options *o)
{
	o->args = json_object();
}

json_t *move_options_take(struct move_options *o)
{
	json_t *args = o->args;
	o->args = NULL;
	return args;
}

void move_options_fini(struct move_options *o)
{
	json_decref(o->args);
	o->args = NULL;
}
