#include "base/buf.h"
#include "snapshot/qemu_stream.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* ---- a stream, as QEMU 7.2 writes it ---- */

static void put_name(struct buf *b, const char *name)
{
	buf_put_u8(b, (uint8_t)strlen(name));
	buf_append(b, name, strlen(name));
}

static void put_magic(struct buf *b)
{
	buf_append(b, "QEVM", 4);
	buf_put_be32(b, 3);
}

static void put_configuration(struct buf *b)
{
	buf_put_u8(b, 7);
	buf_put_be32(b, 10);
	buf_append(b, "pc-q35-7.2", 10);
}

static void put_subsection(struct buf *b, const char *name, uint32_t first)
{
	buf_put_u8(b, 5);
	put_name(b, name);
	buf_put_be32(b, 1);
	buf_put_be32(b, first);
}

static void put_command(struct buf *b, uint16_t command, const char *data, uint16_t len)
{
	buf_put_u8(b, 8);
	buf_put_be16(b, command);
	buf_put_be16(b, len);
	buf_append(b, data, len);
}

static void put_ram_start(struct buf *b, uint32_t sid)
{
	buf_put_u8(b, 1);
	buf_put_be32(b, sid);
	put_name(b, "ram");
	buf_put_be32(b, 0);
	buf_put_be32(b, 4);
	buf_put_be64(b, 0x30000 | 4);
	put_name(b, "pc.ram");
	buf_put_be64(b, 0x20000);
	put_name(b, "vga.vram");
	buf_put_be64(b, 0x10000);
}

static void put_section_end(struct buf *b, uint32_t sid)
{
	buf_put_be64(b, 0x10);
	buf_put_u8(b, 0x7e);
	buf_put_be32(b, sid);
}

static void put_section(struct buf *b, uint8_t kind, uint32_t sid)
{
	buf_put_u8(b, kind);
	buf_put_be32(b, sid);
}

static void put_page_data(struct buf *b, uint8_t seed)
{
	uint8_t *p = buf_reserve(b, 4096);
	for (unsigned i = 0; i < 4096; i++)
		p[i] = (uint8_t)(i * 7 + seed);
	b->len += 4096;
}

static void put_page(struct buf *b, uint64_t addr, const char *block, uint8_t seed)
{
	buf_put_be64(b, addr | 8 | (block ? 0 : 0x20));
	if (block)
		put_name(b, block);
	put_page_data(b, seed);
}

static void put_zero(struct buf *b, uint64_t addr, const char *block, uint8_t fill)
{
	buf_put_be64(b, addr | 2 | (block ? 0 : 0x20));
	if (block)
		put_name(b, block);
	buf_put_u8(b, fill);
}

static void put_head(struct buf *b)
{
	put_magic(b);
	put_configuration(b);
	put_ram_start(b, 2);
	put_section_end(b, 2);
}

static void put_whole(struct buf *b)
{
	put_magic(b);
	put_configuration(b);
	put_subsection(b, "configuration/target-page-bits", 12);
	put_subsection(b, "configuration/capabilities", 0);
	put_command(b, 1, "", 0);
	put_command(b, 2, "ping", 4);
	put_ram_start(b, 2);
	put_section_end(b, 2);
	put_section(b, 2, 2);
	put_page(b, 0x0000, "pc.ram", 1);
	put_page(b, 0x1000, NULL, 2);
	put_zero(b, 0x2000, NULL, 0);
	put_zero(b, 0x3000, NULL, 9);
	put_zero(b, 0x0000, "vga.vram", 0);
	put_zero(b, 0x1000, NULL, 0);
	put_page(b, 0x2000, NULL, 3);
	put_section_end(b, 2);
	put_section(b, 2, 2);
	put_page(b, 0x3000, NULL, 4); /* the block of the section before */
	put_section_end(b, 2);
	put_command(b, 11, "", 0);
	put_section(b, 3, 2);
	put_page(b, 0x1000, "pc.ram", 5);
	put_page(b, 0x5000, NULL, 6);
	put_section_end(b, 2);
	put_section(b, 4, 7);
	buf_append(b, "device state", 12);
	put_page(b, 0x6000, NULL, 7); /* no longer looked at */
}

/* ---- a sink that writes down what it was told, and puts the bytes together again ---- */

