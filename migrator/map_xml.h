/*
 * map_xml.h - the definition of a VM made for another host than the one it ran on: disks where they are here, networks as they are called here, what
 * belonged to the other host's hardware left out, each with a finding that a person can read.
 *
 * What the guest sees stays: UUID, name, MAC addresses, PCI addresses, CPU model, machine type, serial numbers, references to secrets.
 */
#ifndef VMFERRY_MIGRATOR_MAP_XML_H
#define VMFERRY_MIGRATOR_MAP_XML_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct map_rule {
	const char *from;
	const char *to;
};

struct map_disk {
	const char *target; /* "vda" */
	const char *path;   /* image on this host; always a file */
	const char *format; /* "qcow2", "raw" */
};

struct map_opts {
	const struct map_disk *disks;
	size_t n_disks;
	/* Of libvirt networks, bridges and host devices. The kind stays unless `to` begins with "network:" or "bridge:". */
	const struct map_rule *networks;
	size_t n_networks;
	/* Of folders, for disks that are not among the above. */
	const struct map_rule *folders;
	size_t n_folders;
	const char *nvram; /* this host's file; NULL: as it was */
	const char *name;  /* another name and UUID (a rehearsal); NULL: as they were */
	const char *uuid;
	bool links_down; /* all network cards without a carrier */
	unsigned cpus;   /* of this host, numbered from 0; 0: pinning is left as it is */
	/* Is there such a file or device on this host? NULL: access(2). */
	bool (*exists)(void *ctx, const char *path);
	void *ctx;
};

/* The definition comes from the other host, which does not say what is written to here: a disk that is not among opts.disks stays if it is read-only, or
 * where a rule for folders places it; other files, devices and programs of this host by host_files.h.
 *
 * XML to define or restore here; heap. Findings are appended to `findings` (array of {"what", "text"}; may be NULL). ERR_REFUSED for what cannot run
 * elsewhere (host devices, a disk that is not among opts.disks and does not stay), ERR_CORRUPT for what is no definition. */
char *map_xml(const char *xml, const struct map_opts *o, json_t *findings, struct err *e);

/* Where a disk's image belongs: the folder of its source at the other host, by the longest rule that fits it; else the
 * same folder, if this host has it and it is `otherwise`, libvirt's own for images, or below one of these; else `otherwise`. Heap. */
char *map_image_dir(const char *xml, const char *target, const struct map_rule *folders, size_t n,
		    const char *otherwise, struct err *e);

#endif
