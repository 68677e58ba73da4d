/*
 * capture.h - the state of a running VM at one instant: memory, devices and disks. One interface; two sources of memory (COLO's stream from the
 * dirty log; background snapshots), or disks alone.
 *
 *	capture_new -> capture_start (first pass: everything, while the VM runs)
 *	            -> capture_take ... capture_take (a checkpoint each) -> capture_stop, capture_free
 *
 * The guest never waits for the network: a checkpoint is staged in memory (bounded by opts.staging_bytes) before QEMU is let go, and its disks are
 * read through NBD after that, at leisure. A capture is used by one thread; capture_abort may come from any.
 *
 * QEMU side: migration/colo.c, docs/COLO-FT.txt and qapi/migration.json of 7.2 and 10.0.
 */
#ifndef VMFERRY_SNAPSHOT_CAPTURE_H
#define VMFERRY_SNAPSHOT_CAPTURE_H

#include "base/buf.h"
#include "base/err.h"
#include "snapshot/guest.h"

#include <stdbool.h>
#include <stdint.h>

enum capture_mode {
	CAPTURE_AUTO,       /* COLO where it works, else background; disks alone where neither does */
	CAPTURE_COLO,       /* memory: only what was written since, from KVM's dirty log */
	CAPTURE_BACKGROUND, /* memory: all of it, each time */
	CAPTURE_DISK,       /* disks alone; the VM is never paused */
};
const char *capture_mode_name(enum capture_mode m); /* "auto", "colo", "background", "disk" */
int capture_mode_from_name(const char *name, enum capture_mode *out);

/* expect_ns of a guest that stands still while its last point is on its way: nothing else ends that pause. */
#define CAPTURE_HELD_NS INT64_C(300000000000)

struct capture_opts {
	enum capture_mode mode;
	uint64_t staging_bytes; /* memory that a checkpoint may take before it has been given on; 0: 256 MiB */
	bool memory;            /* of CAPTURE_AUTO: with memory, or not at all */
	bool no_colo;           /* of CAPTURE_AUTO: in another way than COLO */
	bool quiesce;           /* freeze file systems through the guest agent around the instant */
	bool allow_tcg_colo;    /* tests alone, with a preload that keeps QEMU alive */
	const char *folder; /* for overlays, a socket and what of a background snapshot goes beyond staging_bytes; on a file system with space and
	                           * O_TMPFILE; copied. NULL: /var/tmp */
	/* A guest is about to be paused (expect_ns: a pause of so long is nothing to worry about; 0: as the last ones were), and let go again: told to the
	 * guardian. May be NULL. Called from one thread at a time; at the end of COLO's first pass that is not the caller's, so that a sink which blocks
	 * does not delay it. */
	void (*arm)(void *ctx, bool on, int64_t expect_ns);
	/* Our end of QEMU's state stream (a socket, ours), before QEMU is told to write to it: for the guardian, which keeps a duplicate until the capture is
	 * over. read_on: a background snapshot's, to be read to its end and never broken. -1: the capture fails with that error. May be NULL. */
	int (*hold)(void *ctx, int fd, bool read_on, struct err *e);
	void *ctx;
};

/* What a capture is told into, in this order: volumes; pages, zeros and disk blocks in any order; files; then the call returns. -1 from a sink ends the call with that
 * error. Volume numbers count through RAM blocks first, then disks, in the order of `volumes`. */
struct capture_volume {
	bool ram;       /* else a disk */
	char name[256]; /* QEMU's idstr; the disk's target */
	uint64_t size_bytes;
};
struct capture_sink {
	int (*volumes)(void *ctx, const struct capture_volume *v, size_t n, struct err *e);
	int (*page)(void *ctx, uint32_t volume, uint64_t block, const uint8_t *data /* 4096 bytes */, struct err *e);
	int (*zero)(void *ctx, uint32_t volume, uint64_t block, uint64_t n_blocks, struct err *e);
	int (*file)(void *ctx, const char *name, const void *data, size_t len, struct err *e);
	void *ctx;
};

