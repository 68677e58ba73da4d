#include "snapshot/capture_internal.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/thread.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#define STAGING_BYTES (256u << 20)
/* While the VM stands still for COLO nothing can be given on: so much more than the budget is taken before the
 * checkpoint is given up. */
#define STAGING_HARD 4
#define WARM_BYTES (16u << 20)
#define SETTLE_NS (2 * NS_PER_S)

static const char *const names[] = { "auto", "colo", "background", "disk" };

const char *capture_mode_name(enum capture_mode m)
{
	return (size_t)m < sizeof(names) / sizeof(names[0]) ? names[m] : "unknown";
}

int capture_mode_from_name(const char *name, enum capture_mode *out)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(name, names[i]) == 0) {
			*out = (enum capture_mode)i;
			return 0;
		}
	}
	return -1;
}

/* ---- shared ---- */

void capture_arm(struct capture *c, int64_t expect_ns)
{
	if (c->armed)
		return;
	c->armed = true;
	if (c->arm)
		c->arm(c->arm_ctx, true, expect_ns);
}

void capture_disarm(struct capture *c)
{
	if (!c->armed)
		return;
	c->armed = false;
	if (c->arm)
		c->arm(c->arm_ctx, false, 0);
}

int capture_check(struct capture *c, struct err *e)
{
	THREAD_LOCKED(&c->lock);
	return c->aborted ? err_set(e, ERR_CANCELLED, "the capture was ended") : 0;
}

int capture_ended(struct capture *c, struct err *e)
{
	struct err ignored = ERR_INIT;
	enum guest_run run = GUEST_RUNNING;
	struct guest_seen seen = { 0 };
	if (c->watch)
		guest_watch_look(c->watch, &seen);
	if (!seen.gone && (c->g->ops->state(c->g->ctx, &run, &ignored) || run != GUEST_GONE))
		return 0;
	err_clear(e);
	err_set(e, ERR_REFUSED, "the VM has ended");
	e->errnum = ENOENT;
	return -1;
}

int capture_not_now(struct err *e, const char *why)
{
	err_set(e, ERR_REFUSED, "%s", why);
	e->errnum = EAGAIN;
	return -1;
}

int capture_stands_still(enum guest_run run, struct err *e)
{
	return capture_not_now(e, run == GUEST_CRASHED ? "the VM has crashed, and is kept as it is (on_crash)"
						       : "the VM is paused");
}

int capture_tell_volumes(struct capture *c, const struct capture_sink *sink, struct err *e)
{
	size_t n = c->n_blocks + disk_points_count(c->disks);
	MEM_AUTO struct capture_volume *v = mem_alloc_array(n, sizeof(*v));
	for (size_t i = 0; i < c->n_blocks; i++) {
		v[i].ram = true;
		v[i].size_bytes = c->blocks[i].bytes;
		memcpy(v[i].name, c->blocks[i].name, sizeof(v[i].name));
	}
	disk_points_volumes(c->disks, v + c->n_blocks);
	return sink->volumes(sink->ctx, v, n, e);
}

static void forget_files(struct capture *c)
{
	for (size_t i = 0; i < c->n_files; i++)
		buf_fini(&c->files[i].data);
	free(c->files);
	c->files = NULL;
	c->n_files = 0;
}

static int read_file(const char *path, struct buf *out, struct err *e)
{
	FD_AUTO int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, "open %s", path);
	for (;;) {
		ssize_t n = fd_read_some(fd, buf_reserve(out, 65536), 65536, e);
		if (n < 0)
			return -1;
		if (n == 0)
			return 0;
		out->len += (size_t)n;
		if (out->len > CAPTURE_MAX_FILE)
			return err_set(e, ERR_REFUSED, "%s is larger than %u MiB", path, CAPTURE_MAX_FILE >> 20);
	}
}

int capture_read_files(struct capture *c, struct err *e)
{
	forget_files(c);
	if (c->info.n_files == 0)
		return 0;
	c->files = mem_alloc_array(c->info.n_files, sizeof(*c->files));
	for (size_t i = 0; i < c->info.n_files; i++) {
		struct capture_file *f = &c->files[c->n_files++];
		snprintf(f->name, sizeof(f->name), "%s", c->info.files[i].kind);
		if (read_file(c->info.files[i].path, &f->data, e))
			return -1;
	}
	return 0;
}

