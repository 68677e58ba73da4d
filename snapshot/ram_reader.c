#include "snapshot/ram_reader.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum {
	SECTION_EOF = 0x00,
	SECTION_START = 0x01,
	SECTION_PART = 0x02,
	SECTION_END = 0x03,
	SECTION_FULL = 0x04,
	SECTION_SUBSECTION = 0x05,
	SECTION_CONFIGURATION = 0x07,
	SECTION_COMMAND = 0x08,
	SECTION_FOOTER = 0x7e,

	RAM_ZERO = 0x02,
	RAM_MEM_SIZE = 0x04,
	RAM_PAGE = 0x08,
	RAM_EOS = 0x10,
	RAM_CONTINUE = 0x20,
	RAM_FLAGS = 0xfff,
	RAM_VERSION = 4,

	HEAD_MAX = 4096,
	BUFFER = 256 * 1024,
};

struct ram_reader {
	int fd; /* -1: from memory */
	int64_t deadline_ns, idle_ns;
	uint8_t *data; /* BUFFER bytes of our own, or the memory that was given */
	size_t at, len;
	struct buf header;
	bool heading; /* what is taken belongs to the header */
	bool ram_known, current_known;
	uint32_t ram_section;
	uint32_t current;
	struct ram_block blocks[RAM_READER_MAX_BLOCKS];
	size_t n_blocks;
};

struct ram_reader *ram_reader_new(int fd)
{
	struct ram_reader *r = mem_alloc(sizeof(*r));
	r->fd = fd;
	r->deadline_ns = INT64_MAX;
	r->data = mem_alloc(BUFFER);
	return r;
}

struct ram_reader *ram_reader_new_memory(const void *p, size_t n)
{
	struct ram_reader *r = mem_alloc(sizeof(*r));
	r->fd = -1;
	r->deadline_ns = INT64_MAX;
	r->data = mem_alloc(n);
	if (n)
		memcpy(r->data, p, n);
	r->len = n;
	return r;
}

void ram_reader_free(struct ram_reader *r)
{
	if (!r)
		return;
	buf_fini(&r->header);
	free(r->data);
	free(r);
}

void ram_reader_deadline(struct ram_reader *r, int64_t deadline_ns)
{
	r->deadline_ns = deadline_ns;
}

void ram_reader_idle(struct ram_reader *r, int64_t idle_ns)
{
	r->idle_ns = idle_ns;
}

