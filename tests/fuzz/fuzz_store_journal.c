/*
 * A journal of any bytes: records with whatever they say, sealed again so that they get past the checksums. The store opens or refuses; what it offers can
 * be read, applied and verified.
 */
#include "fuzz_store.h"

#define SEGMENT_SALT UINT64_C(0x2122232425262728)

/* Records, one after the other: header of the input, as much payload as it says and there is; with checksums that are right. COMMITs vouch for what they find. */
static void seal(const uint8_t *data, size_t size, struct buf *out)
{
	uint8_t head[STORE_SEG_HEAD];
	uint64_t chain = 0, records = 0, bytes = 0;

	store_seg_encode(FUZZ_ID, 1, SEGMENT_SALT, head);
	buf_append(out, head, sizeof(head));
	while (size >= STORE_REC_HEAD) {
		struct store_rec r;
		uint8_t encoded[STORE_REC_HEAD];
		const uint64_t seed = store_rec_seed(SEGMENT_SALT, out->len);
		store_rec_decode(&r, seed, data);
		data += STORE_REC_HEAD;
		size -= STORE_REC_HEAD;
		if (r.length > size)
			r.length = (uint32_t)size;
		BUF_AUTO struct buf payload = BUF_INIT;
		buf_reserve(&payload, r.length + 1u);
		buf_append(&payload, data, r.length);
		data += r.length;
		size -= r.length;
		const uint8_t *summed = payload.data;
		size_t n = r.length;
		if (r.type == STORE_REC_BLOCKS && r.b > 0 && r.b <= STORE_RUN && n == r.b * (STORE_BLOCK + 8)) {
			summed += r.b * STORE_BLOCK;
			n = (size_t)r.b * 8;
			for (size_t i = 0; i < r.b; i++) {
				BUF_AUTO struct buf sum = BUF_INIT;
				buf_put_be64(&sum, store_sum_block(FUZZ_SALT, r.volume, r.a + i,
								   payload.data + i * STORE_BLOCK));
				memcpy(payload.data + r.b * STORE_BLOCK + 8 * i, sum.data, 8);
			}
		} else if (r.type == STORE_REC_COMMIT && n >= 32) {
			BUF_AUTO struct buf said = BUF_INIT;
			buf_put_be64(&said, records);
			buf_put_be64(&said, bytes);
			buf_put_be64(&said, chain);
			memcpy(payload.data + 8, said.data, said.len);
		}
		r.payload_sum = store_rec_payload_sum(seed, summed, n);
		store_rec_encode(&r, seed, encoded);
		buf_append(out, encoded, sizeof(encoded));
		buf_append(out, payload.data, r.length);
		chain = store_rec_chain(chain, r.head_sum);
		records++;
		bytes += STORE_REC_HEAD + r.length;
		if (r.type == STORE_REC_COMMIT)
			chain = records = bytes = 0;
	}
	buf_append(out, data, size);
}

static void put_store(const struct buf *journal)
{
	static const char first[] =
		"{\"format\":2,\"store\":\"0102030405060708\",\"salt\":\"3132333435363738\",\"applied\":0,"
		"\"redo\":{\"segment\":1,\"offset\":64},\"next_volume\":1,\"volumes\":[],\"files\":[],\"points\":[]}";
	MEM_AUTO char *line = mem_printf("%016" PRIx64 " %s\n", (uint64_t)XXH3_64bits(first, strlen(first)), first);

	fuzz_begin();
	fuzz_put("catalogue.log", line, strlen(line));
	fuzz_put("journal/00000001.wal", journal->data, journal->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	BUF_AUTO struct buf journal = BUF_INIT;

	if (size > FUZZ_MAX)
		return 0;
	seal(data, size, &journal);
	put_store(&journal);
	fuzz_open(false, store_close);
	return 0;
}
