#include "migrator/outgoing.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "migrator/sessions.h"
#include "migrator/ways.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CHANNELS 16
/* Of all migrations. A door lets in no more than 24 newcomers of an address (tools/vmferryd/door.h), and those are not all ours. */
#define MAX_DIALING 8
#define BEGIN_NS (60 * NS_PER_S) /* creating images can take a while */
#define END_NS (40 * NS_PER_S)
#define ASK_NS (5 * NS_PER_S)
#define DRAIN_NS (10 * NS_PER_S)

struct outgoing {
	/* fixed after begin */
	struct migrator *m;
	char session[SESSION_ID_LEN];
	char *uuid, *name, *host;
	char dir[108];
	char migration_uri[160], disks_uri[160];
	char nbd_path[128];
	uint32_t slots;
	struct rpc *rpc;
	struct relay *relay;
	struct gate *gate;
	json_t *record;
	bool begun; /* a migration may have been tried: without that the journal has nothing to remember */

	_Atomic int64_t ram_end_ns;

	pthread_mutex_t lock;
	struct err broken; /* under lock: the first error of the relay */
};

const char *outgoing_session(const struct outgoing *o)
{
	return o->session;
}

const char *outgoing_migration_uri(const struct outgoing *o)
{
	return o->migration_uri;
}

const char *outgoing_disks_uri(const struct outgoing *o)
{
	return o->disks_uri;
}

const char *outgoing_nbd_path(const struct outgoing *o)
{
	return o->nbd_path;
}

struct rpc *outgoing_rpc(struct outgoing *o)
{
	return o->rpc;
}

struct gate *outgoing_gate(struct outgoing *o)
{
	return o->gate;
}

void outgoing_stats(struct outgoing *o, struct relay_stats *out)
{
	relay_get_stats(o->relay, out);
}

int64_t outgoing_ram_end_ns(struct outgoing *o)
{
	return atomic_load(&o->ram_end_ns);
}

static void on_ram_end(void *ctx)
{
	struct outgoing *o = ctx;
	struct err e = ERR_INIT;

	atomic_store(&o->ram_end_ns, clock_mono_ns());
	if (fault_point(FAULT_MIGRATE_SWITCH, &e) != 0)
		log_error("fault", "msg=%s", LOG_Q(e.text));
}

static void on_relay_error(void *ctx, const struct err *e)
{
	struct outgoing *o = ctx;
	log_warn("outgoing_relay_failed", "session=%s vm=%s msg=%s", o->session, o->name, LOG_Q(e->text));
	THREAD_LOCKED(&o->lock);
	if (!err_is_set(&o->broken))
		o->broken = *e;
}

bool outgoing_broken(struct outgoing *o, struct err *e)
{
	if (!rpc_alive(o->rpc)) {
		err_set(e, ERR_PEER, "%s no longer answers", o->host);
		return true;
	}
	THREAD_LOCKED(&o->lock);
	if (!err_is_set(&o->broken))
		return false;
	*e = o->broken;
	return true;
}

void outgoing_cut(struct outgoing *o)
{
	relay_abort(o->relay);
}

/* ---- begin ---- */

