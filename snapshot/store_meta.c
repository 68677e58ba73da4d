/* vm.json and the catalogue: a line of JSON and a line with its checksum, replaced as a whole. FORMAT.md, "Sealed JSON". */
#include "base/file.h"
#include "base/mem.h"
#include "base/xxh3.h"
#include "snapshot/store_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEALED_MAX ((size_t)256 << 20)
#define SEAL "#xxh3 "

static int write_sealed(const char *path, const json_t *j, struct err *e)
{
	char *text = json_dumps(j, JSON_COMPACT);
	if (!text)
		return err_set(e, ERR_CORRUPT, "%s: cannot be said in JSON", path);
	BUF_AUTO struct buf b = BUF_INIT;
	const size_t len = strlen(text);
	buf_append(&b, text, len);
	buf_printf(&b, "\n" SEAL "%016" PRIx64 "\n", (uint64_t)XXH3_64bits(text, len));
	free(text);
	return file_write_durable(path, b.data, b.len, 0600, e);
}

static json_t *read_sealed(const char *path, struct err *e)
{
	size_t len = 0;
	MEM_AUTO char *text = file_read_all(path, SEALED_MAX, &len, e);
	if (!text)
		return NULL;
	char want[64];
	char *end = memchr(text, '\n', len);
	if (end)
		snprintf(want, sizeof(want), "\n" SEAL "%016" PRIx64 "\n",
			 (uint64_t)XXH3_64bits(text, (size_t)(end - text)));
	if (!end || len - (size_t)(end - text) != strlen(want) || memcmp(end, want, strlen(want)) != 0) {
		err_set(e, ERR_CORRUPT, "%s: its checksum does not verify", path);
		return NULL;
	}
	json_error_t je;
	json_t *j = json_loadb(text, (size_t)(end - text), JSON_REJECT_DUPLICATES, &je);
	if (!json_is_object(j)) {
		json_decref(j);
		err_set(e, ERR_CORRUPT, "%s: is not a JSON object: %s", path, je.text);
		return NULL;
	}
	return j;
}

static json_t *hex64(uint64_t v)
{
	char text[24];
	snprintf(text, sizeof(text), "%016" PRIx64, v);
	return json_string(text);
}

static bool get_hex64(const json_t *o, const char *key, uint64_t *out)
{
	const char *text = json_string_value(json_object_get(o, key));
	int used = 0;
	return text && strlen(text) == 16 && strspn(text, "0123456789abcdef") == 16 &&
	       sscanf(text, "%" SCNx64 "%n", out, &used) == 1 && used == 16;
}

static bool get_u64(const json_t *o, const char *key, uint64_t max, uint64_t *out)
{
	const json_t *v = json_object_get(o, key);
	if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max)
		return false;
	*out = (uint64_t)json_integer_value(v);
	return true;
}

static int check_format(const char *path, const json_t *j, struct err *e)
{
	uint64_t format;
	if (!get_u64(j, "format", INT64_MAX, &format))
		return err_set(e, ERR_CORRUPT, "%s: says no format", path);
	if (format == STORE_FORMAT)
		return 0;
	err_set(e, ERR_REFUSED, "%s: format %" PRIu64 " of another vmferry, known is %u", path, format, STORE_FORMAT);
	return err_remedy(e, "use the vmferry that wrote it");
}

int store_meta_write_vm(const struct store *s, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/vm.json", s->dir);
	json_t *j = json_pack("{s:i, s:o, s:o, s:O}", "format", STORE_FORMAT, "store", hex64(s->id), "salt",
			      hex64(s->salt), "vm", s->vm);
	const int rc = write_sealed(path, j, e);
	json_decref(j);
	return rc;
}

int store_meta_read_vm(struct store *s, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/vm.json", s->dir);
	json_t *j = read_sealed(path, e);
	if (!j)
		return -1;
	int rc = check_format(path, j, e);
	json_t *vm = json_object_get(j, "vm");
	if (rc == 0 && (!get_hex64(j, "store", &s->id) || !get_hex64(j, "salt", &s->salt) || !json_is_object(vm)))
		rc = err_set(e, ERR_CORRUPT, "%s: something is missing", path);
	if (rc == 0)
		s->vm = json_incref(vm);
	json_decref(j);
	return rc;
}

