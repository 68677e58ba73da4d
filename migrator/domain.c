#include "migrator/domain.h"

#include "base/mem.h"
#include "migrator/xml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* No real domain comes near; a peer's XML may not make us allocate without bound. */
#define DOMAIN_MAX_DEVICES 1024

static void *grow(void *array, size_t *n, size_t item)
{
	array = mem_realloc_array(array, *n + 1, item);
	memset((char *)array + *n * item, 0, item);
	*n += 1;
	return array;
}

static uint64_t unit_bytes(const char *unit)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} units[] = {
		{ "b", 1 },
		{ "bytes", 1 },
		{ "KB", 1000 },
		{ "k", 1u << 10 },
		{ "KiB", 1u << 10 },
		{ "MB", 1000000 },
		{ "M", 1u << 20 },
		{ "MiB", 1u << 20 },
		{ "GB", 1000000000 },
		{ "G", 1u << 30 },
		{ "GiB", 1u << 30 },
		{ "TB", 1000000000000 },
		{ "T", UINT64_C(1) << 40 },
		{ "TiB", UINT64_C(1) << 40 },
	};
	for (size_t i = 0; unit && i < sizeof(units) / sizeof(units[0]); i++)
		if (strcmp(units[i].name, unit) == 0)
			return units[i].bytes;
	return 1024; /* libvirt's default unit for memory is KiB */
}

static uint64_t scaled(xmlNodePtr node)
{
	MEM_AUTO char *text = xml_text(node);
	MEM_AUTO char *unit = xml_attr(node, "unit");
	uint64_t value = text ? strtoull(text, NULL, 10) : 0;
	uint64_t bytes;
	return __builtin_mul_overflow(value, unit_bytes(unit), &bytes) ? 0 : bytes;
}

static void add_path(struct domain *d, const char *what, char *path, bool folder_only)
{
	if (!path || path[0] != '/') {
		free(path);
		return;
	}
	d->paths = grow(d->paths, &d->n_paths, sizeof(*d->paths));
	d->paths[d->n_paths - 1] = (struct domain_path){ mem_strdup(what), path, folder_only };
}

static void add_device(struct domain *d, const char *kind, char *text)
{
	d->devices = grow(d->devices, &d->n_devices, sizeof(*d->devices));
	d->devices[d->n_devices - 1] = (struct domain_device){ mem_strdup(kind), text };
}

static void parse_backing(struct domain_disk *disk, xmlNodePtr node)
{
	/* libvirt nests <backingStore> in <backingStore>; the last one is empty. */
	for (xmlNodePtr b = xml_child(node, "backingStore"); b && disk->n_backing < 64;
	     b = xml_child(b, "backingStore")) {
		xmlNodePtr source = xml_child(b, "source");
		if (!source)
			break;
		disk->backing = grow(disk->backing, &disk->n_backing, sizeof(*disk->backing));
		struct domain_layer *layer = &disk->backing[disk->n_backing - 1];
		layer->path = xml_attr(source, "file");
		if (!layer->path)
			layer->path = xml_attr(source, "dev");
		layer->format = xml_attr(xml_child(b, "format"), "type");
	}
}

static const char *const anywhere[] = { "0.0.0.0", "::", "127.0.0.1", "::1", "localhost" };

static bool is_anywhere(const char *address)
{
	for (size_t i = 0; i < sizeof(anywhere) / sizeof(anywhere[0]); i++)
		if (strcmp(address, anywhere[i]) == 0)
			return true;
	return false;
}

/* Are all the servers of a network disk processes of this host? */
static bool is_loopback(xmlNodePtr source)
{
	xmlNodePtr host = xml_child(source, "host");
	bool all = host != NULL;

	for (; host; host = xml_next(host, "host")) {
		MEM_AUTO char *name = xml_attr(host, "name");
		all = all && (xml_attr_is(host, "transport", "unix") || (name && is_anywhere(name)));
	}
	return all;
}

