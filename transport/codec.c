/* Encoding and decoding of sections; any thread. Format: codec_internal.h. */
#include "base/mem.h"
#include "base/xxh3.h"
#include "transport/codec_internal.h"

#include <assert.h>
#include <zstd.h>

/* Shorter sections are not worth a zstd frame. */
#define MIN_COMPRESS 32u
/* A batch without compression goes as it came if it is at least this long, and not much of it are zero pages: then neither end copies it. */
#define VERBATIM_MIN (64u * 1024u)
#define VERBATIM_ZEROS_MAX 8u
/* A section that stays above this is stored: the receiver's time is worth more than the last percents. */
#define WORTH_PERCENT 97u

struct codec {
	ZSTD_CCtx *plain_ctx; /* apart from the small sections': zstd keeps its tables as long as parameters stay */
	ZSTD_CCtx *small_ctx;
	ZSTD_DCtx *dctx;
	int plain_level, small_level; /* as set in the contexts */
	uint8_t *gathered;            /* plain section, CODEC_MAX_RAW */
	struct buf ops;               /* with what was pending */
	struct buf packed[SECTION_COUNT];
};

uint64_t codec_hash(const void *p, size_t n)
{
	return XXH3_64bits(p, n);
}

struct codec *codec_new(void)
{
	struct codec *c = mem_alloc(sizeof(*c));
	c->plain_level = c->small_level = CODEC_RAW;
	return c;
}

void codec_free(struct codec *c)
{
	if (!c)
		return;
	ZSTD_freeCCtx(c->plain_ctx);
	ZSTD_freeCCtx(c->small_ctx);
	ZSTD_freeDCtx(c->dctx);
	mem_free_ptr(&c->gathered);
	buf_fini(&c->ops);
	for (unsigned i = 0; i < SECTION_COUNT; i++)
		buf_fini(&c->packed[i]);
	mem_free_ptr(&c);
}

/* ---- encoding ---- */

/* Parameters for the RAM of guests in batches of up to 1 MiB: small tables that stay in a core's own caches, and
 * longer matches. Measured on Linux guests they beat zstd's levels of the same numbers in speed, ratio or both; 1 and 2
 * look for long matches too, which finds 4 and 6 % more than one table of the same cost. Levels that are not here are
 * zstd's own. */
static const struct tuned {
	int level;
	ZSTD_strategy strategy;
	int hash_log, chain_log, search_log, min_match, target_length;
} tuned[] = {
	{ -5, ZSTD_fast, 13, 13, 1, 7, 2 }, { -3, ZSTD_fast, 13, 13, 1, 7, 1 }, { -1, ZSTD_fast, 14, 14, 1, 6, 1 },
	{ 1, ZSTD_dfast, 13, 12, 1, 6, 0 }, { 2, ZSTD_dfast, 14, 12, 1, 5, 0 }, { 3, ZSTD_dfast, 16, 14, 1, 5, 0 },
	{ 4, ZSTD_dfast, 17, 15, 1, 4, 0 }, { 6, ZSTD_lazy, 18, 18, 3, 4, 8 },
};

static void set_tuned(ZSTD_CCtx *ctx, const struct tuned *t)
{
	/* 0 means: as the level has it. */
	static const struct tuned none = { 0 };
	if (!t)
		t = &none;
	ZSTD_CCtx_setParameter(ctx, ZSTD_c_windowLog, t == &none ? 0 : 20);
	ZSTD_CCtx_setParameter(ctx, ZSTD_c_strategy, (int)t->strategy);
	ZSTD_CCtx_setParameter(ctx, ZSTD_c_hashLog, t->hash_log);
	ZSTD_CCtx_setParameter(ctx, ZSTD_c_chainLog, t->chain_log);
	ZSTD_CCtx_setParameter(ctx, ZSTD_c_searchLog, t->search_log);
	ZSTD_CCtx_setParameter(ctx, ZSTD_c_minMatch, t->min_match);
	ZSTD_CCtx_setParameter(ctx, ZSTD_c_targetLength, t->target_length);
}

