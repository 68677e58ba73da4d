#include "tools/vmferryd/promote_host.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "migrator/domain.h"
#include "migrator/needs.h"
#include "migrator/restore_virt.h"
#include "migrator/state_files.h"
#include "migrator/virt.h"
#include "migrator/where.h"
#include "replicator/epoch.h"
#include "snapshot/image.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define THAW_NS (10 * NS_PER_S)
#define DEFAULT_IMAGES "/var/lib/libvirt/images"
/* Where files with contents from the other host go is never taken from there. */
#define NVRAM "/var/lib/libvirt/qemu/nvram/%s_VARS.fd"

struct promote_host {
	atomic_uint refs;
	/* fixed */
	struct virt *virt;
	char *run_dir, *qemu_group, *image_dir;
	struct map_rule *networks, *folders;
	size_t n_networks, n_folders;
};

static void free_const(const char *s)
{
	union {
		const char *in;
		char *out;
	} p = { .in = s };
	free(p.out);
}

static struct map_rule *copy_rules(const struct map_rule *r, size_t n)
{
	struct map_rule *copy = mem_alloc_array(n, sizeof(*copy));
	for (size_t i = 0; i < n; i++)
		copy[i] = (struct map_rule){ .from = mem_strdup(r[i].from), .to = mem_strdup(r[i].to) };
	return copy;
}

static void free_rules(struct map_rule *r, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free_const(r[i].from);
		free_const(r[i].to);
	}
	free(r);
}

struct promote_host *promote_host_new(const struct promote_host_opts *o, struct err *e)
{
	struct promote_host *p = mem_alloc(sizeof(*p));

	p->refs = 1;
	p->run_dir = mem_strdup(o->run_dir);
	p->qemu_group = mem_strdup(o->qemu_group);
	p->image_dir = mem_strdup(o->image_dir && *o->image_dir ? o->image_dir : DEFAULT_IMAGES);
	p->networks = copy_rules(o->networks, o->n_networks);
	p->n_networks = o->n_networks;
	p->folders = copy_rules(o->folders, o->n_folders);
	p->n_folders = o->n_folders;
	if (virt_init(e) < 0 || !(p->virt = virt_new(o->libvirt_uri, e))) {
		promote_host_free(p);
		return NULL;
	}
	return p;
}

void promote_host_free(struct promote_host *p)
{
	if (!p || atomic_fetch_sub(&p->refs, 1) > 1)
		return;
	virt_free(p->virt);
	free_rules(p->networks, p->n_networks);
	free_rules(p->folders, p->n_folders);
	free(p->run_dir);
	free(p->qemu_group);
	free(p->image_dir);
	free(p);
}

static char *disk_dir(void *ctx, const char *xml, const char *target, struct err *e)
{
	const struct promote_host *p = ctx;
	return map_image_dir(xml, target, p->folders, p->n_folders, p->image_dir, e);
}

static char *nvram_of(const struct promote_spec *s)
{
	return s->nvram ? mem_strdup(s->nvram) : mem_printf(NVRAM, s->uuid);
}

static char *file_path(void *ctx, const struct promote_spec *s, const char *kind, struct err *e)
{
	enum state_file file;

	(void)ctx;
	DOMAIN_AUTO struct domain *d = domain_parse(s->xml, e);
	if (!d)
		return NULL;
	if (!epoch_uuid_ok(s->uuid)) {
		err_set(e, ERR_CORRUPT, "'%.80s' is no UUID", s->uuid);
		return NULL;
	}
	if (!state_file_by_name(kind, &file))
		return NULL;
	if (file == STATE_FILE_NVRAM)
		return d->nvram ? nvram_of(s) : NULL;
	free(d->uuid);
	d->uuid = mem_strdup(s->uuid);
	return state_file_path(STATE_FILES_ROOT, d, file);
}

static int file_put(void *ctx, const char *kind, const char *path, const void *data, size_t len, struct err *e)
{
	enum state_file file;

	(void)ctx;
	if (!state_file_by_name(kind, &file))
		return err_set(e, ERR_CORRUPT, "'%.40s' is no file of a VM", kind);
	return state_file_put(file, path, data, len, e);
}

