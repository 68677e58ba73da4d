#include "tools/vmferryd/agent.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "replicator/folders.h"
#include "tools/vmferryd/boot_host.h"
#include "tools/vmferryd/catalogue.h"
#include "tools/vmferryd/control.h"
#include "tools/vmferryd/declarer.h"
#include "tools/vmferryd/listener.h"
#include "tools/vmferryd/recovery.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define STOP_GRACE_NS (30 * NS_PER_S)
#define STOP_LOOK_NS (20 * NS_PER_MS)

_Static_assert(CONFIG_DEFAULT_PORT == LINK_DEFAULT_PORT, "one default port");

bool agent_stopping(struct agent *a)
{
	return __atomic_load_n(&a->stopping, __ATOMIC_SEQ_CST);
}

void agent_event(void *ctx, const char *type, const char *vm_uuid, json_t *data)
{
	struct agent *a = ctx;
	struct err e = ERR_INIT;
	/* An event that cannot be kept is no reason to stop a migration; the log has it. */
	if (outbox_append(a->outbox, type, vm_uuid, data, NULL, &e) < 0) {
		char *text = json_dumps(data, JSON_COMPACT);
		log_error("event_not_kept", "type=%s uuid=%s msg=%s data=%s", type, vm_uuid ? vm_uuid : "-",
			  LOG_Q(e.text), LOG_Q(text ? text : "{}"));
		free(text);
	} else {
		const char *vm = json_string_value(json_object_get(data, "vm"));
		log_info("event", "type=%s uuid=%s vm=%s", type, vm_uuid ? vm_uuid : "-", LOG_Q(vm ? vm : ""));
	}
	const struct settings_view *view = settings_get(a->settings);
	catalogue_event(a->outbox, view->config->name, type, vm_uuid, data);
	settings_put(a->settings, view);
	json_decref(data);
}

static void note_points(void *ctx, const char *vm_uuid, const struct replica_news *news, size_t n)
{
	struct agent *a = ctx;
	catalogue_points(a->outbox, vm_uuid, news, n);
}

static struct rpc *connect_peer(void *ctx, const char *host, struct err *e)
{
	const struct agent *a = ctx;
	return peers_connect(a->peers, host, e);
}

static struct link *connect_data(void *ctx, const char *host, json_t *hello, struct err *e)
{
	const struct agent *a = ctx;
	return peers_connect_data(a->peers, host, hello, e);
}

/* Two agents with one state folder would undo each other's migrations. */
static int lock_state(const char *dir, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/lock", dir);
	FD_AUTO int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(e, "open %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return err_sys(e, "lock %s", path);
		err_set(e, ERR_REFUSED, "another vmferryd runs with the state folder %s", dir);
		return err_remedy(
			e, "stop it (systemctl stop vmferryd), or give this one a state_dir and run_dir of its own");
	}
	int out = fd;
	fd = -1;
	return out;
}

static struct outbox *open_outbox(const char *dir, struct err *e)
{
	MEM_AUTO char *path = mem_printf("%s/events.db", dir);
	struct outbox *o = outbox_open(path, 0, e);
	if (o || e->cls != ERR_CORRUPT)
		return o;
	/* Events are worth keeping, but not worth an agent that does not start. */
	MEM_AUTO char *moved = NULL;
	struct err why = *e;
	err_clear(e);
	if (outbox_set_aside(path, &moved, e) < 0)
		return NULL;
	log_error("events_set_aside", "from=%s to=%s msg=%s", LOG_Q(path), LOG_Q(moved), LOG_Q(why.text));
	o = outbox_open(path, 0, e);
	if (o) {
		json_t *data = json_pack("{s:s, s:s}", "moved_to", moved, "reason", why.text);
		struct err ignored = ERR_INIT;
		outbox_append(o, "agent.events_set_aside", NULL, data, NULL, &ignored);
		json_decref(data);
	}
	return o;
}

/* QEMU, whose user is not root, passes through state_dir to replicas that were promoted (replicator/failover_disks.c). */
static int make_folders(const struct config *c, struct err *e)
{
	if (file_mkdirs(c->state_dir, 0711, e) < 0 || file_mkdirs(c->run_dir, 0755, e) < 0)
		return err_remedy(e,
				  "run as root, or let state_dir and run_dir name folders that this user may write to");
	return 0;
}

