/*
 * failover_disks.h - the images with which a promoted VM runs.
 */
#ifndef VMFERRY_REPLICATOR_FAILOVER_DISKS_H
#define VMFERRY_REPLICATOR_FAILOVER_DISKS_H

#include "base/err.h"
#include "replicator/promote.h"
#include "snapshot/store.h"

#include <jansson.h>
#include <stdbool.h>

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
/* Where a head itself is a backing file, the folders above it in the store and replica_dir let others pass through (0011). */
int failover_disks_make(struct failover_disks *d, struct store_view *v, const volatile bool *cancel, struct err *e);
/* "images" of a promotion (failover_record.h), of what was made. New reference; NULL with the error set. */
json_t *failover_disks_images(const struct failover_disks *d, struct err *e);
/* Is one of them no longer as it was? What cannot be looked at counts as changed, what is not there any more does not. */
bool failover_disks_changed(const json_t *images);
/* Of the "disks" of a promotion (borrowed): the image of one that has its backing file in the store still, where no link beside it could be made; or
 * NULL. Without the store that image is lost. store_dir: the replica's folder. */
const char *failover_disks_over_store(const json_t *disks, const char *store_dir);
/* Removes files of a list as above; missing ones are fine. */
void failover_disks_remove(const json_t *paths);

#endif
