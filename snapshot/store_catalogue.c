/* The catalogue: what is applied and which points are kept, as a log. FORMAT.md, "Catalogue". A line is added for what changed, and is synced
 * before anything rests on it; now and then all of it is written anew as one line. So a checkpoint costs what changed, however many points there are. */
#include "base/file.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/thread.h"
#include "base/xxh3.h"
#include "snapshot/store_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#define CATALOGUE_MAX ((size_t)256 << 20)
#define SUM_LEN 17u /* 16 digits and a space */
/* It is written anew when what was added is longer than what it began with, and this. */
#define GROWN_MIN (64u * 1024u)

static char *catalogue_path(const struct store *s)
{
	return mem_printf("%s/catalogue.log", s->dir);
}

void store_catalogue_fini(struct store_catalogue *c)
{
	store_blob_unref(c->blob);
	*c = (struct store_catalogue){ 0 };
}

/* ---- reading ---- */

bool store_catalogue_verify(uint64_t seed, const char *line, size_t len, const char **json, size_t *json_len)
{
	char want[SUM_LEN + 1];

	if (len <= SUM_LEN)
		return false;
	snprintf(want, sizeof(want), "%016" PRIx64 " ",
		 (uint64_t)XXH3_64bits_withSeed(line + SUM_LEN, len - SUM_LEN, seed));
	*json = line + SUM_LEN;
	*json_len = len - SUM_LEN;
	return memcmp(line, want, SUM_LEN) == 0;
}

/* The line at `at`, without its newline; NULL: does not verify. *next: where the one behind it begins, or the end. */
static const char *line_at(const char *text, size_t len, size_t at, uint64_t seed, size_t *json_len, size_t *next)
{
	const char *end = memchr(text + at, '\n', len - at), *json = NULL;

	*next = end ? (size_t)(end - text) + 1 : len;
	return end && store_catalogue_verify(seed, text + at, (size_t)(end - text) - at, &json, json_len) ? json : NULL;
}

static int makes_no_sense(const char *path, size_t at, struct err *e)
{
	return err_set(e, ERR_CORRUPT, "%s: the line at %zu makes no sense", path, at);
}

static void remove_point(struct store *s, uint64_t seq)
{
	for (size_t i = 0; i < s->n_points; i++)
		if (s->points[i]->seq == seq) {
			store_entry_free(s->points[i]);
			s->n_points--;
			memmove(&s->points[i], &s->points[i + 1], (s->n_points - i) * sizeof(s->points[0]));
			return;
		}
}

static int take_dropped(struct store *s, const json_t *a)
{
	for (size_t i = 0; i < json_array_size(a); i++) {
		const json_t *seq = json_array_get(a, i);
		if (!json_is_integer(seq) || json_integer_value(seq) < 0)
			return -1;
		remove_point(s, (uint64_t)json_integer_value(seq));
	}
	return a && !json_is_array(a) ? -1 : 0;
}

static int take_first(struct store *s, const char *path, const json_t *j, struct err *e)
{
	uint64_t id = 0;

	if (store_meta_check_format(path, j, e) < 0)
		return -1;
	if (!store_meta_hex(j, "store", &id) || !store_meta_hex(j, "salt", &s->catalogue.salt))
		return makes_no_sense(path, 0, e);
	return id == s->id ? 0 : err_set(e, ERR_CORRUPT, "%s: is of another store", path);
}

static int take_line(struct store *s, const char *path, const char *text, size_t len, size_t at, struct err *e)
{
	json_t *j = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	int rc = json_is_object(j) ? 0 : makes_no_sense(path, at, e);

	if (rc == 0 && at == 0)
		rc = take_first(s, path, j, e);
	if (rc == 0 && (store_meta_take_state(s, j) < 0 || take_dropped(s, json_object_get(j, "drop")) < 0 ||
			store_meta_take_points(s, json_object_get(j, "points")) < 0))
		rc = makes_no_sense(path, at, e);
	json_decref(j);
	return rc;
}

