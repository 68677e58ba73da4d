#include "transport/codec.h"
#include "transport/page_cache.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static uint8_t page[CODEC_PAGE_SIZE];

static const uint8_t *contents(uint64_t n)
{
	for (size_t i = 0; i < sizeof(page); i += 8) {
		uint64_t v = n * UINT64_C(0x9e3779b97f4a7c15) + i;
		memcpy(page + i, &v, 8);
	}
	return page;
}

static struct page_cache *cache_of(uint32_t slots)
{
	struct err e = ERR_INIT;
	struct page_cache *c = page_cache_new(slots, &e);
	ck_assert_msg(c != NULL, "%s", e.text);
	return c;
}

/* What batch.c does with a page that is plain. */
static uint32_t offer(struct page_cache *c, uint64_t page_no, const uint8_t *data)
{
	uint32_t slot = page_cache_find(c, page_no);
	if (slot == PAGE_CACHE_NO_SLOT)
		slot = page_cache_admit(c, page_no);
	if (slot != PAGE_CACHE_NO_SLOT)
		page_cache_put(c, slot, data, page_cache_hash(c, data));
	return slot;
}

static uint32_t equal_to(struct page_cache *c, const uint8_t *data)
{
	return page_cache_find_equal(c, data, page_cache_hash(c, data));
}

START_TEST(slots_in_order_until_full)
{
	struct page_cache *c = cache_of(100);
	ck_assert_uint_eq(page_cache_slots(c), 100);
	for (uint32_t i = 0; i < 100; i++)
		ck_assert_uint_eq(offer(c, 1000 + 3 * i, contents(i)), i);
	ck_assert_uint_eq(offer(c, 5000, contents(100)), PAGE_CACHE_NO_SLOT);
	for (uint32_t i = 0; i < 100; i++) {
		ck_assert_uint_eq(page_cache_find(c, 1000 + 3 * i), i);
		ck_assert_mem_eq(page_cache_data(c, i), contents(i), CODEC_PAGE_SIZE);
		ck_assert_uint_eq(page_cache_find(c, 1001 + 3 * i), PAGE_CACHE_NO_SLOT);
	}
	page_cache_free(c);
}
END_TEST

START_TEST(blocks_are_told_apart)
{
	struct page_cache *c = cache_of(4);
	ck_assert_uint_eq(offer(c, 7, contents(1)), 0);
	ck_assert_uint_eq(offer(c, UINT64_C(1) << 40 | 7, contents(2)), 1);
	ck_assert_uint_eq(page_cache_find(c, 7), 0);
	ck_assert_uint_eq(page_cache_find(c, UINT64_C(1) << 40 | 7), 1);
	ck_assert_uint_eq(page_cache_find(c, UINT64_C(2) << 40 | 7), PAGE_CACHE_NO_SLOT);
	page_cache_free(c);
}
END_TEST

START_TEST(equal_contents)
{
	struct page_cache *c = cache_of(1000);
	for (uint32_t i = 0; i < 1000; i++)
		offer(c, i, contents(i));
	/* A set that overflows forgets one of its pages: nearly all are found, none is found wrongly. */
	unsigned found = 0;
	for (uint32_t i = 0; i < 1000; i++) {
		uint32_t slot = equal_to(c, contents(i));
		ck_assert(slot == i || slot == PAGE_CACHE_NO_SLOT);
		found += slot == i;
	}
	ck_assert_uint_gt(found, 900);
	contents(5);
	page[4095] ^= 1;
	ck_assert_uint_eq(equal_to(c, page), PAGE_CACHE_NO_SLOT);
	page_cache_free(c);
}
END_TEST

/* Whatever the index still says, contents that are no longer there are not found. */
START_TEST(changed_contents_are_not_found)
{
	struct page_cache *c = cache_of(16);
	offer(c, 1, contents(1));
	offer(c, 2, contents(2));
	ck_assert_uint_eq(equal_to(c, contents(1)), 0);
	page_cache_data(c, 0)[100] ^= 1;
	page_cache_changed(c, 0);
	ck_assert_uint_eq(equal_to(c, contents(1)), PAGE_CACHE_NO_SLOT);
	offer(c, 2, contents(3));
	ck_assert_uint_eq(equal_to(c, contents(2)), PAGE_CACHE_NO_SLOT);
	ck_assert_uint_eq(equal_to(c, contents(3)), 1);
	page_cache_drop(c, 2);
	ck_assert_uint_eq(equal_to(c, contents(3)), PAGE_CACHE_NO_SLOT);
	page_cache_free(c);
}
END_TEST

