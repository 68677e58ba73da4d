#include "snapshot/disk_read.h"

#include "base/fd.h"
#include "base/mem.h"

#include <libnbd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	BLOCK = 4096,
	PIECE = 1024 * 1024,
	ASK = 1024 * 1024 * 1024, /* bytes that one request for extents covers */
	EXTENTS_MAX = 1 << 20,    /* of one answer */
};

/* base:allocation */
#define STATE_ZERO 2u
/* qemu:dirty-bitmap */
#define STATE_DIRTY 1u

struct extent {
	uint64_t start, end;
	bool on; /* zero; dirty */
};

struct extents {
	struct extent *v;
	size_t n;
	bool failed;
};

struct reading {
	struct nbd_handle *h;
	char dirty_context[300]; /* "" without a bitmap */
	struct extents zero, dirty;
	uint64_t size_bytes; /* of the disk */
	uint32_t volume;
	const struct capture_sink *sink;
	uint64_t told;
	uint8_t *piece;
};

static int nbd_failed(struct err *e, const char *what)
{
	return err_set(e, ERR_LIBVIRT, "%s: %s", what, nbd_get_error() ? nbd_get_error() : "NBD failed");
}

static void add_extent(struct extents *x, uint64_t start, uint64_t end, bool on)
{
	if (x->n > 0 && x->v[x->n - 1].end == start && x->v[x->n - 1].on == on) {
		x->v[x->n - 1].end = end;
		return;
	}
	if (x->n >= EXTENTS_MAX) {
		x->failed = true;
		return;
	}
	if ((x->n & (x->n + 1)) == 0) /* grows at 2^k - 1 */
		x->v = mem_realloc_array(x->v, (x->n + 1) * 2, sizeof(*x->v));
	x->v[x->n++] = (struct extent){ start, end, on };
}

static int on_extents(void *ctx, const char *context, uint64_t offset, uint32_t *entries, size_t n, int *error)
{
	struct reading *r = ctx;
	bool zero = strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0;
	(void)error;
	if (!zero && strcmp(context, r->dirty_context) != 0)
		return 0;
	for (size_t i = 0; i + 1 < n; i += 2) {
		uint32_t flag = zero ? STATE_ZERO : STATE_DIRTY;
		add_extent(zero ? &r->zero : &r->dirty, offset, offset + entries[i], entries[i + 1] & flag);
		offset += entries[i];
	}
	return 0;
}

/* The flag of the extent that holds `at`, and in *end where that extent ends; false with *end 0 where the answer does
 * not reach. */
static bool extent_at(const struct extents *x, size_t *hint, uint64_t at, uint64_t *end)
{
	while (*hint < x->n && x->v[*hint].end <= at)
		(*hint)++;
	if (*hint == x->n || x->v[*hint].start > at) {
		*end = 0;
		return false;
	}
	*end = x->v[*hint].end;
	return x->v[*hint].on;
}

static int tell_zero(struct reading *r, uint64_t start, uint64_t end, struct err *e)
{
	uint64_t blocks = (end - start + BLOCK - 1) / BLOCK;
	if (r->sink->zero(r->sink->ctx, r->volume, start / BLOCK, blocks, e))
		return -1;
	if (r->dirty_context[0])
		r->told += end - start;
	return 0;
}

/* start is a multiple of BLOCK, end that or the disk's end. */
static int tell_data(struct reading *r, uint64_t start, uint64_t end, struct err *e)
{
	while (start < end) {
		size_t n = end - start < PIECE ? (size_t)(end - start) : PIECE;
		size_t padded = (n + BLOCK - 1) / BLOCK * BLOCK;
		memset(r->piece + n, 0, padded - n);
		if (nbd_pread(r->h, r->piece, n, start, 0) < 0)
			return nbd_failed(e, "read the disk's point in time");
		for (size_t at = 0; at < padded; at += BLOCK)
			if (r->sink->page(r->sink->ctx, r->volume, (start + at) / BLOCK, r->piece + at, e))
				return -1;
		r->told += n;
		start += n;
	}
	return 0;
}

/* One stretch of the disk, about which QEMU has just been asked: up to *reached, which is where its answer ends. Runs
 * of blocks are cut where zero or dirty change; a block in which anything is data counts as data, one in which anything
 * is dirty as dirty. */
