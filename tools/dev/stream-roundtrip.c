/*
 * stream-roundtrip FILE [--slots N] [--level N|raw] [--chunk N|random] - takes a recorded migration stream through
 * the parser, the encoder and the decoder, and compares what comes out with what went in, byte for byte. Prints
 * what was in it.
 *
 * Record one with QEMU's monitor: migrate "exec:cat > FILE".
 */
#include "base/clock.h"
#include "snapshot/qemu_stream.h"
#include "transport/codec.h"
#include "transport/page_cache.h"

#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct trip {
	struct codec_params params;
	struct codec *encoder, *decoder;
	struct batch *batch;
	struct page_cache *cache;
	struct page_slots *slots;
	struct decoded *decoded;
	struct buf wire, out;
	struct codec_stats stats;
	const uint8_t *expect; /* the input that the next batch stands for */
	uint64_t done;
	uint64_t batches, literals, ram_ends;
	int64_t encode_ns, decode_ns;
};

static void fail(const char *what)
{
	fprintf(stderr, "stream-roundtrip: %s\n", what);
	exit(1);
}

static void flush(struct trip *t)
{
	struct err e = ERR_INIT;
	if (batch_raw_bytes(t->batch) == 0)
		return;
	int64_t start = clock_mono_ns();
	buf_reset(&t->wire);
	codec_encode(t->encoder, t->batch, &t->params, &t->wire, &t->stats);
	int64_t middle = clock_mono_ns();
	if (t->wire.len > CODEC_MAX_ENCODED)
		fail("a batch is longer than it may be");
	if (codec_decode(t->decoder, t->wire.data, t->wire.len, t->decoded, &e) ||
	    decoded_emit(t->decoded, t->slots, &t->out, &e))
		fail(e.text);
	t->encode_ns += middle - start;
	t->decode_ns += clock_mono_ns() - middle;
	if (t->out.len != batch_raw_bytes(t->batch) || memcmp(t->out.data, t->expect + t->done, t->out.len) != 0)
		fail("the bytes that came out differ");
	t->done += t->out.len;
	t->batches++;
	batch_reset(t->batch);
}

static void need(struct trip *t, size_t n)
{
	if (batch_room(t->batch) < n)
		flush(t);
}

static int on_literal(void *ctx, const uint8_t *p, size_t n)
{
	struct trip *t = ctx;
	t->literals++;
	while (n > 0) {
		need(t, 1);
		size_t room = batch_room(t->batch), now = n < room ? n : room;
		batch_literal(t->batch, p, now);
		p += now;
		n -= now;
	}
	return 0;
}

static int on_page(void *ctx, uint32_t block, uint64_t addr, bool cont, const uint8_t *data)
{
	struct trip *t = ctx;
	need(t, CODEC_PAGE_SIZE + 8);
	batch_page(t->batch, (uint64_t)block << 40 | addr >> 12, addr, cont, data, t->cache);
	return 0;
}

static int on_zero(void *ctx, uint32_t block, uint64_t addr)
{
	struct trip *t = ctx;
	need(t, 9);
	batch_zero(t->batch, (uint64_t)block << 40 | addr >> 12, addr, t->cache);
	return 0;
}

static void on_ram_end(void *ctx)
{
	struct trip *t = ctx;
	t->ram_ends++;
}

/* Feeds the whole file, `chunk` new bytes at a time (0: random sizes). */
static void feed(struct trip *t, struct qemu_stream *stream, const uint8_t *p, size_t n, size_t chunk)
{
	size_t at = 0, seen = 0;
	while (seen < n) {
		size_t more = chunk ? chunk : (size_t)(random() % 3 ? random() % 64 : random() % 300000) + 1;
		seen = more < n - seen ? seen + more : n;
		at += qemu_stream_feed(stream, p + at, seen - at);
	}
	if (at < n)
		on_literal(t, p + at, n - at);
	flush(t);
}

