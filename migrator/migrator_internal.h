/*
 * migrator_internal.h - what the files of migrator/ share: the migrator itself and its table of jobs.
 */
#ifndef VMFERRY_MIGRATOR_MIGRATOR_INTERNAL_H
#define VMFERRY_MIGRATOR_MIGRATOR_INTERNAL_H

#include "migrator/migrator.h"

#include <pthread.h>

struct virt;
struct incoming;
struct prime;
struct way;

#define MIGRATOR_UUID_LEN 37 /* with NUL */

/* One migration away from this host. */
struct job {
	struct job *next; /* migrator.lock */

	/* fixed after start */
	char uuid[MIGRATOR_UUID_LEN];
	char name[256];
	char host[256];
	int64_t start_ns;

	/* set once by anybody, read without the lock */
	volatile bool cancel;

	/* migrator.lock */
	json_t *progress; /* the last note */
};

struct migrator {
	/* fixed after start; strings are the migrator's own */
	struct migrator_opts opts;
	struct virt *virt;
	struct prime *prime;
	pthread_t janitor;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under lock */
	struct job *jobs;
	struct incoming *incoming;
	struct way *ways; /* ways.h */
	unsigned dialing; /* data links that are being made */
	bool stopping;
	struct migrator_tuning tuning; /* image_dir is the migrator's own */
};

/* As it is now; without image_dir, which is only for the lock's holder. */
struct migrator_tuning migrator_tuning_now(struct migrator *m);
/* A copy, or NULL for any folder. */
char *migrator_image_dir(struct migrator *m);

/* Refuses a second job of the same VM, and more than max_jobs. */
struct job *job_start(struct migrator *m, const char *uuid, const char *name, const char *host, struct err *e);
/* Remembers the note for `jobs` and passes it to ctl. Steals note. */
void job_note(struct migrator *m, struct job *j, const struct job_ctl *ctl, json_t *note);
void job_end(struct migrator *m, struct job *j);

#endif
