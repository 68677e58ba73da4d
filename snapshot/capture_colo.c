/* Memory from COLO: QEMU keeps the dirty log running and hands over what was written, whenever it is asked. The
 * exchange is in QEMU-STREAM.md, "COLO". */
#include "snapshot/capture_internal.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/thread.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum {
	MSG_READY = 0,
	MSG_REQUEST = 1,
	MSG_REPLY = 2,
	MSG_VMSTATE_SEND = 3,
	MSG_VMSTATE_SIZE = 4,
	MSG_RECEIVED = 5,
	MSG_LOADED = 6,
};

/* Checkpoints come when they are asked for: this is milliseconds, 46 days. */
#define ON_DEMAND 4000000000
#define DOWNTIME_MS 100 /* the pause at which the first pass ends, at first; raised while it does not converge */
#define DOWNTIME_MAX_MS 1600
#define RELAX_NS (10 * NS_PER_S)
#define PUMP_BYTES (16u << 20)
#define FIRST_PASS_IDLE_NS (60 * NS_PER_S)
#define FIRST_PASS_END_NS (15 * NS_PER_S)
#define PAUSE_LIMIT_NS (15 * NS_PER_S) /* the guardian is sooner */
/* Beside the pause that QEMU was allowed: its devices' state, its change to COLO. */
#define INTO_COLO_NS (500 * NS_PER_MS)
#define ASK_AFTER_NS (20 * NS_PER_MS)
#define REQUEST_NS (10 * NS_PER_S)
#define KICK_AGAIN_NS (2 * NS_PER_S)

int capture_colo_possible(const struct guest_info *i, bool allow_tcg, char *why, size_t size)
{
	unsigned major = i->qemu_major, minor = i->qemu_minor, micro = i->qemu_micro;
	if (!i->kvm && !allow_tcg)
		snprintf(why, size, "the VM is emulated: QEMU's COLO needs KVM");
	else if (i->dirty_ring)
		snprintf(why, size, "KVM's dirty ring is on, with which QEMU's COLO would end the VM");
	else if (i->lock_manager)
		snprintf(why, size, "a lock manager would give up the disks' leases at every checkpoint");
	else if (major < 7 || (major == 7 && minor < 2))
		snprintf(why, size, "COLO of QEMU %u.%u was never tried", major, minor);
	else if ((major == 10 && minor == 0 && micro < 7) || (major == 10 && minor == 1))
		snprintf(why, size, "QEMU %u.%u.%u ends COLO with the VM stopped (fixed in 10.0.7)", major, minor,
			 micro);
	else
		return 0;
	return -1;
}

/* ---- pages ---- */

static int tell_volumes(void *ctx, struct err *e)
{
	struct capture *c = ctx;
	return capture_tell_volumes(c, c->sink, e);
}

static int on_blocks(void *ctx, const struct ram_block *b, size_t n, struct err *e)
{
	struct capture *c = ctx;
	memcpy(c->blocks, b, n * sizeof(*b));
	c->n_blocks = n;
	return pump_call(c->pump, tell_volumes, c, e);
}

/* By the thread that gives: QEMU may be ending the pass just now, and answers nobody then until what it writes has been read. */
static int set_downtime(void *ctx, struct err *e)
{
	const struct capture *c = ctx;
	int ms = __atomic_load_n(&c->downtime_ms, __ATOMIC_SEQ_CST);
	return guest_watch_qmp(c->g, "migrate-set-parameters", json_pack("{s:i}", "downtime-limit", ms), NULL, e);
}

/* A VM that writes faster than it is read, for the pause that we would like, gets a longer one. */
static int relax(struct capture *c, struct err *e)
{
	if (clock_mono_ns() < c->relax_ns)
		return 0;
	c->relax_ns = clock_mono_ns() + RELAX_NS;
	if (c->pages_read < 2 * c->info.memory_bytes / RAM_READER_PAGE)
		return 0;
	if (c->downtime_ms >= DOWNTIME_MAX_MS)
		return err_set(e, ERR_REFUSED, "the VM writes its memory faster than it can be read");
	__atomic_store_n(&c->downtime_ms, 2 * c->downtime_ms, __ATOMIC_SEQ_CST);
	return pump_call(c->pump, set_downtime, c, e);
}

