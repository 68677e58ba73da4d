#include "config/nearest.h"

#include <ctype.h>
#include <limits.h>
#include <string.h>
#include <strings.h>

#define NEAREST_MAX_LEN 64

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
	unsigned m = a < b ? a : b;
	return m < c ? m : c;
}

static int fold(char c)
{
	/* '_', '-' and letter case are not what people mean to say. */
	return c == '-' ? '_' : tolower((unsigned char)c);
}

unsigned nearest_distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b);
	if (la > NEAREST_MAX_LEN || lb > NEAREST_MAX_LEN)
		return UINT_MAX;
	/* Optimal string alignment: three rows are enough. */
	unsigned rows[3][NEAREST_MAX_LEN + 1];
	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = (unsigned)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned *row = rows[i % 3];
		const unsigned *up = rows[(i - 1) % 3];
		const unsigned *up2 = rows[(i + 1) % 3];
		row[0] = (unsigned)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned cost = fold(a[i - 1]) != fold(b[j - 1]);
			row[j] = min3(up[j] + 1, row[j - 1] + 1, up[j - 1] + cost);
			if (i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) && fold(a[i - 2]) == fold(b[j - 1]) &&
			    up2[j - 2] + 1 < row[j])
				row[j] = up2[j - 2] + 1;
		}
	}
	return rows[la % 3][lb];
}

const char *nearest_of(const char *name, const char *const *candidates, size_t n)
{
	const char *best = NULL;
	unsigned best_distance = UINT_MAX;
	for (size_t i = 0; i < n; i++) {
		unsigned d = nearest_distance(name, candidates[i]);
		if (d < best_distance) {
			best = candidates[i];
			best_distance = d;
		}
	}
	/* A third of the letters may be wrong, one always. */
	size_t len = strlen(name);
	unsigned allowed = len < 4 ? 1 : (unsigned)(len / 3);
	return best && best_distance <= allowed ? best : NULL;
}
