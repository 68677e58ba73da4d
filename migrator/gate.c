#include "migrator/gate.h"

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "migrator/libvirt_rpc.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* virConnectOpen makes one; libvirt's client library makes no more for a migration. */
#define MAX_CONNECTIONS 4
#define CHUNK ((size_t)64 * 1024)

struct connection {
	int client; /* libvirt's client (source) or the relay (target); -1: free place */
	int upstream;
	struct libvirt_rpc to_upstream, to_client; /* where in a message each direction is */
};

struct gate {
	/* fixed after start */
	struct gate_opts opts;
	char *listen_path, *upstream_path, *name;
	pthread_t thread;
	int listener;
	int wake; /* eventfd: stop or release */

	atomic_int finish; /* enum gate_finish */
	atomic_bool holding, released, stop;

	/* the thread's */
	struct connection conn[MAX_CONNECTIONS];
	uint32_t finish_serial;
	uint8_t chunk[CHUNK];
};

/* Both: -1 when a test wants the connection to break here. */
static int on_call(struct gate *g, const struct libvirt_rpc_header *h)
{
	struct err e = ERR_INIT;

	if (!libvirt_rpc_is_finish(h))
		return 0;
	g->finish_serial = h->serial;
	atomic_store(&g->finish, GATE_FINISH_UNANSWERED);
	return fault_point(g->opts.filter ? FAULT_FINISH_TARGET : FAULT_FINISH_SOURCE, &e);
}

static int on_reply(struct gate *g, const struct libvirt_rpc_header *h)
{
	struct err e = ERR_INIT;

	if (!libvirt_rpc_is_finish_reply(h) || h->serial != g->finish_serial)
		return 0;
	if (g->opts.filter && fault_point(FAULT_FINISHED_TARGET, &e) != 0)
		return -1;
	atomic_store(&g->finish, GATE_FINISH_ANSWERED);
	return 0;
}

static void close_connection(struct connection *c)
{
	fd_close(&c->client);
	fd_close(&c->upstream);
}

static void accept_one(struct gate *g)
{
	struct err e = ERR_INIT;
	int fd = accept4(g->listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
		struct connection *c = &g->conn[i];
		if (c->client >= 0)
			continue;
		int upstream = fd_unix_connect(g->upstream_path, &e);
		if (upstream < 0) {
			log_warn("gate_upstream", "vm=%s msg=%s", g->name, LOG_Q(e.text));
			break;
		}
		*c = (struct connection){ .client = fd, .upstream = upstream };
		return;
	}
	fd_close(&fd);
}

/* Every message that begins in the bytes. -1: the connection must not go on. */
static int inspect(struct gate *g, struct connection *c, bool from_client, const uint8_t *p, size_t n)
{
	struct libvirt_rpc *r = from_client ? &c->to_upstream : &c->to_client;
	struct libvirt_rpc_header h;

	while (n > 0) {
		size_t used = 0;
		int got = libvirt_rpc_feed(r, p, n, &used, &h);
		if (got < 0) {
			log_warn("gate_not_libvirt", "vm=%s", g->name);
			return g->opts.filter ? -1 : 0;
		}
		p += used;
		n -= used;
		if (got == 0)
			continue;
		if (from_client && g->opts.filter && !libvirt_rpc_is_for_migration(&h)) {
			log_warn("gate_refused", "vm=%s program=%#x procedure=%u", g->name, h.program, h.procedure);
			return -1;
		}
		if ((from_client ? on_call(g, &h) : on_reply(g, &h)) != 0)
			return -1;
	}
	return 0;
}

/* Moves what there is from one side to the other; -1 when the connection has ended. */
static int pump(struct gate *g, struct connection *c, bool from_client)
{
	struct err e = ERR_INIT;
	int from = from_client ? c->client : c->upstream, to = from_client ? c->upstream : c->client;
	ssize_t n = fd_read_some(from, g->chunk, sizeof g->chunk, &e);

	if (n <= 0)
		return -1;
	/* Before the bytes go on: from here the target may act on them. */
	if (inspect(g, c, from_client, g->chunk, (size_t)n) != 0)
		return -1;
	return fd_write_full(to, g->chunk, (size_t)n, &e);
}

