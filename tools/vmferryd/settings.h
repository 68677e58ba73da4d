/*
 * settings.h - the configuration and the TLS context in force. Read by many threads, replaced as a whole by a reload.
 */
#ifndef VMFERRY_TOOLS_VMFERRYD_SETTINGS_H
#define VMFERRY_TOOLS_VMFERRYD_SETTINGS_H

#include "base/err.h"
#include "config/config.h"
#include "transport/tls.h"

#include <stdbool.h>

struct settings;

/* One configuration, kept alive while somebody looks at it. */
struct settings_view {
	const struct config *config;
};

/* Loads file and certificates; says every problem of the file through report (may be NULL). */
struct settings *settings_new(const char *path, config_report report, void *ctx, struct err *e);
void settings_free(struct settings *s);              /* no view may be out */
const char *settings_path(const struct settings *s); /* as given */

/* Never NULL; give it back with settings_put. */
const struct settings_view *settings_get(struct settings *s);
void settings_put(struct settings *s, const struct settings_view *view);
/* New reference. */
struct tls_ctx *settings_tls(struct settings *s);

/* What that peer may do here now; 0 if it is not in the configuration. */
unsigned settings_roles(struct settings *s, const char *peer);
bool settings_knows(struct settings *s, const char *peer);

/* Reads the file and the certificates again. On failure everything stays as it was. Changed keys are logged, those
 * that need a restart with a warning; the log level is set. */
int settings_reload(struct settings *s, struct err *e);

#endif
