/*
 * images.h - the target's side of disks: making the images that a migration will fill, and removing them when it fails.
 *
 * A peer may only name files in folders that this host gives out for images: image_dir, libvirt's default folder, and the folders
 * of active storage pools.
 */
#ifndef VMFERRY_MIGRATOR_IMAGES_H
#define VMFERRY_MIGRATOR_IMAGES_H

#include "base/err.h"
#include "migrator/virt.h"

#include <jansson.h>

/* Are [{"path","format","virtual_size"}] images that this host would create: folder, format, and nothing there yet? */
int images_check(virConnectPtr conn, const char *image_dir, const json_t *disks, struct err *e);
/* Creates them, after images_check. Paths made are appended to `made` (a JSON array), also when a later one fails: the caller
 * removes them. */
int images_create(const json_t *disks, json_t *made, struct err *e);
/* Removes what images_create made; a missing file is fine. Logs what cannot be removed. */
void images_remove(const json_t *made);

#endif