struct record {
	struct buf bytes;
	struct buf events; /* text; literals that follow each other are one */
	bool after_literal;
	unsigned refuse_every; /* 0: never */
	unsigned calls;
	unsigned ram_ends;
};

static bool refuse(struct record *r)
{
	return r->refuse_every && ++r->calls % r->refuse_every == 0;
}

static int on_literal(void *ctx, const uint8_t *p, size_t n)
{
	struct record *r = ctx;
	if (refuse(r))
		return -1;
	ck_assert_uint_gt(n, 0);
	buf_append(&r->bytes, p, n);
	if (!r->after_literal)
		buf_printf(&r->events, "L ");
	r->after_literal = true;
	return 0;
}

static int on_page(void *ctx, uint32_t block, uint64_t addr, bool cont, const uint8_t *data)
{
	struct record *r = ctx;
	if (refuse(r))
		return -1;
	if (cont)
		buf_put_be64(&r->bytes, addr | 0x28);
	buf_append(&r->bytes, data, 4096);
	buf_printf(&r->events, "%s%u:%llx ", cont ? "P" : "B", block, (unsigned long long)addr);
	r->after_literal = false;
	return 0;
}

static int on_zero(void *ctx, uint32_t block, uint64_t addr)
{
	struct record *r = ctx;
	if (refuse(r))
		return -1;
	buf_put_be64(&r->bytes, addr | 0x22);
	buf_put_u8(&r->bytes, 0);
	buf_printf(&r->events, "Z%u:%llx ", block, (unsigned long long)addr);
	r->after_literal = false;
	return 0;
}

static void on_ram_end(void *ctx)
{
	struct record *r = ctx;
	buf_printf(&r->events, "END ");
	r->ram_ends++;
	r->after_literal = false;
}

static void record_fini(struct record *r)
{
	buf_fini(&r->bytes);
	buf_fini(&r->events);
}

static struct qemu_stream *stream_into(struct record *r)
{
	const struct qemu_stream_sink sink = { on_literal, on_page, on_zero, on_ram_end, r };
	return qemu_stream_new(&sink);
}

/* Feeds `step` more bytes at a time (0: random); returns what was not consumed. */
static size_t feed_in_steps(struct qemu_stream *s, const struct buf *in, size_t step)
{
	size_t at = 0, seen = 0;
	unsigned idle = 0;
	while (at < in->len && idle < 5000) {
		size_t more = step ? step : (size_t)random() % 5000;
		seen = more < in->len - seen ? seen + more : in->len;
		size_t used = qemu_stream_feed(s, in->data + at, seen - at);
		ck_assert_uint_le(used, seen - at);
		at += used;
		idle = seen == in->len && used == 0 ? idle + 1 : 0;
		if (idle && step)
			break;
	}
	return in->len - at;
}

static const char whole_events[] = "L B0:0 P0:1000 Z0:2000 L Z1:1000 P1:2000 L P1:3000 L B0:1000 P0:5000 L END L ";

START_TEST(whole_stream)
{
	struct buf in = BUF_INIT;
	struct record r = { 0 };
	put_whole(&in);
	struct qemu_stream *s = stream_into(&r);
	ck_assert_uint_eq(qemu_stream_ram_bytes(s), 0);
	ck_assert_uint_eq(qemu_stream_feed(s, in.data, in.len), in.len);
	ck_assert_str_eq((char *)r.events.data, whole_events);
	ck_assert_uint_eq(r.bytes.len, in.len);
	ck_assert_mem_eq(r.bytes.data, in.data, in.len);
	ck_assert_uint_eq(qemu_stream_ram_bytes(s), 0x30000);
	ck_assert_uint_eq(r.ram_ends, 1);
	const char *why = NULL;
	ck_assert(qemu_stream_passthrough(s, &why));
	ck_assert_str_eq(why, "end of RAM");
	qemu_stream_free(s);
	record_fini(&r);
	buf_fini(&in);
}
END_TEST

