/* FORMAT.md, "Journal". Records are put together in one large buffer and written in order; a new segment is synced, folder and
 * all, before it is used. */
#include "base/cursor.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/xxh3.h"
#include "snapshot/store_impl.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BUFFER ((size_t)4 << 20)
#define RUN_MAX (STORE_REC_HEAD + (size_t)STORE_RUN * (STORE_BLOCK + 8))

static void put32(uint8_t *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
	v = __builtin_bswap64(v);
	memcpy(p, &v, sizeof(v));
}

uint64_t store_rec_seed(uint64_t segment_salt, uint64_t offset)
{
	return segment_salt + offset;
}

uint64_t store_rec_chain(uint64_t chain, uint64_t head_sum)
{
	uint8_t two[16];

	put64(two, chain);
	put64(two + 8, head_sum);
	return XXH3_64bits_withSeed(two, sizeof(two), 0);
}

uint64_t store_rec_payload_sum(uint64_t seed, const void *p, size_t n)
{
	return XXH3_64bits_withSeed(p, n, seed);
}

void store_rec_encode(struct store_rec *r, uint64_t seed, uint8_t out[STORE_REC_HEAD])
{
	put32(out, r->type);
	put32(out + 4, r->length);
	put64(out + 8, r->txn);
	put64(out + 16, r->a);
	put64(out + 24, r->b);
	put32(out + 32, r->volume);
	put32(out + 36, 0);
	put64(out + 40, r->payload_sum);
	r->head_sum = XXH3_64bits_withSeed(out, 48, seed);
	put64(out + 48, r->head_sum);
}

bool store_rec_decode(struct store_rec *r, uint64_t seed, const uint8_t in[STORE_REC_HEAD])
{
	struct cursor c = cursor_over(in, STORE_REC_HEAD);

	r->type = cursor_be32(&c);
	r->length = cursor_be32(&c);
	r->txn = cursor_be64(&c);
	r->a = cursor_be64(&c);
	r->b = cursor_be64(&c);
	r->volume = cursor_be32(&c);
	cursor_be32(&c);
	r->payload_sum = cursor_be64(&c);
	r->head_sum = cursor_be64(&c);
	return XXH3_64bits_withSeed(in, 48, seed) == r->head_sum;
}

void store_journal_init(struct store_journal *j, const char *dir, uint64_t store_id, uint64_t segment_bytes,
			pthread_mutex_t *lock)
{
	*j = (struct store_journal){ .dir = mem_printf("%s/journal", dir),
				     .store_id = store_id,
				     .segment_bytes = segment_bytes ? segment_bytes : (uint64_t)64 << 20,
				     .lock = lock,
				     .next_number = 1,
				     .buf = mem_alloc(BUFFER) };
}

static void segment_free(struct store_segment *g)
{
	store_blob_unref(g->blob);
	free(g);
}

void store_journal_fini(struct store_journal *j)
{
	for (size_t i = 0; i < j->n_segs; i++)
		segment_free(j->segs[i]);
	free(j->segs);
	free(j->buf);
	free(j->dir);
	*j = (struct store_journal){ 0 };
}

struct store_segment *store_journal_add(struct store_journal *j, struct store_blob *blob, uint64_t number,
					uint64_t salt, uint64_t len)
{
	struct store_segment *g = mem_alloc(sizeof(*g));

	*g = (struct store_segment){ .number = number, .salt = salt, .len = len, .blob = blob };
	pthread_mutex_lock(j->lock);
	j->segs = mem_realloc_array(j->segs, j->n_segs + 1, sizeof(struct store_segment *));
	j->segs[j->n_segs++] = g;
	pthread_mutex_unlock(j->lock);
	j->next_number = number + 1;
	return g;
}

