#include "replicator/known.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define GRAIN_BLOCKS 16u    /* 64 KiB, a bitmap's granularity in QEMU */
#define CACHE_GRAINS 16384u /* 1 GiB of disk that is written again and again; 4.5 MiB of memory */

struct grain {
	uint32_t volume; /* its uid, 0: nothing here */
	uint16_t valid;  /* bit per block */
	uint64_t number;
	uint8_t hash[GRAIN_BLOCKS][BLOCK_HASH_SIZE];
};

struct volume {
	struct store_volume v;
	uint32_t uid;
	uint64_t blocks;
	uint64_t at_peer; /* blocks that the peer had at the beginning of the session */
	/* RAM */
	uint8_t *hash;
	bool filled;
	/* disks: bits per grain */
	uint8_t *touched; /* a block was sent or asked for: beyond at_peer it may no longer be zeros */
	uint8_t *sent;    /* a block was sent in this transaction */
};

struct file {
	char *name;
	size_t len;
	uint8_t hash[BLOCK_HASH_SIZE];
};

struct known {
	struct block_hash hasher;
	struct store_volume *peer;
	size_t n_peer;
	struct volume *volumes;
	size_t n;
	uint32_t next_uid;
	struct grain *cache; /* CACHE_GRAINS, made when the first disk comes */
	bool any_sent;
	struct file *files;
	size_t n_files;
};

static const uint8_t zero_hash[BLOCK_HASH_SIZE];

struct known *known_new(const uint8_t secret[BLOCK_HASH_SECRET], const struct store_volume *peer, size_t n)
{
	struct known *k = mem_alloc(sizeof(*k));

	block_hash_init(&k->hasher, secret);
	k->peer = mem_alloc_array(n, sizeof(*peer));
	if (n)
		memcpy(k->peer, peer, n * sizeof(*peer));
	k->n_peer = n;
	return k;
}

static void volume_fini(struct volume *v)
{
	free(v->hash);
	free(v->touched);
	free(v->sent);
}

void known_free(struct known *k)
{
	if (!k)
		return;
	for (size_t i = 0; i < k->n; i++)
		volume_fini(&k->volumes[i]);
	for (size_t i = 0; i < k->n_files; i++)
		free(k->files[i].name);
	free(k->files);
	free(k->volumes);
	free(k->cache);
	free(k->peer);
	free(k);
}

void known_hash(const struct known *k, const uint8_t *block, uint8_t out[BLOCK_HASH_SIZE])
{
	block_hash_of(&k->hasher, block, out);
}

size_t known_volumes(const struct known *k)
{
	return k->n;
}

static struct volume *volume_at(const struct known *k, uint32_t v)
{
	assert(v < k->n);
	return &k->volumes[v];
}

const struct store_volume *known_volume(const struct known *k, uint32_t v)
{
	return &volume_at(k, v)->v;
}

uint64_t known_blocks(const struct known *k, uint32_t v)
{
	return volume_at(k, v)->blocks;
}

/* ---- volumes ---- */

static bool same(const struct store_volume *a, const struct store_volume *b)
{
	return a->kind == b->kind && strcmp(a->name, b->name) == 0;
}

static uint64_t blocks_of(const struct store_volume *v)
{
	return (v->size_bytes + STORE_BLOCK - 1) / STORE_BLOCK;
}

static size_t grain_bytes(const struct volume *v)
{
	return (size_t)(v->blocks / GRAIN_BLOCKS / 8 + 1);
}