START_TEST(dropped_slots_are_used_again)
{
	struct page_cache *c = cache_of(10);
	for (uint32_t i = 0; i < 10; i++)
		offer(c, i, contents(i));
	page_cache_drop(c, 3);
	page_cache_drop(c, 7);
	page_cache_drop(c, 7);
	page_cache_drop(c, 12345);
	ck_assert_uint_eq(page_cache_find(c, 3), PAGE_CACHE_NO_SLOT);
	ck_assert_uint_eq(offer(c, 20, contents(20)), 7);
	ck_assert_uint_eq(offer(c, 21, contents(21)), 3);
	ck_assert_uint_eq(offer(c, 22, contents(22)), PAGE_CACHE_NO_SLOT);
	ck_assert_uint_eq(page_cache_find(c, 20), 7);
	page_cache_free(c);
}
END_TEST

/* Full: a page that comes again takes the place of one that a whole pass went by without. */
START_TEST(hot_pages_displace_cold_ones)
{
	struct page_cache *c = cache_of(100);
	for (uint32_t i = 0; i < 200; i++)
		offer(c, i, contents(i));
	/* In the second pass pages 50..69 and 150..169 come again. */
	for (uint32_t i = 50; i < 70; i++)
		ck_assert_uint_eq(offer(c, i, contents(1000 + i)), i);
	for (uint32_t i = 150; i < 170; i++)
		ck_assert_uint_ne(offer(c, i, contents(1000 + i)), PAGE_CACHE_NO_SLOT);
	/* In the third all of them are there. */
	for (uint32_t i = 50; i < 70; i++)
		ck_assert_uint_eq(page_cache_find(c, i), i);
	for (uint32_t i = 150; i < 170; i++)
		ck_assert_uint_ne(page_cache_find(c, i), PAGE_CACHE_NO_SLOT);
	page_cache_free(c);
}
END_TEST

/* More hot pages than slots: no page is thrown out in the pass that brought it. */
START_TEST(no_thrashing)
{
	struct page_cache *c = cache_of(50);
	for (unsigned pass = 0; pass < 6; pass++) {
		unsigned hits = 0;
		for (uint32_t i = 0; i < 100; i++) {
			hits += page_cache_find(c, i) != PAGE_CACHE_NO_SLOT;
			offer(c, i, contents(i + 100 * pass));
		}
		ck_assert_uint_eq(hits, pass ? 50 : 0);
	}
	page_cache_free(c);
}
END_TEST

/* Against the simplest model there is: which slot holds which page. */
START_TEST(like_a_model)
{
	enum { PAGES = 4000, SLOTS = 512 };
	struct page_cache *c = cache_of(SLOTS);
	static uint32_t slot_of[PAGES];
	static int page_in[SLOTS];
	memset(slot_of, 0xff, sizeof(slot_of));
	memset(page_in, 0xff, sizeof(page_in));
	srandom(7);
	for (unsigned n = 0; n < 200000; n++) {
		uint32_t i = (uint32_t)random() % PAGES;
		uint64_t no = (uint64_t)(i % 3) << 40 | i / 3 * 8; /* many pages share a home */
		ck_assert_uint_eq(page_cache_find(c, no), slot_of[i]);
		if (random() % 4 == 0) {
			page_cache_drop(c, no);
			if (slot_of[i] != PAGE_CACHE_NO_SLOT)
				page_in[slot_of[i]] = -1;
			slot_of[i] = PAGE_CACHE_NO_SLOT;
		} else if (slot_of[i] == PAGE_CACHE_NO_SLOT) {
			uint32_t slot = page_cache_admit(c, no);
			if (slot == PAGE_CACHE_NO_SLOT)
				continue;
			ck_assert_uint_lt(slot, SLOTS);
			if (page_in[slot] >= 0)
				slot_of[page_in[slot]] = PAGE_CACHE_NO_SLOT;
			page_in[slot] = (int)i;
			slot_of[i] = slot;
		}
	}
	page_cache_free(c);
}
END_TEST

START_TEST(nothing_kept)
{
	struct page_cache *c = cache_of(0);
	for (unsigned pass = 0; pass < 3; pass++)
		ck_assert_uint_eq(offer(c, 1, contents(1)), PAGE_CACHE_NO_SLOT);
	ck_assert_uint_eq(equal_to(c, contents(1)), PAGE_CACHE_NO_SLOT);
	page_cache_drop(c, 1);
	page_cache_free(c);
	page_cache_free(NULL);
}
END_TEST

