#include "replicator/store_sink.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

static int on_volumes(void *ctx, const struct capture_volume *v, size_t n, struct err *e)
{
	struct store_sink *in = ctx;
	struct store_volume *all = mem_alloc_array(n, sizeof(*all));

	for (size_t i = 0; i < n; i++) {
		all[i].kind = v[i].ram ? STORE_RAM : STORE_DISK;
		snprintf(all[i].name, sizeof(all[i].name), "%s", v[i].name);
		all[i].size_bytes = v[i].size_bytes;
	}
	int rc = n <= STORE_MAX_VOLUMES ? store_txn_volumes(in->txn, all, n, e)
					: err_set(e, ERR_REFUSED, "%zu volumes are too many", n);
	free(all);
	return rc;
}

static int on_page(void *ctx, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e)
{
	return store_txn_block(((struct store_sink *)ctx)->txn, volume, block, data, e);
}

static int on_zero(void *ctx, uint32_t volume, uint64_t block, uint64_t n, struct err *e)
{
	return store_txn_zeros(((struct store_sink *)ctx)->txn, volume, block, n, e);
}

static int on_file(void *ctx, const char *name, const void *data, size_t len, struct err *e)
{
	return store_txn_file(((struct store_sink *)ctx)->txn, name, data, len, e);
}

struct capture_sink store_sink_of(struct store_sink *s)
{
	return (struct capture_sink){ .volumes = on_volumes, .page = on_page, .zero = on_zero, .file = on_file, .ctx = s };
}

int store_sink_commit(struct store_sink *s, json_t *meta, uint64_t *seq, struct err *e)
{
	const int rc = store_commit(s->txn, meta, seq, e);

	s->txn = NULL;
	json_decref(meta);
	return rc;
}

int store_sink_begin(struct store_sink *s, struct store *store, enum store_txn_kind kind, struct err *e)
{
	s->txn = store_begin(store, kind, e);
	return s->txn ? 0 : -1;
}

void store_sink_abort(struct store_sink *s)
{
	store_abort(s->txn);
	s->txn = NULL;
}

json_t *store_sink_meta(const json_t *more, const char *kind, const char *capture, const struct capture_point *p)
{
	char when[32], id[64];

	clock_format_wall(p->instant_ns, when, sizeof(when));
	snprintf(id, sizeof(id), "%s-%04x", when, (unsigned)(p->instant_ns / 1000 & 0xffff));
	size_t to = 0;
	for (size_t i = 0; id[i]; i++)
		if (id[i] != ':' && !(id[i] == '-' && i < 10))
			id[to++] = id[i];
	id[to] = 0;
	json_t *meta = json_pack("{s:s, s:I, s:s, s:s, s:I, s:I, s:b}", "id", id, "instant_ns",
				 (json_int_t)p->instant_ns, "kind", kind, "capture", capture, "pause_ns",
				 (json_int_t)p->pause_ns, "dirty_bytes", (json_int_t)p->dirty_bytes, "quiesced",
				 p->quiesced);
	if (more) {
		json_t *copy = json_deep_copy(more);
		json_object_update(meta, copy);
		json_decref(copy);
	}
	return meta;
}
