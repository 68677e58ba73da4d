/*
 * preflight_target.c - preflight.h's facts of the target. The request comes from a peer: its XML is parsed with care,
 * and paths in it are only looked at.
 */
#include "migrator/preflight.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "migrator/facts.h"
#include "migrator/image_facts.h"
#include "migrator/images.h"
#include "migrator/needs.h"
#include "migrator/volumes.h"
#include "migrator/xml.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_LAYERS 64

struct asked {
	virConnectPtr conn;
	const struct preflight_target_opts *opts;
	const struct domain *dom;
	const json_t *request;
	json_t *pool_errors; /* by a disk's target */
	bool copy;
	struct cpu_scope scope; /* as much of the VM's emulator, arch, machine and accelerator as this host knows */
};

static const char *str(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

/* The newest machine type of the family ("pc-q35" of "pc-q35-10.0") that this host's emulators of the arch know,
 * borrowed, or NULL. */
static const char *newest_of_family(const json_t *emulators, const char *arch, const char *machine)
{
	const char *dash = strrchr(machine, '-');
	size_t family = dash ? (size_t)(dash - machine) + 1 : 0;
	const char *best = NULL;
	double best_version = -1;
	size_t i, k;
	json_t *emulator, *m;

	json_array_foreach (emulators, i, emulator) {
		const char *a = str(emulator, "arch");
		if (!a || (arch && strcmp(a, arch) != 0))
			continue;
		json_array_foreach (json_object_get(emulator, "machines"), k, m) {
			const char *name = str(m, "name");
			if (!family || !name || strncmp(name, machine, family) != 0)
				continue;
			double version = strtod(name + family, NULL);
			if (version > best_version) {
				best = name;
				best_version = version;
			}
		}
	}
	return best;
}

static bool has_caps(const struct asked *q, const char *emulator, const char *machine)
{
	VIRT_STR_AUTO char *caps = virConnectGetDomainCapabilities(q->conn, emulator, q->dom->arch, machine,
								   q->dom->type, 0);
	return caps != NULL;
}

/* libvirt answers for a machine, its aliases included, only when emulator, arch and accelerator fit too; so the
 * question is asked with less and less in it until it says yes. */
static void answer_machine(struct asked *q, json_t *answer)
{
	const struct domain *d = q->dom;
	bool machine = has_caps(q, d->emulator, d->machine);
	bool emulator = machine || has_caps(q, d->emulator, NULL);
	bool type = emulator || has_caps(q, NULL, NULL);
	json_t *newest = NULL;

	if (!machine && type && d->machine) {
		VIRT_STR_AUTO char *caps = virConnectGetCapabilities(q->conn);
		json_t *emulators = caps ? facts_emulators(caps) : json_array();
		const char *name = newest_of_family(emulators, d->arch, d->machine);
		newest = name ? json_string(name) : NULL;
		json_decref(emulators);
	}
	q->scope = (struct cpu_scope){ emulator ? d->emulator : NULL, d->arch, machine ? d->machine : NULL,
				       type ? d->type : NULL };
	json_object_set_new(answer, "domain_type", json_boolean(type));
	json_object_set_new(answer, "emulator", json_pack("{s:s?,s:b}", "path", d->emulator, "usable", emulator));
	json_object_set_new(answer, "machine",
			    json_pack("{s:s?,s:b,s:o}", "name", d->machine, "known", machine, "newest",
				      newest ? newest : json_null()));
}

static json_t *answer_cpu(const struct asked *q)
{
	const char *cpu_xml = str(q->request, "cpu_xml");
	struct err why = ERR_INIT;
	struct cpu_result r;

	if (!cpu_xml)
		return json_null();
	if (cpu_compare(q->conn, &q->scope, cpu_xml, &r, &why) < 0)
		return json_pack("{s:s,s:[],s:s}", "verdict", cpu_verdict_name(CPU_UNKNOWN), "missing", "message",
				 why.text);
	json_t *cpu = json_pack("{s:s,s:O,s:s}", "verdict", cpu_verdict_name(r.verdict), "missing", r.missing,
				"message", r.message);
	cpu_result_fini(&r);
	return cpu ? cpu : json_null();
}

/* Another VM of this host that has the image, or NULL; heap. */
static char *used_by(const struct asked *q, const char *path)
{
	virDomainPtr *doms = NULL;
	char *name = NULL;
	int n = virConnectListAllDomains(q->conn, &doms, 0);

	for (int i = 0; i < n; i++) {
		struct err ignored = ERR_INIT;
		VIRT_STR_AUTO char *xml = name ? NULL : virDomainGetXMLDesc(doms[i], 0);
		DOMAIN_AUTO struct domain *d = xml ? domain_parse(xml, &ignored) : NULL;
		bool same = d && d->uuid && q->dom->uuid && strcmp(d->uuid, q->dom->uuid) == 0;
		for (size_t k = 0; d && !same && !name && k < d->n_disks; k++)
			if (d->disks[k].path && strcmp(d->disks[k].path, path) == 0)
				name = mem_strdup(d->name);
		virDomainFree(doms[i]);
	}
	free(doms);
	return name;
}

/* True, false, or null when it can't be told. */
static json_t *answer_shared(const char *path, const struct image_facts *f, const json_t *theirs)
{
	const char *probe = str(theirs, "probe");
	const char *token = str(theirs, "token");
	const char *id = str(theirs, "device_id");

	if (!f->exists)
		return json_false();
	if (f->device) {
		MEM_AUTO char *here = image_facts_device_id(path);
		return here && id ? json_boolean(strcmp(here, id) == 0) : json_null();
	}
	if (probe && token)
		return json_boolean(image_facts_check_probe(path, probe, token));
	/* They could not write there: only what file systems made for sharing say is taken, and only if all of it
	 * fits. */
	if (f->network_fs && json_is_true(json_object_get(theirs, "network_fs")) &&
	    json_integer_value(json_object_get(theirs, "inode")) == (json_int_t)f->inode &&
	    json_integer_value(json_object_get(theirs, "size")) == (json_int_t)f->size)
		return json_true();
	return json_null();
}

static void answer_image(const struct asked *q, const struct domain_disk *disk, json_t *out)
{
	struct err why = ERR_INIT;
	uint64_t virtual_bytes;

	if (image_facts_virtual_size(disk->path, disk->format, &virtual_bytes, &why) == 0)
		json_object_set_new(out, "virtual_bytes", json_integer((json_int_t)virtual_bytes));
	else
		json_object_set_new(out, "format_error", json_string(why.text));
	if (q->copy && !disk->readonly) {
		MEM_AUTO char *other = used_by(q, disk->path);
		if (other)
			json_object_set_new(out, "used_by", json_string(other));
	}
}

static void answer_creatable(const struct asked *q, const struct domain_disk *disk, const json_t *theirs, json_t *out)
{
	struct err why = ERR_INIT;
	json_int_t size = json_integer_value(json_object_get(theirs, "virtual_bytes"));
	json_t *one = json_pack("[{s:s,s:s,s:I}]", "path", disk->path, "format", disk->format, "virtual_size",
				size > 0 ? size : 1);

	if (images_check(q->conn, q->opts->image_dir, one, &why) < 0) {
		json_object_set_new(out, "refused", json_string(why.text));
		json_object_set_new(out, "remedy", json_string(why.remedy));
	}
	json_decref(one);
}

/* What lies behind the image, which the XML does not list. The paths are a peer's: looked at, never opened. */
static json_t *answer_backing(const json_t *theirs)
{
	json_t *list = json_array(), *layer;
	size_t i;

	json_array_foreach (json_object_get(theirs, "backing"), i, layer) {
		const char *path = str(layer, "path");
		struct image_facts f;
		if (!path || i == MAX_LAYERS)
			break;
		image_facts_get(path, &f);
		json_array_append_new(list, json_pack("{s:s,s:b,s:o,s:I}", "path", path, "exists", f.exists, "shared",
						      answer_shared(path, &f, layer), "size", (json_int_t)f.size));
	}
	return list;
}

static json_t *find_disk(const json_t *request, const char *target)
{
	size_t i;
	json_t *d;
	json_array_foreach (json_object_get(request, "disks"), i, d) {
		const char *have = str(d, "target");
		if (have && strcmp(have, target) == 0)
			return d;
	}
	return NULL;
}

static json_t *answer_disk(const struct asked *q, const struct domain_disk *disk)
{
	const json_t *theirs = find_disk(q->request, disk->target);
	struct image_facts f;
	char fs_id[32];

	if (!disk->path)
		return json_pack("{s:s,s:b,s:s*}", "target", disk->target, "exists", 0, "pool_error",
				 str(q->pool_errors, disk->target));
	image_facts_get(disk->path, &f);
	snprintf(fs_id, sizeof(fs_id), "%" PRIx64, f.fs_id);
	json_t *out = json_pack("{s:s,s:b,s:b,s:o,s:s?,s:I}", "target", disk->target, "exists", f.exists, "folder",
				f.folder, "shared", answer_shared(disk->path, &f, theirs), "fs_id",
				f.folder ? fs_id : NULL, "fs_free_bytes", (json_int_t)f.fs_free);
	json_object_set_new(out, "backing", answer_backing(theirs));
	if (f.exists)
		answer_image(q, disk, out);
	else if (q->copy && disk->source == DOMAIN_SOURCE_FILE && domain_disk_copyable(disk))
		answer_creatable(q, disk, theirs, out);
	return out;
}

/* Where a volume is, the source says; this host's pool of that name must be at the same place. */
static void place_volumes(struct asked *q, struct domain *d)
{
	for (size_t i = 0; i < d->n_disks; i++) {
		const char *path = str(find_disk(q->request, d->disks[i].target), "path");
		struct err why = ERR_INIT;
		if (d->disks[i].pool && path && volumes_place(q->conn, &d->disks[i], path, &why) != 0)
			json_object_set_new(q->pool_errors, d->disks[i].target, json_string(why.text));
	}
}

static json_t *answer_disks(const struct asked *q)
{
	json_t *list = json_array();
	for (size_t i = 0; i < q->dom->n_disks; i++)
		json_array_append_new(list, answer_disk(q, &q->dom->disks[i]));
	return list;
}

static json_t *answer_paths(const struct asked *q)
{
	json_t *list = json_array();
	for (size_t i = 0; i < q->dom->n_paths; i++) {
		const char *path = q->dom->paths[i].path;
		struct image_facts f;
		image_facts_get(path, &f);
		json_array_append_new(list, json_pack("{s:s,s:b,s:b}", "path", path, "exists", access(path, F_OK) == 0,
						      "folder", f.folder));
	}
	return list;
}

static void answer_names(const struct asked *q, json_t *answer)
{
	const struct domain *d = q->dom;
	struct err ignored = ERR_INIT;
	enum where where;
	bool persistent;
	VIRT_DOM_AUTO virDomainPtr by_uuid = d->uuid ? virDomainLookupByUUIDString(q->conn, d->uuid) : NULL;
	VIRT_DOM_AUTO virDomainPtr by_name = virDomainLookupByName(q->conn, d->name);
	char uuid[VIR_UUID_STRING_BUFLEN];

	json_object_set_new(answer, "same_uuid", json_null());
	json_object_set_new(answer, "same_name", json_null());
	if (by_uuid && where_is(q->conn, d->uuid, &where, &persistent, &ignored) == 0)
		json_object_set_new(answer, "same_uuid",
				    json_pack("{s:s,s:s,s:b}", "name", virDomainGetName(by_uuid), "state",
					      where_name(where), "persistent", persistent));
	if (by_name && virDomainGetUUIDString(by_name, uuid) == 0 && where_is(q->conn, uuid, &where, NULL, &ignored) == 0)
		json_object_set_new(answer, "same_name",
				    json_pack("{s:s,s:s}", "uuid", uuid, "state", where_name(where)));
}

static bool in_path(const char *program)
{
	static const char *const folders[] = { "/usr/bin", "/usr/local/bin", "/bin" };
	char path[256];
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", folders[i], program);
		if (access(path, X_OK) == 0)
			return true;
	}
	return false;
}

