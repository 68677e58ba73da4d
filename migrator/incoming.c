#include "migrator/incoming.h"

#include "base/child.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "migrator/gate.h"
#include "migrator/images.h"
#include "migrator/jobstats.h"
#include "migrator/recover.h"
#include "migrator/relay.h"
#include "migrator/sessions.h"
#include "migrator/virt.h"
#include "migrator/volumes.h"
#include "migrator/where.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_LINKS 16
#define DRAIN_NS (10 * NS_PER_S)   /* for the relay's last bytes after a migration that worked */
#define CLEANUP_NS (20 * NS_PER_S) /* for libvirtd to end a QEMU whose migration failed */

struct link_set {
	struct link *link[MAX_LINKS];
	size_t want;
	size_t have;
};

/* One session. Made by migrate.begin; taken out of the table by whoever winds it up. */
struct incoming {
	struct incoming *next; /* migrator.lock */

	/* fixed after begin */
	struct migrator *m;
	char session[SESSION_ID_LEN];
	char uuid[MIGRATOR_UUID_LEN];
	char name[256];
	char peer[256];
	char dir[108];
	const struct rpc *owner; /* compared, never followed */
	uint32_t slots;
	bool autostart;
	json_t *record; /* as journalled; "images" is what was made */

	/* migrator.lock */
	struct link_set forward, backward;
	struct gate *gate; /* between the relay and libvirtd */
	struct relay *relay;
	bool ending;
	bool busy;    /* a call of offline.h is under way; winding up waits for it */
	pid_t export; /* qemu-nbd, or -1 */
};

static void free_links(struct link_set *s)
{
	for (size_t i = 0; i < s->want; i++)
		link_free(s->link[i]);
}

static void incoming_free(struct incoming *in)
{
	if (!in)
		return;
	relay_free(in->relay);
	gate_free(in->gate);
	free_links(&in->forward);
	free_links(&in->backward);
	json_decref(in->record);
	free(in);
}

static struct incoming *find_locked(struct migrator *m, const char *session)
{
	for (struct incoming *in = m->incoming; in; in = in->next)
		if (strcmp(in->session, session) == 0)
			return in;
	return NULL;
}

static struct incoming *find_uuid_locked(struct migrator *m, const char *uuid)
{
	for (struct incoming *in = m->incoming; in; in = in->next)
		if (strcmp(in->uuid, uuid) == 0)
			return in;
	return NULL;
}

bool incoming_has(struct migrator *m, const char *uuid)
{
	THREAD_LOCKED(&m->lock);
	return find_uuid_locked(m, uuid) != NULL;
}

void incoming_list_locked(struct migrator *m, json_t *jobs)
{
	for (const struct incoming *in = m->incoming; in; in = in->next) {
		struct relay_stats s = { 0 };
		if (in->relay)
			relay_get_stats(in->relay, &s);
		json_array_append_new(jobs, json_pack("{s:s, s:s, s:s, s:s, s:s, s:I}", "vm", in->name, "uuid",
						      in->uuid, "direction", "in", "peer", in->peer, "phase",
						      in->ending ? "ending" : "incoming", "wire_bytes",
						      (json_int_t)s.wire_bytes));
	}
}

static void unlink_session(struct migrator *m, struct incoming *in)
{
	THREAD_LOCKED(&m->lock);
	for (struct incoming **p = &m->incoming; *p; p = &(*p)->next) {
		if (*p == in) {
			*p = in->next;
			break;
		}
	}
	pthread_cond_broadcast(&m->changed);
}

static unsigned count_locked(const struct migrator *m)
{
	unsigned n = 0;
	for (const struct incoming *in = m->incoming; in; in = in->next)
		n++;
	return n;
}

/* ---- begin ---- */

/* Is there nothing of that UUID that the migration would collide with? */
static int check_vm_absent(virConnectPtr conn, const struct incoming *in, struct err *e)
{
	enum where w;

	if (where_is(conn, in->uuid, &w, NULL, e) != 0)
		return -1;
	if (w == WHERE_ABSENT || w == WHERE_SHUTOFF)
		return 0;
	err_set(e, ERR_REFUSED, "VM %s is %s on %s already", in->name, where_name(w), in->m->opts.host_name);
	return err_remedy(e, "look at both hosts with 'vmferry vms' before anything else: a VM must run once only");
}

