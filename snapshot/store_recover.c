/* Reading the journal: FORMAT.md, "Recovery". A record counts if it verifies; a transaction if its COMMIT does and says what was
 * read. */
#include "base/cursor.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/xxh3.h"
#include "snapshot/store_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PAYLOAD_MAX (STORE_MAX_FILE + 512u)

/* The transaction that is being read. */
struct reading {
	struct store *s;
	struct store_pending *p; /* NULL: between transactions */
	uint64_t chain, records, bytes, file_bytes;
	bool touched;
};

/* One record at a time. */
struct scan {
	struct store_segment *g;
	uint64_t at, size;
	struct store_rec rec;
	uint8_t *payload;
	size_t cap;
};

static void reading_drop(struct reading *r)
{
	store_pending_free(r->p);
	r->p = NULL;
}

/* 1: a record; 0: the segment ends here, or what comes does not verify; -1: cannot be read. */
static int scan_next(struct scan *c, struct err *e)
{
	uint8_t head[STORE_REC_HEAD];

	if (c->size - c->at < STORE_REC_HEAD)
		return 0;
	if (store_blob_read(c->g->blob, c->at, head, sizeof(head), e) < 0)
		return -1;
	const uint64_t seed = store_rec_seed(c->g->salt, c->at);
	if (!store_rec_decode(&c->rec, seed, head) || c->rec.length > PAYLOAD_MAX ||
	    c->rec.length > c->size - c->at - STORE_REC_HEAD)
		return 0;
	if (c->rec.length > c->cap) {
		c->cap = c->rec.length;
		c->payload = mem_realloc_array(c->payload, c->cap, 1);
	}
	if (store_blob_read(c->g->blob, c->at + STORE_REC_HEAD, c->payload, c->rec.length, e) < 0)
		return -1;
	const uint8_t *p = c->payload;
	size_t n = c->rec.length;
	if (c->rec.type == STORE_REC_BLOCKS) {
		if (c->rec.b == 0 || c->rec.b > STORE_RUN || n != c->rec.b * (STORE_BLOCK + 8))
			return 0;
		p += c->rec.b * STORE_BLOCK;
		n = (size_t)c->rec.b * 8;
	}
	return store_rec_payload_sum(seed, n ? p : (const uint8_t *)"", n) == c->rec.payload_sum;
}

/* Each take_ returns false where the record says what cannot be: it counts as one that does not verify. */
static bool take_begin(struct reading *r, const struct scan *c)
{
	struct store *s = r->s;

	if (r->p || c->rec.txn != s->committed + 1 || c->rec.a > STORE_TXN_POINT)
		return false;
	r->p = mem_alloc(sizeof(*r->p));
	*r->p = (struct store_pending){ .seq = c->rec.txn,
					.kind = (enum store_txn_kind)c->rec.a,
					.layer = store_layer_new(c->rec.txn),
					.volumes = store_volset_ref(s->volumes),
					.files = store_fileset_copy(s->files),
					.next_volume = s->next_volume };
	r->chain = r->records = r->bytes = r->file_bytes = 0;
	r->touched = false;
	return true;
}

static bool take_volumes(struct reading *r, const struct scan *c)
{
	struct cursor in = cursor_over(c->payload, c->rec.length);
	struct store_volset *now = store_volset_new();
	const uint32_t next = cursor_be32(&in), n = cursor_be32(&in);
	bool good = !r->touched && n <= STORE_MAX_VOLUMES && next >= r->p->next_volume;

	for (uint32_t i = 0; good && i < n; i++) {
		struct store_volset_item *it = &now->v[i];
		it->id = cursor_be32(&in);
		const uint32_t kind = cursor_be32(&in);
		it->v.size_bytes = cursor_be64(&in);
		const size_t len = cursor_u8(&in);
		const uint8_t *name = cursor_bytes(&in, len);
		good = name && len > 0 && memchr(name, 0, len) == NULL && (kind == STORE_RAM || kind == STORE_DISK) &&
		       it->id < next && it->id > 0 && it->v.size_bytes <= STORE_MAX_BYTES &&
		       !store_volset_by_id(now, it->id);
		if (!good)
			break;
		it->v.kind = (enum store_volume_kind)kind;
		memcpy(it->v.name, name, len);
		now->n++;
	}
	if (!good || !cursor_ok(&in) || cursor_left(&in) > 0) {
		store_volset_unref(now);
		return false;
	}
	store_txn_shrunk(r->p->layer, r->p->volumes, now);
	store_volset_unref(r->p->volumes);
	r->p->volumes = now;
	r->p->next_volume = next;
	return true;
}