/* Tuned parameters are for long sections; short ones have zstd's own for their size. */
static void set_level(ZSTD_CCtx **ctx, int *current, int level, bool is_long)
{
	if (!*ctx) {
		*ctx = ZSTD_createCCtx();
		assert(*ctx);
		/* The batch's header says the length and its hash covers the contents. */
		ZSTD_CCtx_setParameter(*ctx, ZSTD_c_contentSizeFlag, 0);
		ZSTD_CCtx_setParameter(*ctx, ZSTD_c_checksumFlag, 0);
		ZSTD_CCtx_setParameter(*ctx, ZSTD_c_dictIDFlag, 0);
	}
	if (*current == level)
		return;
	*current = level;
	ZSTD_CCtx_setParameter(*ctx, ZSTD_c_compressionLevel, level);
	if (!is_long)
		return;
	const struct tuned *found = NULL;
	for (size_t i = 0; i < sizeof(tuned) / sizeof(tuned[0]); i++) {
		if (tuned[i].level == level)
			found = &tuned[i];
	}
	set_tuned(*ctx, found);
}

/* The compressed length in out (replaced), or 0 if it is not worth it. */
static size_t pack(ZSTD_CCtx *ctx, const void *src, size_t len, struct buf *out)
{
	size_t cap = len * WORTH_PERCENT / 100;
	buf_reset(out);
	size_t n = ZSTD_compress2(ctx, buf_reserve(out, cap), cap, src, len);
	out->len = ZSTD_isError(n) ? 0 : n;
	return out->len;
}

static void gather(const struct batch *b, uint8_t *to)
{
	for (size_t i = 0; i < b->n_plain; i++) {
		memcpy(to, b->raw + b->plain[i].at, b->plain[i].len);
		to += b->plain[i].len;
	}
}

static bool goes_verbatim(const struct batch *b, const struct codec_params *params)
{
	return params->plain_level == CODEC_RAW && !b->uses_slots && b->raw_len >= VERBATIM_MIN &&
	       b->counts.zero_pages * ZERO_RECORD_SIZE <= b->raw_len / VERBATIM_ZEROS_MAX;
}

static size_t pack_plain(struct codec *c, const struct batch *b, int level)
{
	if (level == CODEC_RAW || b->plain_len < MIN_COMPRESS)
		return 0;
	set_level(&c->plain_ctx, &c->plain_level, level, true);
	const uint8_t *src = b->raw + (b->n_plain ? b->plain[0].at : 0);
	if (b->n_plain > 1) {
		if (!c->gathered)
			c->gathered = mem_alloc(CODEC_MAX_RAW);
		gather(b, c->gathered);
		src = c->gathered;
	}
	return pack(c->plain_ctx, src, b->plain_len, &c->packed[SECTION_PLAIN]);
}

static size_t pack_small(struct codec *c, const struct buf *in, int level, struct buf *out)
{
	if (level == CODEC_RAW || in->len < MIN_COMPRESS)
		return 0;
	set_level(&c->small_ctx, &c->small_level, level, false);
	return pack(c->small_ctx, in->data, in->len, out);
}

static void add_stats(struct codec_stats *s, const struct batch *b, size_t encoded, size_t plain_out, size_t delta_out)
{
	s->raw_bytes += b->raw_len;
	s->encoded_bytes += encoded;
	s->zero_pages += b->counts.zero_pages;
	s->same_pages += b->counts.same_pages;
	s->delta_pages += b->counts.delta_pages;
	s->plain_pages += b->counts.plain_pages;
	s->literal_bytes += b->counts.literal_bytes;
	s->plain_in_bytes += b->plain_len;
	s->plain_out_bytes += plain_out;
	s->delta_in_bytes += b->counts.delta_pages * CODEC_PAGE_SIZE;
	s->delta_out_bytes += delta_out;
}

static void write_ops(struct buf *ops, const struct batch *b, bool verbatim)
{
	struct ops_writer w;

	buf_reset(ops);
	if (verbatim) {
		ops_writer_init(&w, ops);
		ops_add(&w, &(struct op){ .kind = OP_LITERAL, .count = b->raw_len });
		ops_write_pending(&w, ops);
	} else {
		buf_append(ops, b->ops.data, b->ops.len);
		ops_write_pending(&b->writer, ops);
	}
}

void codec_encode(struct codec *c, const struct batch *b, const struct codec_params *params, struct buf *out,
		  struct codec_stats *stats)
{
	const bool verbatim = goes_verbatim(b, params);

