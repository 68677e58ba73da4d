#include "tools/vmferry/report.h"

#include "base/clock.h"
#include "base/units.h"
#include "tools/vmferry/cli.h"

#include <string.h>
#include <time.h>

#define LABEL "  %-16s"

static void add_clean(struct buf *out, const char *text)
{
	char clean[1300];
	buf_printf(out, "%s", cli_clean(text, clean, sizeof(clean)));
}

static void add_duration(struct buf *out, const char *label, json_int_t ms)
{
	char text[32];
	if (ms >= 0)
		buf_printf(out, LABEL "%s\n", label, cli_duration(ms, text, sizeof(text)));
}

static void add_size(struct buf *out, const char *label, json_int_t bytes)
{
	char text[32];
	if (bytes > 0)
		buf_printf(out, LABEL "%s\n", label, units_format_size((uint64_t)bytes, text, sizeof(text)));
}

static void add_rate(struct buf *out, const char *label, json_int_t rate)
{
	char text[32];
	if (rate > 0)
		buf_printf(out, LABEL "%s\n", label, units_format_rate((uint64_t)rate, text, sizeof(text)));
}

static void add_text(struct buf *out, const char *label, const char *text)
{
	if (!text || !*text)
		return;
	buf_printf(out, LABEL, label);
	add_clean(out, text);
	buf_printf(out, "\n");
}

static void add_warnings(struct buf *out, const json_t *r)
{
	size_t i;
	const json_t *w;
	json_array_foreach (json_object_get(r, "warnings"), i, w) {
		buf_printf(out, LABEL, "warning");
		add_clean(out, json_is_string(w) ? json_string_value(w) : cli_str(w, "text", ""));
		buf_printf(out, "\n");
	}
}

void report_migration(const json_t *r, struct buf *out)
{
	char name[200], host[200], text[32];
	const char *state = cli_str(r, "state", "running");
	cli_clean(cli_str(r, "vm", "the VM"), name, sizeof(name));
	cli_clean(cli_str(r, "runs_on", cli_str(r, "to", "?")), host, sizeof(host));
	buf_printf(out, "%s is now on %s (", name, host);
	add_clean(out, state);
	buf_printf(out, ").\n");
	if (cli_str(r, "from", NULL)) {
		buf_printf(out, LABEL, "moved");
		add_clean(out, cli_str(r, "from", ""));
		buf_printf(out, " -> ");
		add_clean(out, cli_str(r, "to", ""));
		buf_printf(out, "\n");
	}
	add_duration(out, "total", cli_int(r, "total_ms", -1));
	add_duration(out, "downtime", cli_int(r, "downtime_ms", -1));
	add_size(out, "memory, by QEMU", cli_int(r, "qemu_bytes", -1));
	add_size(out, "disks", cli_int(r, "disk_bytes", -1));
	json_int_t wire = cli_int(r, "wire_bytes", -1);
	double ratio = cli_real(r, "ratio", -1);
	if (wire >= 0) {
		buf_printf(out, LABEL "%s", "on the wire", units_format_size((uint64_t)wire, text, sizeof(text)));
		if (ratio >= 1.05)
			buf_printf(out, ", %.1f times less", ratio);
		buf_printf(out, "\n");
	}
	if (cli_int(r, "iterations", 0) > 0)
		buf_printf(out, LABEL "%lld\n", "passes", (long long)cli_int(r, "iterations", 0));
	if (cli_str(r, "passthrough", NULL)) {
		buf_printf(out, LABEL "not compressed by pages: ", "note");
		add_clean(out, cli_str(r, "passthrough", ""));
		buf_printf(out, "\n");
	}
	add_warnings(out, r);
}

static bool refuses(const json_t *finding)
{
	const char *severity = cli_str(finding, "severity", "error");
	return strcmp(severity, "error") == 0 || strcmp(severity, "refuse") == 0 || strcmp(severity, "refused") == 0;
}

size_t report_refusals(const json_t *findings)
{
	size_t i, n = 0;
	const json_t *f;
	json_array_foreach (findings, i, f)
		n += refuses(f);
	return n;
}

