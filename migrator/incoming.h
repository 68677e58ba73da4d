/*
 * incoming.h - migrations to this host: what the target's agent does between migrate.begin and migrate.end.
 *
 * A session belongs to the control connection that began it and ends with it. However it ends, what libvirt says decides: if the VM is
 * here, its images stay; if not, what the session made is removed.
 */
#ifndef VMFERRY_MIGRATOR_INCOMING_H
#define VMFERRY_MIGRATOR_INCOMING_H

#include "migrator/migrator_internal.h"

#include <sys/types.h>

/* Is a session for this VM open, or being wound up? */
bool incoming_has(struct migrator *m, const char *uuid);
/* Appends one object a session to an array, for `jobs`; migrator.lock is held. */
void incoming_list_locked(struct migrator *m, json_t *jobs);
/* Ends all sessions and waits; at shutdown. */
void incoming_stop_all(struct migrator *m);
/* A record of direction "in" whose agent died: 0 when in order and the record is gone, 1 when it must be tried again later. */
int incoming_recover(struct migrator *m, const json_t *record);

/* ---- incoming_offline.c: a VM that is shut off ---- */

/* What those calls may know of a session; valid during the call. */
struct incoming_view {
	struct migrator *m;
	const char *uuid, *dir;
	const json_t *images; /* made for it */
};

/* {path, format}: serves an image of the session on DIR/nbd.sock; *pid is the server. */
int incoming_export_start(const struct incoming_view *v, const json_t *args, pid_t *pid, struct err *e);
/* Ends the server, which flushes the image. */
void incoming_export_stop(const struct incoming_view *v, pid_t *pid);
/* {xml, files}: puts its files in place and defines the VM. *result: {written}. */
int incoming_define(const struct incoming_view *v, const json_t *args, json_t **result, struct err *e);

#endif