/* Images that are in the folder for all that no rule places, and were elsewhere. */
static void find_moved(const struct promote_host *p, const struct promote_spec *s, json_t *findings)
{
	struct err ignored = ERR_INIT;
	DOMAIN_AUTO struct domain *d = findings ? domain_parse(s->xml, &ignored) : NULL;
	size_t len = strlen(p->image_dir);

	for (size_t i = 0; d && i < s->n_disks; i++) {
		const struct domain_disk *disk = domain_disk_by_target(d, s->disks[i].target);
		const char *from = disk ? disk->path : NULL, *to = s->disks[i].path;
		if (!from || strncmp(to, p->image_dir, len) != 0 || to[len] != '/' ||
		    (strncmp(from, p->image_dir, len) == 0 && from[len] == '/'))
			continue;
		MEM_AUTO char *text = mem_printf("disk %s was %s; here its image is %s", s->disks[i].target, from, to);
		json_array_append_new(findings, json_pack("{s:s, s:s}", "what", "disk-folder", "text", text));
	}
}

static char *map(void *ctx, const struct promote_spec *s, json_t *findings, struct err *e)
{
	const struct promote_host *p = ctx;
	struct map_disk *disks = mem_alloc_array(s->n_disks, sizeof(*disks));
	long cpus = sysconf(_SC_NPROCESSORS_CONF);

	MEM_AUTO char *nvram = nvram_of(s);
	for (size_t i = 0; i < s->n_disks; i++)
		disks[i] = (struct map_disk){ s->disks[i].target, s->disks[i].path, s->disks[i].format };
	struct map_opts o = { .disks = disks,
			      .n_disks = s->n_disks,
			      .networks = p->networks,
			      .n_networks = p->n_networks,
			      .folders = p->folders,
			      .n_folders = p->n_folders,
			      .nvram = nvram,
			      .name = s->name,
			      .uuid = s->uuid,
			      .links_down = s->links_down,
			      .cpus = cpus > 0 ? (unsigned)cpus : 0 };
	char *xml = map_xml(s->xml, &o, findings, e);
	free(disks);
	if (xml)
		find_moved(p, s, findings);
	return xml;
}

/* libvirt that does not answer finds nothing. */
static void find_needs(const struct promote_host *p, const char *xml, struct preflight_findings *f)
{
	struct err e = ERR_INIT;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(p->virt, &e);
	DOMAIN_AUTO struct domain *d = conn ? domain_parse(xml, &e) : NULL;

	if (!d) {
		log_warn("needs", "msg=%s", LOG_Q(e.text));
		return;
	}
	json_t *facts = needs_facts(conn, d);
	needs_judge(d, facts, "this host", PREFLIGHT_ERROR, f);
	json_decref(facts);
}

void promote_host_needs(const struct promote_host *p, const char *xml, json_t *findings)
{
	struct preflight_findings f;
	size_t i;
	json_t *one;

	preflight_findings_init(&f);
	find_needs(p, xml, &f);
	json_array_foreach (f.list, i, one)
		json_array_append_new(findings, json_pack("{s:O, s:o}", "what", json_object_get(one, "code"), "text",
							  json_sprintf("%s: the VM would not start",
								       json_string_value(json_object_get(one, "text")))));
	preflight_findings_fini(&f);
}

static int needs(void *ctx, const char *mapped, struct err *e)
{
	struct preflight_findings f;

	preflight_findings_init(&f);
	find_needs(ctx, mapped, &f);
	const int rc = preflight_refuse(&f, "the VM would not start", e);
	preflight_findings_fini(&f);
	return rc == 0 ? 0
		       : err_remedy(e, "define it here; for networks, bridges and devices a rule in restore.networks may "
				       "name others instead");
}

/* image_write and restore_write are the same. */
struct fed {
	const struct promote_spec *spec;
};

static int feed(void *ctx, restore_write write, void *wctx, struct err *e)
{
	const struct promote_spec *s = ((const struct fed *)ctx)->spec;
	return s->feed(s->feed_ctx, write, wctx, e);
}

static int start(void *ctx, const struct promote_spec *s, struct err *e)
{
	const struct promote_host *p = ctx;
	MEM_AUTO char *xml = map(ctx, s, NULL, e);
	struct fed fed = { s };
	size_t head_len = 0;
	MEM_AUTO uint8_t *head = xml ? image_save_header(xml, !s->paused, &head_len, e) : NULL;
	struct restore_times times = { 0 };

	if (!head)
		return -1;
	struct restore_opts o = { .uuid = s->uuid,
				  .xml = xml,
				  .paused = s->paused,
				  .transient = s->transient,
				  .head = head,
				  .head_len = head_len,
				  .feed = s->feed ? feed : NULL,
				  .ctx = &fed,
				  .run_dir = p->run_dir,
				  .qemu_group = p->qemu_group,
				  .deadline_ns = s->deadline_ns,
				  .cancel = s->cancel };
	if (restore_virt_start(p->virt, &o, &times, e) < 0)
		return -1;
	log_info("promote_started", "vm=%s opened_ms=%lld fed_ms=%lld total_ms=%lld", s->name,
		 (long long)(times.opened / NS_PER_MS), (long long)(times.fed / NS_PER_MS),
		 (long long)(times.total / NS_PER_MS));
	return 0;
}

