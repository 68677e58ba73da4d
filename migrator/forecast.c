#include "migrator/forecast.h"

#include "base/clock.h"
#include "base/units.h"

#include <stdio.h>

#define MAX_PASSES 40
/* A pass that is not this much shorter than the one before will not get there. */
#define SHRINKS 0.97

static double or_default(double value, double fallback)
{
	return value > 0 ? value : fallback;
}

/* RAM bytes a second: the link, widened by compression, or the codecs, whichever is slower; never slower than the raw
 * link. */
static double effective(const struct forecast_in *in, double ratio)
{
	double link = (double)in->link_bytes_s;
	double codec = or_default((double)in->codec_bytes_s, FORECAST_CODEC_BYTES_S);
	double compressed = link * ratio < codec ? link * ratio : codec;
	return compressed > link ? compressed : link;
}

/* Beyond ten years nobody minds the difference. */
static int64_t to_ns(double seconds)
{
	return (int64_t)((seconds < 3e8 ? seconds : 3e8) * (double)NS_PER_S);
}

static void compute_passes(const struct forecast_in *in, double max_downtime_s, struct forecast *out)
{
	double first_ratio = or_default(in->ram_ratio, FORECAST_RAM_RATIO);
	double delta_ratio = or_default(in->delta_ratio, FORECAST_DELTA_RATIO);
	double rate = effective(in, delta_ratio);
	double seconds = (double)in->ram_bytes / effective(in, first_ratio);
	double total = seconds;
	double dirtied = 0;
	double wire = (double)in->ram_bytes / first_ratio;

	out->passes = 1;
	out->converges = true;
	for (;;) {
		dirtied = (double)in->dirty_bytes_s * seconds;
		if (dirtied > (double)in->ram_bytes)
			dirtied = (double)in->ram_bytes;
		double next = dirtied / rate;
		wire += dirtied / delta_ratio;
		out->passes++;
		if (next <= max_downtime_s || out->passes > MAX_PASSES || next > seconds * SHRINKS) {
			out->converges = next <= max_downtime_s;
			out->downtime_ns = to_ns(next) + FORECAST_SWITCH_NS;
			total += next;
			break;
		}
		seconds = next;
		total += seconds;
	}
	out->total_ns = to_ns(total) + FORECAST_SWITCH_NS + FORECAST_SETUP_NS + out->disk_ns;
	out->wire_bytes += (uint64_t)wire;
}

static void describe(const struct forecast_in *in, int64_t max_downtime_ns, struct forecast *out)
{
	char total[32], down[32], dirty[32], link[32], limit[32], ram[32];

	units_format_duration(out->total_ns, total, sizeof(total));
	units_format_duration(out->downtime_ns, down, sizeof(down));
	units_format_size(in->dirty_bytes_s, dirty, sizeof(dirty));
	units_format_rate(in->link_bytes_s, link, sizeof(link));
	units_format_duration(max_downtime_ns, limit, sizeof(limit));
	units_format_size(in->ram_bytes, ram, sizeof(ram));
	if (!out->known)
		snprintf(out->text, sizeof(out->text),
			 "%s of RAM to move; no forecast, as the speed of the link is not known", ram);
	else if (!out->converges)
		snprintf(out->text, sizeof(out->text),
			 "it will probably not converge within %s: the guest dirties %s/s and the link carries %s; "
			 "slowing the guest's CPUs, "
			 "--on-stall pause (about %s of standstill) or a quieter hour would help",
			 limit, dirty, link, down);
	else
		snprintf(out->text, sizeof(out->text),
			 "about %s in all, the guest stands still for about %s (%s of RAM, link %s%s%s%s)", total, down,
			 ram, link, in->dirty_known ? ", " : ", dirty rate not measured", in->dirty_known ? dirty : "",
			 in->dirty_known ? "/s dirtied" : "");
}

void forecast_compute(const struct forecast_in *in, struct forecast *out)
{
	int64_t max_downtime = in->max_downtime_ns > 0 ? in->max_downtime_ns : 300 * NS_PER_MS;
	double disk_ratio = or_default(in->disk_ratio, FORECAST_DISK_RATIO);

	*out = (struct forecast){ .known = in->link_bytes_s > 0, .converges = true };
	if (out->known) {
		out->disk_ns = to_ns((double)in->disk_bytes / effective(in, disk_ratio));
		out->wire_bytes = (uint64_t)((double)in->disk_bytes / disk_ratio);
		compute_passes(in, (double)max_downtime / (double)NS_PER_S, out);
	}
	describe(in, max_downtime, out);
}

static json_t *ms_or_null(const struct forecast *f, int64_t ns)
{
	return f->known ? json_integer(ns / NS_PER_MS) : json_null();
}

json_t *forecast_json(const struct forecast_in *in, const struct forecast *f)
{
	return json_pack("{s:b,s:b,s:i,s:o,s:o,s:o,s:I,s:I,s:I,s:o,s:o,s:s}", "known", f->known, "converges",
			 f->converges, "passes", (int)f->passes, "total_ms", ms_or_null(f, f->total_ns), "disk_ms",
			 ms_or_null(f, f->disk_ns), "downtime_ms", ms_or_null(f, f->downtime_ns), "wire_bytes",
			 (json_int_t)f->wire_bytes, "ram_bytes", (json_int_t)in->ram_bytes, "disk_bytes",
			 (json_int_t)in->disk_bytes, "dirty_bytes_s",
			 in->dirty_known ? json_integer((json_int_t)in->dirty_bytes_s) : json_null(), "link_bytes_s",
			 f->known ? json_integer((json_int_t)in->link_bytes_s) : json_null(), "text", f->text);
}
