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

/* "nvram", "tpm", NULL */
extern const char *const state_files_kinds[];

/* Where that file of the VM is on a host, whether it exists or not; heap. NULL: it has none of that kind, or elsewhere. */
char *state_files_path(const char *root, const struct domain *d, const char *kind);

/* [{"kind", "size", "data": base64}] of those that exist; NULL with the error set. ERR_REFUSED: more than STATE_FILES_MAX. */
json_t *state_files_read(const char *root, const struct domain *d, struct err *e);

/*
 * Puts them in place, durably, owned by who will open them. *all_there: each was there already with that content (a folder that
 * both hosts share, perhaps). Another file in its place is kept as PATH.replaced. After a failure what was written is gone.
 */
int state_files_write(const char *root, const struct domain *d, const json_t *files, bool *all_there, struct err *e);

/* What state_files_write wrote. */
void state_files_remove(const char *root, const struct domain *d, const json_t *files);

/* One of them, at a path from state_files_path. */
int state_files_put(const char *kind, const char *path, const void *data, size_t len, struct err *e);

#endif
