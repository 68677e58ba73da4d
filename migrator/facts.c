#include "migrator/facts.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "migrator/cpu.h"
#include "migrator/domain.h"
#include "migrator/xml.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define CAPS_XML_MAX (8u << 20)
#define HUGEPAGES "/sys/kernel/mm/hugepages"

unsigned long facts_qemu_version(virConnectPtr conn)
{
	unsigned long version = 0;
	const char *type = virConnectGetType(conn);

	if (!type || strcmp(type, "QEMU") != 0 || virConnectGetVersion(conn, &version) < 0)
		return 0;
	return version;
}

json_t *facts_versions(virConnectPtr conn)
{
	unsigned long libvirt = 0;
	unsigned long qemu = facts_qemu_version(conn);
	char a[32], b[32];

	(void)virConnectGetLibVersion(conn, &libvirt);
	return json_pack("{s:I,s:s,s:I,s:s}", "libvirt_version", (json_int_t)libvirt, "libvirt",
			 virt_format_version(libvirt, a, sizeof(a)), "qemu_version", (json_int_t)qemu, "qemu",
			 virt_format_version(qemu, b, sizeof(b)));
}

static json_t *machine_json(xmlNodePtr node)
{
	MEM_AUTO char *name = xml_text(node);
	MEM_AUTO char *canonical = xml_attr(node, "canonical");
	json_t *machine = json_pack("{s:s}", "name", name ? name : "");
	if (canonical)
		json_object_set_new(machine, "canonical", json_string(canonical));
	return machine;
}

static json_t *emulator_json(xmlNodePtr arch)
{
	MEM_AUTO char *name = xml_attr(arch, "name");
	MEM_AUTO char *path = xml_text(xml_child(arch, "emulator"));
	json_t *types = json_array();
	json_t *machines = json_array();

	for (xmlNodePtr n = xml_child(arch, "domain"); n; n = xml_next(n, "domain")) {
		MEM_AUTO char *type = xml_attr(n, "type");
		if (type)
			json_array_append_new(types, json_string(type));
	}
	for (xmlNodePtr n = xml_child(arch, "machine"); n; n = xml_next(n, "machine"))
		json_array_append_new(machines, machine_json(n));
	return json_pack("{s:s?,s:s?,s:o,s:o}", "path", path, "arch", name, "types", types, "machines", machines);
}

json_t *facts_emulators(const char *capabilities_xml)
{
	struct err ignored = ERR_INIT;
	json_t *list = json_array();
	XML_DOC_AUTO xmlDocPtr doc = xml_parse(capabilities_xml, CAPS_XML_MAX, "capabilities", &ignored);
	xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;

	for (xmlNodePtr guest = xml_child(root, "guest"); guest; guest = xml_next(guest, "guest")) {
		xmlNodePtr arch = xml_child(guest, "arch");
		if (xml_child(arch, "emulator"))
			json_array_append_new(list, emulator_json(arch));
	}
	return list;
}

uint64_t facts_meminfo(const char *text, const char *field)
{
	size_t len = strlen(field);
	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, field, len) == 0 && line[len] == ':')
			return strtoull(line + len + 1, NULL, 10) << 10;
	}
	return 0;
}

static uint64_t read_number(const char *path)
{
	struct err ignored = ERR_INIT;
	MEM_AUTO char *text = file_read_all(path, 256, NULL, &ignored);
	return text ? strtoull(text, NULL, 10) : 0;
}

static json_t *hugepages(void)
{
	json_t *list = json_array();
	DIR *dir = opendir(HUGEPAGES);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		unsigned long long kib;
		char path[320];
		if (sscanf(entry->d_name, "hugepages-%llukB", &kib) != 1)
			continue;
		snprintf(path, sizeof(path), HUGEPAGES "/%s/nr_hugepages", entry->d_name);
		uint64_t total = read_number(path);
		snprintf(path, sizeof(path), HUGEPAGES "/%s/free_hugepages", entry->d_name);
		uint64_t left = read_number(path);
		if (total > 0)
			json_array_append_new(list, json_pack("{s:I,s:I,s:I}", "size_bytes", (json_int_t)(kib << 10),
							      "total", (json_int_t)total, "free", (json_int_t)left));
	}
	if (dir)
		closedir(dir);
	return list;
}