static int on_page(void *ctx, uint32_t block, uint64_t page, const uint8_t *data, struct err *e)
{
	struct capture *c = ctx;
	if (!c->pump)
		return stage_page(c->stage, block, page, data, e);
	if (++c->pages_read % 16384 == 0 && !c->armed && relax(c, e))
		return -1;
	return pump_page(c->pump, block, page, data, e);
}

static int on_zero(void *ctx, uint32_t block, uint64_t page, struct err *e)
{
	struct capture *c = ctx;
	return c->pump ? pump_zero(c->pump, block, page, e) : stage_zero(c->stage, block, page, e);
}

/* The VM stands still from here on until we say that we are ready: nobody but memory may be waited for. */
static void on_end(void *ctx)
{
	struct capture *c = ctx;
	pump_lift(c->pump);
	capture_arm(c, 2 * c->downtime_ms * NS_PER_MS + INTO_COLO_NS);
	ram_reader_deadline(c->reader, clock_mono_ns() + FIRST_PASS_END_NS);
}

static struct ram_reader_sink page_sink(struct capture *c, bool first)
{
	return (struct ram_reader_sink){ first ? on_blocks : NULL, on_page, on_zero, first ? on_end : NULL, c };
}

static int say(struct capture *c, const uint32_t *messages, size_t n, struct err *e)
{
	uint8_t bytes[8];
	for (size_t i = 0; i < n; i++) {
		memset(bytes + 4 * i, 0, 3);
		bytes[4 * i + 3] = (uint8_t)messages[i];
	}
	return fd_write_full(c->sock, bytes, 4 * n, e);
}

static int expect(struct capture *c, uint32_t message, struct err *e)
{
	uint32_t got;
	if (ram_reader_be32(c->reader, &got, e))
		return -1;
	if (got != message)
		return err_set(e, ERR_CORRUPT, "QEMU's stream: COLO message %u in place of %u", got, message);
	return 0;
}

/* ---- first pass ---- */

static int completed_early(struct capture *c, struct err *e)
{
	c->completed_early = true;
	err_clear(e);
	return err_set(e, ERR_REFUSED, "this QEMU ended the migration in place of going into COLO");
}

/* QEMU closes the stream when it completes, and says so a moment later. */
static bool completes(struct capture *c)
{
	const int64_t until = clock_mono_ns() + NS_PER_S;
	struct guest_seen seen;
	char status[32];
	for (;;) {
		struct err ignored = ERR_INIT;
		guest_watch_look(c->watch, &seen);
		if (capture_check(c, &ignored) || clock_mono_ns() >= until ||
		    guest_watch_migration(c->g, status, sizeof(status), &ignored))
			return false;
		if (!strcmp(status, "completed"))
			return true;
		if (strcmp(status, "active") != 0 && strcmp(status, "device") != 0)
			return false;
		guest_watch_wait(c->watch, seen.events, clock_mono_ns() + 20 * NS_PER_MS, &seen);
	}
}

/* The device state that ends the first pass has no length, and nobody needs it: it has ended when QEMU is in COLO,
 * which it says elsewhere, and nothing more comes. */