static void parse_source(struct domain_disk *disk, xmlNodePtr source)
{
	const char *type = disk->type;

	if (strcmp(type, "file") == 0) {
		disk->path = xml_attr(source, "file");
		disk->source = disk->path ? DOMAIN_SOURCE_FILE : DOMAIN_SOURCE_NONE;
	} else if (strcmp(type, "block") == 0) {
		disk->path = xml_attr(source, "dev");
		disk->source = disk->path ? DOMAIN_SOURCE_BLOCK : DOMAIN_SOURCE_NONE;
	} else if (strcmp(type, "network") == 0) {
		disk->here_only = is_loopback(source);
		MEM_AUTO char *protocol = xml_attr(source, "protocol");
		MEM_AUTO char *name = xml_attr(source, "name");
		disk->network = mem_printf("%s %s", protocol ? protocol : "network", name ? name : "");
		disk->source = DOMAIN_SOURCE_NETWORK;
	} else if (strcmp(type, "volume") == 0) {
		disk->pool = xml_attr(source, "pool");
		disk->volume = xml_attr(source, "volume");
		disk->network = mem_printf("volume %s of pool %s", disk->volume ? disk->volume : "?",
					   disk->pool ? disk->pool : "?");
		disk->source = source ? DOMAIN_SOURCE_OTHER : DOMAIN_SOURCE_NONE;
	} else {
		disk->network = mem_printf("%s disk", type);
		disk->source = source ? DOMAIN_SOURCE_OTHER : DOMAIN_SOURCE_NONE;
	}
}

static void parse_secret(struct domain *d, const char *what, xmlNodePtr secret, const char *type)
{
	if (!secret)
		return;
	d->secrets = grow(d->secrets, &d->n_secrets, sizeof(*d->secrets));
	struct domain_secret *s = &d->secrets[d->n_secrets - 1];
	s->what = mem_strdup(what);
	s->uuid = xml_attr(secret, "uuid");
	s->usage = xml_attr(secret, "usage");
	s->type = type ? mem_strdup(type) : xml_attr(secret, "type");
}

/* Encryption and authentication of a disk are written below it or below its source. */
static void parse_secrets(struct domain *d, struct domain_disk *disk, xmlNodePtr node)
{
	MEM_AUTO char *what = mem_printf("disk %s", disk->target);
	const xmlNodePtr places[] = { node, xml_child(node, "source") };

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		xmlNodePtr encryption = xml_child(places[i], "encryption");
		disk->encrypted = disk->encrypted || encryption;
		parse_secret(d, what, xml_child(encryption, "secret"), "volume");
		parse_secret(d, what, xml_child(xml_child(places[i], "auth"), "secret"), NULL);
	}
}

static void parse_disk(struct domain *d, xmlNodePtr node)
{
	d->disks = grow(d->disks, &d->n_disks, sizeof(*d->disks));
	struct domain_disk *disk = &d->disks[d->n_disks - 1];
	xmlNodePtr driver = xml_child(node, "driver");
	xmlNodePtr target = xml_child(node, "target");

	disk->type = xml_attr(node, "type");
	if (!disk->type)
		disk->type = mem_strdup("file");
	disk->device = xml_attr(node, "device");
	if (!disk->device)
		disk->device = mem_strdup("disk");
	disk->target = xml_attr(target, "dev");
	if (!disk->target)
		disk->target = mem_printf("disk%zu", d->n_disks - 1);
	disk->bus = xml_attr(target, "bus");
	disk->format = xml_attr(driver, "type");
	disk->cache = xml_attr(driver, "cache");
	disk->readonly = xml_child(node, "readonly") || strcmp(disk->device, "cdrom") == 0;
	disk->shareable = xml_child(node, "shareable") != NULL;
	disk->transient = xml_child(node, "transient") != NULL;
	MEM_AUTO char *policy = xml_attr(xml_child(node, "source"), "startupPolicy");
	disk->optional = policy && strcmp(policy, "mandatory") != 0;
	disk->mirror = xml_child(node, "mirror") != NULL;
	parse_source(disk, xml_child(node, "source"));
	if (!disk->format && disk->source != DOMAIN_SOURCE_NONE)
		disk->format = mem_strdup("raw");
	parse_backing(disk, node);
	parse_secrets(d, disk, node);
}

