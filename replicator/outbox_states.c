/* The outbox's second table, the latest state of things, and how far the forwarder has come in both. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/outbox_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void finalize_ptr(sqlite3_stmt **st)
{
	sqlite3_finalize(*st);
}
#define STMT_AUTO __attribute__((cleanup(finalize_ptr)))

static sqlite3_stmt *prepare(struct outbox *o, const char *sql, struct err *e)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(o->db, sql, -1, &st, NULL);
	if (rc != SQLITE_OK)
		outbox_db_error(o, rc, "cannot prepare", e);
	return st;
}

static int finish(struct outbox *o, sqlite3_stmt *st, struct err *e)
{
	int rc = sqlite3_step(st);
	return rc == SQLITE_DONE ? 0 : outbox_db_error(o, rc, "cannot write", e);
}

static int commit(struct outbox *o, int rc, struct err *e)
{
	if (rc == 0 && outbox_run(o, "COMMIT", e) == 0)
		return 0;
	sqlite3_exec(o->db, "ROLLBACK", NULL, NULL, NULL);
	return -1;
}

/* ---- states ---- */

/* What is there under that key. *same: it says what data says. */
static int look_up(struct outbox *o, const char *key, const char *data, bool *there, bool *known, bool *same,
		   struct err *e)
{
	STMT_AUTO sqlite3_stmt *st = prepare(o, "SELECT known, data FROM states WHERE key = ?", e);
	if (!st)
		return -1;
	sqlite3_bind_text(st, 1, key, -1, SQLITE_TRANSIENT);
	int rc = sqlite3_step(st);
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		return outbox_db_error(o, rc, "cannot read", e);
	*there = rc == SQLITE_ROW;
	if (*there) {
		const void *old = sqlite3_column_text(st, 1);
		*known = sqlite3_column_int(st, 0) != 0;
		*same = old && data ? strcmp(old, data) == 0 : !old && !data;
	}
	return 0;
}

static int forget(struct outbox *o, const char *key, struct err *e)
{
	STMT_AUTO sqlite3_stmt *st = prepare(o, "DELETE FROM states WHERE key = ?", e);
	if (!st)
		return -1;
	sqlite3_bind_text(st, 1, key, -1, SQLITE_TRANSIENT);
	return finish(o, st, e);
}

static int replace(struct outbox *o, const char *key, const char *data, bool known, struct err *e)
{
	char id[UUID_STR_LEN];
	STMT_AUTO sqlite3_stmt *st =
		prepare(o, "INSERT OR REPLACE INTO states(key, id, time_ns, data, known) VALUES(?,?,?,?,?)", e);
	if (!st)
		return -1;
	outbox_new_id(id);
	sqlite3_bind_text(st, 1, key, -1, SQLITE_TRANSIENT);
	sqlite3_bind_text(st, 2, id, -1, SQLITE_TRANSIENT);
	sqlite3_bind_int64(st, 3, clock_wall_ns());
	if (data)
		sqlite3_bind_text(st, 4, data, -1, SQLITE_TRANSIENT);
	sqlite3_bind_int(st, 5, known);
	return finish(o, st, e);
}

/* Within a transaction. *last: the number of the change, if there is one. */
static int put_one(struct outbox *o, const char *key, const char *data, uint64_t *last, struct err *e)
{
	bool there = false, known = false, same = false;
	if (look_up(o, key, data, &there, &known, &same, e) < 0)
		return -1;
	if (same || (!there && !data))
		return 0;
	if (!data && !known)
		return forget(o, key, e);
	if (replace(o, key, data, known, e) < 0)
		return -1;
	*last = (uint64_t)sqlite3_last_insert_rowid(o->db);
	return 0;
}

static char *checked_text(const struct outbox_put *p, struct err *e)
{
	size_t len = strlen(p->key);
	if (len == 0 || len > OUTBOX_MAX_KEY) {
		err_set(e, ERR_PROTOCOL, "state: a key of %zu bytes (allowed: 1 to %u)", len, OUTBOX_MAX_KEY);
		return NULL;
	}
	char *text = p->data ? json_dumps(p->data, JSON_COMPACT) : mem_strdup("");
	if (!text || (p->data && !json_is_object(p->data)))
		err_set(e, ERR_PROTOCOL, "state %s: is not a JSON object", p->key);
	else if (strlen(text) > OUTBOX_MAX_DATA)
		err_set(e, ERR_PROTOCOL, "state %s: %zu bytes of data are too many (at most %u)", p->key, strlen(text),
			OUTBOX_MAX_DATA);
	else
		return text;
	free(text);
	return NULL;
}