static int skip_device_state(struct capture *c, struct err *e)
{
	int64_t deadline = clock_mono_ns() + FIRST_PASS_END_NS, ask_ns = clock_mono_ns() + ASK_AFTER_NS;
	struct guest_seen seen;
	char status[32] = "";
	for (;;) {
		guest_watch_look(c->watch, &seen);
		snprintf(status, sizeof(status), "%s", seen.migration);
		/* The event may have been lost with libvirtd. Not while anything comes in: QEMU writes it under its big lock. */
		if (strcmp(status, "colo") != 0 && clock_mono_ns() >= ask_ns) {
			if (guest_watch_migration(c->g, status, sizeof(status), e))
				return -1;
			ask_ns = clock_mono_ns() + 100 * NS_PER_MS;
		}
		if (!strcmp(status, "completed"))
			return completed_early(c, e);
		if (!strcmp(status, "failed") || !strcmp(status, "cancelled"))
			return err_set(e, ERR_LIBVIRT, "QEMU's migration has %s", status);
		bool colo = !strcmp(status, "colo");
		size_t got;
		if (ram_reader_discard(c->reader, colo ? 0 : NS_PER_MS, &got, e))
			return completes(c) ? completed_early(c, e) : -1;
		if (colo && got == 0)
			return 0;
		if (got > 0)
			ask_ns = clock_mono_ns() + ASK_AFTER_NS;
		if (guest_watch_check(c->watch, e))
			return -1;
		if (clock_mono_ns() >= deadline) {
			err_set(e, ERR_LIBVIRT, "QEMU does not go into COLO");
			return -1;
		}
	}
}

static int until_running(struct capture *c, int64_t deadline_ns, struct err *e)
{
	struct guest_seen seen;
	enum guest_run run;
	int64_t trust_ns = clock_mono_ns() + 2 * NS_PER_S; /* an event may have been lost with libvirtd */
	for (;;) {
		guest_watch_look(c->watch, &seen);
		if ((!seen.stopped || clock_mono_ns() > trust_ns) && c->g->ops->state(c->g->ctx, &run, e) == 0 &&
		    run == GUEST_RUNNING)
			return 0;
		if (guest_watch_check(c->watch, e))
			return -1;
		if (clock_mono_ns() >= deadline_ns)
			return err_set(e, ERR_LIBVIRT, "the VM does not run again");
		int64_t again = clock_mono_ns() + 20 * NS_PER_MS;
		guest_watch_wait(c->watch, seen.events, again, &seen);
	}
}

static int first_pass(struct capture *c, struct err *e)
{
	const struct ram_reader_sink pages = page_sink(c, true);
	enum ram_reader_stop stop;
	size_t len;
	ram_reader_idle(c->reader, FIRST_PASS_IDLE_NS);
	if (ram_reader_head(c->reader, e))
		return -1;
	const uint8_t *header = ram_reader_header(c->reader, &len);
	buf_reset(&c->header);
	buf_append(&c->header, header, len);
	if (ram_reader_sections(c->reader, &pages, &stop, e))
		return -1;
	if (stop != RAM_READER_DEVICE)
		return err_set(e, ERR_CORRUPT, "QEMU's stream: no device state after the RAM");
	capture_arm(c, 2 * c->downtime_ms * NS_PER_MS + INTO_COLO_NS);
	if (fault_point(FAULT_CAPTURE_PASS, e) || skip_device_state(c, e))
		return -1;
	return say(c, (const uint32_t[]){ MSG_READY }, 1, e);
}

/* The first pass is read by a thread of its own, so that a sink which blocks never holds up a VM that stands still. */
struct pass {
	struct capture *c;
	int rc;
	struct err err;
};

static void *read_pass(void *arg)
{
	struct pass *p = arg;
	struct capture *c = p->c;
	p->rc = first_pass(c, &p->err);
	if (p->rc)
		(void)capture_migration_why(c, &p->err);
	else
		p->rc = until_running(c, clock_mono_ns() + FIRST_PASS_END_NS, &p->err);
	if (p->rc == 0)
		capture_disarm(c);
	pump_close(c->pump);
	return NULL;
}

static void vm_stopped(void *arg)
{
	pump_lift(arg);
}

static int run_pass(struct capture *c, const struct capture_sink *sink, struct err *e)
{
	struct pass pass = { .c = c };
	pthread_t reader;
	if (thread_start(&reader, "capture-read", read_pass, &pass, e))
		return -1;
	int rc = pump_give(c->pump, sink, e);
	if (rc) {
		pump_abort(c->pump);
		(void)shutdown(c->sock, SHUT_RDWR);
	}
	pthread_join(reader, NULL);
	if (rc == 0 && pass.rc) {
		*e = pass.err;
		rc = -1;
	}
	c->in_colo = rc == 0;
	return rc;
}

