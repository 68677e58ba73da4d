#include "replicator/outbox.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/outbox_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OUTBOX_VERSION 2

int outbox_db_error(struct outbox *o, int rc, const char *what, struct err *e)
{
	int primary = rc & 0xff;
	enum err_class cls = primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB ? ERR_CORRUPT : ERR_SYS;
	err_set(e, cls, "events %s: %s: %s", o->path, what, o->db ? sqlite3_errmsg(o->db) : sqlite3_errstr(rc));
	if (cls == ERR_SYS && o->db)
		e->errnum = sqlite3_system_errno(o->db);
	if (primary == SQLITE_FULL)
		err_remedy(e, "free space on the file system of %s", o->path);
	else if (cls == ERR_CORRUPT)
		err_remedy(e,
			   "move the file away; the agent then starts a new one (older events are lost, nothing else)");
	return -1;
}

int outbox_run(struct outbox *o, const char *sql, struct err *e)
{
	int rc = sqlite3_exec(o->db, sql, NULL, NULL, NULL);
	return rc == SQLITE_OK ? 0 : outbox_db_error(o, rc, "cannot set up", e);
}

/* One statement that yields one integer. */
int outbox_query_number(struct outbox *o, const char *sql, int64_t *out, struct err *e)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(o->db, sql, -1, &st, NULL);
	if (rc == SQLITE_OK) {
		rc = sqlite3_step(st);
		if (rc == SQLITE_ROW) {
			*out = sqlite3_column_int64(st, 0);
			rc = SQLITE_OK;
		} else if (rc == SQLITE_DONE) {
			*out = 0;
			rc = SQLITE_OK;
		}
	}
	int result = rc == SQLITE_OK ? 0 : outbox_db_error(o, rc, "cannot read", e);
	sqlite3_finalize(st);
	return result;
}

