/* Volumes and files as of a transaction; points; what is pending. Counted, and copied on change. */
#include "base/mem.h"
#include "snapshot/store_impl.h"

#include <stdlib.h>
#include <string.h>

struct store_volset *store_volset_new(void)
{
	struct store_volset *s = mem_alloc(sizeof(*s));
	s->refs = 1;
	return s;
}

struct store_volset *store_volset_ref(struct store_volset *s)
{
	atomic_fetch_add(&s->refs, 1);
	return s;
}

void store_volset_unref(struct store_volset *s)
{
	if (s && atomic_fetch_sub(&s->refs, 1) == 1)
		free(s);
}

const struct store_volset_item *store_volset_by_id(const struct store_volset *s, uint32_t id)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].id == id)
			return &s->v[i];
	return NULL;
}

static void file_fini(struct store_file *f)
{
	free(f->name);
	store_blob_unref(f->blob);
}

struct store_fileset *store_fileset_copy(const struct store_fileset *from)
{
	struct store_fileset *s = mem_alloc(sizeof(*s));

	s->refs = 1;
	s->n = from ? from->n : 0;
	s->v = mem_alloc_array(s->n, sizeof(s->v[0]));
	for (size_t i = 0; i < s->n; i++) {
		s->v[i] = from->v[i];
		s->v[i].name = mem_strdup(from->v[i].name);
		store_blob_ref(s->v[i].blob);
	}
	return s;
}

struct store_fileset *store_fileset_ref(struct store_fileset *s)
{
	atomic_fetch_add(&s->refs, 1);
	return s;
}

void store_fileset_unref(struct store_fileset *s)
{
	if (!s || atomic_fetch_sub(&s->refs, 1) > 1)
		return;
	for (size_t i = 0; i < s->n; i++)
		file_fini(&s->v[i]);
	free(s->v);
	free(s);
}

struct store_file *store_fileset_find(const struct store_fileset *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->v[i].name, name) == 0)
			return &s->v[i];
	return NULL;
}

void store_fileset_put(struct store_fileset *s, struct store_file f)
{
	struct store_file *old = store_fileset_find(s, f.name);

	if (!old) {
		s->v = mem_realloc_array(s->v, s->n + 1, sizeof(s->v[0]));
		old = &s->v[s->n++];
	} else {
		file_fini(old);
	}
	*old = f;
}

void store_fileset_let_go(struct store_fileset *s, uint64_t seq)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->v[i].seq == seq) {
			store_blob_unref(s->v[i].blob);
			s->v[i].blob = NULL;
		}
}

void store_entry_free(struct store_entry *p)
{
	if (!p)
		return;
	json_decref(p->meta);
	store_volset_unref(p->volumes);
	store_fileset_unref(p->files);
	free(p);
}

void store_pending_free(struct store_pending *p)
{
	if (!p)
		return;
	store_layer_unref(p->layer);
	store_volset_unref(p->volumes);
	store_fileset_unref(p->files);
	json_decref(p->meta);
	free(p);
}
