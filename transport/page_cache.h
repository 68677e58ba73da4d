/*
 * page_cache.h - the versions of guest pages that both ends hold.
 *
 * The encoding side (page_cache) knows which page is in which slot, decides what to keep (everything until it is full; then pages
 * that have come more than once, hot ones first) and finds equal pages by content. The decoding side (page_slots) is an array. Both
 * take their memory lazily, at most slots * 4 KiB + 64 bytes a slot + 1 bit a page seen. One thread at a time.
 */
#ifndef VMFERRY_TRANSPORT_PAGE_CACHE_H
#define VMFERRY_TRANSPORT_PAGE_CACHE_H

#include "base/err.h"

#include <stdint.h>

struct page_cache;
struct page_slots;

#define PAGE_CACHE_NO_SLOT UINT32_MAX

struct page_cache *page_cache_new(uint32_t slots, struct err *e);
void page_cache_free(struct page_cache *c);
uint32_t page_cache_slots(const struct page_cache *c);

struct page_slots *page_slots_new(uint32_t slots, struct err *e);
void page_slots_free(struct page_slots *s);
uint8_t *page_slots_at(struct page_slots *s, uint32_t slot); /* NULL when out of range */

#endif