static void report(const struct trip *t, const struct qemu_stream *stream, size_t n)
{
	const char *why = "whole stream parsed";
	const struct codec_stats *s = &t->stats;
	qemu_stream_passthrough(stream, &why);
	printf("identical=yes bytes=%zu wire=%" PRIu64 " ratio=%.2f batches=%" PRIu64 " literals=%" PRIu64 "\n", n,
	       s->encoded_bytes, (double)n / (double)(s->encoded_bytes ? s->encoded_bytes : 1), t->batches, t->literals);
	printf("ram=%" PRIu64 " zero=%" PRIu64 " same=%" PRIu64 " delta=%" PRIu64 " plain=%" PRIu64
	       " literal_bytes=%" PRIu64 " ram_ends=%" PRIu64 " parsed_until=\"%s\"\n",
	       qemu_stream_ram_bytes(stream), s->zero_pages, s->same_pages, s->delta_pages, s->plain_pages,
	       s->literal_bytes, t->ram_ends, why);
	printf("plain_in=%" PRIu64 " plain_out=%" PRIu64 " delta_out=%" PRIu64
	       " delta_bytes_a_page=%.1f ops_bytes=%" PRIu64 " encode_ms=%" PRId64 " decode_ms=%" PRId64 "\n",
	       s->plain_in_bytes, s->plain_out_bytes, s->delta_out_bytes,
	       s->delta_pages ? (double)s->delta_out_bytes / (double)s->delta_pages : 0.0,
	       s->encoded_bytes - s->plain_out_bytes - s->delta_out_bytes - 40 * t->batches, t->encode_ns / NS_PER_MS,
	       t->decode_ns / NS_PER_MS);
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "slots", required_argument, NULL, 's' },
						 { "level", required_argument, NULL, 'l' },
						 { "chunk", required_argument, NULL, 'c' },
						 { NULL, 0, NULL, 0 } };
	struct trip t = { .params = { 3, 3 } };
	unsigned long slots = 131072;
	size_t chunk = 1 << 20;
	int opt;
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 's')
			slots = strtoul(optarg, NULL, 10);
		else if (opt == 'l')
			t.params.plain_level = strcmp(optarg, "raw") ? (int)strtol(optarg, NULL, 10) : CODEC_RAW;
		else if (opt == 'c')
			chunk = strcmp(optarg, "random") ? strtoul(optarg, NULL, 10) : 0;
		else
			return 2;
	}
	if (optind + 1 != argc) {
		fprintf(stderr, "usage: stream-roundtrip [--slots N] [--level N|raw] [--chunk N|random] FILE\n");
		return 2;
	}
	int fd = open(argv[optind], O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) || st.st_size == 0)
		fail("cannot read the file, or it is empty");
	size_t n = (size_t)st.st_size;
	const uint8_t *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		fail("cannot map the file");
	struct err e = ERR_INIT;
	t.cache = page_cache_new((uint32_t)slots, &e);
	t.slots = page_slots_new((uint32_t)slots, &e);
	if (!t.cache || !t.slots)
		fail(e.text);
	t.encoder = codec_new();
	t.decoder = codec_new();
	t.batch = batch_new();
	t.decoded = decoded_new();
	t.expect = p;
	const struct qemu_stream_sink sink = { on_literal, on_page, on_zero, on_ram_end, &t };
	struct qemu_stream *stream = qemu_stream_new(&sink);
	feed(&t, stream, p, n, chunk);
	if (t.done != n)
		fail("bytes are missing at the end");
	report(&t, stream, n);
	qemu_stream_free(stream);
	codec_free(t.encoder);
	codec_free(t.decoder);
	batch_free(t.batch);
	decoded_free(t.decoded);
	page_cache_free(t.cache);
	page_slots_free(t.slots);
	buf_fini(&t.wire);
	buf_fini(&t.out);
	munmap((void *)(uintptr_t)p, n);
	close(fd);
	return 0;
}
