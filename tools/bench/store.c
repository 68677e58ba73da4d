/*
 * bench-store FOLDER [MIB]: how fast a replica store takes blocks in, applies them and reads them back, in that folder (which must not exist). Then small
 * points one after the other, of which few and then many are kept: what of it costs more with many.
 */
#include "snapshot/store.h"
#include "base/clock.h"
#include "base/mem.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SMALL 512u /* blocks of a small point, here and there */
#define SMALL_POINTS 200u
#define ROUNDS 5u

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

static double cpu_seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void small_point(struct store *s, uint64_t blocks, uint64_t version)
{
	struct err e = ERR_INIT;
	uint64_t data[STORE_BLOCK / 8], block = version * 7919;
	const struct store_volume v = { .kind = STORE_RAM, .name = "pc.ram", .size_bytes = blocks * STORE_BLOCK };
	char device[16384];
	struct store_txn *t = store_begin(s, STORE_TXN_POINT, &e);

	must(t ? 0 : -1, &e);
	if (version == 1)
		must(store_txn_volumes(t, &v, 1, &e), &e);
	for (size_t i = 0; i < STORE_BLOCK / 8; i++)
		data[i] = i * UINT64_C(0x9e3779b97f4a7c15) + version;
	memset(device, (int)version, sizeof(device));
	for (size_t i = 0; i < SMALL; i++) {
		block = (block + 1 + blocks / SMALL / 2) % blocks;
		data[0] = i;
		must(store_txn_block(t, 0, block, (const uint8_t *)data, &e), &e);
	}
	must(store_txn_file(t, "device", device, sizeof(device), &e), &e);
	json_t *meta = json_pack("{s:s, s:s, s:I}", "id", "20261126T170000.000Z-0001", "kind", "memory", "instant_ns",
				 (json_int_t)clock_wall_ns());
	must(store_commit(t, meta, NULL, &e), &e);
	json_decref(meta);
}

static bool is_newer(void *ctx, const struct store_point *p)
{
	return p->seq > *(const uint64_t *)ctx;
}

/* What a failover waits for here: that all is applied, the latest point, and its memory. Seconds. */
static double fail_over(struct store *s, uint64_t blocks)
{
	struct err e = ERR_INIT;
	MEM_AUTO uint8_t *out = mem_alloc_array(256, STORE_BLOCK);
	const int64_t start = clock_mono_ns();

	must(store_settle(s, INT64_MAX, &e), &e);
	struct store_view *v = store_view_open(s, 0, &e);
	must(v ? 0 : -1, &e);
	for (uint64_t b = 0; b < blocks; b += 256)
		must(store_view_read(v, 0, b, blocks - b < 256 ? (size_t)(blocks - b) : 256, out, NULL, &e), &e);
	store_view_close(v);
	return since(start);
}

static int forget_file(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)at;
	const int fd = type == FTW_F && st->st_size > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (fd < 0)
		return 0;
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
	return 0;
}

/* Seconds. Cold: nothing that its files hold is cached, where the file system can forget it. */
static double reopen(const char *dir, bool cold)
{
	struct err e = ERR_INIT;

	if (cold)
		nftw(dir, forget_file, 16, FTW_PHYS);
	const int64_t start = clock_mono_ns();
	struct store *s = store_open(dir, NULL, &e);
	must(s ? 0 : -1, &e);
	const double took = since(start);
	store_close(s);
	return took;
}

struct figures {
	double reached, reopened, reopened_cold;
};

static void small_points(const char *dir, uint64_t blocks, uint64_t keep, struct figures *f)
{
	struct err e = ERR_INIT;
	struct store *s = store_create(dir, NULL, NULL, &e);
	double cpu = 0;
	int64_t start = 0;

	must(s ? 0 : -1, &e);
	for (uint64_t i = 1; i <= keep + SMALL_POINTS; i++) {
		if (i == keep + 1) {
			cpu = cpu_seconds();
			start = clock_mono_ns();
		}
		small_point(s, blocks, i);
		uint64_t gone = i - keep;
		if (i > keep && i % 10 == 0)
			must(store_prune(s, is_newer, &gone, &e), &e);
	}
	const double mb = (double)SMALL_POINTS * SMALL * STORE_BLOCK / 1e6;
	printf("points of %u blocks, %llu kept: %.0f MB/s, %.0f MB per second of CPU\n", SMALL,
	       (unsigned long long)keep, mb / since(start), mb / (cpu_seconds() - cpu));
	f->reached = fail_over(s, blocks);
	store_close(s);
	f->reopened = reopen(dir, false);
	f->reopened_cold = reopen(dir, true);
	must(store_destroy(dir, &e), &e);
}

static int by_size(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

/* Of that member, in ms. */
static double median(const struct figures *f, size_t member)
{
	double v[ROUNDS];

	for (size_t i = 0; i < ROUNDS; i++)
		memcpy(&v[i], (const char *)&f[i] + member, sizeof(v[i]));
	qsort(v, ROUNDS, sizeof(*v), by_size);
	return v[ROUNDS / 2] * 1e3;
}

/* In turn, so that what else the machine does hits both. */
static void few_and_many(const char *dir, uint64_t blocks)
{
	static const uint64_t keep[] = { 1, 500 };
	struct figures f[2][ROUNDS];

	for (size_t i = 0; i < ROUNDS; i++)
		for (size_t k = 0; k < 2; k++)
			small_points(dir, blocks, keep[k], &f[k][i]);
	for (size_t k = 0; k < 2; k++)
		printf("%llu points kept: latest one applied and read in %.0f ms, a closed store opened in %.1f ms, in "
		       "%.1f ms with nothing cached (medians of %u)\n",
		       (unsigned long long)keep[k], median(f[k], offsetof(struct figures, reached)),
		       median(f[k], offsetof(struct figures, reopened)),
		       median(f[k], offsetof(struct figures, reopened_cold)), ROUNDS);
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
	must(store_destroy(argv[1], &e), &e);
	few_and_many(argv[1], blocks);
	return 0;
}
