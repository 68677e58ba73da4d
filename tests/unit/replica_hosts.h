/*
 * replica_hosts.h - for tests of protections: a target host with its listener, replicas and calls; ways to it for a source; and a guest with a capture
 * that are memory alone.
 */
#ifndef VMFERRY_TESTS_REPLICA_HOSTS_H
#define VMFERRY_TESTS_REPLICA_HOSTS_H

#include "replica_fixture.h"

#include "replicator/courier.h"
#include "replicator/protection.h"
#include "replicator/replica.h"
#include "transport/rpc.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>

/* ---- the target ---- */
#define MAX_CONNS 64
/* What replica.seed finds there, and how its reading goes. */
struct seed_at_hand {
	struct machine *m; /* its disk */
	atomic_uint fills, freed, checks;
	atomic_bool hold;   /* reads on for as long as this is true */
	atomic_bool refuse; /* the check, or reading */
	atomic_bool refuse_check;
};
static struct seed_at_hand at_hand;

struct target {
	struct tls_ctx *ctx;
	struct pool *pool;
	struct replicas *replicas;
	int lfd;
	uint16_t port;
	pthread_t thread;
	atomic_bool stopping;
	struct rpc *rpc[MAX_CONNS];
	atomic_uint n_rpc;
	uint64_t min_free;
	atomic_int lie_from; /* this commit, counted from 1, and those after it are answered with the number of the one before; 0: none */
	atomic_int commits;
	_Atomic json_int_t number;
};

static struct target target;

#define TARGET_CALL(name, with_rpc)                                                                            \
	UNUSED static int target_##name(void *ctx, struct rpc_call *call, const json_t *args, json_t **result, \
					struct err *e)                                                         \
	{                                                                                                      \
		(void)ctx, (void)call;                                                                         \
		return with_rpc;                                                                               \
	}
TARGET_CALL(begin, replicas_begin(target.replicas, rpc_connection(call), args, result, e))
TARGET_CALL(hashes, replicas_hashes(target.replicas, rpc_connection(call), args, result, e))
TARGET_CALL(truth, replicas_commit(target.replicas, rpc_connection(call), args, result, e))
TARGET_CALL(end, replicas_end(target.replicas, rpc_connection(call), args, result, e))
TARGET_CALL(status, replicas_status(target.replicas, args, result, e))
static int fill_nothing(void *ctx, struct store *s, struct err *e)
{
	(void)ctx, (void)s, (void)e;
	return 0;
}
/* As the agent does with what is left of a VM, of which there is nothing here. */
UNUSED static int target_adopt(void *ctx, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	(void)ctx;
	*result = json_object();
	return replicas_adopt(target.replicas, json_string_value(json_object_get(args, "uuid")),
			      json_string_value(json_object_get(args, "vm")), rpc_caller(call),
			      (uint64_t)json_integer_value(json_object_get(args, "epoch")), NULL, fill_nothing, NULL, e);
}
static int at_hand_fill(void *ctx, struct store *s,
			bool (*go_on)(void *arg, const char *disk, uint64_t done, uint64_t total), void *arg,
			struct err *e)
{
	const struct store_volume v = { .kind = STORE_DISK,
					.name = "vda",
					.size_bytes = at_hand.m->disk_blocks * STORE_BLOCK };
	bool wanted = true;

	(void)ctx;
	at_hand.fills++;
	if (at_hand.refuse)
		return err_set(e, ERR_REFUSED, "/old is in use by a QEMU");
	struct store_txn *t = store_begin(s, STORE_TXN_PART, e);
	int rc = t ? store_txn_volumes(t, &v, 1, e) : -1;
	for (uint64_t b = 0; b < at_hand.m->disk_blocks && rc == 0; b++)
		rc = store_txn_block(t, 0, b, at_hand.m->disk + b * STORE_BLOCK, e);
	while (rc == 0 && (wanted = go_on(arg, "vda", 1, 4)) && at_hand.hold)
		usleep(2000);
	if (rc < 0 || !wanted) {
		store_abort(t);
		return rc < 0 ? -1 : err_set(e, ERR_CANCELLED, "cancelled");
	}
	json_t *meta = json_object();
	rc = store_commit(t, meta, NULL, e);
	json_decref(meta);
	return rc;
}

static void at_hand_free(void *ctx)
{
	(void)ctx;
	at_hand.freed++;
}

