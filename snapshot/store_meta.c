/* vm.json: a line of JSON and a line with its checksum, replaced as a whole (FORMAT.md, "Sealed JSON"). And what it and the
 * catalogue say in JSON. */
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
#define TXN_MAX (UINT64_C(1) << 62)

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

json_t *store_meta_hex_json(uint64_t v)
{
	char text[24];
	snprintf(text, sizeof(text), "%016" PRIx64, v);
	return json_string(text);
}

bool store_meta_hex(const json_t *o, const char *key, uint64_t *out)
{
	const char *text = json_string_value(json_object_get(o, key));
	int used = 0;
	return text && strlen(text) == 16 && strspn(text, "0123456789abcdef") == 16 &&
	       sscanf(text, "%" SCNx64 "%n", out, &used) == 1 && used == 16;
}

bool store_meta_u64(const json_t *o, const char *key, uint64_t max, uint64_t *out)
{
	const json_t *v = json_object_get(o, key);
	if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > max)
		return false;
	*out = (uint64_t)json_integer_value(v);
	return true;
}

int store_meta_check_format(const char *path, const json_t *j, struct err *e)
{
	uint64_t format;
	if (!store_meta_u64(j, "format", INT64_MAX, &format))
		return err_set(e, ERR_CORRUPT, "%s: says no format", path);
	if (format == STORE_FORMAT || format == STORE_FORMAT_1)
		return (int)format;
	err_set(e, ERR_REFUSED, "%s: format %" PRIu64 " of another vmferry, known are 1 and %u", path, format,
		STORE_FORMAT);
	return err_remedy(e, "use the vmferry that wrote it");
}

int store_meta_write_vm(const struct store *s, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/vm.json", s->dir);
	json_t *j = json_pack("{s:i, s:o, s:o, s:O}", "format", STORE_FORMAT, "store", store_meta_hex_json(s->id),
			      "salt", store_meta_hex_json(s->salt), "vm", s->vm);
	const int rc = write_sealed(path, j, e);
	json_decref(j);
	return rc;
}

int store_meta_read_vm(struct store *s, unsigned *format, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/vm.json", s->dir);
	json_t *j = read_sealed(path, e);
	if (!j)
		return -1;
	int rc = store_meta_check_format(path, j, e);
	json_t *vm = json_object_get(j, "vm");
	if (rc > 0 &&
	    (!store_meta_hex(j, "store", &s->id) || !store_meta_hex(j, "salt", &s->salt) || !json_is_object(vm)))
		rc = err_set(e, ERR_CORRUPT, "%s: something is missing", path);
	if (rc > 0) {
		s->vm = json_incref(vm);
		*format = (unsigned)rc;
	}
	json_decref(j);
	return rc < 0 ? -1 : 0;
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
		good = name && kind && strlen(name) <= STORE_NAME_MAX && store_meta_u64(o, "id", UINT32_MAX, &id) &&
		       id > 0 && !store_volset_by_id(s, (uint32_t)id) &&
		       store_meta_u64(o, "bytes", STORE_MAX_BYTES, &it->v.size_bytes) &&
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
		json_array_append_new(a,
				      json_pack("{s:s, s:I, s:I, s:I, s:o}", "name", f->v[i].name, "txn",
						(json_int_t)f->v[i].seq, "offset", (json_int_t)f->v[i].offset, "bytes",
						(json_int_t)f->v[i].len, "xxh3", store_meta_hex_json(f->v[i].sum)));
	return a;
}

/* As of transaction `until`. */
static struct store_fileset *files_from(const json_t *a, uint64_t until)
{
	struct store_fileset *s = store_fileset_copy(NULL);
	bool good = json_is_array(a) && json_array_size(a) <= STORE_MAX_FILES;