static int put_locked(struct outbox *o, const struct outbox_put *p, char *const *text, size_t n, struct err *e)
{
	uint64_t last = 0;
	int rc = 0;

	if (outbox_run(o, "BEGIN IMMEDIATE", e) < 0)
		return -1;
	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = put_one(o, p[i].key, p[i].data ? text[i] : NULL, &last, e);
	if (commit(o, rc, e) < 0)
		return -1;
	if (last > 0) {
		o->last_state = last;
		pthread_cond_broadcast(&o->appended);
	}
	return 0;
}

int outbox_put_states(struct outbox *o, const struct outbox_put *p, size_t n, struct err *e)
{
	char **text = mem_alloc_array(n, sizeof(char *));
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < n; i++)
		rc = (text[i] = checked_text(&p[i], e)) ? 0 : -1;
	if (rc == 0 && n > 0) {
		THREAD_LOCKED(&o->lock);
		rc = put_locked(o, p, text, n, e);
	}
	for (size_t i = 0; i < n; i++)
		free(text[i]);
	free(text);
	return rc;
}

int outbox_put_state(struct outbox *o, const char *key, const json_t *data, struct err *e)
{
	const struct outbox_put one = { .key = key, .data = data };
	return outbox_put_states(o, &one, 1, e);
}

/* A row taken out of the database, so that the reader is called without the lock. */
struct row {
	struct outbox_state st;
	char *key, *id;
	json_t *data;
};

static char *column_text(sqlite3_stmt *st, int i)
{
	const void *text = sqlite3_column_text(st, i);
	return mem_strdup(text ? text : "");
}

static void take_row(sqlite3_stmt *st, struct row *r)
{
	const void *data = sqlite3_column_text(st, 4);
	r->key = column_text(st, 1);
	r->id = column_text(st, 2);
	r->data = data ? json_loads(data, 0, NULL) : NULL;
	if (data && !r->data)
		r->data = json_object();
	r->st = (struct outbox_state){ .seq = (uint64_t)sqlite3_column_int64(st, 0),
				       .key = r->key,
				       .id = r->id,
				       .time_ns = sqlite3_column_int64(st, 3),
				       .data = r->data };
}

static int mark_known(struct outbox *o, uint64_t after, uint64_t last, struct err *e)
{
	STMT_AUTO sqlite3_stmt *st = prepare(o, "UPDATE states SET known = 1 WHERE seq > ? AND seq <= ? AND known = 0",
					     e);
	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, (sqlite3_int64)after);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)last);
	return finish(o, st, e);
}

static int take_rows(struct outbox *o, uint64_t after, unsigned max, struct row *rows, size_t *n, struct err *e)
{
	THREAD_LOCKED(&o->lock);
	STMT_AUTO sqlite3_stmt *st =
		prepare(o, "SELECT seq, key, id, time_ns, data FROM states WHERE seq > ? ORDER BY seq LIMIT ?", e);
	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, after > INT64_MAX ? INT64_MAX : (sqlite3_int64)after);
	sqlite3_bind_int64(st, 2, max);
	int rc = SQLITE_DONE;
	while (*n < max && (rc = sqlite3_step(st)) == SQLITE_ROW)
		take_row(st, &rows[(*n)++]);
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		return outbox_db_error(o, rc, "cannot read", e);
	sqlite3_reset(st);
	return *n ? mark_known(o, after, rows[*n - 1].st.seq, e) : 0;
}

int outbox_read_states(struct outbox *o, uint64_t after, unsigned max,
		       bool (*fn)(void *ctx, const struct outbox_state *st), void *ctx, struct err *e)
{
	if (max > OUTBOX_MAX_READ)
		max = OUTBOX_MAX_READ;
	struct row *rows = mem_alloc_array(max, sizeof(*rows));
	size_t n = 0;
	int given = take_rows(o, after, max, rows, &n, e);
	bool more = given == 0;
	for (size_t i = 0; i < n; i++) {
		if (more) {
			more = fn(ctx, &rows[i].st);
			given++;
		}
		free(rows[i].key);
		free(rows[i].id);
		json_decref(rows[i].data);
	}
	free(rows);
	return given;
}

uint64_t outbox_last_state(struct outbox *o)
{
	THREAD_LOCKED(&o->lock);
	return o->last_state;
}

int outbox_count_states(struct outbox *o, uint64_t after, uint64_t *n, struct err *e)
{
	char sql[100];
	int64_t count = 0;
	sqlite3_snprintf(sizeof(sql), sql, "SELECT count(*) FROM states WHERE seq > %lld", (long long)after);
	THREAD_LOCKED(&o->lock);
	if (outbox_query_number(o, sql, &count, e) < 0)
		return -1;
	*n = (uint64_t)count;
	return 0;
}

/* ---- positions ---- */

static int set_cursor(struct outbox *o, const char *name, uint64_t seq, const char *target, struct err *e)
{
	STMT_AUTO sqlite3_stmt *st = prepare(o, "INSERT OR REPLACE INTO cursors(name, seq, target) VALUES(?,?,?)", e);
	if (!st)
		return -1;
	sqlite3_bind_text(st, 1, name, -1, SQLITE_TRANSIENT);
	sqlite3_bind_int64(st, 2, (sqlite3_int64)seq);
	sqlite3_bind_text(st, 3, target, -1, SQLITE_TRANSIENT);
	return finish(o, st, e);
}

