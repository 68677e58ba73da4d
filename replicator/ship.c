#include "replicator/ship.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "replicator/known.h"
#include "replicator/records.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PART_BYTES (UINT64_C(256) << 20)
/* Blocks of disks that wait until the peer was asked about them, all at once. */
#define GROUP_BLOCKS 2048u
/* Blocks asked about in one call, for RAM. */
#define ASK_BLOCKS 131072u
#define PAGE_BLOCK_SHIFT 40

struct group {
	size_t n;
	struct {
		uint32_t volume;
		uint64_t block;
	} at[GROUP_BLOCKS];
	uint8_t *data; /* GROUP_BLOCKS * 4096 */
	uint8_t *hash; /* GROUP_BLOCKS * 16 */
};

struct ship {
	/* fixed */
	struct ship_opts opts;
	struct outflow *out;
	struct capture_sink sink;
	uint8_t secret[32];

	/* the capture's thread */
	struct known *known;
	struct group group;
	uint8_t *asked;    /* ASK_BLOCKS * 16 */
	bool sent_volumes; /* those of `known` are what the peer was told */
	struct buf head;

	char id[RECORDS_ID_MAX + 1];
	bool wanted; /* between ship_begin and ship_finish */
	bool open;   /* BEGIN was sent and COMMIT not */
	uint32_t current;
	struct records_counts counts;
	uint64_t open_bytes; /* of blocks, since BEGIN */
	int64_t open_ns;     /* monotonic: BEGIN */
	uint64_t wire_before;
	struct ship_tally tally;
};

/* ---- records ---- */

static int put_head(struct ship *s, struct err *e)
{
	const int rc = outflow_literal(s->out, s->head.data, s->head.len, e);

	buf_reset(&s->head);
	return rc;
}

/* BEGIN of the transaction, or of its next part; and the volumes, if the peer has not heard of them. */
static int open_txn(struct ship *s, struct err *e)
{
	char id[RECORDS_ID_MAX + 24];
	const size_t n = known_volumes(s->known);

	assert(s->wanted && !s->open);
	snprintf(id, sizeof(id), "%s", s->id);
	s->open = true;
	s->current = UINT32_MAX;
	s->counts = (struct records_counts){ 0 };
	s->open_bytes = 0;
	s->open_ns = clock_mono_ns();
	outflow_hash_start(s->out);
	/* Whether it is a point is not known before its end: what is told to the peer is in the commit call. */
	records_put_begin(&s->head, id, true);
	if (!s->sent_volumes && n) {
		struct store_volume *v = mem_alloc_array(n, sizeof(*v));
		for (uint32_t i = 0; i < n; i++)
			v[i] = *known_volume(s->known, i);
		records_put_volumes(&s->head, v, n);
		free(v);
		s->sent_volumes = true;
	}
	return put_head(s, e);
}

static int ensure_open(struct ship *s, struct err *e)
{
	return s->open ? 0 : open_txn(s, e);
}

static int select_volume(struct ship *s, uint32_t v, struct err *e)
{
	if (ensure_open(s, e) < 0)
		return -1;
	if (s->current == v)
		return 0;
	s->current = v;
	records_put_volume(&s->head, v);
	return put_head(s, e);
}

/* COMMIT record, then the peer's word. */
static int commit(struct ship *s, bool point, const json_t *meta, uint64_t *seq, struct err *e)
{
	if (ensure_open(s, e) < 0)
		return -1;
	records_put_commit(&s->head, s->id, &s->counts, outflow_hash(s->out));
	if (put_head(s, e) < 0 || outflow_flush(s->out, e) < 0)
		return -1;
	s->open = false;
	if (fault_point(FAULT_REPLICA_COMMIT_SOURCE, e) < 0 ||
	    s->opts.commit(s->opts.ctx, s->id, point, meta, seq, e) < 0)
		return -1;
	known_committed(s->known);
	if (point)
		s->opts.part_ns = 0;
	return 0;
}

/* A transaction that has grown large, or old, becomes a part, and goes on as the next. */
static int cut(struct ship *s, struct err *e)
{
	const uint64_t most = s->opts.part_bytes ? s->opts.part_bytes : PART_BYTES;

	if (!s->open || s->open_bytes == 0)
		return 0;
	const bool old = s->opts.part_ns && clock_mono_ns() - s->open_ns > s->opts.part_ns;
	if (s->open_bytes < most && !old)
		return 0;
	if (fault_point(FAULT_REPLICA_SEED, e) < 0 || commit(s, false, NULL, NULL, e) < 0)
		return -1;
	s->tally.parts++;
	return 0;
}

/* ---- blocks ---- */