struct capture_point {
	int64_t instant_ns;      /* wall clock when the VM stood still (disk mode: when the bitmaps were swapped) */
	int64_t instant_mono_ns; /* the same on the monotonic clock */
	int64_t pause_ns;        /* how long the guest stood still; 0: not at all */
	uint64_t dirty_bytes;    /* of pages and blocks that QEMU says were written */
	bool has_memory;
	bool quiesced;
};

struct capture;
/* Of a guest like that, whatever its QEMU is about at the moment: ERR_REFUSED says why it cannot be captured in that way. memory: as in capture_opts. */
int capture_possible(const struct guest_info *info, enum capture_mode mode, bool memory, struct err *e);
/* Looks at the guest and decides; opens nothing yet. The guest is borrowed. ERR_REFUSED says why a mode cannot be. */
struct capture *capture_new(struct guest *g, const struct capture_opts *opts, struct err *e);
enum capture_mode capture_chosen(const struct capture *c);
const char *capture_reason(const struct capture *c); /* one sentence for people: what was chosen and why */

/* The first pass. Everything that is there goes to the sink while the VM runs: not an instant, only what the first checkpoint is built upon. For
 * COLO: RAM from the initial pre-copy pass; disks: nothing (dirty bitmaps begin here; the first take gives all that is allocated, and the
 * sink compares).
 *
 * What QEMU says only now: it does not do COLO, or no background snapshots (ERR_REFUSED with errnum ENOTSUP: for as long as this QEMU runs).
 * CAPTURE_AUTO goes on in the next way that it may, and capture_chosen and capture_reason say which. */
int capture_start(struct capture *c, const struct capture_sink *sink, struct err *e);
/* One checkpoint into the sink: pages written since the last one (COLO) or all (background); disks: blocks in grains written since the last one
 * (the first: all allocated); files: "header", "device" (memory modes), "xml", "nvram", ... *out is set on success.
 * ERR_CANCELLED after capture_abort; ERR_REFUSED with errnum ENOENT: the VM has ended. After any failure the VM runs (or is as the user left it) and the capture is only good for capture_free:
 * start anew. errnum EAGAIN with ERR_REFUSED: not now (the user has paused the VM; it is being reset), EBUSY: not now (somebody else's block job): the
 * capture stays good, try later. */
int capture_take(struct capture *c, const struct capture_sink *sink, struct capture_point *out, struct err *e);
/* The last checkpoint before the VM goes on elsewhere: as capture_take, but it is not let go. It stands still until capture_let_go, with which the
 * capture goes on; or for good, after capture_leave. capture_stop and capture_free without that let it run. COLO and disks alone: ERR_REFUSED for
 * background snapshots, which QEMU ends with a VM that runs. The guardian is told that the pause is over: only a stop of the agent ends it. */
int capture_take_last(struct capture *c, const struct capture_sink *sink, struct capture_point *out, struct err *e);
int capture_let_go(struct capture *c, struct err *e);
/* What is ours stays in QEMU as it is; nothing follows but capture_free. This QEMU is only good to be ended. */
void capture_leave(struct capture *c);
/* Leaves the VM running as if we had never been: COLO off, x-colo off, bitmaps, overlays and exports removed. A VM that its user has paused is paused
 * afterwards, though QEMU runs it for some milliseconds when it leaves COLO. */
int capture_stop(struct capture *c, struct err *e);
void capture_abort(struct capture *c); /* any thread: makes start and take fail soon */
/* capture_stop as well as it goes. NULL is fine. */
void capture_free(struct capture *c);

/* After a crash of the agent: removes what an earlier capture left in this VM (bitmaps "vmferry-*", overlays, exports, jobs; x-colo). The VM goes on
 * running; a VM that stands still in the middle of a COLO checkpoint is let go. */
int capture_clean_up(struct guest *g, struct err *e);

#endif