/* However the bytes come in, and whatever the sink refuses for now, the calls are the same. */
START_TEST(any_chunks)
{
	static const size_t steps[] = { 1, 2, 3, 7, 8, 9, 4095, 4096, 4104, 4105, 0 };
	struct buf in = BUF_INIT;
	struct record r = { .refuse_every = _i % 2 ? 2 : 0 };
	put_whole(&in);
	struct qemu_stream *s = stream_into(&r);
	size_t left = feed_in_steps(s, &in, steps[_i / 2]);
	for (unsigned i = 0; left > 0 && i < 1000; i++)
		left -= qemu_stream_feed(s, in.data + in.len - left, left);
	ck_assert_uint_eq(left, 0);
	ck_assert_str_eq((char *)r.events.data, whole_events);
	ck_assert_uint_eq(r.bytes.len, in.len);
	ck_assert_mem_eq(r.bytes.data, in.data, in.len);
	qemu_stream_free(s);
	record_fini(&r);
	buf_fini(&in);
}
END_TEST

/* At every cut, what is left is short, and what was passed on is what came before it. */
START_TEST(cut_anywhere)
{
	struct buf in = BUF_INIT;
	put_whole(&in);
	for (size_t cut = 0; cut <= in.len; cut += cut < 400 ? 1 : 37) {
		struct record r = { 0 };
		struct qemu_stream *s = stream_into(&r);
		size_t used = qemu_stream_feed(s, in.data, cut);
		ck_assert_uint_le(cut - used, 4400);
		ck_assert_uint_eq(r.bytes.len, used);
		if (used)
			ck_assert_mem_eq(r.bytes.data, in.data, used);
		qemu_stream_free(s);
		record_fini(&r);
	}
	buf_fini(&in);
}
END_TEST

/* ---- what is not known: everything passes from there on ---- */

static void not_qemu(struct buf *b)
{
	buf_append(b, "\x11\x22\x33\x44", 4); /* a multifd channel */
}
static void page_bits(struct buf *b)
{
	put_magic(b);
	put_configuration(b);
	put_subsection(b, "configuration/target-page-bits", 16);
}
static void capability(struct buf *b)
{
	put_magic(b);
	put_configuration(b);
	put_subsection(b, "configuration/capabilities", 1);
}
static void unknown_configuration(struct buf *b)
{
	put_magic(b);
	put_configuration(b);
	put_subsection(b, "configuration/future", 1);
}
static void unknown_command(struct buf *b)
{
	put_magic(b);
	put_command(b, 12, "", 0);
}
static void post_copy(struct buf *b)
{
	put_head(b);
	put_command(b, 7, "\0\0\0\4", 4);
}
static void other_section(struct buf *b)
{
	put_magic(b);
	put_section(b, 1, 1);
	put_name(b, "dirty-bitmap");
	buf_put_be64(b, 1);
	buf_put_be64(b, 1);
}
static void ram_version(struct buf *b)
{
	put_magic(b);
	put_section(b, 1, 1);
	put_name(b, "ram");
	buf_put_be32(b, 0);
	buf_put_be32(b, 5);
	buf_put_be64(b, 0x1004);
}
static void ram_size(struct buf *b)
{
	put_magic(b);
	put_section(b, 1, 1);
	put_name(b, "ram");
	buf_put_be32(b, 0);
	buf_put_be32(b, 4);
	buf_put_be64(b, 0x1002);
}
static void blocks_sum(struct buf *b)
{
	put_magic(b);
	put_ram_start(b, 2);
	b->len -= 8;
	buf_put_be64(b, 0x11000);
}
static void second_ram(struct buf *b)
{
	put_head(b);
	put_ram_start(b, 3);
}
static void other_part(struct buf *b)
{
	put_head(b);
	put_section(b, 2, 3);
}
static void early_device(struct buf *b)
{
	put_head(b);
	put_section(b, 4, 3);
}
static void early_eof(struct buf *b)
{
	put_head(b);
	buf_put_u8(b, 0);
}
static void no_footer(struct buf *b)
{
	put_magic(b);
	put_ram_start(b, 2);
	buf_put_be64(b, 0x10);
	put_section(b, 2, 2);
}
static void wrong_footer(struct buf *b)
{
	put_magic(b);
	put_ram_start(b, 2);
	put_section_end(b, 3);
}
static void record_of(struct buf *b, uint64_t head)
{
	put_head(b);
	put_section(b, 2, 2);
	put_page(b, 0, "pc.ram", 1);
	buf_put_be64(b, head);
	put_page_data(b, 1);
}
static void xbzrle(struct buf *b)
{
	record_of(b, 0x1000 | 0x40 | 0x20);
}
static void compress(struct buf *b)
{
	record_of(b, 0x1000 | 0x100 | 0x20);
}
static void multifd_flush(struct buf *b)
{
	record_of(b, 0x200);
}
static void hook(struct buf *b)
{
	record_of(b, 0x80);
}
static void far_address(struct buf *b)
{
	record_of(b, (UINT64_C(1) << 52) | 0x28);
}
static void unknown_block(struct buf *b)
{
	put_head(b);
	put_section(b, 2, 2);
	put_page(b, 0, "pc.rom", 1);
}
static void no_block(struct buf *b)
{
	put_head(b);
	put_section(b, 2, 2);
	put_page(b, 0, NULL, 1);
}
static void no_block_zero(struct buf *b)
{
	put_head(b);
	put_section(b, 2, 2);
	put_zero(b, 0, NULL, 0);
}

