/* Heads that are ahead of the journal: damage has cost committed transactions that were applied already. Their before-images take the heads back to
 * what the journal still vouches for. And a catalogue that damage has made older than what rests on it is found out. */
#include "base/file.h"
#include "base/mem.h"
#include "base/sys.h"
#include "snapshot/store_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* From `next` on, the before-images follow one another. Returns the transaction up to which. */
static uint64_t chain_end(const struct store *s, uint64_t next)
{
	for (size_t i = 0; i < s->n_undos && s->undos[i].from <= next; i++)
		if (s->undos[i].to >= next)
			next = s->undos[i].to + 1;
	return next - 1;
}

static uint64_t newest_undo(const struct store *s)
{
	uint64_t newest = 0;
	for (size_t i = 0; i < s->n_undos; i++)
		newest = s->undos[i].to > newest ? s->undos[i].to : newest;
	return newest;
}

/* What comes after a line's sync is done only then: where it was done, the line was whole. */
static int check_torn(const struct store *s, struct err *e)
{
	if (!s->catalogue.torn || s->n_points == 0)
		return 0;
	const uint64_t end = chain_end(s, s->points[0]->seq + 1);
	if (end >= newest_undo(s) && end >= s->applied)
		return 0;
	return err_set(e, ERR_CORRUPT, "%s/catalogue.log: its last line does not verify, and it was whole once", s->dir);
}

static int resize_heads(struct store *s, struct err *e)
{
	for (size_t i = 0; i < s->volumes->n; i++) {
		const struct store_volset_item *it = &s->volumes->v[i];
		struct store_head *h = store_heads_find(s, it->id);
		if (h && store_blob_length(h->data) != it->v.size_bytes && store_head_resize(h, it->v.size_bytes, e) < 0)
			return -1;
	}
	return 0;
}

static int undo_one(struct store *s, const struct store_undo *u, uint8_t *data, struct err *e)
{
	struct store_sums w = { 0 };
	struct store_reader r = { 0 };
	struct store_layer *l = store_undo_load(s, u->from, u->to, e);
	int rc = l ? 0 : -1;

	for (size_t i = 0; rc == 0 && i < l->x.n; i++) {
		struct store_extent x = l->x.v[i];
		struct store_head *h = store_heads_find(s, x.volume);
		const struct store_volset_item *it = store_volset_by_id(s->volumes, x.volume);
		const uint64_t blocks = it ? store_blocks_of(it->v.size_bytes) : 0;
		if (!h || x.block >= blocks)
			continue;
		if (x.count > blocks - x.block)
			x.count = blocks - x.block;
		rc = store_extent_apply(s, &w, &r, h, &x, it->v.size_bytes, data, e);
	}
	if (rc == 0)
		rc = store_sums_flush(&w, e);
	store_reader_fini(&r);
	store_layer_unref(l);
	return rc;
}

int store_rollback(struct store *s, struct err *e)
{
	const uint64_t newest = newest_undo(s);

	if (check_torn(s, e) < 0)
		return -1;
	if (newest <= s->committed)
		return 0;
	if (chain_end(s, s->committed + 1) < newest)
		return err_set(e, ERR_CORRUPT,
			       "%s: the journal ends with transaction %" PRIu64 ", before-images with %" PRIu64
			       ", and some of those between are missing",
			       s->dir, s->committed, newest);
	MEM_AUTO uint8_t *data = mem_alloc_array(STORE_RUN, STORE_BLOCK);
	int rc = resize_heads(s, e);
	for (size_t i = s->n_undos; rc == 0 && i > 0 && s->undos[i - 1].to > s->committed; i--)
		rc = undo_one(s, &s->undos[i - 1], data, e);
	for (size_t i = 0; rc == 0 && i < s->n_heads; i++)
		rc = store_head_sync(s->heads[i], e);
	while (rc == 0 && s->n_undos > 0 && s->undos[s->n_undos - 1].to > s->committed) {
		const struct store_undo *u = &s->undos[s->n_undos - 1];
		MEM_AUTO char *path = store_undo_path(s, u->from, u->to);
		rc = sys.unlink(path) < 0 ? err_sys(e, "remove %s", path) : 0;
		s->n_undos--;
	}
	s->damaged = true;
	return rc;
}
