#include "replicator/records.h"

#include "base/cursor.h"
#include "base/mem.h"
#include "base/xxh3.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD 8u
#define PAGE_BYTES (HEAD + STORE_BLOCK)
#define ZERO_BYTES (HEAD + 1u)

/* ---- names ---- */

bool records_name_ok(const char *name, size_t len)
{
	if (len < 1 || len > STORE_NAME_MAX || name[0] == '/')
		return false;
	for (size_t i = 0; i < len; i++) {
		const char c = name[i];
		const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
		if (!letter && (c == '\0' || !strchr("._/-@:+,", c)))
			return false;
		if (c == '.' && i + 1 < len && name[i + 1] == '.')
			return false;
	}
	return true;
}

bool records_volume_name_ok(const char *name)
{
	const size_t n = strlen(name);

	if (n < 1 || n > STORE_NAME_MAX)
		return false;
	for (size_t i = 0; i < n; i++)
		if (name[i] < ' ' || name[i] > '~')
			return false;
	return true;
}

bool records_id_ok(const char *id)
{
	const size_t n = id ? strlen(id) : 0;

	return n >= 1 && n <= RECORDS_ID_MAX &&
	       strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

/* ---- writing ---- */

void records_put_control(struct buf *out, enum records_kind kind, const void *data, size_t len)
{
	buf_put_be64(out, (uint64_t)len << 12 | RECORDS_CONTROL | (uint64_t)kind);
	if (len)
		buf_append(out, data, len);
}

void records_put_json(struct buf *out, enum records_kind kind, const json_t *o)
{
	char *text = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS);

	assert(text && strlen(text) <= RECORDS_MAX_JSON);
	records_put_control(out, kind, text, strlen(text));
	free(text);
}

void records_put_volumes(struct buf *out, const struct store_volume *v, size_t n)
{
	json_t *list = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:I}", "kind", v[i].kind == STORE_RAM ? "ram" : "disk",
						      "name", v[i].name, "size", (json_int_t)v[i].size_bytes));
	json_t *o = json_pack("{s:o}", "volumes", list);
	records_put_json(out, RECORDS_VOLUMES, o);
	json_decref(o);
}

void records_put_volume(struct buf *out, uint32_t index)
{
	buf_put_be64(out, UINT64_C(4) << 12 | RECORDS_CONTROL | RECORDS_VOLUME);
	buf_put_be32(out, index);
}

void records_put_zeros(struct buf *out, uint64_t first, uint64_t count)
{
	buf_put_be64(out, UINT64_C(16) << 12 | RECORDS_CONTROL | RECORDS_ZEROS);
	buf_put_be64(out, first);
	buf_put_be64(out, count);
}

void records_put_begin(struct buf *out, const char *id, bool point)
{
	json_t *o = json_pack("{s:s, s:s}", "id", id, "kind", point ? "point" : "part");

	records_put_json(out, RECORDS_BEGIN, o);
	json_decref(o);
}

void records_put_commit(struct buf *out, const char *id, const struct records_counts *c, uint64_t hash)
{
	char hex[17];

	snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)hash);
	json_t *o = json_pack("{s:s, s:I, s:I, s:I, s:s}", "id", id, "blocks", (json_int_t)c->blocks, "zeros",
			      (json_int_t)c->zeros, "files", (json_int_t)c->files, "hash", hex);
	records_put_json(out, RECORDS_COMMIT, o);
	json_decref(o);
}

void records_put_file_head(struct buf *out, const char *name, size_t len)
{
	const size_t n = strlen(name);

	assert(records_name_ok(name, n) && len <= STORE_MAX_FILE);
	buf_put_be64(out, (uint64_t)(1 + n + len) << 12 | RECORDS_CONTROL | RECORDS_FILE);
	buf_put_u8(out, (uint8_t)n);
	buf_append(out, name, n);
}

/* ---- reading ---- */

struct records {
	struct records_sink sink;
	struct buf carry; /* a record of which the end has not come yet */
	XXH3_state_t *hash;
	bool open; /* between BEGIN and its end */
	bool body; /* something other than VOLUMES has come since BEGIN */
	bool point;
	char id[RECORDS_ID_MAX + 1];
	struct records_counts counts;
	struct store_volume *volumes;
	size_t n_volumes;
	uint32_t current; /* UINT32_MAX: none yet */
	uint64_t current_blocks;
};

struct records *records_new(const struct records_sink *sink)
{
	struct records *r = mem_alloc(sizeof(*r));

	r->sink = *sink;
	r->hash = XXH3_createState();
	assert(r->hash);
	r->current = UINT32_MAX;
	return r;
}

