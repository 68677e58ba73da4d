/*
 * snapshot_fake_guest.h - a VM in memory: a guest_ops whose QEMU speaks COLO and background snapshots over the
 * descriptor that it is given, answers QMP, and stands still where the real one would. What goes wrong, and when, is
 * told beforehand.
 */
#ifndef VMFERRY_TESTS_SNAPSHOT_FAKE_GUEST_H
#define VMFERRY_TESTS_SNAPSHOT_FAKE_GUEST_H

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/thread.h"
#include "snapshot/guest.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAKE_PAGES 64u /* of its RAM block */

/* Where the fault of a stream strikes. */
enum fake_where {
	FAKE_NOWHERE,
	FAKE_IN_HEAD,
	FAKE_IN_FIRST_RAM,
	FAKE_IN_FIRST_DEVICE,
	FAKE_BEFORE_REQUEST,
	FAKE_BEFORE_SEND,
	FAKE_IN_RAM,
	FAKE_IN_SIZE,
	FAKE_IN_DEVICE,
	FAKE_BEFORE_RESUME, /* of a checkpoint: after LOADED was read */
	FAKE_WHERE_COUNT,
};
enum fake_what { FAKE_CLOSE, FAKE_HANG, FAKE_GARBAGE, FAKE_SLOW };

struct fake {
	struct guest guest;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* lock */
	atomic_bool running; /* looked at by the test as well */
	atomic_bool gone;    /* QEMU has ended: nobody answers */
	atomic_bool crashed; /* what does not run has panicked, and is kept */
	bool paused_by_user, kvm, lock_manager;
	bool no_userfaultfd; /* the user that QEMU runs as may not */
	unsigned minor, micro, major;
	char status[32];
	bool x_colo, background;
	int fd; /* by getfd */
	pthread_t thread;
	bool started, kicked, lost_heartbeat, quit;
	unsigned checkpoints, pages; /* dirty pages of the next checkpoint */
	uint32_t version;            /* what is in its pages */
	bool agent;
	atomic_bool frozen, stopped_frozen; /* looked at by the test as well */
	unsigned freezes;
	bool complete_early;           /* as QEMU 10.0.0 to 10.0.6 */
	bool lose_event;               /* that it is in COLO: libvirtd was not there */
	_Atomic enum fake_where where; /* as what, set by the test while its thread runs */
	_Atomic enum fake_what what;
	unsigned heartbeats, conts, cancels, migrations, asked; /* asked: query-status */
	void (*fn)(void *arg, const char *event, const json_t *data);
	void *arg;
};

static void fake_event(struct fake *f, const char *name, const char *status)
{
	pthread_mutex_lock(&f->lock);
	void (*fn)(void *, const char *, const json_t *) = f->fn;
	void *arg = f->arg;
	json_t *data = status ? json_pack("{s:s}", "status", status) : NULL;
	/* Held, so that unlisten waits. */
	if (fn)
		fn(arg, name, data);
	json_decref(data);
	pthread_mutex_unlock(&f->lock);
}

static void fake_run(struct fake *f, bool on)
{
	pthread_mutex_lock(&f->lock);
	bool was = f->running;
	f->running = on;
	if (!on && f->frozen)
		f->stopped_frozen = true;
	pthread_mutex_unlock(&f->lock);
	if (was != on)
		fake_event(f, on ? "RESUME" : "STOP", NULL);
}

static void fake_status(struct fake *f, const char *status)
{
	pthread_mutex_lock(&f->lock);
	snprintf(f->status, sizeof(f->status), "%s", status);
	pthread_mutex_unlock(&f->lock);
	if (!f->lose_event || strcmp(status, "colo") != 0)
		fake_event(f, "MIGRATION", status);
}

/* ---- its stream ---- */

static void fake_put_eos(struct buf *b)
{
	buf_put_be64(b, 0x10);
	buf_put_u8(b, 0x7e);
	buf_put_be32(b, 2);
}

static void fake_put_page(struct buf *b, uint64_t page, bool first, uint32_t version)
{
	uint8_t data[4096];
	memset(data, (int)(version & 0xff), sizeof(data));
	data[0] = (uint8_t)page;
	buf_put_be64(b, page * 4096 | 8 | (first ? 0 : 0x20));
	if (first)
		buf_append(b, "\6pc.ram", 7);
	buf_append(b, data, sizeof(data));
}

static void fake_put_head(struct buf *b)
{
	buf_append(b, "QEVM\0\0\0\3\7\0\0\0\2pc", 15);
}