static int send_block(struct ship *s, uint32_t v, uint64_t block, const uint8_t *data, const uint8_t *hash,
		      struct err *e)
{
	static const uint8_t zero[BLOCK_HASH_SIZE];
	const uint64_t page_no = (uint64_t)v << PAGE_BLOCK_SHIFT | block, addr = block * STORE_BLOCK;

	if (select_volume(s, v, e) < 0)
		return -1;
	known_put(s->known, v, block, hash);
	s->open_bytes += STORE_BLOCK;
	s->tally.sent_bytes += STORE_BLOCK;
	if (memcmp(hash, zero, sizeof(zero)) == 0) {
		s->counts.zeros++;
		return outflow_zero(s->out, page_no, addr, e);
	}
	s->counts.blocks++;
	return outflow_page(s->out, page_no, addr, data, e);
}

/* Asks about the blocks [first, first + count) of one volume, in calls of a bounded size. */
static int ask(struct ship *s, uint32_t v, uint64_t first, uint64_t count, struct err *e)
{
	while (count > 0) {
		const struct ship_range r = { first, count < ASK_BLOCKS ? count : ASK_BLOCKS };
		if (s->opts.hashes(s->opts.ctx, known_volume(s->known, v), &r, 1, s->asked, e) < 0)
			return -1;
		known_fill(s->known, v, r.first, r.count, s->asked);
		first += r.count;
		count -= r.count;
	}
	return 0;
}

/* The group's blocks of one volume, from i on: those that follow each other are one range. Returns how many. */
static size_t ranges_of(const struct group *g, size_t i, struct ship_range *r, size_t *n)
{
	const uint32_t v = g->at[i].volume;
	size_t j = i;

	*n = 0;
	for (; j < g->n && g->at[j].volume == v; j++) {
		if (*n && g->at[j].block == r[*n - 1].first + r[*n - 1].count)
			r[*n - 1].count++;
		else
			r[(*n)++] = (struct ship_range){ g->at[j].block, 1 };
	}
	return j - i;
}

/* Everything in the group: asked about, and what differs is sent. */
static int settle_group(struct ship *s, struct err *e)
{
	struct group *g = &s->group;
	struct ship_range *r = mem_alloc_array(g->n, sizeof(*r));
	int rc = 0;

	for (size_t i = 0; i < g->n && rc == 0;) {
		size_t n_ranges;
		const uint32_t v = g->at[i].volume;
		const size_t n = ranges_of(g, i, r, &n_ranges);
		rc = s->opts.hashes(s->opts.ctx, known_volume(s->known, v), r, n_ranges, s->asked, e);
		for (size_t k = 0; k < n && rc == 0; k++) {
			const uint8_t *hash = g->hash + (i + k) * BLOCK_HASH_SIZE;
			const uint8_t *theirs = s->asked + k * BLOCK_HASH_SIZE;
			if (memcmp(hash, theirs, BLOCK_HASH_SIZE) == 0)
				known_fill(s->known, v, g->at[i + k].block, 1, theirs);
			else
				rc = send_block(s, v, g->at[i + k].block, g->data + (i + k) * STORE_BLOCK, hash, e);
		}
		i += n;
	}
	g->n = 0;
	free(r);
	return rc < 0 ? -1 : cut(s, e);
}

static int group_add(struct ship *s, uint32_t v, uint64_t block, const uint8_t *data, const uint8_t *hash, struct err *e)
{
	struct group *g = &s->group;

	if (!g->data) {
		g->data = mem_try(GROUP_BLOCKS, STORE_BLOCK, "blocks of disks on their way", e);
		g->hash = mem_alloc_array(GROUP_BLOCKS, BLOCK_HASH_SIZE);
		if (!g->data)
			return -1;
	}
	g->at[g->n].volume = v;
	g->at[g->n].block = block;
	if (data)
		memcpy(g->data + g->n * STORE_BLOCK, data, STORE_BLOCK);
	memcpy(g->hash + g->n * BLOCK_HASH_SIZE, hash, BLOCK_HASH_SIZE);
	return ++g->n == GROUP_BLOCKS ? settle_group(s, e) : 0;
}

/* Must this block wait because an earlier state of it is still in the group? Then that goes first. */
static int settle_if_waiting(struct ship *s, uint32_t v, uint64_t block, struct err *e)
{
	/* Captures give the blocks of a disk in rising order; only what is not above the last can be there twice. */
	const struct group *g = &s->group;

	if (g->n == 0 || g->at[g->n - 1].volume != v || block > g->at[g->n - 1].block)
		return g->n && g->at[g->n - 1].volume != v ? settle_group(s, e) : 0;
	return settle_group(s, e);
}

static int take_block(struct ship *s, uint32_t v, uint64_t block, const uint8_t *data, const uint8_t *hash,
		      struct err *e)
{
	uint8_t theirs[BLOCK_HASH_SIZE];

