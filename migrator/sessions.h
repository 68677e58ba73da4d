/*
 * sessions.h - the journal of migrations under way: one small JSON file each, durable before the first step that would need undoing and
 * removed after the last. What is found at start was left by an agent that died, and is put in order by recover.c.
 *
 * state_dir/sessions/SESSION.json:
 *	{"session","direction":"out"|"in","uuid","name","peer","started": wall ns, "was":"running"|"paused"|"shutoff",
 *	 "dir": folder of its sockets, "images":[paths this host created for it], "phase": text}
 */
#ifndef VMFERRY_MIGRATOR_SESSIONS_H
#define VMFERRY_MIGRATOR_SESSIONS_H

#include "base/err.h"

#include <jansson.h>

#define SESSION_ID_LEN 33 /* 32 hex digits and NUL */

/* A fresh random id. */
int session_new_id(char out[SESSION_ID_LEN], struct err *e);
/* 32 lower-case hex digits and nothing else: safe as a file name. */
int session_check_id(const char *id, struct err *e);

int sessions_save(const char *state_dir, const json_t *record, struct err *e);
int sessions_remove(const char *state_dir, const char *session, struct err *e);
/* All records, as an array (new reference); files that do not parse are skipped and logged. */
json_t *sessions_load(const char *state_dir, struct err *e);

/* The folder run_dir/SESSION, mode 0770, group `group` if not NULL. */
int session_make_dir(const char *run_dir, const char *session, const char *group, char *out, size_t size, struct err *e);
/* Removes the folder and the sockets in it. A missing one is fine. */
void session_remove_dir(const char *dir);

#endif