static int volume_init(struct known *k, struct volume *out, const struct store_volume *v, struct err *e)
{
	*out = (struct volume){ .v = *v, .uid = ++k->next_uid, .blocks = blocks_of(v) };
	for (size_t i = 0; i < k->n_peer; i++)
		if (same(&k->peer[i], v))
			out->at_peer = blocks_of(&k->peer[i]) < out->blocks ? blocks_of(&k->peer[i]) : out->blocks;
	if (v->kind == STORE_RAM) {
		out->filled = out->at_peer == 0;
		out->hash = mem_try((size_t)out->blocks, BLOCK_HASH_SIZE, "hashes of the guest's memory", e);
		return out->hash ? 0 : -1;
	}
	if (!k->cache && !(k->cache = mem_try(CACHE_GRAINS, sizeof(*k->cache), "hashes of disk blocks", e)))
		return -1;
	out->touched = mem_try(grain_bytes(out), 1, "a map of the disk", e);
	out->sent = out->touched ? mem_try(grain_bytes(out), 1, "a map of the disk", e) : NULL;
	return out->sent ? 0 : -1;
}

/* The peer's volume of that name is now as large as this one, zeros behind what it was. */
static void peer_resized(struct known *k, const struct store_volume *v)
{
	for (size_t i = 0; i < k->n_peer; i++) {
		if (same(&k->peer[i], v)) {
			k->peer[i].size_bytes = v->size_bytes;
			return;
		}
	}
	k->peer = mem_realloc_array(k->peer, k->n_peer + 1, sizeof(*k->peer));
	k->peer[k->n_peer++] = *v;
}

/* Volumes that end are gone at the peer: should they come back, they are zeros. */
static void drop_from_peer(struct known *k, const struct store_volume *v, size_t n)
{
	size_t kept = 0;

	for (size_t i = 0; i < k->n_peer; i++) {
		bool still = false;
		for (size_t j = 0; j < n; j++)
			still |= same(&k->peer[i], &v[j]);
		if (still)
			k->peer[kept++] = k->peer[i];
	}
	k->n_peer = kept;
}

int known_set_volumes(struct known *k, const struct store_volume *v, size_t n, struct err *e)
{
	struct volume *new = mem_alloc_array(n, sizeof(*new));
	bool *moved = mem_alloc_array(k->n, sizeof(*moved));
	int rc = 0;

	for (size_t i = 0; i < n && rc == 0; i++) {
		size_t j = 0;
		while (j < k->n &&
		       (moved[j] || !same(&k->volumes[j].v, &v[i]) || k->volumes[j].v.size_bytes != v[i].size_bytes))
			j++;
		if (j < k->n) {
			new[i] = k->volumes[j];
			moved[j] = true;
			continue;
		}
		/* New, or another size than it was (all of it is asked for again). */
		rc = volume_init(k, &new[i], &v[i], e);
	}
	for (size_t j = 0; j < k->n; j++)
		if (!moved[j])
			volume_fini(&k->volumes[j]);
	free(moved);
	free(k->volumes);
	k->volumes = new;
	k->n = n;
	drop_from_peer(k, v, n);
	for (size_t i = 0; i < n; i++)
		peer_resized(k, &v[i]);
	return rc;
}

bool known_wants_fill(const struct known *k, uint32_t v, uint64_t *blocks)
{
	const struct volume *vol = volume_at(k, v);

	*blocks = vol->at_peer;
	return vol->v.kind == STORE_RAM && !vol->filled;
}

/* ---- blocks ---- */

static bool bit(const uint8_t *map, uint64_t i)
{
	return map[i / 8] >> (i % 8) & 1;
}

static void set_bit(uint8_t *map, uint64_t i)
{
	map[i / 8] = (uint8_t)(map[i / 8] | 1u << (i % 8));
}

static struct grain *place(const struct known *k, const struct volume *v, uint64_t grain)
{
	const uint64_t mixed = (grain + v->uid * UINT64_C(0x9e3779b97f4a7c15)) * UINT64_C(0xff51afd7ed558ccd);

	return &k->cache[mixed >> 32 & (CACHE_GRAINS - 1)];
}

static bool holds(const struct grain *g, const struct volume *v, uint64_t grain)
{
	return g->volume == v->uid && g->number == grain;
}

