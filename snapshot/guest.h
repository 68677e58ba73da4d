/*
 * guest.h - a VM as capture sees it: what it is made of, QMP, events, pause. migrator/guest_virt.c implements it with libvirt; tests
 * implement it in memory.
 *
 * All calls may come from any thread. Strings are UTF-8.
 */
#ifndef VMFERRY_SNAPSHOT_GUEST_H
#define VMFERRY_SNAPSHOT_GUEST_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define GUEST_UUID_LEN 37
#define GUEST_MAX_DISKS 32u

struct guest_disk {
	char target[32]; /* "vda", as the guest's XML names it: unique in the VM, the same on every host */
	char *path;      /* image file or block device on this host */
	char *format;    /* "qcow2", "raw" */
	char *node;      /* QEMU's block node whose contents are what the guest sees */
	uint64_t size_bytes;
	bool readonly;  /* not replicated */
	bool shareable; /* others write to it as well, which this QEMU does not see */
};

/* State beside memory and disks that is a file on the host: UEFI variables, a TPM's state. */
struct guest_file {
	char kind[16]; /* "nvram", "tpm" */
	char *path;
};

struct guest_info {
	char uuid[GUEST_UUID_LEN];
	char name[256];
	bool running; /* else paused; a VM that is shut off cannot be opened */
	bool paused_by_user;
	bool kvm;          /* else emulated (TCG) */
	bool dirty_ring;   /* KVM's dirty ring instead of its bitmap */
	bool lock_manager; /* libvirt holds leases for its disks */
	bool agent;        /* a guest agent's channel is configured and connected */
	unsigned qemu_major, qemu_minor, qemu_micro;
	uint64_t memory_bytes;
	char *xml; /* virDomainGetXMLDesc MIGRATABLE|SECURE */
	struct guest_disk *disks;
	size_t n_disks;
	struct guest_file *files;
	size_t n_files;
};
void guest_info_fini(struct guest_info *i);

enum guest_run {
	GUEST_RUNNING,
	GUEST_PAUSED,
	GUEST_CRASHED, /* it has panicked, and QEMU stands still with it for whoever wants to look (on_crash) */
	GUEST_GONE,    /* shut off, or not known to libvirt any more */
};

struct guest;
struct guest_ops {
	int (*info)(void *ctx, struct guest_info *out, struct err *e);
	/* One QMP command. Steals args (NULL: none). fd >= 0 travels with it (getfd, add-fd); it stays the caller's. *result: a new reference to
	 * "return", may be NULL. QMP's errors: ERR_LIBVIRT with "CommandNotFound" etc. in the text. */
	int (*qmp)(void *ctx, const char *command, json_t *args, int fd, json_t **result, struct err *e);
	int (*state)(void *ctx, enum guest_run *out, struct err *e);
	int (*pause)(void *ctx, struct err *e);
	int (*resume)(void *ctx, struct err *e);
	/* QEMU's events ("MIGRATION", "STOP", "RESUME", "RESET", "SHUTDOWN", "BLOCK_JOB_CANCELLED", "BLOCK_EXPORT_DELETED", ...) go to fn, from a thread
	 * that must not be held up, until unlisten has returned. One listener at a time. */
	int (*listen)(void *ctx, void (*fn)(void *arg, const char *event, const json_t *data), void *arg, struct err *e);
	void (*unlisten)(void *ctx);
	/* Guest agent: freeze and thaw its file systems. */
	int (*freeze)(void *ctx, bool on, struct err *e);
	void (*free)(void *ctx);
	/* The host does not start it by itself any more. *was: it did until now. May be NULL. */
	int (*autostart_off)(void *ctx, bool *was, struct err *e);
};
struct guest {
	const struct guest_ops *ops;
	void *ctx;
};
/* NULL is fine. */
void guest_free(struct guest *g);

#endif
