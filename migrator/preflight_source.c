/*
 * preflight_source.c - preflight.h's facts of the source.
 */
#include "migrator/preflight.h"

#include "base/mem.h"
#include "migrator/facts.h"
#include "migrator/guests.h"
#include "migrator/image_facts.h"
#include "migrator/volumes.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(IMAGE_FACTS_TOKEN_LEN == sizeof(((struct preflight_disk *)0)->token), "a probe's token");

static int get_xml(struct preflight_source *s, virDomainPtr dom, const char *name, struct err *e)
{
	bool off = s->where == WHERE_SHUTOFF;

	/* Live XML shows block jobs and backing chains; what libvirt would send to another host leaves them out. */
	VIRT_STR_AUTO char *looked_at = virDomainGetXMLDesc(dom, off ? VIR_DOMAIN_XML_INACTIVE : 0);
	if (!looked_at)
		return virt_err(e, "read the definition of %s", name);
	s->xml = virDomainGetXMLDesc(dom, VIR_DOMAIN_XML_SECURE | (unsigned)(off ? VIR_DOMAIN_XML_INACTIVE
										 : VIR_DOMAIN_XML_MIGRATABLE));
	if (!s->xml)
		return virt_err(e, "read the definition of %s", name);
	s->dom = domain_parse(looked_at, e);
	return s->dom ? 0 : err_wrap(e, "VM %s", name);
}

static void get_job(struct preflight_source *s, virDomainPtr dom)
{
	virTypedParameterPtr params = NULL;
	int n = 0;
	int type = VIR_DOMAIN_JOB_NONE;
	int operation = VIR_DOMAIN_JOB_OPERATION_UNKNOWN;

	s->job = -1;
	if (virDomainGetJobStats(dom, &type, &params, &n, 0) < 0)
		return; /* shut off, or a driver without jobs */
	(void)virTypedParamsGetInt(params, n, VIR_DOMAIN_JOB_OPERATION, &operation);
	virTypedParamsFree(params, n);
	if (type != VIR_DOMAIN_JOB_NONE && type != VIR_DOMAIN_JOB_COMPLETED)
		s->job = operation;
}

static void get_memory(struct preflight_source *s, virDomainPtr dom)
{
	virDomainMemoryStatStruct stats[VIR_DOMAIN_MEMORY_STAT_NR];
	int n = virDomainMemoryStats(dom, stats, VIR_DOMAIN_MEMORY_STAT_NR, 0);

	for (int i = 0; i < n; i++)
		if (stats[i].tag == VIR_DOMAIN_MEMORY_STAT_RSS)
			s->rss_bytes = (uint64_t)stats[i].val << 10;
}

static void get_cpu(struct preflight_source *s, virConnectPtr conn)
{
	const struct domain *d = s->dom;
	const struct cpu_scope scope = { d->emulator, d->arch, d->machine, d->type };
	struct err ignored = ERR_INIT;
	struct cpu_result here;

	s->cpu_missing_here = json_array();
	if (!d->cpu_mode)
		return; /* the emulator's own default, which every host has */
	if (strcmp(d->cpu_mode, "host-passthrough") == 0 || strcmp(d->cpu_mode, "maximum") == 0) {
		s->cpu_xml = cpu_host_model(conn, &scope, &ignored);
		return;
	}
	s->cpu_xml = mem_strdup(d->cpu_xml);
	if (cpu_compare(conn, &scope, s->cpu_xml, &here, &ignored) < 0)
		return;
	json_decref(s->cpu_missing_here);
	s->cpu_missing_here = json_incref(here.missing);
	cpu_result_fini(&here);
}

static void get_layers(const struct domain_disk *disk, struct preflight_disk *out)
{
	struct err ignored = ERR_INIT;

	out->layers = mem_alloc_array(disk->n_backing ? disk->n_backing : 1, sizeof(*out->layers));
	for (size_t i = 0; i < disk->n_backing; i++) {
		struct preflight_layer *layer = &out->layers[i];
		struct image_facts f;
		if (!disk->backing[i].path)
			continue;
		image_facts_get(disk->backing[i].path, &f);
		/* A copy has the content of the whole chain. */
		out->allocated_bytes += f.allocated;
		layer->size = f.size;
		layer->inode = f.inode;
		layer->network_fs = f.network_fs;
		if (f.exists && !f.device)
			(void)image_facts_make_probe(disk->backing[i].path, &layer->probe, layer->token, &ignored);
	}
}

static void get_file(const struct domain_disk *disk, struct preflight_disk *out)
{
	struct err ignored = ERR_INIT;
	struct image_facts f;

	image_facts_get(disk->path, &f);
	if (!f.exists)
		return;
	out->inode = f.inode;
	out->size = f.size;
	out->mtime_ns = f.mtime_ns;
	out->network_fs = f.network_fs;
	out->allocated_bytes = f.allocated;
	get_layers(disk, out);
	out->snapshots = strcmp(disk->format, "qcow2") == 0 ? image_facts_snapshots(disk->path) : 0;
	(void)image_facts_virtual_size(disk->path, disk->format, &out->virtual_bytes, &ignored);
	out->device_id = image_facts_device_id(disk->path);
	if (!f.device && !disk->readonly)
		(void)image_facts_make_probe(disk->path, &out->probe, out->token, &ignored);
}

