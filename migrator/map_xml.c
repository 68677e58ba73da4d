#include "migrator/map_xml.h"

#include "base/mem.h"
#include "migrator/domain.h"
#include "migrator/xml.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static int map_disk(struct map *m, xmlNodePtr disk, struct err *e)
{
	MEM_AUTO char *target = xml_attr(xml_child(disk, "target"), "dev");
	const struct map_disk *to = disk_for(m->o, target);
	xmlNodePtr source = xml_child(disk, "source");

	if (to) {
		replace_source(m, disk, to);
		return 0;
	}
	bool file = xml_attr_is(disk, "type", "file"), block = xml_attr_is(disk, "type", "block");
	MEM_AUTO char *path = xml_attr(source, block ? "dev" : "file");
	if (!source || (!file && !block) || !path || here(m, path))
		return 0; /* an empty drive, storage that is reached over the network, or a file that is here */
	if (xml_attr_is(disk, "device", "cdrom") || xml_attr_is(disk, "device", "floppy")) {
		found(m, "drive-empty", "drive %s is empty: %s is not on this host", target, path);
		remove_node(source);
		return 0;
	}
	err_set(e, ERR_REFUSED, "disk %s is not replicated and %s is not on this host", target ? target : "?", path);
	return err_remedy(e, "copy it to this host under the same path");
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
			if (path && !here(m, path)) {
				found(m, "emulator", "%s is not on this host; libvirt's default is used", path);
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
		xmlNodePtr source = xml_child(nvram, "source");
		if (source)
			set_attr(source, "file", m->o->nvram);
		else
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
	if (map_devices(&m, xml_child(root, "devices"), e) < 0)
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
	const struct map_rule *best = NULL;

	if (!d)
		return NULL;
	if (!disk) {
		err_set(e, ERR_CORRUPT, "the VM's definition has no disk %s", target);
		return NULL;
	}
	for (size_t i = 0; disk->path && i < n; i++) {
		size_t len = strlen(folders[i].from);
		while (len > 1 && folders[i].from[len - 1] == '/')
			len--;
		bool fits = strncmp(disk->path, folders[i].from, len) == 0 && disk->path[len] == '/';
		if (fits && (!best || len > strlen(best->from)))
			best = &folders[i];
	}
	if (!best) {
		const char *end = disk->path ? strrchr(disk->path, '/') : NULL;
		MEM_AUTO char *own = end && end > disk->path ? mem_printf("%.*s", (int)(end - disk->path), disk->path)
							     : NULL;
		bool file = disk->source == DOMAIN_SOURCE_FILE && own && access(own, W_OK) == 0;
		return mem_strdup(file ? own : otherwise);
	}
	/* What lies below the rule's folder is kept: /a/b/web.img with /a -> /x goes to /x/b. */
	size_t from_len = strlen(best->from);
	while (from_len > 1 && best->from[from_len - 1] == '/')
		from_len--;
	const char *rest = disk->path + from_len, *slash = strrchr(rest, '/');
	return mem_printf("%s%.*s", best->to, (int)(slash - rest), rest);
}
