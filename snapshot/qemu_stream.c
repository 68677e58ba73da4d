/* Grammar: QEMU-STREAM.md. One unit at a time; the state is touched only after the sink has taken the unit. */
#include "snapshot/qemu_stream.h"

#include "base/mem.h"

#include <string.h>

#define PAGE_SIZE 4096u

/* Flags in the low bits of a page record's address. */
#define RAM_ZERO 0x02u
#define RAM_MEM_SIZE 0x04u
#define RAM_PAGE 0x08u
#define RAM_EOS 0x10u
#define RAM_CONTINUE 0x20u
#define RAM_FLAGS 0xfffu

#define SECTION_EOF 0x00
#define SECTION_START 0x01
#define SECTION_PART 0x02
#define SECTION_END 0x03
#define SECTION_FULL 0x04
#define SECTION_SUBSECTION 0x05
#define SECTION_CONFIGURATION 0x07
#define SECTION_COMMAND 0x08
#define SECTION_FOOTER 0x7e

#define RAM_VERSION 4
/* Guests have a dozen blocks; with many DIMMs and devices a few hundred. */
#define BLOCKS_MAX 4096u
/* So that a page number (block << 40 | index) holds every address. */
#define ADDR_LIMIT (UINT64_C(1) << 52)

enum state {
	AT_MAGIC,
	AT_SECTION,     /* between sections */
	IN_SKIP,        /* `left` bytes of a field of known length, then `after_skip` */
	AT_CONFIG_MORE, /* after the configuration's name: subsections may follow */
	AT_BLOCK_LIST,  /* `left` bytes of RAM are still unnamed */
	AT_RECORD,      /* in a RAM section, between page records */
	AT_PAGE_DATA,   /* header was literal: 4096 bytes of page `page_addr` of `block` */
	AT_FOOTER,
	PASS,
};

struct block {
	uint8_t len;
	char name[255];
};

struct qemu_stream {
	struct qemu_stream_sink sink;
	enum state state;
	enum state after_skip;
	const char *why;
	uint64_t left;
	uint64_t ram_bytes;
	uint64_t page_addr;
	uint32_t ram_section;
	bool ram_known;   /* ram_section is set */
	bool ram_ending;  /* inside SECTION_END */
	bool block_known; /* `block` is set */
	uint32_t block;   /* current; persists across sections */
	uint32_t n_blocks;
	struct block *blocks;
};

/* What is at hand: p[0..n). */
struct view {
	const uint8_t *p;
	size_t n;
};

/* Results of a step, besides the number of bytes consumed. */
#define NEED_MORE SIZE_MAX
#define REFUSED (SIZE_MAX - 1)
#define UNKNOWN (SIZE_MAX - 2)

static inline uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t get32(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof(v));
	return __builtin_bswap32(v);
}

static inline uint64_t get64(const uint8_t *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof(v));
	return __builtin_bswap64(v);
}

struct qemu_stream *qemu_stream_new(const struct qemu_stream_sink *sink)
{
	struct qemu_stream *s = mem_alloc(sizeof(*s));
	s->sink = *sink;
	s->state = AT_MAGIC;
	return s;
}

void qemu_stream_free(struct qemu_stream *s)
{
	if (!s)
		return;
	mem_free_ptr(&s->blocks);
	mem_free_ptr(&s);
}

static size_t unknown(struct qemu_stream *s, const char *why)
{
	s->why = why;
	return UNKNOWN;
}

static size_t literal(struct qemu_stream *s, const uint8_t *p, size_t n)
{
	return s->sink.literal(s->sink.ctx, p, n) ? REFUSED : n;
}

/* A literal, then the next state. */
static size_t literal_to(struct qemu_stream *s, const uint8_t *p, size_t n, enum state next)
{
	if (literal(s, p, n) == REFUSED)
		return REFUSED;
	s->state = next;
	return n;
}

static size_t skip_to(struct qemu_stream *s, const uint8_t *p, size_t n, uint64_t more, enum state next)
{
	if (literal(s, p, n) == REFUSED)
		return REFUSED;
	s->left = more;
	s->after_skip = next;
	s->state = more ? IN_SKIP : next;
	return n;
}

