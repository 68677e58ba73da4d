/* Memory: zeroed, checked, and out of it. */
#include "base/mem.h"

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Sanitizers end the process at a request that malloc would merely refuse, unless told so. */
const char *__asan_default_options(void);
const char *__tsan_default_options(void);
const char *__asan_default_options(void)
{
	return "allocator_may_return_null=1";
}
const char *__tsan_default_options(void)
{
	return "allocator_may_return_null=1";
}

START_TEST(memory_is_zeroed)
{
	static const uint8_t zero[4096];
	MEM_AUTO uint8_t *a = mem_alloc(sizeof(zero));
	MEM_AUTO uint8_t *b = mem_alloc_array(64, 64);
	struct err e = ERR_INIT;
	MEM_AUTO uint8_t *c = mem_try(64, 64, "table", &e);

	ck_assert_int_eq(memcmp(a, zero, sizeof(zero)), 0);
	ck_assert_int_eq(memcmp(b, zero, sizeof(zero)), 0);
	ck_assert_ptr_nonnull(c);
	ck_assert_int_eq(memcmp(c, zero, sizeof(zero)), 0);
}
END_TEST

START_TEST(nothing_is_something)
{
	struct err e = ERR_INIT;
	MEM_AUTO void *a = mem_alloc(0);
	MEM_AUTO void *b = mem_alloc_array(0, 8);
	MEM_AUTO void *c = mem_try(0, 8, "table", &e);

	ck_assert_ptr_nonnull(a);
	ck_assert_ptr_nonnull(b);
	ck_assert_ptr_nonnull(c);
	a = mem_realloc_array(a, 0, 8);
	ck_assert_ptr_nonnull(a);
	ck_assert_ptr_null(mem_strdup(NULL));
}
END_TEST

START_TEST(growth_keeps_the_content)
{
	MEM_AUTO uint32_t *a = mem_alloc_array(4, sizeof(*a));

	a[3] = 42;
	a = mem_realloc_array(a, 100000, sizeof(*a));
	ck_assert_uint_eq(a[3], 42);
	a[99999] = 7;
}
END_TEST

START_TEST(strings)
{
	MEM_AUTO char *a = mem_strdup("ferry");
	MEM_AUTO char *b = mem_printf("%s-%d", a, 7);

	ck_assert_str_eq(b, "ferry-7");
}
END_TEST

START_TEST(cleanup_frees_and_forgets)
{
	char *p = mem_strdup("x");

	mem_free_ptr(&p);
	ck_assert_ptr_null(p);
	mem_free_ptr(&p);
}
END_TEST

static void refused(size_t n, size_t size)
{
	struct err e = ERR_INIT;

	ck_assert_ptr_null(mem_try(n, size, "page table", &e));
	ck_assert_int_eq(e.cls, ERR_SYS);
	ck_assert_int_eq(e.errnum, ENOMEM);
	ck_assert_ptr_nonnull(strstr(e.text, "page table"));
}

START_TEST(too_much_is_an_error_where_it_can_be)
{
	refused(SIZE_MAX, 2);
	refused(SIZE_MAX / 2 + 2, 2); /* 2 after wrapping round */
	refused(1, (size_t)1 << 60);
}
END_TEST

START_TEST(overflow_aborts)
{
	/* 16 after wrapping round: a silent success would be a heap overflow later. */
	void *p = mem_alloc_array(SIZE_MAX / 16 + 2, 16);
	free(p);
}
END_TEST

START_TEST(growing_over_everything_aborts)
{
	void *p = mem_realloc_array(NULL, SIZE_MAX / 16 + 2, 16);
	free(p);
}
END_TEST

START_TEST(checked_arithmetic)
{
	size_t v = 5;

	ck_assert(mem_mul(6, 7, &v));
	ck_assert_uint_eq(v, 42);
	ck_assert(!mem_mul(SIZE_MAX, 2, &v));
	ck_assert(mem_add(SIZE_MAX - 1, 1, &v));
	ck_assert_uint_eq(v, SIZE_MAX);
	ck_assert(!mem_add(SIZE_MAX, 1, &v));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("mem");
	TCase *t = tcase_create("all");
	tcase_add_test(t, memory_is_zeroed);
	tcase_add_test(t, nothing_is_something);
	tcase_add_test(t, growth_keeps_the_content);
	tcase_add_test(t, strings);
	tcase_add_test(t, cleanup_frees_and_forgets);
	tcase_add_test(t, too_much_is_an_error_where_it_can_be);
	tcase_add_test_raise_signal(t, overflow_aborts, SIGABRT);
	tcase_add_test_raise_signal(t, growing_over_everything_aborts, SIGABRT);
	tcase_add_test(t, checked_arithmetic);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