static int table_add(struct migrator *m, struct incoming *in, struct err *e)
{
	THREAD_LOCKED(&m->lock);
	if (m->stopping)
		return err_set(e, ERR_REFUSED, "%s is shutting down", m->opts.host_name);
	if (find_uuid_locked(m, in->uuid))
		return err_set(e, ERR_REFUSED, "VM %s is being migrated to %s already", in->name, m->opts.host_name);
	if (count_locked(m) >= m->tuning.max_jobs) {
		err_set(e, ERR_REFUSED, "%s is receiving %u migrations already", m->opts.host_name, m->tuning.max_jobs);
		return err_remedy(e, "wait for one to end, or raise migration.max_jobs on that host");
	}
	in->next = m->incoming;
	m->incoming = in;
	return 0;
}

static int parse_begin(struct incoming *in, const json_t *args, struct err *e)
{
	const char *uuid = json_string_value(json_object_get(args, "uuid"));
	const char *name = json_string_value(json_object_get(args, "name"));
	json_int_t slots = json_integer_value(json_object_get(args, "slots"));
	json_int_t forward = json_integer_value(json_object_get(args, "forward"));
	json_int_t backward = json_integer_value(json_object_get(args, "backward"));
	uint64_t ours = migrator_tuning_now(in->m).delta_cache / CODEC_PAGE_SIZE;

	if (!uuid || strlen(uuid) != MIGRATOR_UUID_LEN - 1 || !name || strlen(name) >= sizeof in->name || slots < 0 ||
	    forward < 1 || forward > MAX_LINKS || backward < 1 || backward > MAX_LINKS)
		return err_set(e, ERR_PROTOCOL, "migrate.begin: a value is missing or out of range");
	snprintf(in->uuid, sizeof in->uuid, "%s", uuid);
	snprintf(in->name, sizeof in->name, "%s", name);
	in->autostart = json_is_true(json_object_get(args, "autostart"));
	in->slots = (uint64_t)slots < ours ? (uint32_t)slots : (uint32_t)ours;
	in->forward.want = (size_t)forward;
	in->backward.want = (size_t)backward;
	return 0;
}

/* Everything on this host's disk, journalled before it is made. On failure the caller winds up. */
static int prepare(struct incoming *in, const json_t *args, struct err *e)
{
	struct migrator *m = in->m;
	const json_t *disks = json_object_get(args, "disks");
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(m->virt, e);
	MEM_AUTO char *image_dir = migrator_image_dir(m);
	size_t i;
	json_t *disk;

	if (!conn || check_vm_absent(conn, in, e) != 0 || images_check(conn, image_dir, disks, e) != 0)
		return -1;
	if (session_make_dir(m->opts.run_dir, in->session, m->opts.qemu_group, in->dir, sizeof in->dir, e) != 0)
		return -1;
	json_t *planned = json_array();
	json_array_foreach (disks, i, disk)
		json_array_append(planned, json_object_get(disk, "path"));
	in->record = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:o, s:b}", "session", in->session, "direction",
			       "in", "uuid", in->uuid, "name", in->name, "peer", in->peer, "started",
			       (json_int_t)clock_wall_ns(), "dir", in->dir, "images", planned, "autostart",
			       (int)in->autostart);
	if (sessions_save(m->opts.state_dir, in->record, e) != 0)
		return -1;
	if (fault_point(FAULT_BEGIN_TARGET, e) != 0)
		return -1;
	json_t *made = json_array();
	int rc = images_create(disks, made, e);
	volumes_refresh(conn, made);
	json_object_set_new(in->record, "images", made);
	if (rc != 0)
		return -1;
	return fault_point(FAULT_IMAGES_TARGET, e);
}

static enum where wind_up(struct incoming *in, bool done);

