#include "base/fd.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/xxh3.h"
#include "snapshot/store_impl.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct store_blob *store_blob_open(const char *path, int flags, struct err *e)
{
	int fd;

	do {
		fd = sys.open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
	} while (fd < 0 && errno == EINTR);
	if (fd < 0) {
		err_open(e, "open %s", path);
		return NULL;
	}
	struct store_blob *b = mem_alloc(sizeof(*b));
	b->refs = 1;
	b->fd = fd;
	b->path = mem_strdup(path);
	return b;
}

struct store_blob *store_blob_ref(struct store_blob *b)
{
	if (b)
		atomic_fetch_add(&b->refs, 1);
	return b;
}

void store_blob_unref(struct store_blob *b)
{
	if (!b || atomic_fetch_sub(&b->refs, 1) > 1)
		return;
	fd_close(&b->fd);
	free(b->path);
	free(b);
}

static int read_at(const struct store_blob *b, uint64_t at, uint8_t *out, size_t n, bool sparse, struct err *e)
{
	while (n > 0) {
		const ssize_t r = sys.pread(b->fd, out, n, (off_t)at);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return err_sys(e, "%s: read at %llu", b->path, (unsigned long long)at);
		if (r == 0 && !sparse)
			return err_set(e, ERR_CORRUPT, "%s: ends at %llu, too early", b->path, (unsigned long long)at);
		if (r == 0) {
			memset(out, 0, n);
			return 0;
		}
		out += r;
		at += (uint64_t)r;
		n -= (size_t)r;
	}
	return 0;
}

int store_blob_read(const struct store_blob *b, uint64_t at, void *out, size_t n, struct err *e)
{
	return read_at(b, at, out, n, false, e);
}

int store_blob_read_sparse(const struct store_blob *b, uint64_t at, void *out, size_t n, struct err *e)
{
	return read_at(b, at, out, n, true, e);
}

int store_blob_write(const struct store_blob *b, uint64_t at, const void *p, size_t n, struct err *e)
{
	const uint8_t *from = p;

	while (n > 0) {
		const ssize_t w = sys.pwrite(b->fd, from, n, (off_t)at);
		if (w < 0 && errno == EINTR)
			continue;
		if (w == 0)
			errno = ENOSPC;
		if (w <= 0)
			return err_sys(e, "%s: write", b->path);
		from += w;
		at += (uint64_t)w;
		n -= (size_t)w;
	}
	return 0;
}

int store_blob_sync(const struct store_blob *b, bool data_only, struct err *e)
{
	const int rc = data_only ? sys.fdatasync(b->fd) : sys.fsync(b->fd);
	return rc < 0 ? err_sys(e, "%s: sync", b->path) : 0;
}

int store_blob_truncate(const struct store_blob *b, uint64_t len, struct err *e)
{
	return sys.ftruncate(b->fd, (off_t)len) < 0 ? err_sys(e, "%s: set length", b->path) : 0;
}

static int write_zeros(const struct store_blob *b, uint64_t at, uint64_t n, struct err *e)
{
	static const uint8_t zeros[65536];
	struct stat st;

	if (fstat(b->fd, &st) < 0)
		return err_sys(e, "%s: stat", b->path);
	const uint64_t end = (uint64_t)st.st_size;
	while (n > 0 && at < end) {
		uint64_t some = n < sizeof(zeros) ? n : sizeof(zeros);
		if (some > end - at)
			some = end - at;
		if (store_blob_write(b, at, zeros, (size_t)some, e) < 0)
			return -1;
		at += some;
		n -= some;
	}
	return 0;
}

int store_blob_punch(const struct store_blob *b, uint64_t at, uint64_t n, struct err *e)
{
	int rc;

	do {
		rc = sys.fallocate(b->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n);
	} while (rc < 0 && errno == EINTR);
	if (rc == 0)
		return 0;
	if (errno == EOPNOTSUPP || errno == ENOSYS)
		return write_zeros(b, at, n, e);
	return err_sys(e, "%s: make a hole", b->path);
}

