/*
 * config_replicate.h - the parts of the configuration that say what is replicated and how it is restored: the lists
 * `protections` and `restore`, replication.fencing_command and .seed_folders. Private to config/.
 */
#ifndef VMFERRY_CONFIG_CONFIG_REPLICATE_H
#define VMFERRY_CONFIG_CONFIG_REPLICATE_H

#include "base/buf.h"
#include "config/loader.h"

/* Each takes the setting of that name. Peers are loaded before protections, which name them. */
void config_replicate_protections(struct loader *l, const config_setting_t *s);
void config_replicate_restore(struct loader *l, const config_setting_t *s);
void config_replicate_fencing(struct loader *l, const config_setting_t *s);
void config_replicate_seeds(struct loader *l, const config_setting_t *s);

void config_replicate_free(struct config *c);
/* Keys that differ, as for config_reload_diff: calls `differs` with "protections" and the like. */
void config_replicate_diff(const struct config *a, const struct config *b, void (*differs)(void *ctx, const char *key),
			   void *ctx);
void config_replicate_describe(const struct config *c, struct buf *out);

#endif
