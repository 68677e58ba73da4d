#include "migrator/guest_virt.h"

#include "base/mem.h"
#include "base/thread.h"
#include "migrator/guest_virt_info.h"
#include "migrator/guests.h"

#include <libvirt/libvirt-qemu.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Outlives the guest for as long as libvirt may still call it. */
struct listener {
	pthread_mutex_t lock;
	unsigned refs;                                                /* lock */
	void (*fn)(void *arg, const char *event, const json_t *data); /* lock; NULL: nobody listens */
	void *arg;                                                    /* lock */
};

struct guest_virt {
	struct virt *v; /* fixed */
	char uuid[VIR_UUID_STRING_BUFLEN];
	pthread_mutex_t lock;
	virConnectPtr conn; /* lock, as the rest */
	virDomainPtr dom;
	struct listener *listener; /* NULL: none */
	int callback;              /* -1: none */
};

static void listener_unref(struct listener *l)
{
	pthread_mutex_lock(&l->lock);
	unsigned left = --l->refs;
	pthread_mutex_unlock(&l->lock);
	if (left > 0)
		return;
	pthread_mutex_destroy(&l->lock);
	free(l);
}

static void listener_free(void *arg)
{
	listener_unref(arg);
}

static void on_event(virConnectPtr conn, virDomainPtr dom, const char *event, long long seconds, unsigned int micros,
		     const char *details, void *arg)
{
	struct listener *l = arg;
	(void)conn;
	(void)dom;
	(void)seconds;
	(void)micros;
	json_t *data = details ? json_loads(details, 0, NULL) : NULL;
	pthread_mutex_lock(&l->lock);
	if (l->fn)
		l->fn(l->arg, event, data);
	pthread_mutex_unlock(&l->lock);
	json_decref(data);
}

/* Under lock. */
static void stop_callback(struct guest_virt *g)
{
	if (g->callback >= 0)
		(void)virConnectDomainQemuMonitorEventDeregister(g->conn, g->callback);
	g->callback = -1;
}

/* Under lock: listens on the connection at hand. */
static int start_callback(struct guest_virt *g, struct err *e)
{
	struct listener *l = g->listener;
	pthread_mutex_lock(&l->lock);
	l->refs++;
	pthread_mutex_unlock(&l->lock);
	g->callback = virConnectDomainQemuMonitorEventRegister(g->conn, g->dom, NULL, on_event, l, listener_free, 0);
	if (g->callback < 0) {
		virt_err(e, "listen to QEMU's events");
		listener_unref(l);
		return -1;
	}
	return 0;
}

/* A reference to the domain on a connection that lives; opened anew where libvirtd has been restarted. */
static virDomainPtr get_domain(struct guest_virt *g, struct err *e)
{
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(g->v, e);
	if (!conn)
		return NULL;
	THREAD_LOCKED(&g->lock);
	if (conn != g->conn) {
		VIRT_DOM_AUTO virDomainPtr dom = virDomainLookupByUUIDString(conn, g->uuid);
		if (!dom) {
			virt_err(e, "look up VM %s", g->uuid);
			return NULL;
		}
		g->callback = -1; /* it went with the connection */
		virt_dom_free(&g->dom);
		virt_conn_close(&g->conn);
		g->conn = conn;
		g->dom = dom;
		conn = NULL;
		dom = NULL;
		if (g->listener && start_callback(g, e))
			return NULL;
	}
	if (virDomainRef(g->dom) < 0) {
		virt_err(e, "use VM %s", g->uuid);
		return NULL;
	}
	return g->dom;
}

/* ---- QMP ---- */

static int qmp_answer(const char *command, const char *text, json_t **result, struct err *e)
{
	json_t *answer = json_loads(text, 0, NULL);
	json_t *error = json_object_get(answer, "error");
	int rc = 0;
	if (!answer)
		rc = err_set(e, ERR_LIBVIRT, "QMP %s: the answer is no JSON", command);
	else if (error)
		rc = err_set(e, ERR_LIBVIRT, "QMP %s: %s: %s", command,
			     json_string_value(json_object_get(error, "class")) ?: "error",
			     json_string_value(json_object_get(error, "desc")) ?: "no reason given");
	else if (result)
		*result = json_incref(json_object_get(answer, "return"));
	json_decref(answer);
	return rc;
}