uint64_t store_blob_length(const struct store_blob *b)
{
	struct stat st;
	return fstat(b->fd, &st) < 0 ? 0 : (uint64_t)st.st_size;
}

#define AHEAD ((uint64_t)256 << 10)

void store_reader_fini(struct store_reader *r)
{
	free(r->buf);
	*r = (struct store_reader){ 0 };
}

/* As much as there is of AHEAD bytes. */
static int read_ahead(struct store_reader *r, uint64_t at, struct err *e)
{
	ssize_t n;

	if (!r->buf)
		r->buf = mem_alloc(AHEAD);
	r->len = 0;
	do {
		n = sys.pread(r->blob->fd, r->buf, AHEAD, (off_t)at);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return err_sys(e, "%s: read at %llu", r->blob->path, (unsigned long long)at);
	r->at = at;
	r->len = (uint64_t)n;
	return 0;
}

int store_reader_read(struct store_reader *r, const struct store_blob *b, uint64_t at, void *out, size_t n,
		      struct err *e)
{
	if (!r || n >= AHEAD / 4)
		return store_blob_read(b, at, out, n, e);
	if (r->blob != b) {
		r->blob = b;
		r->at = at;
		r->len = 0;
	}
	const bool within = at >= r->at && at + n <= r->at + r->len;
	/* From here on a little further at most: what comes next is probably behind it. */
	const bool near = at >= r->at && at <= r->at + r->len + AHEAD / 4;
	if (!within && !near) {
		r->at = at;
		r->len = 0;
		return store_blob_read(b, at, out, n, e);
	}
	if (!within && read_ahead(r, at, e) < 0)
		return -1;
	if (at + n > r->at + r->len)
		return store_blob_read(b, at, out, n, e);
	memcpy(out, r->buf + (at - r->at), n);
	return 0;
}

uint64_t store_sum_block(uint64_t salt, uint32_t volume, uint64_t block, const uint8_t *data)
{
	const uint64_t seed = salt + volume * UINT64_C(0x9e3779b97f4a7c15) + block;
	const uint64_t sum = XXH3_64bits_withSeed(data, STORE_BLOCK, seed);
	return sum ? sum : 1;
}

uint64_t store_sum_file(uint64_t salt, const void *data, size_t len)
{
	return XXH3_64bits_withSeed(data, len, salt);
}

bool store_is_zero(const uint8_t *data, size_t n)
{
	/* Equal to itself one byte further, and the first is zero. */
	return n == 0 || (data[0] == 0 && memcmp(data, data + 1, n - 1) == 0);
}

int store_extent_read(const struct store_extent *x, uint64_t skip, size_t n, uint8_t *out, uint64_t *sums, struct err *e)
{
	return store_extent_read_ahead(x, NULL, skip, n, out, sums, e);
}

int store_extent_read_ahead(const struct store_extent *x, struct store_reader *r, uint64_t skip, size_t n, uint8_t *out,
			    uint64_t *sums, struct err *e)
{
	assert(skip + n <= x->count);
	if (!x->blob) {
		memset(out, 0, n * STORE_BLOCK);
		memset(sums, 0, n * sizeof(*sums));
		return 0;
	}
	if (store_reader_read(r, x->blob, x->data_at + skip * STORE_BLOCK, out, n * STORE_BLOCK, e) < 0 ||
	    store_reader_read(r, x->blob, x->sums_at + skip * sizeof(*sums), sums, n * sizeof(*sums), e) < 0)
		return -1;
	for (size_t i = 0; i < n; i++)
		sums[i] = __builtin_bswap64(sums[i]);
	return 0;
}

int store_blocks_check(uint64_t salt, uint32_t volume, uint64_t block, size_t n, const uint8_t *data,
		       const uint64_t *sums, const char *what, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		const uint8_t *p = data + i * STORE_BLOCK;
		const bool good = sums[i] ? store_sum_block(salt, volume, block + i, p) == sums[i]
					  : store_is_zero(p, STORE_BLOCK);
		if (!good)
			return err_set(e, ERR_CORRUPT, "%s: block %llu of volume %u does not verify", what,
				       (unsigned long long)(block + i), volume);
	}
	return 0;
}
