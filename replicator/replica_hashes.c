/* Which blocks has the peer? Its questions, answered from the last commit. */
#include "replicator/replica_internal.h"

#include "base/base64.h"
#include "base/mem.h"
#include "replicator/field.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HASHES 131072u
#define MAX_RANGES 4096u
#define CHUNK_BLOCKS 256u

struct asked {
	struct store_view *view;
	uint32_t volume;
	uint64_t blocks; /* that the volume has here; beyond them: zeros */
	const struct block_hash *hasher;
	uint8_t *buf; /* CHUNK_BLOCKS * 4096 */
};

static int hash_range(const struct asked *a, uint64_t first, uint64_t count, uint8_t *out, struct err *e)
{
	bool zero[CHUNK_BLOCKS];

	if (first >= a->blocks)
		return 0;
	if (count > a->blocks - first)
		count = a->blocks - first;
	while (count > 0) {
		const size_t n = count < CHUNK_BLOCKS ? (size_t)count : CHUNK_BLOCKS;
		if (store_view_read(a->view, a->volume, first, n, a->buf, zero, e) < 0)
			return -1;
		for (size_t i = 0; i < n; i++)
			if (!zero[i])
				block_hash_of(a->hasher, a->buf + i * STORE_BLOCK, out + i * BLOCK_HASH_SIZE);
		out += n * BLOCK_HASH_SIZE;
		first += n;
		count -= n;
	}
	return 0;
}

size_t replica_hash_count(const json_t *args, struct err *e)
{
	const json_t *ranges = json_object_get(args, "ranges");
	uint64_t total = 0;
	size_t i;
	json_t *one;

	json_array_foreach (ranges, i, one) {
		const json_int_t first = json_integer_value(json_array_get(one, 0));
		const json_int_t count = json_integer_value(json_array_get(one, 1));
		if (json_array_size(one) != 2 || first < 0 || count < 1 || count > MAX_HASHES ||
		    (total += (uint64_t)count) > MAX_HASHES) {
			total = 0;
			break;
		}
	}
	if (total == 0 || json_array_size(ranges) > MAX_RANGES) {
		err_set(e, ERR_PROTOCOL, "replica.hashes: not 1 to %u blocks in at most %u ranges", MAX_HASHES,
			MAX_RANGES);
		return 0;
	}
	return (size_t)total;
}

static bool find_volume(struct store_view *view, const json_t *args, struct asked *a)
{
	struct store_volume v[STORE_MAX_VOLUMES];
	const size_t n = store_view_volumes(view, v, STORE_MAX_VOLUMES);
	const enum store_volume_kind kind = field_is(args, "kind", "ram") ? STORE_RAM : STORE_DISK;

	for (size_t i = 0; i < n && i < STORE_MAX_VOLUMES; i++) {
		if (v[i].kind != kind || strcmp(v[i].name, field_text(args, "name")) != 0)
			continue;
		a->volume = (uint32_t)i;
		a->blocks = (v[i].size_bytes + STORE_BLOCK - 1) / STORE_BLOCK;
		return true;
	}
	return false;
}

static int hash_all(struct store *store, const struct block_hash *hasher, const json_t *args, uint8_t *out,
		    struct err *e)
{
	const json_t *ranges = json_object_get(args, "ranges");
	struct asked a = { .hasher = hasher };
	size_t i;
	json_t *one;
	int rc = 0;

	a.view = store_view_newest(store, e);
	if (!a.view)
		return -1;
	a.buf = mem_alloc_array(CHUNK_BLOCKS, STORE_BLOCK);
	if (find_volume(a.view, args, &a)) {
		json_array_foreach (ranges, i, one) {
			const uint64_t first = (uint64_t)json_integer_value(json_array_get(one, 0));
			const uint64_t count = (uint64_t)json_integer_value(json_array_get(one, 1));
			if ((rc = hash_range(&a, first, count, out, e)) < 0)
				break;
			out += count * BLOCK_HASH_SIZE;
		}
	}
	free(a.buf);
	store_view_close(a.view);
	return rc;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

int replica_hash_blocks(struct store *s, const struct block_hash *hasher, const json_t *args, size_t n, json_t **result,
			struct err *e)
{
	uint8_t *out = mem_alloc_array(n, BLOCK_HASH_SIZE);
	const int rc = hash_all(s, hasher, args, out, e);
	if (rc == 0 && all_zero(out, n * BLOCK_HASH_SIZE)) {
		*result = json_pack("{s:b}", "zero", 1);
	} else if (rc == 0) {
		char *text = base64_encode(out, n * BLOCK_HASH_SIZE);
		*result = json_pack("{s:s}", "hashes", text);
		free(text);
	}
	free(out);
	return rc;
}
