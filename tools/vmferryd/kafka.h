/*
 * kafka.h - the agent's forwarder as the configuration wants it, which a reload may change: started, replaced, asked, stopped.
 * Whatever is wrong with Kafka or its configuration is logged, and no reason for the agent not to run.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_KAFKA_H
#define VMFERRY_TOOLS_VMFERRYD_KAFKA_H

#include "base/err.h"
#include "config/config.h"
#include "replicator/forwarder.h"

#include <stdbool.h>

struct kafka;

/* Never NULL, also if no broker is configured. The outbox is borrowed. */
struct kafka *kafka_start(struct outbox *o, const struct config *c);
/* After a reload: the forwarder begins anew, from its position, with that configuration and with what its files say now. */
void kafka_reload(struct kafka *k, const struct config *c);
/* Gives the last events a moment to be sent. NULL is fine. */
void kafka_stop(struct kafka *k);

/* False if no broker is configured. Otherwise asks one, for 3 s at most; *e is set if the forwarder could not be started, and
 * the status is then empty. */
bool kafka_status(struct kafka *k, struct forwarder_status *s, struct err *e);
/* For --check-config. ERR_CONFIG if librdkafka will not have the properties. */
int kafka_check_config(const struct config *c, struct err *e);

#endif