void capture_let_run(struct capture *c)
{
	const struct timespec nap = { .tv_nsec = 10 * NS_PER_MS };
	int64_t deadline = clock_mono_ns() + SETTLE_NS;
	struct err ignored = ERR_INIT;
	enum guest_run run = GUEST_GONE;
	if (!c->armed)
		return;
	/* QEMU lets it go by itself where it can; what libvirt says lags a little behind. */
	while (c->g->ops->state(c->g->ctx, &run, &ignored) == 0 && run == GUEST_PAUSED && clock_mono_ns() < deadline) {
		if (clock_mono_ns() > deadline - SETTLE_NS + 100 * NS_PER_MS)
			(void)c->g->ops->resume(c->g->ctx, &ignored);
		(void)nanosleep(&nap, NULL);
	}
	capture_disarm(c);
}

/* ---- choice ---- */

static int choose(struct capture *c, const struct capture_opts *o, struct err *e)
{
	char why[200] = "";
	const bool stuck = o->mode != CAPTURE_DISK && capture_migration_stuck(c->g);
	const bool colo = !stuck && !(o->no_colo && o->mode == CAPTURE_AUTO) &&
			  capture_colo_possible(&c->info, o->allow_tcg_colo, why, sizeof(why)) == 0;
	c->mode = o->mode;
	if (stuck)
		snprintf(why, sizeof(why),
			 "a migration or save of the VM during COLO, not vmferry's, has left QEMU unable to migrate "
			 "until "
			 "the VM is started anew");
	switch (o->mode) {
	case CAPTURE_COLO:
		if (!colo)
			return err_set(e, ERR_REFUSED, "memory cannot be captured with COLO: %s", why);
		snprintf(c->reason, sizeof(c->reason),
			 "COLO, as asked for: only memory that was written is read, from KVM's dirty log");
		return 0;
	case CAPTURE_BACKGROUND:
		if (stuck)
			return err_set(e, ERR_REFUSED, "memory cannot be captured: %s", why);
		if (c->info.lock_manager)
			return err_set(e, ERR_REFUSED,
				       "memory cannot be captured: a lock manager would give up the disks' leases at "
				       "every checkpoint");
		snprintf(c->reason, sizeof(c->reason),
			 "background snapshots, as asked for: all memory is read each time");
		return 0;
	case CAPTURE_DISK:
		snprintf(c->reason, sizeof(c->reason),
			 "disks alone, as asked for: the VM is never paused, and would boot from a point");
		return 0;
	case CAPTURE_AUTO:
	default:
		break;
	}
	if (o->memory && (stuck || c->info.lock_manager))
		return err_set(e, ERR_REFUSED, "memory cannot be captured: %s", why);
	if (colo) {
		c->mode = CAPTURE_COLO;
		snprintf(c->reason, sizeof(c->reason),
			 "COLO: only memory that was written is read, from KVM's dirty log");
	} else if (stuck || c->info.lock_manager) {
		c->mode = CAPTURE_DISK;
		snprintf(c->reason, sizeof(c->reason), "disks alone: %s", why);
	} else {
		c->mode = CAPTURE_BACKGROUND;
		snprintf(c->reason, sizeof(c->reason), "background snapshots, all memory is read each time%s%s",
			 why[0] ? ": " : "", why);
	}
	return 0;
}

int capture_possible(const struct guest_info *info, enum capture_mode mode, bool memory, struct err *e)
{
	char why[200] = "";

	if ((mode == CAPTURE_COLO && capture_colo_possible(info, false, why, sizeof(why))) ||
	    (info->lock_manager && (mode == CAPTURE_BACKGROUND || (mode == CAPTURE_AUTO && memory)) &&
	     capture_colo_possible(info, true, why, sizeof(why)))) {
		err_set(e, ERR_REFUSED, "memory cannot be captured%s: %s", mode == CAPTURE_COLO ? " with COLO" : "",
			why);
		return err_remedy(
			e, "with --mode auto it is replicated in the way that is possible, and status says which");
	}
	size_t disks = 0;
	for (size_t i = 0; i < info->n_disks; i++)
		disks += !info->disks[i].readonly;
	if (mode == CAPTURE_DISK && disks == 0)
		return err_set(e, ERR_REFUSED,
			       "it has no disk that could be replicated, and without its memory nothing is left");
	return 0;
}

