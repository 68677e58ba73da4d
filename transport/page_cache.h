/*
 * page_cache.h - the versions of guest pages that both ends hold.
 *
 * The encoding side (page_cache) knows which page is in which slot, decides what to keep (everything until it is
 * full, or only what comes again: page_cache_keep_first; then pages that have come more than once, hot ones first) and finds equal pages
 * by content. The decoding
 * side (page_slots) is an array. Both take their memory as it is touched, at most slots * 4 KiB + 64 bytes a slot + 8 MiB; what holds the pages stays
 * warm for the next session (warm.h).
 * One thread at a time.
 */
#ifndef VMFERRY_TRANSPORT_PAGE_CACHE_H
#define VMFERRY_TRANSPORT_PAGE_CACHE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct page_cache;
struct page_slots;

#define PAGE_CACHE_NO_SLOT UINT32_MAX
/* 4 TiB; also keeps every size below in 64 bits. */
#define PAGE_CACHE_MAX_SLOTS (UINT32_C(1) << 30)

/* slots = 0 is a cache that keeps nothing. */
struct page_cache *page_cache_new(uint32_t slots, struct err *e);
void page_cache_free(struct page_cache *c);
uint32_t page_cache_slots(const struct page_cache *c);

struct page_slots *page_slots_new(uint32_t slots, struct err *e);
void page_slots_free(struct page_slots *s);
/* The contents of a slot; NULL when out of range, or when nothing was stored there. */
uint8_t *page_slots_at(struct page_slots *s, uint32_t slot);
/* Where a page is to be stored, all of it; NULL when out of range. */
uint8_t *page_slots_store(struct page_slots *s, uint32_t slot);
uint32_t page_slots_count(const struct page_slots *s);

/* Whether pages are kept that come for the first time (as at the start), or only those that come again. Most pages never do: keeping them
 * all costs CPU time at both ends, and saves bytes only on those few and on pages with the same contents. */
void page_cache_keep_first(struct page_cache *c, bool keep);

/* ---- what batch.c asks ---- */
/* The slot that holds a version of this page, or NO_SLOT. Counts as a use. */
uint32_t page_cache_find(struct page_cache *c, uint64_t page_no);
/* The contents of a slot that find or admit gave. */
uint8_t *page_cache_data(struct page_cache *c, uint32_t slot);
/* The caller changed the contents in place: the slot is no longer found by content. */
void page_cache_changed(struct page_cache *c, uint32_t slot);
/* Is a page that is not in the cache to be passed over: neither compared with others nor kept? Counts as having come. */
bool page_cache_skips(struct page_cache *c, uint64_t page_no);
/* A slot for a page that is not in the cache, or NO_SLOT. Its contents must follow by page_cache_put. */
uint32_t page_cache_admit(struct page_cache *c, uint64_t page_no);
/* Replaces the contents; hash is page_cache_hash of data. */
void page_cache_put(struct page_cache *c, uint32_t slot, const uint8_t *data, uint64_t hash);
uint64_t page_cache_hash(const struct page_cache *c, const uint8_t *data);
/* A slot with exactly these contents, or NO_SLOT. */
uint32_t page_cache_find_equal(const struct page_cache *c, const uint8_t *data, uint64_t hash);
/* The page's version is of no use any more; its slot is free. */
void page_cache_drop(struct page_cache *c, uint64_t page_no);

#endif
