/*
 * bench-store FOLDER [MIB]: how fast a replica store takes blocks in, applies them and reads them back, in that folder (which must not exist).
 */
#include "snapshot/store.h"
#include "base/clock.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double since(int64_t start)
{
	return (double)(clock_mono_ns() - start) / (double)NS_PER_S;
}

static int must(int rc, const struct err *e)
{
	if (rc < 0) {
		fprintf(stderr, "bench-store: %s\n", e->text);
		exit(1);
	}
	return rc;
}

/* Every stride-th block, new contents. */
static double stage(struct store *s, uint64_t blocks, uint64_t stride, uint64_t version, double *cpu, double *commit)
{
	struct err e = ERR_INIT;
	uint64_t data[STORE_BLOCK / 8];
	const struct store_volume v = { .kind = STORE_RAM, .name = "pc.ram", .size_bytes = blocks * STORE_BLOCK };

	for (size_t i = 0; i < STORE_BLOCK / 8; i++)
		data[i] = i * UINT64_C(0x9e3779b97f4a7c15);
	struct store_txn *t = store_begin(s, STORE_TXN_POINT, &e);
	must(t ? 0 : -1, &e);
	const int64_t start = clock_mono_ns(), cpu_start = clock_thread_cpu_ns();
	if (version == 1)
		must(store_txn_volumes(t, &v, 1, &e), &e);
	for (uint64_t b = 0; b < blocks; b += stride) {
		data[0] = b;
		data[7] = version;
		must(store_txn_block(t, 0, b, (const uint8_t *)data, &e), &e);
	}
	*cpu = (double)(clock_thread_cpu_ns() - cpu_start) / (double)NS_PER_S;
	const int64_t staged = clock_mono_ns();
	must(store_commit(t, NULL, NULL, &e), &e);
	*commit = since(staged);
	return since(start);
}

static void read_back(struct store *s, uint64_t seq, uint64_t blocks)
{
	struct err e = ERR_INIT;
	MEM_AUTO uint8_t *out = mem_alloc_array(256, STORE_BLOCK);
	const int64_t opening = clock_mono_ns();
	struct store_view *v = store_view_open(s, seq, &e);

	must(v ? 0 : -1, &e);
	const double opened = since(opening);
	const int64_t start = clock_mono_ns();
	for (uint64_t b = 0; b < blocks; b += 256)
		must(store_view_read(v, 0, b, blocks - b < 256 ? (size_t)(blocks - b) : 256, out, NULL, &e), &e);
	printf("read point %llu: open %.1f ms, %.0f MB/s\n", (unsigned long long)seq, opened * 1e3,
	       (double)(blocks * STORE_BLOCK) / 1e6 / since(start));
	store_view_close(v);
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	const uint64_t blocks = (argc > 2 ? strtoull(argv[2], NULL, 10) : 512) * 256;

	if (argc < 2 || argv[1][0] == '-' || blocks == 0) {
		fprintf(stderr, "usage: bench-store FOLDER [MIB]: how fast a replica store is, in that folder\n");
		return 2;
	}
	struct store *s = store_create(argv[1], NULL, NULL, &e);
	must(s ? 0 : -1, &e);
	for (uint64_t version = 1; version <= 3; version++) {
		double cpu = 0, commit = 0;
		const uint64_t stride = version == 3 ? 4 : 1;
		const double mb = (double)(blocks / stride * STORE_BLOCK) / 1e6;
		const double took = stage(s, blocks, stride, version, &cpu, &commit);
		printf("point %llu, %s: stage and commit %.0f MB/s (%.0f MB per second of CPU; the commit itself %.0f "
		       "ms)",
		       (unsigned long long)version, stride == 1 ? "all blocks" : "every 4th block", mb / took, mb / cpu,
		       commit * 1e3);
		const int64_t start = clock_mono_ns();
		must(store_settle(s, INT64_MAX, &e), &e);
		printf(", apply %.0f MB/s\n", mb / since(start));
	}
	for (uint64_t seq = 1; seq <= 3; seq++)
		read_back(s, seq, blocks);
	const int64_t start = clock_mono_ns();
	must(store_verify(s, NULL, NULL, &e), &e);
	printf("verify: %.1f s\n", since(start));
	store_close(s);
	return must(store_destroy(argv[1], &e), &e);
}