static bool at_hand_go(void *ctx, const char *disk, uint64_t done, uint64_t total)
{
	struct rpc_call *call = ctx;

	if (*disk)
		rpc_note(call, json_pack("{s:s, s:I, s:I}", "disk", disk, "done", (json_int_t)done, "total",
					 (json_int_t)total));
	return !rpc_cancelled(call);
}

UNUSED static int target_seed(void *ctx, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	struct replica_seeder by = { .fill = at_hand_fill, .free = at_hand_free };

	(void)ctx;
	if (!json_is_true(json_object_get(args, "check")))
		return replicas_seed(target.replicas, rpc_caller(call), args, &by, at_hand_go, call, result, e);
	at_hand.checks++;
	if (at_hand.refuse_check)
		return err_set(e, ERR_REFUSED, "/old is in no folder that is given out for seeds");
	return replicas_seed_check(target.replicas, rpc_caller(call), args, e);
}

TARGET_CALL(release, replicas_release(target.replicas, rpc_connection(call), args, result, e))

UNUSED static int target_commit(void *ctx, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	const int rc = target_truth(ctx, call, args, result, e);

	if (rc < 0)
		return rc;
	if (target.lie_from && ++target.commits >= target.lie_from)
		json_object_set_new(*result, "seq", json_integer(target.number));
	else
		target.number = json_integer_value(json_object_get(*result, "seq"));
	return 0;
}

static const struct rpc_method target_methods[] = {
	{ "replica.begin", target_begin, 0 },
	{ "replica.hashes", target_hashes, 0 },
	{ "replica.commit", target_commit, 0 },
	{ "replica.end", target_end, 0 },
	{ "replica.status", target_status, 0 },
	{ "replica.release", target_release, 0 },
	{ "replica.adopt", target_adopt, 0 },
	{ "replica.seed", target_seed, 0 },
	{ NULL, NULL, 0 },
};

static void target_on_close(void *ctx, struct rpc *rpc, const struct err *e)
{
	(void)ctx, (void)e;
	replicas_closed(target.replicas, rpc);
}

static unsigned target_roles(void *ctx, const char *peer)
{
	(void)ctx, (void)peer;
	return ~0u;
}

static const struct rpc_service target_service = { .methods = target_methods,
						   .roles_of = target_roles,
						   .on_close = target_on_close };

static void target_serve(int fd)
{
	struct err e = ERR_INIT;
	struct link *l = link_accept(target.ctx, fd, soon(), &e);

	if (!l)
		return;
	if (strcmp(json_string_value(json_object_get(link_hello(l), "purpose")), "replica") == 0) {
		replicas_attach(target.replicas, l);
		return;
	}
	if (link_welcome(l, NULL, soon(), &e) < 0) {
		link_free(l);
		return;
	}
	struct rpc *r = rpc_start(l, &target_service, &e);
	if (r) {
		target.rpc[target.n_rpc % MAX_CONNS] = r;
		target.n_rpc++;
	}
}

static void *target_thread(void *arg)
{
	(void)arg;
	while (!target.stopping) {
		struct pollfd p = { .fd = target.lfd, .events = POLLIN };
		if (poll(&p, 1, 10) <= 0)
			continue;
		const int fd = accept4(target.lfd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0 && !target.stopping)
			target_serve(fd);
		else
			close(fd);
	}
	return NULL;
}

UNUSED static void target_start(void)
{
	struct err e = ERR_INIT;
	const struct replicas_opts o = { .host_name = "host2",
					 .replica_dir = fixture_path("target/replicas", NULL),
					 .delta_cache = 16 << 20,
					 .min_free = target.min_free ? target.min_free : 1,
					 .pool = target.pool };

	mkdir(fixture_path("target", NULL), 0700);
	target.replicas = replicas_new(&o, &e);
	ck_assert_msg(target.replicas != NULL, "%s", e.text);
	if (target.lfd < 0)
		target.lfd = fixture_listen(&target.port);
	target.stopping = false;
	target.n_rpc = 0;
	pthread_create(&target.thread, NULL, target_thread, NULL);
}

UNUSED static void target_cut(enum err_class cls, const char *text)
{
	struct err why = ERR_INIT;

	err_set(&why, cls, "%s", text);
	for (unsigned i = 0; i < target.n_rpc && i < MAX_CONNS; i++)
		rpc_close(target.rpc[i], &why);
}

