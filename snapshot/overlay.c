#include "snapshot/overlay.h"

#include "base/buf.h"
#include "base/fd.h"

#include <fcntl.h>
#include <unistd.h>

/* Layout: header, refcount table, one refcount block, L1 table; a cluster each, the L1 table as many as it needs. */
enum { CLUSTER = 65536, REFCOUNTS = CLUSTER / 2, HEADER = 104 };
#define L1_COVERS (UINT64_C(65536) * 8192) /* bytes behind one L1 entry */

static void pad(struct buf *b, size_t len)
{
	while (b->len < len)
		buf_put_u8(b, 0);
}

int overlay_create(const char *folder, uint64_t size_bytes, struct err *e)
{
	uint64_t l1_entries = (size_bytes + L1_COVERS - 1) / L1_COVERS;
	uint64_t l1_clusters = (l1_entries * 8 + CLUSTER - 1) / CLUSTER;
	if (size_bytes % 512 != 0 || l1_clusters + 3 > REFCOUNTS / 2)
		return err_set(e, ERR_REFUSED, "a disk of %llu bytes: no overlay for that size",
			       (unsigned long long)size_bytes);
	if (l1_clusters == 0)
		l1_clusters = 1;

	BUF_AUTO struct buf b = BUF_INIT;
	buf_put_be32(&b, 0x514649fb); /* QFI\xfb */
	buf_put_be32(&b, 3);
	buf_put_be64(&b, 0); /* no name of a backing file */
	buf_put_be32(&b, 0);
	buf_put_be32(&b, 16); /* cluster bits */
	buf_put_be64(&b, size_bytes);
	buf_put_be32(&b, 0); /* not encrypted */
	buf_put_be32(&b, (uint32_t)l1_entries);
	buf_put_be64(&b, 3 * CLUSTER); /* L1 table */
	buf_put_be64(&b, CLUSTER);     /* refcount table, of one cluster */
	buf_put_be32(&b, 1);
	buf_put_be32(&b, 0); /* snapshots */
	buf_put_be64(&b, 0);
	buf_put_be64(&b, 0); /* incompatible, compatible, autoclear features */
	buf_put_be64(&b, 0);
	buf_put_be64(&b, 0);
	buf_put_be32(&b, 4); /* refcounts of 16 bits */
	buf_put_be32(&b, HEADER);
	pad(&b, CLUSTER); /* among it the end of header extensions */
	buf_put_be64(&b, 2 * CLUSTER);
	pad(&b, 2 * CLUSTER);
	for (uint64_t i = 0; i < 3 + l1_clusters; i++)
		buf_put_be16(&b, 1);

	FD_AUTO int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(e, "a file in %s for the blocks that a point in time needs", folder);
	if (fd_write_full(fd, b.data, b.len, e))
		return -1;
	if (ftruncate(fd, (off_t)((3 + l1_clusters) * CLUSTER)))
		return err_sys(e, "a file in %s for the blocks that a point in time needs", folder);
	int out = fd;
	fd = -1;
	return out;
}
