#include "tools/vmferryd/leftover.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "migrator/domain.h"
#include "migrator/virt.h"
#include "migrator/where.h"
#include "replicator/adoption.h"
#include "replicator/adoption_fill.h"
#include "replicator/epoch.h"
#include "replicator/replicator.h"
#include "tools/vmferryd/agent.h"

#include <string.h>
#include <unistd.h>

/* A source that has just come back finds out within that time that it was taken over; its first look may meet a peer that is not there yet. */
#define FENCED_NS (45 * NS_PER_S)
#define LOOK_US 200000
#define UNDEFINE                                                                     \
	(VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | \
	 VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | VIR_DOMAIN_UNDEFINE_KEEP_TPM)

/* One at a time: a second would find a replica half made. */
static pthread_mutex_t adopting = PTHREAD_MUTEX_INITIALIZER;

struct host {
	struct agent *agent;
	struct virt *virt;
	char *run_dir, *name;
};

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

static void host_close(struct host *h)
{
	virt_free(h->virt);
	mem_free_ptr(&h->run_dir);
	mem_free_ptr(&h->name);
	*h = (struct host){ 0 };
}

static int host_open(struct host *h, struct agent *a, struct err *e)
{
	const struct settings_view *view = settings_get(a->settings);

	*h = (struct host){ .agent = a,
			    .run_dir = mem_strdup(view->config->run_dir),
			    .name = mem_strdup(view->config->name) };
	if (virt_init(e) == 0)
		h->virt = virt_new(view->config->libvirt.uri, e);
	settings_put(a->settings, view);
	return h->virt ? 0 : -1;
}

/* ---- adoption_ops ---- */

static int look(void *ctx, const char *uuid, enum adoption_vm *out, struct err *e)
{
	const struct host *h = ctx;
	enum where w;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(h->virt, e);

	if (!conn || where_is(conn, uuid, &w, NULL, e) < 0)
		return -1;
	*out = w == WHERE_ABSENT                      ? ADOPTION_ABSENT
	       : w == WHERE_SHUTOFF                   ? ADOPTION_OFF
	       : w == WHERE_PAUSED || w == WHERE_LEFT ? ADOPTION_PAUSED
						      : ADOPTION_RUNNING;
	return 0;
}

static bool is_image(const struct domain_disk *d)
{
	return d->path && domain_disk_copyable(d);
}

static char *definition(const struct host *h, const char *uuid, struct err *e)
{
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(h->virt, e);
	VIRT_DOM_AUTO virDomainPtr dom = conn ? virDomainLookupByUUIDString(conn, uuid) : NULL;

	if (!conn)
		return NULL;
	if (!dom) {
		virt_err(e, "look up VM %s", uuid);
		return NULL;
	}
	char *xml = virDomainGetXMLDesc(dom, VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE);
	if (!xml)
		virt_err(e, "read the definition of VM %s", uuid);
	return xml;
}

static json_t *describe(void *ctx, const char *uuid, struct err *e)
{
	VIRT_STR_AUTO char *xml = definition(ctx, uuid, e);
	DOMAIN_AUTO struct domain *d = xml ? domain_parse(xml, e) : NULL;

	if (!d)
		return NULL;
	json_t *images = json_array();
	for (size_t i = 0; i < d->n_disks; i++)
		if (is_image(&d->disks[i]))
			json_array_append_new(images, json_string(d->disks[i].path));
	return json_pack("{s:o, s:s}", "images", images, "xml", xml);
}

static int fill_images(struct host *h, const char *xml, struct store *s, struct err *e)
{
	DOMAIN_AUTO struct domain *d = domain_parse(xml, e);

	if (!d)
		return -1;
	for (size_t i = 0; i < d->n_disks; i++) {
		const struct domain_disk *disk = &d->disks[i];
		/* One whose image is gone travels whole. */
		if (!is_image(disk) || access(disk->path, R_OK) != 0)
			continue;
		const struct adoption_image image = { .target = disk->target,
						      .path = disk->path,
						      .format = disk->format };
		if (adoption_fill_image(s, &image, h->run_dir, e) < 0)
			return -1;
	}
	return 0;
}

static int fill_paused(struct host *h, const char *uuid, struct store *s, struct err *e)
{
	struct guest *g = migrator_open_guest(h->agent->migrator, uuid, e);

	if (!g)
		return -1;
	json_t *meta = json_pack("{s:s, s:b}", "from", h->name, "adopted", 1);
	const int rc = adoption_fill_paused(g, s, h->run_dir, meta, NULL, e);
	json_decref(meta);
	guest_free(g);
	return rc;
}

