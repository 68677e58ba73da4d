/*
 * client.h - one connection to the agent on this host, and calls over it.
 */
#ifndef VMFERRY_TOOLS_VMFERRY_CLIENT_H
#define VMFERRY_TOOLS_VMFERRY_CLIENT_H

#include "base/err.h"
#include "tools/vmferry/cli.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define CLIENT_SHORT_NS (INT64_C(30) * 1000000000) /* for calls that only look */
#define CLIENT_LONG_NS INT64_C(0)                  /* for calls that take as long as they take */

struct client;

/* Class ERR_PEER if the agent cannot be reached, ERR_REFUSED if it does not take orders from this user; with what to
 * do. */
struct client *client_open(const struct cli *cli, struct err *e);
void client_close(struct client *c); /* NULL is fine */

/* Calls, and waits at most `within` (or for ever). With --host the agent there does it. Steals args. Notes come from
 * another thread; *cancel, once true, asks for cancellation. */
int client_call(struct client *c, const char *method, json_t *args, int64_t within_ns,
		void (*on_note)(void *ctx, const json_t *note), void *ctx, const volatile bool *cancel, json_t **result,
		struct err *e);

/* Opens, calls without notes, closes: all that most subcommands need. NULL on failure. */
json_t *client_ask(const struct cli *cli, const char *method, json_t *args, struct err *e);

#endif