int migrator_incoming_begin(struct migrator *m, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	struct incoming *in = mem_alloc(sizeof *in);

	in->m = m;
	in->owner = rpc;
	in->export = -1;
	snprintf(in->peer, sizeof in->peer, "%s", rpc_peer_name(rpc));
	if (session_new_id(in->session, e) != 0 || parse_begin(in, args, e) != 0 || table_add(m, in, e) != 0) {
		incoming_free(in);
		return -1;
	}
	if (prepare(in, args, e) != 0) {
		wind_up(in, false);
		return -1;
	}
	log_info("incoming_begin", "session=%s vm=%s uuid=%s from=%s", in->session, in->name, in->uuid, in->peer);
	*result = json_pack("{s:s, s:s, s:I}", "session", in->session, "dir", in->dir, "slots", (json_int_t)in->slots);
	return 0;
}

/* ---- data links ---- */

static void relay_failed(void *ctx, const struct err *e)
{
	struct incoming *in = ctx;
	log_warn("incoming_relay_failed", "session=%s vm=%s msg=%s", in->session, in->name, LOG_Q(e->text));
	/* The relay has closed its local sockets. The source notices too, by its own links, and ends the session. */
}

/* All links are there: start. migrator.lock is held. */
static int start_relay_locked(struct incoming *in, struct err *e)
{
	char libvirt_path[128], nbd_path[128], mig_path[128];

	snprintf(nbd_path, sizeof nbd_path, "%s/nbd.sock", in->dir);
	snprintf(mig_path, sizeof mig_path, "%s/mig.sock", in->dir);
	snprintf(libvirt_path, sizeof libvirt_path, "%s/libvirt.sock", in->dir);
	struct gate_opts go = {
		.listen_path = libvirt_path,
		.upstream_path = in->m->opts.libvirt_socket,
		.filter = true,
		.name = in->name,
	};
	in->gate = gate_start(&go, e);
	if (!in->gate)
		return -1;
	struct relay_opts o = {
		.source = false,
		.path = { [RELAY_LIBVIRT] = libvirt_path, [RELAY_NBD] = nbd_path, [RELAY_MIGRATION] = mig_path },
		.slots = in->slots,
		.workers = in->m->tuning.workers,
		.fixed_level = RELAY_LEVEL_AUTO,
		.on_error = relay_failed,
		.ctx = in,
	};
	/* Our batches go backward, the source's come forward. */
	in->relay = relay_start(&o, in->backward.link, in->backward.want, in->forward.link, in->forward.want, e);
	memset(in->backward.link, 0, sizeof in->backward.link);
	memset(in->forward.link, 0, sizeof in->forward.link);
	return in->relay ? 0 : -1;
}

/* The set and place the HELLO names; NULL with the error set. migrator.lock is held. */
static struct link **place_locked(struct migrator *m, const struct link *l, struct incoming **out,
				  struct link_set **set, struct err *e)
{
	const json_t *hello = link_hello(l);
	const char *session = json_string_value(json_object_get(hello, "session"));
	const char *direction = json_string_value(json_object_get(hello, "direction"));
	json_int_t index = json_integer_value(json_object_get(hello, "index"));
	struct incoming *in = session ? find_locked(m, session) : NULL;

	if (!in || in->ending || strcmp(in->peer, link_peer_name(l)) != 0) {
		err_set(e, ERR_REFUSED, "no such session of %s", link_peer_name(l));
		return NULL;
	}
	bool forward = direction && strcmp(direction, "forward") == 0;
	if (!forward && (!direction || strcmp(direction, "backward") != 0)) {
		err_set(e, ERR_PROTOCOL, "a data link without a direction");
		return NULL;
	}
	*set = forward ? &in->forward : &in->backward;
	if (in->relay || index < 0 || (size_t)index >= (*set)->want || (*set)->link[index]) {
		err_set(e, ERR_PROTOCOL, "data link %lld is not expected", (long long)index);
		return NULL;
	}
	*out = in;
	return &(*set)->link[index];
}

