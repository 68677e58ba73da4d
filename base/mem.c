#include "base/mem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Noreturn void out_of_memory(void)
{
	static const char text[] = "vmferry: out of memory\n";
	const ssize_t ignored = write(STDERR_FILENO, text, sizeof(text) - 1);

	(void)ignored;
	abort();
}

void *mem_alloc(size_t size)
{
	return mem_alloc_array(1, size);
}

void *mem_alloc_array(size_t n, size_t size)
{
	size_t total = 0;
	void *p = mem_mul(n, size, &total) ? calloc(1, total ? total : 1) : NULL;

	if (!p)
		out_of_memory();
	return p;
}

void *mem_realloc_array(void *p, size_t n, size_t size)
{
	size_t total = 0;
	void *q = mem_mul(n, size, &total) ? realloc(p, total ? total : 1) : NULL;

	if (!q)
		out_of_memory();
	return q;
}

char *mem_strdup(const char *s)
{
	if (!s)
		return NULL;
	char *copy = strdup(s);
	if (!copy)
		out_of_memory();
	return copy;
}

char *mem_printf(const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	const int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		out_of_memory();
	return text;
}

void *mem_try(size_t n, size_t size, const char *what, struct err *e)
{
	size_t total = 0;
	void *p = mem_mul(n, size, &total) ? calloc(1, total ? total : 1) : NULL;

	if (!p) {
		errno = ENOMEM;
		err_sys(e, "%s: %zu times %zu bytes", what, n, size);
	}
	return p;
}

void mem_free_ptr(void *pp)
{
	void **p = pp;

	free(*p);
	*p = NULL;
}
