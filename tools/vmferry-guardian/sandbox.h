/* sandbox.h - what the guardian can do without is taken from it. */
#ifndef VMFERRY_TOOLS_GUARDIAN_SANDBOX_H
#define VMFERRY_TOOLS_GUARDIAN_SANDBOX_H

#include "base/err.h"

/* From here on: no sockets but UNIX ones (so no network), no programs, no other process's memory, no capabilities, and no way back. A kernel that
 * refuses is an error that the guardian can live with. */
int sandbox_enter(struct err *e);

#endif