static bool take_blocks(struct reading *r, const struct scan *c)
{
	const struct store_volset_item *it = store_volset_by_id(r->p->volumes, c->rec.volume);
	const uint64_t blocks = it ? store_blocks_of(it->v.size_bytes) : 0;
	struct store_extent x = { .volume = c->rec.volume, .block = c->rec.a, .count = c->rec.b };

	if (x.count == 0 || x.block > blocks || x.count > blocks - x.block)
		return false;
	if (c->rec.type == STORE_REC_BLOCKS) {
		uint64_t sums[STORE_RUN];
		struct err ignored = ERR_INIT;
		x.blob = c->g->blob;
		x.data_at = c->at + STORE_REC_HEAD;
		x.sums_at = x.data_at + x.count * STORE_BLOCK;
		struct cursor in = cursor_over(c->payload + x.count * STORE_BLOCK, (size_t)x.count * 8);
		for (size_t i = 0; i < x.count; i++) {
			sums[i] = cursor_be64(&in);
			if (sums[i] == 0)
				return false;
		}
		if (store_blocks_check(r->s->salt, x.volume, x.block, (size_t)x.count, c->payload, sums, "", &ignored) <
		    0)
			return false;
		store_layer_hold(r->p->layer, x.blob);
	} else if (c->rec.length != 0) {
		return false;
	}
	store_extents_add(&r->p->layer->x, &x);
	return true;
}

static bool take_file(struct reading *r, const struct scan *c)
{
	struct cursor in = cursor_over(c->payload, c->rec.length);
	const size_t name_len = cursor_u8(&in);
	const uint8_t *name = cursor_bytes(&in, name_len);
	const size_t len = cursor_left(&in);

	if (!name || name_len == 0 || memchr(name, 0, name_len) || len > STORE_MAX_FILE)
		return false;
	const uint8_t *data = cursor_bytes(&in, len);
	struct store_file f = { .name = mem_printf("%.*s", (int)name_len, (const char *)name),
				.seq = r->p->seq,
				.offset = r->file_bytes,
				.len = len,
				.sum = store_sum_file(r->s->salt, len ? data : (const uint8_t *)"", len),
				.blob = store_blob_ref(c->g->blob),
				.blob_at = c->at + STORE_REC_HEAD + 1 + name_len };
	store_fileset_put(r->p->files, f);
	r->file_bytes += len;
	return r->p->files->n <= STORE_MAX_FILES;
}

static bool take_commit(struct reading *r, const struct scan *c)
{
	struct cursor in = cursor_over(c->payload, c->rec.length);
	struct store_pending *p = r->p;
	const uint64_t when = cursor_be64(&in), records = cursor_be64(&in), bytes = cursor_be64(&in),
		       chain = cursor_be64(&in);
	const size_t len = cursor_left(&in);
	const uint8_t *text = cursor_bytes(&in, len);

	/* One that was begun as a point may have become a part (store_txn_make_part): the end says what it is. */
	if (!cursor_ok(&in) || c->rec.a > p->kind || records != r->records || bytes != r->bytes || chain != r->chain ||
	    len > STORE_MAX_META)
		return false;
	p->meta = json_loadb((const char *)text, len, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(p->meta))
		return false;
	p->kind = (enum store_txn_kind)c->rec.a;
	p->committed_ns = (int64_t)when;
	p->bytes = bytes + STORE_REC_HEAD + c->rec.length;
	p->end = (struct store_pos){ .segment = c->g->number, .offset = c->at + STORE_REC_HEAD + c->rec.length };
	store_extents_resolve(&p->layer->x);
	return true;
}

