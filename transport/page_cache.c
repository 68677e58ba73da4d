#include "transport/page_cache.h"

#include "base/mem.h"
#include "base/xxh3.h"
#include "transport/codec.h"
#include "transport/warm.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

/* Pages seen, by the low bits of their number: 256 GiB of guest without aliases. An alias only makes a page look
 * as if it had come before. */
#define SEEN_BITS (UINT64_C(1) << 26)
#define SECRET_LEN 192
/* The clock's hand moves at most so far for one page; if all of these are in use, the page is not kept. */
#define SWEEP_MAX 1024u
#define WAYS 4u

/* Entry of map and index: a tag in the high half that saves looking at the slot, the slot in the low half. 0: none
 * (tags are odd). */
static inline uint64_t entry_of(uint32_t tag, uint32_t slot)
{
	return (uint64_t)tag << 32 | slot;
}
static inline uint32_t entry_tag(uint64_t e)
{
	return (uint32_t)(e >> 32);
}
static inline uint32_t entry_slot(uint64_t e)
{
	return (uint32_t)e;
}

struct page_cache {
	/* Fixed. */
	uint32_t slots;
	uint64_t mask;              /* of map and index, which have twice as many entries as there are slots */
	uint8_t secret[SECRET_LEN]; /* so that a guest cannot choose pages that meet in the index */
	uint8_t *data;              /* slots * 4096, warm.h */
	/* In one mapping that takes memory as it is touched. */
	size_t mapped;
	uint64_t *map;   /* page number -> slot, open addressing */
	uint64_t *index; /* contents -> slot, sets of WAYS; may be stale, see `tag` */
	uint64_t *owner; /* per slot: its page; of a free slot the next free one */
	uint32_t *tag;   /* per slot: as in its index entry, or 0: not found by content */
	uint16_t *last;  /* per slot: the pass in which its page last came */
	uint8_t *seen;   /* SEEN_BITS */

	bool keep_first;
	uint32_t used; /* slots [0, used) have been handed out once */
	uint32_t free; /* list through owner, or NO_SLOT */
	uint32_t hand;
	uint16_t pass;    /* of the guest's RAM; counts round */
	uint64_t page_no; /* where the pass is */
};

/* Zeros. */
static void *map_lazily(size_t size, struct err *e)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) {
		err_sys(e, "memory for the index of page versions (%zu MiB)", size >> 20);
		return NULL;
	}
	return p;
}

static uint64_t table_entries(uint32_t slots)
{
	uint64_t n = 64;
	while (n < 2 * (uint64_t)slots)
		n *= 2;
	return n;
}

/* A part of the mapping, on a cache line of its own. */
static void *carve(uint8_t **at, size_t size)
{
	void *p = *at;
	*at += (size + 63) & ~(size_t)63;
	return p;
}

struct page_cache *page_cache_new(uint32_t slots, struct err *e)
{
	if (slots > PAGE_CACHE_MAX_SLOTS) {
		err_set(e, ERR_CONFIG, "a cache of %u pages is larger than the limit of %u", slots,
			PAGE_CACHE_MAX_SLOTS);
		return NULL;
	}
	struct page_cache *c = mem_alloc(sizeof(*c));
	uint64_t entries = table_entries(slots);
	size_t n = slots;
	c->slots = slots;
	c->mask = entries - 1;
	c->free = PAGE_CACHE_NO_SLOT;
	c->keep_first = true;
	if (getrandom(c->secret, sizeof(c->secret), 0) != (ssize_t)sizeof(c->secret)) {
		err_sys(e, "random bytes for the page cache");
		mem_free_ptr(&c);
		return NULL;
	}
	c->data = slots ? warm_get(n * CODEC_PAGE_SIZE, "old versions of pages", e) : NULL;
	if (slots && !c->data) {
		mem_free_ptr(&c);
		return NULL;
	}
	c->mapped = 2 * (size_t)entries * sizeof(uint64_t) + n * (8 + 4 + 2) + SEEN_BITS / 8 + 8 * 64;
	uint8_t *at = map_lazily(c->mapped, e);
	if (!at) {
		warm_put(c->data, n * CODEC_PAGE_SIZE);
		mem_free_ptr(&c);
		return NULL;
	}
	c->map = carve(&at, (size_t)entries * sizeof(uint64_t));
	c->index = carve(&at, (size_t)entries * sizeof(uint64_t));
	c->owner = carve(&at, n * sizeof(uint64_t));
	c->tag = carve(&at, n * sizeof(uint32_t));
	c->last = carve(&at, n * sizeof(uint16_t));
	c->seen = carve(&at, SEEN_BITS / 8);
	return c;
}

void page_cache_free(struct page_cache *c)
{
	if (!c)
		return;
	warm_put(c->data, (size_t)c->slots * CODEC_PAGE_SIZE);
	munmap(c->map, c->mapped);
	mem_free_ptr(&c);
}