static size_t step_magic(struct qemu_stream *s, struct view v)
{
	static const uint8_t magic[8] = { 'Q', 'E', 'V', 'M', 0, 0, 0, 3 };
	size_t have = v.n < sizeof(magic) ? v.n : sizeof(magic);
	if (memcmp(v.p, magic, have) != 0)
		return unknown(s, "not a migration stream of version 3");
	if (have < sizeof(magic))
		return NEED_MORE;
	return literal_to(s, v.p, sizeof(magic), AT_SECTION);
}

static size_t step_skip(struct qemu_stream *s, struct view v)
{
	size_t n = v.n < s->left ? v.n : (size_t)s->left;
	if (literal(s, v.p, n) == REFUSED)
		return REFUSED;
	s->left -= n;
	if (s->left == 0)
		s->state = s->after_skip;
	return n;
}

static size_t step_configuration(struct qemu_stream *s, struct view v)
{
	if (v.n < 5)
		return NEED_MORE;
	return skip_to(s, v.p, 5, get32(v.p + 1), AT_CONFIG_MORE);
}

/* Subsections of the configuration: each says something about the rest of the stream, so each must be known. */
static size_t step_config_more(struct qemu_stream *s, struct view v)
{
	if (v.p[0] != SECTION_SUBSECTION) {
		s->state = AT_SECTION;
		return 0;
	}
	if (v.n < 2)
		return NEED_MORE;
	size_t name_len = v.p[1];
	size_t head = 2 + name_len + 4; /* name, version */
	if (v.n < head + 4)
		return NEED_MORE;
	const char *name = (const char *)v.p + 2;
	uint32_t first = get32(v.p + head);
#define NAMED(text) (name_len == sizeof(text) - 1 && memcmp(name, text, name_len) == 0)
	if (NAMED("configuration/target-page-bits")) {
		if (first != 12)
			return unknown(s, "pages are not 4 KiB");
		return literal(s, v.p, head + 4);
	}
	if (NAMED("configuration/capabilities")) {
		if (first != 0)
			return unknown(s, "a capability that changes the stream");
		return literal(s, v.p, head + 4);
	}
	if (NAMED("configuration/uuid")) {
		if (v.n < head + 16)
			return NEED_MORE;
		return literal(s, v.p, head + 16);
	}
#undef NAMED
	return unknown(s, "unknown configuration");
}

static size_t step_command(struct qemu_stream *s, struct view v)
{
	if (v.n < 5)
		return NEED_MORE;
	/* Return path, ping, post-copy advice, COLO, switchover: framed, and what follows is as before. The others
	 * belong to post-copy, where pages no longer come in this grammar. */
	switch (get16(v.p + 1)) {
	case 1:
	case 2:
	case 3:
	case 8:
	case 11:
		return skip_to(s, v.p, 5, get16(v.p + 3), AT_SECTION);
	case 4:
	case 5:
	case 6:
	case 7:
		return unknown(s, "post-copy");
	default:
		return unknown(s, "unknown command");
	}
}

static size_t step_start(struct qemu_stream *s, struct view v)
{
	if (v.n < 6)
		return NEED_MORE;
	size_t name_len = v.p[5];
	size_t head = 6 + name_len;
	size_t whole = head + 8 + 8; /* instance, version; then the first record: total size */
	if (v.n < whole)
		return NEED_MORE;
	if (name_len != 3 || memcmp(v.p + 6, "ram", 3) != 0)
		return unknown(s, "an iterated section that is not RAM");
	if (get32(v.p + head + 4) != RAM_VERSION)
		return unknown(s, "unknown version of the RAM section");
	if (s->ram_known)
		return unknown(s, "a second RAM section");
	uint64_t total = get64(v.p + head + 8);
	if ((total & RAM_FLAGS) != RAM_MEM_SIZE || (total & ~(uint64_t)RAM_FLAGS) == 0)
		return unknown(s, "RAM section without its size");
	total &= ~(uint64_t)RAM_FLAGS;
	if (literal_to(s, v.p, whole, AT_BLOCK_LIST) == REFUSED)
		return REFUSED;
	s->ram_section = get32(v.p + 1);
	s->ram_known = true;
	s->ram_bytes = total;
	s->left = total;
	return whole;
}