/* Hugepages are set apart beforehand: guests on them do not eat into the rest. */
static bool uses_hugepages(virDomainPtr dom)
{
	struct err ignored = ERR_INIT;
	VIRT_STR_AUTO char *xml = virDomainGetXMLDesc(dom, 0);
	DOMAIN_AUTO struct domain *d = xml ? domain_parse(xml, &ignored) : NULL;
	return d && d->hugepage_bytes > 0;
}

static json_t *vm_json(const virDomainStatsRecord *r)
{
	unsigned long long maximum = 0;
	unsigned long long rss = 0;
	char uuid[VIR_UUID_STRING_BUFLEN];
	const char *name = virDomainGetName(r->dom);

	(void)virTypedParamsGetULLong(r->params, r->nparams, "balloon.maximum", &maximum);
	(void)virTypedParamsGetULLong(r->params, r->nparams, "balloon.rss", &rss);
	if (!name || virDomainGetUUIDString(r->dom, uuid) < 0)
		return NULL;
	return json_pack("{s:s,s:s,s:I,s:I,s:b}", "name", name, "uuid", uuid, "memory_bytes",
			 (json_int_t)(maximum << 10), "rss_bytes", (json_int_t)(rss << 10), "hugepages",
			 uses_hugepages(r->dom));
}

json_t *facts_vms(virConnectPtr conn)
{
	virDomainStatsRecordPtr *records = NULL;
	json_t *list = json_array();
	/* NOWAIT: a VM that is busy with a job does not keep everybody waiting. */
	int n = virConnectGetAllDomainStats(conn, VIR_DOMAIN_STATS_BALLOON, &records,
					    VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE |
						    VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT);

	for (int i = 0; i < n; i++) {
		json_t *vm = vm_json(records[i]);
		if (vm)
			json_array_append_new(list, vm);
	}
	if (n > 0)
		virDomainStatsRecordListFree(records);
	else
		free(records);
	return list;
}

json_t *facts_memory(const json_t *vms)
{
	struct err ignored = ERR_INIT;
	MEM_AUTO char *text = file_read_all("/proc/meminfo", 64 << 10, NULL, &ignored);
	uint64_t available = text ? facts_meminfo(text, "MemAvailable") : 0;
	uint64_t promised = 0;
	size_t i;
	json_t *vm;

	json_array_foreach (vms, i, vm) {
		json_int_t most = json_integer_value(json_object_get(vm, "memory_bytes"));
		json_int_t rss = json_integer_value(json_object_get(vm, "rss_bytes"));
		if (most > rss && !json_is_true(json_object_get(vm, "hugepages")))
			promised += (uint64_t)(most - rss);
	}
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:o}", "total_bytes",
			 (json_int_t)(text ? facts_meminfo(text, "MemTotal") : 0), "free_bytes",
			 (json_int_t)(text ? facts_meminfo(text, "MemFree") : 0), "available_bytes",
			 (json_int_t)available, "promised_bytes", (json_int_t)promised, "spare_bytes",
			 (json_int_t)(available > promised ? available - promised : 0), "hugepages", hugepages());
}

json_t *facts_networks(virConnectPtr conn)
{
	virNetworkPtr *nets = NULL;
	json_t *list = json_array();
	int n = virConnectListAllNetworks(conn, &nets, 0);

	for (int i = 0; i < n; i++) {
		VIRT_STR_AUTO char *bridge = virNetworkGetBridgeName(nets[i]);
		json_array_append_new(list, json_pack("{s:s,s:b,s:s?}", "name", virNetworkGetName(nets[i]), "active",
						      virNetworkIsActive(nets[i]) == 1, "bridge", bridge));
		virNetworkFree(nets[i]);
	}
	free(nets);
	return list;
}

json_t *facts_filters(virConnectPtr conn)
{
	virNWFilterPtr *filters = NULL;
	int n = virConnectListAllNWFilters(conn, &filters, 0);
	json_t *list = n < 0 ? json_null() : json_array();

	for (int i = 0; i < n; i++) {
		json_array_append_new(list, json_string(virNWFilterGetName(filters[i])));
		virNWFilterFree(filters[i]);
	}
	free(filters);
	return list;
}

