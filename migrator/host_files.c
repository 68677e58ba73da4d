#include "migrator/host_files.h"

#include "base/mem.h"
#include "migrator/xml.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CONSOLES "/var/log/libvirt/"
#define CONSOLE_SUFFIX ".console"

static void found(json_t *findings, const char *what, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void found(json_t *findings, const char *what, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (findings)
		json_array_append_new(findings, json_pack("{s:s, s:s}", "what", what, "text", text));
}

static bool one_of(const char *s, const char *const *all)
{
	for (; s && *all; all++)
		if (strcmp(s, *all) == 0)
			return true;
	return false;
}

static void set_attr(xmlNodePtr node, const char *name, const char *value)
{
	(void)xmlSetProp(node, (const xmlChar *)name, (const xmlChar *)value);
}

static void remove_attr(xmlNodePtr node, const char *name)
{
	if (node)
		(void)xmlUnsetProp(node, (const xmlChar *)name);
}

static bool remove_children(xmlNodePtr parent, const char *name)
{
	bool any = false;

	for (xmlNodePtr n = xml_child(parent, name), next; n; n = next) {
		next = xml_next(n, name);
		xmlUnlinkNode(n);
		xmlFreeNode(n);
		any = true;
	}
	return any;
}

/* ---- serial ports, consoles, channels ---- */

/* The one place for what a guest says: libvirt's folder of logs, under a name that none of its own has. */
static bool is_console_file(const char *path)
{
	const size_t folder = strlen(CONSOLES), suffix = strlen(CONSOLE_SUFFIX);
	const char *name = path && strncmp(path, CONSOLES, folder) == 0 ? path + folder : NULL;
	const size_t len = name ? strlen(name) : 0;

	return len > suffix && !strchr(name, '/') && strcmp(name + len - suffix, CONSOLE_SUFFIX) == 0;
}

static void map_log(xmlNodePtr dev, json_t *findings)
{
	MEM_AUTO char *file = xml_attr(xml_child(dev, "log"), "file");

	if (!is_console_file(file) && remove_children(dev, "log"))
		found(findings, "device-log", "the log of a %s, %s, was left out", (const char *)dev->name,
		      file ? file : "?");
}

static void map_chardev(xmlNodePtr dev, json_t *findings)
{
	static const char *const of_host[] = { "file", "dev", "pipe", "unix", NULL };
	const char *name = (const char *)dev->name;
	MEM_AUTO char *type = xml_attr(dev, "type");
	MEM_AUTO char *path = xml_attr(xml_child(dev, "source"), "path");

	map_log(dev, findings);
	if (type && strcmp(type, "file") == 0 && is_console_file(path))
		return;
	if (!one_of(type, of_host)) {
		/* libvirt chooses the pty; what else a source names by a path is nothing that these types need. */
		if (path)
			remove_children(dev, "source");
		return;
	}
	const bool own = xml_is(dev, "channel") && strcmp(type, "unix") == 0 &&
			 xml_attr_is(xml_child(dev, "target"), "type", "virtio");
	remove_children(dev, "source");
	if (own)
		return;
	remove_children(dev, "protocol");
	set_attr(dev, "type", "pty");
	found(findings, "device-backend", "a %s was on the other host's %s %s; here it is a pty", name, type,
	      path ? path : "?");
}

/* ---- others ---- */

static void map_rng(xmlNodePtr rng, json_t *findings)
{
	static const char *const good[] = { "/dev/urandom", "/dev/random", "/dev/hwrng", NULL };
	xmlNodePtr backend = xml_child(rng, "backend");
	MEM_AUTO char *path = xml_text(backend);
	const bool builtin = xml_attr_is(backend, "model", "builtin");

	if (builtin || (xml_attr_is(backend, "model", "random") && (!path || !*path || one_of(path, good))))
		return;
	remove_children(rng, "backend");
	xmlNodePtr n = xmlNewChild(rng, NULL, (const xmlChar *)"backend", (const xmlChar *)good[0]);
	set_attr(n, "model", "random");
	found(findings, "randomness", "the guest's random numbers come from %s here", good[0]);
}

static void map_graphics(xmlNodePtr graphics, json_t *findings)
{
	MEM_AUTO char *socket = xml_attr(graphics, "socket");

	remove_attr(graphics, "socket");
	for (xmlNodePtr n = xml_child(graphics, "listen"); n; n = xml_next(n, "listen")) {
		if (!socket)
			socket = xml_attr(n, "socket");
		remove_attr(n, "socket");
	}
	if (socket)
		found(findings, "graphics-socket", "graphics were at %s; here libvirt chooses the socket", socket);
}

static void map_audio(xmlNodePtr audio, json_t *findings)
{
	if (!xml_attr_is(audio, "type", "file"))
		return;
	set_attr(audio, "type", "none");
	remove_attr(audio, "path");
	found(findings, "audio", "sound went to a file at the other host; here it goes nowhere");
}

static int refused(struct err *e, const char *what)
{
	err_set(e, ERR_REFUSED, "the VM's definition names what is the other host's: %s", what);
	return err_remedy(e, "take it out of the VM and take a new checkpoint; or 'vmferry export', and start from "
			     "that by virsh what you have looked through");
}

static int map_iface(xmlNodePtr iface, json_t *findings, struct err *e)
{
	xmlNodePtr backend = xml_child(iface, "backend");

	if (xml_attr_is(iface, "type", "vhostuser"))
		return refused(e, "a network card on a socket of a switch (vhostuser)");
	const bool up = remove_children(iface, "script"), down = remove_children(iface, "downscript");
	if (up || down)
		found(findings, "network-script", "the script of a network card was left out");
	remove_attr(backend, "tap");
	remove_attr(backend, "vhost");
	remove_attr(backend, "logFile");
	return 0;
}

static int map_input(xmlNodePtr input, struct err *e)
{
	return xml_attr_is(input, "type", "passthrough") || xml_attr_is(input, "type", "evdev")
		       ? refused(e, "an input device")
		       : 0;
}

static int map_memory(xmlNodePtr memory, struct err *e)
{
	return xml_child(xml_child(memory, "source"), "path") ? refused(e, "memory in a file (nvdimm, virtio-pmem)") : 0;
}

static int map_tpm(xmlNodePtr tpm, struct err *e)
{
	xmlNodePtr backend = xml_child(tpm, "backend");

	if (!xml_attr_is(backend, "type", "emulator"))
		return refused(e, "a TPM that is not emulated");
	/* Where the state is, and what is logged of it, is for libvirt. */
	remove_children(backend, "source");
	remove_attr(backend, "debug");
	return 0;
}

static int map_smartcard(xmlNodePtr card, json_t *findings, struct err *e)
{
	if (!xml_attr_is(card, "mode", "passthrough"))
		return refused(e, "a smart card of the host");
	map_chardev(card, findings);
	return 0;
}

static int map_device(xmlNodePtr n, json_t *findings, struct err *e)
{
	static const char *const chardevs[] = { "serial", "parallel", "console", "channel", "redirdev", NULL };

	if (one_of((const char *)n->name, chardevs))
		map_chardev(n, findings);
	else if (xml_is(n, "rng"))
		map_rng(n, findings);
	else if (xml_is(n, "graphics"))
		map_graphics(n, findings);
	else if (xml_is(n, "audio"))
		map_audio(n, findings);
	else if (xml_is(n, "filesystem"))
		return refused(e, "a shared folder");
	else if (xml_is(n, "interface"))
		return map_iface(n, findings, e);
	else if (xml_is(n, "input"))
		return map_input(n, e);
	else if (xml_is(n, "memory"))
		return map_memory(n, e);
	else if (xml_is(n, "tpm"))
		return map_tpm(n, e);
	else if (xml_is(n, "smartcard"))
		return map_smartcard(n, findings, e);
	return 0;
}

int host_files_map(xmlNodePtr root, json_t *findings, struct err *e)
{
	if (xml_child(root, "commandline"))
		return refused(e, "arguments for QEMU itself (qemu:commandline)");
	if (remove_children(root, "seclabel"))
		found(findings, "security-label",
		      "a security label of the other host was left out; libvirt's own applies");
	for (xmlNodePtr n = xml_first(xml_child(root, "devices")); n; n = xml_following(n))
		if (map_device(n, findings, e) < 0)
			return -1;
	return 0;
}