static int guest_virt_qmp(void *ctx, const char *command, json_t *args, int fd, json_t **result, struct err *e)
{
	struct guest_virt *g = ctx;
	VIRT_DOM_AUTO virDomainPtr dom = get_domain(g, e);
	VIRT_STR_AUTO char *answer = NULL;
	MEM_AUTO char *text = NULL;
	json_t *whole = json_pack("{s:s}", "execute", command);
	if (args)
		json_object_set_new(whole, "arguments", args);
	text = json_dumps(whole, JSON_COMPACT);
	json_decref(whole);
	if (!dom)
		return -1;
	if (!text)
		return err_set(e, ERR_LIBVIRT, "QMP %s: arguments that are no JSON", command);
	int rc = fd < 0 ? virDomainQemuMonitorCommand(dom, text, &answer, 0)
			: virDomainQemuMonitorCommandWithFiles(dom, text, 1, &fd, NULL, NULL, &answer, 0);
	if (rc < 0)
		return virt_err(e, "QMP %s", command);
	return qmp_answer(command, answer, result, e);
}

/* ---- state ---- */

static int guest_virt_state(void *ctx, enum guest_run *out, struct err *e)
{
	int state = 0, reason = 0;
	VIRT_DOM_AUTO virDomainPtr dom = get_domain(ctx, e);
	if (!dom || virDomainGetState(dom, &state, &reason, 0) < 0) {
		if (dom)
			virt_err(e, "state of the VM");
		if (!virt_err_is(e, VIR_ERR_NO_DOMAIN))
			return -1;
		err_clear(e);
		*out = GUEST_GONE;
		return 0;
	}
	switch (state) {
	case VIR_DOMAIN_RUNNING:
	case VIR_DOMAIN_BLOCKED:
	case VIR_DOMAIN_SHUTDOWN:
		*out = GUEST_RUNNING;
		break;
	case VIR_DOMAIN_PAUSED:
	case VIR_DOMAIN_PMSUSPENDED:
		*out = GUEST_PAUSED;
		break;
	case VIR_DOMAIN_CRASHED:
		*out = virDomainIsActive(dom) == 1 ? GUEST_CRASHED : GUEST_GONE;
		break;
	default:
		*out = GUEST_GONE;
		break;
	}
	return 0;
}

static int guest_virt_pause(void *ctx, struct err *e)
{
	VIRT_DOM_AUTO virDomainPtr dom = get_domain(ctx, e);
	if (!dom)
		return -1;
	return virDomainSuspend(dom) < 0 ? virt_err(e, "pause the VM") : 0;
}

static int guest_virt_resume(void *ctx, struct err *e)
{
	VIRT_DOM_AUTO virDomainPtr dom = get_domain(ctx, e);
	if (!dom)
		return -1;
	return virDomainResume(dom) < 0 ? virt_err(e, "resume the VM") : 0;
}

static int guest_virt_autostart_off(void *ctx, bool *was, struct err *e)
{
	VIRT_DOM_AUTO virDomainPtr dom = get_domain(ctx, e);
	int on = 0;

	if (!dom)
		return -1;
	/* A transient one has none, and libvirt says so by an error. */
	if (virDomainIsPersistent(dom) == 1 && virDomainGetAutostart(dom, &on) < 0)
		return virt_err(e, "ask whether the host starts the VM");
	if (on && virDomainSetAutostart(dom, 0) < 0)
		return virt_err(e, "keep the host from starting the VM");
	*was = on != 0;
	return 0;
}