/* A line is synced before the next one is written: one that verifies behind one that does not is not a power cut's work. */
static int check_torn(const char *path, const char *text, size_t len, size_t bad, uint64_t salt, struct err *e)
{
	size_t json_len = 0, next = 0;

	line_at(text, len, bad, 0, &json_len, &next);
	for (size_t at = next; at < len; at = next)
		if (line_at(text, len, at, salt + at, &json_len, &next))
			return err_set(e, ERR_CORRUPT, "%s: the line at %zu does not verify", path, bad);
	return 0;
}

/* Of the text all lines that verify go to take(), if given. *end: behind the last one; *first_len: of the first. */
static int read_lines(struct store *s, const char *path, const char *text, size_t len, bool take, size_t *end,
		      size_t *first_len, struct err *e)
{
	size_t at = 0, next = 0, json_len = 0;

	for (; at < len; at = next) {
		const char *json = line_at(text, len, at, at ? s->catalogue.salt + at : 0, &json_len, &next);
		if (!json)
			break;
		if (take && take_line(s, path, json, json_len, at, e) < 0)
			return -1;
		if (at == 0)
			*first_len = next;
	}
	*end = at;
	if (at == 0)
		return err_set(e, ERR_CORRUPT, "%s: its first line does not verify", path);
	return at < len ? check_torn(path, text, len, at, s->catalogue.salt, e) : 0;
}

int store_catalogue_load(struct store *s, struct err *e)
{
	struct store_catalogue *c = &s->catalogue;
	MEM_AUTO char *path = catalogue_path(s);
	size_t len = 0, end = 0, first = 0;
	MEM_AUTO char *text = file_read_all(path, CATALOGUE_MAX, &len, e);

	if (!text || read_lines(s, path, text, len, true, &end, &first, e) < 0)
		return -1;
	c->torn = end < len;
	c->len = end;
	c->whole_len = first;
	/* What does not verify is not written over, but left behind. */
	if (!c->torn && !(c->blob = store_blob_open(path, O_RDWR, e)))
		return -1;
	return 0;
}

void store_catalogue_remove_old(const struct store *s)
{
	MEM_AUTO char *path = mem_printf("%s/catalogue.json", s->dir);
	sys.unlink(path);
}

int store_catalogue_check(struct store *s, struct err *e)
{
	THREAD_LOCKED(&s->saving);
	if (store_meta_check(s, e) < 0)
		return -1;
	if (s->catalogue.format_1)
		return 0;
	MEM_AUTO char *path = catalogue_path(s);
	size_t len = 0, end = 0, first = 0;
	MEM_AUTO char *text = file_read_all(path, CATALOGUE_MAX, &len, e);

	if (!text || read_lines(s, path, text, len, false, &end, &first, e) < 0)
		return -1;
	return end >= s->catalogue.len ? 0 : err_set(e, ERR_CORRUPT, "%s: the line at %zu does not verify", path, end);
}

/* ---- a checkpoint ---- */

struct checkpoint {
	struct store_head **heads; /* to be freed, as files */
	size_t n_heads;
	uint64_t *files;
	size_t n_files;
	uint64_t applied, bytes, salt;
	struct store_pos redo;
	json_t *line;
	bool whole;
};

/* What the catalogue is to say of the points, against what it says. Under lock. */
static void put_points(struct store *s, struct checkpoint *c)
{
	json_t *points = json_array(), *drop = json_array();

	for (size_t i = 0; i < s->n_points; i++) {
		struct store_entry *p = s->points[i];
		p->listing = !p->dropping && p->seq <= s->applied;
		if (p->listing && (c->whole || !p->listed))
			json_array_append_new(points, store_meta_entry(p));
		else if (!p->listing && p->listed && !c->whole)
			json_array_append_new(drop, json_integer((json_int_t)p->seq));
	}
	json_object_set_new(c->line, "points", points);
	if (json_array_size(drop) > 0)
		json_object_set_new(c->line, "drop", drop);
	else
		json_decref(drop);
}