static const struct {
	void (*make)(struct buf *b);
	const char *why;
} strange[] = {
	{ not_qemu, "not a migration stream of version 3" },
	{ page_bits, "pages are not 4 KiB" },
	{ capability, "a capability that changes the stream" },
	{ unknown_configuration, "unknown configuration" },
	{ unknown_command, "unknown command" },
	{ post_copy, "post-copy" },
	{ other_section, "an iterated section that is not RAM" },
	{ ram_version, "unknown version of the RAM section" },
	{ ram_size, "RAM section without its size" },
	{ blocks_sum, "RAM blocks do not add up" },
	{ second_ram, "a second RAM section" },
	{ other_part, "an iterated section that is not RAM" },
	{ early_device, "device state before the end of RAM" },
	{ early_eof, "end of the stream before the end of RAM" },
	{ no_footer, "no section footer" },
	{ wrong_footer, "no section footer" },
	{ xbzrle, "a RAM record of an unknown kind" },
	{ compress, "a RAM record of an unknown kind" },
	{ multifd_flush, "a RAM record of an unknown kind" },
	{ hook, "a RAM record of an unknown kind" },
	{ far_address, "an address out of range" },
	{ unknown_block, "a page of an unknown RAM block" },
	{ no_block, "a page without a RAM block" },
	{ no_block_zero, "a page without a RAM block" },
};

START_TEST(unknown_passes)
{
	struct buf in = BUF_INIT;
	struct record r = { 0 };
	strange[_i].make(&in);
	struct qemu_stream *s = stream_into(&r);
	size_t used = qemu_stream_feed(s, in.data, in.len);
	/* Whatever comes after, also what would look like pages. */
	buf_append(&in, "anything", 8);
	put_page(&in, 0x4000, NULL, 1);
	used += qemu_stream_feed(s, in.data + used, in.len - used);
	ck_assert_uint_eq(used, in.len);
	ck_assert_mem_eq(r.bytes.data, in.data, in.len);
	const char *why = NULL;
	ck_assert(qemu_stream_passthrough(s, &why));
	ck_assert_str_eq(why, strange[_i].why);
	ck_assert_uint_eq(r.ram_ends, 0);
	ck_assert(!strstr((char *)r.events.data, ":4000"));
	qemu_stream_free(s);
	record_fini(&r);
	buf_fini(&in);
}
END_TEST

/* Post-copy that was only announced does not change the pages before the switch. */
START_TEST(postcopy_advice_is_known)
{
	struct buf in = BUF_INIT;
	struct record r = { 0 };
	put_magic(&in);
	put_configuration(&in);
	put_command(&in, 3, "\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x10", 16);
	put_ram_start(&in, 2);
	put_section_end(&in, 2);
	put_section(&in, 2, 2);
	put_page(&in, 0x1000, "pc.ram", 1);
	struct qemu_stream *s = stream_into(&r);
	ck_assert_uint_eq(qemu_stream_feed(s, in.data, in.len), in.len);
	ck_assert_str_eq((char *)r.events.data, "L B0:1000 ");
	ck_assert(!qemu_stream_passthrough(s, NULL));
	qemu_stream_free(s);
	record_fini(&r);
	buf_fini(&in);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("snapshot/qemu_stream");
	TCase *tc = tcase_create("all");
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, whole_stream);
	tcase_add_loop_test(tc, any_chunks, 0, 22);
	tcase_add_test(tc, cut_anywhere);
	tcase_add_loop_test(tc, unknown_passes, 0, (int)(sizeof(strange) / sizeof(strange[0])));
	tcase_add_test(tc, postcopy_advice_is_known);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
