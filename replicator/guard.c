#include "replicator/guard.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/guardian.h"
#include "replicator/guardian_msg.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uuid/uuid.h>

#define CHECK_NS (2 * NS_PER_S)
#define REOPEN_NS (200 * NS_PER_MS)
#define RELOCK_NS (20 * NS_PER_MS)
#define RESEND_NS (100 * NS_PER_MS)
#define READ_OUT_IDLE_NS (60 * NS_PER_S)
#define LONG_RESCUE_NS (5 * NS_PER_S)

enum vm_state {
	VM_OPENING, /* its thread prepares */
	VM_WATCHED, /* ready */
	VM_RESCUE,  /* its thread lets it go */
	VM_OVER,    /* was let go; not looked after until the next WATCH */
};

struct guard_vm {
	/* fixed */
	struct guard *g;
	uint8_t uuid[16];
	char name[UUID_STR_LEN];
	pthread_t thread;

	/* under g->lock */
	pthread_cond_t changed;
	enum vm_state state;
	int64_t deadline_ns; /* INT64_MAX: not armed */
	int held;            /* our end of its state stream, or -1 */
	bool read_on;        /* ... a background snapshot's: which is never to be broken */
	bool again;          /* WATCH has come (again) and waits for its answer */
	bool gone;           /* UNWATCH has come, or the agent's end: the thread ends when it has nothing to do */
	bool go;             /* it is to be let go, by order */
	struct guard_order order;
	bool untold; /* FREED could not be sent yet, with how */
	enum guardian_end how;
	int64_t rescue_since_ns; /* 0: none, or said already that it takes long */
	bool ended;              /* the thread has nothing more to do but return */
};

struct guard {
	/* fixed */
	int fd;
	int lock_fd;
	int wake; /* eventfd: a thread has something for the loop */
	int64_t silence_ns;
	const struct guard_ops *ops;

	pthread_mutex_t lock;
	/* under lock; the table is changed by the loop's thread alone, which may therefore read it without */
	struct guard_vm *vms[GUARD_MAX_VMS];
	size_t n;
	bool eof;
	unsigned failed;
	unsigned streams; /* being read to their ends */

	/* the loop's thread alone */
	int64_t heard_ns;
	bool said_stray;
};

const char *guard_cause_name(enum guard_cause c)
{
	static const char *const names[] = {
		[GUARD_AGENT_DIED] = "agent-died",
		[GUARD_AGENT_SILENT] = "agent-silent",
		[GUARD_AGENT_LATE] = "agent-late",
	};
	assert((size_t)c < sizeof names / sizeof names[0]);
	return names[c];
}

static void wake(struct guard *g)
{
	const uint64_t one = 1;
	while (write(g->wake, &one, sizeof one) < 0 && errno == EINTR)
		;
}

/* ---- a VM's thread ---- */

/* True when the VM's byte is ours. Errors count as ours: a guardian without its lock is better than none. */
static bool take_byte(const struct guard_vm *v, short type)
{
	if (v->g->lock_fd < 0)
		return true;
	uint64_t start = 0;
	for (size_t i = 0; i < sizeof start; i++)
		start = start << 8 | v->uuid[i];
	struct flock f = { .l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)(start >> 2), .l_len = 1 };
	return fcntl(v->g->lock_fd, F_OFD_SETLK, &f) == 0 || (errno != EAGAIN && errno != EACCES);
}

static bool interrupted(const struct guard_vm *v)
{
	return v->go || v->gone;
}

/* Waits for ns, or until there is something to do. Under the lock. */
static void pause_until_changed(struct guard_vm *v, int64_t ns)
{
	const int64_t until = clock_mono_ns() + ns;
	while (!interrupted(v) && !v->again && thread_cond_wait_until(&v->changed, &v->g->lock, until) == 0)
		;
}

/* Opens what is not open; says what is wrong once. Without the lock. */
static bool vm_open(struct guard_vm *v, void **vm, bool *said)
{
	const struct guard_ops *ops = v->g->ops;
	struct err e = ERR_INIT;

	if (*vm && ops->check && ops->check(*vm, &e) != 0) {
		ops->close(*vm);
		*vm = NULL;
	}
	if (!*vm)
		*vm = ops->open(ops->ctx, v->uuid, &e);
	if (!*vm && !*said)
		log_warn("guardian_not_ready", "vm=%s msg=%s", v->name, LOG_Q(e.text));
	else if (*vm && *said)
		log_info("guardian_ready_again", "vm=%s", v->name);
	*said = !*vm;
	return *vm != NULL;
}

