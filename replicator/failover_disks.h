/*
 * failover_disks.h - the images with which a promoted VM runs.
 */
#ifndef VMFERRY_REPLICATOR_FAILOVER_DISKS_H
#define VMFERRY_REPLICATOR_FAILOVER_DISKS_H

#include "base/err.h"
#include "replicator/promote.h"
#include "snapshot/store.h"

#include <jansson.h>

struct failover_disks {
	struct promote_disk disk[STORE_MAX_VOLUMES];
	uint32_t volume[STORE_MAX_VOLUMES];
	uint64_t size_bytes[STORE_MAX_VOLUMES];
	char *head[STORE_MAX_VOLUMES]; /* the store's, NULL: filled from the view */
	char *base[STORE_MAX_VOLUMES]; /* a link to it beside the image, NULL: the head itself is the backing file */
	size_t n;
};
void failover_disks_fini(struct failover_disks *d);

/* Names for everything, none of which exists yet; nothing is made. The epoch tells files of this
 * promotion from those of an earlier one, where names are taken. */
int failover_disks_plan(struct failover_disks *d, struct store_view *v, const char *vm, uint64_t epoch, const char *xml,
			const struct promote_ops *ops, void *ops_ctx, struct err *e);
/* [PATH] of all that failover_disks_make may leave behind. New reference. */
json_t *failover_disks_paths(const struct failover_disks *d);
int failover_disks_make(struct failover_disks *d, struct store_view *v, const volatile bool *cancel, struct err *e);
/* Removes files of a list as above; missing ones are fine. */
void failover_disks_remove(const json_t *paths);

#endif
