/*
 * preflight.h - may this VM move to that host? Facts gathered at the source and at the target, judged by pure
 * functions before the first byte of the VM travels.
 *
 *	source: preflight_gather -> struct preflight_source        (preflight_source.c)
 *	        preflight_request -> JSON  -- preflight.target -->
 *	target:                            preflight_target         (preflight_target.c)
 *	        JSON of facts             <--
 *	source: preflight_judge -> struct preflight_verdict         (preflight.c, _machine, _disks, _devices: pure)
 *
 * A finding is {"code","severity":"error"|"warning"|"info","text","remedy"}. Codes are stable. One error is enough to
 * refuse.
 *
 *	VM       vm-running vm-shut-off vm-state vm-transient vm-paused job-active block-job-active snapshots
 *	         checkpoints managed-save
 *	hosts    peer-unreachable peer-refused target-libvirt target-answer target-busy libvirt-too-old qemu-too-old
 *	         qemu-older clock-skew
 *	machine  accelerator-missing emulator-missing machine-unknown
 *	CPU      cpu-features-missing cpu-passthrough cpu-not-checked invariant-tsc
 *	memory   memory-short hugepages-short memory-locked
 *	disks    disk-not-shared disk-shared disk-unknown disk-transient disk-unsupported pool-missing
 *	         disk-flattened image-exists image-size image-format image-in-use image-refused device-missing
 *	         device-assumed-shared space-short space-tight media-missing media-differs cache-unsafe backing-missing
 *	         backing-differs backing-not-shared image-snapshots disk-encrypted disk-server-here secret-missing
 *	names    name-taken uuid-taken definition-replaced
 *	network  network-missing network-inactive bridge-missing interface-missing listen-address filter-missing
 *	devices  host-device device-unsupported device-note path-missing tpm-missing nvram
 *	policy   postcopy-unavailable dirty-ring
 */
#ifndef VMFERRY_MIGRATOR_PREFLIGHT_H
#define VMFERRY_MIGRATOR_PREFLIGHT_H

#include "base/err.h"
#include "migrator/cpu.h"
#include "migrator/domain.h"
#include "migrator/migration_args.h"
#include "migrator/virt.h"
#include "migrator/where.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define PREFLIGHT_MIN_LIBVIRT 6008000 /* UNIX sockets as migration URIs */
#define PREFLIGHT_MIN_QEMU 4002000    /* -blockdev, and what libvirt needs for the above */
#define PREFLIGHT_MAX_SKEW_NS (INT64_C(5) * 1000000000)

/* ---- findings ---- */

enum preflight_severity { PREFLIGHT_INFO, PREFLIGHT_WARNING, PREFLIGHT_ERROR };

struct preflight_findings {
	json_t *list;
	unsigned errors;
};

