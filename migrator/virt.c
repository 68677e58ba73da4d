#include "migrator/virt.h"

#include "base/mem.h"
#include "base/thread.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A peer's libvirtd that stops answering is given up after about interval * count seconds. */
#define VIRT_KEEPALIVE_INTERVAL_S 5
#define VIRT_KEEPALIVE_COUNT 4

struct virt {
	char *uri; /* fixed */
	pthread_mutex_t lock;
	virConnectPtr conn; /* lock; NULL until first used, or after it died */
	uint64_t opened;    /* lock; how many there have been */
};

static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;
static bool init_done; /* init_lock */

static void ignore_error(void *ctx, virErrorPtr error)
{
	(void)ctx;
	(void)error;
}

static void *event_loop(void *arg)
{
	(void)arg;
	/* An iteration fails only when poll() itself does, which says nothing about the next one. */
	for (;;)
		(void)virEventRunDefaultImpl();
	return NULL;
}

/* libvirt's loop sleeps in poll() for ever when it has nothing to watch and adding a handle from another thread wakes
 * it by its own pipe; a slow timer makes sure that it is never without anything. */
static void idle_tick(int timer, void *arg)
{
	(void)timer;
	(void)arg;
}

int virt_init(struct err *e)
{
	THREAD_LOCKED(&init_lock);
	pthread_t thread;

	if (init_done)
		return 0;
	virSetErrorFunc(NULL, ignore_error);
	if (virInitialize() < 0)
		return virt_err(e, "initialise libvirt's client library");
	if (virEventRegisterDefaultImpl() < 0 || virEventAddTimeout(60 * 1000, idle_tick, NULL, NULL) < 0)
		return virt_err(e, "set up libvirt's event loop");
	if (thread_start(&thread, "virt-events", event_loop, NULL, e) < 0)
		return -1;
	pthread_detach(thread);
	init_done = true;
	return 0;
}

struct virt *virt_new(const char *uri, struct err *e)
{
	if (virt_init(e) < 0)
		return NULL;
	struct virt *v = mem_alloc(sizeof(*v));
	v->uri = mem_strdup(uri);
	pthread_mutex_init(&v->lock, NULL);
	return v;
}

void virt_free(struct virt *v)
{
	if (!v)
		return;
	virt_conn_close(&v->conn);
	pthread_mutex_destroy(&v->lock);
	free(v->uri);
	free(v);
}

const char *virt_uri(const struct virt *v)
{
	return v->uri;
}

virConnectPtr virt_open(const char *uri, struct err *e)
{
	if (virt_init(e) < 0)
		return NULL;
	virConnectPtr conn = virConnectOpen(uri);
	if (!conn) {
		(void)virt_err(e, "connect to libvirt at %s", uri);
		return NULL;
	}
	/* Drivers that live in our own process (test:///) have no keepalive, and need none. */
	(void)virConnectSetKeepAlive(conn, VIRT_KEEPALIVE_INTERVAL_S, VIRT_KEEPALIVE_COUNT);
	return conn;
}

virConnectPtr virt_get_opened(struct virt *v, uint64_t *opened, struct err *e)
{
	THREAD_LOCKED(&v->lock);

	if (v->conn && virConnectIsAlive(v->conn) != 1)
		virt_conn_close(&v->conn);
	if (!v->conn) {
		v->conn = virt_open(v->uri, e);
		if (!v->conn)
			return NULL;
		v->opened++;
	}
	if (virConnectRef(v->conn) < 0) {
		(void)virt_err(e, "use the connection to libvirt");
		return NULL;
	}
	*opened = v->opened;
	return v->conn;
}

virConnectPtr virt_get(struct virt *v, struct err *e)
{
	uint64_t ignored;

	return virt_get_opened(v, &ignored, e);
}

/* What to do about libvirt's commonest errors; "" when we know nothing better than the text. */
static const char *remedy_for(int code, int domain, const char *message)
{
	bool lock = strstr(message, "state change lock") != NULL;

	switch (code) {
	case VIR_ERR_SYSTEM_ERROR:
		if (domain != VIR_FROM_RPC)
			return "";
		if (strstr(message, "Permission denied"))
			return "vmferryd must run as root, or as a member of the group that may use libvirt (group "
			       "libvirt)";
		return "is libvirtd running? systemctl status libvirtd; systemctl start libvirtd";
	case VIR_ERR_NO_CONNECT:
	case VIR_ERR_INVALID_CONN:
		return "is libvirtd running, with its QEMU driver? systemctl status libvirtd";
	case VIR_ERR_RPC:
		return "libvirtd went away during the call: journalctl -u libvirtd says why";
	case VIR_ERR_INTERNAL_ERROR:
		if (strstr(message, "client socket is closed") || strstr(message, "connection closed"))
			return "libvirtd went away during the call: journalctl -u libvirtd says why";
		return "";
	case VIR_ERR_AUTH_FAILED:
	case VIR_ERR_AUTH_CANCELLED:
	case VIR_ERR_AUTH_UNAVAILABLE:
	case VIR_ERR_ACCESS_DENIED:
		return "vmferryd must be allowed to use libvirt read-write: run it as root, or see auth_unix_rw in "
		       "libvirtd.conf";
	case VIR_ERR_NO_DOMAIN:
		return "vmferry vms lists the VMs of this host";
	case VIR_ERR_CPU_INCOMPATIBLE:
		return "vmferry cpu-baseline shows the CPU model that both hosts can run";
	case VIR_ERR_MIGRATE_UNSAFE:
		return "use --copy-storage, or put the disks on storage that both hosts see";
	case VIR_ERR_OPERATION_TIMEOUT:
		return lock ? "another libvirt job holds the VM: virsh domjobinfo VM shows it, virsh domjobabort VM "
			      "ends it"
			    : "";
	case VIR_ERR_NO_STORAGE_POOL:
		return "create the missing image at the target, or a storage pool over its folder";
	default:
		return "";
	}
}

int virt_err(struct err *e, const char *fmt, ...)
{
	const virError *last = virGetLastError();
	int code = last ? last->code : VIR_ERR_INTERNAL_ERROR;
	int domain = last ? last->domain : VIR_FROM_NONE;
	char message[sizeof(e->text)];
	char what[sizeof(e->text) / 2];
	va_list ap;

	snprintf(message, sizeof(message), "%s", last && last->message ? last->message : "libvirt gave no reason");
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	for (char *p = message; *p; p++)
		if (*p == '\n')
			*p = ' ';

	const char *remedy = remedy_for(code, domain, message);
	err_set(e, ERR_LIBVIRT, "%s: %s", what, message);
	e->errnum = code;
	if (remedy[0])
		err_remedy(e, "%s", remedy);
	return -1;
}

bool virt_err_is(const struct err *e, int code)
{
	return e->cls == ERR_LIBVIRT && e->errnum == code;
}

void virt_conn_close(virConnectPtr *c)
{
	if (*c)
		(void)virConnectClose(*c);
	*c = NULL;
}

void virt_dom_free(virDomainPtr *d)
{
	if (*d)
		(void)virDomainFree(*d);
	*d = NULL;
}

void virt_str_free(char **s)
{
	free(*s);
	*s = NULL;
}

const char *virt_format_version(unsigned long version, char *buf, size_t size)
{
	snprintf(buf, size, "%lu.%lu.%lu", version / 1000000, version / 1000 % 1000, version % 1000);
	return buf;
}