static int broken(struct err *e, const char *what)
{
	return err_set(e, ERR_CORRUPT, "QEMU's stream: %s", what);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t get64(const uint8_t *p)
{
	return (uint64_t)get32(p) << 32 | get32(p + 4);
}

/* 1: readable, 0: not within the time. */
static int wait_readable(struct ram_reader *r, int64_t until_ns, struct err *e)
{
	struct pollfd p = { .fd = r->fd, .events = POLLIN };
	for (;;) {
		int n = poll(&p, 1, clock_poll_ms(until_ns));
		if (n > 0)
			return 1;
		if (n == 0 && clock_mono_ns() >= until_ns)
			return 0;
		if (n < 0 && errno != EINTR)
			return err_sys(e, "wait for QEMU's stream");
	}
}

/* Reads more into the buffer. *eof (may be NULL: then it is an error). */
static int fill(struct ram_reader *r, bool *eof, struct err *e)
{
	ssize_t n = 0;
	if (r->fd >= 0) {
		if (r->at > 0) {
			memmove(r->data, r->data + r->at, r->len - r->at);
			r->len -= r->at;
			r->at = 0;
		}
		assert(r->len < BUFFER);
		int64_t until = r->deadline_ns;
		if (r->idle_ns && clock_mono_ns() + r->idle_ns < until)
			until = clock_mono_ns() + r->idle_ns;
		int ready = wait_readable(r, until, e);
		if (ready < 0)
			return -1;
		if (ready == 0) {
			err_set(e, ERR_SYS, "QEMU's stream: nothing came in time");
			e->errnum = ETIMEDOUT;
			return -1;
		}
		n = fd_read_some(r->fd, r->data + r->len, BUFFER - r->len, e);
		if (n < 0)
			return -1;
	}
	if (n == 0) {
		if (!eof)
			return err_set(e, ERR_PEER, "QEMU has closed its stream");
		*eof = true;
		return 0;
	}
	r->len += (size_t)n;
	return 0;
}

/* n bytes at the front, n <= BUFFER / 2. Valid until the next call. */
static const uint8_t *need(struct ram_reader *r, size_t n, struct err *e)
{
	assert(n <= BUFFER / 2);
	while (r->len - r->at < n)
		if (fill(r, NULL, e))
			return NULL;
	return r->data + r->at;
}

static void took(struct ram_reader *r, size_t n)
{
	if (r->heading)
		buf_append(&r->header, r->data + r->at, n);
	r->at += n;
}

/* ---- head ---- */

/* Each of the subsections says something about the rest of the stream, so each must be known. */
static int config_subsection(struct ram_reader *r, struct err *e)
{
	const uint8_t *p = need(r, 2, e);
	if (!p)
		return -1;
	size_t len = p[1], head = 2 + len + 4;
	p = need(r, head + 4, e);
	if (!p)
		return -1;
	const char *name = (const char *)p + 2;
	uint32_t first = get32(p + head);
#define NAMED(text) (len == sizeof(text) - 1 && memcmp(name, text, len) == 0)
	if (NAMED("configuration/target-page-bits")) {
		if (first != 12)
			return broken(e, "pages are not 4 KiB");
		took(r, head + 4);
		return 0;
	}
	if (NAMED("configuration/capabilities")) {
		if (first != 0)
			return broken(e, "a capability that changes the stream");
		took(r, head + 4);
		return 0;
	}
	if (NAMED("configuration/uuid")) {
		if (!need(r, head + 16, e))
			return -1;
		took(r, head + 16);
		return 0;
	}
#undef NAMED
	return broken(e, "unknown configuration");
}

static int read_head(struct ram_reader *r, struct err *e)
{
	static const uint8_t magic[8] = { 'Q', 'E', 'V', 'M', 0, 0, 0, 3 };
	const uint8_t *p = need(r, sizeof(magic) + 1, e);
	if (!p)
		return -1;
	if (memcmp(p, magic, sizeof(magic)) != 0)
		return broken(e, "not a migration stream of version 3");
	took(r, sizeof(magic));
	if (p[sizeof(magic)] != SECTION_CONFIGURATION)
		return 0;
	p = need(r, 5, e);
	if (!p)
		return -1;
	uint32_t len = get32(p + 1);
	if (len > HEAD_MAX)
		return broken(e, "the machine's name is too long");
	took(r, 5);
	if (!need(r, len, e))
		return -1;
	took(r, len);
	for (;;) {
		p = need(r, 1, e);
		if (!p)
			return -1;
		if (p[0] != SECTION_SUBSECTION)
			return 0;
		if (r->header.len > HEAD_MAX * 4)
			return broken(e, "the configuration is too long");
		if (config_subsection(r, e))
			return -1;
	}
}

int ram_reader_head(struct ram_reader *r, struct err *e)
{
	buf_reset(&r->header);
	r->heading = true;
	int rc = read_head(r, e);
	r->heading = false;
	return rc;
}

const uint8_t *ram_reader_header(const struct ram_reader *r, size_t *len)
{
	*len = r->header.len;
	return r->header.data;
}

const struct ram_block *ram_reader_blocks(const struct ram_reader *r, size_t *n)
{
	*n = r->n_blocks;
	return r->blocks;
}

/* ---- RAM ---- */

static int block_list(struct ram_reader *r, uint64_t total, const struct ram_reader_sink *sink, struct err *e)
{
	r->n_blocks = 0;
	r->current_known = false;
	while (total > 0) {
		const uint8_t *p = need(r, 1, e);
		if (!p)
			return -1;
		size_t len = p[0];
		if (len == 0)
			return broken(e, "a RAM block without a name");
		p = need(r, 1 + len + 8, e);
		if (!p)
			return -1;
		uint64_t used = get64(p + 1 + len);
		if (used == 0 || used > total || used % RAM_READER_PAGE != 0 || r->n_blocks == RAM_READER_MAX_BLOCKS ||
		    memchr(p + 1, '\0', len))
			return broken(e, "RAM blocks do not add up");
		struct ram_block *b = &r->blocks[r->n_blocks++];
		memset(b, 0, sizeof(*b));
		memcpy(b->name, p + 1, len);
		b->bytes = used;
		total -= used;
		took(r, 1 + len + 8);
	}
	return sink->blocks ? sink->blocks(sink->ctx, r->blocks, r->n_blocks, e) : 0;
}

/* The block that a record without CONTINUE names at p. */
static int name_block(struct ram_reader *r, const uint8_t *p, struct err *e)
{
	size_t len = p[0];
	for (uint32_t i = 0; i < r->n_blocks; i++) {
		if (strlen(r->blocks[i].name) == len && memcmp(r->blocks[i].name, p + 1, len) == 0) {
			r->current = i;
			r->current_known = true;
			return 0;
		}
	}
	return broken(e, "a page of an unknown RAM block");
}

static int page_record(struct ram_reader *r, uint64_t head, const struct ram_reader_sink *sink, struct err *e)
{
	size_t at = 8;
	if (!(head & RAM_CONTINUE)) {
		const uint8_t *p = need(r, 9, e);
		if (!p)
			return -1;
		size_t len = p[8];
		p = need(r, 9 + len, e);
		if (!p || name_block(r, p + 8, e))
			return -1;
		at = 9 + len;
	}
	if (!r->current_known)
		return broken(e, "a page without a RAM block");
	uint64_t addr = head & ~(uint64_t)RAM_FLAGS;
	if (addr >= r->blocks[r->current].bytes)
		return broken(e, "a page outside its RAM block");
	bool zero = head & RAM_ZERO;
	size_t whole = at + (zero ? 1 : RAM_READER_PAGE);
	const uint8_t *p = need(r, whole, e);
	if (!p)
		return -1;
	int rc;
	if (!zero) {
		rc = sink->page(sink->ctx, r->current, addr / RAM_READER_PAGE, p + at, e);
	} else if (p[at] == 0) {
		rc = sink->zero(sink->ctx, r->current, addr / RAM_READER_PAGE, e);
	} else {
		uint8_t page[RAM_READER_PAGE];
		memset(page, p[at], sizeof(page));
		rc = sink->page(sink->ctx, r->current, addr / RAM_READER_PAGE, page, e);
	}
	took(r, whole);
	return rc;
}

static int records(struct ram_reader *r, const struct ram_reader_sink *sink, struct err *e)
{
	for (;;) {
		const uint8_t *p = need(r, 8, e);
		if (!p)
			return -1;
		uint64_t head = get64(p);
		switch ((unsigned)head & RAM_FLAGS) {
		case RAM_EOS:
			if (head != RAM_EOS)
				return broken(e, "an end mark with an address");
			took(r, 8);
			return 0;
		case RAM_PAGE:
		case RAM_ZERO:
		case RAM_PAGE | RAM_CONTINUE:
		case RAM_ZERO | RAM_CONTINUE:
			if (page_record(r, head, sink, e))
				return -1;
			break;
		default:
			return broken(e, "a RAM record of an unknown kind");
		}
	}
}

static int footer(struct ram_reader *r, struct err *e)
{
	const uint8_t *p = need(r, 5, e);
	if (!p)
		return -1;
	if (p[0] != SECTION_FOOTER || get32(p + 1) != r->ram_section)
		return broken(e, "no section footer");
	took(r, 5);
	return 0;
}

static int start_section(struct ram_reader *r, const struct ram_reader_sink *sink, struct err *e)
{
	const uint8_t *p = need(r, 6, e);
	if (!p)
		return -1;
	size_t len = p[5], head = 6 + len;
	p = need(r, head + 8 + 8, e);
	if (!p)
		return -1;
	if (len != 3 || memcmp(p + 6, "ram", 3) != 0)
		return err_set(e, ERR_CORRUPT, "QEMU's stream: section \"%.*s\", which is not RAM", (int)len,
			       (const char *)p + 6);
	if (get32(p + head + 4) != RAM_VERSION)
		return broken(e, "unknown version of the RAM section");
	if (r->ram_known)
		return broken(e, "a second RAM section");
	uint64_t total = get64(p + head + 8);
	if ((total & RAM_FLAGS) != RAM_MEM_SIZE)
		return broken(e, "RAM section without its size");
	r->ram_section = get32(p + 1);
	r->ram_known = true;
	took(r, head + 8 + 8);
	if (block_list(r, total & ~(uint64_t)RAM_FLAGS, sink, e) || records(r, sink, e))
		return -1;
	return footer(r, e);
}

static int pages_section(struct ram_reader *r, const struct ram_reader_sink *sink, struct err *e)
{
	const uint8_t *p = need(r, 5, e);
	if (!p)
		return -1;
	if (!r->ram_known || get32(p + 1) != r->ram_section)
		return broken(e, "an iterated section that is not RAM");
	if (p[0] == SECTION_END && sink->end)
		sink->end(sink->ctx);
	took(r, 5);
	if (records(r, sink, e))
		return -1;
	return footer(r, e);
}

static int command(struct ram_reader *r, struct err *e)
{
	const uint8_t *p = need(r, 5, e);
	if (!p)
		return -1;
	unsigned cmd = (unsigned)p[1] << 8 | p[2];
	size_t len = (size_t)p[3] << 8 | p[4];
	/* Return path, ping, COLO, switchover: they leave the rest as it is. */
	if (cmd != 1 && cmd != 2 && cmd != 8 && cmd != 11)
		return err_set(e, ERR_CORRUPT, "QEMU's stream: unknown command %u", cmd);
	took(r, 5);
	if (!need(r, len, e))
		return -1;
	took(r, len);
	return 0;
}

int ram_reader_sections(struct ram_reader *r, const struct ram_reader_sink *sink, enum ram_reader_stop *stop,
			struct err *e)
{
	for (;;) {
		const uint8_t *p = need(r, 1, e);
		if (!p)
			return -1;
		int rc;
		switch (p[0]) {
		case SECTION_EOF:
			took(r, 1);
			*stop = RAM_READER_END;
			return 0;
		case SECTION_FULL:
			*stop = RAM_READER_DEVICE;
			return 0;
		case SECTION_START:
			rc = start_section(r, sink, e);
			break;
		case SECTION_PART:
		case SECTION_END:
			rc = pages_section(r, sink, e);
			break;
		case SECTION_COMMAND:
			rc = command(r, e);
			break;
		default:
			rc = broken(e, "unknown section");
			break;
		}
		if (rc)
			return -1;
	}
}

/* ---- what is not RAM ---- */

int ram_reader_be32(struct ram_reader *r, uint32_t *out, struct err *e)
{
	const uint8_t *p = need(r, 4, e);
	if (!p)
		return -1;
	*out = get32(p);
	took(r, 4);
	return 0;
}

int ram_reader_be64(struct ram_reader *r, uint64_t *out, struct err *e)
{
	const uint8_t *p = need(r, 8, e);
	if (!p)
		return -1;
	*out = get64(p);
	took(r, 8);
	return 0;
}

int ram_reader_take(struct ram_reader *r, size_t n, struct buf *out, struct err *e)
{
	while (n > 0) {
		if (r->len == r->at && fill(r, NULL, e))
			return -1;
		size_t have = r->len - r->at < n ? r->len - r->at : n;
		buf_append(out, r->data + r->at, have);
		took(r, have);
		n -= have;
	}
	return 0;
}

int ram_reader_rest(struct ram_reader *r, size_t max, struct buf *out, struct err *e)
{
	bool eof = false;
	for (;;) {
		if (r->len - r->at > max)
			return broken(e, "the device state is too long");
		max -= r->len - r->at;
		buf_append(out, r->data + r->at, r->len - r->at);
		took(r, r->len - r->at);
		if (eof)
			return 0;
		if (fill(r, &eof, e))
			return -1;
	}
}

int ram_reader_discard(struct ram_reader *r, int64_t wait_ns, size_t *got, struct err *e)
{
	*got = r->len - r->at;
	r->at = r->len;
	if (r->fd < 0)
		return 0;
	int ready = wait_readable(r, clock_mono_ns() + wait_ns, e);
	if (ready <= 0)
		return ready;
	if (fill(r, NULL, e))
		return -1;
	*got += r->len - r->at;
	r->at = r->len;
	return 0;
}