/* For libvirt's hook, which reads the configuration of that name alone. Not for want of this there is no agent. */
static void note_folders(const struct agent *a, const struct config *c)
{
	struct err e = ERR_INIT;

	if (strcmp(settings_path(a->settings), CONFIG_DEFAULT_PATH) != 0)
		return;
	if (folders_note(FOLDERS_PATH, c->state_dir, c->replication.replica_dir, &e) < 0)
		log_warn("folders_not_noted", "msg=%s", LOG_Q(e.text));
}

/* A protection's capture and a migration cannot be in one QEMU at a time; the protection waits. */
static int hold_vm(void *ctx, const char *vm, struct err *e)
{
	struct agent *a = ctx;
	return replicator_hold_vm(a->replicator, vm, "it is being migrated", e);
}

static void let_go_of_vm(void *ctx, const char *vm)
{
	struct agent *a = ctx;
	replicator_release_vm(a->replicator, vm);
}

static struct migrator_tuning tuning_of(const struct config *c)
{
	return (struct migrator_tuning){
		.image_dir = c->migration.image_dir[0] ? c->migration.image_dir : NULL,
		.delta_cache = c->migration.delta_cache,
		.channels = c->migration.channels,
		.workers = c->migration.workers,
		.max_jobs = c->migration.max_jobs,
	};
}

static struct migrator *start_migrator(struct agent *a, const struct config *c, struct err *e)
{
	const struct migrator_opts opts = {
		.host_name = c->name,
		.libvirt_uri = c->libvirt.uri,
		.libvirt_socket = c->libvirt.socket,
		.run_dir = c->run_dir,
		.state_dir = c->state_dir,
		.qemu_group = c->libvirt.qemu_group[0] ? c->libvirt.qemu_group : NULL,
		.rate_limit = 0, /* calls.c puts the configured one into every call, so that a reload changes it */
		.tuning = tuning_of(c),
		.connect_peer = connect_peer,
		.connect_data = connect_data,
		.event = agent_event,
		.hold = hold_vm,
		.let_go = let_go_of_vm,
		.ctx = a,
	};
	return migrator_new(&opts, e);
}

static struct guest *open_guest(void *ctx, const char *vm, struct err *e)
{
	struct agent *a = ctx;
	return migrator_open_guest(a->migrator, vm, e);
}

static int watch(void *ctx, const char *uuid, struct err *e)
{
	const struct agent *a = ctx;
	return guard_watch(a->guard, uuid, e);
}

static int hold(void *ctx, const char *uuid, int fd, bool read_on, struct err *e)
{
	const struct agent *a = ctx;
	return guard_hold(a->guard, uuid, fd, read_on, e);
}

static void arm(void *ctx, const char *uuid, int64_t deadline_ns)
{
	const struct agent *a = ctx;
	guard_arm(a->guard, uuid, deadline_ns);
}

static void unwatch(void *ctx, const char *uuid)
{
	const struct agent *a = ctx;
	guard_unwatch(a->guard, uuid);
}

static int part(void *ctx, const char *uuid, struct err *e)
{
	const struct agent *a = ctx;
	return guard_part(a->guard, uuid, e);
}

static struct replicator *start_replicator(struct agent *a, const struct config *c, struct err *e)
{
	a->boot = boot_host_new(c->libvirt.uri, e);
	if (!a->boot)
		return NULL;
	const struct replicator_opts opts = {
		.host_name = c->name,
		.state_dir = c->state_dir,
		.replica_dir = c->replication.replica_dir,
		.delta_cache = c->replication.delta_cache,
		.staging_bytes = c->replication.staging,
		.channels = c->replication.channels,
		.workers = c->migration.workers,
		.connect_peer = connect_peer,
		.connect_data = connect_data,
		.event = agent_event,
		.points = note_points,
		.open_guest = open_guest,
		.watch = watch,
		.hold = hold,
		.arm = arm,
		.unwatch = unwatch,
		.part = part,
		.boot = &boot_host_calls,
		.boot_ctx = a->boot,
		.ctx = a,
	};
	return replicator_new(&opts, e);
}