/* Does libvirt run QEMU as root? Its DAC label says so. */
static bool qemu_is_root(virConnectPtr conn)
{
	struct err ignored = ERR_INIT;
	VIRT_STR_AUTO char *caps = virConnectGetCapabilities(conn);
	XML_DOC_AUTO xmlDocPtr doc = caps ? xml_parse(caps, 8u << 20, "capabilities", &ignored) : NULL;
	xmlNodePtr host = doc ? xml_child(xmlDocGetRootElement(doc), "host") : NULL;

	for (xmlNodePtr m = xml_child(host, "secmodel"); m; m = xml_next(m, "secmodel")) {
		MEM_AUTO char *model = xml_text(xml_child(m, "model"));
		MEM_AUTO char *label = xml_text(xml_child(m, "baselabel"));
		if (model && label && strcmp(model, "dac") == 0)
			return strncmp(label, "+0:", 3) == 0;
	}
	return false;
}

/* May QEMU catch page faults of guest memory, as the target of a post-copy must? */
static bool userfaultfd_allowed(virConnectPtr conn)
{
	struct err ignored = ERR_INIT;
	MEM_AUTO char *text = file_read_all("/proc/sys/vm/unprivileged_userfaultfd", 16, NULL, &ignored);
	return !text || text[0] == '1' || qemu_is_root(conn);
}

