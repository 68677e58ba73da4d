/*
 * preflight_devices.c - preflight.h's judgement of networks, host devices, files that QEMU opens, and what else ties
 * a VM to its host.
 */
#include "migrator/preflight_internal.h"

#include "base/mem.h"
#include "migrator/needs.h"
#include "migrator/state_files.h"

static void judge_network(const struct judge *j)
{
	enum preflight_severity severity = j->offline ? PREFLIGHT_WARNING : PREFLIGHT_ERROR;

	needs_judge(j->dom, j->t, j->host, severity, j->f);
	for (size_t i = 0; i < j->dom->n_listen; i++) {
		const struct domain_listen *l = &j->dom->listen[i];
		const json_t *addresses = json_object_get(j->t, "addresses");
		if (l->network)
			needs_judge_network(l->network, j->t, j->host, severity, j->f);
		else if (l->address && json_is_array(addresses) && !has_string(addresses, l->address))
			preflight_add(j->f, severity, "listen-address",
				      strcmp(l->what, "graphics") == 0
					      ? "let it listen on 0.0.0.0 or on a libvirt network's address"
					      : "let it listen on 0.0.0.0, and keep others out by a firewall",
				      "%s of %s listens on %s, which is not an address of %s", l->what, j->dom->name,
				      l->address, j->host);
	}
}

static void judge_hostdevs(const struct judge *j)
{
	for (size_t i = 0; i < j->dom->n_hostdevs; i++) {
		const struct domain_hostdev *dev = &j->dom->hostdevs[i];
		if (dev->teaming)
			preflight_add(j->f, PREFLIGHT_INFO, "host-device", "",
				      "%s is unplugged for the move (failover pair)", dev->text);
		else if (j->offline)
			preflight_add(j->f, PREFLIGHT_WARNING, "host-device", "edit the definition after the move",
				      "%s has a device of this host: %s", j->dom->name, dev->text);
		else if (strcmp(dev->type, "usb") == 0)
			preflight_add(j->f, PREFLIGHT_ERROR, "host-device", "detach it first: virsh detach-device",
				      "%s has a device of this host that won't be there at %s: %s", j->dom->name,
				      j->host, dev->text);
		else
			preflight_add(j->f, PREFLIGHT_ERROR, "host-device",
				      "detach it first (virsh detach-device), or shut the VM down and use --offline",
				      "%s has a device of this host, which can't be migrated: %s", j->dom->name,
				      dev->text);
	}
}

static void judge_devices(const struct judge *j)
{
	for (size_t i = 0; i < j->dom->n_devices; i++) {
		const struct domain_device *dev = &j->dom->devices[i];
		if (strcmp(dev->kind, "vsock") == 0)
			preflight_add(j->f, PREFLIGHT_INFO, "device-note", "",
				      "connections of the guest over its vsock end with the move");
		else if (!j->offline && strcmp(dev->kind, "9p") == 0)
			preflight_add(j->f, PREFLIGHT_WARNING, "device-note", "unmount it in the guest before",
				      "%s has a %s: QEMU refuses to migrate while the guest has it mounted",
				      j->dom->name, dev->text);
		else if (j->offline)
			preflight_add(j->f, PREFLIGHT_WARNING, "device-note",
				      "see that the other host has what it needs", "%s has: %s", j->dom->name,
				      dev->text);
		else
			preflight_add(j->f, PREFLIGHT_ERROR, "device-unsupported",
				      "remove it from the VM, or shut the VM down and use --offline",
				      "%s has something that can't be migrated live: %s", j->dom->name, dev->text);
	}
	if (j->dom->tpm_emulator && is_false(j->t, "swtpm"))
		preflight_add(j->f, PREFLIGHT_ERROR, "tpm-missing", "install swtpm and swtpm-tools there",
			      "%s has an emulated TPM, and %s has no swtpm", j->dom->name, j->host);
	MEM_AUTO char *nvram = state_file_path(STATE_FILES_ROOT, j->dom, STATE_FILE_NVRAM);
	if (j->dom->nvram && !nvram && j->offline)
		preflight_add(
			j->f, PREFLIGHT_WARNING, "nvram", "see that the file is there before the VM's first start",
			"the firmware variables of %s (%s) are not in libvirt's own folder and not moved with it: "
			"boot entries and Secure Boot keys are in there",
			j->dom->name, j->dom->nvram);
	if (j->dom->tpm_emulator && j->dom->tpm_elsewhere && j->offline)
		preflight_add(j->f, PREFLIGHT_WARNING, "tpm-state", "see that it is there before the VM's first start",
			      "the TPM state of %s is not in libvirt's own folder and not moved with it", j->dom->name);
	if (j->dom->dirty_ring > 0 && !j->offline)
		preflight_add(j->f, PREFLIGHT_INFO, "dirty-ring", "",
			      "%s uses a dirty ring of %u entries, which %s must offer too", j->dom->name,
			      j->dom->dirty_ring, j->host);
}

static void judge_paths(const struct judge *j)
{
	const json_t *paths = json_object_get(j->t, "paths");
	enum preflight_severity severity = j->offline ? PREFLIGHT_WARNING : PREFLIGHT_ERROR;

	for (size_t i = 0; i < j->dom->n_paths; i++) {
		const struct domain_path *p = &j->dom->paths[i];
		const json_t *there = named(paths, "path", p->path);
		if (!there || is_true(there, p->folder_only ? "folder" : "exists"))
			continue;
		if (p->folder_only)
			preflight_add(j->f, severity, "path-missing", "create the folder there",
				      "%s has no folder for the %s of %s: %s", j->host, p->what, j->dom->name, p->path);
		else
			preflight_add(j->f, severity, "path-missing", "copy it there, or install the same package",
				      "%s has no %s %s", j->host, p->what, p->path);
	}
}

static void judge_postcopy(const struct judge *j)
{
	if (j->offline || j->args->on_stall != CONVERGE_POSTCOPY)
		return;
	if (is_false(j->t, "userfaultfd"))
		preflight_add(j->f, PREFLIGHT_ERROR, "postcopy-unavailable",
			      "sysctl vm.unprivileged_userfaultfd=1 there, or choose --on-stall abort or pause",
			      "QEMU of %s may not use userfaultfd, without which there is no post-copy", j->host);
}

void preflight_judge_devices(const struct judge *j)
{
	judge_paths(j);
	judge_network(j);
	judge_hostdevs(j);
	judge_devices(j);
	judge_postcopy(j);
}