static char *pci_text(xmlNodePtr address)
{
	MEM_AUTO char *domain = xml_attr(address, "domain");
	MEM_AUTO char *bus = xml_attr(address, "bus");
	MEM_AUTO char *slot = xml_attr(address, "slot");
	MEM_AUTO char *function = xml_attr(address, "function");

	if (!address || !bus)
		return NULL;
	return mem_printf("%04lx:%02lx:%02lx.%lx", domain ? strtoul(domain, NULL, 0) : 0, strtoul(bus, NULL, 0),
			  slot ? strtoul(slot, NULL, 0) : 0, function ? strtoul(function, NULL, 0) : 0);
}

static void add_hostdev(struct domain *d, const char *type, char *text, xmlNodePtr node)
{
	MEM_AUTO char *teaming = xml_attr(xml_child(node, "teaming"), "type");
	d->hostdevs = grow(d->hostdevs, &d->n_hostdevs, sizeof(*d->hostdevs));
	d->hostdevs[d->n_hostdevs - 1] = (struct domain_hostdev){
		.type = mem_strdup(type), .text = text, .teaming = teaming && strcmp(teaming, "transient") == 0
	};
}

static void parse_hostdev(struct domain *d, xmlNodePtr node)
{
	MEM_AUTO char *mode = xml_attr(node, "mode");
	MEM_AUTO char *type = xml_attr(node, "type");
	xmlNodePtr source = xml_child(node, "source");
	xmlNodePtr address = xml_child(source, "address");
	char *text = NULL;

	if (mode && strcmp(mode, "capabilities") == 0) {
		add_hostdev(d, "capabilities", mem_printf("host device of type %s", type ? type : "?"), node);
		return;
	}
	if (!type)
		return;
	if (strcmp(type, "pci") == 0) {
		MEM_AUTO char *where = pci_text(address);
		text = mem_printf("PCI device %s", where ? where : "?");
	} else if (strcmp(type, "usb") == 0) {
		MEM_AUTO char *vendor = xml_attr(xml_child(source, "vendor"), "id");
		MEM_AUTO char *product = xml_attr(xml_child(source, "product"), "id");
		MEM_AUTO char *bus = xml_attr(address, "bus");
		MEM_AUTO char *device = xml_attr(address, "device");
		text = vendor ? mem_printf("USB device %s:%s", vendor, product ? product : "?")
			      : mem_printf("USB device at bus %s device %s", bus ? bus : "?", device ? device : "?");
	} else if (strcmp(type, "mdev") == 0) {
		MEM_AUTO char *uuid = xml_attr(address, "uuid");
		text = mem_printf("mediated device %s", uuid ? uuid : "?");
	} else {
		MEM_AUTO char *adapter = xml_attr(xml_child(source, "adapter"), "name");
		text = mem_printf("%s device %s", type, adapter ? adapter : "");
	}
	add_hostdev(d, type, text, node);
}

static void parse_iface(struct domain *d, xmlNodePtr node)
{
	d->ifaces = grow(d->ifaces, &d->n_ifaces, sizeof(*d->ifaces));
	struct domain_iface *iface = &d->ifaces[d->n_ifaces - 1];
	xmlNodePtr source = xml_child(node, "source");
	xmlNodePtr address = xml_child(node, "address");
	MEM_AUTO char *port = xml_attr(xml_child(node, "virtualport"), "type");
	MEM_AUTO char *teaming = xml_attr(xml_child(node, "teaming"), "type");

	iface->type = xml_attr(node, "type");
	if (!iface->type)
		iface->type = mem_strdup("ethernet");
	iface->network = xml_attr(source, "network");
	iface->bridge = xml_attr(source, "bridge");
	iface->dev = strcmp(iface->type, "direct") == 0 ? xml_attr(source, "dev") : NULL;
	iface->mac = xml_attr(xml_child(node, "mac"), "address");
	iface->model = xml_attr(xml_child(node, "model"), "type");
	iface->slot = pci_text(address);
	iface->filter = xml_attr(xml_child(node, "filterref"), "filter");
	iface->openvswitch = port && strcmp(port, "openvswitch") == 0;
	iface->teaming = teaming && strcmp(teaming, "transient") == 0;
	if (strcmp(iface->type, "hostdev") == 0) {
		MEM_AUTO char *where = pci_text(xml_child(source, "address"));
		add_hostdev(d, "pci", mem_printf("network device %s passed through", where ? where : "?"), node);
	} else if (strcmp(iface->type, "vdpa") == 0) {
		add_device(d, "vdpa", mem_printf("vDPA interface %s", iface->mac ? iface->mac : ""));
	}
}

