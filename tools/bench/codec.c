/*
 * codec - how fast the page codecs are, and how much smaller they make the RAM of a guest. One process, one thread
 * at a time.
 *
 *	codec [--json] [--quick] [--size MiB] [--stream FILE]... [--image FILE]...
 *
 * --stream: a recorded migration stream (QEMU's monitor: migrate "exec:cat > FILE"); its first pass is the RAM,
 * the pages that come again are the changes. --image: raw RAM. Without either, images are made here: programs and
 * data of this machine, heaps of pointers, text, repeated and empty pages, and three ways of changing them.
 *
 * Speeds are bytes of guest RAM per second of CPU time, so that other work on the machine disturbs them little.
 */
#include "tools/bench/images.h"

#include "base/clock.h"
#include "base/mem.h"
#include "transport/codec.h"
#include "transport/page_cache.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct result {
	const char *image;
	const char *method;
	int level;
	unsigned batch_kib;
	uint64_t raw, wire;
	int64_t build_ns, encode_ns, decode_ns;
};

struct bench {
	json_t *rows;
	bool json;
	struct codec *codec;
	struct batch *batch;
	struct decoded *decoded;
	struct buf wire, out;
};

static void die(const char *what)
{
	fprintf(stderr, "codec: %s\n", what);
	exit(1);
}

static const char *level_name(int level, char *text, size_t size)
{
	if (level == CODEC_RAW)
		return "raw";
	snprintf(text, size, "%d", level);
	return text;
}

static double gb_per_s(uint64_t bytes, int64_t ns)
{
	return ns > 0 ? (double)bytes / (double)ns : 0.0;
}

static void report(struct bench *b, const struct result *r)
{
	char text[16];
	double ratio = (double)r->raw / (double)(r->wire ? r->wire : 1);
	int64_t encode = r->build_ns + r->encode_ns;
	if (!b->json) {
		printf("%-10s %-9s %5s %6u %9.2f %9.2f %9.2f %9.2f %10.2f\n", r->image, r->method,
		       level_name(r->level, text, sizeof(text)), r->batch_kib, gb_per_s(r->raw, r->build_ns),
		       gb_per_s(r->raw, r->encode_ns), gb_per_s(r->raw, encode), gb_per_s(r->raw, r->decode_ns), ratio);
		fflush(stdout);
		return;
	}
	json_array_append_new(b->rows,
			      json_pack("{s:s, s:s, s:s, s:i, s:f, s:f, s:f, s:f, s:f}", "image", r->image, "method",
					r->method, "level", level_name(r->level, text, sizeof(text)), "batch_kib",
					(int)r->batch_kib, "build_gb_s", gb_per_s(r->raw, r->build_ns), "encode_gb_s",
					gb_per_s(r->raw, r->encode_ns), "sender_gb_s", gb_per_s(r->raw, encode),
					"receiver_gb_s", gb_per_s(r->raw, r->decode_ns), "ratio", ratio));
}

/* One way through, over the pages given. */
struct run {
	struct result result;
	struct page_cache *cache;
	struct page_slots *slots;
	struct codec_params params;
	const uint8_t *(*page)(const struct image *im, size_t i); /* NULL: a zero page */
	uint64_t (*number)(const struct image *im, size_t i);
	size_t pages;
	bool as_zero;
};

static void flush(struct bench *b, struct run *r)
{
	struct err e = ERR_INIT;
	if (batch_raw_bytes(b->batch) == 0)
		return;
	buf_reset(&b->wire);
	int64_t start = clock_thread_cpu_ns();
	codec_encode(b->codec, b->batch, &r->params, &b->wire, NULL);
	int64_t middle = clock_thread_cpu_ns();
	if (codec_decode(b->codec, b->wire.data, b->wire.len, b->decoded, &e) ||
	    decoded_emit(b->decoded, r->slots, &b->out, &e))
		die(e.text);
	r->result.decode_ns += clock_thread_cpu_ns() - middle;
	r->result.encode_ns += middle - start;
	r->result.wire += b->wire.len;
	r->result.raw += b->out.len;
	batch_reset(b->batch);
}

static void pass(struct bench *b, const struct image *im, struct run *r)
{
	size_t limit = (size_t)r->result.batch_kib << 10;
	int64_t start = clock_thread_cpu_ns();
	for (size_t i = 0; i < r->pages; i++) {
		const uint8_t *data = r->as_zero ? NULL : r->page(im, i);
		size_t need = data ? CODEC_PAGE_SIZE + 8 : 9;
		size_t have = batch_raw_bytes(b->batch);
		if (batch_room(b->batch) < need || have + need > limit + 8192) {
			r->result.build_ns += clock_thread_cpu_ns() - start;
			flush(b, r);
			start = clock_thread_cpu_ns();
		}
		uint64_t no = r->number(im, i);
		if (data)
			batch_page(b->batch, no, no << 12, true, data, r->cache);
		else
			batch_zero(b->batch, no, no << 12, r->cache);
	}
	r->result.build_ns += clock_thread_cpu_ns() - start;
	flush(b, r);
}

static const uint8_t *base_page(const struct image *im, size_t i)
{
	const uint8_t *p = im->ram + i * CODEC_PAGE_SIZE;
	return im->zero[i] ? NULL : p;
}

static uint64_t base_number(const struct image *im, size_t i)
{
	(void)im;
	return i;
}

/* Of a large image every n-th MiB is enough to know a compressor. */
#define SAMPLE_PAGES ((size_t)128 << 8)

static size_t sampled(const struct image *im, size_t i)
{
	size_t every = (im->pages + SAMPLE_PAGES - 1) / SAMPLE_PAGES;
	return i / 256 * 256 * every + i % 256;
}