/* As an agent that ends: all its connections too. */
UNUSED static void target_stop(void)
{
	if (!target.replicas)
		return;
	target.stopping = true;
	pthread_join(target.thread, NULL);
	target_cut(ERR_CANCELLED, "stopped");
	for (unsigned i = 0; i < target.n_rpc && i < MAX_CONNS; i++)
		rpc_unref(target.rpc[i]);
	replicas_free(target.replicas);
	target.replicas = NULL;
}

/* ---- the source ---- */
struct source {
	struct tls_ctx *ctx;
	pthread_mutex_t lock;
	struct rpc *rpc;
	atomic_uint connects;
};
static struct source source;

static struct rpc *connect_peer(void *ctx, const char *host, struct err *e)
{
	struct source *s = ctx;
	const struct link_peer peer = { .name = host, .address = "127.0.0.1", .port = target.port };

	THREAD_LOCKED(&s->lock);
	if (s->rpc && rpc_alive(s->rpc))
		return rpc_ref(s->rpc);
	rpc_unref(s->rpc);
	s->rpc = NULL;
	if (target.stopping || !target.replicas) {
		err_set(e, ERR_PEER, "%s cannot be reached", host);
		return NULL;
	}
	struct link *l = link_connect(s->ctx, &peer, json_pack("{s:s}", "purpose", "control"), in_ms(3000), e);
	s->rpc = l ? rpc_start(l, NULL, e) : NULL;
	s->connects++;
	return s->rpc ? rpc_ref(s->rpc) : NULL;
}

static struct link *connect_data(void *ctx, const char *host, json_t *hello, struct err *e)
{
	struct source *s = ctx;
	const struct link_peer peer = { .name = host, .address = "127.0.0.1", .port = target.port };

	return link_connect(s->ctx, &peer, hello, in_ms(3000), e);
}

/* ---- the guest and its capture ---- */
struct fake {
	pthread_mutex_t lock;
	struct machine *m;
	/* Set and looked at by the test while the protection's thread is at work. */
	atomic_bool gone, paused, autostart, not_now, fail_take, refuse_memory, busy, crashed, lock_manager, shareable;
	atomic_bool no_background; /* QEMU says so */
	bool memory_only;          /* of the capture at hand */
	atomic_bool no_colo;    /* as of a VM that only background snapshots are possible of */
	atomic_bool fail_still; /* in the middle of reading it */
	atomic_uint stills;
	void (*in_still)(void); /* called while it stands still and is read */
	atomic_uint made, taken, lasts, cleaned, stopped;
	_Atomic int64_t pause_ns;
	_Atomic int64_t take_ms;
	atomic_bool first; /* of this capture: all of the disk */
	atomic_bool aborted, taking;
	_Atomic enum capture_mode mode;
	atomic_bool left;
	void (*arm)(void *ctx, bool on, int64_t expect_ns);
	void *arm_ctx;
	atomic_bool in_vm; /* a capture has something in it */
};
static struct fake fake;

static int fake_state(void *ctx, enum guest_run *out, struct err *e)
{
	(void)ctx, (void)e;
	THREAD_LOCKED(&fake.lock);
	*out = fake.gone ? GUEST_GONE : fake.crashed ? GUEST_CRASHED : fake.paused ? GUEST_PAUSED : GUEST_RUNNING;
	return 0;
}

static int fake_info(void *ctx, struct guest_info *out, struct err *e)
{
	(void)ctx, (void)e;
	*out = (struct guest_info){ .running = true,
				    .kvm = true,
				    .lock_manager = fake.lock_manager,
				    .memory_bytes = fake.m->ram_blocks * STORE_BLOCK };
	snprintf(out->uuid, sizeof(out->uuid), "%s", GUEST_UUID);
	snprintf(out->name, sizeof(out->name), "web1");
	out->disks = mem_alloc_array(2, sizeof(*out->disks));
	for (size_t i = 0; i < 2; i++) {
		struct guest_disk *d = &out->disks[out->n_disks++];
		snprintf(d->target, sizeof(d->target), "%s", i ? "sda" : "vda");
		d->size_bytes = fake.m->disk_blocks * STORE_BLOCK;
		d->readonly = i;
		d->shareable = !i && fake.shareable;
	}
	return 0;
}

