/*
 * restore-try [--paused] SAVE [DISK...] - takes a save image of libvirt apart into a replica (memory block by block, head, device state), and starts
 * the VM from that, through a FIFO, as a failover does. Prints how long it took.
 */
#include "base/buf.h"
#include "base/clock.h"
#include "base/cursor.h"
#include "base/file.h"
#include "migrator/restore_virt.h"
#include "snapshot/image.h"
#include "snapshot/qemu_stream.h"
#include "tests/stand-in/store.h"

#include <stdio.h>

struct taken {
	struct store *store;
	struct buf literal;
	bool ram_over;
	struct buf device;
	uint32_t block;
	uint64_t pages;
};

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "restore-try: %s\n", what);
	exit(1);
}

/* Head and block list, from the literals before the first page. */
static void take_head(struct taken *t)
{
	struct cursor c = cursor_over(t->literal.data, t->literal.len);
	cursor_bytes(&c, 8);
	if (cursor_u8(&c) != 7)
		die("no configuration");
	cursor_bytes(&c, cursor_be32(&c));
	stand_in_file(t->store, "header", t->literal.data, (size_t)(c.p - t->literal.data));
	while (cursor_left(&c) && *c.p == 8) { /* commands */
		cursor_bytes(&c, 3);
		cursor_bytes(&c, cursor_be16(&c));
	}
	cursor_bytes(&c, 5);
	cursor_bytes(&c, cursor_u8(&c));
	cursor_bytes(&c, 8);
	uint64_t total = cursor_be64(&c) & ~UINT64_C(0xfff);
	while (total > 0 && cursor_ok(&c)) {
		char name[256] = "";
		uint8_t len = cursor_u8(&c);
		const uint8_t *p = cursor_bytes(&c, len);
		if (!p)
			die("block list");
		memcpy(name, p, len);
		uint64_t size = cursor_be64(&c);
		stand_in_volume(t->store, STORE_RAM, name, size);
		total -= size;
	}
}

static int on_literal(void *ctx, const uint8_t *p, size_t n)
{
	struct taken *t = ctx;
	buf_append(t->ram_over ? &t->device : &t->literal, p, n);
	return 0;
}
static int on_page(void *ctx, uint32_t block, uint64_t addr, bool cont, const uint8_t *data)
{
	struct taken *t = ctx;
	(void)cont;
	if (t->store->n_volumes == 0)
		take_head(t);
	stand_in_block(t->store, block, addr / STORE_BLOCK, data);
	t->pages++;
	return 0;
}
static int on_zero(void *ctx, uint32_t block, uint64_t addr)
{
	struct taken *t = ctx;
	if (t->store->n_volumes == 0)
		take_head(t);
	free(t->store->blocks[block][addr / STORE_BLOCK]);
	t->store->blocks[block][addr / STORE_BLOCK] = NULL;
	return 0;
}
static void on_end(void *ctx)
{
	((struct taken *)ctx)->ram_over = true;
}

/* Without the description behind the end of the sections, and what pads the file. */
static size_t device_length(const struct buf *b)
{
	for (size_t i = b->len; i-- > 6;) {
		if (b->data[i - 6] != 0 || b->data[i - 5] != 6 || b->data[i] != '{')
			continue;
		struct cursor c = cursor_over(b->data + i - 4, 4);
		if (i + cursor_be32(&c) <= b->len)
			return i - 5;
	}
	die("no end of device state");
}

static char *take_save(struct store *s, const char *path)
{
	struct err e = ERR_INIT;
	size_t len;
	MEM_AUTO char *file = file_read_all(path, (size_t)8 << 30, &len, &e);
	struct taken t = { .store = s };
	struct qemu_stream_sink sink = { .literal = on_literal, .page = on_page, .zero = on_zero, .ram_end = on_end, .ctx = &t };
	uint32_t data_len;

	if (!file)
		die(e.text);
	memcpy(&data_len, file + 20, 4);
	struct qemu_stream *q = qemu_stream_new(&sink);
	const uint8_t *p = (const uint8_t *)file + 92 + data_len, *end = (const uint8_t *)file + len;
	while (p < end) {
		size_t n = qemu_stream_feed(q, p, (size_t)(end - p));
		if (n == 0)
			break;
		p += n;
	}
	if (!t.ram_over)
		die("the RAM has no end");
	buf_append(&t.device, p, (size_t)(end - p));
	stand_in_file(s, "device", t.device.data, device_length(&t.device));
	qemu_stream_free(q);
	buf_fini(&t.device);
	buf_fini(&t.literal);
	printf("pages=%llu blocks=%zu\n", (unsigned long long)t.pages, s->n_volumes);
	return mem_strdup(file + 92);
}

static int feed(void *ctx, restore_write write, void *wctx, struct err *e)
{
	return image_write_stream(ctx, write, wctx, e);
}

static int count(void *ctx, const void *p, size_t n, struct err *e)
{
	(void)p;
	(void)e;
	*(uint64_t *)ctx += n;
	return 0;
}

static int try_restore(struct store_view *v, const char *xml, const char *uuid, bool paused, struct err *e)
{
	struct restore_times times = { 0 };
	size_t head_len;
	MEM_AUTO uint8_t *head = image_save_header(xml, !paused, &head_len, e);
	struct restore_opts o = { .uuid = uuid,
				  .xml = xml,
				  .paused = paused,
				  .head = head,
				  .head_len = head_len,
				  .feed = feed,
				  .ctx = v,
				  .run_dir = "/run/vmferry",
				  .qemu_group = NULL,
				  .deadline_ns = clock_mono_ns() + 60 * NS_PER_S };
	uint64_t bytes = 0;
	int64_t start = clock_mono_ns();

	if (!head || image_write_stream(v, count, &bytes, e) < 0)
		return -1;
	double s = (double)(clock_mono_ns() - start) / 1e9;
	printf("produce: %llu bytes in %.3f s\n", (unsigned long long)bytes, s);
	struct virt *virt = virt_new("qemu:///system", e);
	if (!virt || restore_virt_start(virt, &o, &times, e) < 0)
		return -1;
	printf("opened=%.3f fed=%.3f total=%.3f\n", (double)times.opened / 1e9, (double)times.fed / 1e9, (double)times.total / 1e9);
	virt_free(virt);
	return 0;
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	bool paused = argc > 1 && strcmp(argv[1], "--paused") == 0;
	char uuid[37] = "";

	argc -= paused, argv += paused;
	if (argc != 2)
		die("usage: restore-try [--paused] SAVE");
	if (virt_init(&e) < 0)
		die(e.text);
	struct store *s = stand_in_new();
	MEM_AUTO char *xml = take_save(s, argv[1]);
	const char *at = strstr(xml, "<uuid>");
	if (!at)
		die("no UUID");
	memcpy(uuid, at + 6, 36);
	struct store_view *v = store_view_open(s, 0, &e);
	int rc = try_restore(v, xml, uuid, paused, &e);
	if (rc < 0)
		fprintf(stderr, "restore-try: %s\n", e.text);
	store_view_close(v);
	stand_in_free(s);
	return rc < 0;
}