struct capture *capture_new(struct guest *g, const struct capture_opts *opts, struct err *e)
{
	struct capture *c = mem_alloc(sizeof(*c));
	c->g = g;
	c->sock = -1;
	c->asked = opts->mode;
	c->memory_only = opts->memory;
	c->staging_bytes = opts->staging_bytes ? opts->staging_bytes : STAGING_BYTES;
	c->quiesce = opts->quiesce;
	c->folder = mem_strdup(opts->folder ? opts->folder : "/var/tmp");
	c->arm = opts->arm;
	c->hold = opts->hold;
	c->arm_ctx = opts->ctx;
	pthread_mutex_init(&c->lock, NULL);
	if (g->ops->info(g->ctx, &c->info, e) || choose(c, opts, e)) {
		capture_free(c);
		return NULL;
	}
	return c;
}

enum capture_mode capture_chosen(const struct capture *c)
{
	return c->mode;
}

const char *capture_reason(const struct capture *c)
{
	return c->reason;
}

/* ---- life ---- */

/* Our own pause of a moment ago may not have been seen to end yet. */
static bool recently_paused(const struct capture *c)
{
	return c->paused_ns && clock_mono_ns() - c->paused_ns < SETTLE_NS;
}

static void pause_again(struct capture *c)
{
	const struct timespec nap = { .tv_nsec = 5 * NS_PER_MS };
	int64_t deadline = clock_mono_ns() + SETTLE_NS;
	struct err ignored = ERR_INIT;
	enum guest_run run;
	/* libvirt may not have seen yet that QEMU has started it. */
	while (clock_mono_ns() < deadline) {
		if (c->g->ops->state(c->g->ctx, &run, &ignored) == 0 && run != GUEST_PAUSED) {
			(void)c->g->ops->pause(c->g->ctx, &ignored);
			return;
		}
		(void)nanosleep(&nap, NULL);
	}
}

/* Nothing of us is left in QEMU, and the VM is as its user wants it. The capture ends here. */
static void end(struct capture *c, enum capture_phase phase)
{
	struct err ignored = ERR_INIT;
	enum guest_run run = GUEST_RUNNING;
	if (c->held && c->mode == CAPTURE_DISK)
		(void)c->g->ops->resume(c->g->ctx, &ignored);
	/* Whoever leaves COLO starts the VM: one that its user has paused is paused again. */
	bool keep_paused = c->phase == CAPTURE_STARTED && c->migrating && !c->armed && !c->held &&
			   c->g->ops->state(c->g->ctx, &run, &ignored) == 0 &&
			   (run == GUEST_PAUSED || run == GUEST_CRASHED) && !recently_paused(c);
	capture_migration_end(c);
	capture_let_run(c);
	if (keep_paused)
		pause_again(c);
	pthread_mutex_lock(&c->lock);
	struct guest_watch *watch = c->watch;
	struct disk_points *disks = c->disks;
	c->watch = NULL;
	c->disks = NULL;
	pthread_mutex_unlock(&c->lock);
	disk_points_free(disks);
	guest_watch_free(watch);
	ram_reader_free(c->reader);
	c->reader = NULL;
	c->phase = phase;
}

static int open_parts(struct capture *c, struct err *e)
{
	struct guest_watch *watch = guest_watch_new(c->g, e);
	if (!watch)
		return -1;
	struct disk_points *disks = disk_points_new(c->g, &c->info, c->folder);
	pthread_mutex_lock(&c->lock);
	c->watch = watch;
	c->disks = disks;
	bool aborted = c->aborted;
	pthread_mutex_unlock(&c->lock);
	if (aborted)
		return err_set(e, ERR_CANCELLED, "the capture was ended");
	return 0;
}

static void change_mode(struct capture *c, enum capture_mode mode, const char *way, struct err *why)
{
	capture_migration_end(c);
	capture_let_run(c);
	pthread_mutex_lock(&c->lock);
	c->mode = mode;
	pthread_mutex_unlock(&c->lock);
	snprintf(c->reason, sizeof(c->reason), "%s: %.160s%s%.100s", way, why->text, why->remedy[0] ? "; " : "",
		 why->remedy);
	err_clear(why);
}

static int start_memory(struct capture *c, const struct capture_sink *sink, struct err *e)
{
	if (c->mode == CAPTURE_COLO) {
		c->stage = stage_new(c->staging_bytes, c->staging_bytes * STAGING_HARD, NULL);
		stage_warm(c->stage, WARM_BYTES);
		int rc = capture_colo_start(c, sink, e);
		if (rc == 0 || !c->completed_early || c->asked != CAPTURE_AUTO)
			return rc;
		change_mode(c, CAPTURE_BACKGROUND, "background snapshots, all memory is read each time", e);
	}
	int rc = capture_background_start(c, sink, e);
	if (rc == 0 || !c->impossible || c->asked != CAPTURE_AUTO || c->memory_only || disk_points_count(c->disks) == 0)
		return rc;
	change_mode(c, CAPTURE_DISK, "disks alone", e);
	return 0;
}

