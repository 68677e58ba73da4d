/*
 * domain.h - what a domain's XML says, as a plain struct; and the few edits of that XML which a move needs.
 *
 * XML comes from libvirt or from a peer. It is capped at DOMAIN_XML_MAX, parsed without network, external entities or
 * DTDs, and what does not look like a domain is ERR_CORRUPT. Unknown elements are ignored. Strings are NULL where the
 * XML says nothing.
 */
#ifndef VMFERRY_MIGRATOR_DOMAIN_H
#define VMFERRY_MIGRATOR_DOMAIN_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DOMAIN_XML_MAX (4u << 20)

enum domain_source {                     /* where a disk's bytes are */
		     DOMAIN_SOURCE_NONE, /* an empty drive */
		     DOMAIN_SOURCE_FILE,
		     DOMAIN_SOURCE_BLOCK,
		     DOMAIN_SOURCE_NETWORK, /* rbd, nbd, iscsi, gluster ... */
		     DOMAIN_SOURCE_OTHER,   /* dir, volume, nvme, vhostuser: see type */
};

struct domain_layer { /* one image of a backing chain */
	char *path;   /* NULL when it is not a file or a device */
	char *format;
};

struct domain_disk {
	enum domain_source source;
	char *type;   /* as written: "file", "network", ... */
	char *device; /* "disk", "cdrom", "floppy", "lun" */
	char *target; /* "vda" */
	char *bus;
	char *path;                   /* file or block device */
	char *format;                 /* of the top image: "raw", "qcow2" ... */
	char *cache;                  /* NULL: the hypervisor's default */
	char *network;                /* "rbd pool/image" for a network disk; what to call it in messages otherwise */
	char *pool, *volume;          /* of type volume; where it is, volumes.h finds out */
	struct domain_layer *backing; /* top-down, without the image itself; only what the XML lists */
	size_t n_backing;
	bool readonly;
	bool optional;  /* libvirt empties the drive where the image is missing (startupPolicy) */
	bool here_only; /* a network disk that is reached by a loopback address or a socket of this host */
	bool shareable;
	bool transient;
	bool encrypted; /* by QEMU, below the guest */
	bool mirror;    /* a block job is under way */
};

struct domain_iface {
	char *type;    /* "network", "bridge", "direct", "ethernet", "user", "vhostuser", "vdpa", "hostdev" */
	char *network; /* of type network; live XML says "bridge" or "direct" for one that is joined to these */
	char *bridge;  /* of type bridge; of a live type network: the bridge in use */
	char *dev;     /* host device of type direct */
	char *mac;
	char *model;
	char *slot;   /* guest's PCI address, or NULL */
	char *filter; /* libvirt's network filter */
	bool openvswitch;
	bool teaming; /* a transient device of a failover pair: QEMU unplugs it by itself */
};

struct domain_hostdev {
	char *type; /* "pci", "usb", "scsi", "scsi_host", "mdev", "capabilities" */
	char *text; /* for people: "PCI device 0000:03:00.0" */
	bool teaming;
};

struct domain_path { /* a file or folder that QEMU opens besides the disks */
	char *what;  /* "kernel", "initrd", "loader", "nvram", "serial log", ... */
	char *path;
	bool folder_only; /* created when missing: its folder must exist */
};

struct domain_device { /* a device that libvirt or QEMU cannot migrate, or only with care */
	char *kind;    /* "filesystem", "shmem", "sev", "vdpa", "tpm-passthrough", ... (stable) */
	char *text;    /* for people */
};

struct domain_listen { /* where the host's network reaches a device; wildcards and loopback are left out */
	char *what;    /* "graphics", "serial" ... */
	char *address; /* NULL for */
	char *network; /* an address of that libvirt network */
};

struct domain_secret { /* of libvirt's, without which a disk or a TPM's state is not opened */
	char *what;    /* "disk vda", "tpm" */
	char *uuid;    /* or by */
	char *usage;   /* its name among those of */
	char *type;    /* "ceph", "iscsi", "volume", "vtpm" */
};

struct domain {
	char *name;
	char *uuid;
	char *type; /* "kvm" or "qemu" */
	char *arch;
	char *machine;
	char *emulator;
	char *cpu_mode; /* NULL when there is no <cpu> */
	char *cpu_model;
	char *cpu_check;
	char *cpu_xml;                 /* the whole <cpu> element, or NULL */
	uint64_t memory_bytes;         /* what QEMU may use for the guest's RAM (maximum) */
	uint64_t current_memory_bytes; /* balloon */
	unsigned vcpus;                /* online */
	unsigned vcpus_max;
	struct domain_disk *disks;
	size_t n_disks;
	struct domain_iface *ifaces;
	size_t n_ifaces;
	struct domain_hostdev *hostdevs;
	size_t n_hostdevs;
	struct domain_path *paths;
	size_t n_paths;
	struct domain_device *devices;
	size_t n_devices;
	struct domain_secret *secrets;
	size_t n_secrets;
	struct domain_listen *listen;
	size_t n_listen;
	uint64_t hugepage_bytes; /* 0: normal pages; 1: huge pages of the host's default size */
	bool memory_locked;
	bool invtsc;         /* invariant TSC asked for, without a TSC frequency: libvirt will not migrate it */
	unsigned dirty_ring; /* entries, 0 = off */
	bool leases;         /* a lock manager's leases */
	bool tpm_emulator;
	bool tpm_elsewhere; /* its state is not in libvirt's own folder (libvirt 10: <source>) */
	char *tpm_version;  /* "2.0", "1.2" */
	char *nvram;
	char *nvram_template;
};

/* NULL with ERR_CORRUPT when it is not a domain. */
struct domain *domain_parse(const char *xml, struct err *e);
void domain_free(struct domain *d);
void domain_free_ptr(struct domain **d);
#define DOMAIN_AUTO __attribute__((cleanup(domain_free_ptr)))

/* The disk whose target device is that, or NULL. */
const struct domain_disk *domain_disk_by_target(const struct domain *d, const char *target);
/* What libvirt would copy in a storage migration: has a source, and is neither read-only nor shareable. */
bool domain_disk_copyable(const struct domain_disk *disk);
/* "vda (/var/lib/libvirt/images/web1.qcow2)" into buf, which is returned. */
const char *domain_disk_label(const struct domain_disk *disk, char *buf, size_t size);
/* [{target,device,type,path,format,readonly,shareable}] for `vms`. New reference. */
json_t *domain_disks_json(const struct domain *d);

/* ---- edits ---- */

struct domain_disk_edit {
	const char *target; /* which disk */
	const char *path;   /* its new file or device, or NULL: as it was */
	const char *format; /* its new format, or NULL: as it was */
	bool flatten;       /* the image no longer has a backing file */
};

/* Definition XML for the host where the VM will be defined, from inactive or live XML: runtime parts (id, aliases,
 * tap names, block-job state, generated security labels, chain of a live disk) are removed, the given disks are
 * changed. An edit of a disk that is not there is ERR_CONFIG. The result is the caller's (free). */
char *domain_for_define(const char *xml, const struct domain_disk_edit *edits, size_t n, struct err *e);

/* The same definition, whose disks of these targets (a list of strings) no longer spell out what lies behind their
 * images. The result is the caller's (free). */
char *domain_flatten(const char *xml, const json_t *targets, struct err *e);

#endif
