/*
 * agent.h - the running agent: its parts, and the order in which they live and die.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_AGENT_H
#define VMFERRY_TOOLS_VMFERRYD_AGENT_H

#include "base/err.h"
#include "migrator/migrator.h"
#include "replicator/outbox.h"
#include "replicator/replicator.h"
#include "tools/vmferryd/clients.h"
#include "tools/vmferryd/guard.h"
#include "tools/vmferryd/kafka.h"
#include "tools/vmferryd/peers.h"
#include "tools/vmferryd/settings.h"

#include <stdbool.h>
#include <stdint.h>

struct boot_host;

struct agent {
	/* fixed after agent_start, in the order in which they are made */
	int64_t started_ns; /* monotonic */
	int lock_fd;        /* of state_dir: one agent at a time */
	struct settings *settings;
	struct outbox *outbox;
	struct kafka *kafka;
	struct peers *peers;
	struct clients *clients;
	struct migrator *migrator;
	struct guard *guard;
	struct boot_host *boot;
	struct replicator *replicator;
	struct control *control;
	struct listener *listener;
	struct declarer *declarer;

	/* any thread, atomically */
	bool stopping;
	unsigned calls; /* being served */
};

/* Everything is up when it returns. The settings are the agent's from here on, also on failure. */
struct agent *agent_start(struct settings *settings, struct err *e);
/* SIGHUP. Failure: all goes on as before; the error was logged. */
void agent_reload(struct agent *a);
/* Refuses what is new, cancels migrations under way and waits for them (30 s at most), closes everything, frees. NULL
 * is fine. */
void agent_stop(struct agent *a);
bool agent_stopping(struct agent *a);

/* Appends to the outbox and logs; steals data. The migrator's event callback. */
void agent_event(void *agent, const char *type, const char *vm_uuid, json_t *data);

#endif