static int where(void *ctx, const char *uuid, enum promote_where *out, struct err *e)
{
	const struct promote_host *p = ctx;
	enum where w;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(p->virt, e);

	if (!conn || where_is(conn, uuid, &w, NULL, e) < 0)
		return -1;
	switch (w) {
	case WHERE_ABSENT:
		*out = PROMOTE_ABSENT;
		break;
	case WHERE_SHUTOFF:
		*out = PROMOTE_OFF;
		break;
	case WHERE_INCOMING:
		*out = PROMOTE_INCOMING;
		break;
	case WHERE_PAUSED:
	case WHERE_LEFT:
		*out = PROMOTE_PAUSED;
		break;
	case WHERE_RUNNING:
		*out = PROMOTE_RUNNING;
		break;
	}
	return 0;
}

static int settle(void *ctx, const char *uuid, struct err *e)
{
	const struct promote_host *p = ctx;
	return restore_virt_persist(p->virt, uuid, e);
}

/* libvirt learns that the agent is there some time after the VM runs. */
static int thaw(void *ctx, const char *uuid, struct err *e)
{
	const struct promote_host *p = ctx;
	const struct timespec nap = { .tv_nsec = 100 * NS_PER_MS };
	const int64_t deadline = clock_mono_ns() + THAW_NS;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(p->virt, e);
	VIRT_DOM_AUTO virDomainPtr dom = conn ? virDomainLookupByUUIDString(conn, uuid) : NULL;
	int rc;

	if (!dom)
		return conn ? virt_err(e, "look up VM %s", uuid) : -1;
	(void)virDomainAgentSetResponseTimeout(dom, THAW_NS / NS_PER_S, 0);
	while ((rc = virDomainFSThaw(dom, NULL, 0, 0)) < 0 && clock_mono_ns() < deadline)
		(void)nanosleep(&nap, NULL);
	if (rc < 0)
		virt_err(e, "thaw the file systems of VM %s", uuid);
	(void)virDomainAgentSetResponseTimeout(dom, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0);
	return rc < 0 ? -1 : 0;
}

static void keep(void *ctx)
{
	struct promote_host *p = ctx;
	atomic_fetch_add(&p->refs, 1);
}

static void let_go(void *ctx)
{
	promote_host_free(ctx);
}

/* A definition that a cold start left stays: it is off, and the next try replaces it. */
static int clear(void *ctx, const char *uuid, struct err *e)
{
	const struct promote_host *p = ctx;
	enum where w;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(p->virt, e);

	if (!conn || where_is(conn, uuid, &w, NULL, e) < 0)
		return -1;
	if (w != WHERE_INCOMING)
		return 0;
	VIRT_DOM_AUTO virDomainPtr dom = virDomainLookupByUUIDString(conn, uuid);
	if (dom && virDomainDestroy(dom) != 0) {
		virt_err(e, "end the QEMU of VM %s, which waits for its state", uuid);
		if (!virt_err_is(e, VIR_ERR_NO_DOMAIN) && !virt_err_is(e, VIR_ERR_OPERATION_INVALID))
			return -1;
		err_clear(e);
	}
	return 0;
}

static int autostart(void *ctx, const char *uuid, struct err *e)
{
	const struct promote_host *p = ctx;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(p->virt, e);
	VIRT_DOM_AUTO virDomainPtr dom = conn ? virDomainLookupByUUIDString(conn, uuid) : NULL;

	if (!conn)
		return -1;
	return dom && virDomainSetAutostart(dom, 1) == 0 ? 0 : virt_err(e, "have VM %s start with this host", uuid);
}

const struct promote_ops promote_host_ops = {
	.disk_dir = disk_dir,
	.file_path = file_path,
	.file_put = file_put,
	.map = map,
	.needs = needs,
	.start = start,
	.where = where,
	.settle = settle,
	.thaw = thaw,
	.keep = keep,
	.let_go = let_go,
	.clear = clear,
	.autostart = autostart,
};