static int guest_virt_freeze(void *ctx, bool on, struct err *e)
{
	VIRT_DOM_AUTO virDomainPtr dom = get_domain(ctx, e);
	if (!dom)
		return -1;
	int rc = on ? virDomainFSFreeze(dom, NULL, 0, 0) : virDomainFSThaw(dom, NULL, 0, 0);
	return rc < 0 ? virt_err(e, "%s the guest's file systems", on ? "freeze" : "thaw") : 0;
}

static int guest_virt_info(void *ctx, struct guest_info *out, struct err *e)
{
	VIRT_DOM_AUTO virDomainPtr dom = get_domain(ctx, e);
	json_t *version = NULL, *blocks = NULL;
	if (!dom)
		return -1;
	int rc = guest_virt_qmp(ctx, "query-version", NULL, -1, &version, e);
	if (rc == 0)
		rc = guest_virt_qmp(ctx, "query-block", NULL, -1, &blocks, e);
	if (rc == 0)
		rc = guest_virt_info_get(dom, version, blocks, out, e);
	json_decref(version);
	json_decref(blocks);
	return rc;
}

/* ---- events ---- */

static void guest_virt_unlisten(void *ctx)
{
	struct guest_virt *g = ctx;
	pthread_mutex_lock(&g->lock);
	struct listener *l = g->listener;
	g->listener = NULL;
	if (l)
		stop_callback(g);
	pthread_mutex_unlock(&g->lock);
	if (!l)
		return;
	pthread_mutex_lock(&l->lock);
	l->fn = NULL;
	pthread_mutex_unlock(&l->lock);
	listener_unref(l);
}

static int guest_virt_listen(void *ctx, void (*fn)(void *arg, const char *event, const json_t *data), void *arg,
			     struct err *e)
{
	struct guest_virt *g = ctx;
	VIRT_DOM_AUTO virDomainPtr dom = get_domain(g, e);
	if (!dom)
		return -1;
	struct listener *l = mem_alloc(sizeof(*l));
	pthread_mutex_init(&l->lock, NULL);
	l->refs = 1;
	l->fn = fn;
	l->arg = arg;
	pthread_mutex_lock(&g->lock);
	g->listener = l;
	int rc = start_callback(g, e);
	pthread_mutex_unlock(&g->lock);
	if (rc)
		guest_virt_unlisten(g);
	return rc;
}

static void guest_virt_free(void *ctx)
{
	struct guest_virt *g = ctx;
	guest_virt_unlisten(g);
	virt_dom_free(&g->dom);
	virt_conn_close(&g->conn);
	pthread_mutex_destroy(&g->lock);
	free(g);
}

static const struct guest_ops guest_virt_ops = {
	.info = guest_virt_info,
	.qmp = guest_virt_qmp,
	.state = guest_virt_state,
	.pause = guest_virt_pause,
	.resume = guest_virt_resume,
	.listen = guest_virt_listen,
	.unlisten = guest_virt_unlisten,
	.freeze = guest_virt_freeze,
	.free = guest_virt_free,
	.autostart_off = guest_virt_autostart_off,
};

struct guest *guest_virt_open(struct virt *v, const char *name_or_uuid, struct err *e)
{
	struct guest_virt *g = mem_alloc(sizeof(*g));
	g->v = v;
	g->callback = -1;
	pthread_mutex_init(&g->lock, NULL);
	g->conn = virt_get(v, e);
	if (g->conn)
		g->dom = guests_find(g->conn, name_or_uuid, e);
	int active = g->dom ? virDomainIsActive(g->dom) : -1;
	if (g->dom && (active < 0 || virDomainGetUUIDString(g->dom, g->uuid) < 0)) {
		virt_err(e, "look up VM '%s'", name_or_uuid);
		active = -1;
	}
	if (active == 0)
		err_set(e, ERR_REFUSED, "VM '%s' is shut off", name_or_uuid);
	if (active <= 0) {
		guest_virt_free(g);
		return NULL;
	}
	struct guest *guest = mem_alloc(sizeof(*guest));
	guest->ops = &guest_virt_ops;
	guest->ctx = g;
	return guest;
}