void store_seg_encode(uint64_t store_id, uint64_t number, uint64_t salt, uint8_t out[STORE_SEG_HEAD])
{
	memset(out, 0, STORE_SEG_HEAD);
	memcpy(out, "VMFJRNL", 8);
	put32(out + 8, STORE_PART_FORMAT);
	put32(out + 12, STORE_SEG_HEAD);
	put64(out + 16, store_id);
	put64(out + 24, number);
	put64(out + 32, salt);
	put64(out + 56, XXH3_64bits_withSeed(out, 56, 0));
}

static int sync_segment(struct store_journal *j, const struct store_segment *g, struct err *e)
{
	if (store_blob_sync(g->blob, true, e) == 0)
		return 0;
	j->sync_failed = true;
	return -1;
}

static int new_segment(struct store_journal *j, struct err *e)
{
	uint8_t head[STORE_SEG_HEAD];
	uint64_t salt = 0;
	const uint64_t number = j->next_number;

	if (getrandom(&salt, sizeof(salt), 0) != (ssize_t)sizeof(salt))
		return err_sys(e, "random numbers");
	if (j->cur && sync_segment(j, j->cur, e) < 0)
		return -1;
	MEM_AUTO char *path = store_segment_path(j->dir, number);
	struct store_blob *b = store_blob_open(path, O_RDWR | O_CREAT | O_TRUNC, e);
	if (!b)
		return -1;
	store_seg_encode(j->store_id, number, salt, head);
	if (store_blob_write(b, 0, head, sizeof(head), e) < 0)
		goto fail;
	if (file_sync_folder_of(path, e) < 0) {
		j->sync_failed = !err_passes(e);
		goto fail;
	}
	j->cur = store_journal_add(j, b, number, salt, sizeof(head));
	return 0;
fail:
	sys.unlink(path);
	store_blob_unref(b);
	return -1;
}

int store_journal_flush(struct store_journal *j, struct err *e)
{
	assert(!j->open || j->rec.type == STORE_REC_ZEROS || j->used == 0);
	if (j->used == 0)
		return 0;
	if (store_blob_write(j->cur->blob, j->cur->len, j->buf, j->used, e) < 0)
		return -1;
	j->cur->len += j->used;
	j->used = 0;
	return 0;
}

int store_journal_sync(struct store_journal *j, struct err *e)
{
	return store_journal_flush(j, e) < 0 ? -1 : sync_segment(j, j->cur, e);
}

/* Room for a record of n bytes, in a segment and (unless it is a large one) in the buffer. */
static int make_room(struct store_journal *j, size_t n, struct err *e)
{
	if (!j->cur || (j->cur->len + j->used > STORE_SEG_HEAD && j->cur->len + j->used + n > j->segment_bytes)) {
		if (store_journal_flush(j, e) < 0 || new_segment(j, e) < 0)
			return -1;
	}
	return BUFFER - j->used < n ? store_journal_flush(j, e) : 0;
}

static void account(struct store_journal *j, const struct store_rec *r)
{
	j->chain = store_rec_chain(j->chain, r->head_sum);
	j->records++;
	j->bytes += STORE_REC_HEAD + r->length;
}

static void put_head(struct store_journal *j, struct store_rec *r, size_t at)
{
	store_rec_encode(r, store_rec_seed(j->cur->salt, j->cur->len + at), j->buf + at);
	account(j, r);
}

