/* What image.h writes, byte for byte for a small point, and as snapshot/qemu_stream reads it. */
#include "base/buf.h"
#include "snapshot/image.h"
#include "snapshot/qemu_stream.h"
#include "tests/unit/vm_store.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int to_buf(void *ctx, const void *p, size_t n, struct err *e)
{
	(void)e;
	buf_append(ctx, p, n);
	return 0;
}

static char dir[64];
static struct store *store;

static char *store_path(void)
{
	strcpy(dir, "/var/tmp/vmferry-image-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	return mem_printf("%s/store", dir);
}

static void teardown(void)
{
	MEM_AUTO char *command = mem_printf("rm -rf %s", dir);

	sys.pread = pread;
	store_close(store);
	store = NULL;
	ck_assert_int_eq(system(command), 0);
}

static void put(const char *name, const void *data, size_t len)
{
	(void)vm_store_put(store, "p", "memory", name, data, len);
}

/* The newest point. */
static int write_out(struct buf *out, struct err *e)
{
	*e = (struct err)ERR_INIT;
	struct store_view *v = store_view_open(store, 0, e);
	ck_assert_msg(v != NULL, "%s", e->text);
	const int rc = image_write_stream(v, to_buf, out, e);
	store_view_close(v);
	return rc;
}

static struct buf written(void)
{
	struct err e = ERR_INIT;
	struct buf out = BUF_INIT;

	ck_assert_msg(write_out(&out, &e) == 0, "%s", e.text);
	return out;
}

START_TEST(every_byte)
{
	static const struct store_volume volumes[] = {
		{ .kind = STORE_DISK, .name = "vda", .size_bytes = 4096 },
		{ .kind = STORE_RAM, .name = "pc.ram", .size_bytes = 3 * STORE_BLOCK },
		{ .kind = STORE_RAM, .name = "rom", .size_bytes = STORE_BLOCK }
	};
	MEM_AUTO char *path = store_path();
	uint8_t page[STORE_BLOCK];
	struct err e = ERR_INIT;

	store = vm_store_empty(path);
	memset(page, 0xab, sizeof(page));
	struct store_txn *t = store_begin(store, STORE_TXN_PART, &e);
	ck_assert_msg(t && store_txn_volumes(t, volumes, 3, &e) == 0 && store_txn_block(t, 1, 1, page, &e) == 0 &&
			      store_txn_block(t, 2, 0, page, &e) == 0 && store_commit(t, NULL, NULL, &e) == 0,
		      "%s", e.text);
	put("header", VM_STORE_HEADER, sizeof(VM_STORE_HEADER) - 1);
	put("device", VM_STORE_DEVICE, sizeof(VM_STORE_DEVICE) - 1);

	static const uint8_t start[] = "\1\0\0\0\1\3ram\0\0\0\0\0\0\0\4" /* SECTION_START 1 "ram" 0 4 */
				       "\0\0\0\0\0\0\x40\4"              /* 16 KiB | MEM_SIZE */
				       "\6pc.ram\0\0\0\0\0\0\x30\0"
				       "\3rom\0\0\0\0\0\0\x10\0"
				       "\0\0\0\0\0\0\0\x10\x7e\0\0\0\1" /* EOS, footer */
				       "\3\0\0\0\1"                     /* SECTION_END 1 */
				       "\0\0\0\0\0\0\0\2\6pc.ram\0"     /* page 0: zeros */
				       "\0\0\0\0\0\0\x10\x28";          /* page 1 */
	static const uint8_t middle[] = "\0\0\0\0\0\0\x20\x22\0"
					"\0\0\0\0\0\0\0\x8\3rom";
	static const uint8_t end[] = "\0\0\0\0\0\0\0\x10\x7e\0\0\0\1" VM_STORE_DEVICE "\6\0\0\0\2{}";
	BUF_AUTO struct buf want = BUF_INIT;
	buf_append(&want, VM_STORE_HEADER, sizeof(VM_STORE_HEADER) - 1);
	buf_append(&want, start, sizeof(start) - 1);
	buf_append(&want, page, sizeof(page));
	buf_append(&want, middle, sizeof(middle) - 1);
	buf_append(&want, page, sizeof(page));
	buf_append(&want, end, sizeof(end) - 1);
	BUF_AUTO struct buf have = written();
	ck_assert_uint_eq(have.len, want.len);
	ck_assert_mem_eq(have.data, want.data, want.len);
}
END_TEST

struct reader {
	uint32_t volume[2]; /* of RAM blocks in order */
	uint64_t pages, zeros;
	unsigned ends;
	struct buf literal;
};
static int on_literal(void *ctx, const uint8_t *p, size_t n)
{
	buf_append(&((struct reader *)ctx)->literal, p, n);
	return 0;
}
static int on_page(void *ctx, uint32_t block, uint64_t addr, bool cont, const uint8_t *data)
{
	struct reader *r = ctx;
	uint8_t want[STORE_BLOCK];
	ck_assert(block < 2);
	ck_assert(cont || addr == 0);
	(void)vm_store_content(want, r->volume[block], addr / STORE_BLOCK);
	ck_assert_mem_eq(data, want, STORE_BLOCK);
	r->pages++;
	return 0;
}
static int on_zero(void *ctx, uint32_t block, uint64_t addr)
{
	ck_assert(block < 2);
	ck_assert_uint_eq(addr / STORE_BLOCK % 3, 1);
	((struct reader *)ctx)->zeros++;
	return 0;
}
static void on_end(void *ctx)
{
	((struct reader *)ctx)->ends++;
}

START_TEST(our_parser_reads_it)
{
	MEM_AUTO char *path = store_path();
	store = vm_store_new(path);
	BUF_AUTO struct buf out = written();
	struct reader r = { .volume = { 0, 2 } };
	struct qemu_stream_sink sink = { on_literal, on_page, on_zero, on_end, &r };
	struct qemu_stream *q = qemu_stream_new(&sink);
	const char *why = NULL;
	size_t n = qemu_stream_feed(q, out.data, out.len);
	ck_assert_uint_eq(n, out.len);
	ck_assert(qemu_stream_passthrough(q, &why));
	ck_assert_str_eq(why, "end of RAM");
	ck_assert_uint_eq(qemu_stream_ram_bytes(q), 302 * STORE_BLOCK);
	ck_assert_uint_eq(r.pages, 302 - 101);
	ck_assert_uint_eq(r.zeros, 101);
	ck_assert_uint_eq(r.ends, 1);
	qemu_stream_free(q);
	buf_fini(&r.literal);
}
END_TEST

/* As QEMU sends it, with a description behind: that is replaced by ours. */
START_TEST(description)
{
	static const uint8_t described[] = VM_STORE_DEVICE "\6\0\0\0\x0d{\"a\":[{},{}]}";
	MEM_AUTO char *path = store_path();
	store = vm_store_new(path);
	BUF_AUTO struct buf want = written();
	ck_assert_uint_eq(image_device_length(described, sizeof(described) - 1), sizeof(VM_STORE_DEVICE) - 1);
	ck_assert_uint_eq(image_device_length(described, sizeof(described) - 2), sizeof(described) - 2);
	for (size_t n = 0; n < 7; n++)
		ck_assert_uint_eq(image_device_length(described, n), n);
	put("device", described, sizeof(described) - 1);
	BUF_AUTO struct buf have = written();
	ck_assert_uint_eq(have.len, want.len);
	ck_assert_mem_eq(have.data, want.data, want.len);
}
END_TEST

static unsigned reads_left;

static ssize_t failing_pread(int fd, void *p, size_t n, off_t at)
{
	if (reads_left > 0 && --reads_left == 0) {
		errno = EIO;
		return -1;
	}
	return pread(fd, p, n, at);
}

START_TEST(refusals)
{
	struct err e = ERR_INIT;
	BUF_AUTO struct buf out = BUF_INIT;
	MEM_AUTO char *path = store_path();
	/* A head that goes on with a command (ENABLE_COLO), or is cut anywhere. */
	static const uint8_t colo[] = VM_STORE_HEADER "\x08\0\x08\0\0";

	store = vm_store_new(path);
	put("header", colo, sizeof(colo) - 1);
	ck_assert_int_eq(write_out(&out, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	for (size_t n = 0; n < sizeof(VM_STORE_HEADER) - 1; n++) {
		if (n == 8) /* magic alone: a stream without a configuration is one too */
			continue;
		put("header", VM_STORE_HEADER, n);
		ck_assert_msg(write_out(&out, &e) == -1, "%zu bytes", n);
	}
	static const uint8_t page_bits[] = VM_STORE_HEADER "\5\x1e"
							   "configuration/target-page-bits\0\0\0\1\0\0\0\x0c";
	put("header", page_bits, sizeof(page_bits) - 1);
	ck_assert_msg(write_out(&out, &e) == 0, "%s", e.text);
	/* Device state without its end. */
	put("device", VM_STORE_DEVICE, sizeof(VM_STORE_DEVICE) - 2);
	ck_assert_int_eq(write_out(&out, &e), -1);
	ck_assert_int_eq(e.cls, ERR_CORRUPT);
	put("device", VM_STORE_DEVICE, sizeof(VM_STORE_DEVICE) - 1);
	/* A block that cannot be read. */
	ck_assert_msg(store_settle(store, INT64_MAX, &e) == 0, "%s", e.text);
	sys.pread = failing_pread;
	reads_left = 3;
	ck_assert_int_eq(write_out(&out, &e), -1);
	ck_assert_ptr_nonnull(strstr(e.text, "pc.ram"));
}
END_TEST

START_TEST(disks_alone)
{
	static const struct store_volume vda = { .kind = STORE_DISK, .name = "vda", .size_bytes = 4096 };
	BUF_AUTO struct buf out = BUF_INIT;
	MEM_AUTO char *path = store_path();
	struct err e = ERR_INIT;

	store = vm_store_empty(path);
	struct store_txn *t = store_begin(store, STORE_TXN_PART, &e);
	ck_assert_msg(t && store_txn_volumes(t, &vda, 1, &e) == 0 && store_commit(t, NULL, NULL, &e) == 0, "%s", e.text);
	put("header", VM_STORE_HEADER, sizeof(VM_STORE_HEADER) - 1);
	put("device", VM_STORE_DEVICE, sizeof(VM_STORE_DEVICE) - 1);
	ck_assert_int_eq(write_out(&out, &e), -1);
	ck_assert_int_eq(e.cls, ERR_REFUSED);
}
END_TEST

START_TEST(save_header)
{
	struct err e = ERR_INIT;
	size_t len = 0;
	MEM_AUTO uint8_t *p = image_save_header("<domain/>", true, &len, &e);
	uint32_t words[5], none[14] = { 0 };
	ck_assert_uint_eq(len, 92 + 10);
	ck_assert_mem_eq(p, "LibvirtQemudSave", 16);
	memcpy(words, p + 16, sizeof(words));
	ck_assert_uint_eq(words[0], 2);
	ck_assert_uint_eq(words[1], 10);
	ck_assert_uint_eq(words[2], 1);
	ck_assert_uint_eq(words[3], 0);
	ck_assert_uint_eq(words[4], 0);
	ck_assert_mem_eq(p + 36, none, sizeof(none));
	ck_assert_mem_eq(p + 92, "<domain/>", 10);
	MEM_AUTO uint8_t *paused = image_save_header("<domain/>", false, &len, &e);
	memcpy(words, paused + 16, sizeof(words));
	ck_assert_uint_eq(words[2], 0);
	ck_assert_ptr_null(image_save_header("", true, &len, &e));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("golden/image");
	TCase *tc = tcase_create("image");
	TCase *head = tcase_create("save-header");
	tcase_add_checked_fixture(tc, NULL, teardown);
	tcase_add_test(tc, every_byte);
	tcase_add_test(tc, our_parser_reads_it);
	tcase_add_test(tc, description);
	tcase_add_test(tc, refusals);
	tcase_add_test(tc, disks_alone);
	tcase_add_test(head, save_header);
	suite_add_tcase(s, tc);
	suite_add_tcase(s, head);
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
