#include "replicator/guardian.h"

#include "base/child.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "replicator/guard.h"
#include "replicator/guardian_msg.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uuid/uuid.h>

#define WATCH_ANSWER_NS (10 * NS_PER_S)
#define PART_ANSWER_NS (10 * NS_PER_S)
/* A guardian that does not answer a BEAT for so long hangs, and is replaced. */
#define ACK_NS (3 * NS_PER_S)
#define STOP_NS (2 * NS_PER_S)

struct entry {
	uint8_t uuid[16];
	bool confirmed; /* WATCHING has come since guardian_watch asked */
	bool parting;   /* guardian_part waits: a new guardian is not told of it */
	bool parted;    /* UNWATCHED has come */
	int64_t deadline_ns;
	int held; /* -1: none */
	bool read_on;
};

struct guardian {
	/* fixed after guardian_start */
	char *program;
	char *uri;
	char *lock_path;
	int64_t silence_ns;
	void (*freed)(void *ctx, const char *uuid, enum guardian_end how);
	void *ctx;
	int wake; /* eventfd: stop, or broken */
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t answered;
	/* under lock */
	int fd;    /* our end of the pair; -1: there is no guardian just now */
	pid_t pid; /* changed by the thread alone, which is the only one to reap */
	struct entry *entries;
	size_t n;
	bool broken; /* it does not read: replace it */
	bool stop;
	unsigned restarts;

	/* the thread alone */
	uint64_t beat;
	uint64_t acked;
	int64_t beat_ns;
	int64_t acked_ns;
};

/* ---- the child ---- */

char *guardian_program(struct err *e)
{
	static const char *const places[] = {
		"../libexec/vmferry-guardian",          /* installed: beside sbin and bin */
		"../vmferry-guardian/vmferry-guardian", /* the build folder */
		"vmferry-guardian",
	};
	char self[4096];
	const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

	if (n < 0) {
		err_sys(e, "read /proc/self/exe");
		return NULL;
	}
	self[n] = 0;
	char *slash = strrchr(self, '/');
	assert(slash);
	*slash = 0;
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		char *path = mem_printf("%s/%s", self, places[i]);
		if (access(path, X_OK) == 0)
			return path;
		free(path);
	}
	err_set(e, ERR_SYS, "there is no vmferry-guardian beside %s", self);
	err_remedy(e, "install the whole package: %s/../libexec/vmferry-guardian is part of it", self);
	return NULL;
}