static void fake_put_ram_start(struct buf *b)
{
	buf_append(b, "\1\0\0\0\2\3ram\0\0\0\0\0\0\0\4", 17);
	buf_put_be64(b, FAKE_PAGES * 4096 | 4);
	buf_append(b, "\6pc.ram", 7);
	buf_put_be64(b, FAKE_PAGES * 4096);
	fake_put_eos(b);
}

/* Half of the pages, then zeros. */
static void fake_put_all(struct buf *b, uint32_t version)
{
	buf_append(b, "\2\0\0\0\2", 5);
	for (uint64_t p = 0; p < FAKE_PAGES / 2; p++)
		fake_put_page(b, p, p == 0, version);
	for (uint64_t p = FAKE_PAGES / 2; p < FAKE_PAGES; p++) {
		buf_put_be64(b, p * 4096 | 0x22);
		buf_put_u8(b, 0);
	}
	fake_put_eos(b);
}

static const char fake_device[] = "\4\0\0\0\5\5timer\0\0\0\0\0\0\0\2state\x7e\0\0\0\5";
#define FAKE_DEVICE_LEN (sizeof(fake_device)) /* with the end mark */

/* Sends b; true if the stream is over: a fault was to strike here. */
static bool fake_send(struct fake *f, enum fake_where here, struct buf *b)
{
	struct err e = ERR_INIT;
	if (f->where == here && f->what == FAKE_SLOW) {
		bool broken = fd_write_full(f->fd, b->data, b->len / 2, &e) != 0;
		usleep(500 * 1000);
		broken = broken || fd_write_full(f->fd, b->data + b->len / 2, b->len - b->len / 2, &e) != 0;
		buf_reset(b);
		return broken;
	}
	if (f->where == here && f->what == FAKE_GARBAGE)
		b->data[b->len / 2] ^= 0xff, b->data[0] ^= 0xff;
	if (f->where == here && f->what != FAKE_GARBAGE)
		b->len /= 2;
	bool over = fd_write_full(f->fd, b->data, b->len, &e) != 0;
	buf_reset(b);
	if (f->where != here || f->what == FAKE_GARBAGE)
		return over;
	if (f->what == FAKE_HANG) {
		pthread_mutex_lock(&f->lock);
		while (!f->lost_heartbeat && !f->quit) {
			char byte;
			pthread_mutex_unlock(&f->lock);
			ssize_t n = read(f->fd, &byte, 1); /* until the other end is shut */
			pthread_mutex_lock(&f->lock);
			if (n <= 0)
				break;
		}
		pthread_mutex_unlock(&f->lock);
	}
	return true;
}

static bool fake_expect(struct fake *f, uint8_t message)
{
	struct err e = ERR_INIT;
	uint8_t got[4];
	return fd_read_full(f->fd, got, sizeof(got), &e) == 0 && got[3] == message;
}

static void fake_put_message(struct buf *b, uint32_t message)
{
	buf_put_be32(b, message);
}

/* One checkpoint; false: the stream is over. */
static bool fake_checkpoint(struct fake *f, struct buf *b)
{
	fake_put_message(b, 1);
	if (fake_send(f, FAKE_BEFORE_REQUEST, b) || !fake_expect(f, 2))
		return false;
	fake_run(f, false);
	fake_put_message(b, 3);
	if (fake_send(f, FAKE_BEFORE_SEND, b))
		return false;
	f->version++;
	buf_append(b, "\3\0\0\0\2", 5);
	for (uint64_t p = 0; p < f->pages; p++)
		fake_put_page(b, p, p == 0, f->version);
	fake_put_eos(b);
	buf_put_u8(b, 0);
	if (fake_send(f, FAKE_IN_RAM, b))
		return false;
	fake_put_message(b, 4);
	buf_put_be64(b, FAKE_DEVICE_LEN);
	if (fake_send(f, FAKE_IN_SIZE, b))
		return false;
	buf_append(b, fake_device, FAKE_DEVICE_LEN);
	if (fake_send(f, FAKE_IN_DEVICE, b) || !fake_expect(f, 5) || !fake_expect(f, 6))
		return false;
	fake_run(f, true);
	pthread_mutex_lock(&f->lock);
	f->checkpoints++;
	pthread_mutex_unlock(&f->lock);
	return true;
}

/* As the real one: what stands still because of a checkpoint goes on only when it is told that the other side is lost. */
static void fake_wait_for_heartbeat(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	while (!f->lost_heartbeat && !f->quit)
		pthread_cond_wait(&f->changed, &f->lock);
	pthread_mutex_unlock(&f->lock);
	fake_run(f, true);
	fake_status(f, "completed");
}