	if (known_volume(s->known, v)->kind == STORE_DISK && settle_if_waiting(s, v, block, e) < 0)
		return -1;
	switch (known_get(s->known, v, block, theirs)) {
	case KNOWN_HASH:
		if (memcmp(theirs, hash, BLOCK_HASH_SIZE) == 0)
			return 0;
		break;
	case KNOWN_NOT:
		return group_add(s, v, block, data, hash, e);
	case KNOWN_CHANGED:
		break;
	}
	if (send_block(s, v, block, data, hash, e) < 0)
		return -1;
	return cut(s, e);
}

/* ---- the sink ---- */

static int check_place(const struct ship *s, uint32_t v, uint64_t block, uint64_t count, struct err *e)
{
	if (!s->wanted || v >= known_volumes(s->known) || block >= known_blocks(s->known, v) ||
	    count > known_blocks(s->known, v) - block)
		return err_set(e, ERR_PROTOCOL, "the capture gave a block outside of its volumes");
	return 0;
}

static bool same_volumes(const struct known *k, const struct store_volume *v, size_t n)
{
	if (known_volumes(k) != n)
		return false;
	for (uint32_t i = 0; i < n; i++) {
		const struct store_volume *o = known_volume(k, i);
		if (o->kind != v[i].kind || o->size_bytes != v[i].size_bytes || strcmp(o->name, v[i].name) != 0)
			return false;
	}
	return true;
}

static int sink_volumes(void *ctx, const struct capture_volume *cv, size_t n, struct err *e)
{
	struct ship *s = ctx;
	struct store_volume v[STORE_MAX_VOLUMES];

	if (!s->wanted || s->open || n < 1 || n > STORE_MAX_VOLUMES)
		return err_set(e, ERR_REFUSED, "a VM of %zu memory blocks and disks cannot be replicated (at most %u)",
			       n, STORE_MAX_VOLUMES);
	for (size_t i = 0; i < n; i++) {
		v[i] = (struct store_volume){ .kind = cv[i].ram ? STORE_RAM : STORE_DISK,
					      .size_bytes = cv[i].size_bytes };
		snprintf(v[i].name, sizeof(v[i].name), "%.255s", cv[i].name);
	}
	if (same_volumes(s->known, v, n))
		return 0;
	s->sent_volumes = false;
	if (known_set_volumes(s->known, v, n, e) < 0)
		return -1;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t blocks;
		if (known_wants_fill(s->known, i, &blocks) && ask(s, i, 0, blocks, e) < 0)
			return err_wrap(e, "what the peer has of %s", v[i].name);
	}
	return 0;
}

static int sink_page(void *ctx, uint32_t v, uint64_t block, const uint8_t *data, struct err *e)
{
	struct ship *s = ctx;
	uint8_t hash[BLOCK_HASH_SIZE];

	if (check_place(s, v, block, 1, e) < 0)
		return -1;
	s->tally.offered_bytes += STORE_BLOCK;
	known_hash(s->known, data, hash);
	return take_block(s, v, block, data, hash, e);
}

/* A long stretch of zeros on a disk: asked for in large pieces, for it may well be zeros over there. */
static int long_zeros(struct ship *s, uint32_t v, uint64_t block, uint64_t n, struct err *e)
{
	static const uint8_t zero[BLOCK_HASH_SIZE];
	uint8_t theirs[BLOCK_HASH_SIZE];

	if (settle_group(s, e) < 0)
		return -1;
	while (n > 0) {
		const struct ship_range r = { block, n < ASK_BLOCKS ? n : ASK_BLOCKS };
		if (s->opts.hashes(s->opts.ctx, known_volume(s->known, v), &r, 1, s->asked, e) < 0)
			return -1;
		for (uint64_t i = 0; i < r.count; i++) {
			const bool changed = known_get(s->known, v, block + i, theirs) == KNOWN_CHANGED;
			if ((changed || memcmp(s->asked + i * BLOCK_HASH_SIZE, zero, sizeof(zero)) != 0) &&
			    (send_block(s, v, block + i, NULL, zero, e) < 0 || cut(s, e) < 0))
				return -1;
		}
		block += r.count;
		n -= r.count;
	}
	return 0;
}

static int sink_zero(void *ctx, uint32_t v, uint64_t block, uint64_t n, struct err *e)
{
	static const uint8_t zero[BLOCK_HASH_SIZE];
	struct ship *s = ctx;
	uint8_t theirs[BLOCK_HASH_SIZE];

	if (check_place(s, v, block, n, e) < 0)
		return -1;
	s->tally.offered_bytes += n * STORE_BLOCK;
	for (uint64_t i = 0; i < n; i++) {
		if (known_volume(s->known, v)->kind == STORE_DISK && n - i >= GROUP_BLOCKS &&
		    known_get(s->known, v, block + i, theirs) == KNOWN_NOT)
			return long_zeros(s, v, block + i, n - i, e);
		if (take_block(s, v, block + i, NULL, zero, e) < 0)
			return -1;
	}
	return 0;
}

