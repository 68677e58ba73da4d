#include "migrator/restore_virt.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "migrator/restore_fifo.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* From this version on the file is opened twice. */
#define OPENS_TWICE_FROM 11002000ul

/* The call that blocks, in a thread of its own. Whoever comes last frees. */
struct call {
	/* fixed */
	virConnectPtr conn;
	char *path;
	unsigned flags;

	pthread_mutex_t lock;
	pthread_cond_t cond;
	/* under lock */
	unsigned refs;
	bool done;
	int rc;
	struct err err;
};

static void call_unref(struct call *c)
{
	pthread_mutex_lock(&c->lock);
	bool last = --c->refs == 0;
	pthread_mutex_unlock(&c->lock);
	if (!last)
		return;
	virConnectClose(c->conn);
	pthread_cond_destroy(&c->cond);
	pthread_mutex_destroy(&c->lock);
	free(c->path);
	free(c);
}

static void *call_main(void *arg)
{
	struct call *c = arg;
	struct err e = ERR_INIT;
	int rc = virDomainRestoreFlags(c->conn, c->path, NULL, c->flags);

	if (rc != 0)
		rc = virt_err(&e, "start the VM from its saved state");
	pthread_mutex_lock(&c->lock);
	c->rc = rc;
	c->err = e;
	c->done = true;
	pthread_cond_broadcast(&c->cond);
	pthread_mutex_unlock(&c->lock);
	call_unref(c);
	return NULL;
}

static bool call_done(void *ctx)
{
	struct call *c = ctx;
	THREAD_LOCKED(&c->lock);
	return c->done;
}

static struct call *call_start(virConnectPtr conn, const char *path, const struct restore_opts *o, struct err *e)
{
	struct call *c = mem_alloc(sizeof(*c));

	virConnectRef(conn);
	c->conn = conn;
	c->path = mem_strdup(path);
	c->flags = o->paused ? VIR_DOMAIN_SAVE_PAUSED : VIR_DOMAIN_SAVE_RUNNING;
	c->refs = 2;
	pthread_mutex_init(&c->lock, NULL);
	thread_cond_init(&c->cond);
	if (thread_start_detached("restore", call_main, c, e) < 0) {
		c->refs = 1;
		call_unref(c);
		return NULL;
	}
	return c;
}

/* Waits for libvirt's answer. `failed`: what is fed ends here; libvirt is helped to see it, wherever it is. */
static int call_finish(struct call *c, struct restore_fifo *f, bool failed, int64_t deadline, struct err *e)
{
	if (failed)
		deadline = clock_mono_ns() + 30 * NS_PER_S;
	for (;;) {
		pthread_mutex_lock(&c->lock);
		int64_t slice = clock_mono_ns() + 20 * NS_PER_MS;
		while (!c->done && clock_mono_ns() < slice)
			(void)thread_cond_wait_until(&c->cond, &c->lock, slice);
		bool done = c->done;
		int rc = c->rc;
		if (done && rc != 0)
			*e = c->err;
		pthread_mutex_unlock(&c->lock);
		if (done)
			return rc;
		if (failed)
			restore_fifo_end(f);
		if (clock_mono_ns() > deadline) {
			err_set(e, ERR_SYS, "libvirt has not come back from starting the VM");
			e->errnum = ETIMEDOUT;
			return err_remedy(e, "look at libvirtd and its log; 'virsh list' says whether the VM runs");
		}
	}
}

static int feed_all(struct restore_fifo *f, const struct restore_opts *o, bool twice, struct err *e)
{
	if (restore_fifo_head(f, o->head, o->head_len, twice, e) < 0)
		return -1;
	if (o->feed(o->ctx, restore_fifo_write, f, e) < 0)
		return -1;
	return restore_fifo_drained(f, e);
}

static int from_memory(virConnectPtr conn, const struct restore_opts *o, struct restore_times *t, struct err *e)
{
	unsigned long version = 0;
	int64_t start = clock_mono_ns();
	struct err fed = ERR_INIT, ended = ERR_INIT;

	if (virConnectGetLibVersion(conn, &version) != 0)
		return virt_err(e, "ask for libvirt's version");
	struct restore_fifo *f = restore_fifo_new(o->run_dir, o->qemu_group, e);
	struct call *c = f ? call_start(conn, restore_fifo_path(f), o, e) : NULL;
	if (!c) {
		restore_fifo_free(f);
		return -1;
	}
	restore_fifo_watch(f, call_done, c, o->cancel, o->deadline_ns);
	int rc = feed_all(f, o, version >= OPENS_TWICE_FROM, &fed);
	t->fed = clock_mono_ns() - start;
	t->opened = restore_fifo_opened_ns(f) > start ? restore_fifo_opened_ns(f) - start : 0;
	int end = call_finish(c, f, rc != 0, o->deadline_ns, &ended);
	/* libvirt's own reason is the better one, but for a feeder that broke off by itself: libvirt then only says that the stream is short. */
	bool ours = rc != 0 && !restore_fifo_ended_early(f);
	if (rc != 0 && end == 0)
		*e = fed; /* it runs although not all was taken: QEMU needs no more than its own end mark */
	else if (end != 0)
		*e = ours ? fed : ended;
	restore_fifo_free(f);
	call_unref(c);
	if (end == 0 && rc != 0) {
		log_warn("restore_odd", "vm=%s msg=%s", o->uuid, LOG_Q(fed.text));
		err_clear(e);
	}
	return end;
}

