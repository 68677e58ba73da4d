/*
 * file.h - small files, durably: write to a temporary name, fsync, rename, fsync the folder. After a failure the old
 * file is untouched and the temporary one is gone.
 */
#ifndef VMFERRY_BASE_FILE_H
#define VMFERRY_BASE_FILE_H

#include "base/err.h"

#include <stddef.h>
#include <sys/types.h>

int file_write_durable(const char *path, const void *data, size_t len, mode_t mode, struct err *e);
/* Whole file as a NUL-terminated heap block the caller frees; refused over max bytes. len may be NULL. */
char *file_read_all(const char *path, size_t max, size_t *len, struct err *e);
/* unlink + fsync of the folder; a missing file is success. */
int file_remove_durable(const char *path, struct err *e);
/* Like mkdir -p for the last component's parents too. */
int file_mkdirs(const char *path, mode_t mode, struct err *e);
int file_sync_folder_of(const char *path, struct err *e);

#endif