START_TEST(limits)
{
	struct err e = ERR_INIT;
	ck_assert_ptr_null(page_cache_new(PAGE_CACHE_MAX_SLOTS + 1, &e));
	ck_assert_int_eq(e.cls, ERR_CONFIG);
	err_clear(&e);
	ck_assert_ptr_null(page_slots_new(PAGE_CACHE_MAX_SLOTS + 1, &e));
	ck_assert_int_eq(e.cls, ERR_PROTOCOL);
}
END_TEST

START_TEST(slots_array)
{
	struct err e = ERR_INIT;
	struct page_slots *s = page_slots_new(3, &e);
	ck_assert_ptr_nonnull(s);
	ck_assert_uint_eq(page_slots_count(s), 3);
	ck_assert_ptr_null(page_slots_at(s, 2)); /* empty */
	ck_assert_ptr_eq(page_slots_store(s, 2), page_slots_store(s, 0) + (size_t)2 * CODEC_PAGE_SIZE);
	ck_assert_ptr_eq(page_slots_at(s, 2), page_slots_at(s, 0) + (size_t)2 * CODEC_PAGE_SIZE);
	ck_assert_ptr_null(page_slots_at(s, 1));
	ck_assert_ptr_null(page_slots_at(s, 3));
	ck_assert_ptr_null(page_slots_store(s, 3));
	ck_assert_ptr_null(page_slots_at(s, UINT32_MAX));
	page_slots_at(s, 2)[CODEC_PAGE_SIZE - 1] = 1;
	page_slots_free(s);
	s = page_slots_new(0, &e);
	ck_assert_ptr_null(page_slots_at(s, 0));
	page_slots_free(s);
	page_slots_free(NULL);
}
END_TEST

/* What one session left in memory that is kept warm is no version of the next one's pages. */
START_TEST(warm_memory_is_empty)
{
	struct err e = ERR_INIT;
	struct page_slots *s = page_slots_new(64, &e);
	uint8_t *first = page_slots_store(s, 7);
	memset(first, 0xaa, CODEC_PAGE_SIZE);
	page_slots_free(s);
	s = page_slots_new(64, &e);
	ck_assert_ptr_null(page_slots_at(s, 7));
	ck_assert_ptr_eq(page_slots_store(s, 7), first); /* it was kept */
	page_slots_free(s);
	/* The other side's cache takes the same memory, and finds nothing in it. */
	struct page_cache *c = page_cache_new(64, &e);
	ck_assert_uint_eq(page_cache_find(c, 7), PAGE_CACHE_NO_SLOT);
	uint8_t data[CODEC_PAGE_SIZE];
	memset(data, 0xaa, sizeof(data));
	ck_assert_uint_eq(page_cache_find_equal(c, data, page_cache_hash(c, data)), PAGE_CACHE_NO_SLOT);
	page_cache_free(c);
}
END_TEST

/* As while the link is wide: only what comes again is worth keeping. */
START_TEST(first_versions_not_kept)
{
	struct page_cache *c = cache_of(8);
	ck_assert(!page_cache_skips(c, 1));
	ck_assert_uint_eq(offer(c, 1, contents(1)), 0);
	page_cache_keep_first(c, false);
	ck_assert(page_cache_skips(c, 2));
	ck_assert(!page_cache_skips(c, 2));
	ck_assert_uint_eq(offer(c, 2, contents(2)), 1);
	ck_assert_uint_eq(page_cache_find(c, 1), 0);
	ck_assert(page_cache_skips(c, 3));
	page_cache_keep_first(c, true);
	ck_assert(!page_cache_skips(c, 4));
	ck_assert_uint_eq(offer(c, 3, contents(3)), 2);
	page_cache_free(c);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("transport/page_cache");
	TCase *tc = tcase_create("all");
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, slots_in_order_until_full);
	tcase_add_test(tc, blocks_are_told_apart);
	tcase_add_test(tc, equal_contents);
	tcase_add_test(tc, changed_contents_are_not_found);
	tcase_add_test(tc, dropped_slots_are_used_again);
	tcase_add_test(tc, hot_pages_displace_cold_ones);
	tcase_add_test(tc, no_thrashing);
	tcase_add_test(tc, like_a_model);
	tcase_add_test(tc, nothing_kept);
	tcase_add_test(tc, limits);
	tcase_add_test(tc, slots_array);
	tcase_add_test(tc, first_versions_not_kept);
	tcase_add_test(tc, warm_memory_is_empty);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