void records_free(struct records *r)
{
	if (!r)
		return;
	buf_fini(&r->carry);
	XXH3_freeState(r->hash);
	free(r->volumes);
	free(r);
}

bool records_idle(const struct records *r)
{
	return !r->open && r->carry.len == 0;
}

static int bad(struct err *e, const char *what)
{
	return err_set(e, ERR_PROTOCOL, "replication stream: %s", what);
}

static size_t control_cap(unsigned kind)
{
	switch ((enum records_kind)kind) {
	case RECORDS_VOLUMES:
	case RECORDS_BEGIN:
	case RECORDS_COMMIT:
		return RECORDS_MAX_JSON;
	case RECORDS_VOLUME:
		return 4;
	case RECORDS_FILE:
		return 1 + STORE_NAME_MAX + (size_t)STORE_MAX_FILE;
	case RECORDS_ZEROS:
		return 16;
	case RECORDS_ABORT:
		return 0;
	}
	return SIZE_MAX;
}

static uint64_t head_of(const uint8_t *p)
{
	struct cursor c = cursor_over(p, HEAD);

	return cursor_be64(&c);
}

/* Bytes of the record that begins with this header, or 0 with the error set. */
static size_t record_bytes(uint64_t head, struct err *e)
{
	const unsigned low = head & 0xfff;

	if (low == RECORDS_PAGE)
		return PAGE_BYTES;
	if (low == RECORDS_ZERO)
		return ZERO_BYTES;
	if (low & RECORDS_CONTROL) {
		const size_t cap = control_cap(low & 0x7ff);
		if (cap != SIZE_MAX && head >> 12 <= cap)
			return HEAD + (size_t)(head >> 12);
	}
	err_set(e, ERR_PROTOCOL, "replication stream: a record that begins with %016llx", (unsigned long long)head);
	return 0;
}

/* ---- one record ---- */

static json_t *parse_json(const uint8_t *p, size_t n, struct err *e)
{
	json_error_t je;
	json_t *o = json_loadb((const char *)p, n, JSON_REJECT_DUPLICATES, &je);

	if (json_is_object(o))
		return o;
	json_decref(o);
	bad(e, "a control record that is no JSON object");
	return NULL;
}

static int take_begin(struct records *r, const uint8_t *p, size_t n, struct err *e)
{
	if (r->open)
		return bad(e, "BEGIN inside a transaction");
	json_t *o = parse_json(p, n, e);
	if (!o)
		return -1;
	const char *id = json_string_value(json_object_get(o, "id"));
	const char *kind = json_string_value(json_object_get(o, "kind"));
	const bool point = kind && strcmp(kind, "point") == 0;
	int rc = 0;
	if (!records_id_ok(id) || !kind || (!point && strcmp(kind, "part") != 0))
		rc = bad(e, "BEGIN without an id or a kind");
	else
		snprintf(r->id, sizeof(r->id), "%s", id);
	json_decref(o);
	if (rc < 0)
		return -1;
	r->open = true;
	r->body = false;
	r->point = point;
	r->counts = (struct records_counts){ 0 };
	r->current = UINT32_MAX;
	return r->sink.begin(r->sink.ctx, r->id, point, e);
}

static int parse_volume(const json_t *o, struct store_volume *v, struct err *e)
{
	const char *kind = json_string_value(json_object_get(o, "kind"));
	const char *name = json_string_value(json_object_get(o, "name"));
	const json_t *size = json_object_get(o, "size");
	const json_int_t bytes = json_integer_value(size);

	if (!kind || !name || !json_is_integer(size) || !records_volume_name_ok(name))
		return bad(e, "a volume without kind, name or size");
	const bool ram = strcmp(kind, "ram") == 0;
	if (!ram && strcmp(kind, "disk") != 0)
		return bad(e, "a volume of unknown kind");
	if (bytes <= 0 || (uint64_t)bytes > RECORDS_MAX_BLOCKS * STORE_BLOCK || (ram && bytes % STORE_BLOCK))
		return bad(e, "a volume of impossible size");
	*v = (struct store_volume){ .kind = ram ? STORE_RAM : STORE_DISK, .size_bytes = (uint64_t)bytes };
	snprintf(v->name, sizeof(v->name), "%s", name);
	return 0;
}

static bool twice(const struct store_volume *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].kind == v[n].kind && strcmp(v[i].name, v[n].name) == 0)
			return true;
	return false;
}

