/*
 * Arbitrary bytes as QEMU's stream: every page that is told lies in a block that was listed, nothing is read beyond the
 * input, what was read of the head comes back as it was. After the RAM the rest is taken as COLO's messages.
 */
#include "base/buf.h"
#include "snapshot/ram_reader.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(x)                 \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct told {
	struct ram_block blocks[RAM_READER_MAX_BLOCKS];
	size_t n;
	uint64_t sum;
};

static int on_blocks(void *ctx, const struct ram_block *b, size_t n, struct err *e)
{
	struct told *t = ctx;
	(void)e;
	CHECK(n <= RAM_READER_MAX_BLOCKS);
	for (size_t i = 0; i < n; i++)
		CHECK(b[i].bytes > 0 && b[i].bytes % 4096 == 0 &&
		      strnlen(b[i].name, sizeof(b[i].name)) < sizeof(b[i].name));
	memcpy(t->blocks, b, n * sizeof(*b));
	t->n = n;
	return 0;
}

static int on_page(void *ctx, uint32_t block, uint64_t page, const uint8_t *data, struct err *e)
{
	struct told *t = ctx;
	(void)e;
	CHECK(block < t->n && page < t->blocks[block].bytes / 4096);
	t->sum += data[0] + data[4095];
	return 0;
}

static int on_zero(void *ctx, uint32_t block, uint64_t page, struct err *e)
{
	struct told *t = ctx;
	(void)e;
	CHECK(block < t->n && page < t->blocks[block].bytes / 4096);
	return 0;
}

static void on_end(void *ctx)
{
	(void)ctx;
}

static void take_apart(struct ram_reader *r, const uint8_t *data, size_t size)
{
	struct err e = ERR_INIT;
	struct told t = { 0 };
	const struct ram_reader_sink sink = { on_blocks, on_page, on_zero, on_end, &t };
	BUF_AUTO struct buf rest = BUF_INIT;
	enum ram_reader_stop stop;
	size_t len;
	uint32_t word;
	uint64_t n;
	if (ram_reader_head(r, &e)) {
		CHECK(e.cls == ERR_CORRUPT || e.cls == ERR_PEER);
		return;
	}
	const uint8_t *header = ram_reader_header(r, &len);
	CHECK(len <= size && memcmp(header, data, len) == 0);
	for (int round = 0; round < 3; round++) {
		if (ram_reader_sections(r, &sink, &stop, &e)) {
			CHECK(e.cls == ERR_CORRUPT || e.cls == ERR_PEER);
			return;
		}
		if (stop == RAM_READER_DEVICE) {
			CHECK(ram_reader_rest(r, size, &rest, &e) == 0 && rest.len > 0 && rest.data[0] == 4);
			return;
		}
		if (ram_reader_be32(r, &word, &e) || ram_reader_be64(r, &n, &e) || n > 4096 ||
		    ram_reader_take(r, (size_t)n, &rest, &e))
			return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ram_reader *r = ram_reader_new_memory(data, size);
	take_apart(r, data, size);
	ram_reader_free(r);
	return 0;
}
