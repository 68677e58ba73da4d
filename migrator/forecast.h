/*
 * forecast.h - how long a migration will take, and how long the guest will stand still: arithmetic over what was
 * measured. Pure.
 */
#ifndef VMFERRY_MIGRATOR_FORECAST_H
#define VMFERRY_MIGRATOR_FORECAST_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct forecast_in {
	uint64_t ram_bytes;     /* RAM that is not zero: resident, or all of it when that is not known */
	uint64_t dirty_bytes_s; /* measured; 0: nothing is dirtied, or the guest is paused */
	bool dirty_known;
	uint64_t link_bytes_s; /* what the link carries, measured, or the operator's --bandwidth if lower; 0: unknown */
	uint64_t disk_bytes;   /* to copy */
	double ram_ratio;      /* compression of a first pass; <= 0: FORECAST_RAM_RATIO */
	double delta_ratio;    /* of pages sent again; <= 0: FORECAST_DELTA_RATIO */
	double disk_ratio;     /* <= 0: FORECAST_DISK_RATIO */
	uint64_t codec_bytes_s;  /* RAM bytes the codecs of this host handle; 0: FORECAST_CODEC_BYTES_S */
	int64_t max_downtime_ns; /* 0: 300 ms */
};

/* Careful middle values from measured guests; every guest differs, and the text says "about". */
#define FORECAST_RAM_RATIO 2.5
#define FORECAST_DELTA_RATIO 4.0
#define FORECAST_DISK_RATIO 2.0
#define FORECAST_CODEC_BYTES_S (400u * 1000 * 1000)
/* Stopping, device state and starting at the other side, besides RAM. */
#define FORECAST_SWITCH_NS (40 * INT64_C(1000000))
/* Before the first byte and after the last. */
#define FORECAST_SETUP_NS (600 * INT64_C(1000000))

struct forecast {
	bool known;          /* false: no link speed, so no times; the rest is still set */
	bool converges;      /* within max_downtime, without slowing the guest */
	unsigned passes;     /* over RAM, the last with the guest stopped */
	int64_t total_ns;    /* when it does not converge: until that is clear */
	int64_t disk_ns;     /* of that, copying disks */
	int64_t downtime_ns; /* when it does not converge: what pausing the guest would cost */
	uint64_t wire_bytes;
	char text[400]; /* a sentence or two for the operator */
};

void forecast_compute(const struct forecast_in *in, struct forecast *out);

/* {"known","converges","passes","total_ms","disk_ms","downtime_ms","wire_bytes","ram_bytes","disk_bytes",
 * "dirty_bytes_s" (null if not measured),"link_bytes_s" (null if not),"text"}; times are null when not known. New
 * reference. */
json_t *forecast_json(const struct forecast_in *in, const struct forecast *f);

#endif
