/* PROTOCOL.md, section "Replication": its examples are what the source writes, and the target reads them. */
#include "hexdoc.h"

#include "tests/unit/transport_fixture.h"

#include "replicator/block_hash.h"
#include "replicator/records.h"

#include <xxhash.h>

#define DOCUMENT TESTS_DIR "/../transport/PROTOCOL.md"

static const char *const order[] = { "repl-begin", "repl-volumes", "repl-volume", "repl-zero", "repl-zeros", "repl-file", "repl-commit" };
#define N_ORDER (sizeof(order) / sizeof(order[0]))

static char *doc;
static char told[400];

static void setup(void)
{
	doc = hexdoc_load(DOCUMENT);
	told[0] = '\0';
}

static void teardown(void)
{
	free(doc);
}

static void stream(struct buf *out)
{
	for (size_t i = 0; i < N_ORDER; i++)
		hexdoc_block(doc, order[i], out);
}

__attribute__((format(printf, 1, 2))) static int tell(const char *fmt, ...)
{
	va_list ap;
	const size_t n = strlen(told);

	va_start(ap, fmt);
	vsnprintf(told + n, sizeof(told) - n, fmt, ap);
	va_end(ap);
	return 0;
}

static int on_begin(void *ctx, const char *id, bool point, struct err *e)
{
	(void)ctx, (void)e;
	return tell("begin %s %d;", id, point);
}
static int on_volumes(void *ctx, const struct store_volume *v, size_t n, struct err *e)
{
	(void)ctx, (void)e;
	for (size_t i = 0; i < n; i++)
		tell("volume %s %llu;", v[i].name, (unsigned long long)v[i].size_bytes);
	return 0;
}
static int on_block(void *ctx, uint32_t volume, uint64_t block, const uint8_t *data, struct err *e)
{
	(void)ctx, (void)e;
	return tell("block %u %llu%s;", volume, (unsigned long long)block, data ? "" : " zero");
}
static int on_zeros(void *ctx, uint32_t volume, uint64_t first, uint64_t count, struct err *e)
{
	(void)ctx, (void)e;
	return tell("zeros %u %llu %llu;", volume, (unsigned long long)first, (unsigned long long)count);
}
static int on_file(void *ctx, const char *name, const void *data, size_t len, struct err *e)
{
	(void)ctx, (void)data, (void)e;
	return tell("file %s %zu;", name, len);
}
static int on_commit(void *ctx, const char *id, bool point, struct err *e)
{
	(void)ctx, (void)point, (void)e;
	return tell("commit %s;", id);
}
static int on_abort(void *ctx, struct err *e)
{
	(void)ctx, (void)e;
	return tell("abort;");
}

static struct records *reader(void)
{
	const struct records_sink sink = { .begin = on_begin, .volumes = on_volumes, .block = on_block, .zeros = on_zeros, .file = on_file, .commit = on_commit, .abort = on_abort };

	return records_new(&sink);
}

#define WHOLE "begin p1 1;volume pc.ram 8192;volume vda 65536;block 1 3 zero;zeros 1 8 8;file device 3;commit p1;"

START_TEST(examples_are_what_is_written)
{
	const struct store_volume v[] = { { STORE_RAM, "pc.ram", 8192 }, { STORE_DISK, "vda", 65536 } };
	const struct records_counts c = { .zeros = 9, .files = 1 };
	BUF_AUTO struct buf b = BUF_INIT, want = BUF_INIT, head = BUF_INIT;

	records_put_begin(&b, "p1", true);
	records_put_volumes(&b, v, 2);
	records_put_volume(&b, 1);
	buf_put_be64(&b, 3 * 4096 | RECORDS_ZERO);
	buf_put_u8(&b, 0);
	records_put_zeros(&b, 8, 8);
	records_put_file_head(&b, "device", 3);
	buf_append(&b, "\1\2\3", 3);
	records_put_commit(&b, "p1", &c, XXH3_64bits(b.data, b.len));
	stream(&want);
	ck_assert_uint_eq(b.len, want.len);
	ck_assert_mem_eq(b.data, want.data, b.len);
	hexdoc_block(doc, "repl-block-head", &head);
	buf_reset(&b);
	buf_put_be64(&b, 5 * 4096 | RECORDS_PAGE);
	ck_assert_mem_eq(b.data, head.data, 8);
	buf_reset(&b);
	buf_reset(&want);
	records_put_control(&b, RECORDS_ABORT, NULL, 0);
	hexdoc_block(doc, "repl-abort", &want);
	ck_assert_uint_eq(b.len, want.len);
	ck_assert_mem_eq(b.data, want.data, b.len);
}
END_TEST

