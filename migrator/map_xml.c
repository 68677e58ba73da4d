#include "migrator/map_xml.h"

#include "base/mem.h"
#include "migrator/domain.h"
#include "migrator/host_files.h"
#include "migrator/xml.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_IMAGES "/var/lib/libvirt/images"

struct map {
	const struct map_opts *o;
	json_t *findings;
};

static void found(struct map *m, const char *what, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void found(struct map *m, const char *what, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (m->findings)
		json_array_append_new(m->findings, json_pack("{s:s, s:s}", "what", what, "text", text));
}

static bool here(struct map *m, const char *path)
{
	return m->o->exists ? m->o->exists(m->o->ctx, path) : access(path, F_OK) == 0;
}

static void set_attr(xmlNodePtr node, const char *name, const char *value)
{
	(void)xmlSetProp(node, (const xmlChar *)name, (const xmlChar *)value);
}

static void remove_node(xmlNodePtr node)
{
	if (!node)
		return;
	xmlUnlinkNode(node);
	xmlFreeNode(node);
}

static void remove_children(xmlNodePtr parent, const char *name)
{
	for (xmlNodePtr n = xml_child(parent, name), next; n; n = next) {
		next = xml_next(n, name);
		remove_node(n);
	}
}

static void set_text(xmlNodePtr node, const char *text)
{
	xmlNodeSetContent(node, (const xmlChar *)"");
	xmlNodeAddContent(node, (const xmlChar *)text);
}

/* ---- folders ---- */

static size_t folder_len(const char *folder)
{
	size_t len = strlen(folder);
	while (len > 1 && folder[len - 1] == '/')
		len--;
	return len;
}

static bool is_below(const char *path, const char *folder)
{
	size_t len = folder_len(folder);
	return strncmp(path, folder, len) == 0 && (path[len] == '/' || !path[len]);
}

/* Out of a folder by "..", which a rule for that folder does not mean. */
static bool climbs(const char *path)
{
	size_t len = strlen(path);
	return strstr(path, "/../") || (len >= 3 && strcmp(path + len - 3, "/..") == 0);
}

/* Where the longest rule that fits puts a file. What lies below the rule's folder is kept: /a/b/web.img with /a -> /x is /x/b/web.img. NULL: none. */
static char *by_rule(const struct map_rule *r, size_t n, const char *path)
{
	const struct map_rule *best = NULL;

	if (climbs(path))
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (is_below(path, r[i].from) && path[folder_len(r[i].from)] == '/' &&
		    (!best || folder_len(r[i].from) > folder_len(best->from)))
			best = &r[i];
	return best ? mem_printf("%s%s", best->to, path + folder_len(best->from)) : NULL;
}

/* ---- disks ---- */

static const struct map_disk *disk_for(const struct map_opts *o, const char *target)
{
	for (size_t i = 0; target && i < o->n_disks; i++)
		if (strcmp(o->disks[i].target, target) == 0)
			return &o->disks[i];
	return NULL;
}

static xmlNodePtr child_made(xmlNodePtr parent, const char *name)
{
	xmlNodePtr n = xml_child(parent, name);
	return n ? n : xmlNewChild(parent, NULL, (const xmlChar *)name, NULL);
}

/* The source becomes a file, whatever it was; what the guest sees of the disk stays. */
static void replace_source(struct map *m, xmlNodePtr disk, const struct map_disk *to)
{
	xmlNodePtr old = xml_child(disk, "source"), driver = child_made(disk, "driver");
	xmlNodePtr source = xmlNewNode(NULL, (const xmlChar *)"source");

	if (xml_child(disk, "encryption") || xml_child(old, "encryption")) {
		found(m, "disk-encryption", "disk %s was encrypted below the guest; its image here is not", to->target);
		remove_children(disk, "encryption");
	}
	if (!xml_attr_is(disk, "type", "file") && !xml_attr_is(disk, "type", "block")) {
		remove_children(disk, "auth"); /* of the storage that it was on */
		found(m, "disk-source", "disk %s was on storage of another kind; here it is the file %s", to->target,
		      to->path);
	}
	if (xml_child(disk, "shareable")) {
		/* libvirt starts no VM with a qcow2 image that others may write to. */
		found(m, "disk-shareable", "disk %s was shared with other VMs; its image here is this VM's alone",
		      to->target);
		remove_children(disk, "shareable");
	}
	if (xml_child(disk, "transient"))
		found(m, "disk-transient",
		      "disk %s forgot at a shutdown what was written to it; its image here does not", to->target);
	set_attr(disk, "type", "file");
	set_attr(source, "file", to->path);
	if (old) {
		(void)xmlAddNextSibling(old, source);
		remove_node(old);
	} else {
		(void)xmlAddChild(disk, source);
	}
	set_attr(driver, "name", "qemu");
	set_attr(driver, "type", to->format);
	remove_children(disk, "backingStore");
	remove_children(disk, "mirror");
	remove_children(disk, "transient");
}

static int empty_drive(struct map *m, xmlNodePtr source, const char *target, const char *path)
{
	found(m, "drive-empty", "drive %s is empty: %s is not on this host", target, path ? path : "what was in it");
	remove_node(source);
	return 0;
}

/* A disk of which there is no replica. */
static int map_other(struct map *m, xmlNodePtr disk, xmlNodePtr source, const char *target, struct err *e)
{
	bool file = xml_attr_is(disk, "type", "file"), block = xml_attr_is(disk, "type", "block");
	bool cdrom = xml_attr_is(disk, "device", "cdrom");
	const char *attr = block ? "dev" : "file";
	MEM_AUTO char *path = file || block ? xml_attr(source, attr) : NULL;
	MEM_AUTO char *placed = path ? by_rule(m->o->folders, m->o->n_folders, path) : NULL;

	if ((file || block) && !path)
		return 0;
	if (placed && here(m, placed)) {
		set_attr(source, attr, placed);
		return 0;
	}
	bool there = path && here(m, path);
	if (there && (cdrom || xml_child(disk, "readonly")))
		return 0;
	if (cdrom || xml_attr_is(disk, "device", "floppy"))
		return empty_drive(m, source, target, path);
	if (there) {
		err_set(e, ERR_REFUSED, "disk %s is not replicated, and the VM would write to this host's %s", target,
			path);
		return err_remedy(e, "if that is meant, a rule in restore.disks for its folder says so");
	}
	err_set(e, ERR_REFUSED, "disk %s is not replicated and %s is not on this host", target,
		path ? path : "what it is on");
	return err_remedy(e, "copy it to this host, and place it with a rule in restore.disks if the VM writes to it");
}

static int map_disk(struct map *m, xmlNodePtr disk, struct err *e)
{
	MEM_AUTO char *target = xml_attr(xml_child(disk, "target"), "dev");
	const struct map_disk *to = disk_for(m->o, target);
	xmlNodePtr source = xml_child(disk, "source");

	if (to) {
		replace_source(m, disk, to);
		return 0;
	}
	/* an empty drive, or storage that is reached over the network */
	return !source || xml_attr_is(disk, "type", "network") ? 0
							       : map_other(m, disk, source, target ? target : "?", e);
}

/* ---- network cards ---- */

static const char *rule_for(const struct map_rule *r, size_t n, const char *from)
{
	for (size_t i = 0; from && i < n; i++)
		if (strcmp(r[i].from, from) == 0)
			return r[i].to;
	return NULL;
}

static void map_iface(struct map *m, xmlNodePtr iface)
{
	static const char *const attrs[] = { "network", "bridge", "dev" };
	xmlNodePtr source = xml_child(iface, "source");
	size_t i = xml_attr_is(iface, "type", "network") ? 0 : xml_attr_is(iface, "type", "bridge") ? 1 : 2;
	MEM_AUTO char *from = xml_attr(source, attrs[i]);
	const char *to = rule_for(m->o->networks, m->o->n_networks, from);

	if (m->o->links_down)
		set_attr(child_made(iface, "link"), "state", "down");
	if (!to)
		return;
	if (strncmp(to, "network:", 8) == 0 || strncmp(to, "bridge:", 7) == 0) {
		size_t kind = to[0] == 'n' ? 0 : 1;
		to = strchr(to, ':') + 1;
		if (kind != i) {
			set_attr(iface, "type", attrs[kind]);
			(void)xmlUnsetProp(source, (const xmlChar *)attrs[i]);
			(void)xmlUnsetProp(source, (const xmlChar *)"mode");
			(void)xmlUnsetProp(source, (const xmlChar *)"portgroup");
			remove_children(iface, "virtualport");
		}
		i = kind;
	}
	set_attr(source, attrs[i], to);
}

/* ---- what belongs to one host ---- */

static int refuse_device(xmlNodePtr dev, struct err *e)
{
	if (xml_is(dev, "hostdev") || (xml_is(dev, "interface") && xml_attr_is(dev, "type", "hostdev"))) {
		err_set(e, ERR_REFUSED, "the VM has a device of the host it ran on (%s)", (const char *)dev->name);
		return err_remedy(e,
				  "detach it and take a new checkpoint; or start the VM from the disks of an export");
	}
	if (xml_is(dev, "shmem"))
		return err_set(e, ERR_REFUSED, "the VM shares memory with others on the host it ran on");
	return 0;
}

/* libvirt runs what stands there: only where programs are that belong to root, and only QEMU. */
static bool is_emulator(const char *path)
{
	static const char *const folders[] = { "/usr", "/opt", "/bin" };
	const char *name = strrchr(path, '/');

	if (!name || strncmp(name + 1, "qemu", 4) != 0 || climbs(path))
		return false;
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
		if (is_below(path, folders[i]))
			return true;
	return false;
}

static int map_devices(struct map *m, xmlNodePtr devices, struct err *e)
{
	for (xmlNodePtr n = xml_first(devices), next; n; n = next) {
		next = xml_following(n);
		if (refuse_device(n, e) < 0)
			return -1;
		if (xml_is(n, "disk") && map_disk(m, n, e) < 0)
			return -1;
		if (xml_is(n, "interface"))
			map_iface(m, n);
		if (xml_is(n, "lease")) {
			found(m, "lease", "a lease of a lock manager was left out");
			remove_node(n);
		} else if (xml_is(n, "emulator")) {
			MEM_AUTO char *path = xml_text(n);
			if (path && (!is_emulator(path) || !here(m, path))) {
				found(m, "emulator", "%s is not a QEMU of this host; libvirt's default is used", path);
				remove_node(n);
			}
		}
	}
	for (size_t i = 0; i < m->o->n_disks; i++) {
		bool known = false;
		for (xmlNodePtr n = xml_child(devices, "disk"); n; n = xml_next(n, "disk"))
			known = known || xml_attr_is(xml_child(n, "target"), "dev", m->o->disks[i].target);
		if (!known)
			return err_set(e, ERR_CORRUPT, "the VM's definition has no disk %s", m->o->disks[i].target);
	}
	return 0;
}

/* The highest processor in "0-3,^2,8"; a list that cannot be read counts as too high. */
static unsigned long highest(const char *list)
{
	unsigned long max = 0;

	for (const char *p = list; *p;) {
		char *end;
		if (*p == '^' || *p == ',' || *p == '-' || *p == ' ') {
			p++;
			continue;
		}
		unsigned long v = strtoul(p, &end, 10);
		if (end == p)
			return ~0ul;
		max = v > max ? v : max;
		p = end;
	}
	return max;
}

static void map_pinning(struct map *m, xmlNodePtr root)
{
	xmlNodePtr vcpu = xml_child(root, "vcpu"), tune = xml_child(root, "cputune");
	MEM_AUTO char *set = xml_attr(vcpu, "cpuset");
	bool dropped = false;

	if (m->o->cpus == 0)
		return;
	if (set && highest(set) >= m->o->cpus) {
		(void)xmlUnsetProp(vcpu, (const xmlChar *)"cpuset");
		dropped = true;
	}
	for (xmlNodePtr n = xml_first(tune), next; n; n = next) {
		next = xml_following(n);
		MEM_AUTO char *cpus = xml_attr(n, "cpuset");
		if (!cpus || highest(cpus) < m->o->cpus)
			continue;
		remove_node(n);
		dropped = true;
	}
	if (dropped)
		found(m, "cpu-pinning", "pinning to processors that this host does not have (it has %u) was left out",
		      m->o->cpus);
	xmlNodePtr numa = xml_child(root, "numatune");
	MEM_AUTO char *nodes = xml_attr(xml_child(numa, "memory"), "nodeset");
	if (numa && nodes && highest(nodes) > 0) {
		found(m, "numa-pinning", "placement on the other host's memory nodes (%s) was left out", nodes);
		remove_node(numa);
	}
}

static void map_identity(struct map *m, xmlNodePtr root)
{
	if (m->o->name)
		set_text(child_made(root, "name"), m->o->name);
	if (m->o->uuid)
		set_text(child_made(root, "uuid"), m->o->uuid);
	xmlNodePtr nvram = xml_child(xml_child(root, "os"), "nvram");
	if (nvram && m->o->nvram) {
		/* A file, whatever it was. */
		(void)xmlUnsetProp(nvram, (const xmlChar *)"type");
		set_text(nvram, m->o->nvram);
	}
}

char *map_xml(const char *xml, const struct map_opts *o, json_t *findings, struct err *e)
{
	struct map m = { .o = o, .findings = findings };
	MEM_AUTO char *clean = domain_for_define(xml, NULL, 0, e);
	XML_DOC_AUTO xmlDocPtr doc = clean ? xml_parse(clean, DOMAIN_XML_MAX, "domain XML", e) : NULL;
	xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;

	if (!root)
		return NULL;
	if (map_devices(&m, xml_child(root, "devices"), e) < 0 || host_files_map(root, findings, e) < 0)
		return NULL;
	map_pinning(&m, root);
	map_identity(&m, root);
	return xml_dump(root);
}

char *map_image_dir(const char *xml, const char *target, const struct map_rule *folders, size_t n,
		    const char *otherwise, struct err *e)
{
	DOMAIN_AUTO struct domain *d = domain_parse(xml, e);
	const struct domain_disk *disk = d ? domain_disk_by_target(d, target) : NULL;

	if (!d)
		return NULL;
	if (!disk) {
		err_set(e, ERR_CORRUPT, "the VM's definition has no disk %s", target);
		return NULL;
	}
	MEM_AUTO char *placed = disk->path ? by_rule(folders, n, disk->path) : NULL;
	const char *from = placed ? placed : disk->path, *end = from ? strrchr(from, '/') : NULL;
	MEM_AUTO char *folder = end && end > from ? mem_printf("%.*s", (int)(end - from), from) : NULL;
	if (placed)
		return mem_strdup(folder ? folder : "/");
	bool own = folder && disk->source == DOMAIN_SOURCE_FILE && !climbs(disk->path) &&
		   (is_below(folder, otherwise) || is_below(folder, DEFAULT_IMAGES)) && access(folder, W_OK) == 0;
	return mem_strdup(own ? folder : otherwise);
}
