/*
 * replica_fixture.h - two hosts in one process for tests of replication: links over TLS, a store on the target, a guest's memory and disk
 * that exist only here.
 */
#ifndef VMFERRY_TESTS_REPLICA_FIXTURE_H
#define VMFERRY_TESTS_REPLICA_FIXTURE_H

#include "transport_fixture.h"

#include "base/fault.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/sys.h"
#include "base/thread.h"
#include "snapshot/capture.h"
#include "snapshot/store.h"

#include <jansson.h>
#include <stdatomic.h>

#define GUEST_UUID "6b0e4a2c-0000-4000-8000-000000000001"

UNUSED static int no_sync(int fd)
{
	(void)fd;
	return 0;
}

/* Durability is what the store's own tests are about; here thousands of commits have to be quick on a busy disk. */
UNUSED static void replica_no_sync(void)
{
	sys.fsync = no_sync;
	sys.fdatasync = no_sync;
}

/* ---- a guest that is memory alone ---- */
struct machine {
	uint64_t ram_blocks, disk_blocks;
	uint8_t *ram, *disk;
	bool *ram_dirty, *disk_dirty;
	uint64_t device; /* changes with every checkpoint */
};

UNUSED static struct machine *machine_new(uint64_t ram_blocks, uint64_t disk_blocks)
{
	struct machine *m = mem_alloc(sizeof(*m));

	m->ram_blocks = ram_blocks;
	m->disk_blocks = disk_blocks;
	m->ram = mem_alloc_array(ram_blocks, STORE_BLOCK);
	m->disk = mem_alloc_array(disk_blocks, STORE_BLOCK);
	m->ram_dirty = mem_alloc_array(ram_blocks, 1);
	m->disk_dirty = mem_alloc_array(disk_blocks, 1);
	return m;
}

UNUSED static void machine_free(struct machine *m)
{
	free(m->ram);
	free(m->disk);
	free(m->ram_dirty);
	free(m->disk_dirty);
	free(m);
}

/* Contents that say where and when they were written, of which a part compresses. */
UNUSED static void machine_write(struct machine *m, bool disk, uint64_t block, uint64_t version)
{
	uint8_t *p = (disk ? m->disk : m->ram) + block * STORE_BLOCK;
	uint64_t x = (block << 20 ^ version ^ (disk ? 7 : 0)) * UINT64_C(0x9e3779b97f4a7c15) + 1;

	for (unsigned i = 0; i < STORE_BLOCK / 8; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		const uint64_t v = i % 4 ? x : version;
		memcpy(p + (size_t)8 * i, &v, 8);
	}
	(disk ? m->disk_dirty : m->ram_dirty)[block] = true;
}

/* A few bytes of a block, as a counter does. */
UNUSED static void machine_poke(struct machine *m, bool disk, uint64_t block, uint64_t value)
{
	memcpy((disk ? m->disk : m->ram) + block * STORE_BLOCK + 128, &value, sizeof(value));
	(disk ? m->disk_dirty : m->ram_dirty)[block] = true;
}

/* Gives all, or what is dirty, to a sink; as a capture does. */
UNUSED static int machine_give(struct machine *m, const struct capture_sink *sink, bool all_ram, bool all_disk, bool files, struct err *e)
{
	const struct capture_volume v[] = { { .ram = true, .name = "pc.ram", .size_bytes = m->ram_blocks * STORE_BLOCK },
					    { .name = "vda", .size_bytes = m->disk_blocks * STORE_BLOCK } };

	if (sink->volumes(sink->ctx, v, m->disk_blocks ? 2 : 1, e) < 0)
		return -1;
	for (uint64_t b = 0; b < m->ram_blocks; b++)
		if ((all_ram || m->ram_dirty[b]) && sink->page(sink->ctx, 0, b, m->ram + b * STORE_BLOCK, e) < 0)
			return -1;
	for (uint64_t b = 0; b < m->disk_blocks && files; b++)
		if ((all_disk || m->disk_dirty[b]) && sink->page(sink->ctx, 1, b, m->disk + b * STORE_BLOCK, e) < 0)
			return -1;
	memset(m->ram_dirty, 0, m->ram_blocks);
	if (!files)
		return 0;
	memset(m->disk_dirty, 0, m->disk_blocks);
	m->device++;
	return sink->file(sink->ctx, "device", &m->device, sizeof(m->device), e);
}

/* The newest contents (or a point's) are the machine's. */
UNUSED static void machine_check(const struct machine *m, struct store_view *v)
{
	struct store_volume vol[STORE_MAX_VOLUMES];
	struct err e = ERR_INIT;
	uint8_t *buf = mem_alloc_array(256, STORE_BLOCK);
	const size_t n = store_view_volumes(v, vol, STORE_MAX_VOLUMES);

	ck_assert_uint_eq(n, m->disk_blocks ? 2 : 1);
	for (uint32_t i = 0; i < n; i++) {
		const uint64_t blocks = i ? m->disk_blocks : m->ram_blocks;
		const uint8_t *want = i ? m->disk : m->ram;
		ck_assert_uint_eq(vol[i].size_bytes, blocks * STORE_BLOCK);
		for (uint64_t b = 0; b < blocks; b += 256) {
			const size_t part = blocks - b < 256 ? (size_t)(blocks - b) : 256;
			OK(store_view_read(v, i, b, part, buf, NULL, &e), e);
			for (size_t k = 0; k < part; k++)
				ck_assert_msg(memcmp(buf + k * STORE_BLOCK, want + (b + k) * STORE_BLOCK, STORE_BLOCK) == 0,
					      "volume %u block %llu differs", i, (unsigned long long)(b + k));
		}
	}
	free(buf);
}

/* ---- links ---- */

/* n links over TLS (or UNIX sockets without contexts): a[] have connected, b[] have accepted. */
UNUSED static void replica_links(struct tls_ctx *c1, struct tls_ctx *c2, size_t n, struct link **a, struct link **b)
{
	for (size_t i = 0; i < n; i++) {
		struct link *l[2];
		if (c1)
			fixture_links(c1, c2, l);
		else
			fixture_local_links(l);
		a[i] = l[0];
		b[i] = l[1];
	}
}

#endif