/* Prepares, answers, waits. True: let it go now; false: it is not to be watched any more. Under the lock, left while calling out. */
static bool vm_watch(struct guard_vm *v, void **vm)
{
	struct guard *g = v->g;
	bool said = false, locked = false;

	v->state = VM_OPENING;
	while (!interrupted(v)) {
		pthread_mutex_unlock(&g->lock);
		locked = locked || take_byte(v, F_WRLCK);
		const bool open = locked && vm_open(v, vm, &said);
		pthread_mutex_lock(&g->lock);
		if (open && v->state == VM_OPENING) {
			v->state = VM_WATCHED;
			v->again = true;
		}
		if (v->again && v->state == VM_WATCHED) {
			guardian_msg_send(g->fd, GUARDIAN_WATCHING, v->uuid, 0);
			v->again = false;
		}
		if (v->state == VM_OPENING)
			v->again = false; /* it is being worked at */
		pause_until_changed(v, !locked ? RELOCK_NS : open ? CHECK_NS : REOPEN_NS);
	}
	return v->go;
}

static void tell(struct guard_vm *v)
{
	v->untold = guardian_msg_send(v->g->fd, GUARDIAN_FREED, v->uuid, (uint64_t)v->how) != 0 && errno == EAGAIN;
}

/* Under the lock, left meanwhile. */
static void vm_rescue(struct guard_vm *v, void **vm)
{
	struct guard *g = v->g;
	struct err e = ERR_INIT;
	bool runs = false;
	const struct guard_order order = v->order;
	const int64_t since = clock_mono_ns();

	v->state = VM_RESCUE;
	v->go = false;
	v->again = false;
	v->rescue_since_ns = since;
	int held = v->held;
	v->held = -1;
	pthread_mutex_unlock(&g->lock);
	if (held >= 0)
		fd_read_out(held, READ_OUT_IDLE_NS);
	fd_close(&held);
	const int rc = g->ops->free_guest(g->ops->ctx, vm, v->uuid, &order, &runs, &e);
	const long long ms = (long long)((clock_mono_ns() - since) / NS_PER_MS);
	if (rc == 0)
		log_warn("guardian_freed", "vm=%s cause=%s armed=%d ms=%lld", v->name, guard_cause_name(order.cause),
			 order.armed, ms);
	else
		log_error("guardian_failed", "vm=%s cause=%s runs=%d ms=%lld msg=%s", v->name,
			  guard_cause_name(order.cause), runs, ms, LOG_Q(e.text));
	pthread_mutex_lock(&g->lock);
	v->rescue_since_ns = 0;
	v->deadline_ns = INT64_MAX;
	v->how = rc == 0 ? GUARDIAN_END_FREED : runs ? GUARDIAN_END_UNTIDY : GUARDIAN_END_FAILED;
	if (rc != 0)
		g->failed++;
	v->state = VM_OVER;
	tell(v);
	wake(g);
}

static void *vm_thread(void *arg)
{
	struct guard_vm *v = arg;
	struct guard *g = v->g;
	void *vm = NULL;

	pthread_mutex_lock(&g->lock);
	while (vm_watch(v, &vm)) {
		vm_rescue(v, &vm);
		while (!v->again && !v->gone)
			pthread_cond_wait(&v->changed, &g->lock);
		if (v->gone)
			break;
	}
	pthread_mutex_unlock(&g->lock);
	g->ops->close(vm);
	pthread_mutex_lock(&g->lock);
	/* A WATCH that came while it closed is for another thread, which the loop starts when it has seen this one end. */
	take_byte(v, F_UNLCK);
	v->ended = true;
	pthread_mutex_unlock(&g->lock);
	wake(g);
	return NULL;
}

/* ---- the loop ---- */

static struct guard_vm *find(struct guard *g, const uint8_t uuid[16])
{
	for (size_t i = 0; i < g->n; i++)
		if (memcmp(g->vms[i]->uuid, uuid, 16) == 0)
			return g->vms[i];
	return NULL;
}

/* Under the lock. */
static void start_vm(struct guard *g, const uint8_t uuid[16])
{
	struct err e = ERR_INIT;

	if (g->n == GUARD_MAX_VMS) {
		log_error("guardian_full", "vms=%zu", g->n);
		return; /* unanswered: the agent gives up waiting */
	}
	struct guard_vm *v = mem_alloc(sizeof *v);
	v->g = g;
	memcpy(v->uuid, uuid, 16);
	uuid_unparse_lower(uuid, v->name);
	v->deadline_ns = INT64_MAX;
	v->held = -1;
	thread_cond_init(&v->changed);
	if (thread_start(&v->thread, "guard-vm", vm_thread, v, &e) != 0) {
		log_error("guardian_thread", "vm=%s msg=%s", v->name, LOG_Q(e.text));
		pthread_cond_destroy(&v->changed);
		free(v);
		return;
	}
	g->vms[g->n++] = v;
}

