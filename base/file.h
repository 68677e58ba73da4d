/*
 * file.h - small files, durably: write to a temporary name, fsync, rename, fsync the folder. After a failure the old
 * file is untouched and the temporary one is gone. One exception, which the text says ("sync its folder"): when that last
 * fsync fails, the new file is in place, whole, but a power cut may still bring back the old one.
 *
 * A process killed in between leaves PATH.PID.N.tmp behind: who reads a folder must skip names that end in ".tmp".
 */
#ifndef VMFERRY_BASE_FILE_H
#define VMFERRY_BASE_FILE_H

#include "base/err.h"

#include <stddef.h>
#include <sys/types.h>

int file_write_durable(const char *path, const void *data, size_t len, mode_t mode, struct err *e);
/* Whole file as a NUL-terminated heap block the caller frees; ERR_REFUSED over max bytes. len may be NULL. */
char *file_read_all(const char *path, size_t max, size_t *len, struct err *e);
/* unlink + fsync of the folder; a missing file is success. */
int file_remove_durable(const char *path, struct err *e);
/* Like mkdir -p: the folder and its missing parents, all with exactly this mode. What exists keeps its own. */
int file_mkdirs(const char *path, mode_t mode, struct err *e);
int file_sync_folder_of(const char *path, struct err *e);

#endif