	write_ops(&c->ops, b, verbatim);
	const size_t len[SECTION_COUNT] = { c->ops.len, verbatim ? b->raw_len : b->plain_len, b->delta.len };
	const size_t packed[SECTION_COUNT] = {
		pack_small(c, &c->ops, params->delta_level, &c->packed[SECTION_OPS]),
		pack_plain(c, b, params->plain_level),
		pack_small(c, &b->delta, params->delta_level, &c->packed[SECTION_DELTA]),
	};
	unsigned methods = 0;
	size_t total = BATCH_HEADER_SIZE;
	for (unsigned i = 0; i < SECTION_COUNT; i++) {
		methods |= (packed[i] ? METHOD_ZSTD : METHOD_STORED) << (2 * i);
		total += packed[i] ? packed[i] : len[i];
	}
	assert(total <= CODEC_MAX_ENCODED);

	buf_reserve(out, total);
	buf_put_u8(out, BATCH_FORMAT);
	buf_put_u8(out, (uint8_t)methods);
	buf_put_be16(out, 0);
	buf_put_be32(out, (uint32_t)b->raw_len);
	for (unsigned i = 0; i < SECTION_COUNT; i++) {
		buf_put_be32(out, (uint32_t)len[i]);
		buf_put_be32(out, (uint32_t)(packed[i] ? packed[i] : len[i]));
	}
	buf_put_be64(out, codec_hash(b->raw, b->raw_len));
	for (unsigned i = 0; i < SECTION_COUNT; i++) {
		if (packed[i]) {
			buf_append(out, c->packed[i].data, packed[i]);
		} else if (verbatim && i == SECTION_PLAIN) {
			buf_append(out, b->raw, b->raw_len);
		} else if (i == SECTION_PLAIN) {
			gather(b, out->data + out->len);
			out->len += len[i];
		} else {
			const struct buf *from = i == SECTION_OPS ? &c->ops : &b->delta;
			buf_append(out, from->data, from->len);
		}
	}
	if (stats)
		add_stats(stats, b, total, packed[SECTION_PLAIN] ? packed[SECTION_PLAIN] : len[SECTION_PLAIN],
			  packed[SECTION_DELTA] ? packed[SECTION_DELTA] : len[SECTION_DELTA]);
}

/* ---- decoding ---- */

struct header {
	unsigned methods;
	uint32_t raw_len;
	uint32_t len[SECTION_COUNT], stored[SECTION_COUNT];
	uint64_t hash;
};

static int read_header(struct cursor *in, struct header *h, struct err *e)
{
	uint8_t format = cursor_u8(in);
	h->methods = cursor_u8(in);
	unsigned zero = cursor_be16(in);
	h->raw_len = cursor_be32(in);
	for (unsigned i = 0; i < SECTION_COUNT; i++) {
		h->len[i] = cursor_be32(in);
		h->stored[i] = cursor_be32(in);
	}
	h->hash = cursor_be64(in);
	if (!cursor_ok(in))
		return err_set(e, ERR_PROTOCOL, "batch is shorter than its header");
	if (format != BATCH_FORMAT || zero != 0)
		return err_set(e, ERR_PROTOCOL, "batch of unknown format %u", format);
	if (h->raw_len > CODEC_MAX_RAW)
		return err_set(e, ERR_PROTOCOL, "batch of %u bytes is over the limit", h->raw_len);
	/* No section is longer than the stream it stands for, but for the operations' excess. */
	uint64_t left = cursor_left(in);
	for (unsigned i = 0; i < SECTION_COUNT; i++) {
		unsigned method = h->methods >> (2 * i) & 3;
		uint32_t cap = h->raw_len + (i == SECTION_OPS ? BATCH_MAX_EXCESS + 2 * OP_MAX_SIZE : 0);
		if (method > METHOD_ZSTD || h->len[i] > cap || h->stored[i] > left ||
		    (method == METHOD_STORED && h->stored[i] != h->len[i]))
			return err_set(e, ERR_PROTOCOL, "batch with an impossible section");
		left -= h->stored[i];
	}
	if (left != 0 || h->methods >> (2 * SECTION_COUNT) != 0)
		return err_set(e, ERR_PROTOCOL, "batch with bytes that belong to nothing");
	return 0;
}

