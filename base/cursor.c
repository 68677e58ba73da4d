#include "base/cursor.h"

void cursor_fail(struct cursor *c)
{
	c->bad = true;
	c->p = c->end;
}

const uint8_t *cursor_bytes(struct cursor *c, size_t n)
{
	if (c->bad || cursor_left(c) < n) {
		cursor_fail(c);
		return NULL;
	}
	const uint8_t *p = c->p;
	if (n > 0)
		c->p += n;
	return p;
}

static uint64_t get_be(struct cursor *c, unsigned bytes)
{
	const uint8_t *p = cursor_bytes(c, bytes);
	uint64_t v = 0;

	if (!p)
		return 0;
	for (unsigned i = 0; i < bytes; i++)
		v = v << 8 | p[i];
	return v;
}

uint8_t cursor_u8(struct cursor *c)
{
	return (uint8_t)get_be(c, 1);
}

uint16_t cursor_be16(struct cursor *c)
{
	return (uint16_t)get_be(c, 2);
}

uint32_t cursor_be32(struct cursor *c)
{
	return (uint32_t)get_be(c, 4);
}

uint64_t cursor_be64(struct cursor *c)
{
	return get_be(c, 8);
}

uint64_t cursor_uleb(struct cursor *c)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 70; shift += 7) {
		const uint8_t *p = cursor_bytes(c, 1);
		if (!p)
			return 0;
		/* The tenth byte holds the 64th bit alone; a last byte of zero is a longer form of a shorter number. */
		if ((shift == 63 && *p > 1) || (shift > 0 && *p == 0))
			break;
		v |= (uint64_t)(*p & 0x7f) << shift;
		if (!(*p & 0x80))
			return v;
	}
	cursor_fail(c);
	return 0;
}

int64_t cursor_sleb(struct cursor *c)
{
	const uint64_t z = cursor_uleb(c);
	const uint64_t sign = (z & 1) ? UINT64_MAX : 0;

	return (int64_t)((z >> 1) ^ sign);
}
