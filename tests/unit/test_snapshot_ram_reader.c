#include "base/buf.h"
#include "base/clock.h"
#include "base/fd.h"
#include "snapshot/ram_reader.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- a stream ---- */

static void put_name(struct buf *b, const char *name)
{
	buf_put_u8(b, (uint8_t)strlen(name));
	buf_append(b, name, strlen(name));
}

static void put_head(struct buf *b)
{
	buf_append(b, "QEVM\0\0\0\3\7\0\0\0\2pc", 15);
	buf_put_u8(b, 5);
	put_name(b, "configuration/target-page-bits");
	buf_put_be32(b, 1);
	buf_put_be32(b, 12);
}

static void put_eos(struct buf *b)
{
	buf_put_be64(b, 0x10);
	buf_put_u8(b, 0x7e);
	buf_put_be32(b, 2);
}

static void put_block(struct buf *b, const char *name, uint64_t bytes)
{
	put_name(b, name);
	buf_put_be64(b, bytes);
}

static void put_ram(struct buf *b)
{
	buf_append(b, "\1\0\0\0\2\3ram\0\0\0\0\0\0\0\4", 17);
	buf_put_be64(b, 6 * 4096 | 4);
	put_block(b, "pc.ram", 4 * 4096);
	put_block(b, "pc.bios", 2 * 4096);
	put_eos(b);
}

static void put_section(struct buf *b, uint8_t kind)
{
	buf_put_u8(b, kind);
	buf_put_be32(b, 2);
}

static void put_page(struct buf *b, uint64_t addr, const char *name, int fill)
{
	uint8_t data[4096];
	memset(data, fill, sizeof(data));
	buf_put_be64(b, addr | 8 | (name ? 0 : 0x20));
	if (name)
		put_name(b, name);
	buf_append(b, data, sizeof(data));
}

static void put_zero(struct buf *b, uint64_t addr, const char *name, uint8_t fill)
{
	buf_put_be64(b, addr | 2 | (name ? 0 : 0x20));
	if (name)
		put_name(b, name);
	buf_put_u8(b, fill);
}

static const char device[] = "\4\0\0\0\5\5timer\0\0\0\0\0\0\0\2state\x7e\0\0\0\5";

/* A first pass, and one checkpoint of COLO behind it. */
static void put_whole(struct buf *b)
{
	put_head(b);
	buf_append(b, "\x08\0\x08\0\0", 5);
	put_ram(b);
	put_section(b, 2);
	put_page(b, 0, "pc.ram", 'a');
	put_page(b, 4096, NULL, 'b');
	put_zero(b, 8192, NULL, 0);
	put_eos(b);
	put_section(b, 3);
	put_zero(b, 4096, "pc.bios", 'z');
	put_eos(b);
	buf_put_u8(b, 0);
	buf_append(b, "\x08\0\x0b\0\0", 5);
	put_section(b, 3);
	put_page(b, 3 * 4096, "pc.ram", 'c');
	put_eos(b);
	buf_put_u8(b, 0);
	buf_put_be32(b, 4);
	buf_put_be64(b, sizeof(device));
	buf_append(b, device, sizeof(device));
}

/* ---- what is told ---- */

struct told {
	char text[400];
	size_t len;
};

static int on_blocks(void *ctx, const struct ram_block *b, size_t n, struct err *e)
{
	struct told *t = ctx;
	(void)e;
	for (size_t i = 0; i < n; i++)
		t->len += (size_t)snprintf(t->text + t->len, sizeof(t->text) - t->len, "%s:%llu ", b[i].name,
					   (unsigned long long)b[i].bytes);
	return 0;
}

static int on_page(void *ctx, uint32_t block, uint64_t page, const uint8_t *data, struct err *e)
{
	struct told *t = ctx;
	(void)e;
	ck_assert_uint_eq(data[0], data[4095]);
	t->len += (size_t)snprintf(t->text + t->len, sizeof(t->text) - t->len, "%u.%llu=%c ", block,
				   (unsigned long long)page, data[0]);
	return 0;
}