static int sink_file(void *ctx, const char *name, const void *data, size_t len, struct err *e)
{
	struct ship *s = ctx;

	if (!s->wanted || !records_name_ok(name, strlen(name)) || len > STORE_MAX_FILE)
		return err_set(e, ERR_REFUSED, "file %.80s of %zu bytes cannot be part of a point", name, len);
	if (settle_group(s, e) < 0)
		return -1;
	if (known_file(s->known, name, data, len))
		return 0;
	if (ensure_open(s, e) < 0)
		return -1;
	s->counts.files++;
	records_put_file_head(&s->head, name, len);
	return put_head(s, e) < 0 ? -1 : outflow_literal(s->out, data, len, e);
}

/* ---- transactions ---- */

int ship_begin(struct ship *s, const char *id, struct err *e)
{
	struct outflow_stats os;

	assert(!s->wanted);
	if (!records_id_ok(id))
		return err_set(e, ERR_CONFIG, "not an id: %.70s", id);
	if (outflow_broken(s->out, e))
		return -1;
	snprintf(s->id, sizeof(s->id), "%s", id);
	s->wanted = true;
	s->tally = (struct ship_tally){ 0 };
	outflow_stats(s->out, &os);
	s->wire_before = os.wire_bytes;
	return 0;
}

bool ship_cancel(struct ship *s)
{
	if (s->open || s->group.n)
		return false;
	s->wanted = false;
	return true;
}

const struct capture_sink *ship_sink(struct ship *s)
{
	return &s->sink;
}

int ship_finish(struct ship *s, json_t *(*meta)(void *ctx, const struct ship_tally *t), void *ctx, uint64_t *seq,
		struct ship_tally *tally, struct err *e)
{
	struct outflow_stats os;
	json_t *m = NULL;

	assert(s->wanted);
	if (settle_group(s, e) < 0 || outflow_flush(s->out, e) < 0)
		return -1;
	outflow_stats(s->out, &os);
	s->tally.wire_bytes = os.wire_bytes - s->wire_before;
	if (meta)
		m = meta(ctx, &s->tally);
	const int rc = commit(s, meta != NULL, m, seq, e);
	json_decref(m);
	if (rc < 0)
		return -1;
	s->wanted = false;
	outflow_stats(s->out, &os);
	s->tally.wire_bytes = os.wire_bytes - s->wire_before;
	if (tally)
		*tally = s->tally;
	return 0;
}

/* ---- start and end ---- */

struct ship *ship_new(const struct ship_opts *opts, struct link **forward, size_t n_forward, struct link **backward,
		      size_t n_backward, struct err *e)
{
	struct ship *s = mem_alloc(sizeof(*s));
	const struct outflow_opts oo = { .pool = opts->pool,
					 .slots = opts->slots,
					 .rate_limit = opts->rate_limit,
					 .level = opts->level,
					 .on_error = opts->on_error,
					 .ctx = opts->ctx };

	s->opts = *opts;
	s->sink = (struct capture_sink){
		.volumes = sink_volumes, .page = sink_page, .zero = sink_zero, .file = sink_file, .ctx = s
	};
	s->known = known_new(opts->secret, opts->peer, opts->n_peer);
	s->opts.peer = NULL;
	s->asked = mem_alloc_array(ASK_BLOCKS, BLOCK_HASH_SIZE);
	s->out = outflow_new(&oo, forward, n_forward, backward, n_backward, e);
	if (!s->out) {
		ship_free(s);
		return NULL;
	}
	return s;
}

void ship_free(struct ship *s)
{
	if (!s)
		return;
	outflow_free(s->out);
	known_free(s->known);
	free(s->group.data);
	free(s->group.hash);
	free(s->asked);
	buf_fini(&s->head);
	free(s);
}

void ship_abort(struct ship *s)
{
	outflow_abort(s->out);
}

bool ship_broken(struct ship *s, struct err *e)
{
	return outflow_broken(s->out, e);
}

void ship_stats(struct ship *s, struct outflow_stats *out)
{
	outflow_stats(s->out, out);
}

void ship_set_rate_limit(struct ship *s, uint64_t bytes_per_s)
{
	outflow_set_rate_limit(s->out, bytes_per_s);
}

void ship_set_floor(struct ship *s, int level)
{
	outflow_set_floor(s->out, level);
}