int capture_start(struct capture *c, const struct capture_sink *sink, struct err *e)
{
	if (c->phase != CAPTURE_NEW)
		return err_set(e, ERR_REFUSED, "the capture has been started before");
	if (capture_check(c, e))
		return -1;
	enum guest_run run;
	if (c->g->ops->state(c->g->ctx, &run, e))
		return -1;
	if (run == GUEST_GONE)
		return err_set(e, ERR_REFUSED, "the VM does not run");
	/* COLO would start it. */
	if (run != GUEST_RUNNING && c->mode != CAPTURE_DISK)
		return capture_stands_still(run, e);
	if (capture_clean_up(c->g, e) || open_parts(c, e) || (c->mode != CAPTURE_DISK && start_memory(c, sink, e))) {
		if (capture_ended(c, e) == 0)
			err_wrap(e, "first pass (%s)", capture_mode_name(c->mode));
		end(c, CAPTURE_FAILED);
		return -1;
	}
	c->phase = CAPTURE_STARTED;
	return 0;
}

/* What was plugged in or out meanwhile. */
static int look_again(struct capture *c, struct err *e)
{
	struct guest_info now = { 0 };
	if (c->g->ops->info(c->g->ctx, &now, e))
		return -1;
	guest_info_fini(&c->info);
	c->info = now;
	if (!disk_points_same(c->disks, &c->info))
		return err_set(e, ERR_REFUSED, "the VM's disks have changed: what they hold is compared anew");
	return 0;
}

/* Not while the user has the VM paused. */
static int may_pause(struct capture *c, struct err *e)
{
	int64_t deadline = clock_mono_ns() + SETTLE_NS;
	struct guest_seen seen;
	enum guest_run run;
	for (;;) {
		guest_watch_look(c->watch, &seen);
		if (c->g->ops->state(c->g->ctx, &run, e) || guest_watch_check(c->watch, e))
			return -1;
		if (capture_ended(c, e))
			return -1;
		/* An event may have been lost with libvirtd: libvirt's word counts, once it has had the time. */
		if (run == GUEST_RUNNING && (!seen.stopped || !recently_paused(c)))
			return 0;
		if (!recently_paused(c) || clock_mono_ns() >= deadline)
			return capture_stands_still(run, e);
		guest_watch_wait(c->watch, seen.events, clock_mono_ns() + 10 * NS_PER_MS, &seen);
	}
}

static int take_instant(struct capture *c, struct capture_point *p, struct err *e)
{
	if (c->mode == CAPTURE_DISK) {
		p->instant_ns = clock_wall_ns();
		p->instant_mono_ns = clock_mono_ns();
		return disk_points_instant(c->disks, e) || capture_read_files(c, e) ? -1 : 0;
	}
	int rc = c->mode == CAPTURE_COLO ? capture_colo_take(c, p, e) : capture_background_take(c, p, e);
	c->paused_ns = clock_mono_ns();
	return rc;
}

static void *thaw(void *arg)
{
	struct capture *c = arg;
	struct err ignored = ERR_INIT;
	(void)c->g->ops->freeze(c->g->ctx, false, &ignored);
	return NULL;
}

void capture_thaw(struct capture *c)
{
	struct err ignored = ERR_INIT;
	if (!c->frozen)
		return;
	c->frozen = false;
	c->thawing = thread_start(&c->thawer, "capture-thaw", thaw, c, &ignored) == 0;
	if (!c->thawing)
		(void)thaw(c);
}

static int frozen_instant(struct capture *c, struct capture_point *p, struct err *e)
{
	struct err ignored = ERR_INIT;
	/* Not of a last one: its VM stands still, and would not thaw. */
	c->frozen = c->quiesce && !c->last && c->info.agent && c->g->ops->freeze(c->g->ctx, true, &ignored) == 0;
	p->quiesced = c->frozen;
	int rc = take_instant(c, p, e);
	if (rc && c->frozen && c->armed) {
		/* It must run to thaw. */
		capture_migration_end(c);
		capture_let_run(c);
	}
	capture_thaw(c);
	if (c->thawing)
		pthread_join(c->thawer, NULL);
	c->thawing = false;
	return rc;
}

