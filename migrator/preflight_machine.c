/*
 * preflight_machine.c - preflight.h's judgement of accelerator, emulator, machine type, CPU and memory.
 */
#include "migrator/preflight_internal.h"

#include "base/units.h"

#include <stdio.h>

/* QEMU's own memory beside the guest's: video, buffers, page tables. */
#define QEMU_OVERHEAD_BYTES (96u << 20)

/* "a, b, c and 4 more" */
static const char *join(const json_t *names, char *buf, size_t size)
{
	size_t len = 0;
	size_t i;
	json_t *name;

	buf[0] = 0;
	json_array_foreach (names, i, name) {
		const char *s = json_string_value(name);
		if (!s || len + strlen(s) + 24 > size) {
			snprintf(buf + len, size - len, " and %zu more", json_array_size(names) - i);
			break;
		}
		len += (size_t)snprintf(buf + len, size - len, "%s%s", i ? ", " : "", s);
	}
	return buf;
}

static void judge_machine(const struct judge *j)
{
	const json_t *machine = json_object_get(j->t, "machine");
	const json_t *emulator = json_object_get(j->t, "emulator");
	const char *newest = str(machine, "newest");
	char remedy[300];

	if (is_false(j->t, "domain_type")) {
		preflight_add(
			j->f, PREFLIGHT_ERROR, "accelerator-missing",
			strcmp(j->dom->type, "kvm") == 0
				? "switch on virtualization in the firmware of the target and load kvm_intel or kvm_amd"
				: "",
			"%s can't run guests of type %s", j->host, j->dom->type);
		return; /* the rest would only follow from it */
	}
	if (j->dom->emulator && is_false(emulator, "usable"))
		preflight_add(j->f, PREFLIGHT_ERROR, "emulator-missing",
			      "install it there, or change <emulator> in the definition to what both hosts have",
			      "%s has no emulator %s for %s guests", j->host, j->dom->emulator,
			      j->dom->arch ? j->dom->arch : "its");
	else if (j->dom->machine && is_false(machine, "known")) {
		snprintf(remedy, sizeof(remedy), "upgrade QEMU there%s%s%s", newest ? ", which knows " : "",
			 newest ? newest : "",
			 newest ? " at most, or give the VM that machine type and restart it" : "");
		preflight_add(j->f, PREFLIGHT_ERROR, "machine-unknown", remedy,
			      "QEMU of %s does not know machine type %s", j->host, j->dom->machine);
	}
}

static void judge_passthrough(const struct judge *j, enum cpu_verdict verdict, const json_t *missing)
{
	char names[500];

	join(missing, names, sizeof(names));
	switch (verdict) {
	case CPU_IDENTICAL:
		return;
	case CPU_SUPERSET:
		preflight_add(j->f, PREFLIGHT_WARNING, "cpu-passthrough",
			      "give the VM a CPU model that both hosts have: vmferry cpu-baseline",
			      "%s uses the host's CPU as it is, and %s has another one: it has all features, but the "
			      "guest may see "
			      "differences that no one has tested",
			      j->dom->name, j->host);
		return;
	case CPU_MISSING:
		preflight_add(j->f, j->offline ? PREFLIGHT_WARNING : PREFLIGHT_ERROR, "cpu-passthrough",
			      "give the VM a CPU model that both hosts have (vmferry cpu-baseline) and restart it",
			      "%s uses the host's CPU as it is, and the CPU of %s lacks: %s", j->dom->name, j->host,
			      names[0] ? names : "features that libvirt does not name");
		return;
	case CPU_UNKNOWN:
		preflight_add(j->f, PREFLIGHT_WARNING, "cpu-not-checked", "",
			      "%s uses the host's CPU as it is, and libvirt can't compare the two hosts", j->dom->name);
		return;
	}
}