static bool fake_wait_for_kick(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	while (!f->kicked && !f->lost_heartbeat && !f->quit)
		pthread_cond_wait(&f->changed, &f->lock);
	bool kicked = f->kicked;
	f->kicked = false;
	pthread_mutex_unlock(&f->lock);
	return kicked;
}

static void *fake_colo(void *arg)
{
	struct fake *f = arg;
	BUF_AUTO struct buf b = BUF_INIT;
	fake_status(f, "active");
	fake_put_head(&b);
	bool over = fake_send(f, FAKE_IN_HEAD, &b);
	fake_put_ram_start(&b);
	fake_put_all(&b, f->version);
	over = over || fake_send(f, FAKE_IN_FIRST_RAM, &b);
	if (!over) {
		fake_run(f, false);
		buf_append(&b, "\3\0\0\0\2", 5);
		fake_put_page(&b, 1, true, f->version);
		fake_put_eos(&b);
		buf_append(&b, fake_device, FAKE_DEVICE_LEN);
		over = fake_send(f, FAKE_IN_FIRST_DEVICE, &b);
		/* What fails before COLO lets the VM go on. */
		if (over)
			fake_run(f, true);
	}
	if (over || f->complete_early) {
		fd_close(&f->fd);
		fake_status(f, over ? "failed" : "completed");
		return NULL;
	}
	fake_status(f, "colo");
	if (fake_expect(f, 0)) {
		fake_run(f, true);
		while (fake_wait_for_kick(f) && fake_checkpoint(f, &b))
			;
	}
	fd_close(&f->fd);
	fake_wait_for_heartbeat(f);
	return NULL;
}

static void *fake_snapshot(void *arg)
{
	struct fake *f = arg;
	BUF_AUTO struct buf b = BUF_INIT;
	bool was = f->running;
	fake_status(f, "active");
	fake_run(f, false);
	fake_put_head(&b);
	fake_put_ram_start(&b);
	bool over = fake_send(f, FAKE_IN_HEAD, &b);
	fake_run(f, f->major < 10 || was);
	fake_put_all(&b, ++f->version);
	over = over || fake_send(f, FAKE_IN_FIRST_RAM, &b);
	buf_append(&b, fake_device, FAKE_DEVICE_LEN);
	buf_put_u8(&b, 6);
	buf_put_be32(&b, 7);
	buf_append(&b, "{\"a\":1}", 7);
	if (f->where != FAKE_NOWHERE && f->what == FAKE_GARBAGE)
		for (unsigned i = 0; i < 64; i++) /* more than a socket takes unread */
			fake_put_all(&b, f->version);
	over = over || fake_send(f, FAKE_IN_FIRST_DEVICE, &b);
	fd_close(&f->fd);
	fake_status(f, over ? "failed" : "completed");
	return NULL;
}

/* ---- guest_ops ---- */

static int fake_info(void *ctx, struct guest_info *out, struct err *e)
{
	struct fake *f = ctx;
	(void)e;
	struct guest_info i = { .running = f->running,
				.paused_by_user = f->paused_by_user,
				.kvm = f->kvm,
				.lock_manager = f->lock_manager,
				.agent = f->agent };
	i.qemu_major = f->major;
	i.qemu_minor = f->minor;
	i.qemu_micro = f->micro;
	snprintf(i.name, sizeof(i.name), "fake");
	i.memory_bytes = FAKE_PAGES * 4096;
	i.xml = mem_strdup("<domain/>");
	*out = i;
	return 0;
}

static json_t *fake_capabilities(struct fake *f)
{
	return json_pack("[{s:s,s:b},{s:s,s:b},{s:s,s:b}]", "capability", "x-colo", "state", f->x_colo, "capability",
			 "background-snapshot", "state", f->background, "capability", "events", "state", 1);
}

static int fake_set_capabilities(struct fake *f, const json_t *args, struct err *e)
{
	size_t at;
	json_t *one;
	json_array_foreach (json_object_get(args, "capabilities"), at, one) {
		const char *name = json_string_value(json_object_get(one, "capability"));
		bool on = json_is_true(json_object_get(one, "state"));
		if (!strcmp(name, "x-colo"))
			f->x_colo = on;
		if (!strcmp(name, "background-snapshot") && on && f->no_userfaultfd)
			return err_set(e, ERR_LIBVIRT, "QMP: Background-snapshot is not supported by host kernel");
		if (!strcmp(name, "background-snapshot"))
			f->background = on;
	}
	return 0;
}