/* Ends QEMU; the definition stays, if it is persistent. Never while it runs. */
static int end_qemu(struct host *h, const char *uuid, struct err *e)
{
	enum adoption_vm vm;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(h->virt, e);

	if (!conn || look(h, uuid, &vm, e) < 0)
		return -1;
	if (vm == ADOPTION_RUNNING)
		return err_set(e, ERR_REFUSED, "VM %s runs here", uuid);
	VIRT_DOM_AUTO virDomainPtr dom = vm == ADOPTION_PAUSED ? virDomainLookupByUUIDString(conn, uuid) : NULL;
	if (!dom || virDomainDestroy(dom) == 0)
		return 0;
	virt_err(e, "end the old VM %s", uuid);
	if (!virt_err_is(e, VIR_ERR_NO_DOMAIN) && !virt_err_is(e, VIR_ERR_OPERATION_INVALID))
		return -1;
	err_clear(e);
	return 0;
}

static int fill(void *ctx, const char *uuid, enum adoption_vm vm, const char *xml, bool disks, struct store *s,
		const char **how, struct err *e)
{
	struct host *h = ctx;
	struct err why = ERR_INIT;

	*how = "nothing";
	if (vm == ADOPTION_ABSENT)
		return 0;
	if (vm == ADOPTION_PAUSED && !disks) {
		*how = "memory";
		if (fill_paused(h, uuid, s, &why) == 0)
			return 0;
		/* An earlier try may have left QEMU where it cannot write its state again. Its memory is old; what counts are its images. */
		log_warn("adopt_memory", "uuid=%s msg=%s", uuid, LOG_Q(why.text));
	}
	*how = "disks";
	return end_qemu(h, uuid, e) < 0 || fill_images(h, xml, s, e) < 0 ? -1 : 0;
}

static int remove_vm(void *ctx, const char *uuid, struct err *e)
{
	struct host *h = ctx;
	enum adoption_vm vm;
	VIRT_CONN_AUTO virConnectPtr conn = virt_get(h->virt, e);

	if (!conn || end_qemu(h, uuid, e) < 0 || look(h, uuid, &vm, e) < 0)
		return -1;
	/* One that was not persistent went with its QEMU. */
	VIRT_DOM_AUTO virDomainPtr dom = vm == ADOPTION_OFF ? virDomainLookupByUUIDString(conn, uuid) : NULL;
	/* The images stay, and with them what its snapshots hold; libvirt's records of these go, as the VM comes back on other images. */
	const int n = dom ? virDomainSnapshotNum(dom, 0) : 0;
	if (n > 0)
		log_warn("adopt_snapshots", "uuid=%s snapshots=%d msg=%s", uuid, n,
			 LOG_Q("libvirt's records of the snapshots of the old images are removed; the images stay"));
	if (!dom || virDomainUndefineFlags(dom, UNDEFINE) == 0)
		return 0;
	virt_err(e, "undefine the old VM %s", uuid);
	if (!virt_err_is(e, VIR_ERR_NO_DOMAIN))
		return -1;
	err_clear(e);
	return 0;
}

static const struct adoption_ops host_ops = { .look = look, .describe = describe, .fill = fill, .remove = remove_vm };

/* ---- adoption ---- */

/* "" if it is not protected from here. */
static json_t *protection_of(struct agent *a, const char *uuid)
{
	json_t *record = NULL;
	return replicator_protects(a->replicator, uuid, &record) ? record : NULL;
}

/* The one that is about to find out that it was taken over gets its time. */
static json_t *settled_protection(struct agent *a, const char *uuid)
{
	const int64_t until = clock_mono_ns() + FENCED_NS;

	for (;;) {
		json_t *record = protection_of(a, uuid);
		if (!record || strcmp(text_of(record, "state"), "active") != 0 || clock_mono_ns() > until ||
		    agent_stopping(a))
			return record;
		json_decref(record);
		usleep(LOOK_US);
	}
}

static json_t *settings_of(const json_t *record)
{
	static const char *const keys[] = { "rpo_ms", "mode", "keep", "quiesce", "max_pause_ms", "schedule", "bandwidth" };
	json_t *o = json_object();

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (json_object_get(record, keys[i]))
			json_object_set(o, keys[i], json_object_get(record, keys[i]));
	return o;
}

int leftover_adopt(struct agent *a, const char *uuid, const char *vm, const char *from, uint64_t epoch, json_t **report,
		   struct err *e)
{
	THREAD_LOCKED(&adopting);
	const struct settings_view *view = settings_get(a->settings);
	MEM_AUTO char *state_dir = mem_strdup(view->config->state_dir);
	settings_put(a->settings, view);
	json_t *record = settled_protection(a, uuid);
	struct host h;
	int rc = -1;