/* 1: taken, 0: does not count, -1: of a newer vmferry. */
static int take(struct reading *r, const struct scan *c, bool *committed, struct err *e)
{
	bool good = true;

	*committed = false;
	if (c->rec.type & STORE_REC_OPTIONAL) {
		good = r->p && c->rec.txn == r->p->seq;
	} else if (c->rec.type == STORE_REC_BEGIN) {
		good = take_begin(r, c);
	} else if (!r->p || c->rec.txn != r->p->seq) {
		good = false;
	} else if (c->rec.type == STORE_REC_VOLUMES) {
		good = take_volumes(r, c);
	} else if (c->rec.type == STORE_REC_BLOCKS || c->rec.type == STORE_REC_ZEROS) {
		good = take_blocks(r, c);
	} else if (c->rec.type == STORE_REC_FILE) {
		good = take_file(r, c);
	} else if (c->rec.type == STORE_REC_COMMIT) {
		good = take_commit(r, c);
		*committed = good;
	} else {
		err_set(e, ERR_REFUSED, "%s: at %" PRIu64 ": a record of type %u is not known", c->g->blob->path, c->at,
			c->rec.type);
		return err_remedy(e, "use the vmferry that wrote it");
	}
	if (!good)
		return 0;
	if (c->rec.type != STORE_REC_BEGIN)
		r->touched = true;
	r->chain = store_rec_chain(r->chain, c->rec.head_sum);
	r->records++;
	r->bytes += STORE_REC_HEAD + c->rec.length;
	return 1;
}

static int by_number(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static int list_segments(const struct store *s, uint64_t **numbers, size_t *n, struct err *e)
{
	DIR *d = opendir(s->journal.dir);

	if (!d)
		return err_sys(e, "open %s", s->journal.dir);
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
		uint64_t number = 0;
		MEM_AUTO char *path = mem_printf("%s/%s", s->journal.dir, entry->d_name);
		if (entry->d_name[0] == '.' || sscanf(entry->d_name, "%" SCNu64 ".wal", &number) != 1)
			continue;
		MEM_AUTO char *again = store_segment_path(s->journal.dir, number);
		if (strcmp(path, again) != 0)
			continue;
		*numbers = mem_realloc_array(*numbers, *n + 1, sizeof(**numbers));
		(*numbers)[(*n)++] = number;
	}
	closedir(d);
	if (*n)
		qsort(*numbers, *n, sizeof(**numbers), by_number);
	return 0;
}

/* 1: added to the journal, 0: is no segment of ours, -1 */
static int open_segment(struct store *s, uint64_t number, struct err *e)
{
	MEM_AUTO char *path = store_segment_path(s->journal.dir, number);
	uint8_t head[STORE_SEG_HEAD], want[STORE_SEG_HEAD];
	struct stat st;
	struct store_blob *b = store_blob_open(path, O_RDWR, e);

	if (!b)
		return -1;
	if (fstat(b->fd, &st) < 0 || store_blob_read_sparse(b, 0, head, sizeof(head), e) < 0) {
		store_blob_unref(b);
		return -1;
	}
	struct cursor c = cursor_over(head + 8, 4);
	const uint32_t format = cursor_be32(&c);
	c = cursor_over(head + 32, 8);
	const uint64_t salt = cursor_be64(&c);
	store_seg_encode(s->id, number, salt, want);
	if (memcmp(head, want, sizeof(head)) != 0) {
		uint64_t sum;
		memcpy(&sum, head + 56, sizeof(sum));
		const bool whole = __builtin_bswap64(sum) == XXH3_64bits(head, 56) && memcmp(head, want, 8) == 0;
		store_blob_unref(b);
		if (whole && format != STORE_PART_FORMAT)
			return err_set(e, ERR_REFUSED, "%s: format %u of another vmferry", path, format);
		return 0;
	}
	store_journal_add(&s->journal, b, number, salt, (uint64_t)st.st_size);
	return 1;
}

/* Reads the segment from `at`. *end moves behind every COMMIT. 1: to its very end, 0: something in it does not count, -1. */
static int read_segment(struct reading *r, struct store_segment *g, uint64_t at, struct store_pos *end, struct err *e)
{
	struct scan c = { .g = g, .at = at, .size = g->len };
	int rc = 0;

	while ((rc = scan_next(&c, e)) == 1) {
		bool committed = false;
		rc = take(r, &c, &committed, e);
		if (rc <= 0)
			break;
		c.at += STORE_REC_HEAD + c.rec.length;
		if (committed) {
			*end = r->p->end;
			store_publish(r->s, r->p);
			r->p = NULL;
		}
	}
	free(c.payload);
	return rc < 0 ? -1 : c.at == c.size;
}