static void add_listen(struct domain *d, xmlNodePtr node, char *address, char *network)
{
	d->listen = grow(d->listen, &d->n_listen, sizeof(*d->listen));
	d->listen[d->n_listen - 1] = (struct domain_listen){ mem_strdup((const char *)node->name), address, network };
}

/* Sockets that libvirt names are in folders which it makes itself. */
static bool is_libvirts(const char *path)
{
	static const char *const folders[] = { "/var/lib/libvirt/qemu/", "/run/libvirt/qemu/",
					       "/var/run/libvirt/qemu/" };

	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
		if (strncmp(path, folders[i], strlen(folders[i])) == 0)
			return true;
	return false;
}

static void add_socket(struct domain *d, const char *name, char *path)
{
	MEM_AUTO char *what = mem_printf("%s socket", name);
	if (path && !is_libvirts(path))
		add_path(d, what, path, true);
	else
		free(path);
}

static void parse_chardev(struct domain *d, xmlNodePtr node)
{
	MEM_AUTO char *type = xml_attr(node, "type");
	xmlNodePtr source = xml_child(node, "source");
	MEM_AUTO char *mode = xml_attr(source, "mode");
	const char *name = (const char *)node->name;
	char what[64];

	/* The first console is the first serial port under another name. */
	if (!type || (strcmp(name, "console") == 0 && xml_attr_is(xml_child(node, "target"), "type", "serial")))
		return;
	if (strcmp(type, "file") == 0) {
		snprintf(what, sizeof(what), "%s log", name);
		add_path(d, what, xml_attr(source, "path"), true);
	} else if (strcmp(type, "dev") == 0 || strcmp(type, "pipe") == 0) {
		snprintf(what, sizeof(what), "%s device", name);
		add_path(d, what, xml_attr(source, "path"), false);
	} else if (strcmp(type, "unix") == 0 && mode && strcmp(mode, "bind") == 0) {
		add_socket(d, name, xml_attr(source, "path"));
	} else if (strcmp(type, "tcp") == 0 && mode && strcmp(mode, "bind") == 0) {
		MEM_AUTO char *address = xml_attr(source, "host");
		if (address && !is_anywhere(address))
			add_listen(d, node, mem_strdup(address), NULL);
	}
}

static void parse_graphics(struct domain *d, xmlNodePtr node)
{
	for (xmlNodePtr l = xml_child(node, "listen"); l; l = xml_next(l, "listen")) {
		MEM_AUTO char *address = xml_attr(l, "address");
		if (xml_attr_is(l, "type", "network"))
			add_listen(d, node, NULL, xml_attr(l, "network"));
		else if (xml_attr_is(l, "type", "socket"))
			add_socket(d, "graphics", xml_attr(l, "socket"));
		else if (address && xml_attr_is(l, "type", "address") && !is_anywhere(address))
			add_listen(d, node, mem_strdup(address), NULL);
	}
}

static void parse_filesystem(struct domain *d, xmlNodePtr node)
{
	MEM_AUTO char *driver = xml_attr(xml_child(node, "driver"), "type");
	MEM_AUTO char *target = xml_attr(xml_child(node, "target"), "dir");
	bool virtiofs = driver && strcmp(driver, "virtiofs") == 0;
	if (!virtiofs)
		add_path(d, "shared folder", xml_attr(xml_child(node, "source"), "dir"), false);
	add_device(d, virtiofs ? "virtiofs" : "9p",
		   mem_printf("shared folder %s (%s)", target ? target : "?", virtiofs ? "virtiofs" : "9p"));
}