/* *seq and *same_target stay as they are if there is no cursor of that name. */
static int get_cursor(struct outbox *o, const char *name, const char *target, uint64_t *seq, bool *there,
		      bool *same_target, struct err *e)
{
	STMT_AUTO sqlite3_stmt *st = prepare(o, "SELECT seq, target FROM cursors WHERE name = ?", e);
	if (!st)
		return -1;
	sqlite3_bind_text(st, 1, name, -1, SQLITE_TRANSIENT);
	int rc = sqlite3_step(st);
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		return outbox_db_error(o, rc, "cannot read", e);
	*there = rc == SQLITE_ROW;
	if (*there) {
		const void *old = sqlite3_column_text(st, 1);
		*seq = (uint64_t)sqlite3_column_int64(st, 0);
		*same_target = old && strcmp(old, target) == 0;
	}
	return 0;
}

/* The number of the oldest event there is, or of the next if there is none. */
static int oldest(struct outbox *o, uint64_t *seq, struct err *e)
{
	int64_t n = 0;
	if (outbox_query_number(o, "SELECT coalesce(min(seq), 0) FROM events", &n, e) < 0)
		return -1;
	*seq = n ? (uint64_t)n : o->last + 1;
	return 0;
}

int outbox_get_position(struct outbox *o, const char *target, struct outbox_position *out, struct err *e)
{
	struct outbox_position pos = { 0 };
	bool there = false, states_there = false, same = false, ignored = false;
	THREAD_LOCKED(&o->lock);
	if (get_cursor(o, "events", "", &pos.events, &there, &ignored, e) < 0 ||
	    get_cursor(o, "states", target, &pos.states, &states_there, &same, e) < 0)
		return -1;
	if (!there) {
		uint64_t first = 0;
		if (oldest(o, &first, e) < 0 || set_cursor(o, "events", first - 1, "", e) < 0)
			return -1;
		pos.events = first - 1;
	}
	if (!states_there || !same) {
		pos.states = 0;
		if (set_cursor(o, "states", 0, target, e) < 0)
			return -1;
	}
	*out = pos;
	return 0;
}

static int advance(struct outbox *o, const char *name, uint64_t seq, struct err *e)
{
	STMT_AUTO sqlite3_stmt *st = prepare(o, "UPDATE cursors SET seq = max(seq, ?) WHERE name = ?", e);
	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, (sqlite3_int64)seq);
	sqlite3_bind_text(st, 2, name, -1, SQLITE_TRANSIENT);
	return finish(o, st, e);
}

static int forget_ends(struct outbox *o, uint64_t seq, struct err *e)
{
	STMT_AUTO sqlite3_stmt *st = prepare(o, "DELETE FROM states WHERE seq <= ? AND data IS NULL", e);
	if (!st)
		return -1;
	sqlite3_bind_int64(st, 1, (sqlite3_int64)seq);
	return finish(o, st, e);
}

int outbox_set_position(struct outbox *o, const struct outbox_position *pos, struct err *e)
{
	THREAD_LOCKED(&o->lock);
	if (outbox_run(o, "BEGIN IMMEDIATE", e) < 0)
		return -1;
	int rc = 0;
	if (advance(o, "events", pos->events, e) < 0 || advance(o, "states", pos->states, e) < 0 ||
	    forget_ends(o, pos->states, e) < 0)
		rc = -1;
	return commit(o, rc, e);
}

int64_t outbox_skip_trimmed(struct outbox *o, uint64_t after, uint64_t before, uint64_t *up_to, struct err *e)
{
	uint64_t first = 0;
	THREAD_LOCKED(&o->lock);
	if (oldest(o, &first, e) < 0)
		return -1;
	*up_to = after;
	if (first <= after + 1)
		return 0;
	/* Saying so is an event too, for which the oldest has to go if the spool is full. */
	uint64_t next = o->last + 1;
	if (next > o->keep && next - o->keep >= first)
		first = next - o->keep + 1;
	if (first > next)
		first = next;
	uint64_t n = first - 1 - after;
	char data[200];
	snprintf(data, sizeof(data),
		 "{\"count\":%" PRIu64 ",\"total\":%" PRIu64 ",\"first_seq\":%" PRIu64 ",\"last_seq\":%" PRIu64
		 ",\"reason\":\"the outbox was full\"}",
		 n, before + n, after + 1, first - 1);
	if (outbox_insert_locked(o, "events.dropped", NULL, data, e) < 0)
		return -1;
	pthread_cond_broadcast(&o->appended);
	*up_to = first - 1;
	return (int64_t)n;
}
