/*
 * Arbitrary bytes as a migration stream: what the sink is told, put together, is the input; how the bytes were
 * cut, and what the sink refused for now, makes no difference. The first byte is how to cut.
 */
#include "base/buf.h"
#include "snapshot/qemu_stream.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(x)                 \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct told {
	struct buf bytes;
	uint64_t pages; /* a checksum of the calls that matter */
	unsigned refuse;
	unsigned calls;
	unsigned ram_ends;
};

static int refuse(struct told *t)
{
	t->calls++;
	return t->refuse && t->calls % t->refuse == 0 ? -1 : 0;
}

static void note(struct told *t, uint64_t v)
{
	t->pages = (t->pages ^ v) * UINT64_C(0x100000001b3);
}

static int on_literal(void *ctx, const uint8_t *p, size_t n)
{
	struct told *t = ctx;
	if (refuse(t))
		return -1;
	CHECK(n > 0);
	buf_append(&t->bytes, p, n);
	return 0;
}

static int on_page(void *ctx, uint32_t block, uint64_t addr, bool cont, const uint8_t *data)
{
	struct told *t = ctx;
	if (refuse(t))
		return -1;
	CHECK(addr % 4096 == 0);
	if (cont)
		buf_put_be64(&t->bytes, addr | 0x28);
	buf_append(&t->bytes, data, 4096);
	note(t, (uint64_t)block << 40 ^ addr ^ cont);
	return 0;
}

static int on_zero(void *ctx, uint32_t block, uint64_t addr)
{
	struct told *t = ctx;
	if (refuse(t))
		return -1;
	buf_put_be64(&t->bytes, addr | 0x22);
	buf_put_u8(&t->bytes, 0);
	note(t, (uint64_t)block << 40 ^ addr ^ 2);
	return 0;
}

static void on_ram_end(void *ctx)
{
	struct told *t = ctx;
	t->ram_ends++;
}

/* Returns how much was consumed. */
static size_t feed(struct told *t, const uint8_t *data, size_t size, size_t step)
{
	const struct qemu_stream_sink sink = { on_literal, on_page, on_zero, on_ram_end, t };
	struct qemu_stream *s = qemu_stream_new(&sink);
	size_t at = 0, seen = 0;
	unsigned idle = 0;
	while (at < size && idle < 64) {
		seen = size - seen < step ? size : seen + step;
		size_t used = qemu_stream_feed(s, data + at, seen - at);
		CHECK(used <= seen - at);
		/* An incomplete unit is short. (Only the sink's refusal may leave more.) */
		CHECK(t->refuse || seen - at - used <= 4400);
		at += used;
		idle = used == 0 && seen == size ? idle + 1 : 0;
	}
	const char *why = NULL;
	if (qemu_stream_passthrough(s, &why))
		CHECK(why != NULL);
	CHECK(t->ram_ends <= 1);
	CHECK(t->bytes.len == at && (at == 0 || memcmp(t->bytes.data, data, at) == 0));
	qemu_stream_free(s);
	return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t steps[] = { 1, 7, 64, 4095, 4104, 65536 };
	if (size < 1)
		return 0;
	size_t step = steps[data[0] % 6];
	if (size / step > 100000)
		step = 4104;
	struct told whole = { 0 }, cut = { .refuse = data[0] & 0x80 ? 2 + data[0] % 3 : 0 };
	size_t a = feed(&whole, data + 1, size - 1, SIZE_MAX / 2);
	size_t b = feed(&cut, data + 1, size - 1, step);
	CHECK(a == b);
	CHECK(whole.pages == cut.pages && whole.ram_ends == cut.ram_ends);
	buf_fini(&whole.bytes);
	buf_fini(&cut.bytes);
	return 0;
}