int capture_colo_start(struct capture *c, const struct capture_sink *sink, struct err *e)
{
	c->completed_early = false;
	c->sink = sink;
	c->pages_read = 0;
	c->downtime_ms = DOWNTIME_MS;
	c->relax_ns = clock_mono_ns() + RELAX_NS;
	json_t *params = json_pack("{s:I,s:I,s:i}", "x-checkpoint-delay", (json_int_t)ON_DEMAND, "max-bandwidth",
				   (json_int_t)1 << 40, "downtime-limit", DOWNTIME_MS);
	if (capture_migration_set_up(c, "x-colo", params, e) || capture_migration_open(c, e) ||
	    capture_migration_begin(c, e))
		return -1;
	c->pump = pump_new(PUMP_BYTES);
	guest_watch_on_stop(c->watch, vm_stopped, c->pump);
	int rc = run_pass(c, sink, e);
	guest_watch_on_stop(c->watch, NULL, NULL);
	pump_free(c->pump);
	c->pump = NULL;
	c->sink = NULL;
	return rc;
}

/* ---- a checkpoint ---- */

static int kick(struct capture *c, struct err *e)
{
	return guest_watch_qmp(c->g, "migrate-set-parameters",
			       json_pack("{s:I}", "x-checkpoint-delay", (json_int_t)ON_DEMAND), NULL, e);
}

/* Somebody has begun another migration, which ends ours (capture_migration_stuck). Or the event that said "colo" was lost with libvirtd. */
static int still_ours(struct capture *c, struct err *e)
{
	struct guest_seen seen;
	char status[32];
	guest_watch_look(c->watch, &seen);
	if (!seen.migration[0] || !strcmp(seen.migration, "colo"))
		return 0;
	if (guest_watch_migration(c->g, status, sizeof(status), e))
		return -1;
	if (!strcmp(status, "colo"))
		return 0;
	err_set(e, ERR_LIBVIRT, "a migration or save of the VM that was not vmferry's has ended COLO (migration %s)",
		status);
	return err_remedy(e, "pause the protection before virsh migrate or virsh save");
}

/* QEMU asks whether it may stop the VM. A kick that got lost is made again; one too many only makes QEMU ask once more, later. */
static int request(struct capture *c, struct err *e)
{
	int64_t deadline = clock_mono_ns() + REQUEST_NS;
	if (c->requested)
		return 0;
	for (;;) {
		struct err late = ERR_INIT;
		if (still_ours(c, e) || kick(c, e))
			return -1;
		ram_reader_deadline(c->reader, clock_mono_ns() + KICK_AGAIN_NS);
		if (expect(c, MSG_REQUEST, &late) == 0)
			break;
		if (late.cls != ERR_SYS || late.errnum != ETIMEDOUT || clock_mono_ns() >= deadline) {
			*e = late;
			return -1;
		}
	}
	c->requested = true;
	return 0;
}

/* The disks' transaction, beside the reading of RAM: neither waits for the other. */
struct disks {
	struct capture *c;
	int rc;
	struct err err;
};

static void *disks_instant(void *arg)
{
	struct disks *d = arg;
	d->rc = disk_points_instant(d->c->disks, &d->err) || capture_read_files(d->c, &d->err) ? -1 : 0;
	return NULL;
}

