/*
 * A replica store in memory, enough of snapshot/store.h to read points from: for tests of what is built upon views. Include it in one file of a
 * program; the library's store is then not linked in.
 */
#ifndef VMFERRY_TESTS_STAND_IN_STORE_H
#define VMFERRY_TESTS_STAND_IN_STORE_H

#include "base/mem.h"
#include "snapshot/store.h"

#include <stdlib.h>
#include <string.h>

#define STAND_IN_FILES 8

struct store {
	struct store_volume volumes[STORE_MAX_VOLUMES];
	uint8_t **blocks[STORE_MAX_VOLUMES]; /* NULL: zeros */
	size_t n_volumes;
	struct {
		char name[32];
		uint8_t *data;
		size_t len;
	} files[STAND_IN_FILES];
	json_t *vm, *meta;
	uint64_t latest;    /* number of the newest point */
	const char *heads;  /* folder with VOLUME.raw, or NULL */
	unsigned views;     /* open */
	uint64_t fail_read; /* the n-th read from now fails; 0: none does */
};
struct store_view {
	struct store *s;
	uint64_t seq;
};

static inline struct store *stand_in_new(void)
{
	struct store *s = mem_alloc(sizeof(*s));
	s->vm = json_pack("{s:s, s:s}", "uuid", "11111111-2222-3333-4444-555555555555", "name", "web1");
	s->meta = json_pack("{s:s, s:s}", "id", "p1", "kind", "memory");
	s->latest = 7;
	return s;
}
static inline uint32_t stand_in_volume(struct store *s, enum store_volume_kind kind, const char *name, uint64_t size)
{
	struct store_volume *v = &s->volumes[s->n_volumes];
	v->kind = kind;
	memccpy(v->name, name, 0, STORE_NAME_MAX);
	v->size_bytes = size;
	s->blocks[s->n_volumes] = mem_alloc_array((size_t)((size + STORE_BLOCK - 1) / STORE_BLOCK), sizeof(uint8_t *));
	return (uint32_t)s->n_volumes++;
}
static inline void stand_in_block(struct store *s, uint32_t v, uint64_t block, const uint8_t *data)
{
	if (!s->blocks[v][block])
		s->blocks[v][block] = mem_alloc(STORE_BLOCK);
	memcpy(s->blocks[v][block], data, STORE_BLOCK);
}
static inline void stand_in_file(struct store *s, const char *name, const void *data, size_t len)
{
	size_t i = 0;
	while (s->files[i].data && strcmp(s->files[i].name, name) != 0)
		i++;
	free(s->files[i].data);
	memccpy(s->files[i].name, name, 0, sizeof(s->files[i].name) - 1);
	s->files[i].data = mem_alloc(len + 1);
	memcpy(s->files[i].data, data, len);
	s->files[i].len = len;
}
static inline void stand_in_free(struct store *s)
{
	for (size_t v = 0; v < s->n_volumes; v++) {
		for (uint64_t b = 0; b < (s->volumes[v].size_bytes + STORE_BLOCK - 1) / STORE_BLOCK; b++)
			free(s->blocks[v][b]);
		free(s->blocks[v]);
	}
	for (size_t i = 0; i < STAND_IN_FILES; i++)
		free(s->files[i].data);
	json_decref(s->vm);
	json_decref(s->meta);
	free(s);
}

const json_t *store_vm(const struct store *s)
{
	return s->vm;
}
int store_settle(struct store *s, int64_t deadline_ns, struct err *e)
{
	(void)s;
	(void)deadline_ns;
	(void)e;
	return 0;
}
struct store_view *store_view_open(struct store *s, uint64_t seq, struct err *e)
{
	if (seq > s->latest) {
		err_set(e, ERR_CONFIG, "no point %llu", (unsigned long long)seq);
		return NULL;
	}
	struct store_view *v = mem_alloc(sizeof(*v));
	v->s = s;
	v->seq = seq ? seq : s->latest;
	s->views++;
	return v;
}
void store_view_close(struct store_view *v)
{
	if (v)
		v->s->views--;
	free(v);
}
uint64_t store_view_seq(const struct store_view *v)
{
	return v->seq;
}
const json_t *store_view_meta(const struct store_view *v)
{
	return v->s->meta;
}
size_t store_view_volumes(const struct store_view *v, struct store_volume *out, size_t max)
{
	size_t n = v->s->n_volumes < max ? v->s->n_volumes : max;
	if (n > 0)
		memcpy(out, v->s->volumes, n * sizeof(*out));
	return v->s->n_volumes;
}
int store_view_read(struct store_view *v, uint32_t volume, uint64_t block, size_t n, uint8_t *out, bool *zero,
		    struct err *e)
{
	if (v->s->fail_read > 0 && --v->s->fail_read == 0)
		return err_set(e, ERR_CORRUPT, "a block does not verify");
	for (size_t i = 0; i < n; i++) {
		const uint8_t *b = v->s->blocks[volume][block + i];
		if (b)
			memcpy(out + i * STORE_BLOCK, b, STORE_BLOCK);
		else
			memset(out + i * STORE_BLOCK, 0, STORE_BLOCK);
		if (zero)
			zero[i] = !b;
	}
	return 0;
}
char *store_view_file(struct store_view *v, const char *name, size_t *len, struct err *e)
{
	for (size_t i = 0; i < STAND_IN_FILES; i++) {
		if (!v->s->files[i].data || strcmp(v->s->files[i].name, name) != 0)
			continue;
		char *copy = mem_alloc(v->s->files[i].len + 1);
		memcpy(copy, v->s->files[i].data, v->s->files[i].len);
		if (len)
			*len = v->s->files[i].len;
		return copy;
	}
	err_set(e, ERR_CONFIG, "no file %s in this point", name);
	return NULL;
}
char *store_view_head_path(struct store_view *v, uint32_t volume, struct err *e)
{
	if (v->seq != v->s->latest || !v->s->heads) {
		err_set(e, ERR_REFUSED, "not the newest");
		return NULL;
	}
	return mem_printf("%s/%s.raw", v->s->heads, v->s->volumes[volume].name);
}

#endif