/* The record of blocks or zeros is whole. */
static int close_run(struct store_journal *j, struct store_layer *into, struct err *e)
{
	struct store_rec *r = &j->rec;
	struct store_extent x = { .volume = r->volume, .block = r->a, .count = r->b };

	if (!j->open)
		return 0;
	j->open = false;
	if (r->type == STORE_REC_BLOCKS) {
		const size_t sums = j->rec_at + STORE_REC_HEAD + (size_t)r->b * STORE_BLOCK;
		for (size_t i = 0; i < r->b; i++)
			put64(j->buf + sums + 8 * i, j->sums[i]);
		r->length = (uint32_t)(r->b * (STORE_BLOCK + 8));
		const uint64_t seed = store_rec_seed(j->cur->salt, j->cur->len + j->rec_at);
		r->payload_sum = store_rec_payload_sum(seed, j->buf + sums, (size_t)r->b * 8);
		x.blob = j->cur->blob;
		x.data_at = j->cur->len + j->rec_at + STORE_REC_HEAD;
		x.sums_at = j->cur->len + sums;
		j->used = sums + (size_t)r->b * 8;
		put_head(j, r, j->rec_at);
		store_layer_hold(into, x.blob);
	} else {
		if (make_room(j, STORE_REC_HEAD, e) < 0)
			return -1;
		const uint64_t seed = store_rec_seed(j->cur->salt, j->cur->len + j->used);
		r->payload_sum = store_rec_payload_sum(seed, "", 0);
		put_head(j, r, j->used);
		j->used += STORE_REC_HEAD;
	}
	store_extents_add(&into->x, &x);
	return 0;
}

int store_journal_end_run(struct store_journal *j, struct store_layer *into, struct err *e)
{
	return close_run(j, into, e);
}

static bool goes_on(const struct store_journal *j, uint32_t type, uint32_t volume, uint64_t block)
{
	return j->open && j->rec.type == type && j->rec.volume == volume && j->rec.a + j->rec.b == block;
}

int store_journal_block(struct store_journal *j, uint64_t salt, uint64_t txn, uint32_t volume, uint64_t block,
			const uint8_t *data, struct store_layer *into, struct err *e)
{
	if (!goes_on(j, STORE_REC_BLOCKS, volume, block) || j->rec.b == STORE_RUN) {
		if (close_run(j, into, e) < 0 || make_room(j, RUN_MAX, e) < 0)
			return -1;
		j->open = true;
		j->rec_at = j->used;
		j->rec = (struct store_rec){ .type = STORE_REC_BLOCKS, .txn = txn, .volume = volume, .a = block };
	}
	uint8_t *to = j->buf + j->rec_at + STORE_REC_HEAD + (size_t)j->rec.b * STORE_BLOCK;
	memcpy(to, data, STORE_BLOCK);
	j->sums[j->rec.b++] = store_sum_block(salt, volume, block, to);
	return 0;
}

int store_journal_zeros(struct store_journal *j, uint64_t txn, uint32_t volume, uint64_t block, uint64_t n,
			struct store_layer *into, struct err *e)
{
	if (!goes_on(j, STORE_REC_ZEROS, volume, block)) {
		if (close_run(j, into, e) < 0)
			return -1;
		j->open = true;
		j->rec = (struct store_rec){ .type = STORE_REC_ZEROS, .txn = txn, .volume = volume, .a = block };
	}
	j->rec.b += n;
	return 0;
}

/* Large payloads go past the buffer. */
static int put_payload(struct store_journal *j, const void *p, size_t n, struct err *e)
{
	if (n <= BUFFER - j->used) {
		if (n > 0)
			memcpy(j->buf + j->used, p, n);
		j->used += n;
		return 0;
	}
	if (store_journal_flush(j, e) < 0 || store_blob_write(j->cur->blob, j->cur->len, p, n, e) < 0)
		return -1;
	j->cur->len += n;
	return 0;
}

static uint64_t sum_of_two(uint64_t seed, const void *p1, size_t n1, const void *p2, size_t n2)
{
	XXH3_state_t *st = XXH3_createState();

	assert(st);
	XXH3_64bits_reset_withSeed(st, seed);
	if (n1 > 0)
		XXH3_64bits_update(st, p1, n1);
	if (n2 > 0)
		XXH3_64bits_update(st, p2, n2);
	const uint64_t sum = XXH3_64bits_digest(st);
	XXH3_freeState(st);
	return sum;
}