	if (host_open(&h, a, e) == 0) {
		const struct adoption_opts o = { .replicas = replicator_replicas(a->replicator),
						 .state_dir = state_dir,
						 .uuid = uuid,
						 .vm = vm,
						 .from = from,
						 .epoch = epoch,
						 .protection = record,
						 .ops = &host_ops,
						 .ctx = &h };
		rc = adoption_run(&o, report, e);
	}
	/* Last of all: as long as it is there, an agent that starts keeps the old VM paused. */
	if (rc == 0 && record)
		rc = replicator_give_up(a->replicator, uuid, e);
	if (rc == 0)
		json_object_set_new(*report, "settings", settings_of(record));
	json_decref(record);
	host_close(&h);
	return rc;
}

int leftover_adopt_call(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	const char *uuid = text_of(args, "uuid"), *vm = text_of(args, "vm"), *from = rpc_caller(call);
	const json_int_t epoch = json_integer_value(json_object_get(args, "epoch"));

	if (!epoch_uuid_ok(uuid) || !*vm || strlen(vm) > 255 || epoch < 1)
		return err_set(e, ERR_PROTOCOL, "replica.adopt: a value is missing or out of range");
	rpc_note(call, json_pack("{s:s}", "phase", "adopt"));
	return leftover_adopt(a, uuid, vm, from, (uint64_t)epoch, result, e);
}

/* ---- giving up ---- */

static bool was_taken_over(const json_t *record)
{
	const char *state = text_of(record, "state");
	return strcmp(state, "fenced") == 0 || strcmp(state, "handed-over") == 0;
}

/* {"vm","host","state","images"} of what would go; the definition in *xml. */
static json_t *what_goes(struct host *h, const json_t *record, enum adoption_vm *vm, char **xml, struct err *e)
{
	static const char *const states[] = { "gone", "off", "paused", "running" };
	const char *uuid = text_of(record, "uuid");
	json_t *what = NULL;

	if (look(h, uuid, vm, e) < 0 || (*vm != ADOPTION_ABSENT && !(what = describe(h, uuid, e))))
		return NULL;
	json_t *o = json_pack("{s:s, s:s, s:s}", "vm", text_of(record, "vm"), "host", text_of(record, "host"), "state",
			      states[*vm]);
	json_object_set_new(o, "images", what ? json_incref(json_object_get(what, "images")) : json_array());
	*xml = what ? mem_strdup(text_of(what, "xml")) : NULL;
	json_decref(what);
	return o;
}

static int give_up(struct agent *a, struct host *h, const json_t *record, bool only_look, json_t **result, struct err *e)
{
	MEM_AUTO char *xml = NULL;
	enum adoption_vm vm;
	const char *uuid = text_of(record, "uuid");
	json_t *what = what_goes(h, record, &vm, &xml, e);

	if (!what)
		return -1;
	*result = json_pack("{s:s, s:o}", "vm", text_of(record, "vm"), "gives_up", what);
	if (only_look)
		return 0;
	if (vm == ADOPTION_RUNNING) {
		err_set(e, ERR_REFUSED, "VM %s runs here although %s has taken it over", text_of(record, "vm"),
			text_of(record, "host"));
		return err_remedy(e, "find out which of the two is the right one; 'virsh suspend %s' stops it here",
				  text_of(record, "vm"));
	}
	if (xml) {
		const struct settings_view *view = settings_get(a->settings);
		MEM_AUTO char *path = mem_printf("%s/given-up-%s.xml", view->config->state_dir, uuid);
		settings_put(a->settings, view);
		if (file_write_durable(path, xml, strlen(xml), 0600, e) < 0 || remove_vm(h, uuid, e) < 0)
			return -1;
		json_object_set_new(what, "definition", json_string(path));
	}
	return replicator_give_up(a->replicator, uuid, e);
}

static int unprotect(struct agent *a, const json_t *args, bool only_look, json_t **result, struct err *e)
{
	json_t *record = protection_of(a, text_of(args, "vm"));
	struct host h = { 0 };
	int rc = 0;

	if (record && was_taken_over(record)) {
		THREAD_LOCKED(&adopting);
		rc = host_open(&h, a, e) == 0 ? give_up(a, &h, record, only_look, result, e) : -1;
		host_close(&h);
	} else if (only_look) {
		*result = json_object();
	} else {
		rc = replicator_unprotect(a->replicator, args, result, e);
	}
	json_decref(record);
	return rc;
}

int leftover_unprotect(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	(void)call;
	return unprotect(a, args, false, result, e);
}

int leftover_unprotect_look(struct agent *a, struct rpc_call *call, const json_t *args, json_t **result, struct err *e)
{
	(void)call;
	return unprotect(a, args, true, result, e);
}