static json_t *volumes_json(const struct store_volset *v)
{
	json_t *a = json_array();
	for (size_t i = 0; i < v->n; i++)
		json_array_append_new(a, json_pack("{s:I, s:s, s:s, s:I}", "id", (json_int_t)v->v[i].id, "kind",
						   v->v[i].v.kind == STORE_RAM ? "ram" : "disk", "name", v->v[i].v.name,
						   "bytes", (json_int_t)v->v[i].v.size_bytes));
	return a;
}

static struct store_volset *volumes_from(const json_t *a)
{
	struct store_volset *s = store_volset_new();
	bool good = json_is_array(a) && json_array_size(a) <= STORE_MAX_VOLUMES;

	for (size_t i = 0; good && i < json_array_size(a); i++) {
		const json_t *o = json_array_get(a, i);
		const char *name = json_string_value(json_object_get(o, "name"));
		const char *kind = json_string_value(json_object_get(o, "kind"));
		struct store_volset_item *it = &s->v[s->n];
		uint64_t id = 0;
		good = name && kind && strlen(name) <= STORE_NAME_MAX && get_u64(o, "id", UINT32_MAX, &id) &&
		       get_u64(o, "bytes", STORE_MAX_BYTES, &it->v.size_bytes) &&
		       (strcmp(kind, "ram") == 0 || strcmp(kind, "disk") == 0);
		if (!good)
			break;
		it->id = (uint32_t)id;
		it->v.kind = strcmp(kind, "ram") == 0 ? STORE_RAM : STORE_DISK;
		memcpy(it->v.name, name, strlen(name) + 1);
		s->n++;
	}
	if (good)
		return s;
	store_volset_unref(s);
	return NULL;
}

static json_t *files_json(const struct store_fileset *f)
{
	json_t *a = json_array();
	for (size_t i = 0; i < f->n; i++)
		json_array_append_new(a, json_pack("{s:s, s:I, s:I, s:I, s:o}", "name", f->v[i].name, "txn",
						   (json_int_t)f->v[i].seq, "offset", (json_int_t)f->v[i].offset,
						   "bytes", (json_int_t)f->v[i].len, "xxh3", hex64(f->v[i].sum)));
	return a;
}

static struct store_fileset *files_from(const json_t *a)
{
	struct store_fileset *s = store_fileset_copy(NULL);
	bool good = json_is_array(a) && json_array_size(a) <= STORE_MAX_FILES;

	for (size_t i = 0; good && i < json_array_size(a); i++) {
		const json_t *o = json_array_get(a, i);
		const char *name = json_string_value(json_object_get(o, "name"));
		struct store_file f = { 0 };
		good = name && strlen(name) <= STORE_NAME_MAX && get_u64(o, "txn", INT64_MAX, &f.seq) &&
		       get_u64(o, "offset", INT64_MAX, &f.offset) && get_u64(o, "bytes", STORE_MAX_FILE, &f.len) &&
		       get_hex64(o, "xxh3", &f.sum);
		if (good) {
			f.name = mem_strdup(name);
			store_fileset_put(s, f);
		}
	}
	if (good)
		return s;
	store_fileset_unref(s);
	return NULL;
}

static json_t *entry_json(const struct store_entry *p)
{
	return json_pack("{s:I, s:I, s:I, s:O, s:o, s:o}", "seq", (json_int_t)p->seq, "committed_ns",
			 (json_int_t)p->committed_ns, "bytes", (json_int_t)p->bytes, "meta", p->meta, "volumes",
			 volumes_json(p->volumes), "files", files_json(p->files));
}

static struct store_entry *entry_from(const json_t *o)
{
	struct store_entry *p = mem_alloc(sizeof(*p));
	uint64_t when = 0;
	json_t *meta = json_object_get(o, "meta");