/* The way to the target has ended. */
static void upstream_ended(struct gate *g, struct connection *c)
{
	if (g->opts.hold && atomic_load(&g->finish) == GATE_FINISH_UNANSWERED && !atomic_load(&g->released)) {
		fd_close(&c->upstream);
		atomic_store(&g->holding, true);
		log_warn("finish_unanswered", "vm=%s msg=%s", g->name,
			 LOG_Q("the connection was lost while the target was starting the VM"));
		return;
	}
	close_connection(c);
}

static void serve(struct gate *g, const struct pollfd *p)
{
	for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
		struct connection *c = &g->conn[i];
		const struct pollfd *client = &p[2 + 2 * i], *upstream = &p[3 + 2 * i];
		if (c->client < 0 || client->fd != c->client)
			continue;
		/* The answer first: it may have come together with the end. */
		if (upstream->fd >= 0 && upstream->revents && pump(g, c, false) != 0)
			upstream_ended(g, c);
		else if (client->revents && c->upstream >= 0 && pump(g, c, true) != 0)
			/* Either side may be what failed; a client that is still there is kept if it must be. */
			upstream_ended(g, c);
	}
}

static void *gate_thread(void *arg)
{
	struct gate *g = arg;
	struct pollfd p[2 + 2 * MAX_CONNECTIONS];

	while (!atomic_load(&g->stop)) {
		p[0] = (struct pollfd){ .fd = g->wake, .events = POLLIN };
		p[1] = (struct pollfd){ .fd = g->listener, .events = POLLIN };
		for (size_t i = 0; i < MAX_CONNECTIONS; i++) {
			const struct connection *c = &g->conn[i];
			bool held = c->client >= 0 && c->upstream < 0;
			p[2 + 2 * i] = (struct pollfd){ .fd = c->client, .events = held ? 0 : POLLIN };
			p[3 + 2 * i] = (struct pollfd){ .fd = c->upstream, .events = POLLIN };
			if (held)
				p[2 + 2 * i].fd = -1;
		}
		if (poll(p, sizeof p / sizeof p[0], -1) < 0 && errno != EINTR)
			break;
		if (p[0].revents) {
			uint64_t n;
			if (read(g->wake, &n, sizeof n) < 0 && errno != EAGAIN)
				break;
		}
		if (atomic_load(&g->released))
			for (size_t i = 0; i < MAX_CONNECTIONS; i++)
				if (g->conn[i].client >= 0 && g->conn[i].upstream < 0)
					close_connection(&g->conn[i]);
		serve(g, p);
		if (p[1].revents & POLLIN)
			accept_one(g);
	}
	for (size_t i = 0; i < MAX_CONNECTIONS; i++)
		close_connection(&g->conn[i]);
	return NULL;
}

static void gate_destroy(struct gate *g)
{
	fd_close(&g->listener);
	fd_close(&g->wake);
	unlink(g->listen_path);
	free(g->listen_path);
	free(g->upstream_path);
	free(g->name);
	free(g);
}

struct gate *gate_start(const struct gate_opts *opts, struct err *e)
{
	struct gate *g = mem_alloc(sizeof *g);

	g->opts = *opts;
	g->listen_path = mem_strdup(opts->listen_path);
	g->upstream_path = mem_strdup(opts->upstream_path);
	g->name = mem_strdup(opts->name);
	for (size_t i = 0; i < MAX_CONNECTIONS; i++)
		g->conn[i].client = g->conn[i].upstream = -1;
	g->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	g->listener = fd_unix_listen(opts->listen_path, 0600, e);
	if (g->listener < 0 || g->wake < 0) {
		if (g->wake < 0)
			err_sys(e, "eventfd");
		gate_destroy(g);
		return NULL;
	}
	if (thread_start(&g->thread, "gate", gate_thread, g, e) != 0) {
		gate_destroy(g);
		return NULL;
	}
	return g;
}

enum gate_finish gate_finish_state(struct gate *g)
{
	return (enum gate_finish)atomic_load(&g->finish);
}

bool gate_holding(struct gate *g)
{
	return atomic_load(&g->holding);
}

static void wake(struct gate *g)
{
	uint64_t one = 1;
	/* The counter cannot overflow: a handful of calls in its life. */
	if (write(g->wake, &one, sizeof one) < 0)
		log_error("gate_wake", "errno=%d", errno);
}

void gate_release(struct gate *g)
{
	atomic_store(&g->released, true);
	wake(g);
}

void gate_free(struct gate *g)
{
	if (!g)
		return;
	atomic_store(&g->stop, true);
	wake(g);
	pthread_join(g->thread, NULL);
	gate_destroy(g);
}
