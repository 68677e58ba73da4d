/*
 * hexdoc.h - reads examples and tables out of a document, so that document and program cannot drift apart.
 *
 *	```hex NAME
 *	00 01 02   # comment
 *	```
 */
#ifndef VMFERRY_TESTS_HEXDOC_H
#define VMFERRY_TESTS_HEXDOC_H

#include "base/buf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

static inline char *hexdoc_load(const char *path)
{
	struct err e = ERR_INIT;
	char *text = file_read_all(path, (size_t)4 << 20, NULL, &e);

	ck_assert_msg(text != NULL, "%s", e.text);
	return text;
}

static inline int hexdoc_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Appends the bytes of the block of that name, of which there has to be exactly one. */
static inline void hexdoc_block(const char *doc, const char *name, struct buf *out)
{
	MEM_AUTO char *open = mem_printf("\n```hex %s\n", name);
	const char *p = strstr(doc, open);

	ck_assert_msg(p != NULL, "there is no block \"hex %s\"", name);
	ck_assert_msg(strstr(p + 1, open) == NULL, "there are two blocks \"hex %s\"", name);
	int high = -1;
	for (p += strlen(open); strncmp(p, "```", 3) != 0; p++) {
		if (*p == '#')
			p += strcspn(p, "\n");
		if (*p == ' ' || *p == '\n')
			continue;
		const int d = hexdoc_digit(*p);
		ck_assert_msg(d >= 0, "block %s: \"%.10s\" is not hexadecimal", name, p);
		if (high >= 0)
			buf_put_u8(out, (uint8_t)(high << 4 | d));
		high = high >= 0 ? -1 : d;
	}
	ck_assert_msg(high < 0, "block %s: half a byte", name);
}

#endif