	p->volumes = volumes_from(json_object_get(o, "volumes"));
	p->files = files_from(json_object_get(o, "files"));
	p->meta = json_incref(meta);
	if (p->volumes && p->files && json_is_object(meta) && get_u64(o, "seq", INT64_MAX, &p->seq) &&
	    get_u64(o, "committed_ns", INT64_MAX, &when) && get_u64(o, "bytes", INT64_MAX, &p->bytes)) {
		p->committed_ns = (int64_t)when;
		return p;
	}
	store_entry_free(p);
	return NULL;
}

static json_t *catalogue_json(struct store *s, uint64_t *applied)
{
	THREAD_LOCKED(&s->lock);
	*applied = s->applied;
	json_t *points = json_array();

	for (size_t i = 0; i < s->n_points; i++)
		if (!s->points[i]->dropping && s->points[i]->seq <= s->applied)
			json_array_append_new(points, entry_json(s->points[i]));
	return json_pack("{s:i, s:o, s:I, s:{s:I, s:I}, s:I, s:o, s:o, s:o}", "format", STORE_FORMAT, "store",
			 hex64(s->id), "applied", (json_int_t)s->applied, "redo", "segment",
			 (json_int_t)s->redo.segment, "offset", (json_int_t)s->redo.offset, "next_volume",
			 (json_int_t)s->applied_next_volume, "volumes", volumes_json(s->applied_volumes), "files",
			 files_json(s->applied_files), "points", points);
}

int store_meta_save(struct store *s, struct err *e)
{
	THREAD_LOCKED(&s->saving);
	MEM_AUTO char *path = mem_printf("%s/catalogue.json", s->dir);
	uint64_t applied = 0;
	json_t *j = catalogue_json(s, &applied);
	const int rc = write_sealed(path, j, e);

	json_decref(j);
	if (rc < 0)
		return -1;
	pthread_mutex_lock(&s->lock);
	s->saved = applied;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int load_points(struct store *s, const json_t *a)
{
	uint64_t last = 0;

	for (size_t i = 0; i < json_array_size(a); i++) {
		struct store_entry *p = entry_from(json_array_get(a, i));
		if (!p || p->seq <= last || p->seq > s->applied) {
			store_entry_free(p);
			return -1;
		}
		last = p->seq;
		s->points = mem_realloc_array(s->points, s->n_points + 1, sizeof(struct store_entry *));
		s->points[s->n_points++] = p;
	}
	s->last_point = last;
	return json_is_array(a) ? 0 : -1;
}

int store_meta_load(struct store *s, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/catalogue.json", s->dir);
	json_t *j = read_sealed(path, e);
	if (!j)
		return -1;
	uint64_t id = 0, next = 0;
	const json_t *redo = json_object_get(j, "redo");
	int rc = check_format(path, j, e);
	if (rc == 0 && get_hex64(j, "store", &id) && id != s->id)
		rc = err_set(e, ERR_CORRUPT, "%s: is of another store", path);
	s->applied_volumes = volumes_from(json_object_get(j, "volumes"));
	s->applied_files = files_from(json_object_get(j, "files"));
	if (rc == 0 &&
	    (id != s->id || !s->applied_volumes || !s->applied_files ||
	     !get_u64(j, "applied", INT64_MAX, &s->applied) || !get_u64(redo, "segment", INT64_MAX, &s->redo.segment) ||
	     !get_u64(redo, "offset", INT64_MAX, &s->redo.offset) || !get_u64(j, "next_volume", UINT32_MAX, &next) ||
	     load_points(s, json_object_get(j, "points")) < 0))
		rc = err_set(e, ERR_CORRUPT, "%s: something in it is missing or makes no sense", path);
	s->applied_next_volume = (uint32_t)next;
	s->saved = s->applied;
	json_decref(j);
	return rc;
}

int store_meta_check(struct store *s, struct err *e)
{
	static const char *const names[] = { "vm.json", "catalogue.json" };

	THREAD_LOCKED(&s->saving);
	for (size_t i = 0; i < 2; i++) {
		MEM_AUTO char *path = mem_printf("%s/%s", s->dir, names[i]);
		json_t *j = read_sealed(path, e);
		if (!j)
			return -1;
		json_decref(j);
	}
	return 0;
}
