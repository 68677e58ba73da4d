/*
 * cursor.h - reads bytes that came from outside. Errors stick: after the first read past the end every read gives 0 or
 * NULL, and cursor_ok() says false; check once at the end.
 */
#ifndef VMFERRY_BASE_CURSOR_H
#define VMFERRY_BASE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cursor {
	const uint8_t *p;
	const uint8_t *end;
	bool bad;
};

static inline struct cursor cursor_over(const void *data, size_t len)
{
	const uint8_t *p = data;
	return (struct cursor){ .p = p, .end = p + len, .bad = false };
}
static inline size_t cursor_left(const struct cursor *c)
{
	return (size_t)(c->end - c->p);
}
static inline bool cursor_ok(const struct cursor *c)
{
	return !c->bad;
}
/* Marks the cursor bad and moves it to the end. */
void cursor_fail(struct cursor *c);
uint8_t cursor_u8(struct cursor *c);
uint16_t cursor_be16(struct cursor *c);
uint32_t cursor_be32(struct cursor *c);
uint64_t cursor_be64(struct cursor *c);
uint64_t cursor_uleb(struct cursor *c); /* bad if longer than 10 bytes, overflowing, or not the shortest form */
int64_t cursor_sleb(struct cursor *c);
const uint8_t *cursor_bytes(struct cursor *c, size_t n); /* points into the input; NULL when short */

#endif
