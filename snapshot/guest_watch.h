/*
 * guest_watch.h - listens to a guest's QEMU on behalf of a capture: is it running, how does its migration stand; and
 * waits for that. Also the few QMP helpers that all of capture shares.
 *
 * All calls from any thread.
 */
#ifndef VMFERRY_SNAPSHOT_GUEST_WATCH_H
#define VMFERRY_SNAPSHOT_GUEST_WATCH_H

#include "base/err.h"
#include "snapshot/guest.h"

#include <stdbool.h>
#include <stdint.h>

struct guest_watch;

struct guest_seen {
	unsigned events; /* so far, of all kinds */
	unsigned stops, resumes;
	bool stopped;    /* the last of STOP and RESUME was a STOP */
	bool gone;       /* SHUTDOWN */
	int64_t stop_ns; /* monotonic, of the last STOP and RESUME as they came in; 0: none */
	int64_t resume_ns;
	char migration[32]; /* status of the last MIGRATION event since guest_watch_forget; "" before one */
	bool aborted;
};

/* Listens from here on. */
struct guest_watch *guest_watch_new(struct guest *g, struct err *e);
void guest_watch_free(struct guest_watch *w);
void guest_watch_look(struct guest_watch *w, struct guest_seen *out);
/* A new migration begins: forgets the status of the last. */
void guest_watch_forget(struct guest_watch *w);
/* fn is called when the VM stops, from the thread of events: it must not block, nor call back. NULL: no longer. */
void guest_watch_on_stop(struct guest_watch *w, void (*fn)(void *arg), void *arg);
/* Until there are more events than `events`, it was aborted, or the monotonic deadline has come. Fills *out. */
void guest_watch_wait(struct guest_watch *w, unsigned events, int64_t deadline_ns, struct guest_seen *out);
void guest_watch_abort(struct guest_watch *w);
/* 0, or -1 with ERR_CANCELLED once aborted. */
int guest_watch_check(struct guest_watch *w, struct err *e);

/* One QMP command. Steals args (NULL: none); result may be NULL. */
int guest_watch_qmp(struct guest *g, const char *command, json_t *args, json_t **result, struct err *e);
/* The same, and nobody cares how it went. */
void guest_watch_try(struct guest *g, const char *command, json_t *args);
/* query-migrate's status into out: "none" if QEMU has never migrated. */
int guest_watch_migration(struct guest *g, char *out, size_t size, struct err *e);

#endif