static int from_disks(virConnectPtr conn, const struct restore_opts *o, struct err *e)
{
	unsigned flags = o->paused ? VIR_DOMAIN_START_PAUSED : 0;
	VIRT_DOM_AUTO virDomainPtr dom = NULL;

	if (o->transient) {
		dom = virDomainCreateXML(conn, o->xml, flags);
		return dom ? 0 : virt_err(e, "start the VM");
	}
	dom = virDomainDefineXML(conn, o->xml);
	if (!dom)
		return virt_err(e, "define the VM");
	return virDomainCreateWithFlags(dom, flags) == 0 ? 0 : virt_err(e, "start the VM");
}

/* What is defined here now under that UUID: its definition, to be put back; NULL: nothing. */
static int look_first(virConnectPtr conn, const char *uuid, char **before, struct err *e)
{
	VIRT_DOM_AUTO virDomainPtr dom = virDomainLookupByUUIDString(conn, uuid);

	*before = NULL;
	if (!dom) {
		virt_err(e, "look up VM %s", uuid);
		if (!virt_err_is(e, VIR_ERR_NO_DOMAIN))
			return -1;
		err_clear(e);
		return 0;
	}
	if (virDomainIsActive(dom) == 1) {
		err_set(e, ERR_REFUSED, "the VM runs on this host already");
		return err_remedy(e, "see 'virsh list'; end or move that VM first");
	}
	*before = virDomainGetXMLDesc(dom, VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE);
	return *before ? 0 : virt_err(e, "read the definition of VM %s", uuid);
}

/* After a failure: the old definition again, or none. */
static void put_back(virConnectPtr conn, const char *uuid, const char *before)
{
	VIRT_DOM_AUTO virDomainPtr dom = virDomainLookupByUUIDString(conn, uuid);
	struct err e = ERR_INIT;

	if (!dom || virDomainIsActive(dom) == 1)
		return;
	if (before) {
		VIRT_DOM_AUTO virDomainPtr again = virDomainDefineXML(conn, before);
		if (!again)
			virt_err(&e, "define VM %s as it was", uuid);
	} else if (virDomainIsPersistent(dom) == 1 &&
		   virDomainUndefineFlags(dom, VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | VIR_DOMAIN_UNDEFINE_KEEP_TPM) != 0) {
		virt_err(&e, "undefine VM %s", uuid);
	}
	if (err_is_set(&e))
		log_warn("restore_left", "vm=%s msg=%s", uuid, LOG_Q(e.text));
}

int restore_virt_start(struct virt *virt, const struct restore_opts *o, struct restore_times *times, struct err *e)
{
	int64_t start = clock_mono_ns();
	struct restore_times t = { 0 };
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(virt, e);
	VIRT_STR_AUTO char *before = NULL;

	if (!conn || look_first(conn, o->uuid, &before, e) < 0)
		return -1;
	int rc = o->feed ? from_memory(conn, o, &t, e) : from_disks(conn, o, e);
	if (rc < 0) {
		if (!(e->cls == ERR_SYS && e->errnum == ETIMEDOUT))
			put_back(conn, o->uuid, before);
		return -1;
	}
	t.total = clock_mono_ns() - start;
	if (times)
		*times = t;
	struct err late = ERR_INIT;
	if (!o->transient && o->feed && restore_virt_persist(virt, o->uuid, &late) < 0)
		log_warn("restore_transient", "vm=%s msg=%s", o->uuid, LOG_Q(late.text));
	return 0;
}

int restore_virt_persist(struct virt *virt, const char *uuid, struct err *e)
{
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(virt, e);
	VIRT_DOM_AUTO virDomainPtr dom = conn ? virDomainLookupByUUIDString(conn, uuid) : NULL;

	if (!conn)
		return -1;
	if (!dom)
		return virt_err(e, "look up VM %s", uuid);
	if (virDomainIsPersistent(dom) == 1)
		return 0;
	VIRT_STR_AUTO char *xml = virDomainGetXMLDesc(dom, VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE);
	if (!xml)
		return virt_err(e, "read the definition of VM %s", uuid);
	VIRT_DOM_AUTO virDomainPtr defined = virDomainDefineXML(conn, xml);
	return defined ? 0 : virt_err(e, "define VM %s", uuid);
}

void restore_virt_clean_up(const char *run_dir)
{
	restore_fifo_clean_up(run_dir);
}