static void parse_tpm(struct domain *d, xmlNodePtr node)
{
	xmlNodePtr backend = xml_child(node, "backend");
	MEM_AUTO char *type = xml_attr(backend, "type");

	if (type && strcmp(type, "emulator") == 0) {
		d->tpm_emulator = true;
		d->tpm_elsewhere = xml_child(backend, "source") != NULL;
		xmlNodePtr encryption = xml_child(backend, "encryption");
		if (encryption) {
			parse_secret(d, "the TPM", encryption, "vtpm");
			xml_take(&d->secrets[d->n_secrets - 1].uuid, xml_attr(encryption, "secret"));
		}
		free(d->tpm_version);
		d->tpm_version = xml_attr(backend, "version");
		return;
	}
	MEM_AUTO char *path = xml_attr(xml_child(backend, "device"), "path");
	add_device(d, "tpm-passthrough", mem_printf("the host's TPM %s", path ? path : ""));
}

static void parse_shmem(struct domain *d, xmlNodePtr node)
{
	MEM_AUTO char *name = xml_attr(node, "name");
	MEM_AUTO char *role = xml_attr(node, "role");
	MEM_AUTO char *model = xml_attr(xml_child(node, "model"), "type");
	bool legacy = model && strcmp(model, "ivshmem") == 0;
	if (legacy || !role || strcmp(role, "master") != 0)
		add_device(d, "shmem", mem_printf("shared memory device %s", name ? name : ""));
}

static void parse_device(struct domain *d, xmlNodePtr n)
{
	if (xml_is(n, "disk"))
		parse_disk(d, n);
	else if (xml_is(n, "interface"))
		parse_iface(d, n);
	else if (xml_is(n, "hostdev"))
		parse_hostdev(d, n);
	else if (xml_is(n, "emulator"))
		xml_take(&d->emulator, xml_text(n));
	else if (xml_is(n, "serial") || xml_is(n, "parallel") || xml_is(n, "console") || xml_is(n, "channel"))
		parse_chardev(d, n);
	else if (xml_is(n, "graphics"))
		parse_graphics(d, n);
	else if (xml_is(n, "filesystem"))
		parse_filesystem(d, n);
	else if (xml_is(n, "tpm"))
		parse_tpm(d, n);
	else if (xml_is(n, "shmem"))
		parse_shmem(d, n);
	else if (xml_is(n, "lease"))
		d->leases = true;
	else if (xml_is(n, "vsock"))
		add_device(d, "vsock", mem_strdup("vsock device"));
}

static int parse_devices(struct domain *d, xmlNodePtr devices, struct err *e)
{
	size_t n = 0;
	for (xmlNodePtr node = xml_first(devices); node; node = xml_following(node)) {
		if (++n > DOMAIN_MAX_DEVICES)
			return err_set(e, ERR_CORRUPT, "domain XML lists more than %d devices", DOMAIN_MAX_DEVICES);
		parse_device(d, node);
	}
	return 0;
}

static void parse_os(struct domain *d, xmlNodePtr os)
{
	xmlNodePtr type = xml_child(os, "type");
	xmlNodePtr nvram = xml_child(os, "nvram");
	xmlNodePtr nvram_file = xml_child(nvram, "source");

	d->arch = xml_attr(type, "arch");
	d->machine = xml_attr(type, "machine");
	add_path(d, "kernel", xml_text(xml_child(os, "kernel")), false);
	add_path(d, "initrd", xml_text(xml_child(os, "initrd")), false);
	add_path(d, "device tree", xml_text(xml_child(os, "dtb")), false);
	add_path(d, "firmware", xml_text(xml_child(os, "loader")), false);
	d->nvram = nvram_file ? xml_attr(nvram_file, "file") : xml_text(nvram);
	d->nvram_template = xml_attr(nvram, "template");
	if (d->nvram_template)
		add_path(d, "firmware variables template", mem_strdup(d->nvram_template), false);
}