static int spawn(const struct guardian *g, int its_end, pid_t *pid, struct err *e)
{
	char silence[24];
	snprintf(silence, sizeof silence, "%lld", (long long)(g->silence_ns / NS_PER_MS));
	char *argv[] = { g->program, g->uri, silence, g->lock_path, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, all;

	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	/* A session of its own: what is sent to the agent's group or terminal is not for it. */
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
	posix_spawn_file_actions_adddup2(&actions, its_end, 0);
	posix_spawn_file_actions_adddup2(&actions, 2, 1);
	posix_spawn_file_actions_addclosefrom_np(&actions, 3);
	const int rc = posix_spawn(pid, g->program, &actions, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	if (rc != 0) {
		errno = rc;
		return err_sys(e, "start %s", g->program);
	}
	return 0;
}

/* What it has to know, after a start. Under the lock. */
static void tell_all(struct guardian *g)
{
	for (size_t i = 0; i < g->n; i++) {
		const struct entry *n = &g->entries[i];
		if (n->parting)
			continue;
		if (guardian_msg_send(g->fd, GUARDIAN_WATCH, n->uuid, 0) != 0 ||
		    (n->held >= 0 && guardian_msg_send_hold(g->fd, n->uuid, n->held, n->read_on) != 0) ||
		    (n->deadline_ns != INT64_MAX &&
		     guardian_msg_send(g->fd, GUARDIAN_ARM, n->uuid, (uint64_t)n->deadline_ns) != 0)) {
			g->broken = true;
			return;
		}
	}
}

static int start_child(struct guardian *g, struct err *e)
{
	int pair[2];
	pid_t pid = -1;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
		return err_sys(e, "guardian: socketpair");
	/* Room for all VMs at once, and their answers; what is refused is found out later, by a send that fails. */
	const int room = 1 << 20;
	for (int i = 0; i < 2; i++)
		(void)setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
	const int rc = spawn(g, pair[1], &pid, e);
	fd_close(&pair[1]);
	if (rc != 0) {
		fd_close(&pair[0]);
		return -1;
	}
	g->beat = g->acked = 0;
	g->beat_ns = 0;
	g->acked_ns = clock_mono_ns();
	THREAD_LOCKED(&g->lock);
	g->fd = pair[0];
	g->pid = pid;
	g->broken = false;
	tell_all(g);
	log_info("guardian_started", "pid=%d vms=%zu", (int)pid, g->n);
	return 0;
}

/* It has died, or has to. */
static void bury_child(struct guardian *g)
{
	struct err e = ERR_INIT;
	int status = 0;
	pid_t pid;
	{
		THREAD_LOCKED(&g->lock);
		pid = g->pid;
		fd_close(&g->fd);
		g->pid = -1;
		g->restarts++;
		pthread_cond_broadcast(&g->answered);
	}
	/* It is asked no questions: it holds nothing that a new one would not be told, and a stopped one would not hear them. */
	kill(pid, SIGKILL);
	child_wait(pid, INT64_MAX, &status, &e);
	log_warn("guardian_died", "pid=%d signal=%d status=%d msg=%s", (int)pid,
		 WIFSIGNALED(status) ? WTERMSIG(status) : 0, WIFEXITED(status) ? WEXITSTATUS(status) : -1,
		 LOG_Q("it is started again; VMs go on"));
}

/* ---- entries, under the lock ---- */

static struct entry *find(struct guardian *g, const uint8_t uuid[16])
{
	for (size_t i = 0; i < g->n; i++)
		if (memcmp(g->entries[i].uuid, uuid, 16) == 0)
			return &g->entries[i];
	return NULL;
}

static struct entry *find_name(struct guardian *g, const char *name)
{
	uuid_t uuid;
	return uuid_parse(name, uuid) == 0 ? find(g, uuid) : NULL;
}

static void wake(struct guardian *g)
{
	const uint64_t one = 1;
	while (write(g->wake, &one, sizeof one) < 0 && errno == EINTR)
		;
}

/* A guardian that is being replaced is told everything when the new one is there. */
static void say(struct guardian *g, enum guardian_kind kind, const uint8_t uuid[16], uint64_t value)
{
	if (g->fd < 0 || g->broken)
		return;
	if (guardian_msg_send(g->fd, kind, uuid, value) != 0) {
		g->broken = true;
		wake(g);
	}
}

static void drop(struct guardian *g, struct entry *n)
{
	fd_close(&n->held);
	*n = g->entries[--g->n];
}

/* ---- the thread ---- */

static void heard_freed(struct guardian *g, const struct guardian_msg *m)
{
	char name[UUID_STR_LEN];
	enum guardian_end how = m->value <= GUARDIAN_END_FAILED ? (enum guardian_end)m->value : GUARDIAN_END_FAILED;
	{
		THREAD_LOCKED(&g->lock);
		struct entry *n = find(g, m->uuid);
		/* One that waits for its answer is a new capture; this is about the old one, which is over for everyone. */
		if (!n || !n->confirmed)
			return;
		drop(g, n);
		pthread_cond_broadcast(&g->answered);
	}
	uuid_unparse_lower(m->uuid, name);
	if (g->freed)
		g->freed(g->ctx, name, how);
}

/* All that has come in; -1: it is gone. */
static int hear(struct guardian *g)
{
	struct guardian_msg m;
	int rc, held;

	while ((rc = guardian_msg_recv(g->fd, &m, &held)) > 0 || rc == -2) {
		fd_close(&held); /* it has nothing to give */
		if (rc == -2)
			continue; /* a guardian of another version: it has what it needs to know */
		if (m.kind == GUARDIAN_ACK && m.value > g->acked && m.value <= g->beat) {
			g->acked = m.value;
			g->acked_ns = clock_mono_ns();
		} else if (m.kind == GUARDIAN_WATCHING) {
			THREAD_LOCKED(&g->lock);
			struct entry *n = find(g, m.uuid);
			if (n)
				n->confirmed = true;
			pthread_cond_broadcast(&g->answered);
		} else if (m.kind == GUARDIAN_UNWATCHED) {
			THREAD_LOCKED(&g->lock);
			struct entry *n = find(g, m.uuid);
			if (n && n->parting)
				n->parted = true;
			pthread_cond_broadcast(&g->answered);
		} else if (m.kind == GUARDIAN_FREED) {
			heard_freed(g, &m);
		}
	}
	return rc;
}

static void beat(struct guardian *g, int64_t now)
{
	if (now - g->beat_ns < GUARDIAN_BEAT_NS)
		return;
	/* It is waited for from the first BEAT that is unanswered, not from the last that was answered: this thread may have been stopped. */
	if (g->beat == g->acked)
		g->acked_ns = now;
	g->beat_ns = now;
	THREAD_LOCKED(&g->lock);
	say(g, GUARDIAN_BEAT, NULL, ++g->beat);
}

/* One turn with a living guardian. False: it has to be replaced. */
static bool turn(struct guardian *g)
{
	struct pollfd p[2] = { { .fd = g->wake, .events = POLLIN }, { .fd = g->fd, .events = POLLIN } };
	uint64_t n;

	if (poll(p, 2, clock_poll_ms(g->beat_ns + GUARDIAN_BEAT_NS)) < 0)
		assert(errno == EINTR);
	if (p[0].revents && read(g->wake, &n, sizeof n) < 0)
		assert(errno == EAGAIN || errno == EINTR);
	const int64_t now = clock_mono_ns();
	if (hear(g) < 0)
		return false;
	beat(g, now);
	if (g->acked != g->beat && now - g->acked_ns >= ACK_NS) {
		log_warn("guardian_silent", "pid=%d", (int)g->pid);
		return false;
	}
	THREAD_LOCKED(&g->lock);
	return !g->broken;
}

static bool stopping(struct guardian *g)
{
	THREAD_LOCKED(&g->lock);
	return g->stop;
}

static void *guardian_thread(void *arg)
{
	struct guardian *g = arg;
	int64_t tried_ns = 0;
	bool said = false;

	while (!stopping(g)) {
		struct err e = ERR_INIT;
		if (g->fd >= 0) {
			if (!turn(g))
				bury_child(g);
			continue;
		}
		const int64_t now = clock_mono_ns();
		if (now - tried_ns < NS_PER_S) {
			/* The first at once, then one a second: whatever kills it may go on doing so. */
			struct pollfd p = { .fd = g->wake, .events = POLLIN };
			(void)poll(&p, 1, clock_poll_ms(tried_ns + NS_PER_S));
			if (p.revents && stopping(g))
				break;
			if (clock_mono_ns() - tried_ns < NS_PER_S)
				continue;
		}
		tried_ns = clock_mono_ns();
		if (start_child(g, &e) == 0) {
			said = false;
		} else if (!said) {
			said = true;
			log_error("guardian_start_failed", "msg=%s", LOG_Q(e.text));
		}
	}
	return NULL;
}

/* ---- for sessions ---- */

struct guardian *guardian_start(const struct guardian_opts *opts, struct err *e)
{
	struct guardian *g = mem_alloc(sizeof *g);

	g->program = opts->program ? mem_strdup(opts->program) : guardian_program(e);
	g->uri = mem_strdup(opts->uri);
	g->lock_path = mem_strdup(opts->lock_path);
	g->silence_ns = opts->silence_ns ? opts->silence_ns : GUARDIAN_SILENCE_NS;
	g->freed = opts->freed;
	g->ctx = opts->ctx;
	g->fd = -1;
	g->pid = -1;
	g->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&g->lock, NULL);
	thread_cond_init(&g->answered);
	if (!g->program)
		goto fail;
	if (g->wake < 0) {
		err_sys(e, "guardian: eventfd");
		goto fail;
	}
	if (start_child(g, e) != 0)
		goto fail;
	if (thread_start(&g->thread, "guardian", guardian_thread, g, e) != 0) {
		fd_close(&g->fd);
		child_stop(g->pid);
		goto fail;
	}
	return g;
fail:
	fd_close(&g->wake);
	pthread_cond_destroy(&g->answered);
	pthread_mutex_destroy(&g->lock);
	free(g->program);
	free(g->uri);
	free(g->lock_path);
	free(g);
	return NULL;
}

int guardian_watch(struct guardian *g, const char *uuid, struct err *e)
{
	struct entry fresh = { .deadline_ns = INT64_MAX, .held = -1 };
	const int64_t until = clock_mono_ns() + WATCH_ANSWER_NS;

	if (uuid_parse(uuid, fresh.uuid) != 0)
		return err_set(e, ERR_REFUSED, "guardian: \"%s\" is no UUID", uuid);
	THREAD_LOCKED(&g->lock);
	if (find(g, fresh.uuid))
		return err_set(e, ERR_REFUSED, "guardian: VM %s is being captured already", uuid);
	if (g->n == GUARD_MAX_VMS)
		return err_set(e, ERR_REFUSED, "guardian: %zu VMs are watched already", g->n);
	g->entries = mem_realloc_array(g->entries, g->n + 1, sizeof *g->entries);
	g->entries[g->n++] = fresh;
	say(g, GUARDIAN_WATCH, fresh.uuid, 0);
	for (;;) {
		struct entry *n = find(g, fresh.uuid);
		if (n && n->confirmed)
			return 0;
		if (n && clock_mono_ns() < until && !g->stop) {
			thread_cond_wait_until(&g->answered, &g->lock, until);
			continue;
		}
		if (n) {
			drop(g, n);
			say(g, GUARDIAN_UNWATCH, fresh.uuid, 0);
		}
		err_set(e, ERR_SYS, "the guardian could not look after VM %s: it did not answer within %d s", uuid,
			(int)(WATCH_ANSWER_NS / NS_PER_S));
		return err_remedy(e, "the agent's log says why (event=guardian_not_ready); is libvirtd running?");
	}
}

void guardian_arm(struct guardian *g, const char *uuid, int64_t deadline_ns)
{
	THREAD_LOCKED(&g->lock);
	struct entry *n = find_name(g, uuid);

	assert(deadline_ns >= 0);
	if (!n)
		return;
	n->deadline_ns = deadline_ns;
	say(g, GUARDIAN_ARM, n->uuid, (uint64_t)deadline_ns);
}

int guardian_hold(struct guardian *g, const char *uuid, int fd, bool read_on, struct err *e)
{
	THREAD_LOCKED(&g->lock);
	struct entry *n = find_name(g, uuid);

	if (!n) /* freed meanwhile: what it would be held for is over */
		return err_set(e, ERR_CANCELLED, "guardian: VM %s is not watched", uuid);
	const int held = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (held < 0)
		return err_sys(e, "guardian: duplicate the stream of VM %s", uuid);
	fd_close(&n->held);
	n->held = held;
	n->read_on = read_on;
	if (g->fd >= 0 && !g->broken && guardian_msg_send_hold(g->fd, n->uuid, held, read_on) != 0) {
		g->broken = true;
		wake(g);
	}
	return 0;
}

void guardian_disarm(struct guardian *g, const char *uuid)
{
	THREAD_LOCKED(&g->lock);
	struct entry *n = find_name(g, uuid);

	if (!n)
		return;
	n->deadline_ns = INT64_MAX;
	say(g, GUARDIAN_DISARM, n->uuid, 0);
}

void guardian_unwatch(struct guardian *g, const char *uuid)
{
	THREAD_LOCKED(&g->lock);
	uuid_t raw;

	if (uuid_parse(uuid, raw) != 0)
		return;
	struct entry *n = find(g, raw);
	if (n)
		drop(g, n);
	/* Also when it has been freed: the guardian forgets it. */
	say(g, GUARDIAN_UNWATCH, raw, 0);
}

int guardian_part(struct guardian *g, const char *uuid, struct err *e)
{
	const int64_t until = clock_mono_ns() + PART_ANSWER_NS;

	THREAD_LOCKED(&g->lock);
	struct entry *n = find_name(g, uuid);
	const unsigned restarts = g->restarts;
	uuid_t raw;
	/* One that is being replaced may have been at work on it when it was ended. */
	bool sure = n && g->fd >= 0 && !g->broken;

	if (sure) {
		n->parting = true;
		say(g, GUARDIAN_UNWATCH, n->uuid, GUARDIAN_UNWATCH_ANSWER);
	}
	while (sure && (n = find_name(g, uuid)) && !n->parted) {
		sure = !g->stop && !g->broken && g->restarts == restarts && clock_mono_ns() < until;
		if (sure)
			thread_cond_wait_until(&g->answered, &g->lock, until);
	}
	sure = sure && n;
	if (n)
		drop(g, n);
	if (!sure && uuid_parse(uuid, raw) == 0)
		say(g, GUARDIAN_UNWATCH, raw, 0);
	return sure ? 0 : err_set(e, ERR_CANCELLED, "the guardian has let VM %s run, or may have", uuid);
}

pid_t guardian_pid(struct guardian *g)
{
	THREAD_LOCKED(&g->lock);
	return g->pid;
}

unsigned guardian_restarts(struct guardian *g)
{
	THREAD_LOCKED(&g->lock);
	return g->restarts;
}

void guardian_stop(struct guardian *g)
{
	struct err ignored = ERR_INIT;
	int status;

	if (!g)
		return;
	{
		THREAD_LOCKED(&g->lock);
		g->stop = true;
	}
	wake(g);
	pthread_join(g->thread, NULL);
	fd_close(&g->fd);
	/* It ends by itself when it has let go what was still watched, if that takes longer without us. */
	if (g->pid > 0)
		(void)child_wait(g->pid, clock_mono_ns() + STOP_NS, &status, &ignored);
	fd_close(&g->wake);
	pthread_cond_destroy(&g->answered);
	pthread_mutex_destroy(&g->lock);
	while (g->n)
		drop(g, &g->entries[0]);
	free(g->entries);
	free(g->program);
	free(g->uri);
	free(g->lock_path);
	free(g);
}