static size_t step_block(struct qemu_stream *s, struct view v)
{
	if (v.n < 1)
		return NEED_MORE;
	size_t len = v.p[0];
	if (len == 0)
		return unknown(s, "a RAM block without a name");
	if (v.n < 1 + len + 8)
		return NEED_MORE;
	uint64_t used = get64(v.p + 1 + len);
	if (used > s->left || s->n_blocks == BLOCKS_MAX)
		return unknown(s, "RAM blocks do not add up");
	if (literal(s, v.p, 1 + len + 8) == REFUSED)
		return REFUSED;
	s->blocks = mem_realloc_array(s->blocks, s->n_blocks + 1, sizeof(*s->blocks));
	struct block *b = &s->blocks[s->n_blocks++];
	b->len = (uint8_t)len;
	memcpy(b->name, v.p + 1, len);
	s->left -= used;
	if (s->left == 0) {
		s->state = AT_RECORD;
		s->block_known = false;
	}
	return 1 + len + 8;
}

static size_t step_pages_section(struct qemu_stream *s, struct view v)
{
	if (v.n < 5)
		return NEED_MORE;
	if (!s->ram_known || get32(v.p + 1) != s->ram_section)
		return unknown(s, "an iterated section that is not RAM");
	if (literal_to(s, v.p, 5, AT_RECORD) == REFUSED)
		return REFUSED;
	s->ram_ending = v.p[0] == SECTION_END;
	return 5;
}

static size_t step_section(struct qemu_stream *s, struct view v)
{
	switch (v.p[0]) {
	case SECTION_CONFIGURATION:
		return step_configuration(s, v);
	case SECTION_COMMAND:
		return step_command(s, v);
	case SECTION_START:
		return step_start(s, v);
	case SECTION_PART:
	case SECTION_END:
		return step_pages_section(s, v);
	case SECTION_FULL:
		return unknown(s, "device state before the end of RAM");
	case SECTION_EOF:
		return unknown(s, "end of the stream before the end of RAM");
	default:
		return unknown(s, "unknown section");
	}
}

static size_t step_footer(struct qemu_stream *s, struct view v)
{
	if (v.n < 5)
		return NEED_MORE;
	if (v.p[0] != SECTION_FOOTER || get32(v.p + 1) != s->ram_section)
		return unknown(s, "no section footer");
	if (literal_to(s, v.p, 5, AT_SECTION) == REFUSED)
		return REFUSED;
	if (s->ram_ending) {
		s->why = "end of RAM";
		s->state = PASS;
		if (s->sink.ram_end)
			s->sink.ram_end(s->sink.ctx);
	}
	return 5;
}

static bool find_block(const struct qemu_stream *s, const uint8_t *name, size_t len, uint32_t *out)
{
	for (uint32_t i = 0; i < s->n_blocks; i++) {
		if (s->blocks[i].len == len && memcmp(s->blocks[i].name, name, len) == 0) {
			*out = i;
			return true;
		}
	}
	return false;
}

/* A ZERO or PAGE record that names its block. */
static size_t step_named_record(struct qemu_stream *s, struct view v, uint64_t head)
{
	if (v.n < 9)
		return NEED_MORE;
	size_t len = v.p[8];
	bool zero = head & RAM_ZERO;
	size_t whole = 9 + len + (zero ? 1 : 0);
	if (v.n < whole)
		return NEED_MORE;
	uint32_t block;
	if (!find_block(s, v.p + 9, len, &block))
		return unknown(s, "a page of an unknown RAM block");
	if (literal_to(s, v.p, whole, zero ? AT_RECORD : AT_PAGE_DATA) == REFUSED)
		return REFUSED;
	s->block = block;
	s->block_known = true;
	s->page_addr = head & ~(uint64_t)RAM_FLAGS;
	return whole;
}

static size_t step_zero(struct qemu_stream *s, struct view v, uint64_t head)
{
	if (v.n < 9)
		return NEED_MORE;
	if (v.p[8] != 0)
		return literal(s, v.p, 9);
	return s->sink.zero(s->sink.ctx, s->block, head & ~(uint64_t)RAM_FLAGS) ? REFUSED : 9;
}