void report_findings(const json_t *findings, struct buf *out)
{
	size_t i;
	const json_t *f;
	json_array_foreach (findings, i, f) {
		const char *severity = cli_str(f, "severity", "error");
		buf_printf(out, "  %s: ", refuses(f) ? "no" : strcmp(severity, "warning") == 0 ? "warning" : "note");
		add_clean(out, cli_str(f, "text", cli_str(f, "code", "?")));
		buf_printf(out, "\n");
		if (*cli_str(f, "remedy", "")) {
			buf_printf(out, "      what to do: ");
			add_clean(out, cli_str(f, "remedy", ""));
			buf_printf(out, "\n");
		}
	}
}

void report_forecast(const json_t *f, struct buf *out)
{
	if (!json_is_object(f))
		return;
	buf_printf(out, "Forecast\n");
	add_duration(out, "total", cli_int(f, "total_ms", -1));
	add_duration(out, "downtime", cli_int(f, "downtime_ms", -1));
	add_size(out, "memory", cli_int(f, "ram_bytes", -1));
	add_size(out, "disks", cli_int(f, "disk_bytes", -1));
	add_size(out, "on the wire", cli_int(f, "wire_bytes", -1));
	add_rate(out, "link", cli_int(f, "link_bytes_s", -1));
	json_int_t dirty = cli_int(f, "dirty_bytes_s", -1);
	char text[32];
	if (dirty >= 0)
		buf_printf(out, LABEL "%s/s\n", "guest writes", units_format_size((uint64_t)dirty, text, sizeof(text)));
	if (*cli_str(f, "text", "")) {
		buf_printf(out, "  ");
		add_clean(out, cli_str(f, "text", ""));
		buf_printf(out, "\n");
	}
}

/* ---- replication ---- */

/* "web1 runs on host2.": the first line of what ends with a VM somewhere. */
static void add_place(struct buf *out, const json_t *r, const char *verb)
{
	const char *state = cli_str(r, "state", "running");
	add_clean(out, cli_str(r, "vm", "the VM"));
	buf_printf(out, " %s ", verb);
	add_clean(out, cli_str(r, "runs_on", cli_str(r, "host", "?")));
	buf_printf(out, " (");
	/* "promoted" is the replica's state; the VM's is what counts here. */
	add_clean(out, strcmp(state, "promoted") == 0 ? (cli_bool(r, "paused") ? "paused" : "running") : state);
	buf_printf(out, ").\n");
}

/* "fence 12 ms, start 400 ms": the parts of the time, from {"fence_ms": 12, ...}. */
static void add_phases(struct buf *out, const json_t *phases)
{
	const char *key;
	json_t *value;
	unsigned shown = 0;
	json_object_foreach ((json_t *)(uintptr_t)phases, key, value) {
		char name[32], text[32];
		size_t len = strlen(key);
		if (!json_is_number(value) || len < 4 || len - 3 >= sizeof(name) || strcmp(key + len - 3, "_ms") != 0)
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)(len - 3), key);
		if (shown++ == 0)
			buf_printf(out, LABEL, "of which");
		buf_printf(out, "%s", shown > 1 ? ", " : "");
		add_clean(out, name);
		buf_printf(out, " %s",
			   units_format_duration((int64_t)(json_number_value(value) * NS_PER_MS), text, sizeof(text)));
	}
	if (shown)
		buf_printf(out, "\n");
}

static void add_point(struct buf *out, const json_t *point)
{
	time_t s = (time_t)(cli_int(point, "instant_ns", 0) / NS_PER_S);
	struct tm tm;
	char when[40];
	if (!json_is_object(point))
		return;
	buf_printf(out, LABEL, "point");
	add_clean(out, cli_str(point, "id", "?"));
	if (s > 0 && localtime_r(&s, &tm) && strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm) > 0)
		buf_printf(out, ", of %s", when);
	if (strcmp(cli_str(point, "kind", "memory"), "memory") != 0)
		buf_printf(out, "; without memory: the guest boots");
	buf_printf(out, "\n");
}