static void put_first(struct store *s, struct checkpoint *c)
{
	json_object_set_new(c->line, "format", json_integer(STORE_FORMAT));
	json_object_set_new(c->line, "store", store_meta_hex_json(s->id));
	json_object_set_new(c->line, "salt", store_meta_hex_json(c->salt));
}

/* Under lock. */
static void begin(struct store *s, struct checkpoint *c)
{
	c->heads = mem_alloc_array(s->n_heads, sizeof(c->heads[0]));
	for (size_t i = 0; i < s->n_heads; i++)
		if (s->heads[i]->unsynced) {
			s->heads[i]->unsynced = false;
			c->heads[c->n_heads++] = store_head_ref(s->heads[i]);
		}
	c->files = s->unsynced_files;
	c->n_files = s->n_unsynced_files;
	s->unsynced_files = NULL;
	s->n_unsynced_files = 0;
	c->applied = s->applied;
	c->redo = s->redo;
	c->bytes = s->unsaved_bytes;
	c->line = store_meta_state(s);
	if (c->whole)
		put_first(s, c);
	put_points(s, c);
}

/* One that is not there is listed by nobody any more. */
static int sync_file(const struct store *s, uint64_t seq, struct err *e)
{
	MEM_AUTO char *path = store_files_path(s, seq);
	struct err why = ERR_INIT;
	struct store_blob *b = store_blob_open(path, O_RDONLY, &why);

	if (!b && why.errnum == ENOENT)
		return 0;
	if (!b)
		*e = why;
	const int rc = b ? store_blob_sync(b, false, e) : -1;
	store_blob_unref(b);
	return rc;
}

/* What the catalogue is going to say is in the heads, and in files. */
static int sync_applied(const struct store *s, const struct checkpoint *c, struct err *e)
{
	for (size_t i = 0; i < c->n_heads; i++)
		if (store_head_sync(c->heads[i], e) < 0)
			return -1;
	for (size_t i = 0; i < c->n_files; i++)
		if (sync_file(s, c->files[i], e) < 0)
			return -1;
	MEM_AUTO char *inside = store_files_path(s, 0);
	return c->n_files > 0 ? file_sync_folder_of(inside, e) : 0;
}

/* A file could not be opened: what begin() took is the next checkpoint's. Under lock. */
static void give_back(struct store *s, const struct checkpoint *c)
{
	for (size_t i = 0; i < c->n_heads; i++)
		c->heads[i]->unsynced = true;
	if (c->n_files == 0)
		return;
	const size_t n = s->n_unsynced_files + c->n_files;
	s->unsynced_files = mem_realloc_array(s->unsynced_files, n, sizeof(uint64_t));
	memcpy(s->unsynced_files + s->n_unsynced_files, c->files, c->n_files * sizeof(uint64_t));
	s->n_unsynced_files = n;
}

static int put_line(const struct store *s, struct buf *b, uint64_t seed, const json_t *line, struct err *e)
{
	char *text = json_dumps(line, JSON_COMPACT);

	if (!text)
		return err_set(e, ERR_CORRUPT, "%s: its catalogue cannot be said in JSON", s->dir);
	const size_t len = strlen(text);
	buf_printf(b, "%016" PRIx64 " ", (uint64_t)XXH3_64bits_withSeed(text, len, seed));
	buf_append(b, text, len);
	buf_append(b, "\n", 1);
	free(text);
	return 0;
}

static bool is_named(const struct store_blob *b)
{
	struct stat st;
	return b && fstat(b->fd, &st) == 0 && st.st_nlink > 0;
}

static int write_whole(struct store *s, const struct checkpoint *c, struct err *e)
{
	struct store_catalogue *cat = &s->catalogue;
	MEM_AUTO char *path = catalogue_path(s);
	BUF_AUTO struct buf b = BUF_INIT;

	if (put_line(s, &b, 0, c->line, e) < 0)
		return -1;
	const int rc = file_write_durable(path, b.data, b.len, 0600, e);
	/* After a failure the old one may still be in place, and is added to. */
	if (rc < 0 && is_named(cat->blob)) {
		cat->whole_len = cat->len;
		return -1;
	}
	store_blob_unref(cat->blob);
	cat->blob = NULL;
	if (rc < 0)
		return -1;
	cat->salt = c->salt;
	cat->len = cat->whole_len = b.len;
	cat->torn = false;
	/* Without it the next one is written whole again. */
	struct err ignored = ERR_INIT;
	cat->blob = store_blob_open(path, O_RDWR, &ignored);
	return 0;
}