int store_journal_record(struct store_journal *j, struct store_rec r, const void *p1, size_t n1, const void *p2,
			 size_t n2, struct store_layer *into, struct store_blob **blob, uint64_t *at, struct err *e)
{
	assert(n1 + n2 <= UINT32_MAX);
	if (close_run(j, into, e) < 0 || make_room(j, STORE_REC_HEAD + n1 + n2, e) < 0)
		return -1;
	const uint64_t seed = store_rec_seed(j->cur->salt, j->cur->len + j->used);
	r.payload_sum = sum_of_two(seed, p1, n1, p2, n2);
	r.length = (uint32_t)(n1 + n2);
	if (blob)
		*blob = j->cur->blob;
	if (at)
		*at = j->cur->len + j->used + STORE_REC_HEAD + n1;
	put_head(j, &r, j->used);
	j->used += STORE_REC_HEAD;
	return put_payload(j, p1, n1, e) < 0 || put_payload(j, p2, n2, e) < 0 ? -1 : 0;
}

int store_journal_begin(struct store_journal *j, uint64_t txn, enum store_txn_kind kind, struct store_pos *start,
			struct err *e)
{
	assert(j->used == 0 && !j->open);
	j->chain = 0;
	j->records = 0;
	j->bytes = 0;
	if (make_room(j, RUN_MAX, e) < 0)
		return -1;
	*start = store_journal_pos(j);
	const struct store_rec r = { .type = STORE_REC_BEGIN, .txn = txn, .a = kind };
	return store_journal_record(j, r, NULL, 0, NULL, 0, NULL, NULL, NULL, e);
}

struct store_pos store_journal_pos(const struct store_journal *j)
{
	return (struct store_pos){ .segment = j->cur->number, .offset = j->cur->len + j->used };
}

static struct store_segment *last_segment(struct store_journal *j)
{
	pthread_mutex_lock(j->lock);
	struct store_segment *g = j->n_segs > 0 ? j->segs[j->n_segs - 1] : NULL;
	pthread_mutex_unlock(j->lock);
	return g;
}

int store_journal_undo(struct store_journal *j, struct store_pos start, struct err *e)
{
	struct store_segment *g;

	j->open = false;
	j->used = 0;
	while ((g = last_segment(j)) != NULL && g->number > start.segment) {
		if (sys.unlink(g->blob->path) < 0 && errno != ENOENT)
			return err_sys(e, "remove %s", g->blob->path);
		pthread_mutex_lock(j->lock);
		j->n_segs--;
		pthread_mutex_unlock(j->lock);
		j->next_number = g->number;
		segment_free(g);
	}
	assert(g && g->number == start.segment);
	j->cur = g;
	if (store_blob_truncate(g->blob, start.offset, e) < 0)
		return -1;
	g->len = start.offset;
	return 0;
}

int store_journal_drop(struct store_journal *j, uint64_t before, struct err *e)
{
	for (;;) {
		struct store_segment *g = NULL;
		pthread_mutex_lock(j->lock);
		if (j->n_segs > 1 && j->segs[0]->number < before)
			g = j->segs[0];
		pthread_mutex_unlock(j->lock);
		if (!g)
			return 0;
		if (sys.unlink(g->blob->path) < 0 && errno != ENOENT)
			return err_sys(e, "remove %s", g->blob->path);
		pthread_mutex_lock(j->lock);
		j->n_segs--;
		memmove(j->segs, j->segs + 1, j->n_segs * sizeof(struct store_segment *));
		pthread_mutex_unlock(j->lock);
		segment_free(g);
	}
}

uint64_t store_journal_bytes(struct store_journal *j)
{
	uint64_t n = 0;

	pthread_mutex_lock(j->lock);
	for (size_t i = 0; i < j->n_segs; i++)
		n += j->segs[i]->len;
	pthread_mutex_unlock(j->lock);
	return n;
}

char *store_segment_path(const char *journal_dir, uint64_t number)
{
	return mem_printf("%s/%08llu.wal", journal_dir, (unsigned long long)number);
}