static int take_volumes(struct records *r, const uint8_t *p, size_t n, struct err *e)
{
	struct store_volume v[STORE_MAX_VOLUMES];
	size_t count = 0, i;
	json_t *one;
	int rc = 0;

	if (!r->open || r->body)
		return bad(e, "VOLUMES in the wrong place");
	json_t *o = parse_json(p, n, e);
	if (!o)
		return -1;
	json_t *list = json_object_get(o, "volumes");
	if (json_array_size(list) < 1 || json_array_size(list) > STORE_MAX_VOLUMES)
		rc = bad(e, "VOLUMES with none or too many");
	json_array_foreach (list, i, one) {
		if (rc < 0 || (rc = parse_volume(one, &v[count], e)) < 0)
			break;
		if (twice(v, count))
			rc = bad(e, "a volume twice");
		count++;
	}
	json_decref(o);
	if (rc < 0)
		return -1;
	r->body = true;
	free(r->volumes);
	r->volumes = mem_alloc_array(count, sizeof(*v));
	memcpy(r->volumes, v, count * sizeof(*v));
	r->n_volumes = count;
	return r->sink.volumes(r->sink.ctx, v, count, e);
}

static int take_volume(struct records *r, const uint8_t *p, size_t n, struct err *e)
{
	struct cursor c = cursor_over(p, n);
	const uint32_t index = cursor_be32(&c);

	if (n != 4 || !r->open || index >= r->n_volumes)
		return bad(e, "a volume that does not exist");
	r->body = true;
	r->current = index;
	r->current_blocks = (r->volumes[index].size_bytes + STORE_BLOCK - 1) / STORE_BLOCK;
	return 0;
}

static int take_zeros(struct records *r, const uint8_t *p, size_t n, struct err *e)
{
	struct cursor c = cursor_over(p, n);
	const uint64_t first = cursor_be64(&c), count = cursor_be64(&c);

	if (n != 16 || !r->open || r->current == UINT32_MAX || count == 0 || first >= r->current_blocks ||
	    count > r->current_blocks - first)
		return bad(e, "zeros that are not inside the current volume");
	r->counts.zeros += count;
	return r->sink.zeros(r->sink.ctx, r->current, first, count, e);
}

static int take_file(struct records *r, const uint8_t *p, size_t n, struct err *e)
{
	struct cursor c = cursor_over(p, n);
	char name[STORE_NAME_MAX + 1];
	const size_t len = cursor_u8(&c);
	const uint8_t *text = cursor_bytes(&c, len);

	if (!r->open || !text || !records_name_ok((const char *)text, len) || cursor_left(&c) > STORE_MAX_FILE)
		return bad(e, "a file in the wrong place, or with an impossible name");
	memcpy(name, text, len);
	name[len] = '\0';
	r->body = true;
	r->counts.files++;
	return r->sink.file(r->sink.ctx, name, c.p, cursor_left(&c), e);
}

static bool counts_as(const json_t *o, const char *key, uint64_t n)
{
	const json_t *v = json_object_get(o, key);

	return json_is_integer(v) && json_integer_value(v) >= 0 && (uint64_t)json_integer_value(v) == n;
}

static int take_commit(struct records *r, const uint8_t *p, size_t n, struct err *e)
{
	char hex[17];
	json_t *o = parse_json(p, n, e);

	if (!o)
		return -1;
	const char *id = json_string_value(json_object_get(o, "id"));
	const char *hash = json_string_value(json_object_get(o, "hash"));
	int rc = 0;
	snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)XXH3_64bits_digest(r->hash));
	if (!r->open || !id || strcmp(id, r->id) != 0)
		rc = bad(e, "COMMIT of a transaction that was not begun");
	else if (!counts_as(o, "blocks", r->counts.blocks) || !counts_as(o, "zeros", r->counts.zeros) ||
		 !counts_as(o, "files", r->counts.files))
		rc = err_set(e, ERR_CORRUPT, "replication stream: COMMIT counts what did not come");
	else if (!hash || strcmp(hash, hex) != 0)
		rc = err_set(e, ERR_CORRUPT, "replication stream: its hash is %s, not %.16s", hex,
			     hash ? hash : "there");
	json_decref(o);
	if (rc < 0)
		return -1;
	r->open = false;
	return r->sink.commit(r->sink.ctx, r->id, r->point, e);
}

static int take_abort(struct records *r, struct err *e)
{
	if (!r->open)
		return bad(e, "ABORT outside of a transaction");
	r->open = false;
	return r->sink.abort(r->sink.ctx, e);
}