/* A record other than PAGE | CONTINUE, or one at which the tight loop stopped. */
static size_t step_record(struct qemu_stream *s, struct view v)
{
	if (v.n < 8)
		return NEED_MORE;
	uint64_t head = get64(v.p);
	unsigned flags = (unsigned)head & RAM_FLAGS;
	if (head == RAM_EOS)
		return literal_to(s, v.p, 8, AT_FOOTER);
	if (head >= ADDR_LIMIT)
		return unknown(s, "an address out of range");
	switch (flags) {
	case RAM_ZERO:
	case RAM_PAGE:
		return step_named_record(s, v, head);
	case RAM_ZERO | RAM_CONTINUE:
		if (!s->block_known)
			return unknown(s, "a page without a RAM block");
		return step_zero(s, v, head);
	case RAM_PAGE | RAM_CONTINUE:
		if (!s->block_known)
			return unknown(s, "a page without a RAM block");
		if (v.n < 8 + PAGE_SIZE)
			return NEED_MORE;
		return s->sink.page(s->sink.ctx, s->block, head & ~(uint64_t)RAM_FLAGS, true, v.p + 8) ? REFUSED
												       : 8 + PAGE_SIZE;
	default:
		return unknown(s, "a RAM record of an unknown kind");
	}
}

static size_t step_page_data(struct qemu_stream *s, struct view v)
{
	if (v.n < PAGE_SIZE)
		return NEED_MORE;
	if (s->sink.page(s->sink.ctx, s->block, s->page_addr, false, v.p))
		return REFUSED;
	s->state = AT_RECORD;
	return PAGE_SIZE;
}

/* Nearly every byte of a migration passes here: pages, and zero pages, of the block before. Returns what was consumed;
 * *refused if the sink stopped it. */
static size_t run_of_pages(struct qemu_stream *s, struct view v, bool *refused)
{
	const struct qemu_stream_sink sink = s->sink;
	const uint32_t block = s->block;
	const uint8_t *p = v.p, *end = v.p + v.n;
	while (end - p >= 9) {
		uint64_t head = get64(p), addr = head & ~(uint64_t)RAM_FLAGS;
		unsigned flags = (unsigned)head & RAM_FLAGS;
		if (addr >= ADDR_LIMIT)
			break;
		if (flags == (RAM_PAGE | RAM_CONTINUE)) {
			if ((size_t)(end - p) < 8 + PAGE_SIZE)
				break;
			if (sink.page(sink.ctx, block, addr, true, p + 8)) {
				*refused = true;
				break;
			}
			p += 8 + PAGE_SIZE;
		} else if (flags == (RAM_ZERO | RAM_CONTINUE) && p[8] == 0) {
			if (sink.zero(sink.ctx, block, addr)) {
				*refused = true;
				break;
			}
			p += 9;
		} else {
			break;
		}
	}
	return (size_t)(p - v.p);
}

static size_t step(struct qemu_stream *s, struct view v)
{
	switch (s->state) {
	case AT_MAGIC:
		return step_magic(s, v);
	case AT_SECTION:
		return step_section(s, v);
	case IN_SKIP:
		return step_skip(s, v);
	case AT_CONFIG_MORE:
		return step_config_more(s, v);
	case AT_BLOCK_LIST:
		return step_block(s, v);
	case AT_RECORD:
		return step_record(s, v);
	case AT_PAGE_DATA:
		return step_page_data(s, v);
	case AT_FOOTER:
		return step_footer(s, v);
	case PASS:
		break;
	}
	return literal(s, v.p, v.n);
}

size_t qemu_stream_feed(struct qemu_stream *s, const uint8_t *p, size_t n)
{
	size_t done = 0;
	while (done < n) {
		struct view v = { p + done, n - done };
		if (s->state == AT_RECORD && s->block_known) {
			bool refused = false;
			size_t run = run_of_pages(s, v, &refused);
			done += run;
			if (refused || done == n)
				break;
			v = (struct view){ p + done, n - done };
		}
		size_t used = step(s, v);
		if (used == NEED_MORE || used == REFUSED)
			break;
		if (used == UNKNOWN)
			s->state = PASS;
		else
			done += used;
	}
	return done;
}

bool qemu_stream_passthrough(const struct qemu_stream *s, const char **why)
{
	if (s->state != PASS)
		return false;
	if (why)
		*why = s->why;
	return true;
}

uint64_t qemu_stream_ram_bytes(const struct qemu_stream *s)
{
	return s->ram_bytes;
}