uint32_t page_cache_slots(const struct page_cache *c)
{
	return c->slots;
}

/* ---- page number -> slot ---- */

static inline uint64_t mix(uint64_t x)
{
	x *= UINT64_C(0x9e3779b97f4a7c15);
	return x ^ x >> 29;
}

/* Eight neighbouring pages share a cache line; lines are scattered. */
static inline uint64_t map_home(const struct page_cache *c, uint64_t page_no)
{
	return (mix(page_no >> 3) << 3 | (page_no & 7)) & c->mask;
}

static inline uint32_t map_tag(uint64_t page_no)
{
	return (uint32_t)(mix(page_no) >> 32) | 1;
}

/* Where the page is, or the empty entry where it would go. */
static inline uint64_t map_position(const struct page_cache *c, uint64_t page_no)
{
	uint32_t tag = map_tag(page_no);
	uint64_t i = map_home(c, page_no);
	for (; c->map[i]; i = (i + 1) & c->mask) {
		if (entry_tag(c->map[i]) == tag && c->owner[entry_slot(c->map[i])] == page_no)
			break;
	}
	return i;
}

static void map_remove(struct page_cache *c, uint64_t hole)
{
	/* What comes after in the same cluster may have to move up, so that searches need no tombstones. */
	for (uint64_t j = (hole + 1) & c->mask; c->map[j]; j = (j + 1) & c->mask) {
		uint64_t home = map_home(c, c->owner[entry_slot(c->map[j])]);
		if (((j - home) & c->mask) >= ((j - hole) & c->mask)) {
			c->map[hole] = c->map[j];
			hole = j;
		}
	}
	c->map[hole] = 0;
}

/* QEMU goes through RAM in ascending order, again and again: a step back begins a new pass. */
static inline void follow(struct page_cache *c, uint64_t page_no)
{
	if (page_no < c->page_no)
		c->pass++;
	c->page_no = page_no;
}

uint32_t page_cache_find(struct page_cache *c, uint64_t page_no)
{
	follow(c, page_no);
	uint64_t e = c->map[map_position(c, page_no)];
	if (!e)
		return PAGE_CACHE_NO_SLOT;
	uint32_t slot = entry_slot(e);
	c->last[slot] = c->pass;
	return slot;
}

uint8_t *page_cache_data(struct page_cache *c, uint32_t slot)
{
	return c->data + (size_t)slot * CODEC_PAGE_SIZE;
}

/* ---- what to keep ---- */

static bool was_seen(struct page_cache *c, uint64_t page_no)
{
	/* Blocks are spread so that their first pages do not meet. */
	uint64_t bit = (page_no + (page_no >> 40) * UINT64_C(0x2f0b4c7)) % SEEN_BITS;
	uint8_t m = (uint8_t)(1u << (bit & 7));
	bool seen = c->seen[bit >> 3] & m;
	c->seen[bit >> 3] |= m;
	return seen;
}

/* A whole pass has gone by the page in this slot without it: in this pass already if the pass is beyond it, else
 * in the one before. */
static bool is_cold(const struct page_cache *c, uint32_t slot)
{
	uint16_t age = (uint16_t)(c->pass - c->last[slot]);
	return age > (c->owner[slot] < c->page_no ? 0 : 1);
}

/* A cold slot by the clock, no longer owned; or NO_SLOT. */
static uint32_t evict(struct page_cache *c)
{
	for (uint32_t n = 0; n < SWEEP_MAX && n < c->slots; n++) {
		uint32_t slot = c->hand;
		c->hand = slot + 1 == c->slots ? 0 : slot + 1;
		if (!is_cold(c, slot))
			continue;
		map_remove(c, map_position(c, c->owner[slot]));
		return slot;
	}
	return PAGE_CACHE_NO_SLOT;
}

void page_cache_keep_first(struct page_cache *c, bool keep)
{
	c->keep_first = keep;
}

bool page_cache_skips(struct page_cache *c, uint64_t page_no)
{
	return !c->keep_first && !was_seen(c, page_no);
}

uint32_t page_cache_admit(struct page_cache *c, uint64_t page_no)
{
	bool again = was_seen(c, page_no);
	uint32_t slot;
	if (c->free != PAGE_CACHE_NO_SLOT) {
		slot = c->free;
		c->free = (uint32_t)c->owner[slot];
	} else if (c->used < c->slots) {
		slot = c->used++;
	} else if (again && c->slots > 0) {
		slot = evict(c);
	} else {
		slot = PAGE_CACHE_NO_SLOT;
	}
	if (slot == PAGE_CACHE_NO_SLOT)
		return slot;
	uint64_t at = map_position(c, page_no);
	assert(!c->map[at]);
	c->map[at] = entry_of(map_tag(page_no), slot);
	c->owner[slot] = page_no;
	c->tag[slot] = 0;
	c->last[slot] = c->pass;
	return slot;
}