static void judge_cpu(const struct judge *j)
{
	const json_t *cpu = json_object_get(j->t, "cpu");
	const json_t *missing = json_object_get(cpu, "missing");
	char names[700];

	if (j->dom->invtsc && !j->offline)
		preflight_add(j->f, PREFLIGHT_ERROR, "invariant-tsc",
			      "add <timer name='tsc' frequency='...'/> to <clock>, or remove the feature invtsc, and "
			      "restart the VM",
			      "%s has an invariant TSC without a fixed frequency, which QEMU does not migrate",
			      j->dom->name);
	if (!j->s->cpu_xml || !json_is_object(cpu))
		return;
	enum cpu_verdict verdict = cpu_verdict_from_name(str(cpu, "verdict"));
	if (j->dom->cpu_mode &&
	    (strcmp(j->dom->cpu_mode, "host-passthrough") == 0 || strcmp(j->dom->cpu_mode, "maximum") == 0)) {
		judge_passthrough(j, verdict, missing);
		return;
	}
	if (verdict == CPU_UNKNOWN) {
		preflight_add(j->f, PREFLIGHT_WARNING, "cpu-not-checked", "", "libvirt of %s can't compare the CPU: %s",
			      j->host, str(cpu, "message") ? str(cpu, "message") : "no reason given");
		return;
	}
	if (verdict != CPU_MISSING)
		return;
	/* What this host lacks as well, the guest does not have now and won't miss. */
	json_t *lost = cpu_difference(missing, j->s->cpu_missing_here);
	if (json_array_size(lost) == 0 && json_array_size(missing) > 0)
		preflight_add(
			j->f, PREFLIGHT_INFO, "cpu-not-checked", "",
			"the CPU model has features that neither host has (%s): the guest runs without them here too",
			join(missing, names, sizeof(names)));
	else
		preflight_add(j->f, j->offline ? PREFLIGHT_WARNING : PREFLIGHT_ERROR, "cpu-features-missing",
			      "vmferry cpu-baseline shows the CPU model that both hosts can run; the guest gets it at "
			      "its next start",
			      "the CPU of %s lacks features that %s has%s%s", j->host, j->dom->name,
			      json_array_size(lost) ? ": " : "", join(lost, names, sizeof(names)));
	json_decref(lost);
}

static void judge_hugepages(const struct judge *j, const json_t *memory, enum preflight_severity severity)
{
	const json_t *sizes = json_object_get(memory, "hugepages");
	uint64_t wanted = j->dom->hugepage_bytes;
	char need[32], have[32], page[32];
	size_t i;
	json_t *size;

	units_format_size(j->dom->memory_bytes, need, sizeof(need));
	json_array_foreach (sizes, i, size) {
		uint64_t bytes = number(size, "size_bytes");
		uint64_t room = bytes * number(size, "free");
		if (wanted > 1 ? bytes != wanted : i > 0)
			continue;
		if (room < j->dom->memory_bytes)
			preflight_add(j->f, severity, "hugepages-short", "raise vm.nr_hugepages there",
				      "%s needs %s of hugepages and %s has %s free", j->dom->name, need, j->host,
				      units_format_size(room, have, sizeof(have)));
		return;
	}
	preflight_add(j->f, severity, "hugepages-short",
		      "reserve them there: vm.nr_hugepages, or hugepages= on the kernel command line",
		      "%s needs %s of hugepages%s%s and %s has none", j->dom->name, need, wanted > 1 ? " of " : "",
		      wanted > 1 ? units_format_size(wanted, page, sizeof(page)) : "", j->host);
}

static void judge_memory(const struct judge *j)
{
	const json_t *memory = json_object_get(j->t, "memory");
	enum preflight_severity severity = j->offline ? PREFLIGHT_WARNING : PREFLIGHT_ERROR;
	uint64_t need = j->dom->memory_bytes + QEMU_OVERHEAD_BYTES;
	uint64_t spare = number(memory, "spare_bytes");
	char a[32], b[32], c[32], d[32];

	if (!json_is_object(memory))
		return;
	if (j->dom->hugepage_bytes > 0) {
		judge_hugepages(j, memory, severity);
		return;
	}
	if (need > spare)
		preflight_add(
			j->f, severity, "memory-short", "free memory there, choose another host, or give the VM less",
			"%s needs %s and %s has %s to spare (%s available, of which running VMs may still claim %s)",
			j->dom->name, units_format_size(need, a, sizeof(a)), j->host,
			units_format_size(spare, b, sizeof(b)),
			units_format_size(number(memory, "available_bytes"), c, sizeof(c)),
			units_format_size(number(memory, "promised_bytes"), d, sizeof(d)));
	if (j->dom->memory_locked)
		preflight_add(j->f, PREFLIGHT_INFO, "memory-locked", "",
			      "the memory of %s is locked: %s must have all of it at once", j->dom->name, j->host);
}

void preflight_judge_machine(const struct judge *j)
{
	judge_machine(j);
	judge_cpu(j);
	judge_memory(j);
}
