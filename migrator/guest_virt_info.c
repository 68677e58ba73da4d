#include "migrator/guest_virt_info.h"

#include "base/mem.h"
#include "migrator/domain.h"
#include "migrator/qemu_conf.h"
#include "migrator/state_files.h"
#include "migrator/xml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What QEMU has plugged into the device with that alias: query-block's entry. */
static const json_t *block_of(const json_t *blocks, const char *alias)
{
	size_t at;
	const json_t *one;
	char middle[128], end[128];
	snprintf(middle, sizeof(middle), "/%s/", alias);
	snprintf(end, sizeof(end), "/%s", alias);
	json_array_foreach (blocks, at, one) {
		const char *qdev = json_string_value(json_object_get(one, "qdev"));
		if (!qdev)
			continue;
		size_t n = strlen(qdev), k = strlen(end);
		if (strstr(qdev, middle) || !strcmp(qdev, alias) || (n > k && !strcmp(qdev + n - k, end)))
			return one;
	}
	return NULL;
}

static bool wanted(const struct domain_disk *d)
{
	bool disk = !d->device || !strcmp(d->device, "disk") || !strcmp(d->device, "lun");
	return disk && d->source != DOMAIN_SOURCE_NONE && d->target;
}

static int add_disk(struct guest_info *out, const struct domain_disk *d, xmlNodePtr node, const json_t *blocks,
		    struct err *e)
{
	MEM_AUTO char *alias = xml_attr(xml_child(node, "alias"), "name");
	const json_t *inserted = json_object_get(alias ? block_of(blocks, alias) : NULL, "inserted");
	const char *name = json_string_value(json_object_get(inserted, "node-name"));
	json_int_t size = json_integer_value(json_object_get(json_object_get(inserted, "image"), "virtual-size"));
	if (!name || size <= 0)
		return err_set(e, ERR_LIBVIRT, "QEMU does not list disk %s", d->target);
	if (out->n_disks == GUEST_MAX_DISKS)
		return err_set(e, ERR_REFUSED, "more than %u disks", GUEST_MAX_DISKS);
	struct guest_disk *disk = &out->disks[out->n_disks++];
	snprintf(disk->target, sizeof(disk->target), "%s", d->target);
	disk->path = mem_strdup(d->path ? d->path : d->network ? d->network : "");
	disk->format = mem_strdup(d->format ? d->format : "raw");
	disk->node = mem_strdup(name);
	disk->size_bytes = (uint64_t)size;
	disk->readonly = d->readonly;
	disk->shareable = d->shareable;
	return 0;
}

static int add_disks(struct guest_info *out, const struct domain *d, xmlNodePtr devices, const json_t *blocks,
		     struct err *e)
{
	out->disks = mem_alloc_array(GUEST_MAX_DISKS, sizeof(*out->disks));
	for (size_t i = 0; i < d->n_disks; i++) {
		if (!wanted(&d->disks[i]))
			continue;
		xmlNodePtr node = xml_child(devices, "disk");
		while (node && !xml_attr_is(xml_child(node, "target"), "dev", d->disks[i].target))
			node = xml_next(node, "disk");
		if (add_disk(out, &d->disks[i], node, blocks, e))
			return -1;
	}
	return 0;
}

static void add_file(struct guest_info *out, const char *kind, const char *path)
{
	out->files = mem_realloc_array(out->files, out->n_files + 1, sizeof(*out->files));
	struct guest_file *f = &out->files[out->n_files++];
	memset(f, 0, sizeof(*f));
	snprintf(f->kind, sizeof(f->kind), "%s", kind);
	f->path = mem_strdup(path);
}

static bool agent_connected(xmlNodePtr devices)
{
	for (xmlNodePtr n = xml_child(devices, "channel"); n; n = xml_next(n, "channel")) {
		xmlNodePtr target = xml_child(n, "target");
		if (xml_attr_is(target, "name", "org.qemu.guest_agent.0"))
			return xml_attr_is(target, "state", "connected");
	}
	return false;
}

int guest_virt_info_parse(const char *xml, const json_t *version, const json_t *blocks, struct guest_info *out,
			  struct err *e)
{
	DOMAIN_AUTO struct domain *d = domain_parse(xml, e);
	XML_DOC_AUTO xmlDocPtr doc = d ? xml_parse(xml, DOMAIN_XML_MAX, "the VM's XML", e) : NULL;
	if (!doc)
		return -1;
	xmlNodePtr devices = xml_child(xmlDocGetRootElement(doc), "devices");
	struct guest_info i = { 0 };
	const json_t *qemu = json_object_get(version, "qemu");

	snprintf(i.uuid, sizeof(i.uuid), "%s", d->uuid ? d->uuid : "");
	snprintf(i.name, sizeof(i.name), "%s", d->name ? d->name : "");
	i.kvm = d->type && !strcmp(d->type, "kvm");
	i.dirty_ring = d->dirty_ring > 0;
	i.lock_manager = d->leases;
	i.agent = agent_connected(devices);
	i.qemu_major = (unsigned)json_integer_value(json_object_get(qemu, "major"));
	i.qemu_minor = (unsigned)json_integer_value(json_object_get(qemu, "minor"));
	i.qemu_micro = (unsigned)json_integer_value(json_object_get(qemu, "micro"));
	i.memory_bytes = d->memory_bytes;
	if (add_disks(&i, d, devices, blocks, e)) {
		guest_info_fini(&i);
		return -1;
	}
	if (d->nvram)
		add_file(&i, "nvram", d->nvram);
	MEM_AUTO char *tpm = state_file_path(STATE_FILES_ROOT, d, STATE_FILE_TPM);
	if (tpm && access(tpm, R_OK) == 0)
		add_file(&i, "tpm", tpm);
	*out = i;
	return 0;
}

/* libvirt's API does not tell whether a lock manager is configured; leases in the XML are only those that somebody
 * wrote there. So its configuration is read, where we may: `lock_manager = "..."`. */
static bool lock_manager_configured(void)
{
	MEM_AUTO char *manager = qemu_conf_string(QEMU_CONF, "lock_manager");
	return manager && *manager && strcmp(manager, "nop") != 0;
}

int guest_virt_info_get(virDomainPtr dom, const json_t *version, const json_t *blocks, struct guest_info *out,
			struct err *e)
{
	int state = 0, reason = 0;
	VIRT_STR_AUTO char *live = virDomainGetXMLDesc(dom, 0);
	if (!live)
		return virt_err(e, "the VM's XML");
	VIRT_STR_AUTO char *xml = virDomainGetXMLDesc(dom, VIR_DOMAIN_XML_MIGRATABLE | VIR_DOMAIN_XML_SECURE);
	if (!xml)
		return virt_err(e, "the VM's XML");
	if (virDomainGetState(dom, &state, &reason, 0) < 0)
		return virt_err(e, "the VM's state");
	if (state == VIR_DOMAIN_SHUTOFF || (state == VIR_DOMAIN_CRASHED && virDomainIsActive(dom) != 1))
		return err_set(e, ERR_REFUSED, "the VM is shut off");
	struct guest_info i = { 0 };
	if (guest_virt_info_parse(live, version, blocks, &i, e))
		return -1;
	i.running = state == VIR_DOMAIN_RUNNING || state == VIR_DOMAIN_BLOCKED || state == VIR_DOMAIN_SHUTDOWN;
	i.paused_by_user = state == VIR_DOMAIN_PAUSED && reason == VIR_DOMAIN_PAUSED_USER;
	i.lock_manager |= lock_manager_configured();
	i.xml = mem_strdup(xml);
	*out = i;
	return 0;
}