static int give(struct capture *c, const struct capture_sink *sink, struct capture_point *p, struct err *e)
{
	if (capture_tell_volumes(c, sink, e))
		return -1;
	if (p->has_memory) {
		p->dirty_bytes = stage_bytes(c->stage);
		if (stage_give(c->stage, sink, e))
			return -1;
		stage_reset(c->stage);
	}
	if (disk_points_read(c->disks, sink, (uint32_t)c->n_blocks, &p->dirty_bytes, e))
		return -1;
	if (p->has_memory && (sink->file(sink->ctx, "header", c->header.data, c->header.len, e) ||
			      sink->file(sink->ctx, "device", c->device.data, c->device.len, e)))
		return -1;
	if (c->info.xml && sink->file(sink->ctx, "xml", c->info.xml, strlen(c->info.xml), e))
		return -1;
	for (size_t i = 0; i < c->n_files; i++)
		if (sink->file(sink->ctx, c->files[i].name, c->files[i].data.data, c->files[i].data.len, e))
			return -1;
	return 0;
}

static int take(struct capture *c, const struct capture_sink *sink, struct capture_point *p, struct err *e)
{
	p->has_memory = c->mode != CAPTURE_DISK;
	if (capture_check(c, e) || (p->has_memory && may_pause(c, e)) || disk_points_check_jobs(c->disks, e) ||
	    look_again(c, e) || disk_points_prepare(c->disks, e) || frozen_instant(c, p, e))
		return -1;
	return give(c, sink, p, e);
}

int capture_take(struct capture *c, const struct capture_sink *sink, struct capture_point *out, struct err *e)
{
	struct capture_point p = { 0 };
	if (c->phase != CAPTURE_STARTED)
		return err_set(e, ERR_REFUSED, "the capture is over: start anew");
	int rc = take(c, sink, &p, e);
	disk_points_release(c->disks);
	forget_files(c);
	if (rc == 0) {
		*out = p;
		return 0;
	}
	if (e->cls == ERR_REFUSED && (e->errnum == EAGAIN || e->errnum == EBUSY))
		return -1;
	if (capture_check(c, e) == 0 && capture_ended(c, e) == 0)
		err_wrap(e, "checkpoint (%s)", capture_mode_name(c->mode));
	end(c, CAPTURE_FAILED);
	return -1;
}

int capture_take_last(struct capture *c, const struct capture_sink *sink, struct capture_point *out, struct err *e)
{
	if (c->mode == CAPTURE_BACKGROUND)
		return err_set(e, ERR_REFUSED, "background snapshots end with a VM that runs");
	if (c->mode == CAPTURE_DISK && c->g->ops->pause(c->g->ctx, e))
		return -1;
	c->last = true;
	int rc = capture_take(c, sink, out, e);
	c->last = false;
	if (c->mode == CAPTURE_DISK) {
		struct err ignored = ERR_INIT;
		c->held = rc == 0;
		if (rc)
			(void)c->g->ops->resume(c->g->ctx, &ignored);
	}
	return rc;
}

int capture_let_go(struct capture *c, struct err *e)
{
	if (!c->held)
		return 0;
	c->held = false;
	if ((c->mode == CAPTURE_COLO ? capture_colo_let_go(c, e) : c->g->ops->resume(c->g->ctx, e)) < 0)
		return -1; /* still armed */
	capture_disarm(c);
	return 0;
}

void capture_leave(struct capture *c)
{
	assert(c->held);
	/* QEMU waits for our answer, and goes on doing so when the socket is closed. */
	c->held = false;
	c->migrating = false;
	capture_disarm(c);
}

int capture_stop(struct capture *c, struct err *e)
{
	(void)e;
	if (c->phase == CAPTURE_STARTED)
		end(c, CAPTURE_STOPPED);
	return 0;
}

void capture_abort(struct capture *c)
{
	THREAD_LOCKED(&c->lock);
	c->aborted = true;
	if (c->watch)
		guest_watch_abort(c->watch);
	if (c->disks)
		disk_points_abort(c->disks);
	/* A background snapshot's stream is read to its end: capture_background_read_on. */
	if (c->sock >= 0 && c->mode != CAPTURE_BACKGROUND)
		(void)shutdown(c->sock, SHUT_RDWR);
}

void capture_free(struct capture *c)
{
	if (!c)
		return;
	if (c->phase == CAPTURE_STARTED)
		end(c, CAPTURE_STOPPED);
	capture_background_free(c);
	stage_free(c->stage);
	forget_files(c);
	guest_info_fini(&c->info);
	buf_fini(&c->header);
	buf_fini(&c->device);
	json_decref(c->old_caps);
	json_decref(c->old_params);
	pthread_mutex_destroy(&c->lock);
	free(c->folder);
	free(c);
}