static int on_zero(void *ctx, uint32_t block, uint64_t page, struct err *e)
{
	struct told *t = ctx;
	(void)e;
	t->len += (size_t)snprintf(t->text + t->len, sizeof(t->text) - t->len, "%u.%llu=0 ", block,
				   (unsigned long long)page);
	return 0;
}

static void on_end(void *ctx)
{
	struct told *t = ctx;
	t->len += (size_t)snprintf(t->text + t->len, sizeof(t->text) - t->len, "end ");
}

/* All of put_whole; 0 if it was all there and right. */
static int read_whole(struct ram_reader *r, struct told *t, struct err *e)
{
	const struct ram_reader_sink sink = { on_blocks, on_page, on_zero, on_end, t };
	BUF_AUTO struct buf got = BUF_INIT;
	enum ram_reader_stop stop;
	uint32_t word;
	uint64_t n;
	if (ram_reader_head(r, e))
		return -1;
	for (int i = 0; i < 2; i++) {
		if (ram_reader_sections(r, &sink, &stop, e))
			return -1;
		ck_assert_int_eq(stop, RAM_READER_END);
	}
	if (ram_reader_be32(r, &word, e) || ram_reader_be64(r, &n, e))
		return -1;
	ck_assert_uint_eq(word, 4);
	ck_assert_uint_eq(n, sizeof(device));
	if (ram_reader_take(r, (size_t)n, &got, e))
		return -1;
	ck_assert_mem_eq(got.data, device, sizeof(device));
	return 0;
}

static const char expected[] = "pc.ram:16384 pc.bios:8192 0.0=a 0.1=b 0.2=0 end 1.1=z end 0.3=c ";

START_TEST(whole)
{
	BUF_AUTO struct buf in = BUF_INIT, head = BUF_INIT;
	struct told t = { 0 };
	struct err e = ERR_INIT;
	size_t len;
	put_whole(&in);
	put_head(&head);
	struct ram_reader *r = ram_reader_new_memory(in.data, in.len);
	ck_assert_msg(read_whole(r, &t, &e) == 0, "%s", e.text);
	ck_assert_str_eq(t.text, expected);
	const uint8_t *got = ram_reader_header(r, &len);
	ck_assert_uint_eq(len, head.len);
	ck_assert_mem_eq(got, head.data, len);
	ram_reader_free(r);
}
END_TEST

START_TEST(cut_anywhere)
{
	BUF_AUTO struct buf in = BUF_INIT;
	put_whole(&in);
	for (size_t n = 0; n < in.len; n++) {
		struct told t = { 0 };
		struct err e = ERR_INIT;
		struct ram_reader *r = ram_reader_new_memory(in.data, n);
		ck_assert_int_eq(read_whole(r, &t, &e), -1);
		ck_assert_int_eq(e.cls, ERR_PEER);
		ram_reader_free(r);
	}
}
END_TEST

/* Every way to lie is ERR_CORRUPT. */
static void lie(struct buf *b, int kind)
{
	put_head(b);
	if (kind == 0)
		b->data[0] = 'q';
	if (kind == 1)
		b->data[9] = 0xff; /* length of the machine's name */
	if (kind == 2)
		b->data[b->len - 1] = 13; /* page bits */
	size_t ram = b->len;
	put_ram(b);
	if (kind == 3)
		b->data[ram + 16] = 5; /* version of the section */
	if (kind == 4)
		b->data[ram + 20] = 1; /* total size */
	if (kind == 5)
		b->data[ram + 25] = 0; /* a block without a name */
	put_section(b, 2);
	put_page(b, kind == 6 ? 4 * 4096 : 0, kind == 7 ? "pc.rom" : kind == 8 ? NULL : "pc.ram", 'a');
	if (kind == 9)
		buf_put_be64(b, 4096 | 0x40 | 0x20); /* XBZRLE */
	if (kind == 10)
		buf_put_be64(b, 4096 | 0x10); /* an end mark with an address */
	put_eos(b);
	if (kind == 11)
		b->data[b->len - 1] = 3; /* another section's footer */
	if (kind == 12)
		put_ram(b);
	if (kind == 13)
		buf_append(b, "\x08\0\7\0\0", 5); /* a command of post-copy */
	if (kind == 14)
		buf_append(b, "\1\0\0\0\3\5dirty\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0", 27);
	if (kind == 15)
		buf_put_u8(b, 9);
	buf_append(b, "\0\0\0\0\0\0\0\0", 8);
}