static void parse_cpu(struct domain *d, xmlNodePtr cpu, xmlNodePtr clock)
{
	bool invtsc = false;
	bool frequency = false;

	if (!cpu)
		return;
	d->cpu_xml = xml_dump(cpu);
	d->cpu_mode = xml_attr(cpu, "mode");
	if (!d->cpu_mode)
		d->cpu_mode = mem_strdup("custom");
	d->cpu_check = xml_attr(cpu, "check");
	d->cpu_model = xml_text(xml_child(cpu, "model"));
	for (xmlNodePtr f = xml_child(cpu, "feature"); f; f = xml_next(f, "feature")) {
		MEM_AUTO char *name = xml_attr(f, "name");
		MEM_AUTO char *policy = xml_attr(f, "policy");
		if (name && strcmp(name, "invtsc") == 0)
			invtsc = !policy || strcmp(policy, "require") == 0 || strcmp(policy, "force") == 0;
	}
	for (xmlNodePtr t = xml_child(clock, "timer"); t; t = xml_next(t, "timer")) {
		MEM_AUTO char *name = xml_attr(t, "name");
		MEM_AUTO char *hz = xml_attr(t, "frequency");
		if (name && strcmp(name, "tsc") == 0 && hz)
			frequency = true;
	}
	d->invtsc = invtsc && !frequency;
}

static void parse_memory(struct domain *d, xmlNodePtr root)
{
	xmlNodePtr backing = xml_child(root, "memoryBacking");
	xmlNodePtr huge = xml_child(backing, "hugepages");
	xmlNodePtr current = xml_child(root, "currentMemory");
	xmlNodePtr vcpu = xml_child(root, "vcpu");

	d->memory_bytes = scaled(xml_child(root, "memory"));
	d->current_memory_bytes = current ? scaled(current) : d->memory_bytes;
	d->memory_locked = xml_child(backing, "locked") != NULL;
	if (huge) {
		xmlNodePtr page = xml_child(huge, "page");
		MEM_AUTO char *size = xml_attr(page, "size");
		MEM_AUTO char *unit = xml_attr(page, "unit");
		d->hugepage_bytes = size ? strtoull(size, NULL, 10) * unit_bytes(unit) : 1;
	}
	MEM_AUTO char *max = xml_text(vcpu);
	MEM_AUTO char *online = xml_attr(vcpu, "current");
	d->vcpus_max = max ? (unsigned)strtoul(max, NULL, 10) : 1;
	d->vcpus = online ? (unsigned)strtoul(online, NULL, 10) : d->vcpus_max;
}

static void parse_features(struct domain *d, xmlNodePtr root)
{
	xmlNodePtr ring = xml_child(xml_child(xml_child(root, "features"), "kvm"), "dirty-ring");
	MEM_AUTO char *state = xml_attr(ring, "state");
	MEM_AUTO char *size = xml_attr(ring, "size");
	xmlNodePtr security = xml_child(root, "launchSecurity");

	if (state && strcmp(state, "on") == 0)
		d->dirty_ring = size ? (unsigned)strtoul(size, NULL, 10) : 1;
	if (security) {
		MEM_AUTO char *type = xml_attr(security, "type");
		add_device(d, "launch-security", mem_printf("memory encryption (%s)", type ? type : "launch security"));
	}
}

struct domain *domain_parse(const char *xml, struct err *e)
{
	XML_DOC_AUTO xmlDocPtr doc = xml_parse(xml, DOMAIN_XML_MAX, "domain XML", e);
	if (!doc)
		return NULL;
	xmlNodePtr root = xmlDocGetRootElement(doc);
	if (!root || !xml_is(root, "domain")) {
		err_set(e, ERR_CORRUPT, "domain XML does not begin with <domain>");
		return NULL;
	}
	DOMAIN_AUTO struct domain *d = mem_alloc(sizeof(*d));
	d->name = xml_text(xml_child(root, "name"));
	d->uuid = xml_text(xml_child(root, "uuid"));
	d->type = xml_attr(root, "type");
	if (!d->name || !d->name[0] || !d->type) {
		err_set(e, ERR_CORRUPT, "domain XML has no name or no type");
		return NULL;
	}
	parse_memory(d, root);
	parse_os(d, xml_child(root, "os"));
	parse_cpu(d, xml_child(root, "cpu"), xml_child(root, "clock"));
	parse_features(d, root);
	if (parse_devices(d, xml_child(root, "devices"), e) < 0)
		return NULL;
	struct domain *done = d;
	d = NULL;
	return done;
}