void migrator_incoming_attach(struct migrator *m, struct link *l)
{
	struct err e = ERR_INIT;
	struct incoming *in = NULL;
	struct link_set *set = NULL;

	if (fault_point(FAULT_CHANNEL_ACCEPT, &e) != 0) {
		link_refuse(l, &e);
		return;
	}
	/* Welcomed before it is put in place: from then on its thread is the relay's. The session may be gone by then. */
	pthread_mutex_lock(&m->lock);
	struct link **place = place_locked(m, l, &in, &set, &e);
	pthread_mutex_unlock(&m->lock);
	if (!place) {
		log_warn("data_link_refused", "peer=%s addr=%s msg=%s", link_peer_name(l), link_peer_addr(l),
			 LOG_Q(e.text));
		link_refuse(l, &e);
		return;
	}
	if (link_welcome(l, json_object(), clock_mono_ns() + 5 * NS_PER_S, &e) != 0) {
		log_warn("data_link_lost", "peer=%s msg=%s", link_peer_name(l), LOG_Q(e.text));
		link_free(l);
		return;
	}
	THREAD_LOCKED(&m->lock);
	place = place_locked(m, l, &in, &set, &e);
	if (!place) {
		link_free(l);
		return;
	}
	*place = l;
	set->have++;
	if (in->forward.have < in->forward.want || in->backward.have < in->backward.want)
		return;
	if (start_relay_locked(in, &e) != 0)
		log_error("incoming_relay", "session=%s vm=%s msg=%s", in->session, in->name, LOG_Q(e.text));
}

/* ---- end ---- */

/* Waits until libvirtd has put the VM in a state that lasts. */
static int settle(struct migrator *m, const char *uuid, int64_t deadline_ns, enum where *out, struct err *e)
{
	const struct timespec pause = { .tv_nsec = 50 * NS_PER_MS };

	for (;;) {
		VIRT_CONN_AUTO virConnectPtr conn = virt_get(m->virt, e);
		if (!conn || where_is(conn, uuid, out, NULL, e) != 0)
			return -1;
		/* LEFT at the target: QEMU has the state, Finish has not come, or post-copy has failed. */
		if (*out != WHERE_INCOMING && *out != WHERE_LEFT)
			return 0;
		if (clock_mono_ns() >= deadline_ns)
			return 0;
		nanosleep(&pause, NULL);
	}
}

/* libvirt leaves it behind. True: the host starts it from now on. */
static bool set_autostart(struct migrator *m, const char *uuid)
{
	struct err e = ERR_INIT;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(m->virt, &e);
	VIRT_DOM_AUTO virDomainPtr dom = conn ? virDomainLookupByUUIDString(conn, uuid) : NULL;

	if (dom && virDomainSetAutostart(dom, 1) == 0)
		return true;
	if (conn)
		virt_err(&e, "let the host start VM %s", uuid);
	log_warn("autostart", "uuid=%s msg=%s", uuid, LOG_Q(e.text));
	return false;
}

/* What is left of a session whose connections are all closed, put in order by what libvirt says. 0, or 1: try again later. */
static int clean_up(struct migrator *m, const json_t *record, bool done, enum where *out)
{
	const char *uuid = json_string_value(json_object_get(record, "uuid"));
	const char *name = json_string_value(json_object_get(record, "name"));
	const char *session = json_string_value(json_object_get(record, "session"));
	const char *dir = json_string_value(json_object_get(record, "dir"));
	struct err e = ERR_INIT;

	*out = WHERE_INCOMING;
	if (settle(m, uuid, clock_mono_ns() + CLEANUP_NS, out, &e) != 0) {
		log_error("incoming_unsettled", "session=%s vm=%s msg=%s", session, name, LOG_Q(e.text));
		return 1;
	}
	if (*out == WHERE_INCOMING || *out == WHERE_LEFT) {
		log_error("incoming_unsettled", "session=%s vm=%s state=%s msg=%s", session, name, where_name(*out),
			  LOG_Q("libvirt still holds a VM whose migration ended; its images are kept"));
		return 1;
	}
	/* When the source's word is lost: one that runs has come by this session, one that is shut off may have been here before. */
	if (!done && (*out == WHERE_RUNNING || *out == WHERE_PAUSED) &&
	    json_is_true(json_object_get(record, "autostart")))
		set_autostart(m, uuid);
	/* A domain of that UUID, running or only defined, may use them. */
	if (*out == WHERE_ABSENT)
		images_remove(json_object_get(record, "images"));
	if (dir)
		session_remove_dir(dir);
	if (sessions_remove(m->opts.state_dir, session, &e) != 0) {
		log_error("session_journal", "session=%s msg=%s", session, LOG_Q(e.text));
		return 1;
	}
	return 0;
}