static void fake_join(struct fake *f)
{
	if (f->started)
		pthread_join(f->thread, NULL);
	f->started = false;
}

static int fake_migrate(struct fake *f, struct err *e)
{
	fake_join(f);
	f->kicked = f->lost_heartbeat = false;
	f->migrations++;
	f->started = true;
	fake_status(f, "setup");
	return thread_start(&f->thread, "fake-qemu", f->x_colo ? fake_colo : fake_snapshot, f, e);
}

static int fake_qmp(void *ctx, const char *command, json_t *args, int fd, json_t **result, struct err *e)
{
	struct fake *f = ctx;
	json_t *r = NULL;
	int rc = 0;
	if (f->gone) {
		json_decref(args);
		return err_set(e, ERR_LIBVIRT, "QMP %s: domain is not running", command);
	}
	bool cont = !strcmp(command, "cont"), stop = !strcmp(command, "stop");
	if (!strcmp(command, "migrate"))
		rc = fake_migrate(f, e);
	if (cont || stop)
		fake_run(f, cont);
	pthread_mutex_lock(&f->lock);
	if (!strcmp(command, "query-migrate"))
		r = json_pack("{s:s}", "status", f->status);
	else if (!strcmp(command, "query-migrate-capabilities"))
		r = fake_capabilities(f);
	else if (!strcmp(command, "migrate-set-capabilities"))
		rc = fake_set_capabilities(f, args, e);
	else if (!strcmp(command, "migrate-set-parameters") && json_object_get(args, "x-checkpoint-delay") &&
		 !strcmp(f->status, "colo"))
		f->kicked = true;
	else if (!strcmp(command, "getfd"))
		f->fd = dup(fd);
	else if (!strcmp(command, "x-colo-lost-heartbeat"))
		f->lost_heartbeat = true, f->heartbeats++;
	else if (!strcmp(command, "migrate_cancel"))
		f->cancels++;
	else if (cont)
		f->conts++;
	else if (!strcmp(command, "query-status"))
		r = json_pack("{s:b}", "running", (int)f->running), f->asked++;
	else if (!strncmp(command, "query-", 6))
		r = json_object();
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	json_decref(args);
	if (result)
		*result = r;
	else
		json_decref(r);
	return rc;
}

static int fake_state(void *ctx, enum guest_run *out, struct err *e)
{
	struct fake *f = ctx;
	(void)e;
	THREAD_LOCKED(&f->lock);
	*out = f->gone ? GUEST_GONE : f->running ? GUEST_RUNNING : f->crashed ? GUEST_CRASHED : GUEST_PAUSED;
	return 0;
}

static int fake_pause(void *ctx, struct err *e)
{
	(void)e;
	fake_run(ctx, false);
	return 0;
}

static int fake_resume(void *ctx, struct err *e)
{
	(void)e;
	fake_run(ctx, true);
	return 0;
}

static int fake_listen(void *ctx, void (*fn)(void *arg, const char *event, const json_t *data), void *arg, struct err *e)
{
	struct fake *f = ctx;
	(void)e;
	THREAD_LOCKED(&f->lock);
	f->fn = fn;
	f->arg = arg;
	return 0;
}

static void fake_unlisten(void *ctx)
{
	struct fake *f = ctx;
	THREAD_LOCKED(&f->lock);
	f->fn = NULL;
}

static int fake_freeze(void *ctx, bool on, struct err *e)
{
	struct fake *f = ctx;
	(void)e;
	THREAD_LOCKED(&f->lock);
	f->frozen = on;
	f->freezes += on;
	return 0;
}

static void fake_free(void *ctx)
{
	(void)ctx;
}

static void fake_init(struct fake *f)
{
	static const struct guest_ops ops = { fake_info,   fake_qmp,      fake_state,  fake_pause, fake_resume,
					      fake_listen, fake_unlisten, fake_freeze, fake_free,  NULL };
	memset(f, 0, sizeof(*f));
	f->guest = (struct guest){ &ops, f };
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	f->running = f->kvm = true;
	f->major = 7;
	f->minor = 2;
	f->fd = -1;
	f->pages = 5;
	snprintf(f->status, sizeof(f->status), "none");
}

static void fake_fini(struct fake *f)
{
	pthread_mutex_lock(&f->lock);
	f->quit = true;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->lock);
	fake_join(f);
	fd_close(&f->fd);
}

#endif