START_TEST(examples_are_read_in_any_pieces)
{
	BUF_AUTO struct buf b = BUF_INIT;
	struct err e = ERR_INIT;

	stream(&b);
	for (size_t piece = 1; piece <= b.len; piece++) {
		struct records *r = reader();
		told[0] = '\0';
		for (size_t at = 0; at < b.len; at += piece)
			OK(records_feed(r, b.data + at, b.len - at < piece ? b.len - at : piece, &e), e);
		ck_assert_str_eq(told, WHOLE);
		ck_assert(records_idle(r));
		records_free(r);
	}
}
END_TEST

START_TEST(cut_short_is_not_committed)
{
	BUF_AUTO struct buf b = BUF_INIT;
	struct err e = ERR_INIT;

	stream(&b);
	for (size_t n = 0; n < b.len; n++) {
		struct records *r = reader();
		told[0] = '\0';
		OK(records_feed(r, b.data, n, &e), e);
		ck_assert_ptr_null(strstr(told, "commit"));
		ck_assert(n == 0 || !records_idle(r));
		records_free(r);
	}
}
END_TEST

START_TEST(a_flipped_bit_is_not_committed)
{
	BUF_AUTO struct buf b = BUF_INIT;

	stream(&b);
	for (size_t bit = 0; bit < 8 * b.len; bit++) {
		struct records *r = reader();
		struct err e = ERR_INIT;
		told[0] = '\0';
		b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		const int rc = records_feed(r, b.data, b.len, &e);
		/* Refused, or waited for more, which never comes. */
		ck_assert_msg(strstr(told, "commit") == NULL, "bit %zu: %s", bit, told);
		ck_assert(rc < 0 ? e.cls == ERR_PROTOCOL || e.cls == ERR_CORRUPT : !records_idle(r));
		b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		records_free(r);
	}
}
END_TEST

START_TEST(abort_ends_a_transaction)
{
	BUF_AUTO struct buf b = BUF_INIT;
	struct err e = ERR_INIT;
	struct records *r = reader();

	for (size_t i = 0; i < N_ORDER - 1; i++)
		hexdoc_block(doc, order[i], &b);
	hexdoc_block(doc, "repl-abort", &b);
	OK(records_feed(r, b.data, b.len, &e), e);
	HAS(told, "abort;");
	ck_assert(records_idle(r));
	records_free(r);
}
END_TEST

START_TEST(hash_of_the_example)
{
	BUF_AUTO struct buf want = BUF_INIT;
	uint8_t secret[32], block[4096], out[16];
	struct block_hash h;

	for (unsigned i = 0; i < sizeof(secret); i++)
		secret[i] = (uint8_t)i;
	for (unsigned i = 0; i < sizeof(block); i++)
		block[i] = (uint8_t)i;
	block_hash_init(&h, secret);
	block_hash_of(&h, block, out);
	hexdoc_block(doc, "repl-hash", &want);
	ck_assert_uint_eq(want.len, 16);
	ck_assert_mem_eq(out, want.data, 16);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("golden/replica");
	TCase *t = tcase_create("examples");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, examples_are_what_is_written);
	tcase_add_test(t, examples_are_read_in_any_pieces);
	tcase_add_test(t, cut_short_is_not_committed);
	tcase_add_test(t, a_flipped_bit_is_not_committed);
	tcase_add_test(t, abort_ends_a_transaction);
	tcase_add_test(t, hash_of_the_example);
	suite_add_tcase(s, t);
	return fixture_run(s);
}
