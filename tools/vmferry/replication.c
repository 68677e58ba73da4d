#include "tools/vmferry/replication.h"

#include "base/clock.h"
#include "base/units.h"
#include "tools/vmferry/cli.h"

#include <string.h>
#include <time.h>

#define LABEL "  %-16s"

static bool is_one_of(const char *text, const char *const list[])
{
	for (; *list; list++)
		if (strcmp(text, *list) == 0)
			return true;
	return false;
}

bool replication_keeps_up(const json_t *p)
{
	static const char *const over[] = { "fenced", "promoting", "promoted", NULL };
	return !is_one_of(cli_str(p, "state", ""), over);
}

enum table_mark replication_rpo(const json_t *p, char *buf, size_t size)
{
	char now[32], target[32];
	json_int_t rpo = cli_int(p, "rpo_ms", -1), asked = cli_int(p, "rpo_target_ms", -1);
	if (!replication_keeps_up(p)) {
		snprintf(buf, size, "-");
		return TABLE_PLAIN;
	}
	if (rpo < 0) {
		snprintf(buf, size, "none yet !");
		return TABLE_BAD;
	}
	cli_duration(rpo, now, sizeof(now));
	if (asked < 0) {
		snprintf(buf, size, "%s", now);
		return TABLE_PLAIN;
	}
	bool late = rpo > asked;
	snprintf(buf, size, "%s of %s%s", now, cli_duration(asked, target, sizeof(target)), late ? " !" : "");
	return late ? TABLE_BAD : TABLE_PLAIN;
}

enum table_mark replication_state(const json_t *p)
{
	static const char *const good[] = { "protected", "promoted", NULL }, *const bad[] = { "fenced", "failed", NULL };
	const char *state = cli_str(p, "state", "?");
	return is_one_of(state, good) ? TABLE_PLAIN : is_one_of(state, bad) ? TABLE_BAD : TABLE_WARNING;
}

bool replication_is_source(const json_t *p)
{
	return strcmp(cli_str(p, "role", "source"), "target") != 0;
}

const char *replication_peer(const json_t *p, char *buf, size_t size)
{
	char clean[100];
	snprintf(buf, size, "%s %s", replication_is_source(p) ? "->" : "<-",
		 cli_clean(cli_str(p, "host", "?"), clean, sizeof(clean)));
	return buf;
}

/* The agent says both; microseconds are there for pauses below one millisecond. -1: not known. */
static double pause_ms(const json_t *p, const char *us, const char *ms)
{
	double exact = cli_real(p, us, -1);
	return exact >= 0 ? exact / 1000 : cli_real(p, ms, -1);
}

const char *replication_pause(const json_t *p, char *buf, size_t size)
{
	char a[32], b[32];
	double p50 = pause_ms(p, "pause_p50_us", "pause_p50_ms"), p99 = pause_ms(p, "pause_p99_us", "pause_p99_ms");
	if (p50 < 0 || p99 < 0)
		snprintf(buf, size, "-");
	else
		snprintf(buf, size, "%s / %s", units_format_duration((int64_t)(p50 * NS_PER_MS), a, sizeof(a)),
			 units_format_duration((int64_t)(p99 * NS_PER_MS), b, sizeof(b)));
	return buf;
}

static const char *vm_of(const json_t *p, char *buf, size_t size)
{
	return cli_clean(cli_str(p, "vm", "?"), buf, size);
}

/* "00:15:02" of a wall-clock time, on this host's clock. */
static const char *clock_of(json_int_t ns, char *buf, size_t size)
{
	time_t s = (time_t)(ns / NS_PER_S);
	struct tm tm;
	if (ns <= 0 || !localtime_r(&s, &tm) || strftime(buf, size, "%H:%M:%S", &tm) == 0)
		snprintf(buf, size, "?");
	return buf;
}

void replication_notes(const json_t *p, struct buf *out)
{
	char vm[100], text[700], rpo[80];
	const char *reason = cli_str(p, "reason", "");
	vm_of(p, vm, sizeof(vm));
	if (*reason)
		buf_printf(out, "%s is %s: %s\n", vm, cli_str(p, "state", "?"), cli_clean(reason, text, sizeof(text)));
	else if (replication_state(p) == TABLE_PLAIN && replication_rpo(p, rpo, sizeof(rpo)) == TABLE_BAD)
		buf_printf(out, "%s: the last point is older than asked for\n", vm);
	const char *remedy = cli_str(p, "remedy", "");
	if (*remedy)
		buf_printf(out, "  what to do: %s\n", cli_clean(remedy, text, sizeof(text)));
}