static void get_disks(struct preflight_source *s, virDomainPtr dom)
{
	struct err ignored = ERR_INIT;
	DOMAIN_AUTO struct domain *sent = domain_parse(s->xml, &ignored);

	s->disks = mem_alloc_array(s->dom->n_disks ? s->dom->n_disks : 1, sizeof(*s->disks));
	for (size_t i = 0; i < s->dom->n_disks; i++) {
		const struct domain_disk *disk = &s->dom->disks[i];
		struct preflight_disk *out = &s->disks[i];
		virDomainBlockInfo info = { 0 };

		if (disk->path)
			get_file(disk, out);
		/* Chains that libvirt has only found out are not in what it sends. */
		const struct domain_disk *as_sent = sent ? domain_disk_by_target(sent, disk->target) : NULL;
		out->fixed_chain = as_sent && as_sent->n_backing > 0;
		if (disk->source != DOMAIN_SOURCE_NONE && out->virtual_bytes == 0 &&
		    virDomainGetBlockInfo(dom, disk->target, &info, 0) == 0)
			out->virtual_bytes = info.capacity;
		if (out->virtual_bytes && out->allocated_bytes > out->virtual_bytes)
			out->allocated_bytes = out->virtual_bytes;
	}
}

int preflight_gather(virConnectPtr conn, virDomainPtr dom, struct preflight_source *out, struct err *e)
{
	struct preflight_source s = { .job = -1 };
	char uuid[VIR_UUID_STRING_BUFLEN];
	const char *name = virDomainGetName(dom);

	if (virDomainGetUUIDString(dom, uuid) < 0)
		return virt_err(e, "look at VM %s", name);
	if (where_is(conn, uuid, &s.where, &s.persistent, e) < 0)
		return -1;
	if (get_xml(&s, dom, name, e) < 0) {
		preflight_source_fini(&s);
		return -1;
	}
	volumes_find(conn, s.dom);
	s.paused_reason = guests_paused_reason(dom);
	get_job(&s, dom);
	int n = virDomainSnapshotNum(dom, 0);
	s.snapshots = n > 0 ? (unsigned)n : 0;
	n = virDomainListAllCheckpoints(dom, NULL, 0);
	s.checkpoints = n > 0 ? (unsigned)n : 0;
	s.managed_save = virDomainHasManagedSaveImage(dom, 0) == 1;
	(void)virConnectGetLibVersion(conn, &s.libvirt_version);
	s.qemu_version = facts_qemu_version(conn);
	get_memory(&s, dom);
	get_cpu(&s, conn);
	get_disks(&s, dom);
	*out = s;
	return 0;
}

static void remove_probe(char **probe)
{
	if (*probe)
		(void)unlink(*probe);
	mem_free_ptr(probe);
}

void preflight_remove_probes(struct preflight_source *s)
{
	for (size_t i = 0; s->disks && i < s->dom->n_disks; i++) {
		remove_probe(&s->disks[i].probe);
		for (size_t k = 0; s->disks[i].layers && k < s->dom->disks[i].n_backing; k++)
			remove_probe(&s->disks[i].layers[k].probe);
	}
}

void preflight_source_fini(struct preflight_source *s)
{
	preflight_remove_probes(s);
	for (size_t i = 0; s->disks && i < s->dom->n_disks; i++) {
		free(s->disks[i].device_id);
		free(s->disks[i].layers);
	}
	free(s->disks);
	free(s->xml);
	free(s->cpu_xml);
	json_decref(s->cpu_missing_here);
	domain_free(s->dom);
	*s = (struct preflight_source){ .job = -1 };
}

static const char *name_of(const char *probe)
{
	const char *slash = probe ? strrchr(probe, '/') : NULL;
	return slash ? slash + 1 : NULL;
}

static json_t *backing_json(const struct domain_disk *disk, const struct preflight_disk *d)
{
	json_t *list = json_array();
	for (size_t i = 0; d->layers && i < disk->n_backing; i++)
		if (disk->backing[i].path)
			json_array_append_new(list,
					      json_pack("{s:s,s:s?,s:s,s:I,s:I,s:b}", "path", disk->backing[i].path,
							"probe", name_of(d->layers[i].probe), "token",
							d->layers[i].token, "inode", (json_int_t)d->layers[i].inode,
							"size", (json_int_t)d->layers[i].size, "network_fs",
							d->layers[i].network_fs));
	return list;
}

json_t *preflight_request(const struct preflight_source *s, const struct migration_args *args)
{
	json_t *disks = json_array();
	for (size_t i = 0; i < s->dom->n_disks; i++) {
		const struct preflight_disk *d = &s->disks[i];
		json_array_append_new(disks, json_pack("{s:s,s:s?,s:I,s:s?,s:s,s:I,s:I,s:I,s:b,s:s?,s:o}", "target",
						       s->dom->disks[i].target, "path", s->dom->disks[i].path,
						       "virtual_bytes", (json_int_t)d->virtual_bytes, "probe",
						       name_of(d->probe), "token", d->token, "inode",
						       (json_int_t)d->inode, "size", (json_int_t)d->size, "mtime_ns",
						       (json_int_t)d->mtime_ns, "network_fs", d->network_fs, "device_id",
						       d->device_id, "backing", backing_json(&s->dom->disks[i], d)));
	}
	return json_pack("{s:s,s:b,s:b,s:s?,s:o}", "xml", s->xml, "copy_storage", args->copy_storage, "offline",
			 args->offline, "cpu_xml", s->cpu_xml, "disks", disks);
}