static int unpack(struct codec *c, const uint8_t *p, size_t stored, size_t len, struct buf *out, struct err *e)
{
	buf_reset(out);
	if (!c->dctx) {
		c->dctx = ZSTD_createDCtx();
		assert(c->dctx);
	}
	size_t n = ZSTD_decompressDCtx(c->dctx, buf_reserve(out, len), len, p, stored);
	if (ZSTD_isError(n))
		return err_set(e, ERR_CORRUPT, "batch does not decompress: %s", ZSTD_getErrorName(n));
	if (n != len)
		return err_set(e, ERR_CORRUPT, "batch decompresses to %zu bytes instead of %zu", n, len);
	out->len = len;
	return 0;
}

/* The runs of a DELTA: inside the page, and their bytes are added up. */
static int check_runs(struct cursor *in, uint64_t *delta)
{
	uint64_t runs = ops_uleb(in);
	if (runs >= CODEC_PAGE_SIZE)
		return -1;
	uint64_t end = 0;
	for (uint64_t i = 0; i <= runs; i++) {
		uint64_t skip = ops_uleb(in), len = ops_uleb(in);
		if (skip >= CODEC_PAGE_SIZE || len >= CODEC_PAGE_SIZE)
			return -1;
		end += skip + len + 1;
		*delta += len + 1;
		if (end > CODEC_PAGE_SIZE)
			return -1;
	}
	return cursor_ok(in) ? 0 : -1;
}

/* Everything that can be known without slots: the operations reproduce raw_len bytes and use up both sections. */
static int check_ops(const struct header *h, const uint8_t *ops, size_t len, bool *verbatim, struct err *e)
{
	struct ops_reader r;
	struct op op;
	uint64_t raw = 0, plain = 0, delta = 0;
	int got;

	*verbatim = true;
	ops_reader_init(&r, ops, len);
	while ((got = ops_next(&r, &op)) == 1) {
		uint64_t unit = op.kind == OP_LITERAL ? 1
				: op.kind == OP_ZEROS ? ZERO_RECORD_SIZE
				: op.bare             ? CODEC_PAGE_SIZE
						      : PAGE_RECORD_SIZE;
		if (op.count > (h->raw_len - raw) / unit)
			return err_set(e, ERR_PROTOCOL, "batch reproduces more than it says");
		raw += op.count * unit;
		*verbatim &= op.kind == OP_LITERAL;
		if (op.kind == OP_LITERAL)
			plain += op.count;
		else if (op.kind == OP_PLAIN)
			plain += op.count * CODEC_PAGE_SIZE;
		else if (op.kind == OP_DELTA && check_runs(&r.in, &delta))
			return err_set(e, ERR_PROTOCOL, "batch with a delta that is not inside its page");
	}
	if (got < 0)
		return err_set(e, ERR_PROTOCOL, "batch with a malformed operation");
	if (raw != h->raw_len || plain != h->len[SECTION_PLAIN] || delta != h->len[SECTION_DELTA])
		return err_set(e, ERR_PROTOCOL, "batch whose operations do not add up");
	return 0;
}

int codec_decode(struct codec *c, const uint8_t *p, size_t n, struct decoded *d, struct err *e)
{
	struct cursor in = cursor_over(p, n);
	struct header h;
	bool verbatim = false;

	d->verbatim = false;
	if (read_header(&in, &h, e))
		return -1;
	for (unsigned i = 0; i < SECTION_COUNT; i++) {
		const uint8_t *stored = cursor_bytes(&in, h.stored[i]);
		d->section[i].p = stored;
		d->section[i].len = h.len[i];
		if ((h.methods >> (2 * i) & 3) == METHOD_ZSTD) {
			if (unpack(c, stored, h.stored[i], h.len[i], &d->unpacked[i], e))
				return -1;
			d->section[i].p = d->unpacked[i].data;
		}
		/* Before the long sections are unpacked. */
		if (i == SECTION_OPS && check_ops(&h, d->section[i].p, d->section[i].len, &verbatim, e))
			return -1;
	}
	d->raw_len = h.raw_len;
	d->hash = h.hash;
	if (!verbatim)
		return 0;
	d->verbatim = codec_check(d, d->section[SECTION_PLAIN].p, e) == 0;
	return d->verbatim ? 0 : -1;
}