static void watch(struct guard *g, const struct guardian_msg *m)
{
	struct guard_vm *v = find(g, m->uuid);

	if (!v) {
		start_vm(g, m->uuid);
		return;
	}
	v->deadline_ns = INT64_MAX;
	fd_close(&v->held);
	v->read_on = false;
	v->gone = false;
	v->again = true;
	pthread_cond_signal(&v->changed);
}

/* v: NULL if it is not known. An agent that wants an answer is about to give the VM away: what was begun is not taken back then, for the stream was
 * shut with it; FREED says so. */
static void unwatch(struct guard *g, struct guard_vm *v, const struct guardian_msg *m)
{
	const bool answer = m->value & GUARDIAN_UNWATCH_ANSWER;

	if (answer && v && v->state == VM_OVER)
		tell(v);
	else if (answer && (!v || (v->state != VM_RESCUE && !v->go)))
		guardian_msg_send(g->fd, GUARDIAN_UNWATCHED, m->uuid, 0);
	if (!v)
		return;
	if (v->state != VM_RESCUE && !answer)
		v->go = false; /* the agent has done it itself, a moment later than it should */
	v->gone = true;
	v->again = false;
	v->deadline_ns = INT64_MAX;
	fd_close(&v->held);
	pthread_cond_signal(&v->changed);
}

/* *held is taken over by setting it to -1. */
static void take(struct guard *g, const struct guardian_msg *m, int *held)
{
	THREAD_LOCKED(&g->lock);
	struct guard_vm *v = find(g, m->uuid);
	const bool live = v && !v->gone && !v->ended && (v->state == VM_OPENING || v->state == VM_WATCHED);

	switch (m->kind) {
	case GUARDIAN_WATCH:
		watch(g, m);
		break;
	case GUARDIAN_ARM: {
		const int64_t most = clock_mono_ns() + GUARD_MAX_ARM_NS;
		if (live)
			v->deadline_ns = m->value < (uint64_t)most ? (int64_t)m->value : most;
		break;
	}
	case GUARDIAN_DISARM:
		if (live)
			v->deadline_ns = INT64_MAX;
		break;
	case GUARDIAN_UNWATCH:
		unwatch(g, v, m);
		break;
	case GUARDIAN_HOLD:
		if (!live)
			break;
		fd_close(&v->held);
		v->held = *held;
		v->read_on = m->value & GUARDIAN_HOLD_READ_ON;
		*held = -1;
		break;
	case GUARDIAN_BEAT:
		/* Unsent when the agent does not read: it will not be waiting for it then. */
		guardian_msg_send(g->fd, GUARDIAN_ACK, NULL, m->value);
		break;
	case GUARDIAN_ACK:
	case GUARDIAN_WATCHING:
	case GUARDIAN_FREED:
	case GUARDIAN_UNWATCHED:
		break; /* ours to say, not to hear */
	}
}

/* All that has come in. */
static void drain(struct guard *g)
{
	struct guardian_msg m;
	int rc, held;

	while (!g->eof && (rc = guardian_msg_recv(g->fd, &m, &held)) != 0) {
		if (rc == 1) {
			take(g, &m, &held);
			fd_close(&held);
			g->heard_ns = clock_mono_ns();
		} else if (rc == -1) {
			THREAD_LOCKED(&g->lock);
			g->eof = true;
			if (g->n)
				log_warn("guardian_agent_gone", "vms=%zu", g->n);
		} else if (!g->said_stray) {
			g->said_stray = true;
			log_warn("guardian_stray_message", "msg=%s",
				 LOG_Q("ignored, and others after it without a word"));
		}
	}
}

struct stream {
	struct guard *g;
	int held;
};

static void *read_out(void *arg)
{
	struct stream *r = arg;
	struct guard *g = r->g;

	fd_read_out(r->held, READ_OUT_IDLE_NS);
	fd_close(&r->held);
	free(r);
	THREAD_LOCKED(&g->lock);
	g->streams--;
	wake(g);
	return NULL;
}

/* Under the lock. What is to be read on is read by a thread of its own, which only our end waits for: while that goes on QEMU may answer libvirt nothing, and what the rescue
 * waits for, the end of QEMU's migration, is its end too. Without such a thread the stream stays, for the rescue to read first (vm_rescue). */