static int ask_begin(struct outgoing *o, const struct outgoing_spec *spec, unsigned channels, struct err *e)
{
	json_t *args, *answer = NULL;
	uint64_t slots = migrator_tuning_now(o->m).delta_cache / CODEC_PAGE_SIZE;

	if (fault_point(FAULT_BEGIN_SOURCE, e) != 0)
		return -1;
	args = json_pack("{s:s, s:s, s:I, s:i, s:i, s:O?, s:b}", "uuid", spec->uuid, "name", spec->name, "slots",
			 (json_int_t)(slots < UINT32_MAX ? slots : UINT32_MAX - 1), "forward", (int)channels,
			 "backward", 1, "disks", spec->disks, "autostart", (int)spec->autostart);
	if (rpc_call(o->rpc, "migrate.begin", args, clock_mono_ns() + BEGIN_NS, NULL, NULL, NULL, &answer, e) != 0)
		return err_wrap(e, "%s", spec->host);
	const char *session = json_string_value(json_object_get(answer, "session"));
	const char *dir = json_string_value(json_object_get(answer, "dir"));
	json_int_t agreed = json_integer_value(json_object_get(answer, "slots"));
	MEM_AUTO char *expected = mem_printf("%s/%s", o->m->opts.run_dir, session ? session : "");
	int rc = session_check_id(session, e);
	if (rc == 0 && (!dir || strcmp(dir, expected) != 0)) {
		rc = err_set(e, ERR_REFUSED, "%s keeps sessions in %s, this host in %s", spec->host, dir ? dir : "?",
			     o->m->opts.run_dir);
		err_remedy(e, "give both hosts the same run_dir in vmferryd.conf: libvirt uses one path for both ends");
	}
	if (rc == 0 && (agreed < 0 || (uint64_t)agreed > slots))
		rc = err_set(e, ERR_PROTOCOL, "%s wants %lld page slots", spec->host, (long long)agreed);
	if (rc == 0) {
		snprintf(o->session, sizeof o->session, "%s", session);
		o->slots = (uint32_t)agreed;
	}
	json_decref(answer);
	return rc;
}

/* A data link that is being made. */
struct dial {
	struct outgoing *o;
	const char *direction;
	unsigned index;
	struct link *link; /* NULL: why says why not */
	struct err why;
	pthread_t thread;
	bool threaded;
};

static void dial_begins(struct migrator *m)
{
	THREAD_LOCKED(&m->lock);
	while (m->dialing >= MAX_DIALING)
		thread_cond_wait_until(&m->changed, &m->lock, INT64_MAX);
	m->dialing++;
}

static void dial_ends(struct migrator *m)
{
	THREAD_LOCKED(&m->lock);
	m->dialing--;
	pthread_cond_broadcast(&m->changed);
}

static void *dial(void *arg)
{
	struct dial *d = arg;
	struct migrator *m = d->o->m;

	if (fault_point(FAULT_CHANNEL_CONNECT, &d->why) != 0)
		return NULL;
	json_t *hello = json_pack("{s:s, s:s, s:s, s:i}", "purpose", "data", "session", d->o->session, "direction",
				  d->direction, "index", (int)d->index);
	dial_begins(m);
	d->link = m->opts.connect_data(m->opts.ctx, d->o->host, hello, &d->why);
	dial_ends(m);
	return NULL;
}

/* At the same time: each link takes three round trips, and the way may be long. */
static int connect_links(struct outgoing *o, struct link **out, unsigned channels, struct link **in, struct err *e)
{
	struct dial d[MAX_CHANNELS + 1] = { 0 };
	int rc = 0;

	for (unsigned i = 0; i <= channels; i++) {
		struct err ignored = ERR_INIT;
		d[i] = (struct dial){ .o = o, .direction = "forward", .index = i };
		if (i == channels) {
			d[i].direction = "backward";
			d[i].index = 0;
		}
		d[i].threaded = i > 0 && thread_start(&d[i].thread, "dial", dial, &d[i], &ignored) == 0;
	}
	for (unsigned i = 0; i <= channels; i++) {
		if (d[i].threaded)
			pthread_join(d[i].thread, NULL);
		else
			dial(&d[i]);
		if (!d[i].link && rc == 0) {
			*e = d[i].why;
			rc = -1;
		}
	}
	for (unsigned i = 0; i <= channels; i++) {
		if (rc != 0)
			link_free(d[i].link);
		else
			*(i < channels ? &out[i] : in) = d[i].link;
	}
	return rc;
}

