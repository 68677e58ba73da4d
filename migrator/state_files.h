/*
 * state_files.h - what a VM keeps beside memory and disks in files of its host: UEFI variables ("nvram") and the state of an emulated
 * TPM ("tpm"). A live migration carries both in QEMU's stream. A VM that is shut off, and a restore point, take the files along.
 *
 * Only files in libvirt's own folders are meant, named as libvirt 9 names them: ROOT/qemu/nvram/ANY and ROOT/swtpm/UUID/tpm2/tpm2-00.permall
 * (tpm1.2/tpm-00.permall). What a definition keeps elsewhere is on storage that its operator looks after.
 */
#ifndef VMFERRY_MIGRATOR_STATE_FILES_H
#define VMFERRY_MIGRATOR_STATE_FILES_H

#include "migrator/domain.h"

#include <jansson.h>
#include <stdbool.h>

#define STATE_FILES_ROOT "/var/lib/libvirt"
#define STATE_FILES_MAX (2u << 20) /* bytes of all files of a VM: they travel in one message */

enum state_file { STATE_FILE_NVRAM, STATE_FILE_TPM, STATE_FILE_KINDS };

const char *state_file_name(enum state_file kind); /* "nvram", "tpm" */
/* False: there is no such kind (NULL, too). */
bool state_file_by_name(const char *name, enum state_file *out);

/* Where that file of the VM is on a host, whether it exists or not; heap. NULL: it has none of that kind, or elsewhere. */
char *state_file_path(const char *root, const struct domain *d, enum state_file kind);

/* Puts one there, durably, owned by who will open it. */
int state_file_put(enum state_file kind, const char *path, const void *data, size_t len, struct err *e);

/* [{"kind", "size", "data": base64}] of those that exist; NULL with the error set. ERR_REFUSED: more than STATE_FILES_MAX. */
json_t *state_files_read(const char *root, const struct domain *d, struct err *e);

/* What became of each. What was there already, with that content (a folder that both hosts share, perhaps), is not written. */
struct state_files_done {
	bool written[STATE_FILE_KINDS];
	bool replaced[STATE_FILE_KINDS]; /* another one that was in its place is PATH.replaced now */
};

/* Puts them in place. After a failure all is as before. */
int state_files_write(const char *root, const struct domain *d, const json_t *files, struct state_files_done *done,
		      struct err *e);
/* All is as before state_files_write. */
void state_files_undo(const char *root, const struct domain *d, const struct state_files_done *done);
/* They are at another host: removes those that are written there. */
void state_files_remove(const char *root, const struct domain *d, const bool written[STATE_FILE_KINDS]);

#endif