static const uint8_t *sampled_page(const struct image *im, size_t i)
{
	return base_page(im, sampled(im, i));
}

static uint64_t sampled_number(const struct image *im, size_t i)
{
	return sampled(im, i);
}

static const uint8_t *changed_page(const struct image *im, size_t i)
{
	return im->changes + i * CODEC_PAGE_SIZE;
}

static uint64_t changed_number(const struct image *im, size_t i)
{
	return im->changed[i];
}

static struct run base_run(const struct image *im, const char *method, int level, unsigned batch_kib)
{
	return (struct run){ .result = { .image = im->name, .method = method, .level = level, .batch_kib = batch_kib },
			     .params = { level, level },
			     .page = base_page,
			     .number = base_number,
			     .pages = im->pages };
}

static void open_caches(struct run *r, size_t slots)
{
	struct err e = ERR_INIT;
	r->cache = page_cache_new((uint32_t)slots, &e);
	r->slots = page_slots_new((uint32_t)slots, &e);
	if (!r->cache || !r->slots)
		die(e.text);
}

static void close_caches(struct run *r)
{
	page_cache_free(r->cache);
	page_slots_free(r->slots);
}

/* Pages without old versions: the compressor alone. */
static void plain_rows(struct bench *b, const struct image *im, bool quick)
{
	static const int levels[] = { CODEC_RAW, -5, -3, -1, 1, 2, 3, 4, 5, 6, 9 };
	static const unsigned sizes[] = { 64, 256, 1024 };
	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
			if (quick && (sizes[s] != 1024 || levels[i] > 3))
				continue;
			struct run r = base_run(im, "plain", levels[i], sizes[s]);
			r.page = sampled_page;
			r.number = sampled_number;
			while (r.pages > 0 && sampled(im, r.pages - 1) >= im->pages)
				r.pages--;
			pass(b, im, &r);
			report(b, &r.result);
		}
	}
}

/* What a migration does: a first pass that fills the caches, the same pages again, then the changed ones. */
static void pipeline_rows(struct bench *b, const struct image *im, int level)
{
	struct run r = base_run(im, "first", level, 1024);
	open_caches(&r, im->pages);
	pass(b, im, &r);
	report(b, &r.result);
	r.result = (struct result){ .image = im->name, .method = "same", .level = level, .batch_kib = 1024 };
	pass(b, im, &r);
	report(b, &r.result);
	if (im->n_changed > 0) {
		r.result = (struct result){ .image = im->name, .method = "changed", .level = level, .batch_kib = 1024 };
		r.page = changed_page;
		r.number = changed_number;
		r.pages = im->n_changed;
		pass(b, im, &r);
		report(b, &r.result);
	}
	close_caches(&r);
}

static void zero_row(struct bench *b, const struct image *im)
{
	struct run r = base_run(im, "zero", 1, 64);
	open_caches(&r, im->pages);
	r.as_zero = true;
	pass(b, im, &r);
	/* In pages, not in the nine bytes that stand for one. */
	r.result.raw = (uint64_t)r.pages * CODEC_PAGE_SIZE;
	report(b, &r.result);
	close_caches(&r);
}

static void measure(struct bench *b, const struct image *im, bool quick)
{
	zero_row(b, im);
	pipeline_rows(b, im, CODEC_RAW);
	pipeline_rows(b, im, -3);
	pipeline_rows(b, im, 1);
	pipeline_rows(b, im, 3);
	plain_rows(b, im, quick);
}

static void head(void)
{
	printf("GB of guest RAM per second of CPU; sender = build + encode, receiver = decode + emit\n");
	printf("%-10s %-9s %5s %6s %9s %9s %9s %9s %10s\n", "image", "method", "level", "KiB", "build", "encode",
	       "sender", "receiver", "ratio");
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },        { "quick", no_argument, NULL, 'q' },
		{ "size", required_argument, NULL, 'm' },  { "stream", required_argument, NULL, 's' },
		{ "image", required_argument, NULL, 'i' }, { NULL, 0, NULL, 0 },
	};
	struct bench b = { .rows = json_array() };
	struct images images = { 0 };
	struct err e = ERR_INIT;
	bool quick = false;
	size_t mib = 256;
	int opt;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		int rc = 0;
		if (opt == 'j')
			b.json = true;
		else if (opt == 'q')
			quick = true;
		else if (opt == 'm')
			mib = strtoul(optarg, NULL, 10);
		else if (opt == 's')
			rc = images_add_stream(&images, optarg, &e);
		else if (opt == 'i')
			rc = images_add_file(&images, optarg, &e);
		else
			rc = err_set(
				&e, ERR_CONFIG,
				"usage: codec [--json] [--quick] [--size MiB] [--stream FILE]... [--image FILE]...");
		if (rc)
			die(e.text);
	}
	if (mib < 4 || mib > 65536 || optind != argc)
		die("--size is 4 to 65536 MiB, and no other arguments");
	if (images.n == 0)
		images_make(&images, quick && mib == 256 ? 64 : mib);
	b.codec = codec_new();
	b.batch = batch_new();
	b.decoded = decoded_new();
	if (!b.json)
		head();
	for (size_t i = 0; i < images.n; i++)
		measure(&b, &images.image[i], quick);
	if (b.json) {
		json_t *all = json_pack("{s:O}", "codec", b.rows);
		json_dumpf(all, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(5));
		putchar('\n');
		json_decref(all);
	}
	json_decref(b.rows);
	codec_free(b.codec);
	batch_free(b.batch);
	decoded_free(b.decoded);
	buf_fini(&b.wire);
	buf_fini(&b.out);
	images_fini(&images);
	return 0;
}