void page_cache_drop(struct page_cache *c, uint64_t page_no)
{
	uint64_t at = map_position(c, page_no);
	if (!c->map[at])
		return;
	uint32_t slot = entry_slot(c->map[at]);
	map_remove(c, at);
	c->tag[slot] = 0;
	c->owner[slot] = c->free;
	c->free = slot;
}

/* ---- contents -> slot ---- */

uint64_t page_cache_hash(const struct page_cache *c, const uint8_t *data)
{
	return XXH3_64bits_withSecret(data, CODEC_PAGE_SIZE, c->secret, sizeof(c->secret));
}

static inline uint32_t content_tag(uint64_t hash)
{
	return (uint32_t)(hash >> 32) | 1;
}

static inline uint64_t *index_set(const struct page_cache *c, uint64_t hash)
{
	return &c->index[(hash * WAYS) & c->mask];
}

/* The hash only says where to look. Both versions are here, so equality is seen by comparing them, and no hash has
 * to be trusted: a cryptographic one would be needed only to call a page equal to one that is not at hand. */
uint32_t page_cache_find_equal(const struct page_cache *c, const uint8_t *data, uint64_t hash)
{
	const uint64_t *set = index_set(c, hash);
	uint32_t tag = content_tag(hash);
	for (unsigned i = 0; i < WAYS; i++) {
		uint32_t slot = entry_slot(set[i]);
		if (entry_tag(set[i]) == tag && c->tag[slot] == tag &&
		    memcmp(c->data + (size_t)slot * CODEC_PAGE_SIZE, data, CODEC_PAGE_SIZE) == 0)
			return slot;
	}
	return PAGE_CACHE_NO_SLOT;
}

void page_cache_changed(struct page_cache *c, uint32_t slot)
{
	c->tag[slot] = 0;
}

void page_cache_put(struct page_cache *c, uint32_t slot, const uint8_t *data, uint64_t hash)
{
	memcpy(page_cache_data(c, slot), data, CODEC_PAGE_SIZE);
	uint32_t tag = content_tag(hash);
	c->tag[slot] = tag;
	uint64_t *set = index_set(c, hash);
	/* An entry that is empty, this slot's, or stale; else any. */
	unsigned victim = (unsigned)(hash >> 62) % WAYS;
	for (unsigned i = 0; i < WAYS; i++) {
		if (!set[i] || entry_slot(set[i]) == slot || c->tag[entry_slot(set[i])] != entry_tag(set[i])) {
			victim = i;
			break;
		}
	}
	set[victim] = entry_of(tag, slot);
}

/* ---- decoding side ---- */

struct page_slots {
	uint32_t slots;
	uint8_t *data;
	uint64_t *stored; /* a bit per slot: something was put there in this session; the memory may hold what is none of its business */
};

struct page_slots *page_slots_new(uint32_t slots, struct err *e)
{
	if (slots > PAGE_CACHE_MAX_SLOTS) {
		err_set(e, ERR_PROTOCOL, "a cache of %u pages is larger than the limit of %u", slots,
			PAGE_CACHE_MAX_SLOTS);
		return NULL;
	}
	struct page_slots *s = mem_alloc(sizeof(*s));
	s->slots = slots;
	if (slots > 0) {
		s->data = warm_get((size_t)slots * CODEC_PAGE_SIZE, "old versions of pages", e);
		if (!s->data) {
			mem_free_ptr(&s);
			return NULL;
		}
	}
	s->stored = mem_try((size_t)slots / 64 + 1, sizeof(*s->stored), "the list of page versions", e);
	if (!s->stored) {
		page_slots_free(s);
		return NULL;
	}
	return s;
}

void page_slots_free(struct page_slots *s)
{
	if (!s)
		return;
	warm_put(s->data, (size_t)s->slots * CODEC_PAGE_SIZE);
	mem_free_ptr(&s->stored);
	mem_free_ptr(&s);
}

uint8_t *page_slots_at(struct page_slots *s, uint32_t slot)
{
	if (slot >= s->slots || !(s->stored[slot / 64] >> (slot % 64) & 1))
		return NULL;
	return s->data + (size_t)slot * CODEC_PAGE_SIZE;
}

uint8_t *page_slots_store(struct page_slots *s, uint32_t slot)
{
	if (slot >= s->slots)
		return NULL;
	s->stored[slot / 64] |= UINT64_C(1) << (slot % 64);
	return s->data + (size_t)slot * CODEC_PAGE_SIZE;
}

uint32_t page_slots_count(const struct page_slots *s)
{
	return s->slots;
}
