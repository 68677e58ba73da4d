/*
 * fuzz_store.h - the frame of the fuzzers of a store: a folder, in memory where there is such a place, in which a store is put together file by file; it is
 * opened, and all that it offers is looked at.
 */
#ifndef VMFERRY_TESTS_FUZZ_STORE_H
#define VMFERRY_TESTS_FUZZ_STORE_H

#include "base/mem.h"
#include "base/sys.h"
#include "snapshot/store_impl.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define FUZZ_ID UINT64_C(0x0102030405060708)
#define FUZZ_SALT UINT64_C(0x1112131415161718)
#define FUZZ_CATALOGUE_SALT UINT64_C(0x3132333435363738) /* which the corpus gives */
#define FUZZ_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char fuzz_dir[64];

static int fuzz_sync_nothing(int fd)
{
	(void)fd;
	return 0;
}

static void fuzz_clean_up(void)
{
	struct err e = ERR_INIT;
	store_destroy(fuzz_dir, &e);
}

static void fuzz_put(const char *name, const void *data, size_t len)
{
	MEM_AUTO char *path = mem_printf("%s/%s", fuzz_dir, name);
	const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert(fd >= 0);
	const ssize_t n = len > 0 ? write(fd, data, len) : 0;
	assert(n == (ssize_t)len);
	close(fd);
}

/* A store's folders and vm.json; the rest is the fuzzer's. */
static void fuzz_begin(void)
{
	static const char *const folders[] = { "", "/journal", "/heads", "/files", "/undo" };
	static const char vm[] =
		"{\"format\":2,\"store\":\"0102030405060708\",\"salt\":\"1112131415161718\",\"vm\":{}}";
	MEM_AUTO char *sealed = mem_printf("%s\n#xxh3 %016" PRIx64 "\n", vm, (uint64_t)XXH3_64bits(vm, strlen(vm)));

	if (!fuzz_dir[0]) {
		sys.fsync = sys.fdatasync = fuzz_sync_nothing;
		strcpy(fuzz_dir,
		       access("/dev/shm", W_OK) == 0 ? "/dev/shm/fuzz_store_XXXXXX" : "/tmp/fuzz_store_XXXXXX");
		if (!mkdtemp(fuzz_dir))
			abort();
		atexit(fuzz_clean_up);
	}
	for (size_t i = 0; i < 5; i++) {
		MEM_AUTO char *path = mem_printf("%s%s", fuzz_dir, folders[i]);
		mkdir(path, 0700);
	}
	fuzz_put("vm.json", sealed, strlen(sealed));
}

/* `rots`: what a point lists may not be there, or be cut short; else what the store offers can be read. */
static void fuzz_read(struct store *s, uint64_t seq, bool rots)
{
	struct err e = ERR_INIT;
	struct store_volume list[STORE_MAX_VOLUMES];
	uint8_t data[4 * STORE_BLOCK];
	struct store_view *v = store_view_open(s, seq, &e);

	assert(v || (rots && e.cls == ERR_CORRUPT));
	const size_t n = v ? store_view_volumes(v, list, STORE_MAX_VOLUMES) : 0;
	for (uint32_t i = 0; i < n; i++) {
		const uint64_t blocks = store_blocks_of(list[i].size_bytes);
		for (uint64_t b = 0; b < blocks && b < (rots ? 16 : 64); b += 4) {
			const size_t some = blocks - b < 4 ? (size_t)(blocks - b) : 4;
			const int rc = store_view_read(v, i, b, some, data, NULL, &e);
			assert(rc == 0 || rots);
		}
	}
	if (v)
		free(store_view_file(v, "device", NULL, &e));
	store_view_close(v);
}

/* The store opens or refuses. then() has it at last, and closes it. */
static void fuzz_open(bool rots, void (*then)(struct store *s))
{
	struct err e = ERR_INIT;
	struct store_point *points = NULL;
	size_t n = 0;
	struct store *s = store_open(fuzz_dir, NULL, &e);

	if (s) {
		store_points(s, &points, &n, &e);
		for (size_t i = 0; i < n && i < 4; i++)
			fuzz_read(s, points[i].seq, rots);
		store_points_free(points, n);
		then(s);
	} else {
		assert(e.cls == ERR_REFUSED || e.cls == ERR_CORRUPT);
	}
	struct err gone = ERR_INIT;
	const int rc = store_destroy(fuzz_dir, &gone);
	assert(rc == 0);
}

#endif