enum known_state known_get(const struct known *k, uint32_t n, uint64_t block, uint8_t out[BLOCK_HASH_SIZE])
{
	const struct volume *v = volume_at(k, n);

	assert(block < v->blocks);
	if (v->v.kind == STORE_RAM) {
		assert(v->filled);
		memcpy(out, v->hash + block * BLOCK_HASH_SIZE, BLOCK_HASH_SIZE);
		return KNOWN_HASH;
	}
	const uint64_t grain = block / GRAIN_BLOCKS;
	const struct grain *g = place(k, v, grain);
	if (holds(g, v, grain) && g->valid >> (block % GRAIN_BLOCKS) & 1) {
		memcpy(out, g->hash[block % GRAIN_BLOCKS], BLOCK_HASH_SIZE);
		return KNOWN_HASH;
	}
	if (bit(v->sent, grain))
		return KNOWN_CHANGED;
	if (block < v->at_peer || bit(v->touched, grain))
		return KNOWN_NOT;
	memcpy(out, zero_hash, sizeof(zero_hash));
	return KNOWN_HASH;
}

static void disk_put(struct known *k, struct volume *v, uint64_t block, const uint8_t *hash)
{
	const uint64_t grain = block / GRAIN_BLOCKS;
	struct grain *g = place(k, v, grain);

	if (!holds(g, v, grain)) {
		*g = (struct grain){ .volume = v->uid, .number = grain };
		if (grain * GRAIN_BLOCKS >= v->at_peer && !bit(v->touched, grain))
			g->valid = UINT16_MAX; /* zeros */
	}
	memcpy(g->hash[block % GRAIN_BLOCKS], hash, BLOCK_HASH_SIZE);
	g->valid = (uint16_t)(g->valid | 1u << (block % GRAIN_BLOCKS));
	set_bit(v->touched, grain);
}

void known_put(struct known *k, uint32_t n, uint64_t block, const uint8_t hash[BLOCK_HASH_SIZE])
{
	struct volume *v = volume_at(k, n);

	assert(block < v->blocks);
	if (v->v.kind == STORE_RAM) {
		memcpy(v->hash + block * BLOCK_HASH_SIZE, hash, BLOCK_HASH_SIZE);
		return;
	}
	disk_put(k, v, block, hash);
	set_bit(v->sent, block / GRAIN_BLOCKS);
	k->any_sent = true;
}

void known_fill(struct known *k, uint32_t n, uint64_t first, uint64_t count, const uint8_t *hashes)
{
	struct volume *v = volume_at(k, n);

	assert(first <= v->blocks && count <= v->blocks - first);
	if (v->v.kind == STORE_RAM) {
		memcpy(v->hash + first * BLOCK_HASH_SIZE, hashes, (size_t)count * BLOCK_HASH_SIZE);
		if (first + count >= v->at_peer)
			v->filled = true;
		return;
	}
	for (uint64_t i = 0; i < count; i++)
		disk_put(k, v, first + i, hashes + i * BLOCK_HASH_SIZE);
}

bool known_file(struct known *k, const char *name, const void *data, size_t len)
{
	struct file now = { .len = len };
	size_t i = 0;

	block_hash_bytes(&k->hasher, data, len, now.hash);
	while (i < k->n_files && strcmp(k->files[i].name, name) != 0)
		i++;
	if (i == k->n_files) {
		k->files = mem_realloc_array(k->files, ++k->n_files, sizeof(*k->files));
		now.name = mem_strdup(name);
	} else {
		now.name = k->files[i].name;
		if (k->files[i].len == len && memcmp(k->files[i].hash, now.hash, sizeof(now.hash)) == 0)
			return true;
	}
	k->files[i] = now;
	return false;
}

void known_committed(struct known *k)
{
	if (!k->any_sent)
		return;
	k->any_sent = false;
	for (size_t i = 0; i < k->n; i++)
		if (k->volumes[i].sent)
			memset(k->volumes[i].sent, 0, grain_bytes(&k->volumes[i]));
}