/* Ends the session, whatever state it is in; frees it. Returns where the VM is on this host. */
static enum where wind_up(struct incoming *in, bool done)
{
	struct migrator *m = in->m;
	enum where w = WHERE_INCOMING;
	struct err e = ERR_INIT;
	struct relay *relay;

	pthread_mutex_lock(&m->lock);
	in->ending = true;
	while (in->busy)
		pthread_cond_wait(&m->changed, &m->lock);
	relay = in->relay;
	pthread_mutex_unlock(&m->lock);

	if (relay && done && relay_finish(relay, clock_mono_ns() + DRAIN_NS, &e) != 0)
		log_warn("incoming_relay_end", "session=%s msg=%s", in->session, LOG_Q(e.text));
	if (relay)
		relay_abort(relay);
	relay_free(relay);
	in->relay = NULL;
	child_stop(in->export);
	if (in->record)
		clean_up(m, in->record, done, &w);
	else if (in->dir[0])
		session_remove_dir(in->dir);
	log_info("incoming_end", "session=%s vm=%s from=%s outcome=%s state=%s", in->session, in->name, in->peer,
		 done ? "done" : "failed", where_name(w));
	unlink_session(m, in);
	incoming_free(in);
	return w;
}

/* Takes the right to wind the session up, or NULL. */
static struct incoming *claim(struct migrator *m, const char *session, const struct rpc *owner)
{
	THREAD_LOCKED(&m->lock);
	for (struct incoming *in = m->incoming; in; in = in->next) {
		if (in->ending || (owner && in->owner != owner) || (session && strcmp(in->session, session) != 0))
			continue;
		in->ending = true;
		return in;
	}
	return NULL;
}

/* What libvirt measured: the source has forgotten the VM, so only this host can say. */
static void add_statistics(struct migrator *m, const char *uuid, json_t *answer)
{
	struct err e = ERR_INIT;
	struct jobstats s;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(m->virt, &e);
	VIRT_DOM_AUTO virDomainPtr dom = conn ? virDomainLookupByUUIDString(conn, uuid) : NULL;

	if (!dom || jobstats_get(dom, VIR_DOMAIN_JOB_STATS_COMPLETED, &s, &e) != 0)
		return;
	if (s.has_downtime)
		json_object_set_new(answer, "downtime_ms", json_integer((json_int_t)s.downtime_ms));
	json_object_set_new(answer, "iterations", json_integer((json_int_t)s.iteration));
	json_object_set_new(answer, "memory_bytes", json_integer((json_int_t)s.memory_processed));
}

/* The source's policy paused the guest so that the migration could end. */
static enum where resume_here(struct migrator *m, const char *uuid)
{
	struct err e = ERR_INIT;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(m->virt, &e);

	if (conn && recover_resume_vm(conn, uuid, &e) == 0)
		return WHERE_RUNNING;
	log_error("resume_failed", "uuid=%s msg=%s", uuid, LOG_Q(e.text));
	return WHERE_PAUSED;
}

int migrator_incoming_end(struct migrator *m, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	const char *session = json_string_value(json_object_get(args, "session"));
	const char *outcome = json_string_value(json_object_get(args, "outcome"));

	if (session_check_id(session, e) != 0)
		return -1;
	if (fault_point(FAULT_END_TARGET, e) != 0)
		return -1;
	struct incoming *in = claim(m, session, rpc);
	if (!in)
		return err_set(e, ERR_REFUSED, "no such session of %s", rpc_peer_name(rpc));
	char uuid[MIGRATOR_UUID_LEN];
	memcpy(uuid, in->uuid, sizeof uuid);
	const bool autostart = in->autostart;
	bool done = outcome && strcmp(outcome, "done") == 0;
	enum where w = wind_up(in, done);
	if (done && w == WHERE_PAUSED && json_is_true(json_object_get(args, "resume")))
		w = resume_here(m, uuid);
	*result = json_pack("{s:s}", "state", where_name(w));
	if (done && autostart)
		json_object_set_new(*result, "autostart", json_boolean(set_autostart(m, uuid)));
	if (done)
		add_statistics(m, uuid, *result);
	return 0;
}