/* ---- what is cut off ---- */

#define LOOK_BYTES ((size_t)1 << 20)

/* Is there a COMMIT at this place? Where a record does not verify nobody knows how long it is: any byte may begin the next. */
static int commit_at(const struct store_blob *b, uint64_t salt, uint64_t at, uint64_t size, const uint8_t *head,
		     struct err *e)
{
	const uint64_t seed = store_rec_seed(salt, at);
	struct store_rec rec;

	if (!store_rec_decode(&rec, seed, head) || rec.length > STORE_MAX_META + 32 ||
	    rec.length > size - at - STORE_REC_HEAD)
		return 0;
	MEM_AUTO uint8_t *payload = mem_alloc_array(rec.length ? rec.length : 1, 1);
	if (store_blob_read(b, at + STORE_REC_HEAD, payload, rec.length, e) < 0)
		return -1;
	return store_rec_payload_sum(seed, payload, rec.length) == rec.payload_sum;
}

/* 1: a COMMIT that verifies is in the segment behind `at`. */
static int has_commit(const struct store_blob *b, uint64_t at, struct err *e)
{
	uint8_t head[STORE_SEG_HEAD];
	struct stat st;

	if (fstat(b->fd, &st) < 0)
		return err_sys(e, "%s", b->path);
	const uint64_t size = (uint64_t)st.st_size;
	if (size < STORE_SEG_HEAD + STORE_REC_HEAD || at > size - STORE_REC_HEAD)
		return 0;
	if (store_blob_read(b, 0, head, sizeof(head), e) < 0)
		return -1;
	struct cursor c = cursor_over(head + 32, 8);
	const uint64_t salt = cursor_be64(&c);
	MEM_AUTO uint8_t *buf = mem_alloc_array(LOOK_BYTES, 1);
	int rc = 0;

	while (rc == 0 && at + STORE_REC_HEAD <= size) {
		const size_t n = size - at < LOOK_BYTES ? (size_t)(size - at) : LOOK_BYTES,
			     places = n - STORE_REC_HEAD + 1;
		if (store_blob_read(b, at, buf, n, e) < 0)
			return -1;
		for (size_t i = 0; rc == 0 && i < places; i++)
			if (buf[i + 3] == STORE_REC_COMMIT && !buf[i] && !buf[i + 1] && !buf[i + 2])
				rc = commit_at(b, salt, at + i, size, buf + i, e);
		at += places;
	}
	return rc;
}

/* Looks for points that are lost by what cut() takes away: only damage makes such, or a crash while one was committed that nobody was told of. */
static int look_behind(struct store *s, struct store_pos end, const uint64_t *numbers, size_t n, struct err *e)
{
	for (size_t i = 0; i < n && !s->damaged; i++) {
		if (numbers[i] < end.segment)
			continue;
		MEM_AUTO char *path = store_segment_path(s->journal.dir, numbers[i]);
		struct store_blob *b = store_blob_open(path, O_RDONLY, e);
		const int rc = b ? has_commit(b, numbers[i] == end.segment ? end.offset : STORE_SEG_HEAD, e) : -1;
		store_blob_unref(b);
		if (rc < 0)
			return -1;
		s->damaged = rc == 1;
	}
	return 0;
}

static int drop_segment(const struct store *s, const char *path, struct err *e)
{
	MEM_AUTO char *aside = mem_printf("%s.bad", path);

	if (s->damaged)
		return sys.rename(path, aside) < 0 && errno != ENOENT ? err_sys(e, "set aside %s", path) : 0;
	return sys.unlink(path) < 0 && errno != ENOENT ? err_sys(e, "remove %s", path) : 0;
}

