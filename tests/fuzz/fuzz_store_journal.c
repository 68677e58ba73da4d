/*
 * A journal of any bytes: records with whatever they say, sealed again so that they get past the checksums. The store opens or refuses; what it offers can
 * be read, applied and verified.
 */
#include "base/clock.h"
#include "base/cursor.h"
#include "base/mem.h"
#include "base/sys.h"
#include "snapshot/store_impl.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define ID UINT64_C(0x0102030405060708)
#define SALT UINT64_C(0x1112131415161718)
#define SEGMENT_SALT UINT64_C(0x2122232425262728)

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

static void put_sealed(const char *name, const char *json)
{
	MEM_AUTO char *text = mem_printf("%s\n#xxh3 %016" PRIx64 "\n", json, (uint64_t)XXH3_64bits(json, strlen(json)));
	put_file(name, text, strlen(text));
}

static void put_store(const struct buf *journal)
{
	static const char *const folders[] = { "", "/journal", "/heads", "/files", "/undo" };
	static const char first[] =
		"{\"format\":2,\"store\":\"0102030405060708\",\"salt\":\"3132333435363738\",\"applied\":0,"
		"\"redo\":{\"segment\":1,\"offset\":64},\"next_volume\":1,\"volumes\":[],\"files\":[],\"points\":[]}";

	for (size_t i = 0; i < 5; i++) {
		MEM_AUTO char *path = mem_printf("%s%s", dir, folders[i]);
		mkdir(path, 0700);
	}
	put_sealed("vm.json", "{\"format\":2,\"store\":\"0102030405060708\",\"salt\":\"1112131415161718\",\"vm\":{}}");
	MEM_AUTO char *line = mem_printf("%016" PRIx64 " %s\n", (uint64_t)XXH3_64bits(first, strlen(first)), first);
	put_file("catalogue.log", line, strlen(line));
	put_file("journal/00000001.wal", journal->data, journal->len);
}

/* Records, one after the other: header of the input, as much payload as it says and there is; with checksums that are right. COMMITs vouch for what they find. */
static void seal(const uint8_t *data, size_t size, struct buf *out)
{
	uint8_t head[STORE_SEG_HEAD];
	uint64_t chain = 0, records = 0, bytes = 0;

	store_seg_encode(ID, 1, SEGMENT_SALT, head);
	buf_append(out, head, sizeof(head));
	while (size >= STORE_REC_HEAD) {
		struct store_rec r;
		uint8_t encoded[STORE_REC_HEAD];
		const uint64_t seed = store_rec_seed(SEGMENT_SALT, out->len);
		store_rec_decode(&r, seed, data);
		data += STORE_REC_HEAD;
		size -= STORE_REC_HEAD;
		if (r.length > size)
			r.length = (uint32_t)size;
		BUF_AUTO struct buf payload = BUF_INIT;
		buf_reserve(&payload, r.length + 1u);
		buf_append(&payload, data, r.length);
		data += r.length;
		size -= r.length;
		const uint8_t *summed = payload.data;
		size_t n = r.length;
		if (r.type == STORE_REC_BLOCKS && r.b > 0 && r.b <= STORE_RUN && n == r.b * (STORE_BLOCK + 8)) {
			summed += r.b * STORE_BLOCK;
			n = (size_t)r.b * 8;
			for (size_t i = 0; i < r.b; i++) {
				BUF_AUTO struct buf sum = BUF_INIT;
				buf_put_be64(&sum,
					     store_sum_block(SALT, r.volume, r.a + i, payload.data + i * STORE_BLOCK));
				memcpy(payload.data + r.b * STORE_BLOCK + 8 * i, sum.data, 8);
			}
		} else if (r.type == STORE_REC_COMMIT && n >= 32) {
			BUF_AUTO struct buf said = BUF_INIT;
			buf_put_be64(&said, records);
			buf_put_be64(&said, bytes);
			buf_put_be64(&said, chain);
			memcpy(payload.data + 8, said.data, said.len);
		}
		r.payload_sum = store_rec_payload_sum(seed, summed, n);
		store_rec_encode(&r, seed, encoded);
		buf_append(out, encoded, sizeof(encoded));
		buf_append(out, payload.data, r.length);
		chain = store_rec_chain(chain, r.head_sum);
		records++;
		bytes += STORE_REC_HEAD + r.length;
		if (r.type == STORE_REC_COMMIT)
			chain = records = bytes = 0;
	}
	buf_append(out, data, size);
}

static void read_some(struct store *s, uint64_t seq)
{
	struct err e = ERR_INIT;
	struct store_volume list[STORE_MAX_VOLUMES];
	uint8_t data[4 * STORE_BLOCK];
	struct store_view *v = store_view_open(s, seq, &e);

	assert(v);
	const size_t n = store_view_volumes(v, list, STORE_MAX_VOLUMES);
	for (uint32_t i = 0; i < n; i++) {
		const uint64_t blocks = store_blocks_of(list[i].size_bytes);
		for (uint64_t b = 0; b < blocks && b < 64; b += 4) {
			const size_t some = blocks - b < 4 ? (size_t)(blocks - b) : 4;
			const int rc = store_view_read(v, i, b, some, data, NULL, &e);
			assert(rc == 0);
		}
	}
	free(store_view_file(v, "device", NULL, &e));
	store_view_close(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool begun;
	struct err e = ERR_INIT;
	BUF_AUTO struct buf journal = BUF_INIT;
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
	seal(data, size, &journal);
	put_store(&journal);
	struct store *s = store_open(dir, NULL, &e);
	if (s) {
		store_points(s, &points, &n, &e);
		for (size_t i = 0; i < n && i < 4; i++)
			read_some(s, points[i].seq);
		store_points_free(points, n);
		store_close(s);
	} else {
		assert(e.cls == ERR_REFUSED || e.cls == ERR_CORRUPT);
	}
	struct err gone = ERR_INIT;
	const int rc = store_destroy(dir, &gone);
	assert(rc == 0);
	return 0;
}