static int tell_stretch(struct reading *r, uint64_t from, uint64_t to, uint64_t *reached, struct err *e)
{
	size_t zero_hint = 0, dirty_hint = 0;
	uint64_t at = from;
	while (at < to) {
		uint64_t zero_end, dirty_end = to;
		bool zero = extent_at(&r->zero, &zero_hint, at, &zero_end);
		bool dirty = !r->dirty_context[0] || extent_at(&r->dirty, &dirty_hint, at, &dirty_end);
		uint64_t end = zero_end < dirty_end ? zero_end : dirty_end;
		if (end > to)
			end = to;
		if (end <= at)
			break;
		/* Whole blocks: what of the run's last block belongs to the next run is taken with this one if it must
		 * be told anyway. */
		uint64_t whole = end == r->size_bytes ? end : end / BLOCK * BLOCK;
		if (whole <= at || (dirty && !zero && whole != end)) {
			whole = at - at % BLOCK + (end - at + BLOCK - 1) / BLOCK * BLOCK;
			if (whole > r->size_bytes)
				whole = r->size_bytes;
			if (whole <= at + BLOCK) { /* a block of mixed extents */
				zero = false;
				dirty = true;
			}
		}
		int rc = 0;
		if (dirty)
			rc = zero ? tell_zero(r, at, whole, e) : tell_data(r, at, whole, e);
		if (rc)
			return -1;
		at = whole;
	}
	*reached = at;
	return 0;
}

static int tell_all(struct reading *r, struct err *e)
{
	for (uint64_t at = 0; at < r->size_bytes;) {
		uint64_t n = r->size_bytes - at < ASK ? r->size_bytes - at : ASK;
		uint64_t reached = at;
		r->zero.n = r->dirty.n = 0;
		if (nbd_block_status(r->h, n, at, (nbd_extent_callback){ .callback = on_extents, .user_data = r }, 0) < 0)
			return nbd_failed(e, "ask which blocks there are");
		if (r->zero.failed || r->dirty.failed)
			return err_set(e, ERR_CORRUPT, "too many extents in one answer");
		if (tell_stretch(r, at, at + n, &reached, e))
			return -1;
		if (reached == at)
			return err_set(e, ERR_CORRUPT, "QEMU does not say which blocks there are at %llu",
				       (unsigned long long)at);
		at = reached;
	}
	return 0;
}

static int connect_to(struct reading *r, int *fd, const char *export_name, struct err *e)
{
	struct nbd_handle *h = r->h;
	if (nbd_set_export_name(h, export_name) < 0 || nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
	    (r->dirty_context[0] && nbd_add_meta_context(h, r->dirty_context) < 0))
		return nbd_failed(e, "set up NBD");
	int theirs = *fd;
	*fd = -1;
	if (nbd_connect_socket(h, theirs) < 0)
		return nbd_failed(e, "connect to QEMU's NBD server");
	if (nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) != 1 ||
	    (r->dirty_context[0] && nbd_can_meta_context(h, r->dirty_context) != 1))
		return err_set(e, ERR_LIBVIRT, "QEMU's NBD server does not say what was written");
	int64_t size = nbd_get_size(h);
	if (size < 0 || (uint64_t)size != r->size_bytes)
		return err_set(e, ERR_CORRUPT, "the disk has %lld bytes, not %llu: it was resized", (long long)size,
			       (unsigned long long)r->size_bytes);
	return 0;
}

int disk_read(int fd, const char *export_name, const char *bitmap, uint64_t size_bytes, uint32_t volume,
	      const struct capture_sink *sink, uint64_t *dirty_bytes, struct err *e)
{
	FD_AUTO int own = fd;
	struct reading r = { .size_bytes = size_bytes, .volume = volume, .sink = sink };
	if (bitmap)
		snprintf(r.dirty_context, sizeof(r.dirty_context), "qemu:dirty-bitmap:%s", bitmap);
	r.h = nbd_create();
	if (!r.h)
		return nbd_failed(e, "set up NBD");
	r.piece = mem_alloc(PIECE);
	int rc = connect_to(&r, &own, export_name, e);
	if (rc == 0)
		rc = tell_all(&r, e);
	if (rc == 0 && nbd_shutdown(r.h, 0) < 0)
		rc = nbd_failed(e, "end the NBD connection");
	nbd_close(r.h);
	free(r.piece);
	free(r.zero.v);
	free(r.dirty.v);
	if (rc == 0)
		*dirty_bytes += r.told;
	return rc;
}
