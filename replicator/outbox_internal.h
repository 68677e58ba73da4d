/*
 * outbox_internal.h - what outbox.c (events) and outbox_states.c (states, positions) share.
 */
#ifndef VMFERRY_REPLICATOR_OUTBOX_INTERNAL_H
#define VMFERRY_REPLICATOR_OUTBOX_INTERNAL_H

#include "replicator/outbox.h"

#include <pthread.h>
#include <sqlite3.h>
#include <uuid/uuid.h>

struct outbox {
	/* fixed after outbox_open */
	char *path;
	uint64_t keep;

	pthread_mutex_t lock;
	pthread_cond_t appended;
	/* under lock */
	sqlite3 *db;
	sqlite3_stmt *insert;
	sqlite3_stmt *trim;
	sqlite3_stmt *select;
	uint64_t last;
	uint64_t last_state;
	uint64_t wakes; /* calls of outbox_wake */
};

/* The error of an SQLite call, with its remedy. Returns -1. */
int outbox_db_error(struct outbox *o, int rc, const char *what, struct err *e);
int outbox_run(struct outbox *o, const char *sql, struct err *e);
/* One statement that yields one integer; 0 if it yields none. */
int outbox_query_number(struct outbox *o, const char *sql, int64_t *out, struct err *e);
/* Appends an event, in a transaction of its own; o->last is its number. */
int outbox_insert_locked(struct outbox *o, const char *type, const char *subject, const char *data, struct err *e);
void outbox_new_id(char id[UUID_STR_LEN]);

#endif
