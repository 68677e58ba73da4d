/*
 * facts.h - what this host is and has: the answer to host.facts, and the pieces of it that preflight.target also
 * gives.
 *
 * host.facts ->
 *	{"name","agent_version","kernel","arch","uri",
 *	 "libvirt_version": number as libvirt counts (9000000), "libvirt": "9.0.0", "qemu_version", "qemu",
 *	 "kvm": bool, "cpus": n, "cpu": {cpu_facts},
 *	 "memory": {"total_bytes","free_bytes","available_bytes","promised_bytes","spare_bytes",
 *	            "hugepages":[{"size_bytes","total","free"}]},
 *	 "emulators": [{"path","arch","types":["qemu","kvm"],"machines":[{"name","canonical"(of an alias)}]}],
 *	 "vms": [{"name","uuid","memory_bytes","rss_bytes"}] that have a QEMU process,
 *	 "networks": [{"name","active","bridge"}], "bridges": [names], "interfaces": [names],
 *	 "pools": [{"name","active","type","path","capacity_bytes","available_bytes"}],
 *	 "jobs": [...] (migrator_jobs), "time_ns": wall clock, read last}
 *
 * promised_bytes is what running VMs may still come to use (their maximum less what is resident), spare_bytes what
 * then remains of available_bytes, never below 0.
 */
#ifndef VMFERRY_MIGRATOR_FACTS_H
#define VMFERRY_MIGRATOR_FACTS_H

#include "base/err.h"
#include "migrator/virt.h"

#include <jansson.h>

/* Everything but "jobs". */
int facts_gather(virConnectPtr conn, const char *host_name, json_t **out, struct err *e);

/* As libvirt counts (7002022); 0 when unknown, or when it is not QEMU. */
unsigned long facts_qemu_version(virConnectPtr conn);

/* Pieces; new references, never NULL. What cannot be read is missing or empty. */
json_t *facts_versions(virConnectPtr conn); /* {"libvirt_version","libvirt","qemu_version","qemu"} */
json_t *facts_vms(virConnectPtr conn);
json_t *facts_memory(const json_t *vms);
json_t *facts_networks(virConnectPtr conn);
/* Names of the network filters; null where libvirt has no driver for them. */
json_t *facts_filters(virConnectPtr conn);
json_t *facts_bridges(void);
json_t *facts_interfaces(void);
json_t *facts_addresses(void); /* IP addresses of this host, as text */

/* ---- pure parts ---- */
/* "emulators" from the text of libvirt's capabilities. */
json_t *facts_emulators(const char *capabilities_xml);
/* From the text of /proc/meminfo; 0 when the field is missing. Bytes. */
uint64_t facts_meminfo(const char *text, const char *field);

#endif