static int start_relay(struct outgoing *o, const struct outgoing_spec *spec, unsigned channels, struct err *e)
{
	struct link *out[MAX_CHANNELS] = { NULL }, *in = NULL;
	char libvirt_path[128], mig_path[128];

	if (connect_links(o, out, channels, &in, e) != 0)
		return -1;
	snprintf(libvirt_path, sizeof libvirt_path, "%s/relay.sock", o->dir);
	snprintf(mig_path, sizeof mig_path, "%s/mig.sock", o->dir);
	snprintf(o->nbd_path, sizeof o->nbd_path, "%s/nbd.sock", o->dir);
	struct relay_opts ro = {
		.source = true,
		.path = { [RELAY_LIBVIRT] = libvirt_path, [RELAY_NBD] = o->nbd_path, [RELAY_MIGRATION] = mig_path },
		.slots = o->slots,
		.workers = migrator_tuning_now(o->m).workers,
		.rate_limit = spec->rate_limit,
		.fixed_level = spec->level,
		.on_ram_end = on_ram_end,
		.on_error = on_relay_error,
		.ctx = o,
	};
	ways_recall(o->m, o->host, &ro.before);
	o->relay = relay_start(&ro, out, channels, &in, 1, e);
	if (!o->relay)
		return -1;
	char gate_path[128];
	snprintf(gate_path, sizeof gate_path, "%s/libvirt.sock", o->dir);
	struct gate_opts go = { .listen_path = gate_path, .upstream_path = libvirt_path, .hold = true, .name = o->name };
	o->gate = gate_start(&go, e);
	return o->gate ? 0 : -1;
}

struct outgoing *outgoing_begin(struct migrator *m, const struct outgoing_spec *spec, struct err *e)
{
	struct outgoing *o = mem_alloc(sizeof *o);
	unsigned channels = migrator_tuning_now(m).channels;

	channels = channels < 1 ? 1 : channels > MAX_CHANNELS ? MAX_CHANNELS : channels;

	o->m = m;
	o->uuid = mem_strdup(spec->uuid);
	o->name = mem_strdup(spec->name);
	o->host = mem_strdup(spec->host);
	pthread_mutex_init(&o->lock, NULL);
	o->rpc = m->opts.connect_peer(m->opts.ctx, spec->host, e);
	if (!o->rpc || ask_begin(o, spec, channels, e) != 0)
		goto fail;
	if (session_make_dir(m->opts.run_dir, o->session, m->opts.qemu_group, o->dir, sizeof o->dir, e) != 0)
		goto fail;
	snprintf(o->migration_uri, sizeof o->migration_uri, "unix://%s/mig.sock", o->dir);
	snprintf(o->disks_uri, sizeof o->disks_uri, "unix://%s/nbd.sock", o->dir);
	o->record = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:s}", "session", o->session, "direction", "out",
			      "uuid", spec->uuid, "name", spec->name, "peer", spec->host, "was", where_name(spec->was),
			      "started", (json_int_t)clock_wall_ns(), "dir", o->dir);
	if (sessions_save(m->opts.state_dir, o->record, e) != 0 || start_relay(o, spec, channels, e) != 0)
		goto fail;
	o->begun = true;
	return o;
fail:
	outgoing_end(o, false, false, NULL);
	return NULL;
}

virConnectPtr outgoing_libvirt(struct outgoing *o, struct err *e)
{
	/* "qemu:///system" with a transport and a socket in between. */
	const char *rest = strstr(o->m->opts.libvirt_uri, "://");
	int scheme = rest ? (int)(rest - o->m->opts.libvirt_uri) : 0;
	MEM_AUTO char *uri = mem_printf("%.*s+unix%s?socket=%s/libvirt.sock", scheme, o->m->opts.libvirt_uri,
					rest ? rest : ":///system", o->dir);
	virConnectPtr conn = virConnectOpen(uri);

	if (!conn)
		virt_err(e, "reach libvirtd of %s", o->host);
	return conn;
}

/* ---- end ---- */

