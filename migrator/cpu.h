/*
 * cpu.h - can a guest's CPU run on a host, and which CPU could run on all of them. Everything is asked of libvirt,
 * for the emulator, machine and accelerator in question, so that it also holds for TCG.
 */
#ifndef VMFERRY_MIGRATOR_CPU_H
#define VMFERRY_MIGRATOR_CPU_H

#include "base/err.h"
#include "migrator/virt.h"

#include <jansson.h>
#include <stdbool.h>

/* Which CPUs libvirt is asked about; NULL members: libvirt's default. */
struct cpu_scope {
	const char *emulator;
	const char *arch;
	const char *machine;
	const char *virt_type; /* "kvm" or "qemu" */
};

enum cpu_verdict {
	CPU_IDENTICAL,
	CPU_SUPERSET, /* the host has all of it, and more */
	CPU_MISSING,  /* the host lacks features */
	CPU_UNKNOWN,  /* libvirt cannot compare: see message */
};

/* "identical", "superset", "missing", "unknown"; from_name gives CPU_UNKNOWN for others. */
const char *cpu_verdict_name(enum cpu_verdict v);
enum cpu_verdict cpu_verdict_from_name(const char *name);

struct cpu_result {
	enum cpu_verdict verdict;
	json_t *missing; /* feature names, sorted; empty unless MISSING (and then empty only if libvirt did not tell) */
	char message[300];
};
void cpu_result_fini(struct cpu_result *r);

/* Compares a <cpu> element with this host. Fails only when libvirt cannot be asked at all; otherwise the result must
 * be fini'd. */
int cpu_compare(virConnectPtr conn, const struct cpu_scope *scope, const char *cpu_xml, struct cpu_result *out,
		struct err *e);

/* The <cpu> element that "host-model" means here, heap. ERR_LIBVIRT, or ERR_REFUSED when there is none for this
 * scope. */
char *cpu_host_model(virConnectPtr conn, const struct cpu_scope *scope, struct err *e);
/* The same from the text of domain capabilities; NULL when host-model is not supported. */
char *cpu_host_model_from_caps(const char *domain_caps_xml);

/* {"virt_type","model","vendor","xml","features":[...]} for the best accelerator of this host, for host.facts:
 * host-model, and all its features spelled out. Unknown members are null. New reference. */
json_t *cpu_facts(virConnectPtr conn);

/* cpu.baseline: {"hosts":[{"name","cpu_xml","virt_type"(optional),"features":[...](optional)}...]}, the members as
 * host.facts gives them ->
 *	{"xml": <cpu> element to paste into the VMs, "model", "virt_type", "hosts":[{"name","loses":[features]}]}
 * libvirt also holds the result to what this host's hypervisor can do, so it is best asked of a host that is in the
 * list. ERR_REFUSED when no CPU runs on all of them. */
int cpu_baseline(virConnectPtr conn, const json_t *args, json_t **result, struct err *e);

/* ---- pure parts ---- */
/* The features that libvirt's text of a failed comparison names: sorted array, new reference. */
json_t *cpu_missing_from_message(const char *message);
/* The features that a <cpu> element requires (its model not expanded): sorted array. NULL with ERR_CORRUPT. */
json_t *cpu_features(const char *cpu_xml, struct err *e);
/* Members of a that are not in b: new array. */
json_t *cpu_difference(const json_t *a, const json_t *b);
/* The text of <model>, heap, or NULL. */
char *cpu_model(const char *cpu_xml);

#endif
