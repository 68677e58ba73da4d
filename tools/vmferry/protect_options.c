#include "tools/vmferry/protect_options.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/units.h"
#include "config/nearest.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAY_MS (INT64_C(24) * 3600 * 1000)
#define KEEP_MAX 10000
#define WINDOWS_MAX 16

enum {
	OPT_TO = 0x300,
	OPT_RPO,
	OPT_MODE,
	OPT_KEEP,
	OPT_QUIESCE,
	OPT_MAX_PAUSE,
	OPT_BANDWIDTH,
	OPT_EVERY,
	OPT_WINDOW,
	OPT_SEED,
};

static const struct argp_option options[] = {
	{ "to", OPT_TO, "HOST", 0, "The peer that keeps the replica", 0 },
	{ "rpo", OPT_RPO, "TIME", 0, "How old the last point may get (100ms to 1d, default 5s)", 0 },
	{ "mode", OPT_MODE, "MODE", 0,
	  "\"auto\" (default), \"memory\" (never disks alone), \"colo\" (from the dirty log, for seconds and below), "
	  "\"background\" (snapshots, where "
	  "the "
	  "former "
	  "cannot be) or \"disk\" (disks alone, the guest is never paused)",
	  0 },
	{ "keep", OPT_KEEP, "RULES", 0,
	  "Points to keep: last=10,hourly=24,daily=7 (the default) and size=50GiB, what they may take up", 0 },
	{ "quiesce", OPT_QUIESCE, NULL, 0, "Freeze the guest's file systems for each point, through its guest agent", 0 },
	{ "max-pause", OPT_MAX_PAUSE, "TIME", 0,
	  "How long a checkpoint may pause the guest (1ms to 10s; default as configured: 100ms); beyond it the "
	  "interval "
	  "stretches",
	  0 },
	{ "bandwidth", OPT_BANDWIDTH, "RATE", 0,
	  "At most so many bits per second on the wire (from 1M): 500M, 1G; or \"unlimited\"", 0 },
	{ "every", OPT_EVERY, "TIME", 0, "Time between checkpoints (100ms to 1d, at most --rpo; default: as that asks)",
	  0 },
	{ "window", OPT_WINDOW, "HH:MM-HH:MM=RATE", 0,
	  "Hours of the day with a bandwidth of their own, in local time: 22:00-06:00=1G. May be given several times",
	  0 },
	{ "seed", OPT_SEED, "[DISK=]FILE", 0,
	  "Start the first copy from FILE, an image at HOST (an older copy of the disk, say): only what differs "
	  "travels. "
	  "With DISK, such as vda, once for each of several disks",
	  0 },
	{ 0 }
};

static void set_duration(struct argp_state *state, const char *option, const char *key, const char *arg, int64_t min_ms,
			 int64_t max_ms, const char *allowed)
{
	struct err e = ERR_INIT;
	int64_t ns = 0;
	if (units_parse_duration(arg, &ns, &e) < 0)
		argp_error(state, "--%s: %s (allowed: %s)", option, e.text, allowed);
	else if (ns < min_ms * NS_PER_MS || ns > max_ms * NS_PER_MS)
		argp_error(state, "--%s: %s is out of range (allowed: %s)", option, arg, allowed);
	else
		json_object_set_new(state->input, key, json_integer(ns / NS_PER_MS));
}

static json_t *rate_of(struct argp_state *state, const char *option, const char *arg)
{
	struct err e = ERR_INIT;
	uint64_t rate = 0;
	if (units_parse_rate(arg, &rate, &e) < 0)
		argp_error(state, "--%s: %s (allowed: from 1M, such as 500M or 1G; or unlimited)", option, e.text);
	else if (rate != 0 && rate < 125000)
		argp_error(state, "--%s: %s is out of range (allowed: from 1M, or unlimited)", option, arg);
	return json_integer((json_int_t)rate);
}