static int tell_end(struct outgoing *o, bool done, bool resume, json_t **answer, struct err *e)
{
	json_t *args = json_pack("{s:s, s:s, s:b}", "session", o->session, "outcome", done ? "done" : "failed",
				 "resume", (int)resume);

	return rpc_call(o->rpc, "migrate.end", args, clock_mono_ns() + END_NS, NULL, NULL, NULL, answer, e);
}

int outgoing_settle_target(struct outgoing *o, enum where *out, struct err *e)
{
	json_t *answer = NULL;

	if (tell_end(o, false, false, &answer, e) != 0)
		return -1;
	*out = where_from_name(json_string_value(json_object_get(answer, "state")));
	json_decref(answer);
	return 0;
}

struct end_call {
	struct outgoing *o;
	bool done, resume;
	json_t *answer;
};

static void *end_thread(void *arg)
{
	struct end_call *c = arg;
	struct err e = ERR_INIT;

	if (tell_end(c->o, c->done, c->resume, &c->answer, &e) != 0)
		log_warn("outgoing_end", "session=%s vm=%s host=%s msg=%s", c->o->session, c->o->name, c->o->host,
			 LOG_Q(e.text));
	return NULL;
}

/* Tells the target. Both relays end together: each waits for the other's last bytes. */
static json_t *end_session(struct outgoing *o, bool done, bool resume)
{
	struct end_call call = { .o = o, .done = done, .resume = resume };
	struct err e = ERR_INIT;
	pthread_t t;

	if (fault_point(FAULT_END_SOURCE, &e) != 0 || thread_start(&t, "migrate.end", end_thread, &call, &e) != 0) {
		log_warn("outgoing_end", "session=%s msg=%s", o->session, LOG_Q(e.text));
		return NULL;
	}
	if (o->relay && done && relay_finish(o->relay, clock_mono_ns() + DRAIN_NS, &e) != 0)
		log_warn("outgoing_relay_end", "session=%s msg=%s", o->session, LOG_Q(e.text));
	pthread_join(t, NULL);
	return call.answer;
}

static void remember_way(struct outgoing *o)
{
	struct relay_stats s;

	relay_get_stats(o->relay, &s);
	if (s.learned.level)
		ways_remember(o->m, o->host, &s.learned);
}

void outgoing_end(struct outgoing *o, bool done, bool resume, json_t **answer)
{
	json_t *said = NULL;
	struct err e = ERR_INIT;

	gate_free(o->gate);
	if (o->relay && done)
		remember_way(o);
	if (o->relay && !done)
		relay_abort(o->relay);
	if (o->session[0])
		said = end_session(o, done, resume);
	if (o->relay)
		relay_abort(o->relay);
	relay_free(o->relay);
	if (o->dir[0])
		session_remove_dir(o->dir);
	if (o->record && (done || !o->begun) && sessions_remove(o->m->opts.state_dir, o->session, &e) != 0)
		log_error("session_journal", "session=%s msg=%s", o->session, LOG_Q(e.text));
	rpc_unref(o->rpc);
	json_decref(o->record);
	pthread_mutex_destroy(&o->lock);
	free(o->uuid);
	free(o->name);
	free(o->host);
	free(o);
	if (answer)
		*answer = said;
	else
		json_decref(said);
}

int outgoing_ask_where(struct migrator *m, const char *host, const char *uuid, enum where *out, struct err *e)
{
	struct rpc *rpc = m->opts.connect_peer(m->opts.ctx, host, e);
	json_t *answer = NULL;

	if (!rpc)
		return -1;
	int rc = rpc_call(rpc, "vm.where", json_pack("{s:s}", "uuid", uuid), clock_mono_ns() + ASK_NS, NULL, NULL, NULL,
			  &answer, e);
	if (rc == 0)
		*out = where_from_name(json_string_value(json_object_get(answer, "state")));
	json_decref(answer);
	rpc_unref(rpc);
	return rc;
}
