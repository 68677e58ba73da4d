/*
 * A catalogue of any lines, each sealed so that it gets past its checksum; one that begins with '!' is not. The store opens or refuses; what it offers is read or
 * refused, and it goes on.
 */
#include "fuzz_store.h"

static void seal(const uint8_t *data, size_t size, struct buf *out)
{
	while (size > 0) {
		const uint8_t *end = memchr(data, '\n', size);
		const size_t len = end ? (size_t)(end - data) : size;
		const uint64_t seed = out->len > 0 ? FUZZ_CATALOGUE_SALT + out->len : 0;
		const uint64_t sum = XXH3_64bits_withSeed(data, len, seed) ^ (len > 0 && data[0] == '!');
		buf_printf(out, "%016" PRIx64 " ", sum);
		buf_append(out, data, len);
		if (end)
			buf_append(out, "\n", 1);
		data += len + (end != NULL);
		size -= len + (end != NULL);
	}
}

/* A point more, and it is there after opening again. */
static void go_on(struct store *s)
{
	struct err e = ERR_INIT;
	uint64_t seq = 0;
	struct store_txn *t = store_begin(s, STORE_TXN_POINT, &e);
	const bool done = t && store_commit(t, NULL, &seq, &e) == 0;

	store_close(s);
	s = done ? store_open(fuzz_dir, NULL, &e) : NULL;
	if (!s)
		return;
	struct store_view *v = store_view_open(s, 0, &e);
	assert(v && store_view_seq(v) == seq);
	store_view_close(v);
	store_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	BUF_AUTO struct buf catalogue = BUF_INIT;

	if (size > FUZZ_MAX)
		return 0;
	seal(data, size, &catalogue);
	fuzz_begin();
	fuzz_put("catalogue.log", catalogue.data, catalogue.len);
	fuzz_open(true, go_on);
	return 0;
}