START_TEST(lies)
{
	BUF_AUTO struct buf in = BUF_INIT;
	struct told t = { 0 };
	const struct ram_reader_sink sink = { on_blocks, on_page, on_zero, NULL, &t };
	struct err e = ERR_INIT;
	enum ram_reader_stop stop;
	lie(&in, _i);
	struct ram_reader *r = ram_reader_new_memory(in.data, in.len);
	int rc = ram_reader_head(r, &e);
	if (rc == 0)
		rc = ram_reader_sections(r, &sink, &stop, &e);
	if (_i == 16) {
		ck_assert_int_eq(rc, 0); /* no lie */
	} else {
		ck_assert_int_eq(rc, -1);
		ck_assert_msg(e.cls == ERR_CORRUPT, "%s", e.text);
	}
	ram_reader_free(r);
}
END_TEST

START_TEST(over_a_socket)
{
	int pair[2];
	BUF_AUTO struct buf in = BUF_INIT, rest = BUF_INIT;
	struct err e = ERR_INIT;
	struct told t = { 0 };
	const struct ram_reader_sink sink = { on_blocks, on_page, on_zero, NULL, &t };
	enum ram_reader_stop stop;
	size_t got;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	struct ram_reader *r = ram_reader_new(pair[0]);
	put_head(&in);
	put_ram(&in);
	buf_append(&in, device, sizeof(device));
	ck_assert_int_eq(fd_write_full(pair[1], in.data, in.len, &e), 0);
	ck_assert_int_eq(ram_reader_head(r, &e), 0);
	ck_assert_int_eq(ram_reader_sections(r, &sink, &stop, &e), 0);
	ck_assert_int_eq(stop, RAM_READER_DEVICE);
	ck_assert_int_eq(ram_reader_discard(r, 0, &got, &e), 0);
	ck_assert_uint_eq(got, sizeof(device));
	ck_assert_int_eq(ram_reader_discard(r, NS_PER_MS, &got, &e), 0);
	ck_assert_uint_eq(got, 0);

	/* A deadline, then the end. */
	uint32_t word;
	ram_reader_deadline(r, clock_mono_ns() + 20 * NS_PER_MS);
	ck_assert_int_eq(ram_reader_be32(r, &word, &e), -1);
	ck_assert_int_eq(e.cls, ERR_SYS);
	ck_assert_int_eq(e.errnum, ETIMEDOUT);
	ram_reader_deadline(r, INT64_MAX);
	ck_assert_int_eq(fd_write_full(pair[1], "abcd", 4, &e), 0);
	fd_close(&pair[1]);
	ck_assert_int_eq(ram_reader_rest(r, 3, &rest, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	ck_assert_int_eq(ram_reader_rest(r, 4, &rest, &e), 0);
	ck_assert_uint_eq(rest.len, 4);
	ram_reader_free(r);
	fd_close(&pair[0]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("snapshot/ram_reader");
	TCase *tc = tcase_create("all");
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, whole);
	tcase_add_test(tc, cut_anywhere);
	tcase_add_loop_test(tc, lies, 0, 17);
	tcase_add_test(tc, over_a_socket);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
