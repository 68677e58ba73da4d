/* Grammar: QEMU-STREAM.md. Everything is put into one SECTION_END of RAM, as QEMU's own loader accepts it. */
#include "snapshot/image.h"

#include "base/buf.h"
#include "base/cursor.h"
#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Blocks read from the view at once. */
#define RUN 256u
/* What gathers before it is given on: a pipe's buffer and a little more do not matter, system calls do. */
#define OUT_BYTES ((size_t)1 << 20)

#define RAM_ZERO 0x02u
#define RAM_MEM_SIZE 0x04u
#define RAM_PAGE 0x08u
#define RAM_EOS 0x10u
#define RAM_CONTINUE 0x20u
#define RAM_VERSION 4u
/* Section numbers are the sender's choice; device sections come with theirs, and none of them is looked up again. */
#define RAM_SECTION 1u

#define SECTION_EOF 0x00u
#define SECTION_START 0x01u
#define SECTION_END 0x03u
#define SECTION_FULL 0x04u
#define SECTION_SUBSECTION 0x05u
#define SECTION_VMDESC 0x06u
#define SECTION_CONFIGURATION 0x07u
#define SECTION_FOOTER 0x7eu

#define SAVE_MAGIC "LibvirtQemudSave"
#define SAVE_HEADER 92u
#define SAVE_VERSION 2u
#define SAVE_XML_MAX ((size_t)4 << 20)

struct out {
	image_write write;
	void *ctx;
	struct buf buf;
};

static int flush(struct out *o, struct err *e)
{
	if (o->buf.len == 0)
		return 0;
	int rc = o->write(o->ctx, o->buf.data, o->buf.len, e);
	buf_reset(&o->buf);
	return rc;
}

static int put(struct out *o, const void *p, size_t n, struct err *e)
{
	buf_append(&o->buf, p, n);
	return o->buf.len >= OUT_BYTES ? flush(o, e) : 0;
}

static void put_name(struct buf *b, const char *name)
{
	size_t len = strlen(name);
	assert(len <= 255);
	buf_put_u8(b, (uint8_t)len);
	buf_append(b, name, len);
}

static void put_footer(struct buf *b)
{
	buf_put_u8(b, SECTION_FOOTER);
	buf_put_be32(b, RAM_SECTION);
}

/* What may follow the configuration's name: `05 name be32 version contents`. */
static bool skip_subsection(struct cursor *c)
{
	char name[256];

	if (cursor_u8(c) != SECTION_SUBSECTION)
		return false;
	size_t len = cursor_u8(c);
	const uint8_t *p = cursor_bytes(c, len);
	if (!p)
		return false;
	memcpy(name, p, len);
	name[len] = 0;
	(void)cursor_be32(c);
	if (strcmp(name, "configuration/target-page-bits") == 0)
		return cursor_be32(c) == 12;
	if (strcmp(name, "configuration/capabilities") == 0)
		return cursor_be32(c) == 0;
	if (strcmp(name, "configuration/uuid") == 0)
		return cursor_bytes(c, 16) != NULL;
	return false;
}

/* "QEVM" 3 and the configuration, and nothing behind it: a command there (to go on with COLO, say) would be obeyed. */
static int check_header(const uint8_t *p, size_t n, struct err *e)
{
	struct cursor c = cursor_over(p, n);
	const uint8_t *magic = cursor_bytes(&c, 4);
	bool good = magic && memcmp(magic, "QEVM", 4) == 0 && cursor_be32(&c) == 3;

	if (good && cursor_left(&c) > 0)
		good = cursor_u8(&c) == SECTION_CONFIGURATION && cursor_bytes(&c, cursor_be32(&c));
	while (good && cursor_left(&c) > 0)
		good = skip_subsection(&c);
	good = good && cursor_ok(&c);
	return good ? 0 : err_set(e, ERR_CORRUPT, "the point's stream head is not one of QEMU's (%zu bytes)", n);
}

size_t image_device_length(const uint8_t *p, size_t n)
{
	for (size_t i = n; i-- > 6;) {
		if (p[i] != '{' || p[i - 5] != SECTION_VMDESC || p[i - 6] != SECTION_EOF)
			continue;
		struct cursor c = cursor_over(p + i - 4, 4);
		if (cursor_be32(&c) == n - i)
			return i - 5;
	}
	return n;
}

/* Full sections, then the end. A stream that ends earlier would be waited for without end by QEMU. */
static int check_device(const uint8_t *p, size_t n, struct err *e)
{
	if (n < 2 || p[0] != SECTION_FULL || p[n - 1] != SECTION_EOF)
		return err_set(e, ERR_CORRUPT, "the point's device state is not one of QEMU's (%zu bytes)", n);
	return 0;
}

static int put_start(struct out *o, const struct store_volume *v, size_t n, struct err *e)
{
	uint64_t total = 0;
	struct buf *b = &o->buf;

	for (size_t i = 0; i < n; i++) {
		if (v[i].kind != STORE_RAM)
			continue;
		if (v[i].size_bytes % STORE_BLOCK != 0 || __builtin_add_overflow(total, v[i].size_bytes, &total))
			return err_set(e, ERR_CORRUPT, "memory block %s has an impossible size", v[i].name);
	}
	if (total == 0) {
		err_set(e, ERR_REFUSED, "this point has no memory");
		return err_remedy(e, "start the VM from its disks alone");
	}
	buf_put_u8(b, SECTION_START);
	buf_put_be32(b, RAM_SECTION);
	put_name(b, "ram");
	buf_put_be32(b, 0);
	buf_put_be32(b, RAM_VERSION);
	buf_put_be64(b, total | RAM_MEM_SIZE);
	for (size_t i = 0; i < n; i++) {
		if (v[i].kind != STORE_RAM)
			continue;
		put_name(b, v[i].name);
		buf_put_be64(b, v[i].size_bytes);
	}
	buf_put_be64(b, RAM_EOS);
	put_footer(b);
	buf_put_u8(b, SECTION_END);
	buf_put_be32(b, RAM_SECTION);
	return 0;
}

