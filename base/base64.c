#include "base/base64.h"

#include "base/mem.h"

#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const uint8_t *p, size_t n)
{
	char *out = mem_realloc_array(NULL, (n + 2) / 3 * 4 + 1, 1), *to = out;

	for (size_t i = 0; i < n; i += 3) {
		const unsigned b1 = i + 1 < n ? p[i + 1] : 0, b2 = i + 2 < n ? p[i + 2] : 0;
		const unsigned v = (unsigned)p[i] << 16 | b1 << 8 | b2;
		*to++ = digits[v >> 18];
		*to++ = digits[v >> 12 & 63];
		*to++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
		*to++ = i + 2 < n ? digits[v & 63] : '=';
	}
	*to = '\0';
	return out;
}

static int value_of(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int base64_decode(const char *text, uint8_t *out, size_t n)
{
	if (strlen(text) != (n + 2) / 3 * 4)
		return -1;
	for (size_t i = 0; i < n; i += 3, text += 4) {
		const size_t left = n - i < 3 ? n - i : 3;
		int v[4] = { value_of(text[0]), value_of(text[1]), 0, 0 };
		v[2] = left > 1 ? value_of(text[2]) : text[2] == '=' ? 0 : -1;
		v[3] = left > 2 ? value_of(text[3]) : text[3] == '=' ? 0 : -1;
		if (v[0] < 0 || v[1] < 0 || v[2] < 0 || v[3] < 0)
			return -1;
		const unsigned all = (unsigned)v[0] << 18 | (unsigned)v[1] << 12 | (unsigned)v[2] << 6 | (unsigned)v[3];
		/* Bits that belong to nothing. */
		if ((left == 1 && all & 0xffff) || (left == 2 && all & 0xff))
			return -1;
		out[i] = (uint8_t)(all >> 16);
		if (left > 1)
			out[i + 1] = (uint8_t)(all >> 8);
		if (left > 2)
			out[i + 2] = (uint8_t)all;
	}
	return 0;
}
