/*
 * config_kafka.h - the list kafka.properties, which goes to librdkafka as it stands. Private to config/.
 */
#ifndef VMFERRY_CONFIG_CONFIG_KAFKA_H
#define VMFERRY_CONFIG_CONFIG_KAFKA_H

#include "base/buf.h"
#include "config/loader.h"

/* Takes the setting of that name. */
void config_kafka_properties(struct loader *l, const config_setting_t *s);

void config_kafka_free(struct config *c);
/* As config_replicate_diff. */
void config_kafka_diff(const struct config *a, const struct config *b, void (*differs)(void *ctx, const char *key),
		       void *ctx);
/* Names alone: some values are passwords. */
void config_kafka_describe(const struct config *c, struct buf *out);

#endif