/* ---- a VM that is shut off (incoming_offline.c) ---- */

/* Takes the session for one such call, or NULL with the error set. */
static struct incoming *borrow(struct migrator *m, struct rpc *rpc, const json_t *args, struct err *e)
{
	const char *session = json_string_value(json_object_get(args, "session"));

	if (session_check_id(session, e) != 0)
		return NULL;
	THREAD_LOCKED(&m->lock);
	struct incoming *in = find_locked(m, session);
	if (!in || in->ending || in->busy || in->owner != rpc) {
		err_set(e, ERR_REFUSED, "no such session of %s", rpc_peer_name(rpc));
		return NULL;
	}
	in->busy = true;
	return in;
}

static void give_back(struct incoming *in)
{
	THREAD_LOCKED(&in->m->lock);
	in->busy = false;
	pthread_cond_broadcast(&in->m->changed);
}

static struct incoming_view view_of(const struct incoming *in)
{
	return (struct incoming_view){
		.m = in->m, .uuid = in->uuid, .dir = in->dir, .images = json_object_get(in->record, "images")
	};
}

int migrator_incoming_export(struct migrator *m, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	struct incoming *in = borrow(m, rpc, args, e);
	if (!in)
		return -1;
	struct incoming_view v = view_of(in);
	int rc = in->export > 0 ? err_set(e, ERR_PROTOCOL, "an image is being copied already")
				: incoming_export_start(&v, args, &in->export, e);
	give_back(in);
	*result = NULL;
	return rc;
}

int migrator_incoming_unexport(struct migrator *m, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	struct incoming *in = borrow(m, rpc, args, e);
	if (!in)
		return -1;
	struct incoming_view v = view_of(in);
	incoming_export_stop(&v, &in->export);
	give_back(in);
	*result = NULL;
	return 0;
}

int migrator_incoming_define(struct migrator *m, struct rpc *rpc, const json_t *args, json_t **result, struct err *e)
{
	struct incoming *in = borrow(m, rpc, args, e);
	if (!in)
		return -1;
	struct incoming_view v = view_of(in);
	int rc = incoming_define(&v, args, result, e);
	give_back(in);
	return rc;
}

static void *wind_up_thread(void *arg)
{
	wind_up(arg, false);
	return NULL;
}

void migrator_incoming_closed(struct migrator *m, struct rpc *rpc)
{
	struct incoming *in;

	while ((in = claim(m, NULL, rpc)) != NULL) {
		struct err e = ERR_INIT;
		log_warn("incoming_orphaned", "session=%s vm=%s from=%s", in->session, in->name, in->peer);
		/* First of all: QEMU and libvirt must see their connections end. The rest can take seconds. */
		pthread_mutex_lock(&m->lock);
		if (in->relay)
			relay_abort(in->relay);
		pthread_mutex_unlock(&m->lock);
		if (thread_start_detached("wind-up", wind_up_thread, in, &e) != 0)
			wind_up(in, false);
	}
}

void incoming_stop_all(struct migrator *m)
{
	struct incoming *in;

	while ((in = claim(m, NULL, NULL)) != NULL)
		wind_up(in, false);
	pthread_mutex_lock(&m->lock);
	while (m->incoming)
		pthread_cond_wait(&m->changed, &m->lock);
	pthread_mutex_unlock(&m->lock);
}

int incoming_recover(struct migrator *m, const json_t *record)
{
	enum where w;
	const char *name = json_string_value(json_object_get(record, "name"));

	if (clean_up(m, record, false, &w) != 0)
		return 1;
	log_info("incoming_recovered", "vm=%s state=%s", name, where_name(w));
	return 0;
}