/* The catalogue is there as it is written now, and nothing that the old one needs is gone: only with vm.json the new one counts. */
static int convert(struct store *s, struct err *e)
{
	if (store_meta_write_vm(s, e) < 0)
		return err_wrap(e, "convert from format 1");
	s->catalogue.format_1 = false;
	store_catalogue_remove_old(s);
	return 0;
}

static int append(struct store *s, const struct checkpoint *c, struct err *e)
{
	struct store_catalogue *cat = &s->catalogue;
	BUF_AUTO struct buf b = BUF_INIT;

	if (put_line(s, &b, cat->salt + cat->len, c->line, e) < 0)
		return -1;
	/* A part of a line that came to be does not verify, and is written over by the next. */
	if (store_blob_write(cat->blob, cat->len, b.data, b.len, e) < 0)
		return -1;
	if (store_blob_sync(cat->blob, true, e) < 0) {
		store_blob_unref(cat->blob);
		cat->blob = NULL;
		return -1;
	}
	cat->len += b.len;
	return 0;
}

/* Under lock. */
static void finish(struct store *s, const struct checkpoint *c)
{
	for (size_t i = 0; i < s->n_points; i++)
		s->points[i]->listed = s->points[i]->listing;
	s->saved = c->applied;
	s->saved_redo = c->redo;
	s->unsaved_bytes -= c->bytes;
}

bool store_checkpoint_due(const struct store *s)
{
	return s->unsaved_bytes >= STORE_UNSAVED_BYTES || s->applied - s->saved >= STORE_UNSAVED_TXNS ||
	       s->redo.segment != s->saved_redo.segment;
}

static bool has_grown(const struct store_catalogue *c)
{
	return c->len - c->whole_len > c->whole_len + GROWN_MIN;
}

static int checkpoint(struct store *s, bool whole, struct err *e)
{
	struct checkpoint c = { .whole = whole || !s->catalogue.blob || s->catalogue.format_1 };
	int rc = 0;

	if (c.whole && getrandom(&c.salt, sizeof(c.salt), 0) != (ssize_t)sizeof(c.salt))
		return err_sys(e, "random numbers");
	pthread_mutex_lock(&s->lock);
	if (err_is_set(&s->poison)) {
		*e = s->poison;
		rc = -1;
	} else {
		begin(s, &c);
	}
	pthread_mutex_unlock(&s->lock);
	if (rc < 0)
		return -1;
	const bool synced = sync_applied(s, &c, e) == 0;
	if (synced)
		rc = c.whole ? write_whole(s, &c, e) : append(s, &c, e);
	if (synced && rc == 0 && s->catalogue.format_1)
		rc = convert(s, e);
	pthread_mutex_lock(&s->lock);
	if (!synced && err_passes(e)) {
		give_back(s, &c);
		rc = -1;
	} else if (!synced) {
		rc = store_poison(s, e); /* what is in them is not known any more */
	} else if (rc == 0) {
		finish(s, &c);
	}
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; i < c.n_heads; i++)
		store_head_unref(c.heads[i]);
	free(c.heads);
	free(c.files);
	json_decref(c.line);
	return rc;
}

int store_checkpoint(struct store *s, bool whole, struct err *e)
{
	struct err ignored = ERR_INIT;

	THREAD_LOCKED(&s->saving);
	if (checkpoint(s, whole, e) < 0)
		return -1;
	if (has_grown(&s->catalogue))
		checkpoint(s, true, &ignored);
	/* A segment too many goes with the next. */
	store_journal_drop(&s->journal, s->saved_redo.segment, &ignored);
	return 0;
}