static void free_disk(struct domain_disk *disk)
{
	for (size_t i = 0; i < disk->n_backing; i++) {
		free(disk->backing[i].path);
		free(disk->backing[i].format);
	}
	free(disk->backing);
	free(disk->type);
	free(disk->device);
	free(disk->target);
	free(disk->bus);
	free(disk->path);
	free(disk->format);
	free(disk->cache);
	free(disk->network);
	free(disk->pool);
	free(disk->volume);
}

static void free_iface(struct domain_iface *iface)
{
	free(iface->type);
	free(iface->network);
	free(iface->bridge);
	free(iface->dev);
	free(iface->mac);
	free(iface->model);
	free(iface->slot);
	free(iface->filter);
}

static void free_lists(struct domain *d)
{
	for (size_t i = 0; i < d->n_disks; i++)
		free_disk(&d->disks[i]);
	for (size_t i = 0; i < d->n_ifaces; i++)
		free_iface(&d->ifaces[i]);
	for (size_t i = 0; i < d->n_hostdevs; i++) {
		free(d->hostdevs[i].type);
		free(d->hostdevs[i].text);
	}
	for (size_t i = 0; i < d->n_paths; i++) {
		free(d->paths[i].what);
		free(d->paths[i].path);
	}
	for (size_t i = 0; i < d->n_devices; i++) {
		free(d->devices[i].kind);
		free(d->devices[i].text);
	}
	for (size_t i = 0; i < d->n_listen; i++) {
		free(d->listen[i].what);
		free(d->listen[i].address);
		free(d->listen[i].network);
	}
	for (size_t i = 0; i < d->n_secrets; i++) {
		free(d->secrets[i].what);
		free(d->secrets[i].uuid);
		free(d->secrets[i].usage);
		free(d->secrets[i].type);
	}
	free(d->secrets);
	free(d->disks);
	free(d->ifaces);
	free(d->hostdevs);
	free(d->paths);
	free(d->devices);
	free(d->listen);
}

void domain_free(struct domain *d)
{
	if (!d)
		return;
	free_lists(d);
	free(d->name);
	free(d->uuid);
	free(d->type);
	free(d->arch);
	free(d->machine);
	free(d->emulator);
	free(d->cpu_mode);
	free(d->cpu_model);
	free(d->cpu_check);
	free(d->cpu_xml);
	free(d->tpm_version);
	free(d->nvram);
	free(d->nvram_template);
	free(d);
}

void domain_free_ptr(struct domain **d)
{
	domain_free(*d);
	*d = NULL;
}

const struct domain_disk *domain_disk_by_target(const struct domain *d, const char *target)
{
	for (size_t i = 0; i < d->n_disks; i++)
		if (strcmp(d->disks[i].target, target) == 0)
			return &d->disks[i];
	return NULL;
}

bool domain_disk_copyable(const struct domain_disk *disk)
{
	return disk->source != DOMAIN_SOURCE_NONE && !disk->readonly && !disk->shareable;
}

const char *domain_disk_label(const struct domain_disk *disk, char *buf, size_t size)
{
	const char *where = disk->path ? disk->path : disk->network;
	if (where)
		snprintf(buf, size, "%s (%s)", disk->target, where);
	else
		snprintf(buf, size, "%s", disk->target);
	return buf;
}

json_t *domain_disks_json(const struct domain *d)
{
	json_t *list = json_array();
	for (size_t i = 0; i < d->n_disks; i++) {
		const struct domain_disk *disk = &d->disks[i];
		const char *where = disk->path ? disk->path : disk->network;
		json_array_append_new(list,
				      json_pack("{s:s,s:s,s:s,s:s?,s:s?,s:b,s:b}", "target", disk->target, "device",
						disk->device, "type", disk->type, "path", where, "format", disk->format,
						"readonly", disk->readonly, "shareable", disk->shareable));
	}
	return list;
}