void preflight_findings_init(struct preflight_findings *f);
void preflight_findings_fini(struct preflight_findings *f);
/* remedy may be "". */
void preflight_add(struct preflight_findings *f, enum preflight_severity severity, const char *code, const char *remedy,
		   const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* An error that kept us from asking the target, as a finding: peer-refused for ERR_REFUSED, target-libvirt for
 * ERR_LIBVIRT, else peer-unreachable. */
void preflight_add_err(struct preflight_findings *f, const char *host, const struct err *why);
/* The finding of that code, borrowed, or NULL. */
const json_t *preflight_find(const struct preflight_findings *f, const char *code);
/* ERR_REFUSED: what that means, the texts of the errors, and the first one's remedy. Returns -1; 0 when there are no errors. */
int preflight_refuse(const struct preflight_findings *f, const char *what, struct err *e);

/* ---- facts of the source ---- */

struct preflight_layer { /* an image behind a disk's own: domain_disk.backing, in its order */
	uint64_t size, inode;
	bool network_fs;
	char *probe; /* as of preflight_disk */
	char token[33];
};

struct preflight_disk {           /* one per disk of the domain, in its order */
	uint64_t virtual_bytes;   /* as the guest sees it; 0 unknown */
	uint64_t allocated_bytes; /* what its image and those behind it take here; what a copy moves, about */
	uint64_t inode, size;     /* of the file */
	int64_t mtime_ns;
	bool fixed_chain; /* the definition spells out its backing files; that of a copy must not */
	bool network_fs;  /* a file system that libvirt takes for shared */
	char *device_id;  /* what a block device is on every host that sees it (WWN, LVM UUID ...), or NULL */
	char *probe;      /* a file beside the image, made for this check, or NULL */
	char token[33];   /* what is in it */
	struct preflight_layer *layers; /* domain_disk.n_backing */
	unsigned snapshots;             /* inside the image */
};

struct preflight_source {
	struct domain *dom; /* of `xml` */
	char *xml;          /* live: as libvirt would send it; shut off: the definition */
	enum where where;
	bool persistent;
	const char *paused_reason;
	int job; /* VIR_DOMAIN_JOB_OPERATION_... or -1: none */
	unsigned snapshots, checkpoints;
	bool managed_save;
	unsigned long libvirt_version, qemu_version;
	uint64_t rss_bytes;
	char *cpu_xml; /* what the target should compare: the guest's CPU; for host-passthrough this host's. Or NULL */
	json_t *cpu_missing_here; /* features of it that this host lacks too */
	struct preflight_disk *disks;
};

/* Looks at the VM and at its images; writes probe files beside images in folders that can be written to. Failure
 * leaves nothing behind. */
int preflight_gather(virConnectPtr conn, virDomainPtr dom, struct preflight_source *out, struct err *e);
/* Removes the probe files; preflight_source_fini does it too. */
void preflight_remove_probes(struct preflight_source *s);
void preflight_source_fini(struct preflight_source *s);

/* The arguments of preflight.target. New reference.
 *	{"xml","copy_storage","offline","cpu_xml"|null,
 *	 "disks":[{"target","path"|null,"virtual_bytes","probe"|null,"token","inode","size","mtime_ns","network_fs",
 *	           "device_id"|null,
 *	           "backing":[{"path","probe"|null,"token","inode","size","network_fs"}]}]}
 */
json_t *preflight_request(const struct preflight_source *s, const struct migration_args *args);

/* ---- facts of the target ---- */

struct preflight_target_opts {
	const char *host_name;
	const char *image_dir;                         /* as in struct migrator_opts */
	unsigned jobs, max_jobs;                       /* incoming now, and at most */
	bool (*incoming)(void *ctx, const char *uuid); /* is a migration of this VM coming in already? May be NULL */
	void *ctx;
};

/* Answers preflight.target: facts, no judgement.
 *	{"host","libvirt_version","libvirt","qemu_version","qemu",
 *	 "domain_type": bool, "emulator": {"path","usable"}, "machine": {"name","known","newest"|null},
 *	 "cpu": {"verdict","missing":[],"message"} | null, "memory": {facts_memory},
 *	 "disks": [{"target","exists","folder","shared": bool|null,"virtual_bytes"|null,"format_error"|null,
 *	            "fs_id"|null,"fs_free_bytes","refused"|null,"remedy","used_by"|null,
 *	            "pool_error"|null,
 *	            "backing":[{"path","exists","shared": bool|null,"size"}]}],
 *	 "secrets": [{"secret": UUID or usage,"known": bool|null}], "filters": [names] | null,
 *	 "paths": [{"path","exists","folder"}],
 *	 "networks","bridges","interfaces","addresses",
 *	 "same_uuid": {"name","state","persistent"} | null, "same_name": {"uuid","state"} | null,
 *	 "incoming": bool, "jobs","max_jobs", "swtpm": bool, "userfaultfd": bool, "time_ns"} */
int preflight_target(virConnectPtr conn, const struct preflight_target_opts *opts, const json_t *request,
		     json_t **answer, struct err *e);

/* ---- judgement ---- */

enum preflight_action {
	PREFLIGHT_LEAVE,     /* shared, empty, or not ours to move */
	PREFLIGHT_CREATE,    /* copied to an image that the target creates */
	PREFLIGHT_OVERWRITE, /* copied to an image or device that is there */
};

struct preflight_verdict {
	struct preflight_findings findings;
	enum preflight_action *actions; /* one per disk of the domain */
	size_t n_disks;
	uint64_t copy_bytes; /* about, over all disks that are copied */
	bool unsafe;         /* needs VIR_MIGRATE_UNSAFE: storage proved to be shared, though libvirt can't tell */
};

/* `skew_ns`: the target's clock less ours. */
void preflight_judge(const struct preflight_source *s, const json_t *target, const struct migration_args *args,
		     int64_t skew_ns, struct preflight_verdict *out);
/* What can be said before the target has answered: the VM's state, jobs, versions here. Nothing is to be copied by
 * this verdict. */
void preflight_judge_alone(const struct preflight_source *s, const struct migration_args *args,
			   struct preflight_verdict *out);
void preflight_verdict_fini(struct preflight_verdict *v);
/* [{"target","action":"create"|"overwrite"|"leave","path","format","virtual_bytes","allocated_bytes"}]. New
 * reference. */
json_t *preflight_disks_json(const struct preflight_source *s, const struct preflight_verdict *v);

/* Where the target's clock lies off ours: the answer was made between `before` and `after` by our clock. 0 when
 * within. */
int64_t preflight_skew(int64_t before_ns, int64_t after_ns, int64_t theirs_ns);

#endif