static int fake_pause(void *ctx, struct err *e)
{
	(void)ctx, (void)e;
	THREAD_LOCKED(&fake.lock);
	fake.paused = true;
	return 0;
}

static int fake_resume(void *ctx, struct err *e)
{
	(void)ctx, (void)e;
	THREAD_LOCKED(&fake.lock);
	fake.paused = false;
	return 0;
}

static int fake_autostart_off(void *ctx, bool *was, struct err *e)
{
	(void)ctx, (void)e;
	*was = atomic_exchange(&fake.autostart, false);
	return 0;
}

static void fake_free(void *ctx)
{
	free(ctx);
}

static const struct guest_ops fake_ops = { .info = fake_info,
					   .state = fake_state,
					   .pause = fake_pause,
					   .resume = fake_resume,
					   .free = fake_free,
					   .autostart_off = fake_autostart_off };

static struct guest *fake_open(void *ctx, const char *uuid, struct err *e)
{
	(void)ctx;
	THREAD_LOCKED(&fake.lock);
	if (fake.gone) {
		err_set(e, ERR_REFUSED, "VM %s is shut off", uuid);
		e->errnum = ENOENT;
		return NULL;
	}
	struct guest *g = mem_alloc(sizeof(*g));
	g->ops = &fake_ops;
	g->ctx = mem_alloc(1);
	return g;
}

static struct capture *fake_make(struct guest *g, const struct capture_opts *o, struct err *e)
{
	(void)g;
	THREAD_LOCKED(&fake.lock);
	if (fake.refuse_memory && o->mode != CAPTURE_DISK) {
		err_set(e, ERR_REFUSED, "a lock manager is configured");
		return NULL;
	}
	if (fake.no_colo && o->mode == CAPTURE_COLO) {
		err_set(e, ERR_REFUSED, "COLO is not possible here");
		return NULL;
	}
	fake.made++;
	fake.arm = o->arm;
	fake.arm_ctx = o->ctx;
	fake.first = true;
	fake.aborted = false;
	fake.in_vm = true;
	fake.mode = o->mode != CAPTURE_AUTO      ? o->mode
		    : fake.no_colo || o->no_colo ? CAPTURE_BACKGROUND
						 : CAPTURE_COLO;
	fake.memory_only = o->memory;
	return (struct capture *)&fake;
}

static enum capture_mode fake_chosen(const struct capture *c)
{
	(void)c;
	return fake.mode;
}

static const char *fake_reason(const struct capture *c)
{
	(void)c;
	return "it is a test";
}

static int fake_start(struct capture *c, const struct capture_sink *sink, struct err *e)
{
	(void)c;
	THREAD_LOCKED(&fake.lock);
	if (fake.mode == CAPTURE_BACKGROUND && fake.no_background) {
		err_set(e, ERR_REFUSED, "Background-snapshot is not supported by host kernel");
		e->errnum = ENOTSUP;
		if (fake.memory_only)
			return -1;
		err_clear(e);
		fake.mode = CAPTURE_DISK;
	}
	return fake.mode == CAPTURE_DISK ? 0 : machine_give(fake.m, sink, true, false, false, e);
}

static int fake_take(struct capture *c, const struct capture_sink *sink, struct capture_point *out, struct err *e)
{
	(void)c;
	fake.taking = true;
	if (fake.take_ms)
		usleep((useconds_t)fake.take_ms * 1000);
	THREAD_LOCKED(&fake.lock);
	fake.taking = false;
	if (fake.aborted)
		return err_set(e, ERR_CANCELLED, "aborted");
	if (fake.gone || fake.fail_take) {
		fake.fail_take = false;
		/* In the middle. */
		if (!fake.gone)
			machine_give(fake.m, sink, false, false, false, e);
		return err_set(e, ERR_LIBVIRT, "QEMU went away");
	}
	if (fake.not_now || fake.busy) {
		err_set(e, ERR_REFUSED, fake.busy ? "somebody else's block job" : "the VM is paused by its user");
		e->errnum = fake.busy ? EBUSY : EAGAIN;
		return -1;
	}
	*out = (struct capture_point){ .instant_ns = clock_wall_ns(),
				       .instant_mono_ns = clock_mono_ns(),
				       .pause_ns = fake.pause_ns,
				       .has_memory = fake.mode != CAPTURE_DISK };
	for (uint64_t b = 0; b < fake.m->ram_blocks; b++)
		out->dirty_bytes += fake.m->ram_dirty[b] ? STORE_BLOCK : 0;
	const int rc = machine_give(fake.m, sink, false, fake.first, true, e);
	fake.first = false;
	fake.taken++;
	return rc;
}