/* One page record into p, which has room for it; returns its length. */
static size_t encode_page(uint8_t *p, uint64_t addr, const uint8_t *data, bool zero, const char *first_of)
{
	uint64_t word = __builtin_bswap64(addr | (zero ? RAM_ZERO : RAM_PAGE) | (first_of ? 0 : RAM_CONTINUE));
	size_t n = sizeof(word);

	memcpy(p, &word, sizeof(word));
	if (first_of) {
		size_t len = strlen(first_of);
		p[n++] = (uint8_t)len;
		memcpy(p + n, first_of, len);
		n += len;
	}
	if (zero) {
		p[n++] = 0;
		return n;
	}
	memcpy(p + n, data, STORE_BLOCK);
	return n + STORE_BLOCK;
}

static int put_block(struct out *o, struct store_view *view, uint32_t index, const struct store_volume *v,
		     uint8_t *pages, struct err *e)
{
	uint64_t n_blocks = v->size_bytes / STORE_BLOCK;
	bool zero[RUN];

	for (uint64_t at = 0; at < n_blocks; at += RUN) {
		size_t n = n_blocks - at < RUN ? (size_t)(n_blocks - at) : RUN;
		if (store_view_read(view, index, at, n, pages, zero, e) < 0)
			return err_wrap(e, "memory block %s", v->name);
		uint8_t *to = buf_reserve(&o->buf, n * (STORE_BLOCK + 9) + 256), *p = to;
		for (size_t i = 0; i < n; i++)
			p += encode_page(p, (at + i) * STORE_BLOCK, pages + i * STORE_BLOCK, zero[i],
					 at + i == 0 ? v->name : NULL);
		o->buf.len += (size_t)(p - to);
		if (o->buf.len >= OUT_BYTES && flush(o, e) < 0)
			return -1;
	}
	return 0;
}

static int put_all(struct out *o, struct store_view *view, struct err *e)
{
	struct store_volume *v = mem_alloc_array(STORE_MAX_VOLUMES, sizeof(*v));
	uint8_t *pages = mem_alloc_array(RUN, STORE_BLOCK);
	size_t n = store_view_volumes(view, v, STORE_MAX_VOLUMES);
	int rc = -1;

	if (n > STORE_MAX_VOLUMES)
		n = STORE_MAX_VOLUMES;
	if (put_start(o, v, n, e) < 0)
		goto end;
	for (size_t i = 0; i < n; i++)
		if (v[i].kind == STORE_RAM && put_block(o, view, (uint32_t)i, &v[i], pages, e) < 0)
			goto end;
	buf_put_be64(&o->buf, RAM_EOS);
	put_footer(&o->buf);
	rc = 0;
end:
	free(pages);
	free(v);
	return rc;
}

int image_write_stream(struct store_view *view, image_write write, void *ctx, struct err *e)
{
	size_t header_len = 0, device_len = 0;
	MEM_AUTO char *header = store_view_file(view, "header", &header_len, e);
	MEM_AUTO char *device = header ? store_view_file(view, "device", &device_len, e) : NULL;
	struct out o = { .write = write, .ctx = ctx };
	int rc = -1;

	if (!header || !device)
		return err_wrap(e, "this point has no device state");
	device_len = image_device_length((const uint8_t *)device, device_len);
	if (check_header((const uint8_t *)header, header_len, e) < 0 ||
	    check_device((const uint8_t *)device, device_len, e) < 0)
		return -1;
	if (put(&o, header, header_len, e) < 0 || put_all(&o, view, e) < 0 || put(&o, device, device_len, e) < 0)
		goto end;
	buf_put_u8(&o.buf, SECTION_VMDESC);
	buf_put_be32(&o.buf, 2);
	buf_append(&o.buf, "{}", 2);
	rc = flush(&o, e);
end:
	buf_fini(&o.buf);
	return rc;
}

uint8_t *image_save_header(const char *xml, bool running, size_t *len, struct err *e)
{
	/* Native byte order: libvirt reads it back on the machine that wrote it, and swaps where the magic's neighbour says so. */
	uint32_t words[5] = { SAVE_VERSION, 0, running ? 1 : 0, 0 /* raw stream */, 0 /* no cookie */ };
	size_t xml_len = strlen(xml) + 1;

	static_assert(sizeof(SAVE_MAGIC) - 1 == 16, "magic");

	if (xml_len == 1 || xml_len > SAVE_XML_MAX) {
		err_set(e, ERR_CORRUPT, "the VM's definition has %zu bytes", xml_len - 1);
		return NULL;
	}
	words[1] = (uint32_t)xml_len;
	uint8_t *p = mem_alloc(SAVE_HEADER + xml_len);
	memcpy(p, SAVE_MAGIC, sizeof(SAVE_MAGIC) - 1);
	memcpy(p + sizeof(SAVE_MAGIC) - 1, words, sizeof(words));
	memcpy(p + SAVE_HEADER, xml, xml_len);
	*len = SAVE_HEADER + xml_len;
	return p;
}