void replication_line(const json_t *p, struct buf *out)
{
	char vm[100], peer[120], rpo[80], pause[80], a[32], text[700];
	replication_rpo(p, rpo, sizeof(rpo));
	buf_printf(out, "%s %s  %s  rpo %s", vm_of(p, vm, sizeof(vm)), replication_peer(p, peer, sizeof(peer)),
		   cli_clean(cli_str(p, "state", "?"), text, sizeof(text)), rpo);
	if (strcmp(replication_pause(p, pause, sizeof(pause)), "-") != 0)
		buf_printf(out, "  pause %s", pause);
	if (cli_int(p, "throughput", -1) >= 0)
		buf_printf(out, "  %s", units_format_rate((uint64_t)cli_int(p, "throughput", 0), a, sizeof(a)));
	if (cli_int(p, "lag_bytes", 0) > 0)
		buf_printf(out, "  %s behind", units_format_size((uint64_t)cli_int(p, "lag_bytes", 0), a, sizeof(a)));
	if (*cli_str(p, "reason", ""))
		buf_printf(out, "  %s", cli_clean(cli_str(p, "reason", ""), text, sizeof(text)));
}

static void add_duration(struct buf *out, const char *label, double ms)
{
	char a[32];
	if (ms >= 0)
		buf_printf(out, LABEL "%s\n", label, units_format_duration((int64_t)(ms * NS_PER_MS), a, sizeof(a)));
}

static void add_traffic(const json_t *p, struct buf *out)
{
	char a[32], b[32];
	json_int_t rate = cli_int(p, "throughput", -1), wire = cli_int(p, "wire_bytes", -1),
		   dirty = cli_int(p, "dirty_bytes", -1);
	double ratio = cli_real(p, "ratio", -1);
	if (rate >= 0)
		buf_printf(out, LABEL "%s\n", "on the wire", units_format_rate((uint64_t)rate, a, sizeof(a)));
	if (wire >= 0 && dirty >= 0) {
		buf_printf(out, LABEL "%s written by the guest, %s sent", "in all",
			   units_format_size((uint64_t)dirty, a, sizeof(a)),
			   units_format_size((uint64_t)wire, b, sizeof(b)));
		if (ratio >= 1.05)
			buf_printf(out, ", %.1f times less", ratio);
		buf_printf(out, "\n");
	}
	if (cli_int(p, "lag_bytes", -1) >= 0)
		buf_printf(out, LABEL "%s\n", "yet to be sent",
			   units_format_size((uint64_t)cli_int(p, "lag_bytes", 0), a, sizeof(a)));
}

void replication_details(const json_t *p, struct buf *out)
{
	char vm[100], peer[120], rpo[80], text[700], a[32], b[32];
	const json_t *last = json_object_get(p, "last_point");
	buf_printf(out, "%s %s: %s\n", vm_of(p, vm, sizeof(vm)), replication_peer(p, peer, sizeof(peer)),
		   cli_clean(cli_str(p, "state", "?"), text, sizeof(text)));
	if (*cli_str(p, "reason", ""))
		buf_printf(out, LABEL "%s\n", "why", cli_clean(cli_str(p, "reason", ""), text, sizeof(text)));
	if (*cli_str(p, "remedy", ""))
		buf_printf(out, LABEL "%s\n", "what to do", cli_clean(cli_str(p, "remedy", ""), text, sizeof(text)));
	replication_rpo(p, rpo, sizeof(rpo));
	buf_printf(out, LABEL "%s\n", "RPO", rpo);
	if (json_is_object(last))
		buf_printf(out, LABEL "%s, of %s\n", "last point",
			   cli_clean(cli_str(last, "id", "?"), text, sizeof(text)),
			   clock_of(cli_int(last, "instant_ns", 0), a, sizeof(a)));
	add_duration(out, "interval", cli_real(p, "interval_ms", -1));
	double p50 = pause_ms(p, "pause_p50_us", "pause_p50_ms"), p99 = pause_ms(p, "pause_p99_us", "pause_p99_ms");
	if (p50 >= 0 && p99 >= 0)
		buf_printf(out, LABEL "%s (p50), %s (p99)\n", "pause",
			   units_format_duration((int64_t)(p50 * NS_PER_MS), a, sizeof(a)),
			   units_format_duration((int64_t)(p99 * NS_PER_MS), b, sizeof(b)));
	if (*cli_str(p, "capture", "")) {
		buf_printf(out, LABEL "%s", "capture", cli_clean(cli_str(p, "capture", ""), text, sizeof(text)));
		if (*cli_str(p, "capture_reason", ""))
			buf_printf(out, ": %s", cli_clean(cli_str(p, "capture_reason", ""), text, sizeof(text)));
		buf_printf(out, "\n");
	}
	add_traffic(p, out);
	const json_int_t kept = cli_int(p, "points_kept", cli_int(p, "points", -1));
	if (kept >= 0) {
		buf_printf(out, LABEL "%lld", "points", (long long)kept);
		if (cli_int(p, "space_bytes", -1) >= 0)
			buf_printf(out, " in %s",
				   units_format_size((uint64_t)cli_int(p, "space_bytes", 0), a, sizeof(a)));
		if (cli_int(p, "space_limit_bytes", 0) > 0)
			buf_printf(out, ", of at most %s",
				   units_format_size((uint64_t)cli_int(p, "space_limit_bytes", 0), a, sizeof(a)));
		buf_printf(out, "\n");
	}
	if (cli_int(p, "epoch", -1) >= 0)
		buf_printf(out, LABEL "%lld\n", "epoch", (long long)cli_int(p, "epoch", 0));
}
