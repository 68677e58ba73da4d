/* The record stream of a replication: what a sink is told is always possible, whatever comes and in whatever pieces. The first byte says how it is cut. */
#include "base/mem.h"
#include "replicator/records.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct seen {
	bool open, body;
	struct store_volume v[STORE_MAX_VOLUMES];
	size_t n;
	uint64_t told; /* of everything, to compare */
};

static void note(struct seen *s, uint64_t v)
{
	s->told = (s->told ^ v) * UINT64_C(0x100000001b3) + 1;
}

static uint64_t blocks(const struct store_volume *v)
{
	return (v->size_bytes + STORE_BLOCK - 1) / STORE_BLOCK;
}

static int on_begin(void *ctx, const char *id, bool point, struct err *e)
{
	struct seen *s = ctx;

	(void)e;
	assert(!s->open && records_id_ok(id));
	s->open = true;
	s->body = false;
	note(s, 1 + point);
	return 0;
}

static int on_volumes(void *ctx, const struct store_volume *v, size_t n, struct err *e)
{
	struct seen *s = ctx;

	(void)e;
	assert(s->open && !s->body && n >= 1 && n <= STORE_MAX_VOLUMES);
	for (size_t i = 0; i < n; i++)
		assert(records_volume_name_ok(v[i].name) && v[i].size_bytes > 0 && blocks(&v[i]) <= RECORDS_MAX_BLOCKS &&
		       (v[i].kind == STORE_DISK || (v[i].kind == STORE_RAM && v[i].size_bytes % STORE_BLOCK == 0)));
	memcpy(s->v, v, n * sizeof(*v));
	s->n = n;
	note(s, 3 + n);
	return 0;
}

static int on_block(void *ctx, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e)
{
	struct seen *s = ctx;

	(void)e;
	assert(s->open && volume < s->n && block < blocks(&s->v[volume]));
	s->body = true;
	note(s, block + (data ? data[0] + data[STORE_BLOCK - 1] + 100u : 0));
	return 0;
}

static int on_zeros(void *ctx, uint32_t volume, uint64_t first, uint64_t count, struct err *e)
{
	struct seen *s = ctx;

	(void)e;
	assert(s->open && volume < s->n && count > 0 && first < blocks(&s->v[volume]) && count <= blocks(&s->v[volume]) - first);
	s->body = true;
	note(s, first * 31 + count);
	return 0;
}

static int on_file(void *ctx, const char *name, const void *data, size_t len, struct err *e)
{
	struct seen *s = ctx;

	(void)e;
	assert(s->open && records_name_ok(name, strlen(name)) && len <= STORE_MAX_FILE && !strstr(name, ".."));
	s->body = true;
	note(s, len ? len + *(const uint8_t *)data : 7);
	return 0;
}

static int on_end(void *ctx, const char *id, bool point, struct err *e)
{
	struct seen *s = ctx;

	(void)id, (void)point, (void)e;
	assert(s->open);
	s->open = false;
	note(s, 5);
	return 0;
}

static int on_abort(void *ctx, struct err *e)
{
	return on_end(ctx, "", false, e);
}

static int feed(const uint8_t *data, size_t size, size_t piece, uint64_t *told)
{
	struct seen s = { 0 };
	const struct records_sink sink = { .begin = on_begin,
					   .volumes = on_volumes,
					   .block = on_block,
					   .zeros = on_zeros,
					   .file = on_file,
					   .commit = on_end,
					   .abort = on_abort,
					   .ctx = &s };
	struct records *r = records_new(&sink);
	struct err e = ERR_INIT;
	int rc = 0;

	for (size_t at = 0; at < size && rc == 0; at += piece)
		rc = records_feed(r, data + at, size - at < piece ? size - at : piece, &e);
	if (rc < 0)
		assert(e.cls == ERR_PROTOCOL || e.cls == ERR_CORRUPT);
	records_free(r);
	*told = s.told;
	return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t whole, pieces;

	if (size < 2)
		return 0;
	const int rc = feed(data + 1, size - 1, size, &whole);
	/* However it is cut, the same is told. */
	assert(feed(data + 1, size - 1, 1 + data[0] % 61u, &pieces) == rc && pieces == whole);
	return 0;
}