static int fake_take_last(struct capture *c, const struct capture_sink *sink, struct capture_point *out, struct err *e)
{
	const int rc = fake_take(c, sink, out, e);

	if (rc == 0)
		fake.arm(fake.arm_ctx, true, CAPTURE_HELD_NS);
	THREAD_LOCKED(&fake.lock);
	fake.lasts++;
	fake.paused = rc == 0;
	return rc;
}

static int fake_let_go(struct capture *c, struct err *e)
{
	(void)c, (void)e;
	fake.arm(fake.arm_ctx, false, 0);
	THREAD_LOCKED(&fake.lock);
	fake.paused = false;
	return 0;
}

static void fake_leave(struct capture *c)
{
	(void)c;
	THREAD_LOCKED(&fake.lock);
	fake.left = true;
}

static int fake_stop(struct capture *c, struct err *e)
{
	(void)c, (void)e;
	THREAD_LOCKED(&fake.lock);
	fake.stopped++;
	return 0;
}

static void fake_abort(struct capture *c)
{
	(void)c;
	fake.aborted = true;
}

static void fake_capture_free(struct capture *c)
{
	(void)c;
	THREAD_LOCKED(&fake.lock);
	fake.in_vm = false;
}

static int fake_clean_up(struct guest *g, struct err *e)
{
	(void)g, (void)e;
	THREAD_LOCKED(&fake.lock);
	fake.cleaned++;
	return 0;
}

static int fake_still(struct guest *g, const struct capture_sink *sink, const char *run_dir, struct err *e)
{
	(void)g, (void)run_dir;
	fake.stills++;
	if (!fake.paused)
		return err_set(e, ERR_REFUSED, "web1 runs: it would go on writing while it is read");
	if (fake.in_still)
		fake.in_still();
	THREAD_LOCKED(&fake.lock);
	if (fake.fail_still)
		return machine_give(fake.m, sink, false, false, false, e) < 0
			       ? -1
			       : err_set(e, ERR_LIBVIRT, "QEMU went away");
	return machine_give(fake.m, sink, true, true, true, e);
}

static const struct capture_calls fake_calls = { .make = fake_make,
						 .chosen = fake_chosen,
						 .reason = fake_reason,
						 .start = fake_start,
						 .take = fake_take,
						 .take_last = fake_take_last,
						 .let_go = fake_let_go,
						 .leave = fake_leave,
						 .stop = fake_stop,
						 .abort = fake_abort,
						 .free = fake_capture_free,
						 .clean_up = fake_clean_up,
						 .still = fake_still };

/* ---- both ---- */
UNUSED static void hosts_start(void)
{
	struct err e = ERR_INIT;

	signal(SIGPIPE, SIG_IGN);
	log_set_level(LOG_LEVEL_ERROR);
	replica_no_sync();
	memset(&target, 0, sizeof(target));
	memset(&source, 0, sizeof(source));
	memset(&fake, 0, sizeof(fake));
	memset(&at_hand, 0, sizeof(at_hand));
	fixture_fleet(&source.ctx, &target.ctx);
	pthread_mutex_init(&source.lock, NULL);
	pthread_mutex_init(&fake.lock, NULL);
	fake.m = machine_new(1024, 256);
	for (uint64_t b = 0; b < 1024; b++)
		if (b % 3)
			machine_write(fake.m, false, b, 1);
	for (uint64_t b = 0; b < 256; b++)
		if (b % 3)
			machine_write(fake.m, true, b, 1);
	fake.pause_ns = 2 * NS_PER_MS;
	target.pool = pool_new(2, "codec", 0, &e);
	target.lfd = -1;
	mkdir(fixture_path("source", NULL), 0700);
	target_start();
}

UNUSED static void hosts_end(void)
{
	struct err e = ERR_INIT;

	OK(fault_arm(NULL, &e), e);
	rpc_unref(source.rpc);
	target_stop();
	fd_close(&target.lfd);
	pool_free(target.pool);
	machine_free(fake.m);
	if (at_hand.m)
		machine_free(at_hand.m);
	tls_ctx_free(source.ctx);
	tls_ctx_free(target.ctx);
	fixture_clean();
}

#endif
