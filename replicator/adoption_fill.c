#include "replicator/adoption_fill.h"

#include "base/clock.h"
#include "base/mem.h"
#include "replicator/still.h"
#include "replicator/store_sink.h"

#include <stdlib.h>
#include <string.h>

#define PART_BYTES (UINT64_C(256) << 20) /* as of a source's (ship.h) */
#define TELL_BYTES (UINT64_C(16) << 20)

/* The store's volumes with that disk among them; its index. */
static int place_disk(struct store *s, struct store_volume *v, size_t *n, const char *target, uint64_t size,
		      uint32_t *index, struct err *e)
{
	size_t i = 0;

	*n = store_volumes(s, v, STORE_MAX_VOLUMES);
	while (i < *n && !(v[i].kind == STORE_DISK && strcmp(v[i].name, target) == 0))
		i++;
	if (i == STORE_MAX_VOLUMES || strlen(target) > STORE_NAME_MAX)
		return err_set(e, ERR_REFUSED, "no room for disk %s", target);
	if (i == *n)
		(*n)++;
	v[i].kind = STORE_DISK;
	memcpy(v[i].name, target, strlen(target) + 1);
	v[i].size_bytes = size;
	*index = (uint32_t)i;
	return 0;
}

/* ---- an image ---- */

struct filling {
	struct store *store;
	const struct adoption_image *image;
	struct store_sink in;
	uint64_t part, told, total; /* bytes */
};

static json_t *meta_of(const struct adoption_image *image)
{
	return json_pack("{s:s, s:s}", "seed", image->name ? image->name : image->path, "disk", image->target);
}

/* After something of it has been told: up to there. */
static int advance(struct filling *f, uint64_t bytes, uint64_t done, struct err *e)
{
	f->part += bytes;
	if (f->part >= PART_BYTES) {
		f->part = 0;
		if (store_sink_commit(&f->in, meta_of(f->image), NULL, e) < 0 ||
		    store_sink_begin(&f->in, f->store, STORE_TXN_PART, e) < 0)
			return -1;
	}
	if (done < f->told + TELL_BYTES && done < f->total)
		return 0;
	f->told = done;
	if (f->image->progress && !f->image->progress(f->image->ctx, done, f->total))
		return err_set(e, ERR_CANCELLED, "cancelled");
	return 0;
}

static int on_page(void *ctx, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e)
{
	struct filling *f = ctx;

	if (store_txn_block(f->in.txn, volume, block, data, e) < 0)
		return -1;
	return advance(f, STORE_BLOCK, (block + 1) * STORE_BLOCK, e);
}

static int on_zero(void *ctx, uint32_t volume, uint64_t block, uint64_t n, struct err *e)
{
	struct filling *f = ctx;

	if (store_txn_zeros(f->in.txn, volume, block, n, e) < 0)
		return -1;
	return advance(f, 0, (block + n) * STORE_BLOCK, e);
}

int adoption_fill_image(struct store *s, const struct adoption_image *image, const char *run_dir, struct err *e)
{
	struct store_volume *v = mem_alloc_array(STORE_MAX_VOLUMES, sizeof(*v));
	struct filling f = { .store = s, .image = image };
	const struct capture_sink sink = { .page = on_page, .zero = on_zero, .ctx = &f };
	size_t n;
	uint32_t index = 0;
	int rc = -1;

	if (still_image_size(image->path, image->format, &f.total, e) < 0 ||
	    place_disk(s, v, &n, image->target, f.total, &index, e) < 0)
		goto end;
	if (store_sink_begin(&f.in, s, STORE_TXN_PART, e) < 0 || store_txn_volumes(f.in.txn, v, n, e) < 0 ||
	    still_image(&sink, index, image->path, image->format, f.total, run_dir, e) < 0)
		goto end;
	rc = store_sink_commit(&f.in, meta_of(image), NULL, e);
end:
	store_sink_abort(&f.in);
	free(v);
	return rc;
}

/* ---- a paused VM ---- */

int adoption_fill_paused(struct guest *g, struct store *s, const char *run_dir, const json_t *meta, uint64_t *seq,
			 struct err *e)
{
	const struct capture_point point = { .instant_ns = clock_wall_ns(), .has_memory = true };
	struct store_sink in = { 0 };
	const struct capture_sink sink = store_sink_of(&in);
	int rc = store_sink_begin(&in, s, STORE_TXN_POINT, e);

	if (rc == 0)
		rc = still_capture(g, &sink, run_dir, e);
	if (rc == 0)
		rc = store_sink_commit(&in, store_sink_meta(meta, "memory", "paused", &point), seq, e);
	store_sink_abort(&in);
	return rc;
}