static int read_state(struct capture *c, struct err *e)
{
	const struct ram_reader_sink pages = page_sink(c, false);
	enum ram_reader_stop stop;
	uint64_t size;
	if (ram_reader_sections(c->reader, &pages, &stop, e))
		return -1;
	if (stop != RAM_READER_END)
		return err_set(e, ERR_CORRUPT, "QEMU's stream: device state without its length");
	if (expect(c, MSG_VMSTATE_SIZE, e) || ram_reader_be64(c->reader, &size, e))
		return -1;
	if (size == 0 || size > CAPTURE_MAX_DEVICE)
		return err_set(e, ERR_CORRUPT, "QEMU's stream: %llu bytes of device state", (unsigned long long)size);
	buf_reset(&c->device);
	if (ram_reader_take(c->reader, (size_t)size, &c->device, e))
		return -1;
	if (c->device.data[0] != 4 || c->device.data[size - 1] != 0)
		return err_set(e, ERR_CORRUPT, "QEMU's stream: the device state does not look like one");
	return 0;
}

static int read_all(struct capture *c, struct err *e)
{
	struct disks disks = { .c = c };
	pthread_t thread;
	if (disk_points_count(c->disks) + c->info.n_files == 0)
		return read_state(c, e);
	if (thread_start(&thread, "capture-disks", disks_instant, &disks, e))
		return -1;
	int rc = read_state(c, e);
	if (rc) /* or the other thread waits for an answer of a QEMU that waits for a reader */
		(void)shutdown(c->sock, SHUT_RDWR);
	pthread_join(thread, NULL);
	if (rc == 0 && disks.rc) {
		*e = disks.err;
		rc = -1;
	}
	return rc;
}

/* From the answer that stops the VM to the one that lets it go. */
static int paused(struct capture *c, struct capture_point *out, struct err *e)
{
	int64_t stopped_ns = clock_mono_ns();
	ram_reader_deadline(c->reader, stopped_ns + PAUSE_LIMIT_NS);
	c->requested = false;
	if (say(c, (const uint32_t[]){ MSG_REPLY }, 1, e) || expect(c, MSG_VMSTATE_SEND, e))
		return -1;
	out->instant_ns = clock_wall_ns();
	out->instant_mono_ns = clock_mono_ns();
	if (fault_point(FAULT_CAPTURE_PAUSED, e) || read_all(c, e))
		return -1;
	c->held = c->last;
	if (!c->last && say(c, (const uint32_t[]){ MSG_RECEIVED, MSG_LOADED }, 2, e))
		return -1;
	out->pause_ns = clock_mono_ns() - stopped_ns;
	return 0;
}

/* Did the user pause the VM? COLO would start it again. And a reset that has begun must be over, which it is when QEMU's main loop answers: one that runs
 * into the saving of the devices' state leaves COLO's thread of QEMU 7.2 with the big lock, for good. */
static int user_pause(struct capture *c, struct err *e)
{
	json_t *r = NULL;
	enum guest_run run;
	if (capture_ended(c, e) || guest_watch_qmp(c->g, "query-status", NULL, &r, e))
		return -1;
	const json_t *running = json_object_get(r, "running");
	const bool stopped = running && !json_is_true(running);
	json_decref(r);
	if (c->g->ops->state(c->g->ctx, &run, e))
		return -1;
	if (stopped || run == GUEST_PAUSED || run == GUEST_CRASHED)
		return capture_stands_still(run, e);
	return 0;
}

int capture_colo_take(struct capture *c, struct capture_point *out, struct err *e)
{
	stage_reset(c->stage);
	/* The last look before the VM is stopped: a user who was quicker keeps it paused. Then QEMU just goes on
	 * waiting for an answer. */
	if (request(c, e) || user_pause(c, e)) {
		bool later = e->cls == ERR_REFUSED && e->errnum == EAGAIN;
		return later ? -1 : capture_migration_why(c, e);
	}
	capture_arm(c, 0);
	if (paused(c, out, e))
		return capture_migration_why(c, e); /* still armed: whoever cleans up lets it run */
	capture_disarm(c);
	if (c->held) /* until capture_let_go or capture_leave */
		capture_arm(c, CAPTURE_HELD_NS);
	return 0;
}

int capture_colo_let_go(struct capture *c, struct err *e)
{
	return say(c, (const uint32_t[]){ MSG_RECEIVED, MSG_LOADED }, 2, e);
}