static int take_control(struct records *r, unsigned kind, const uint8_t *p, size_t n, struct err *e)
{
	switch ((enum records_kind)kind) {
	case RECORDS_VOLUMES:
		return take_volumes(r, p, n, e);
	case RECORDS_VOLUME:
		return take_volume(r, p, n, e);
	case RECORDS_FILE:
		return take_file(r, p, n, e);
	case RECORDS_ZEROS:
		return take_zeros(r, p, n, e);
	case RECORDS_BEGIN:
		return take_begin(r, p, n, e);
	case RECORDS_COMMIT:
		return take_commit(r, p, n, e);
	case RECORDS_ABORT:
		return take_abort(r, e);
	}
	return bad(e, "an unknown control record");
}

static int take_block(struct records *r, uint64_t head, const uint8_t *data, struct err *e)
{
	const uint64_t block = head >> 12;

	if (!r->open || r->current == UINT32_MAX)
		return bad(e, "a block of no volume");
	if (block >= r->current_blocks)
		return err_set(e, ERR_PROTOCOL, "replication stream: block %llu is outside of volume %s",
			       (unsigned long long)block, r->volumes[r->current].name);
	if (data)
		r->counts.blocks++;
	else
		r->counts.zeros++;
	return r->sink.block(r->sink.ctx, r->current, block, data, e);
}

static int take_record(struct records *r, const uint8_t *p, size_t n, struct err *e)
{
	const uint64_t head = head_of(p);
	const unsigned low = head & 0xfff;

	if (low == RECORDS_PAGE)
		return take_block(r, head, p + HEAD, e);
	if (low == RECORDS_ZERO)
		return p[HEAD] ? bad(e, "a zero that is none") : take_block(r, head, NULL, e);
	return take_control(r, low & 0x7ff, p + HEAD, n - HEAD, e);
}

/* ---- the stream ---- */

static unsigned control_kind(const uint8_t *p)
{
	const unsigned low = head_of(p) & 0xfff;

	return low & RECORDS_CONTROL ? low & 0x7ff : 0;
}

/* Whole records from p on; returns the bytes used, or -1. The hash covers them but for COMMIT and what is outside of a transaction. */
static ssize_t take_whole(struct records *r, const uint8_t *p, size_t n, struct err *e)
{
	const uint8_t *at = p, *hashed = p;
	const uint8_t *const end = p + n;

	while ((size_t)(end - at) >= HEAD) {
		const size_t len = record_bytes(head_of(at), e);
		if (len == 0)
			return -1;
		if ((size_t)(end - at) < len)
			break;
		const unsigned kind = control_kind(at);
		if (kind == RECORDS_COMMIT)
			XXH3_64bits_update(r->hash, hashed, (size_t)(at - hashed));
		if (kind == RECORDS_BEGIN) {
			XXH3_64bits_reset(r->hash);
			hashed = at;
		}
		if (take_record(r, at, len, e) < 0)
			return -1;
		at += len;
		if (kind == RECORDS_COMMIT)
			hashed = at;
	}
	if (r->open)
		XXH3_64bits_update(r->hash, hashed, (size_t)(at - hashed));
	return at - p;
}

/* Completes the record in `carry`; returns the bytes used of p, or -1. */
static ssize_t take_carried(struct records *r, const uint8_t *p, size_t n, struct err *e)
{
	size_t used = 0;

	if (r->carry.len < HEAD) {
		used = HEAD - r->carry.len < n ? HEAD - r->carry.len : n;
		buf_append(&r->carry, p, used);
		if (r->carry.len < HEAD)
			return (ssize_t)used;
	}
	const size_t len = record_bytes(head_of(r->carry.data), e);
	if (len == 0)
		return -1;
	const size_t more = len - r->carry.len < n - used ? len - r->carry.len : n - used;
	buf_append(&r->carry, p + used, more);
	used += more;
	if (r->carry.len < len)
		return (ssize_t)used;
	if (take_whole(r, r->carry.data, len, e) < 0)
		return -1;
	if (r->carry.cap > 4 * PAGE_BYTES)
		buf_fini(&r->carry);
	buf_reset(&r->carry);
	return (ssize_t)used;
}

int records_feed(struct records *r, const uint8_t *p, size_t n, struct err *e)
{
	while (r->carry.len && n) {
		const ssize_t used = take_carried(r, p, n, e);
		if (used < 0)
			return -1;
		p += used;
		n -= (size_t)used;
	}
	if (n == 0)
		return 0;
	const ssize_t used = take_whole(r, p, n, e);
	if (used < 0)
		return -1;
	if ((size_t)used < n)
		buf_append(&r->carry, p + used, n - (size_t)used);
	return 0;
}
