/*
 * offline.h - moving a VM that is shut off: its disks through NBD (qemu-nbd at both ends, nbdcopy at the source, the relay between), then its
 * definition and the files of state_files.h. The target defines before the source undefines: power lost in between leaves it defined at both, running at none.
 */
#ifndef VMFERRY_MIGRATOR_OFFLINE_H
#define VMFERRY_MIGRATOR_OFFLINE_H

#include "migrator/migrator_internal.h"
#include "migrator/outgoing.h"
#include "migrator/state_files.h"

struct offline_disk {
	const char *path;
	const char *format;
	uint64_t virtual_size;
};

/* Copies the disks into the images that the session made at the target. */
int offline_copy(struct migrator *m, struct job *job, const struct job_ctl *ctl, struct outgoing *session,
		 const struct offline_disk *disks, size_t n, struct err *e);
/* Defines the VM at the target from that XML, with its files; written: those that the target says it has put in place. */
int offline_define(struct outgoing *session, const char *xml, const json_t *files, bool written[STATE_FILE_KINDS],
		   struct err *e);
/* Undefines it here; its files stay. ERR_REFUSED: it was started, and is left alone, defined as before from that XML. */
int offline_forget(virConnectPtr conn, const char *uuid, const char *xml, struct err *e);

#endif