static int set_up(struct outbox *o, struct err *e)
{
	int64_t version = 0, last = 0, application = 0;
	if (outbox_query_number(o, "PRAGMA user_version", &version, e) < 0 ||
	    outbox_query_number(o, "PRAGMA application_id", &application, e) < 0)
		return -1;
	int64_t tables = 0;
	if (outbox_query_number(o, "SELECT count(*) FROM sqlite_master", &tables, e) < 0)
		return -1;
	/* 0x766d6666 is "vmff": somebody else's database is not ours to write to. */
	if (tables > 0 && application != 0x766d6666)
		return err_set(e, ERR_CORRUPT, "events %s: is a database, but not one of vmferry's", o->path);
	if (version > OUTBOX_VERSION) {
		err_set(e, ERR_REFUSED, "events %s: was written by a newer vmferryd (format %lld, known is %d)",
			o->path, (long long)version, OUTBOX_VERSION);
		return err_remedy(e, "install that version again, or move the file away");
	}
	if (outbox_run(o,
		"PRAGMA journal_mode=WAL;"
		"PRAGMA synchronous=FULL;"
		"PRAGMA application_id=0x766d6666;"
		"BEGIN IMMEDIATE;"
		"CREATE TABLE IF NOT EXISTS events(seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
		" time_ns INTEGER NOT NULL, type TEXT NOT NULL, subject TEXT NOT NULL, data TEXT NOT NULL);"
		/* since version 2 */
		"CREATE TABLE IF NOT EXISTS states(seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,"
		" id TEXT NOT NULL, time_ns INTEGER NOT NULL, data TEXT, known INTEGER NOT NULL);"
		"CREATE TABLE IF NOT EXISTS cursors(name TEXT PRIMARY KEY, seq INTEGER NOT NULL, target TEXT NOT NULL);"
		"PRAGMA user_version=2;"
		"COMMIT;",
		e) < 0)
		return -1;
	/* AUTOINCREMENT keeps the highest number ever, also when all rows are gone. */
	if (outbox_query_number(o, "SELECT seq FROM sqlite_sequence WHERE name='events'", &last, e) < 0)
		return -1;
	o->last = (uint64_t)last;
	if (outbox_query_number(o, "SELECT seq FROM sqlite_sequence WHERE name='states'", &last, e) < 0)
		return -1;
	o->last_state = (uint64_t)last;
	static const char insert[] = "INSERT INTO events(id, time_ns, type, subject, data) VALUES(?,?,?,?,?)";
	static const char trim[] = "DELETE FROM events WHERE seq <= ?";
	static const char select[] =
		"SELECT seq, id, time_ns, type, subject, data FROM events WHERE seq > ? ORDER BY seq LIMIT ?";
	int rc = sqlite3_prepare_v2(o->db, insert, -1, &o->insert, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(o->db, trim, -1, &o->trim, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(o->db, select, -1, &o->select, NULL);
	return rc == SQLITE_OK ? 0 : outbox_db_error(o, rc, "cannot prepare", e);
}

struct outbox *outbox_open(const char *path, uint64_t keep, struct err *e)
{
	struct outbox *o = mem_alloc(sizeof(*o));
	o->path = mem_strdup(path);
	o->keep = keep ? keep : OUTBOX_DEFAULT_KEEP;
	pthread_mutex_init(&o->lock, NULL);
	thread_cond_init(&o->appended);
	/* SQLite would let everybody read it; what fails here fails there, with its reason. */
	const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	int rc = sqlite3_open_v2(path, &o->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc != SQLITE_OK) {
		outbox_db_error(o, rc, "cannot open", e);
		goto fail;
	}
	sqlite3_busy_timeout(o->db, 5000); /* someone may be looking with the sqlite3 tool */
	if (set_up(o, e) < 0)
		goto fail;
	return o;
fail:
	outbox_close(o);
	return NULL;
}

void outbox_close(struct outbox *o)
{
	if (!o)
		return;
	sqlite3_finalize(o->insert);
	sqlite3_finalize(o->trim);
	sqlite3_finalize(o->select);
	sqlite3_close(o->db);
	pthread_cond_destroy(&o->appended);
	pthread_mutex_destroy(&o->lock);
	free(o->path);
	free(o);
}

int outbox_set_aside(const char *path, char **moved, struct err *e)
{
	char *to = mem_printf("%s.broken-%lld", path, (long long)(clock_wall_ns() / NS_PER_S));
	if (rename(path, to) < 0) {
		err_sys(e, "cannot rename %s to %s", path, to);
		free(to);
		return -1;
	}
	static const char *const journals[] = { "-wal", "-shm" };
	for (size_t i = 0; i < 2; i++) {
		MEM_AUTO char *from_journal = mem_printf("%s%s", path, journals[i]);
		MEM_AUTO char *to_journal = mem_printf("%s%s", to, journals[i]);
		/* A journal left behind would be replayed into the new database. */
		if (rename(from_journal, to_journal) < 0 && errno != ENOENT) {
			err_sys(e, "cannot rename %s to %s", from_journal, to_journal);
			free(to);
			return -1;
		}
	}
	*moved = to;
	return 0;
}

void outbox_new_id(char id[UUID_STR_LEN])
{
	uuid_t uuid;
	uuid_generate_random(uuid);
	uuid_unparse_lower(uuid, id);
}

static int step(struct outbox *o, sqlite3_stmt *st, struct err *e)
{
	int rc = sqlite3_step(st);
	int result = rc == SQLITE_DONE ? 0 : outbox_db_error(o, rc, "cannot write", e);
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
	return result;
}

int outbox_insert_locked(struct outbox *o, const char *type, const char *subject, const char *data, struct err *e)
{
	char id[UUID_STR_LEN];
	outbox_new_id(id);
	sqlite3_bind_text(o->insert, 1, id, -1, SQLITE_TRANSIENT);
	sqlite3_bind_int64(o->insert, 2, clock_wall_ns());
	sqlite3_bind_text(o->insert, 3, type, -1, SQLITE_TRANSIENT);
	sqlite3_bind_text(o->insert, 4, subject ? subject : "", -1, SQLITE_TRANSIENT);
	sqlite3_bind_text(o->insert, 5, data, -1, SQLITE_TRANSIENT);
	if (outbox_run(o, "BEGIN IMMEDIATE", e) < 0)
		return -1;
	if (step(o, o->insert, e) < 0)
		goto undo;
	uint64_t seq = (uint64_t)sqlite3_last_insert_rowid(o->db);
	if (seq > o->keep) {
		sqlite3_bind_int64(o->trim, 1, (sqlite3_int64)(seq - o->keep));
		if (step(o, o->trim, e) < 0)
			goto undo;
	}
	if (outbox_run(o, "COMMIT", e) < 0)
		goto undo;
	o->last = seq;
	return 0;
undo:
	sqlite3_clear_bindings(o->insert);
	sqlite3_exec(o->db, "ROLLBACK", NULL, NULL, NULL);
	return -1;
}

int outbox_append(struct outbox *o, const char *type, const char *subject, const json_t *data, uint64_t *seq,
		  struct err *e)
{
	char *text = data ? json_dumps(data, JSON_COMPACT) : mem_strdup("{}");
	if (!text || (data && !json_is_object(data))) {
		free(text);
		return err_set(e, ERR_PROTOCOL, "event %s: its data is not a JSON object", type);
	}
	if (strlen(text) > OUTBOX_MAX_DATA) {
		err_set(e, ERR_PROTOCOL, "event %s: %zu bytes of data are too many (at most %u)", type, strlen(text),
			OUTBOX_MAX_DATA);
		free(text);
		return -1;
	}
	THREAD_LOCKED(&o->lock);
	int rc = outbox_insert_locked(o, type, subject, text, e);
	free(text);
	if (rc < 0)
		return -1;
	if (seq)
		*seq = o->last;
	pthread_cond_broadcast(&o->appended);
	return 0;
}

/* A row taken out of the database, so that the reader is called without the lock. */
struct row {
	struct outbox_event ev;
	char *id, *type, *subject;
	json_t *data;
};

static void row_fini(struct row *r)
{
	free(r->id);
	free(r->type);
	free(r->subject);
	json_decref(r->data);
}

static char *column_text(sqlite3_stmt *st, int i)
{
	const void *text = sqlite3_column_text(st, i);
	return mem_strdup(text ? text : "");
}

static int take_rows(struct outbox *o, uint64_t after, unsigned max, struct row *rows, size_t *n, struct err *e)
{
	THREAD_LOCKED(&o->lock);
	sqlite3_bind_int64(o->select, 1, after > INT64_MAX ? INT64_MAX : (sqlite3_int64)after);
	sqlite3_bind_int64(o->select, 2, max);
	int rc;
	while ((rc = sqlite3_step(o->select)) == SQLITE_ROW && *n < max) {
		struct row *r = &rows[(*n)++];
		r->id = column_text(o->select, 1);
		r->type = column_text(o->select, 3);
		r->subject = column_text(o->select, 4);
		const void *data = sqlite3_column_text(o->select, 5);
		r->data = json_loads(data ? data : "{}", 0, NULL);
		if (!r->data)
			r->data = json_object();
		r->ev = (struct outbox_event){ .seq = (uint64_t)sqlite3_column_int64(o->select, 0),
					       .id = r->id,
					       .time_ns = sqlite3_column_int64(o->select, 2),
					       .type = r->type,
					       .subject = r->subject,
					       .data = r->data };
	}
	int result = rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : outbox_db_error(o, rc, "cannot read", e);
	sqlite3_reset(o->select);
	return result;
}

int outbox_read(struct outbox *o, uint64_t after, unsigned max, bool (*fn)(void *ctx, const struct outbox_event *ev),
		void *ctx, struct err *e)
{
	if (max > OUTBOX_MAX_READ)
		max = OUTBOX_MAX_READ;
	if (max == 0)
		return 0;
	struct row *rows = mem_alloc_array(max, sizeof(*rows));
	size_t n = 0;
	int given = take_rows(o, after, max, rows, &n, e);
	if (given == 0) {
		bool more = true;
		for (size_t i = 0; i < n && more; i++) {
			more = fn(ctx, &rows[i].ev);
			given++;
		}
	}
	for (size_t i = 0; i < n; i++)
		row_fini(&rows[i]);
	free(rows);
	return given;
}

uint64_t outbox_last(struct outbox *o)
{
	THREAD_LOCKED(&o->lock);
	return o->last;
}

bool outbox_wait_either(struct outbox *o, uint64_t after, uint64_t after_state, int64_t deadline_ns)
{
	THREAD_LOCKED(&o->lock);
	uint64_t wakes = o->wakes;
	while (o->last <= after && o->last_state <= after_state && o->wakes == wakes)
		if (thread_cond_wait_until(&o->appended, &o->lock, deadline_ns) < 0)
			break;
	return o->last > after || o->last_state > after_state;
}

bool outbox_wait(struct outbox *o, uint64_t after, int64_t deadline_ns)
{
	return outbox_wait_either(o, after, UINT64_MAX, deadline_ns);
}

void outbox_wake(struct outbox *o)
{
	THREAD_LOCKED(&o->lock);
	o->wakes++;
	pthread_cond_broadcast(&o->appended);
}

json_t *outbox_event_json(const struct outbox_event *ev)
{
	char when[32];
	json_t *data = json_deep_copy(ev->data);
	return json_pack("{s:I, s:s, s:s, s:s, s:s, s:o}", "seq", (json_int_t)ev->seq, "id", ev->id, "time",
			 clock_format_wall(ev->time_ns, when, sizeof(when)), "type", ev->type, "subject", ev->subject,
			 "data", data ? data : json_object());
}
