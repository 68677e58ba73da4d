/*
 * capture_internal.h - what the files of capture share. capture.c chooses and puts together, capture_colo.c and
 * capture_background.c are the two sources of memory, capture_migration.c the parts of a migration that both need.
 */
#ifndef VMFERRY_SNAPSHOT_CAPTURE_INTERNAL_H
#define VMFERRY_SNAPSHOT_CAPTURE_INTERNAL_H

#include "snapshot/capture.h"
#include "snapshot/disk_points.h"
#include "snapshot/guest_watch.h"
#include "snapshot/pump.h"
#include "snapshot/ram_reader.h"
#include "snapshot/stage.h"

#include <pthread.h>

#define CAPTURE_MAX_DEVICE (64u << 20) /* device state */
#define CAPTURE_MAX_FILE (64u << 20)   /* NVRAM, TPM */

enum capture_phase { CAPTURE_NEW, CAPTURE_STARTED, CAPTURE_FAILED, CAPTURE_STOPPED };

struct capture_file {
	char name[64];
	struct buf data;
};

/* The VM is let go beside the reading: capture_background.c. */
struct capture_go {
	struct capture *c;
	pthread_t thread;
	bool started;
	int rc;
	struct err err;
};

struct capture {
	struct guest *g; /* fixed */
	uint64_t staging_bytes;
	bool quiesce;
	char *folder;
	void (*arm)(void *ctx, bool on, int64_t expect_ns);
	int (*hold)(void *ctx, int fd, bool read_on, struct err *e);
	void *arm_ctx;
	enum capture_mode asked;
	bool memory_only; /* ... and no disks alone in its place */

	pthread_mutex_t lock;
	bool aborted;              /* lock */
	struct guest_watch *watch; /* lock where another thread looks; NULL before start */
	struct disk_points *disks; /* the same */
	int sock;                  /* the same; our end of QEMU's stream, -1: none */

	/* capture's thread */
	enum capture_mode mode; /* changed under lock: capture_abort looks */
	char reason[400];
	enum capture_phase phase;
	bool armed;
	struct guest_info info;
	struct stage *stage;
	struct ram_reader *reader;
	struct ram_block blocks[RAM_READER_MAX_BLOCKS];
	size_t n_blocks;
	struct buf header, device;
	struct capture_file *files; /* as of the instant */
	size_t n_files;
	json_t *old_params, *old_caps; /* to be put back */
	bool migrating;                /* QEMU's migration is ours and was not ended yet */
	bool in_colo;                  /* ... and has come into COLO */

	bool frozen, thawing; /* the guest's file systems */
	pthread_t thawer;     /* while thawing */

	/* COLO */
	bool requested;       /* QEMU waits for the answer to a request */
	bool completed_early; /* QEMU ended the migration instead of going into COLO */
	struct pump *pump;    /* the first pass is under way: pages go there, else to the stage */
	const struct capture_sink *sink;
	uint64_t pages_read; /* in the first pass */
	int downtime_ms;
	int64_t relax_ns; /* when to allow a longer pause at its end */

	/* background */
	uint8_t secret[192];
	uint64_t **hashes;  /* per RAM block and page: of what was given last */
	bool impossible;    /* QEMU has said that it cannot */
	bool wait_for_page; /* the VM stands still until the first page comes */
	bool stopped;       /* by us, not by QEMU */
	struct capture_go go;

	bool last; /* the checkpoint under way is the last: the VM is not let go */
	bool held; /* it was not */

	int64_t paused_ns; /* when the last checkpoint was done with the VM; 0: none */
};

/* Tell the guardian, once per change. expect_ns as in capture.h. */
void capture_arm(struct capture *c, int64_t expect_ns);
void capture_disarm(struct capture *c);
int capture_check(struct capture *c, struct err *e);
/* RAM blocks and disks, as they are now. */
int capture_tell_volumes(struct capture *c, const struct capture_sink *sink, struct err *e);
/* NVRAM and TPM state, at the instant. */
int capture_read_files(struct capture *c, struct err *e);
/* The VM has to run by now; anything that we stopped is let go. Best effort, bounded. */
void capture_let_run(struct capture *c);
/* The instant is over and the VM runs: its file systems, if they were frozen, are thawed by a thread of their own, for
 * the guest's agent may need memory that is still being read. */
void capture_thaw(struct capture *c);
/* Whatever e says: if the VM is no more, that is why; -1, and e is ERR_REFUSED with ENOENT. */
int capture_ended(struct capture *c, struct err *e);
/* ERR_REFUSED with EAGAIN. */
int capture_not_now(struct err *e, const char *why);
/* The same of a guest that is not running. */
int capture_stands_still(enum guest_run run, struct err *e);

/* ---- capture_migration.c ---- */
/* Sets exactly these capabilities (two at most; NULL: none) and parameters (stolen), remembering how they were. */
int capture_migration_set_up(struct capture *c, const char *capability, json_t *params, struct err *e);
/* Our end in c->sock, with a reader on it; QEMU has the other. */
int capture_migration_open(struct capture *c, struct err *e);
int capture_migration_begin(struct capture *c, struct err *e);
/* The stream is closed, the migration over, capabilities and parameters as they were. Best effort, bounded. */
void capture_migration_end(struct capture *c);
/* Waits for QEMU to be done with its migration; out is its status. */
int capture_migration_wait(struct capture *c, int64_t deadline_ns, char *out, size_t size, struct err *e);
/* QEMU 7.2 takes a second migration (virsh save, virsh migrate) while it is in COLO, forgets the first, and then refuses the second: the state it is left
 * in has no way out. Such a VM runs, but neither migrates nor has its memory captured until it is started anew. Waits a few seconds for the state to
 * be another's that passes. */
bool capture_migration_stuck(struct guest *g);
/* When QEMU's stream ended or broke, or nobody is going to read it any more: was it an abort, or did QEMU say why? Ends the stream, improves e, returns -1. */
int capture_migration_why(struct capture *c, struct err *e);

/* ---- the sources ---- */
int capture_colo_possible(const struct guest_info *i, bool allow_tcg, char *why, size_t size); /* 0: yes */
int capture_colo_start(struct capture *c, const struct capture_sink *sink, struct err *e);
int capture_colo_take(struct capture *c, struct capture_point *out, struct err *e);
/* After a last one. */
int capture_colo_let_go(struct capture *c, struct err *e);
int capture_background_start(struct capture *c, const struct capture_sink *sink, struct err *e);
/* Stages; capture_take gives. */
int capture_background_take(struct capture *c, struct capture_point *out, struct err *e);
/* Nobody wants what is left of a snapshot that QEMU has begun: it is read to its end nevertheless. QEMU (7.2 and 10.0) takes the write protection of
 * the memory back when a background snapshot is complete, and never when it was cancelled or its stream broke: vCPUs and main loop then stop for good at
 * the first protected page that they write to. */
void capture_background_read_on(struct capture *c);
void capture_background_free(struct capture *c);

#endif