/* The one that is cut goes on being used: a copy is set aside, before. */
static int copy_aside(const struct store_segment *g, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s.bad", g->blob->path);
	MEM_AUTO uint8_t *buf = mem_alloc_array(LOOK_BYTES, 1);
	struct store_blob *b = store_blob_open(path, O_RDWR | O_CREAT | O_TRUNC, e);
	int rc = b ? 0 : -1;

	for (uint64_t at = 0; rc == 0 && at < g->len;) {
		const size_t n = g->len - at < LOOK_BYTES ? (size_t)(g->len - at) : LOOK_BYTES;
		rc = store_blob_read(g->blob, at, buf, n, e) < 0 ? -1 : store_blob_write(b, at, buf, n, e);
		at += n;
	}
	if (rc == 0)
		rc = store_blob_sync(b, false, e) < 0 ? -1 : file_sync_folder_of(path, e);
	store_blob_unref(b);
	return rc;
}

/* What is after the last COMMIT must not be read again, nor be continued by what comes. */
static int cut(struct store *s, struct store_pos end, const uint64_t *numbers, size_t n, struct err *e)
{
	struct store_journal *j = &s->journal;
	const bool whole = j->n_segs > 0 && j->segs[0]->number == s->redo.segment && j->segs[0]->len >= s->redo.offset;

	/* Not even the place where reading begins is there: what comes begins anew. */
	if (!whole) {
		if (s->redo.offset > STORE_SEG_HEAD)
			s->redo = (struct store_pos){ .segment = s->redo.segment + 1, .offset = STORE_SEG_HEAD };
		end = (struct store_pos){ .segment = s->redo.segment - 1 };
	}
	for (size_t i = n; i > 0 && numbers[i - 1] > end.segment; i--) {
		MEM_AUTO char *path = store_segment_path(j->dir, numbers[i - 1]);
		s->dropped_bytes += STORE_SEG_HEAD;
		if (drop_segment(s, path, e) < 0)
			return -1;
	}
	while (j->n_segs > 0 && j->segs[j->n_segs - 1]->number > end.segment) {
		struct store_segment *g = j->segs[--j->n_segs];
		s->dropped_bytes += g->len - STORE_SEG_HEAD;
		store_blob_unref(g->blob);
		free(g);
	}
	while (!whole && j->n_segs > 0) {
		struct store_segment *g = j->segs[--j->n_segs];
		if (drop_segment(s, g->blob->path, e) < 0)
			return -1;
		store_blob_unref(g->blob);
		free(g);
	}
	j->next_number = end.segment + 1;
	if (j->n_segs == 0)
		return 0;
	struct store_segment *g = j->segs[j->n_segs - 1];
	if (g->number != end.segment || g->len <= end.offset)
		return 0;
	if (s->damaged && copy_aside(g, e) < 0)
		return -1;
	s->dropped_bytes += g->len - end.offset;
	g->len = end.offset;
	return store_blob_truncate(g->blob, end.offset, e) < 0 ? -1 : store_blob_sync(g->blob, false, e);
}

int store_recover(struct store *s, struct err *e)
{
	MEM_AUTO uint64_t *numbers = NULL;
	size_t n = 0;
	struct reading r = { .s = s };
	struct store_pos end = s->redo;
	int rc = list_segments(s, &numbers, &n, e);
	size_t i = 0;

	/* Those before are in the heads: a crash came before they were removed. */
	for (; rc == 0 && i < n && numbers[i] < s->redo.segment; i++) {
		MEM_AUTO char *path = store_segment_path(s->journal.dir, numbers[i]);
		if (sys.unlink(path) < 0)
			rc = err_sys(e, "remove %s", path);
	}
	uint64_t expected = s->redo.segment;
	for (; rc == 0 && i < n && numbers[i] == expected; i++, expected++) {
		rc = open_segment(s, numbers[i], e);
		if (rc == 0)
			break;
		struct store_segment *g = rc == 1 ? s->journal.segs[s->journal.n_segs - 1] : NULL;
		const uint64_t at = g && g->number == s->redo.segment ? s->redo.offset : STORE_SEG_HEAD;
		rc = g && at <= g->len ? read_segment(&r, g, at, &end, e) : rc < 0 ? -1 : 0;
		if (rc <= 0)
			break;
		rc = 0;
	}
	reading_drop(&r);
	if (rc >= 0)
		rc = look_behind(s, end, numbers, n, e);
	if (rc >= 0)
		rc = cut(s, end, numbers, n, e);
	return rc;
}