static int start_parts(struct agent *a, const struct config *c, struct err *e)
{
	if (make_folders(c, e) < 0)
		return -1;
	a->lock_fd = lock_state(c->state_dir, e);
	if (a->lock_fd < 0)
		return -1;
	note_folders(a, c);
	a->outbox = open_outbox(c->state_dir, e);
	if (!a->outbox)
		return -1;
	a->kafka = kafka_start(a->outbox, c);
	a->peers = peers_new(a->settings);
	a->clients = clients_new(a, e);
	if (!a->clients)
		return -1;
	a->migrator = start_migrator(a, c, e);
	if (!a->migrator)
		return -1;
	a->guard = guard_start(c);
	a->replicator = start_replicator(a, c, e);
	if (!a->replicator)
		return -1;
	guard_tell(a->guard, a->replicator);
	recovery_start(a);
	a->control = control_start(a, e);
	if (!a->control)
		return -1;
	a->listener = listener_start(a, e);
	if (!a->listener)
		return -1;
	a->declarer = declarer_start(a, e);
	return a->declarer ? 0 : -1;
}

struct agent *agent_start(struct settings *settings, struct err *e)
{
	struct agent *a = mem_alloc(sizeof(*a));
	a->started_ns = clock_mono_ns();
	a->lock_fd = -1;
	a->settings = settings;
	const struct settings_view *view = settings_get(settings);
	int rc = start_parts(a, view->config, e);
	if (rc == 0)
		agent_event(a, "agent.started", NULL,
			    json_pack("{s:s, s:s}", "host", view->config->name, "version", VMFERRY_VERSION));
	settings_put(settings, view);
	if (rc == 0)
		return a;
	agent_stop(a);
	return NULL;
}

void agent_reload(struct agent *a)
{
	struct err e = ERR_INIT;
	if (settings_reload(a->settings, &e) < 0) {
		log_error("reload_failed", "class=%s msg=%s remedy=%s", err_class_name(e.cls), LOG_Q(e.text),
			  LOG_Q(e.remedy));
		return;
	}
	const struct settings_view *view = settings_get(a->settings);
	kafka_reload(a->kafka, view->config);
	const struct migrator_tuning tuning = tuning_of(view->config);
	migrator_tune(a->migrator, &tuning);
	settings_put(a->settings, view);
	peers_forget(a->peers);
	clients_drop_unknown(a->clients);
	declarer_reload(a->declarer);
	log_info("reloaded", "state=%s", "ok");
}

/* The calls under way see agent_stopping and cancel what they do; their callers still get an answer. */
static void wait_for_calls(struct agent *a)
{
	int64_t end = clock_mono_ns() + STOP_GRACE_NS;
	while (__atomic_load_n(&a->calls, __ATOMIC_SEQ_CST) > 0 && clock_mono_ns() < end)
		usleep((useconds_t)(STOP_LOOK_NS / 1000));
	unsigned left = __atomic_load_n(&a->calls, __ATOMIC_SEQ_CST);
	if (left)
		log_warn("stop_impatient", "calls=%u", left);
}

void agent_stop(struct agent *a)
{
	if (!a)
		return;
	__atomic_store_n(&a->stopping, true, __ATOMIC_SEQ_CST);
	if (a->outbox)
		outbox_wake(a->outbox);
	declarer_stop(a->declarer);
	listener_stop(a->listener);
	wait_for_calls(a);
	control_stop(a->control); /* later than the listener: `vmferry jobs' answers while migrations end */
	clients_stop(a->clients);
	guard_tell(a->guard, NULL);
	replicator_free(a->replicator);
	boot_host_free(a->boot);
	guard_stop(a->guard); /* what a capture could not tidy up is let go by it */
	migrator_free(a->migrator);
	peers_free(a->peers);
	clients_free(a->clients);
	if (a->listener) {
		const struct settings_view *view = settings_get(a->settings);
		agent_event(a, "agent.stopped", NULL, json_pack("{s:s}", "host", view->config->name));
		settings_put(a->settings, view);
	}
	kafka_stop(a->kafka);
	outbox_close(a->outbox);
	fd_close(&a->lock_fd);
	settings_free(a->settings);
	free(a);
}