	for (size_t i = 0; good && i < json_array_size(a); i++) {
		const json_t *o = json_array_get(a, i);
		const char *name = json_string_value(json_object_get(o, "name"));
		struct store_file f = { 0 };
		good = name && strlen(name) <= STORE_NAME_MAX && store_meta_u64(o, "txn", until, &f.seq) &&
		       store_meta_u64(o, "offset", INT64_MAX, &f.offset) &&
		       store_meta_u64(o, "bytes", STORE_MAX_FILE, &f.len) && store_meta_hex(o, "xxh3", &f.sum);
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

json_t *store_meta_entry(const struct store_entry *p)
{
	return json_pack("{s:I, s:I, s:I, s:O, s:o, s:o}", "seq", (json_int_t)p->seq, "committed_ns",
			 (json_int_t)p->committed_ns, "bytes", (json_int_t)p->bytes, "meta", p->meta, "volumes",
			 volumes_json(p->volumes), "files", files_json(p->files));
}

/* Most list the same volumes as the one before them, `last` and what was said of it: they share them. */
static struct store_entry *entry_from(const json_t *o, const json_t *before, const struct store_entry *last)
{
	struct store_entry *p = mem_alloc(sizeof(*p));
	uint64_t when = 0;
	json_t *meta = json_object_get(o, "meta");
	const json_t *volumes = json_object_get(o, "volumes");

	const bool numbered = store_meta_u64(o, "seq", TXN_MAX, &p->seq);
	p->volumes = last && json_equal(volumes, json_object_get(before, "volumes")) ? store_volset_ref(last->volumes)
										     : volumes_from(volumes);
	p->files = files_from(json_object_get(o, "files"), p->seq);
	p->meta = json_incref(meta);
	if (p->volumes && p->files && json_is_object(meta) && numbered &&
	    store_meta_u64(o, "committed_ns", INT64_MAX, &when) && store_meta_u64(o, "bytes", INT64_MAX, &p->bytes)) {
		p->committed_ns = (int64_t)when;
		return p;
	}
	store_entry_free(p);
	return NULL;
}

json_t *store_meta_state(const struct store *s)
{
	return json_pack("{s:I, s:{s:I, s:I}, s:I, s:o, s:o}", "applied", (json_int_t)s->applied, "redo", "segment",
			 (json_int_t)s->redo.segment, "offset", (json_int_t)s->redo.offset, "next_volume",
			 (json_int_t)s->applied_next_volume, "volumes", volumes_json(s->applied_volumes), "files",
			 files_json(s->applied_files));
}

/* Numbers that are still to be given are nobody's. */
static bool ids_below(const struct store_volset *v, uint64_t next)
{
	for (size_t i = 0; i < v->n; i++)
		if (v->v[i].id >= next)
			return false;
	return true;
}

int store_meta_take_state(struct store *s, const json_t *j)
{
	const json_t *redo = json_object_get(j, "redo");
	struct store_pos at;
	uint64_t applied = 0, next = 0;
	const bool numbered = store_meta_u64(j, "applied", TXN_MAX, &applied);
	struct store_volset *volumes = volumes_from(json_object_get(j, "volumes"));
	struct store_fileset *files = files_from(json_object_get(j, "files"), applied);

	if (!numbered || !volumes || !files || !store_meta_u64(redo, "segment", INT64_MAX, &at.segment) ||
	    !store_meta_u64(redo, "offset", INT64_MAX, &at.offset) ||
	    !store_meta_u64(j, "next_volume", UINT32_MAX, &next) || applied < s->applied || !ids_below(volumes, next)) {
		store_volset_unref(volumes);
		store_fileset_unref(files);
		return -1;
	}
	store_volset_unref(s->applied_volumes);
	store_fileset_unref(s->applied_files);
	s->applied_volumes = volumes;
	s->applied_files = files;
	s->applied = s->saved = applied;
	s->applied_next_volume = (uint32_t)next;
	s->redo = s->saved_redo = at;
	return 0;
}

/* Takes p. One that is older than others may come behind them, after a failure in between. */
static bool insert_point(struct store *s, struct store_entry *p)
{
	size_t i = s->n_points;

	while (i > 0 && s->points[i - 1]->seq > p->seq)
		i--;
	if (p->seq == 0 || p->seq > s->applied || !ids_below(p->volumes, s->applied_next_volume) ||
	    (i > 0 && s->points[i - 1]->seq == p->seq)) {
		store_entry_free(p);
		return false;
	}
	p->listed = true;
	s->points = mem_realloc_array(s->points, s->n_points + 1, sizeof(struct store_entry *));
	memmove(&s->points[i + 1], &s->points[i], (s->n_points - i) * sizeof(struct store_entry *));
	s->points[i] = p;
	s->n_points++;
	return true;
}

int store_meta_take_points(struct store *s, const json_t *a)
{
	struct store_entry *last = NULL;

	for (size_t i = 0; i < json_array_size(a); i++) {
		struct store_entry *p = entry_from(json_array_get(a, i), i ? json_array_get(a, i - 1) : NULL, last);
		if (!p || !insert_point(s, p))
			return -1;
		last = p;
	}
	return json_is_array(a) ? 0 : -1;
}

int store_meta_load_1(struct store *s, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/catalogue.json", s->dir);
	json_t *j = read_sealed(path, e);
	if (!j)
		return -1;
	uint64_t id = 0;
	int rc = store_meta_check_format(path, j, e);
	if (rc > 0 && store_meta_hex(j, "store", &id) && id != s->id)
		rc = err_set(e, ERR_CORRUPT, "%s: is of another store", path);
	if (rc > 0 && (id != s->id || store_meta_take_state(s, j) < 0 ||
		       store_meta_take_points(s, json_object_get(j, "points")) < 0))
		rc = err_set(e, ERR_CORRUPT, "%s: something in it is missing or makes no sense", path);
	json_decref(j);
	return rc < 0 ? -1 : 0;
}

int store_meta_check(struct store *s, struct err *e)
{
	static const char *const names[] = { "vm.json", "catalogue.json" };

	for (size_t i = 0; i < (s->catalogue.format_1 ? 2u : 1u); i++) {
		MEM_AUTO char *path = mem_printf("%s/%s", s->dir, names[i]);
		json_t *j = read_sealed(path, e);
		if (!j)
			return -1;
		json_decref(j);
	}
	return 0;
}