static void set_mode(struct argp_state *state, const char *arg)
{
	static const char *const modes[] = { "auto", "memory", "colo", "background", "disk" };
	const size_t n = sizeof(modes) / sizeof(modes[0]);
	for (size_t i = 0; i < n; i++) {
		if (strcmp(modes[i], arg) == 0) {
			json_object_set_new(state->input, "mode", json_string(arg));
			return;
		}
	}
	const char *near = nearest_of(arg, modes, n);
	argp_error(state, "--mode: there is no \"%s\"%s%s%s (allowed: auto, memory, colo, background, disk)", arg,
		   near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static void keep_rule(struct argp_state *state, json_t *keep, char *rule)
{
	static const char *const names[] = { "last", "hourly", "daily", "size" };
	char *value = strchr(rule, '='), *end = NULL;
	struct err e = ERR_INIT;
	if (!value) {
		argp_error(state, "--keep: \"%s\" is no rule (allowed: last=N, hourly=N, daily=N, size=SIZE)", rule);
		return;
	}
	*value++ = '\0';
	size_t which = 0;
	while (which < 4 && strcmp(names[which], rule) != 0)
		which++;
	if (which == 4) {
		const char *near = nearest_of(rule, names, 4);
		argp_error(state, "--keep: there is no rule \"%s\"%s%s%s (allowed: last, hourly, daily, size)", rule,
			   near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
	} else if (which == 3) {
		uint64_t bytes = 0;
		if (units_parse_size(value, &bytes, &e) < 0 || bytes > INT64_MAX)
			argp_error(state, "--keep: size: %s (allowed: such as 50GiB)", e.text);
		json_object_set_new(keep, "max_bytes", json_integer((json_int_t)bytes));
	} else {
		long n = strtol(value, &end, 10), least = which == 0 ? 1 : 0;
		if (!*value || *end || n < least || n > KEEP_MAX)
			argp_error(state, "--keep: %s: \"%s\" is out of range (allowed: %ld to %d)", rule, value, least,
				   KEEP_MAX);
		json_object_set_new(keep, rule, json_integer(n));
	}
}

static void set_keep(struct argp_state *state, const char *arg)
{
	MEM_AUTO char *copy = mem_strdup(arg);
	json_t *keep = json_pack("{s:i, s:i, s:i, s:i}", "last", 10, "hourly", 24, "daily", 7, "max_bytes", 0);
	char *rest = copy;
	for (char *rule = strsep(&rest, ","); rule; rule = strsep(&rest, ","))
		keep_rule(state, keep, rule);
	json_object_set_new(state->input, "keep", keep);
}

static bool take_time(const char **at, unsigned *minutes)
{
	unsigned h = 0, m = 0;
	int n = 0;
	if (sscanf(*at, "%2u:%2u%n", &h, &m, &n) != 2 || n != 5 || h > 23 || m > 59)
		return false;
	*at += n;
	*minutes = h * 60 + m;
	return true;
}

static json_t *schedule(struct argp_state *state)
{
	if (!json_object_get(state->input, "schedule"))
		json_object_set_new(state->input, "schedule", json_object());
	return json_object_get(state->input, "schedule");
}

static void add_window(struct argp_state *state, const char *arg)
{
	const char *at = arg;
	unsigned from = 0, to = 0;
	bool ok = take_time(&at, &from) && *at++ == '-' && take_time(&at, &to) && *at++ == '=';
	if (!ok || from == to)
		argp_error(state, "--window: \"%s\" is none (allowed: such as 22:00-06:00=1G)", arg);
	json_t *s = schedule(state);
	if (!json_object_get(s, "windows"))
		json_object_set_new(s, "windows", json_array());
	json_t *windows = json_object_get(s, "windows");
	if (json_array_size(windows) >= WINDOWS_MAX)
		argp_error(state, "--window: %d are too many (allowed: at most %d)", WINDOWS_MAX + 1, WINDOWS_MAX);
	char from_text[8], to_text[8];
	snprintf(from_text, sizeof(from_text), "%02u:%02u", from / 60 % 24, from % 60);
	snprintf(to_text, sizeof(to_text), "%02u:%02u", to / 60 % 24, to % 60);
	json_array_append_new(windows, json_pack("{s:s, s:s, s:o}", "from", from_text, "to", to_text, "bandwidth",
						 rate_of(state, "window", ok ? at : "0")));
}

static void set_every(struct argp_state *state, const char *arg)
{
	json_t *all = state->input;
	state->input = schedule(state);
	set_duration(state, "every", "every_ms", arg, 100, DAY_MS, "100ms to 1d");
	state->input = all;
}

static void add_seed(struct argp_state *state, const char *arg)
{
	const size_t disk_len = arg[0] == '/' ? 0 : strcspn(arg, "=");
	const char *file = arg[0] == '/' ? arg : arg + disk_len + (arg[disk_len] == '=');
	json_t *seed = json_object_get(state->input, "seed");
	if (file[0] != '/' || (file != arg && disk_len == 0)) {
		argp_error(state,
			   "--seed: \"%s\" is no absolute path at the other host (allowed: /FILE, or DISK=/FILE)", arg);
		return;
	}
	if (!seed) {
		seed = json_object();
		json_object_set_new(state->input, "seed", seed);
	}
	MEM_AUTO char *disk = mem_printf("%.*s", (int)disk_len, arg);
	if (json_object_get(seed, disk) || (json_object_size(seed) && (!*disk || json_object_get(seed, ""))))
		argp_error(state, "--seed: of which disk is which? (allowed: DISK=FILE, once for each disk)");
	json_object_set_new(seed, disk, json_string(file));
}

/* The agent knows what was said before, and refuses it too. */
static void check_every(struct argp_state *state)
{
	const json_t *every = json_object_get(json_object_get(state->input, "schedule"), "every_ms"),
		     *rpo = json_object_get(state->input, "rpo_ms");
	char a[32], b[32];
	if (every && rpo && json_integer_value(every) > json_integer_value(rpo))
		argp_error(state,
			   "--every: %s is longer than --rpo, %s, which could not be held (allowed: at most --rpo)",
			   units_format_duration(json_integer_value(every) * NS_PER_MS, a, sizeof(a)),
			   units_format_duration(json_integer_value(rpo) * NS_PER_MS, b, sizeof(b)));
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	switch (key) {
	case OPT_TO:
		json_object_set_new(state->input, "host", json_string(arg));
		return 0;
	case OPT_RPO:
		set_duration(state, "rpo", "rpo_ms", arg, 100, DAY_MS, "100ms to 1d");
		return 0;
	case OPT_MODE:
		set_mode(state, arg);
		return 0;
	case OPT_KEEP:
		set_keep(state, arg);
		return 0;
	case OPT_QUIESCE:
		json_object_set_new(state->input, "quiesce", json_true());
		return 0;
	case OPT_MAX_PAUSE:
		set_duration(state, "max-pause", "max_pause_ms", arg, 1, 10000, "1ms to 10s");
		return 0;
	case OPT_BANDWIDTH:
		json_object_set_new(state->input, "bandwidth", rate_of(state, "bandwidth", arg));
		return 0;
	case OPT_SEED:
		add_seed(state, arg);
		return 0;
	case OPT_EVERY:
		set_every(state, arg);
		return 0;
	case OPT_WINDOW:
		add_window(state, arg);
		return 0;
	case ARGP_KEY_END:
		if (!json_object_get(state->input, "host"))
			argp_error(state, "to which host? (--to HOST)");
		check_every(state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp protect_options_argp = { .options = options, .parser = parse };