static void end_stream(struct guard_vm *v)
{
	struct err e = ERR_INIT;

	if (v->held < 0)
		return;
	if (!v->read_on) {
		shutdown(v->held, SHUT_RDWR);
		fd_close(&v->held);
		return;
	}
	struct stream *r = mem_alloc(sizeof *r);
	*r = (struct stream){ .g = v->g, .held = v->held };
	if (thread_start_detached("guard-stream", read_out, r, &e) == 0) {
		v->held = -1;
		v->g->streams++;
		return;
	}
	free(r);
	log_error("guardian_thread", "vm=%s msg=%s", v->name, LOG_Q(e.text));
}

/* `now` was read before what had come in was taken: a guardian that was itself stopped or late must not hold messages that it had not read
 * against the agent. */
static void judge(struct guard *g, int64_t now)
{
	THREAD_LOCKED(&g->lock);
	const bool silent = now - g->heard_ns >= g->silence_ns;

	for (size_t i = 0; i < g->n; i++) {
		struct guard_vm *v = g->vms[i];
		const bool late = v->deadline_ns <= now;
		const bool live = !v->gone && !v->go && (v->state == VM_OPENING || v->state == VM_WATCHED);
		if (live && (g->eof || silent || late)) {
			v->order.cause = g->eof ? GUARD_AGENT_DIED : late ? GUARD_AGENT_LATE : GUARD_AGENT_SILENT;
			v->order.armed = v->deadline_ns != INT64_MAX;
			v->order.background = v->read_on;
			v->go = true;
			v->deadline_ns = INT64_MAX;
			/* At once: a QEMU that is writing to a reader that does not read may hold its own big lock, and then
			 * answers no one before this. */
			end_stream(v);
			pthread_cond_signal(&v->changed);
		}
		if (g->eof && !v->gone) {
			v->gone = true;
			pthread_cond_signal(&v->changed);
		}
	}
}

/* Threads that have ended, answers that did not fit, rescues that take long. Returns when to look again; *over: never. */
static int64_t tidy(struct guard *g, int64_t now, bool *over)
{
	THREAD_LOCKED(&g->lock);
	int64_t next = INT64_MAX;

	for (size_t i = 0; i < g->n;) {
		struct guard_vm *v = g->vms[i];
		if (v->untold && !g->eof) {
			tell(v);
			if (v->untold)
				next = now + RESEND_NS;
		}
		if (v->rescue_since_ns && now - v->rescue_since_ns >= LONG_RESCUE_NS) {
			v->rescue_since_ns = 0;
			log_error("guardian_stuck", "vm=%s msg=%s", v->name,
				  LOG_Q("letting the VM go takes more than 5 s: is libvirtd alive?"));
		} else if (v->rescue_since_ns && v->rescue_since_ns + LONG_RESCUE_NS < next) {
			next = v->rescue_since_ns + LONG_RESCUE_NS;
		}
		if (v->deadline_ns < next && !v->go)
			next = v->deadline_ns;
		if (!v->ended) {
			i++;
			continue;
		}
		pthread_join(v->thread, NULL); /* it needs the lock no more */
		const bool again = v->again && !g->eof;
		uint8_t uuid[16];
		memcpy(uuid, v->uuid, 16);
		pthread_cond_destroy(&v->changed);
		fd_close(&v->held);
		free(v);
		g->vms[i] = g->vms[--g->n];
		if (again)
			start_vm(g, uuid);
	}
	if (g->n && !g->eof && g->heard_ns + g->silence_ns < next)
		next = g->heard_ns + g->silence_ns;
	*over = g->eof && g->n == 0 && g->streams == 0;
	return next;
}

unsigned guard_run(int fd, int lock_fd, int64_t silence_ns, const struct guard_ops *ops)
{
	struct guard *g = mem_alloc(sizeof *g);

	*g = (struct guard){ .fd = fd, .lock_fd = lock_fd, .silence_ns = silence_ns, .ops = ops };
	pthread_mutex_init(&g->lock, NULL);
	g->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert(g->wake >= 0);
	g->heard_ns = clock_mono_ns();
	for (;;) {
		const int64_t now = clock_mono_ns();
		drain(g);
		judge(g, now);
		bool over;
		int64_t next = tidy(g, now, &over);
		if (over)
			break;
		/* Silence goes on: its VMs have been let go, there is nothing to do about it twice. */
		if (next <= now)
			next = now + RESEND_NS;
		struct pollfd p[2] = { { .fd = g->wake, .events = POLLIN },
				       { .fd = g->eof ? -1 : fd, .events = POLLIN } };
		if (poll(p, 2, clock_poll_ms(next)) < 0)
			assert(errno == EINTR);
		uint64_t n;
		if (p[0].revents && read(g->wake, &n, sizeof n) < 0)
			assert(errno == EAGAIN || errno == EINTR);
	}
	const unsigned failed = g->failed;
	close(g->wake);
	pthread_mutex_destroy(&g->lock);
	free(g);
	return failed;
}
