/*
 * mem.h - allocation. Small allocations abort the process when memory is out (there is nothing sane left to do);
 * anything sized from outside or larger than 1 MiB goes through mem_try and is an ordinary error.
 */
#ifndef VMFERRY_BASE_MEM_H
#define VMFERRY_BASE_MEM_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed; never NULL, not even for size 0. */
void *mem_alloc(size_t size);
void *mem_alloc_array(size_t n, size_t size);
void *mem_realloc_array(void *p, size_t n, size_t size);
char *mem_strdup(const char *s); /* NULL in, NULL out */
char *mem_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Zeroed, or NULL with the error set. `what` names it for people. */
void *mem_try(size_t n, size_t size, const char *what, struct err *e);

static inline bool mem_mul(size_t a, size_t b, size_t *out)
{
	return !__builtin_mul_overflow(a, b, out);
}
static inline bool mem_add(size_t a, size_t b, size_t *out)
{
	return !__builtin_add_overflow(a, b, out);
}

/* Cleanup attribute: MEM_AUTO char *p = NULL; */
void mem_free_ptr(void *pp);
#define MEM_AUTO __attribute__((cleanup(mem_free_ptr)))

#endif