void report_failover(const json_t *r, struct buf *out)
{
	char text[32];
	bool planned = cli_bool(r, "planned");
	json_int_t rpo = cli_int(r, "rpo_ms", -1);
	add_place(out, r, "now runs on");
	add_text(out, "failover",
		 planned ? "planned: a last checkpoint was made, nothing is lost"
			 : "unplanned, from what had arrived here");
	if (!planned && rpo >= 0)
		buf_printf(out, LABEL "%s: what the guest did in it is lost\n", "measured RPO",
			   cli_duration(rpo, text, sizeof(text)));
	else if (!planned && cli_int(r, "point_age_ms", -1) >= 0) /* when the other host ended is not known */
		buf_printf(out, LABEL "at most %s: what the guest did in it is lost\n", "RPO",
			   cli_duration(cli_int(r, "point_age_ms", 0), text, sizeof(text)));
	add_point(out, json_object_get(r, "point"));
	add_duration(out, "time to running", cli_int(r, "rto_ms", -1));
	add_phases(out, json_object_get(r, "phases"));
	add_duration(out, "whole command", cli_int(r, "command_ms", -1));
	add_duration(out, "stood still", cli_int(r, "downtime_ms", -1));
	add_text(out, "fencing", cli_str(r, "fencing", ""));
	if (cli_int(r, "epoch", -1) >= 0)
		buf_printf(out, LABEL "%lld\n", "epoch", (long long)cli_int(r, "epoch", 0));
	add_warnings(out, r);
	report_findings(json_object_get(r, "findings"), out);
}

void report_failback(const json_t *r, struct buf *out)
{
	char text[32];
	double ratio = cli_real(r, "ratio", -1);
	json_int_t wire = cli_int(r, "wire_bytes", -1);
	const json_t *image;
	size_t i;
	add_place(out, r, "is back on");
	add_duration(out, "total", cli_int(r, "total_ms", -1));
	add_duration(out, "stood still", cli_int(r, "downtime_ms", -1));
	add_size(out, "differed", cli_int(r, "dirty_bytes", -1));
	if (wire >= 0) {
		buf_printf(out, LABEL "%s", "on the wire", units_format_size((uint64_t)wire, text, sizeof(text)));
		if (ratio >= 1.05)
			buf_printf(out, ", %.1f times less", ratio);
		buf_printf(out, "\n");
	}
	if (cli_int(r, "epoch", -1) >= 0)
		buf_printf(out, LABEL "%lld\n", "epoch", (long long)cli_int(r, "epoch", 0));
	json_array_foreach (json_object_get(r, "old_images"), i, image)
		add_text(out, "old image stays", json_string_value(image) ? json_string_value(image) : "?");
	if (cli_str(r, "kept", NULL))
		add_text(out, "kept here", "a replica, as of the last checkpoint: `vmferry protect' there goes on with it");
	add_warnings(out, r);
}

bool report_verified(const json_t *r)
{
	return json_array_size(json_object_get(r, "problems")) == 0 && !json_is_false(json_object_get(r, "verified"));
}

void report_verify(const json_t *r, struct buf *out)
{
	size_t i;
	const json_t *problem;
	buf_printf(out, "The replica of ");
	add_clean(out, cli_str(r, "vm", "the VM"));
	buf_printf(out, report_verified(r) ? " is as it was stored: every checksum holds.\n" : " is damaged.\n");
	json_array_foreach (json_object_get(r, "problems"), i, problem)
		add_text(out, "does not verify",
			 json_is_string(problem) ? json_string_value(problem) : cli_str(problem, "text", "?"));
	add_size(out, "read", cli_int(r, "bytes", -1));
	if (cli_int(r, "points", -1) >= 0)
		buf_printf(out, LABEL "%lld\n", "points", (long long)cli_int(r, "points", 0));
	add_duration(out, "total", cli_int(r, "ms", cli_int(r, "total_ms", -1)));
}

void report_export(const json_t *r, struct buf *out)
{
	size_t i;
	const json_t *file;
	char text[32];
	add_clean(out, cli_str(r, "vm", "the VM"));
	buf_printf(out, " is in ");
	add_clean(out, cli_str(r, "dir", "?"));
	buf_printf(out, ".\n");
	add_point(out, json_object_get(r, "point"));
	json_array_foreach (json_object_get(r, "files"), i, file) {
		buf_printf(out, LABEL, i == 0 ? "files" : "");
		add_clean(out, json_is_string(file) ? json_string_value(file) : cli_str(file, "name", "?"));
		if (cli_int(file, "bytes", -1) >= 0)
			buf_printf(out, ", %s",
				   units_format_size((uint64_t)cli_int(file, "bytes", 0), text, sizeof(text)));
		buf_printf(out, "\n");
	}
	add_duration(out, "total", cli_int(r, "total_ms", -1));
	report_findings(json_object_get(r, "findings"), out);
}
