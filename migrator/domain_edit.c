/*
 * domain_edit.c - domain.h's edits: definition XML for the host to which a VM moves.
 */
#include "migrator/domain.h"
#include "migrator/xml.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static void remove_node(xmlNodePtr node)
{
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

static void remove_attr(xmlNodePtr node, const char *name)
{
	if (node)
		(void)xmlUnsetProp(node, (const xmlChar *)name);
}

static void set_attr(xmlNodePtr node, const char *name, const char *value)
{
	(void)xmlSetProp(node, (const xmlChar *)name, (const xmlChar *)value);
}

/* Aliases that a person chose begin with "ua-"; the others are libvirt's. */
static void clean_alias(xmlNodePtr device)
{
	xmlNodePtr alias = xml_child(device, "alias");
	MEM_AUTO char *name = xml_attr(alias, "name");
	if (name && strncmp(name, "ua-", 3) != 0)
		remove_node(alias);
}

static void clean_iface(xmlNodePtr iface)
{
	static const char *const generated[] = { "vnet", "macvtap", "macvlan", "vif" };
	xmlNodePtr target = xml_child(iface, "target");
	xmlNodePtr source = xml_child(iface, "source");
	MEM_AUTO char *dev = xml_attr(target, "dev");

	for (size_t i = 0; dev && i < sizeof(generated) / sizeof(generated[0]); i++)
		if (strncmp(dev, generated[i], strlen(generated[i])) == 0) {
			remove_node(target);
			break;
		}
	if (xml_attr_is(iface, "type", "network")) {
		remove_attr(source, "portid");
		remove_attr(source, "bridge");
	}
}

static void clean_device(xmlNodePtr device)
{
	clean_alias(device);
	if (xml_is(device, "disk")) {
		remove_attr(xml_child(device, "source"), "index");
		remove_children(device, "backingStore"); /* found again when the VM starts */
		remove_children(device, "mirror");
	} else if (xml_is(device, "interface")) {
		clean_iface(device);
	} else if (xml_is(device, "serial") || xml_is(device, "console")) {
		remove_attr(device, "tty");
		if (xml_attr_is(device, "type", "pty"))
			remove_children(device, "source");
	} else if (xml_is(device, "channel")) {
		remove_attr(xml_child(device, "target"), "state");
	} else if (xml_is(device, "graphics") && xml_attr_is(device, "autoport", "yes")) {
		set_attr(device, "port", "-1");
	}
}

static void clean_runtime(xmlNodePtr root)
{
	remove_attr(root, "id");
	for (xmlNodePtr n = xml_child(root, "seclabel"), next; n; n = next) {
		next = xml_next(n, "seclabel");
		if (xml_attr_is(n, "type", "dynamic"))
			remove_node(n);
	}
	for (xmlNodePtr n = xml_first(xml_child(root, "devices")); n; n = xml_following(n))
		clean_device(n);
}

static xmlNodePtr find_disk(xmlNodePtr root, const char *target)
{
	for (xmlNodePtr n = xml_child(xml_child(root, "devices"), "disk"); n; n = xml_next(n, "disk"))
		if (xml_attr_is(xml_child(n, "target"), "dev", target))
			return n;
	return NULL;
}

static int edit_disk(xmlNodePtr root, const struct domain_disk_edit *edit, struct err *e)
{
	xmlNodePtr disk = find_disk(root, edit->target);
	if (!disk)
		return err_set(e, ERR_CONFIG, "the VM has no disk %s", edit->target);

	xmlNodePtr source = xml_child(disk, "source");
	if (edit->path) {
		bool block = xml_attr_is(disk, "type", "block");
		if (!source || (!block && !xml_attr_is(disk, "type", "file")))
			return err_set(e, ERR_CONFIG, "disk %s is not a file or a device, its path can't be changed",
				       edit->target);
		set_attr(source, block ? "dev" : "file", edit->path);
		remove_attr(source, "startupPolicy");
	}
	if (edit->format) {
		xmlNodePtr driver = xml_child(disk, "driver");
		if (!driver) {
			driver = xmlNewChild(disk, NULL, (const xmlChar *)"driver", NULL);
			set_attr(driver, "name", "qemu");
		}
		set_attr(driver, "type", edit->format);
	}
	if (edit->flatten)
		remove_children(disk, "backingStore");
	return 0;
}

char *domain_for_define(const char *xml, const struct domain_disk_edit *edits, size_t n, struct err *e)
{
	XML_DOC_AUTO xmlDocPtr doc = xml_parse(xml, DOMAIN_XML_MAX, "domain XML", e);
	xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;

	if (!doc)
		return NULL;
	if (!xml_is(root, "domain")) {
		err_set(e, ERR_CORRUPT, "domain XML does not begin with <domain>");
		return NULL;
	}
	if (xmlHasProp(root, (const xmlChar *)"id")) /* a live VM's */
		clean_runtime(root);
	for (size_t i = 0; i < n; i++)
		if (edit_disk(root, &edits[i], e) < 0)
			return NULL;
	return xml_dump(root);
}

char *domain_flatten(const char *xml, const json_t *targets, struct err *e)
{
	XML_DOC_AUTO xmlDocPtr doc = xml_parse(xml, DOMAIN_XML_MAX, "domain XML", e);
	xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;
	json_t *target;
	size_t i;

	if (!doc)
		return NULL;
	json_array_foreach (targets, i, target) {
		xmlNodePtr disk = find_disk(root, json_string_value(target));
		remove_children(disk, "backingStore");
	}
	return xml_dump(root);
}
