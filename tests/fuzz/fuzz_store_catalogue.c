/*
 * A catalogue of any lines, each sealed so that it gets past its checksum; one that begins with '!' is not. The store opens or refuses; what it offers is read or
 * refused, and it goes on.
 */
#include "base/clock.h"
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

#define SALT UINT64_C(0x3132333435363738) /* which the corpus gives */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static int sync_nothing(int fd)
{
	(void)fd;
	return 0;
}

static void clean_up(void)
{
	struct err e = ERR_INIT;
	store_destroy(dir, &e);
}

static void put_file(const char *name, const void *data, size_t len)
{
	MEM_AUTO char *path = mem_printf("%s/%s", dir, name);
	const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert(fd >= 0);
	const ssize_t n = write(fd, data, len);
	assert(n == (ssize_t)len);
	close(fd);
}

static void put_store(const struct buf *catalogue)
{
	static const char *const folders[] = { "", "/journal", "/heads", "/files", "/undo" };
	static const char vm[] =
		"{\"format\":2,\"store\":\"0102030405060708\",\"salt\":\"1112131415161718\",\"vm\":{}}";
	MEM_AUTO char *sealed = mem_printf("%s\n#xxh3 %016" PRIx64 "\n", vm, (uint64_t)XXH3_64bits(vm, strlen(vm)));

	for (size_t i = 0; i < 5; i++) {
		MEM_AUTO char *path = mem_printf("%s%s", dir, folders[i]);
		mkdir(path, 0700);
	}
	put_file("vm.json", sealed, strlen(sealed));
	put_file("catalogue.log", catalogue->data ? catalogue->data : (const uint8_t *)"", catalogue->len);
}

static void seal(const uint8_t *data, size_t size, struct buf *out)
{
	while (size > 0) {
		const uint8_t *end = memchr(data, '\n', size);
		const size_t len = end ? (size_t)(end - data) : size;
		const uint64_t seed = out->len > 0 ? SALT + out->len : 0;
		const uint64_t sum = XXH3_64bits_withSeed(data, len, seed) ^ (len > 0 && data[0] == '!');
		buf_printf(out, "%016" PRIx64 " ", sum);
		buf_append(out, data, len);
		if (end)
			buf_append(out, "\n", 1);
		data += len + (end != NULL);
		size -= len + (end != NULL);
	}
}

static void read_some(struct store *s, uint64_t seq)
{
	struct err e = ERR_INIT;
	struct store_volume list[STORE_MAX_VOLUMES];
	uint8_t data[4 * STORE_BLOCK];
	struct store_view *v = store_view_open(s, seq, &e);

	if (!v) {
		assert(e.cls == ERR_CORRUPT);
		return;
	}
	const size_t n = store_view_volumes(v, list, STORE_MAX_VOLUMES);
	for (uint32_t i = 0; i < n; i++) {
		const uint64_t blocks = store_blocks_of(list[i].size_bytes);
		for (uint64_t b = 0; b < blocks && b < 16; b += 4)
			store_view_read(v, i, b, blocks - b < 4 ? (size_t)(blocks - b) : 4, data, NULL, &e);
	}
	free(store_view_file(v, "device", NULL, &e));
	store_view_close(v);
}

/* A point more, and it is there after opening again. */
static void go_on(struct store *s)
{
	struct err e = ERR_INIT;
	uint64_t seq = 0;
	struct store_txn *t = store_begin(s, STORE_TXN_POINT, &e);
	const bool done = t && store_commit(t, NULL, &seq, &e) == 0;

	store_close(s);
	s = done ? store_open(dir, NULL, &e) : NULL;
	if (!s)
		return;
	struct store_view *v = store_view_open(s, 0, &e);
	assert(v && store_view_seq(v) == seq);
	store_view_close(v);
	store_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool begun;
	struct err e = ERR_INIT;
	BUF_AUTO struct buf catalogue = BUF_INIT;
	struct store_point *points = NULL;
	size_t n = 0;

	if (!begun) {
		begun = true;
		sys.fsync = sys.fdatasync = sync_nothing;
		strcpy(dir, access("/dev/shm", W_OK) == 0 ? "/dev/shm/fuzz_store_XXXXXX" : "/tmp/fuzz_store_XXXXXX");
		if (!mkdtemp(dir))
			abort();
		atexit(clean_up);
	}
	if (size > (1u << 20))
		return 0;
	seal(data, size, &catalogue);
	put_store(&catalogue);
	struct store *s = store_open(dir, NULL, &e);
	if (s) {
		store_points(s, &points, &n, &e);
		for (size_t i = 0; i < n && i < 4; i++)
			read_some(s, points[i].seq);
		store_points_free(points, n);
		go_on(s);
	} else {
		assert(e.cls == ERR_REFUSED || e.cls == ERR_CORRUPT);
	}
	struct err gone = ERR_INIT;
	const int rc = store_destroy(dir, &gone);
	assert(rc == 0);
	return 0;
}