static json_t *net_devices(bool bridges_only)
{
	json_t *list = json_array();
	DIR *dir = opendir("/sys/class/net");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char path[320];
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/sys/class/net/%s/%s", entry->d_name, bridges_only ? "bridge" : "ifindex");
		if (access(path, F_OK) == 0)
			json_array_append_new(list, json_string(entry->d_name));
	}
	if (dir)
		closedir(dir);
	return list;
}

json_t *facts_bridges(void)
{
	return net_devices(true);
}

json_t *facts_interfaces(void)
{
	return net_devices(false);
}

json_t *facts_addresses(void)
{
	json_t *list = json_array();
	struct ifaddrs *all = NULL;

	if (getifaddrs(&all) != 0)
		return list;
	for (struct ifaddrs *a = all; a; a = a->ifa_next) {
		char text[INET6_ADDRSTRLEN];
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
		const char *got = NULL;
		if (a->ifa_addr && a->ifa_addr->sa_family == AF_INET) {
			memcpy(&v4, a->ifa_addr, sizeof(v4));
			got = inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
		} else if (a->ifa_addr && a->ifa_addr->sa_family == AF_INET6) {
			memcpy(&v6, a->ifa_addr, sizeof(v6));
			got = inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
		}
		if (got)
			json_array_append_new(list, json_string(got));
	}
	freeifaddrs(all);
	return list;
}

static json_t *pool_json(virStoragePoolPtr pool)
{
	struct err ignored = ERR_INIT;
	virStoragePoolInfo info = { 0 };
	const char *name = virStoragePoolGetName(pool);
	VIRT_STR_AUTO char *xml = virStoragePoolGetXMLDesc(pool, 0);
	XML_DOC_AUTO xmlDocPtr doc = xml ? xml_parse(xml, CAPS_XML_MAX, "pool", &ignored) : NULL;
	xmlNodePtr root = doc ? xmlDocGetRootElement(doc) : NULL;
	MEM_AUTO char *type = root ? xml_attr(root, "type") : NULL;
	MEM_AUTO char *path = xml_text(xml_child(xml_child(root, "target"), "path"));

	(void)virStoragePoolGetInfo(pool, &info);
	return json_pack("{s:s,s:b,s:s?,s:s?,s:I,s:I}", "name", name ? name : "", "active",
			 virStoragePoolIsActive(pool) == 1, "type", type, "path", path, "capacity_bytes",
			 (json_int_t)info.capacity, "available_bytes", (json_int_t)info.available);
}

static json_t *facts_pools(virConnectPtr conn)
{
	virStoragePoolPtr *pools = NULL;
	json_t *list = json_array();
	int n = virConnectListAllStoragePools(conn, &pools, 0);

	for (int i = 0; i < n; i++) {
		json_array_append_new(list, pool_json(pools[i]));
		virStoragePoolFree(pools[i]);
	}
	free(pools);
	return list;
}

int facts_gather(virConnectPtr conn, const char *host_name, json_t **out, struct err *e)
{
	VIRT_STR_AUTO char *caps = virConnectGetCapabilities(conn);
	if (!caps)
		return virt_err(e, "ask libvirt what host %s can do", host_name);

	struct utsname uts = { 0 };
	(void)uname(&uts);
	VIRT_STR_AUTO char *uri = virConnectGetURI(conn);
	json_t *vms = facts_vms(conn);
	json_t *facts = json_pack("{s:s,s:s,s:s,s:s,s:s?,s:b,s:I,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "name", host_name,
				  "agent_version", VMFERRY_VERSION, "kernel", uts.release, "arch", uts.machine, "uri",
				  uri, "kvm", access("/dev/kvm", R_OK | W_OK) == 0, "cpus",
				  (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "cpu", cpu_facts(conn), "memory",
				  facts_memory(vms), "emulators", facts_emulators(caps), "vms", vms, "networks",
				  facts_networks(conn), "bridges", facts_bridges(), "interfaces", facts_interfaces(),
				  "pools", facts_pools(conn));
	json_t *versions = facts_versions(conn);
	json_object_update(facts, versions);
	json_decref(versions);
	json_object_set_new(facts, "time_ns", json_integer(clock_wall_ns()));
	*out = facts;
	return 0;
}