int preflight_target(virConnectPtr conn, const struct preflight_target_opts *opts, const json_t *request,
		     json_t **result, struct err *e)
{
	const char *xml = str(request, "xml");
	if (!xml)
		return err_set(e, ERR_PROTOCOL, "preflight.target: there is no domain XML");
	DOMAIN_AUTO struct domain *dom = domain_parse(xml, e);
	if (!dom)
		return err_wrap(e, "preflight.target");

	struct asked q = { .conn = conn,
			   .opts = opts,
			   .dom = dom,
			   .request = request,
			   .pool_errors = json_object(),
			   .copy = json_is_true(json_object_get(request, "copy_storage")) };
	json_t *answer = json_pack("{s:s}", "host", opts->host_name);
	json_t *versions = facts_versions(conn);
	json_t *vms = facts_vms(conn);
	json_t *needs = needs_facts(conn, dom);
	json_object_update(answer, versions);
	json_decref(versions);
	json_object_update(answer, needs);
	json_decref(needs);
	answer_machine(&q, answer);
	json_object_set_new(answer, "cpu", answer_cpu(&q));
	json_object_set_new(answer, "memory", facts_memory(vms));
	json_decref(vms);
	place_volumes(&q, dom);
	json_object_set_new(answer, "disks", answer_disks(&q));
	json_decref(q.pool_errors);
	json_object_set_new(answer, "paths", answer_paths(&q));
	json_object_set_new(answer, "addresses", facts_addresses());
	answer_names(&q, answer);
	json_object_set_new(answer, "incoming",
			    json_boolean(opts->incoming && dom->uuid && opts->incoming(opts->ctx, dom->uuid)));
	json_object_set_new(answer, "jobs", json_integer(opts->jobs));
	json_object_set_new(answer, "max_jobs", json_integer(opts->max_jobs));
	json_object_set_new(answer, "swtpm", json_boolean(in_path("swtpm")));
	json_object_set_new(answer, "userfaultfd", json_boolean(userfaultfd_allowed(conn)));
	json_object_set_new(answer, "time_ns", json_integer(clock_wall_ns()));
	*result = answer;
	return 0;
}
