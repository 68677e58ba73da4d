/*
 * volumes.h - disks that a definition names as volumes of libvirt's storage pools (type='volume'): where they are.
 *
 * libvirt finds them by the pool's name on whichever host it is. vmferry goes by paths; so both hosts must keep the pool
 * at the same place.
 */
#ifndef VMFERRY_MIGRATOR_VOLUMES_H
#define VMFERRY_MIGRATOR_VOLUMES_H

#include "migrator/domain.h"
#include "migrator/virt.h"

/* Gives the domain's volumes the path that they have on this host, and makes them the files or devices that they are.
 * What is not found, or is neither, stays as it was. */
void volumes_find(virConnectPtr conn, struct domain *d);

/* At the target: the same for a disk that is at `path` on the source, whether it is there or not; if it is, libvirt sees it
 * from now on. On failure, the pool is not here, not started or elsewhere. */
int volumes_place(virConnectPtr conn, struct domain_disk *disk, const char *path, struct err *e);

/* libvirt only sees what was in a pool when it last looked: looks again at the pools in which these images are. */
void volumes_refresh(virConnectPtr conn, const json_t *paths);

#endif
